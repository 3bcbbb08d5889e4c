//! Path MTU discovery across the relay (RFC 1191, RFC 8201). Pure.
//!
//! A router that can't take a relayed packet tells its sender as it sees it, which is the relay; the host that could send
//! smaller ones would never know. So such a message is translated: if it quotes a packet that the relay really sent within
//! a live session, the host whose packet that was is told, about the packet as *that host* sent it.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    LaxIpSlice, UdpHeader, icmpv4::DestUnreachableHeader,
};
use relay_ebpf::wireguard::{RECEIVER_INDEX, TRANSPORT_DATA};

use crate::{
    handshake::{Session, Side},
    raw::Packet,
};

/// The least MTU that is believed of an IPv4 path: what every host must take (RFC 791).
const MIN_IPV4: u32 = 576;
/// The least MTU of an IPv6 path (RFC 8200, section 5).
const MIN_IPV6: u32 = 1280;
/// What an IPv6 header has more than an IPv4 header, in bytes.
const FAMILY_STEP: u32 = 20;
/// How much of a transport data message is quoted: type, receiver index and counter.
const QUOTED: usize = 16;

/// A router's word that a packet of the relay's is too big for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// The largest packet that would pass, in bytes.
    pub mtu: u32,
    /// Length of the packet that did not, in bytes.
    pub packet_len: u32,
    /// The source of that packet, an address of the relay's if it was ours.
    pub local: IpAddr,
    /// Where that packet was sent to.
    pub remote: SocketAddr,
    /// The first bytes of its message, at most [`QUOTED`]; at least the receiver index.
    pub message: Vec<u8>,
}

/// An ICMP message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The relay's address to send it from.
    pub local: IpAddr,
    /// The host that is told.
    pub remote: IpAddr,
    /// What follows the IP header. (Of ICMPv6 the kernel computes the checksum.)
    pub icmp: Vec<u8>,
}

/// Reads an ICMP message. `None` unless it says "too big" of a transport data message from `port` and quotes enough to
/// tell the session.
pub fn read(packet: &Packet<'_>, port: u16) -> Option<TooBig> {
    let (mtu, quoted) = match packet.source {
        IpAddr::V4(_) => {
            let (header, quoted) = Icmpv4Header::from_slice(packet.payload).ok()?;
            // The kernel hands these to raw sockets before it checks them.
            if header.icmp_type.calc_checksum(quoted) != header.checksum {
                return None;
            }
            match header.icmp_type {
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu,
                }) => (u32::from(next_hop_mtu), quoted),
                _ => return None,
            }
        }
        IpAddr::V6(_) => {
            let (header, quoted) = Icmpv6Header::from_slice(packet.payload).ok()?;
            match header.icmp_type {
                Icmpv6Type::PacketTooBig { mtu } => (mtu, quoted),
                _ => return None,
            }
        }
    };
    let (ip, _) = LaxIpSlice::from_slice(quoted).ok()?;
    let packet_len = match &ip {
        LaxIpSlice::Ipv4(ip) => u32::from(ip.header().total_len()),
        LaxIpSlice::Ipv6(ip) => Ipv6Header::LEN as u32 + u32::from(ip.header().payload_length()),
    };
    if ip.source_addr().is_ipv4() != packet.source.is_ipv4() {
        return None;
    }
    let payload = ip.payload();
    if payload.ip_number != IpNumber::UDP || ip.is_fragmenting_payload() {
        return None;
    }
    let (udp, message) = UdpHeader::from_slice(payload.payload).ok()?;
    let word = u32::from_le_bytes(message.get(..4)?.try_into().ok()?);
    message.get(..RECEIVER_INDEX + 4)?;
    (udp.source_port == port && word == TRANSPORT_DATA).then(|| TooBig {
        mtu,
        packet_len,
        local: ip.source_addr(),
        remote: SocketAddr::new(ip.destination_addr(), udp.destination_port),
        message: message[..message.len().min(QUOTED)].to_vec(),
    })
}

impl TooBig {
    /// The receiver index of the packet that was too big: the key of its session.
    pub fn receiver_index(&self) -> u32 {
        let index = self.message.get(RECEIVER_INDEX..RECEIVER_INDEX + 4).and_then(|b| b.try_into().ok());
        index.map_or(0, u32::from_le_bytes)
    }

    /// Whether the MTU can be true: a path of its family has it, and the packet would not have passed.
    pub fn is_plausible(&self) -> bool {
        let least = if self.remote.is_ipv4() { MIN_IPV4 } else { MIN_IPV6 };
        (least..self.packet_len).contains(&self.mtu)
    }

