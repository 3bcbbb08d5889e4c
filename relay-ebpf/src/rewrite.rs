//! The only place that writes to a packet.

use relay_ebpf::{
    checksum,
    tables::{Address, NextHop, Session},
};

use crate::{
    frame::{Ethernet, Frame, HeadedFrame, MessageFrame, Overlay, Udp},
    ip::Ip,
};

/// Makes the packet one from the relay to the session's destination. Its size stays, and nothing here can fail.
#[inline(always)]
pub fn rewrite<I: Ip>(frame: &mut MessageFrame<0, I>, session: &Session, next_hop: &NextHop, local: Address) {
    (frame.ethernet.addresses_head_ne, frame.ethernet.addresses_tail_ne) = addresses(next_hop);
    frame.packet.ip.rewrite(session, local);
    frame.packet.udp.rewrite(session);
}

/// Writes the headers at the frame's head, and what follows UDP's; `false` if the frame is shorter than they are.
#[inline(always)]
pub fn write<const TAGS: usize, I: Ip, R: Overlay>(
    frame: &mut Frame<'_>,
    next_hop: &NextHop,
    ip: I,
    udp: Udp,
    rest: R,
) -> bool {
    let Some(headers) = frame.prefix_mut::<HeadedFrame<TAGS, I, R>>() else { return false };
    let (addresses_head_ne, addresses_tail_ne) = addresses(next_hop);
    let mut tags_ne = [0; TAGS];
    for (tag_ne, tag) in tags_ne.iter_mut().zip(next_hop.tags) {
        *tag_ne = u32::from_ne_bytes(tag);
    }
    let ethertype_be = I::ETHERTYPE.to_be_bytes();
    headers.ethernet = Ethernet { addresses_head_ne, addresses_tail_ne, tags_ne, ethertype_be };
    headers.ip = ip;
    headers.udp = udp;
    headers.rest = rest;
    true
}

/// Both addresses as [`Ethernet`] has them.
#[inline(always)]
fn addresses(next_hop: &NextHop) -> (u64, u32) {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (next_hop.destination_mac, next_hop.source_mac);
    (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u32::from_ne_bytes([i, j, k, l]))
}

impl Udp {
    /// Makes it the header of a packet to the session's destination. The source port becomes the destination port as
    /// received: both are the relay port.
    #[inline(always)]
    pub fn rewrite(&mut self, session: &Session) {
        self.source_port_be = self.destination_port_be;
        self.destination_port_be = session.destination_port_be;
        // Zero is "no checksum", which IPv4 allows and which stays so; what comes or leaves as IPv6 has one.
        let checksum = u16::from_ne_bytes(self.checksum_ne);
        if checksum != 0 {
            self.checksum_ne = checksum::apply_udp(checksum, session.udp_delta).to_ne_bytes();
        }
    }
}
