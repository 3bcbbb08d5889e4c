//! Relayed data on its way out: in place where nothing but values changes, which is nearly always, and else with a moved
//! head, where VLAN tags or the family differ.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use relay_ebpf::{
    reason::{Family, Reason},
    tables::{NextHop, Session, TAGS_MAX},
};

use crate::{
    frame::{Ethernet, Frame, MessageFrame, Packet, Udp},
    ip::{Ip, LeaveAs},
    maps::{NEXT_HOPS, TX_PORTS, local},
    rewrite::{rewrite, write},
    up::{Arrival, too_big},
};

/// Sends transport data on. All that can fail comes before the first byte is written.
#[inline(always)]
pub fn forward<const TAGS: usize, I>(
    ctx: &XdpContext,
    frame: &mut MessageFrame<TAGS, I>,
    entry: *mut Session,
    message_len: usize,
) -> (Reason, Family)
where
    I: Ip + LeaveAs<<I as Ip>::Other>,
{
    // SAFETY: a map value stays readable as long as the program runs. Userspace replaces entries as a whole; in place only
    // the counters change, which nobody reads here.
    let session = unsafe { &*entry };
    if frame.packet.ip.ttl() <= 1 {
        return (Reason::TtlExceeded, I::FAMILY);
    }
    let Some(next_hop) = NEXT_HOPS.get(session.next_hop.into()) else {
        return (Reason::NextHopUnresolved, I::FAMILY);
    };
    let packet = &raw const frame.packet;
    if !I::is_family(session.destination) {
        let reason = moved::<I, I::Other>(ctx.ctx, packet, entry, next_hop, TAGS);
        let left = matches!(reason, Reason::ForwardedTx | Reason::ForwardedRedirect);
        (reason, if left { I::FAMILY_LEAVING } else { I::FAMILY })
    } else if TAGS != 0 || next_hop.tag_count != 0 {
        (moved::<I, I>(ctx.ctx, packet, entry, next_hop, TAGS), I::FAMILY)
    } else {
        (in_place(ctx, frame, entry, next_hop, message_len), I::FAMILY)
    }
}

/// Untagged as it comes and as it leaves, and of one family: the frame stays where it is.
#[inline(always)]
fn in_place<const TAGS: usize, I: Ip>(
    ctx: &XdpContext,
    frame: &mut MessageFrame<TAGS, I>,
    entry: *mut Session,
    next_hop: &NextHop,
    message_len: usize,
) -> Reason {
    // SAFETY: as in `forward`.
    let session = unsafe { &*entry };
    let Some(local_out) = local(session.local_out) else { return Reason::NextHopUnresolved };
    if next_hop.mtu == 0 {
        return Reason::NextHopUnresolved;
    }
    match egress(ctx, &frame.packet, frame.packet.ip.packet_len(), next_hop) {
        Ok(reason) => {
            rewrite(frame, session, next_hop, local_out);
            count(entry, message_len);
            reason
        }
        Err(reason) => reason,
    }
}

/// The general way: headers as long as they have to be. A function of its own, so that the way in place stays short.
/// `packet` lies in the frame, behind `tags` VLAN tags.
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
    let Some(local_out) = local(session.local_out) else { return Reason::NextHopUnresolved };
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
    let reason = match egress(&ctx, packet, size_of::<O>() + payload_len, next_hop) {
        Ok(reason) => reason,
        Err(reason) => return reason,
    };
    let ip: O = packet.ip.leave_as(session, local_out);
    let mut udp = packet.udp;
    udp.rewrite(session);

    let mut frame = Frame::of(&ctx);
    let grows_by = headers_len::<O>(tags_out) - headers_len::<I>(tags);
    if grows_by != 0 && !frame.grow_head(grows_by) {
        return Reason::NoHeadroom;
    }
    let written = match tags_out {
        0 => write::<0, O>(&mut frame, next_hop, ip, udp),
        1 => write::<1, O>(&mut frame, next_hop, ip, udp),
        _ => write::<2, O>(&mut frame, next_hop, ip, udp),
    };
    if !written {
        return Reason::RewriteFailed;
    }
    count(entry, payload_len - size_of::<Udp>());
    reason
}

/// Length of the headers up to UDP's, in bytes.
#[inline(always)]
const fn headers_len<I>(tags: usize) -> i32 {
    (size_of::<Ethernet<0>>() + tags * size_of::<[u8; 4]>() + size_of::<I>()) as i32
}

/// Which way a packet leaves that will be `len` bytes long, or why it does not.
#[inline(always)]
fn egress<I: Ip>(
    ctx: &XdpContext,
    packet: &Packet<I>,
    len: usize,
    next_hop: &NextHop,
) -> Result<Reason, Reason> {
    if len > next_hop.mtu.into() {
        Err(larger_than_mtu(ctx.ctx, packet))
    } else if next_hop.ifindex as usize == ctx.ingress_ifindex() {
        Ok(Reason::ForwardedTx)
    } else if TX_PORTS.redirect(next_hop.ifindex, 0).is_ok() {
        Ok(Reason::ForwardedRedirect)
    } else {
        Err(Reason::NoTxPort)
    }
}

/// What becomes of a packet that its next hop does not take whole.
#[inline(never)]
fn larger_than_mtu<I: Ip>(ctx: *mut xdp_md, packet: &Packet<I>) -> Reason {
    if packet.ip.may_fragment() {
        return Reason::ToFragment;
    }
    let message_len = packet.ip.packet_len() - size_of::<I>() - size_of::<Udp>();
    too_big(&XdpContext::new(ctx), &Arrival::of(packet, 0), &packet.message, message_len);
    Reason::TooBig
}

/// Counts a packet as the session's.
#[inline(always)]
fn count(entry: *mut Session, message_len: usize) {
    // SAFETY: `entry` is a map value, and `packets` and `bytes` are aligned words in it.
    unsafe {
        atomic_add(&raw mut (*entry).packets, 1);
        atomic_add(&raw mut (*entry).bytes, message_len as u64);
    }
}

/// Adds to a word that other CPUs may be adding to. (`AtomicU64` has no `fetch_add` on this target.)
///
/// # Safety
/// `word` points to an aligned, writable word of a map value.
#[inline(always)]
unsafe fn atomic_add(word: *mut u64, amount: u64) {
    // SAFETY: what the caller promises is all that the instruction asks for.
    unsafe {
        core::arch::asm!("lock *(u64 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(reg) amount);
    }
}
