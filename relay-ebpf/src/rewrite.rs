//! The only place that writes to a packet.

use relay_ebpf::{
    checksum,
    tables::{Address, NextHop, Session},
};

use crate::{frame::MessageFrame, ip::Ip};

/// Makes the packet one from the relay to the session's destination. Its size stays, and nothing here can fail.
///
/// The source port becomes the destination port as received: both are the relay port.
#[inline(always)]
pub fn rewrite<I: Ip>(packet: &mut MessageFrame<I>, session: &Session, next_hop: &NextHop, local: Address) {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (next_hop.destination_mac, next_hop.source_mac);
    packet.ethernet.addresses_head_ne = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    packet.ethernet.addresses_tail_ne = u32::from_ne_bytes([i, j, k, l]);
    packet.ip.rewrite(session, local);
    packet.udp.source_port_be = packet.udp.destination_port_be;
    packet.udp.destination_port_be = session.destination_port_be;
    // Zero is "no checksum", which IPv4 allows and which stays so; IPv6 packets without one don't come here.
    let checksum = u16::from_ne_bytes(packet.udp.checksum_ne);
    if checksum != 0 {
        packet.udp.checksum_ne = checksum::apply_udp(checksum, session.udp_delta).to_ne_bytes();
    }
}
