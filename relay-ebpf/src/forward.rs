//! Relayed data that does not go the straight way: its VLAN tags or its family change, its rate is limited, or something is
//! wrong.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use relay_ebpf::{
    reason::{Family, Reason},
    tables::{Address, NextHop, Session, TAGS_MAX},
};

use crate::{
    admission::within_rates,
    frame::{Ethernet, Frame, Packet, Udp},
    ip::{Ip, LeaveAs, Leaving},
    maps::{NEXT_HOPS, locals},
    rewrite::write,
    sessions,
    straight::egress,
    up::{Arrival, too_big},
};

/// Whether the packet comes from where the session's packets come from, and to where they go. `locals` are the relay's
/// addresses.
#[inline(always)]
pub fn belongs<I: Ip>(session: &Session, packet: &Packet<I>, locals: &[Address]) -> bool {
    session.source_port_be == packet.udp.source_port_be
        && session.source == packet.ip.source()
        && locals.get(usize::from(session.local_in)) == Some(&packet.ip.destination())
}

/// Sends transport data on. All that can fail comes before the first byte is written.
#[inline(always)]
pub fn forward<const TAGS: usize, I>(
    ctx: &XdpContext,
    packet: &Packet<I>,
    entry: *mut Session,
) -> (Reason, Family)
where
    I: Ip + LeaveAs<<I as Ip>::Other>,
{
    // SAFETY: a map value stays readable as long as the program runs, and of a slot that is in use only the counters
    // change, which nobody reads here.
    let session = unsafe { &*entry };
    if packet.ip.ttl() <= 1 {
        return (Reason::TtlExceeded, I::FAMILY);
    }
    let Some(next_hop) = NEXT_HOPS.get(session.next_hop.into()) else {
        return (Reason::NextHopUnresolved, I::FAMILY);
    };
    if I::is_family(session.destination) {
        return (moved::<I, I>(ctx.ctx, packet, entry, next_hop, TAGS), I::FAMILY);
    }
    let reason = moved::<I, I::Other>(ctx.ctx, packet, entry, next_hop, TAGS);
    let left = matches!(reason, Reason::ForwardedTx | Reason::ForwardedRedirect);
    (reason, if left { I::FAMILY_LEAVING } else { I::FAMILY })
}

/// Headers as long as they have to be. `packet` lies in the frame, behind `tags` VLAN tags.
#[inline(never)]
fn moved<I: LeaveAs<O>, O: Ip>(
    ctx: *mut xdp_md,
    packet: *const Packet<I>,
    entry: *mut Session,
    next_hop: &NextHop,
    tags: usize,
) -> Reason {
    let ctx = XdpContext::new(ctx);
    // SAFETY: as in `forward`.
    let session = unsafe { &*entry };
    let Some(&local_out) = locals().and_then(|locals| locals.get(usize::from(session.local_out))) else {
        return Reason::NextHopUnresolved;
    };
    let tags_out = usize::from(next_hop.tag_count);
    if next_hop.mtu == 0 || tags_out > TAGS_MAX {
        return Reason::NextHopUnresolved;
    }
    // SAFETY: the caller has found it in the frame, and the reference is used no more once the head has moved.
    let packet = unsafe { &*packet };
    if !O::CHECKSUM_OPTIONAL && packet.udp.checksum_ne == [0; 2] {
        return Reason::ToChecksum;
    }
    let payload_len = packet.ip.packet_len() - size_of::<I>();
    if size_of::<O>() + payload_len > next_hop.mtu.into() {
        return larger_than_mtu(&ctx, packet);
    }
    // What userspace forwards pays there.
    let limited = session.sender_rate | session.receiver_rate != 0;
    if limited && !within_rates(session, (payload_len - size_of::<Udp>()) as u16) {
        return Reason::OverRateLimit;
    }
    let Some(reason) = egress(&ctx, next_hop) else { return Reason::NoTxPort };
    let leaving = Leaving {
        local: local_out,
        destination: session.destination,
        ip_delta: session.ip_delta,
        payload_len,
    };
    let ip: O = packet.ip.leave_as(&leaving);
    let mut udp = packet.udp;
    udp.rewrite(session);

    let mut frame = Frame::of(&ctx);
    let grows_by = headers_len::<O>(tags_out) - headers_len::<I>(tags);
    if grows_by != 0 && !frame.grow_head(grows_by) {
        return Reason::NoHeadroom;
    }
    let written = match tags_out {
        0 => write::<0, O, [u8; 0]>(&mut frame, next_hop, ip, udp, []),
        1 => write::<1, O, [u8; 0]>(&mut frame, next_hop, ip, udp, []),
        _ => write::<2, O, [u8; 0]>(&mut frame, next_hop, ip, udp, []),
    };
    if !written {
        return Reason::RewriteFailed;
    }
    sessions::count(entry, payload_len - size_of::<Udp>());
    reason
}

/// Length of the headers up to UDP's, in bytes.
#[inline(always)]
pub const fn headers_len<I>(tags: usize) -> i32 {
    (size_of::<Ethernet<0>>() + tags * size_of::<[u8; 4]>() + size_of::<I>()) as i32
}

/// What becomes of a packet that its next hop does not take whole.
#[inline(always)]
fn larger_than_mtu<I: Ip>(ctx: &XdpContext, packet: &Packet<I>) -> Reason {
    if packet.ip.may_fragment() {
        return Reason::ToFragment;
    }
    let message_len = packet.ip.packet_len() - size_of::<I>() - size_of::<Udp>();
    too_big(ctx, &Arrival::of(packet, 0, true), &packet.message, message_len);
    Reason::TooBig
}
