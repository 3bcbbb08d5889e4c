//! Raw packets: UDP that userspace forwards, and routers' word that a packet was too big.

#![no_main]

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use relay_fuzz::world::{ADDRESSES, At, PORT, local};
use relay_user::{
    handshake::{Datagram, Session, Side},
    path_mtu::{Notice, TooBig, read},
    raw::{Packet, udp_packet},
    slow_path::{forward, receiver_index},
};

/// The protocol number of UDP.
const UDP: u8 = 17;

#[derive(Debug, Arbitrary)]
struct Received<'a> {
    /// What an IPv6 socket tells beside the payload; `None` for an IPv4 socket, which gives the whole packet.
    ipv6: Option<([u8; 16], u8)>,
    /// Where the other side of the session is.
    other: At,
    /// No fuzzer finds a checksum: make the packet's right.
    checksum: bool,
    bytes: &'a [u8],
}

fuzz_target!(|received: Received<'_>| {
    let mut bytes = received.bytes.to_vec();
    let packet = match received.ipv6 {
        Some((source, ttl)) => {
            let (source, local) = (Ipv6Addr::from(source), ADDRESSES[2]);
            if received.checksum {
                let IpAddr::V6(local) = local else { unreachable!("it is an IPv6 address") };
                sign_udp(&mut bytes, &[source.octets(), local.octets()].concat());
            }
            Packet { source: source.into(), local, ttl, payload: &bytes }
        }
        None => {
            if received.checksum {
                sign_ipv4(&mut bytes);
            }
            let Some(packet) = Packet::from_ipv4(&bytes) else { return };
            assert!(packet.payload.len() + 20 <= bytes.len());
            packet
        }
    };
    let other = received.other.endpoint();
    if let Some(Ok(datagram)) = packet.datagram(PORT) {
        assert_eq!((datagram.remote.ip(), datagram.local), (packet.source, packet.local));
        check_forward(datagram, other);
    }
    if let Some(too_big) = read(&packet, PORT) {
        check_translate(&too_big, other);
    }
});

/// Makes the UDP or ICMP checksum of an IPv4 packet right.
fn sign_ipv4(packet: &mut [u8]) {
    let Some(&[first, .., protocol]) = packet.first_chunk::<10>() else { return };
    let Some((header, payload)) = packet.split_at_mut_checked(usize::from(first & 15) * 4) else { return };
    if protocol != UDP {
        write_checksum(payload, 2, 0);
    } else if let Some(addresses) = header.get(12..20) {
        sign_udp(payload, addresses);
    }
}

/// Makes a UDP checksum right (RFC 768); `addresses` are those of the pseudo-header.
fn sign_udp(packet: &mut [u8], addresses: &[u8]) {
    let Some(&[_, _, _, _, high, low]) = packet.first_chunk() else { return };
    let length = u16::from_be_bytes([high, low]);
    let pseudo = [addresses, &[0, UDP, high, low]].concat();
    if let Some(datagram) = packet.get_mut(..length.into()) {
        write_checksum(datagram, 6, sum(&pseudo));
    }
}

/// Writes the checksum at its offset, over the bytes and what was summed up before.
fn write_checksum(bytes: &mut [u8], at: usize, before: u16) {
    if bytes.len() >= 8 {
        bytes[at..at + 2].fill(0);
        let checksum = !sum(&[&before.to_be_bytes(), &*bytes].concat());
        // Zero means "none" in UDP, and is the same number.
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The ones' complement sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn side(index: u32, endpoint: SocketAddr, local: IpAddr) -> Side {
    Side { index, endpoint, local, member: None }
}

/// Whatever comes from where the session's packets come from goes to its other side, unchanged, or is refused.
fn check_forward(datagram: Datagram, other: SocketAddr) {
    assert!(forward(datagram.clone(), None).is_err());
    let Some(index) = receiver_index(&datagram.message) else { return };
    let from = side(index.wrapping_add(1), datagram.remote, datagram.local);
    let to = side(index, other, local(other, 0));
    let session = Session { initiator: to, responder: from, opened: Duration::ZERO };
    match forward(datagram.clone(), Some(&session)) {
        Ok((sent, sender, recipient)) => {
            assert_eq!((*sender, *recipient), (from, to));
            assert_eq!((sent.local, sent.remote, sent.ttl + 1), (to.local, to.endpoint, datagram.ttl));
            assert_eq!(sent.message, datagram.message);
            let packet = udp_packet(PORT, &sent).expect("what fitted into a packet fits again");
            let back = Packet { source: to.local, local: other.ip(), ttl: sent.ttl, payload: &packet };
            let again = back.datagram(other.port()).expect("a datagram").expect("its checksum is right");
            assert_eq!((again.remote, again.message), (SocketAddr::new(to.local, PORT), sent.message));
        }
        Err(_) => assert!(datagram.ttl <= 1, "a session's packet was refused"),
    }
    let stranger = Session { responder: side(from.index, other, from.local), ..session };
    assert!(other == datagram.remote || forward(datagram, Some(&stranger)).is_err(), "from another source");
}

/// Only the host whose packet it was is told, about the packet as that host sent it.
fn check_translate(too_big: &TooBig, other: SocketAddr) {
    let index = too_big.receiver_index();
    let from = side(index.wrapping_add(1), other, local(other, 0));
    let to = side(index, too_big.remote, too_big.local);
    let session = Session { initiator: from, responder: to, opened: Duration::ZERO };
    if let Some(notice) = too_big.translate(&session, PORT) {
        // Without a panic also what the engine does not believe, which a next hop with a tiny MTU could say.
        if too_big.is_plausible() {
            check_notice(&notice, too_big, &from);
        }
    }
    let elsewhere = side(index, other, too_big.local);
    let session = Session { responder: elsewhere, ..session };
    assert!(
        other == too_big.remote || too_big.translate(&session, PORT).is_none(),
        "the relay did not send it"
    );
}

fn check_notice(notice: &Notice, too_big: &TooBig, from: &Side) {
    assert_eq!((notice.local, notice.remote), (from.local, from.endpoint.ip()));
    let half = |at: usize| u16::from_be_bytes([notice.icmp[at], notice.icmp[at + 1]]);
    let (mtu, udp, least) = if notice.remote.is_ipv4() {
        assert_eq!((notice.icmp[0], notice.icmp[1], sum(&notice.icmp)), (3, 4, 0xffff));
        assert_eq!((notice.icmp[8], sum(&notice.icmp[8..28])), (0x45, 0xffff), "the quoted header");
        assert_eq!(u32::from(half(10)), u32::from(half(28 + 4)) + 20);
        (u32::from(half(6)), 28, 556)
    } else {
        assert_eq!((notice.icmp[0], notice.icmp[1], notice.icmp[8] >> 4), (2, 0, 6));
        assert_eq!(half(12), half(48 + 4));
        (u32::from(half(4)) << 16 | u32::from(half(6)), 48, 1280)
    };
    assert_eq!((half(udp), half(udp + 2)), (from.endpoint.port(), PORT));
    let packet_len = u32::from(half(udp + 4)) + udp as u32 - 8;
    assert!(mtu >= least && mtu < packet_len, "MTU {mtu} for a packet of {packet_len}");
    assert_eq!(notice.icmp[udp + 8..], too_big.message[..]);
    assert!(too_big.message.len() <= 16, "more is quoted than tells the session");
}
