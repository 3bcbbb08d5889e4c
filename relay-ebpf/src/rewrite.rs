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
    packet.ethernet.destination = next_hop.destination_mac;
    packet.ethernet.source = next_hop.source_mac;
    packet.ip.rewrite(session, local);
    packet.udp.source_port_be = packet.udp.destination_port_be;
    packet.udp.destination_port_be = session.destination_port_be;
    // Zero is "no checksum", which IPv4 allows and which stays so; IPv6 packets without one don't come here.
    let checksum = u16::from_ne_bytes(packet.udp.checksum_ne);
    if checksum != 0 {
        packet.udp.checksum_ne = checksum::apply_udp(checksum, session.udp_delta).to_ne_bytes();
    }
}
