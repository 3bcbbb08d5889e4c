//! The forwarded frame, made anew: every checksum is computed from the whole of what it covers.
//!
//! The relay does not mend what it forwards. A checksum that was right leaves right; one that was wrong leaves wrong by as
//! much as it came, in one's complement, so that the receiver still sees that something is wrong.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
    Ipv6HeaderSlice, UdpHeader, checksum::Sum16BitWords,
};

use super::{
    model::{Datagram, UDP_HEADER},
    tables::NextHop,
};

/// The frame that leaves by `hop` with this payload, from the relay's endpoint `from` to `to`; nothing stands behind the
/// packet.
pub fn frame(
    datagram: &Datagram,
    hop: &NextHop,
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + datagram.trailer.len() + 80);
    let length = u16::try_from(UDP_HEADER + payload.len()).expect("it fits the next hop's MTU");
    frame.extend(hop.destination_mac);
    frame.extend(hop.source_mac);
    for tag in hop.tags.iter().take(hop.tag_count.into()) {
        frame.extend(tag);
    }
    frame.extend(if to.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    ip_header(&mut frame, datagram, from.ip(), to.ip(), length);
    let before = (datagram.source.ip(), datagram.destination);
    let mut udp = UdpHeader { source_port: from.port(), destination_port: to.port(), length, checksum: 0 };
    // Zero is no checksum; a zero that was computed is sent as its other form (RFC 768).
    if datagram.udp.checksum != 0 {
        let right_before = udp_checksum(&datagram.udp, before, datagram.payload);
        let right_after = udp_checksum(&udp, (from.ip(), to.ip()), payload);
        udp.checksum = match as_wrong(datagram.udp.checksum, right_before, right_after) {
            0 => 0xffff,
            checksum => checksum,
        };
    }
    frame.extend(udp.to_bytes());
    frame.extend(payload);
    frame
}

/// The header of a packet that carries so many bytes of UDP.
fn ip_header(frame: &mut Vec<u8>, datagram: &Datagram, from: IpAddr, to: IpAddr, length: u16) {
    let ttl = datagram.ttl - 1;
    match (datagram.destination, from, to) {
        (IpAddr::V4(_), IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header: [u8; 20] = datagram.ip.try_into().expect("an IPv4 header without options");
            let (found, right_before) =
                (u16::from_be_bytes([header[10], header[11]]), ipv4_checksum(&header));
            header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            header[8] = ttl;
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            let checksum = as_wrong(found, right_before, ipv4_checksum(&header));
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            frame.extend(header);
        }
        (IpAddr::V6(_), IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header: [u8; 40] = datagram.ip.try_into().expect("an IPv6 header");
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header[7] = ttl;
            header[8..24].copy_from_slice(&from.octets());
            header[24..40].copy_from_slice(&to.octets());
            frame.extend(header);
        }
        (IpAddr::V4(_), IpAddr::V6(from), IpAddr::V6(to)) => frame.extend(
            Ipv6Header {
                traffic_class: datagram.ip[1],
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: length,
                next_header: IpNumber::UDP,
                hop_limit: ttl,
                source: from.octets(),
                destination: to.octets(),
            }
            .to_bytes(),
        ),
        (IpAddr::V6(_), IpAddr::V4(from), IpAddr::V4(to)) => {
            let old = Ipv6HeaderSlice::from_slice(datagram.ip).expect("an IPv6 header");
            let mut header = Ipv4Header {
                dscp: IpDscp::try_new(old.traffic_class() >> 2).expect("six bits"),
                ecn: IpEcn::try_new(old.traffic_class() & 3).expect("two bits"),
                total_len: 20 + length,
                identification: 0,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: IpFragOffset::ZERO,
                time_to_live: ttl,
                protocol: IpNumber::UDP,
                header_checksum: 0,
                source: from.octets(),
                destination: to.octets(),
                options: Ipv4Options::new(),
            };
            header.header_checksum = header.calc_header_checksum();
            frame.extend(header.to_bytes());
        }
        _ => unreachable!("the relay's address is of the family of the destination"),
    }
}

/// The checksum that an IPv4 header of 20 bytes should have.
fn ipv4_checksum(header: &[u8; 20]) -> u16 {
    let sum = Sum16BitWords::new().add_slice(&header[..10]).add_slice(&header[12..]);
    sum.ones_complement().to_be()
}

/// The checksum that a UDP header should have.
pub fn udp_checksum(udp: &UdpHeader, addresses: (IpAddr, IpAddr), payload: &[u8]) -> u16 {
    match addresses {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            udp.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload).expect("fits into 16 bits")
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            udp.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload).expect("fits into 32 bits")
        }
        _ => unreachable!("a packet has one family"),
    }
}

/// `right_after`, wrong by as much as `found` is from `right_before`: one's complement arithmetic is arithmetic modulo
/// 0xffff. Zero is given as 0.
fn as_wrong(found: u16, right_before: u16, right_after: u16) -> u16 {
    let sum = u32::from(found) + u32::from(!right_before) + u32::from(right_after);
    (sum % 0xffff) as u16
}