    /// What to tell the host whose packet it was. `None` unless the relay sent that packet within `session`, or if its
    /// sender can do nothing about it. `port` is the relay port.
    pub fn translate(&self, session: &Session, port: u16) -> Option<Notice> {
        let (from, to) = session.sides(self.receiver_index())?;
        if (to.endpoint, to.local) != (self.remote, self.local) {
            return None;
        }
        let (mtu, packet_len) = match (from.endpoint.is_ipv4(), to.endpoint.is_ipv4()) {
            (true, false) => (self.mtu.checked_sub(FAMILY_STEP)?, self.packet_len.checked_sub(FAMILY_STEP)?),
            (false, true) => ((self.mtu + FAMILY_STEP).max(MIN_IPV6), self.packet_len + FAMILY_STEP),
            _ => (self.mtu, self.packet_len),
        };
        (mtu < packet_len).then(|| self.notice(from, mtu, packet_len, port))?
    }

    fn notice(&self, from: &Side, mtu: u32, packet_len: u32, port: u16) -> Option<Notice> {
        let udp = |ip_header_len: u32| {
            let length = u16::try_from(packet_len.checked_sub(ip_header_len)?).ok()?;
            // The checksum is not known any more; hosts and NATs tell the flow by addresses and ports.
            Some(UdpHeader { source_port: from.endpoint.port(), destination_port: port, length, checksum: 0 })
        };
        let mut quoted = Vec::with_capacity(Ipv6Header::LEN + UdpHeader::LEN + QUOTED);
        let icmp = match (from.endpoint.ip(), from.local) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let udp = udp(Ipv4Header::MIN_LEN as u32)?;
                let mut ip =
                    Ipv4Header::new(udp.length, 64, IpNumber::UDP, source.octets(), destination.octets())
                        .ok()?;
                ip.dont_fragment = true;
                ip.header_checksum = ip.calc_header_checksum();
                ip.write(&mut quoted).ok()?;
                quoted.extend(udp.to_bytes());
                quoted.extend(&self.message);
                let next_hop_mtu = u16::try_from(mtu).ok()?;
                let kind = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
                Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(kind), &quoted)
                    .to_bytes()
                    .to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let udp = udp(Ipv6Header::LEN as u32)?;
                let ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: udp.length,
                    next_header: IpNumber::UDP,
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                ip.write(&mut quoted).ok()?;
                quoted.extend(udp.to_bytes());
                quoted.extend(&self.message);
                Icmpv6Header::new(Icmpv6Type::PacketTooBig { mtu }).to_bytes().to_vec()
            }
            _ => return None,
        };
        Some(Notice { local: from.local, remote: from.endpoint.ip(), icmp: [icmp, quoted].concat() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etherparse::PacketBuilder;

    use super::*;

    const PORT: u16 = 51820;
    const INDEX: u32 = 0x2222;

    fn session(a: &str, b: &str, local_a: &str, local_b: &str) -> Session {
        let side = |index, endpoint: &str, local: &str| Side {
            index,
            endpoint: endpoint.parse().unwrap(),
            local: local.parse().unwrap(),
            member: None,
        };
        Session {
            initiator: side(0x1111, a, local_a),
            responder: side(INDEX, b, local_b),
            opened: Duration::ZERO,
        }
    }

    fn four_to_four() -> Session {
        session("192.0.2.7:1000", "203.0.113.9:40001", "198.51.100.1", "198.51.100.2")
    }

    fn data(index: u32, len: usize) -> Vec<u8> {
        let mut message = vec![0xaa; len];
        message[..4].copy_from_slice(&4_u32.to_le_bytes());
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message
    }

    /// The ICMP message that a router sends about the relay's packet to `to`, quoting `quoted` bytes of it.
    fn from_router(from: SocketAddr, to: SocketAddr, message: &[u8], mtu: u32, quoted: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = match (from.ip(), to.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => PacketBuilder::ipv4(s.octets(), d.octets(), 60),
            (IpAddr::V6(s), IpAddr::V6(d)) => PacketBuilder::ipv6(s.octets(), d.octets(), 60),
            _ => unreachable!("one packet has one family"),
        };
        builder.udp(from.port(), to.port()).write(&mut packet, message).unwrap();
        packet.truncate(quoted);
        let header = if from.is_ipv4() {
            let kind = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu as u16 };
            Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(kind), &packet).to_bytes().to_vec()
        } else {
            Icmpv6Header::new(Icmpv6Type::PacketTooBig { mtu }).to_bytes().to_vec()
        };
        [header, packet].concat()
    }

    fn read_from(session: &Session, index: u32, mtu: u32, quoted: usize) -> Option<TooBig> {
        let to = session.responder;
        let payload =
            from_router(SocketAddr::new(to.local, PORT), to.endpoint, &data(index, 1400), mtu, quoted);
        let router = if to.endpoint.is_ipv4() { "192.0.2.254" } else { "2001:db8::fe" };
        read(&Packet { source: router.parse().unwrap(), local: to.local, ttl: 60, payload: &payload }, PORT)
    }

    /// What a host reads from a notice: MTU, the quoted packet's addresses and its length.
    fn understood(notice: &Notice, session: &Session) -> (u32, SocketAddr, SocketAddr, u32) {
        assert_eq!((notice.local, notice.remote), (session.initiator.local, session.initiator.endpoint.ip()));
        let (mtu, quoted) = if notice.remote.is_ipv4() {
            let (header, quoted) = Icmpv4Header::from_slice(&notice.icmp).unwrap();
            assert_eq!(header.icmp_type.calc_checksum(quoted), header.checksum);
            let Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu,
            }) = header.icmp_type
            else {
                panic!("{header:?}")
            };
            (u32::from(next_hop_mtu), quoted)
        } else {
            let (header, quoted) = Icmpv6Header::from_slice(&notice.icmp).unwrap();
            let Icmpv6Type::PacketTooBig { mtu } = header.icmp_type else { panic!("{header:?}") };
            (mtu, quoted)
        };
        let (ip, _) = LaxIpSlice::from_slice(quoted).unwrap();
        let len = match &ip {
            LaxIpSlice::Ipv4(ip) => u32::from(ip.header().total_len()),
            LaxIpSlice::Ipv6(ip) => 40 + u32::from(ip.header().payload_length()),
        };
        let (udp, message) = UdpHeader::from_slice(ip.payload().payload).unwrap();
        assert_eq!(message, &data(INDEX, 1400)[..QUOTED]);
        let source = SocketAddr::new(ip.source_addr(), udp.source_port);
        (mtu, source, SocketAddr::new(ip.destination_addr(), udp.destination_port), len)
    }

    #[test]
    fn the_sender_is_told_about_the_packet_as_it_sent_it() {
        let six = session("[2001:db8:7::7]:1", "[2001:db8:8::8]:2", "2001:db8::1", "2001:db8::1");
        let four_to_six = session("192.0.2.7:1000", "[2001:db8:8::8]:2", "198.51.100.1", "2001:db8::1");
        let six_to_four = session("[2001:db8:7::7]:1", "203.0.113.9:40001", "2001:db8::1", "198.51.100.1");
        for (session, told, mtu, len) in [
            (four_to_four(), 1400, 1400, 1428),
            (six, 1400, 1400, 1448),
            (four_to_six, 1400, 1380, 1428),
            (six_to_four, 1400, 1420, 1448),
            (six_to_four, 1000, 1280, 1448),
        ] {
            let too_big = read_from(&session, INDEX, told, usize::MAX).unwrap();
            let notice = too_big.translate(&session, PORT).unwrap();
            let (source, local) =
                (session.initiator.endpoint, SocketAddr::new(session.initiator.local, PORT));
            assert_eq!(understood(&notice, &session), (mtu, source, local, len));
        }
    }

    #[test]
    fn only_what_was_relayed_is_believed() {
        let session = four_to_four();
        let good = read_from(&session, INDEX, 1400, 44).unwrap();
        assert!(good.translate(&session, PORT).is_some());
        let other = |f: fn(&mut TooBig)| {
            let mut too_big = good.clone();
            f(&mut too_big);
            too_big.translate(&session, PORT)
        };
        assert_eq!(other(|t| t.message[4] ^= 1), None, "another index");
        assert_eq!(other(|t| t.remote.set_port(1)), None, "another destination");
        assert_eq!(other(|t| t.local = IpAddr::from([198, 51, 100, 1])), None, "another relay address");
        // The other direction's index with this direction's addresses.
        assert_eq!(other(|t| t.message[4..8].copy_from_slice(&0x1111_u32.to_le_bytes())), None);
    }

    #[test]
    fn nonsense_is_not_believed() {
        let session = four_to_four();
        let plausible = |mtu| read_from(&session, INDEX, mtu, usize::MAX).unwrap().is_plausible();
        assert!(plausible(1427) && plausible(MIN_IPV4));
        assert!(!plausible(1428), "it would have passed");
        assert!(!plausible(MIN_IPV4 - 1), "no path is that narrow");
        for quoted in 0..36 {
            assert_eq!(read_from(&session, INDEX, 1400, quoted), None, "{quoted} bytes tell no session");
        }
        assert!(read_from(&session, INDEX, 1400, 36).is_some());
        let to = session.responder;
        let mut payload =
            from_router(SocketAddr::new(to.local, PORT), to.endpoint, &data(INDEX, 1400), 1400, usize::MAX);
        payload[2] ^= 1;
        let source = "192.0.2.254".parse().unwrap();
        assert_eq!(
            read(&Packet { source, local: to.local, ttl: 9, payload: &payload }, PORT),
            None,
            "checksum"
        );
    }

    #[test]
    fn a_quoted_packet_that_claims_less_than_its_header_is_told_to_nobody() {
        let six = |session: Session| Session {
            initiator: Side {
                endpoint: "[2001:db8::7]:1000".parse().unwrap(),
                local: "2001:db8::1".parse().unwrap(),
                ..session.initiator
            },
            ..session
        };
        for session in [four_to_four(), six(four_to_four())] {
            let to = session.responder;
            for packet_len in 0..20 {
                let message = data(INDEX, 16);
                let too_big = TooBig { mtu: 0, packet_len, local: to.local, remote: to.endpoint, message };
                assert!(!too_big.is_plausible());
                assert!(too_big.translate(&session, PORT).is_none(), "a packet of {packet_len} bytes");
            }
        }
    }
}
