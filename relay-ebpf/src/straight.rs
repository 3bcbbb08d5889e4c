//! The straight way, that of nearly every packet: data of a session without a rate limit, untagged, in one family, with
//! nothing in its way. It leaves in place, and all that is looked at on the way is what has to be. If anything is otherwise nothing has been
//! changed, and `decide` finds out what it is.

use aya_ebpf::programs::XdpContext;
use relay_ebpf::{
    reason::Reason,
    tables::NextHop,
    wireguard::{Kind, TRANSPORT_DATA_MIN_LEN},
};

use crate::{
    forward::belongs,
    frame::{Frame, MessageFrame, Packet, Udp},
    ip::Ip,
    maps::{NEXT_HOPS, TX_PORTS, locals, port_be},
    rewrite::rewrite,
    sessions,
};

/// Sends the packet on, if it is such a one.
#[inline(always)]
pub fn straight<I: Ip>(ctx: &XdpContext, frame: &mut Frame<'_>) -> Option<Reason> {
    let len = frame.len();
    let headers = frame.prefix_mut::<MessageFrame<0, I>>()?;
    let Packet { ip, udp, message } = &headers.packet;
    let udp_len = usize::from(u16::from_be_bytes(udp.len_be));
    let packet_len = size_of::<I>() + udp_len;
    let checksummed = I::CHECKSUM_OPTIONAL || udp.checksum_ne != [0; 2];
    if !ip.is_plain_udp()
        || udp.destination_port_be != port_be()
        || udp_len < size_of::<Udp>() + TRANSPORT_DATA_MIN_LEN
        || packet_len != ip.packet_len()
        || size_of_val(&headers.ethernet) + packet_len > len
        || u32::from_le_bytes(message.word_le) != Kind::TransportData as u32
        || !checksummed
        || ip.ttl() <= 1
    {
        return None;
    }
    let entry = sessions::find(u32::from_le_bytes(message.index_le))?;
    // SAFETY: a map value stays readable as long as the program runs, and of a slot that is in use only the counters
    // change, which nobody reads here.
    let session = unsafe { &*entry };
    let locals = locals()?;
    if !belongs(session, &headers.packet, locals)
        || !I::is_family(session.destination)
        || session.sender_rate | session.receiver_rate != 0
    {
        return None;
    }
    let local_out = *locals.get(usize::from(session.local_out))?;
    let next_hop = NEXT_HOPS.get(session.next_hop.into())?;
    if packet_len > next_hop.mtu.into() || next_hop.tag_count != 0 {
        return None;
    }
    let reason = egress(ctx, next_hop)?;
    rewrite(headers, session, next_hop, local_out);
    sessions::count(entry, udp_len - size_of::<Udp>());
    Some(reason)
}

/// Which way a frame leaves; `None` if the egress interface takes none.
#[inline(always)]
pub fn egress(ctx: &XdpContext, next_hop: &NextHop) -> Option<Reason> {
    if next_hop.ifindex as usize == ctx.ingress_ifindex() {
        Some(Reason::ForwardedTx)
    } else {
        TX_PORTS.redirect(next_hop.ifindex, 0).is_ok().then_some(Reason::ForwardedRedirect)
    }
}
