//! What becomes of a packet: the checks in their order, and the one [`Reason`] at the end of them.

use aya_ebpf::programs::XdpContext;
use relay_ebpf::{
    reason::{Family, Reason},
    tables::{Endpoint, Session},
    wireguard::{COOKIE_REPLY_LEN, INITIATION_LEN, Kind, RESPONSE_LEN},
};

use crate::{
    frame::{Ethernet, Frame, IpFrame, MessageFrame, Udp, UdpFrame},
    ip::{Ip, Ipv4, Ipv6},
    maps::{CONFIG, NEXT_HOPS, PENDING, SESSIONS, TX_PORTS, is_relay, local},
    rewrite::rewrite,
    up::{Arrival, copy_up, hint},
};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_8021Q: u16 = 0x8100;
const ETHERTYPE_8021AD: u16 = 0x88a8;

/// Carries a packet through. It is sent on, copied up, or neither; only one that is sent on is changed.
#[inline(always)]
pub fn decide(ctx: &XdpContext, frame: &mut Frame<'_>) -> (Reason, Family) {
    let Some(ethernet) = frame.prefix::<Ethernet>() else { return (Reason::Malformed, Family::Other) };
    match u16::from_be_bytes(ethernet.ethertype_be) {
        ETHERTYPE_IPV4 => (ip::<Ipv4>(ctx, frame), Ipv4::FAMILY),
        ETHERTYPE_IPV6 => (ip::<Ipv6>(ctx, frame), Ipv6::FAMILY),
        ETHERTYPE_8021Q | ETHERTYPE_8021AD => (Reason::VlanTagged, Family::Other),
        _ => (Reason::OtherProtocol, Family::Other),
    }
}

#[inline(always)]
fn ip<I: Ip>(ctx: &XdpContext, frame: &mut Frame<'_>) -> Reason {
    match relay_port::<I>(frame) {
        Ok(message_len) => match frame.prefix_mut::<MessageFrame<I>>() {
            Some(packet) => message(ctx, packet, message_len),
            // The lengths fit, so the message is shorter than the shortest of WireGuard's.
            None => ours::<I>(frame, Reason::NotWireguard),
        },
        Err(reason) => reason,
    }
}

/// Checks that it is UDP to the relay port whose lengths agree, and gives the length of the message in bytes. What
/// follows the IP packet in the frame is padding.
#[inline(always)]
fn relay_port<I: Ip>(frame: &Frame<'_>) -> Result<usize, Reason> {
    frame.prefix::<IpFrame<I>>().ok_or(Reason::Malformed)?.ip.plain_udp()?;
    let UdpFrame { ip, udp, .. } = frame.prefix::<UdpFrame<I>>().ok_or(Reason::Malformed)?;
    if udp.destination_port_be != CONFIG.load().port_be {
        return Err(Reason::OtherDestination);
    }
    let udp_len = usize::from(u16::from_be_bytes(udp.len_be));
    if udp_len < size_of::<Udp>()
        || size_of::<I>() + udp_len != ip.packet_len()
        || size_of::<IpFrame<I>>() + udp_len > frame.len()
    {
        return Err(Reason::Malformed);
    }
    Ok(udp_len - size_of::<Udp>())
}

/// The reason given, if the packet was sent to an address of the relay.
#[inline(always)]
fn ours<I: Ip>(frame: &Frame<'_>, reason: Reason) -> Reason {
    match frame.prefix::<IpFrame<I>>() {
        Some(IpFrame { ip, .. }) if is_relay(ip.destination()) => reason,
        _ => Reason::OtherDestination,
    }
}

/// A message to the relay port. Transport data of a session goes first, by the shortest way: its session knows which of
/// the relay's addresses it belongs to.
#[inline(always)]
fn message<I: Ip>(ctx: &XdpContext, packet: &mut MessageFrame<I>, len: usize) -> Reason {
    let kind = Kind::classify(u32::from_le_bytes(packet.message.word_le), len);
    let index = u32::from_le_bytes(packet.message.index_le);
    let checksummed = I::CHECKSUM_OPTIONAL || packet.udp.checksum_ne != [0; 2];
    let mut known = false;
    if kind == Some(Kind::TransportData)
        && checksummed
        && let Some(session) = SESSIONS.get_ptr_mut(index)
    {
        // SAFETY: a map value stays readable as long as the program runs. Userspace replaces entries as a whole; in place
        // only the counters change, which nobody reads here.
        if belongs(unsafe { &*session }, packet) {
            return forward(ctx, packet, session, len);
        }
        known = true;
    }

    let destination = packet.ip.destination();
    if !is_relay(destination) {
        return Reason::OtherDestination;
    }
    if !checksummed {
        return Reason::NoUdpChecksum;
    }
    let arrival = Arrival {
        source: Endpoint {
            address: packet.ip.source(),
            port: u16::from_be_bytes(packet.udp.source_port_be).into(),
        },
        local: destination,
        ttl: packet.ip.ttl(),
        message_at: size_of::<UdpFrame<I>>(),
    };
    match kind {
        None => Reason::NotWireguard,
        Some(Kind::Initiation) if copy_up::<INITIATION_LEN>(ctx, &arrival) => Reason::Initiation,
        Some(Kind::Initiation) => Reason::InitiationNotCopied,
        Some(Kind::Response) => {
            response(ctx, &arrival, u32::from_le_bytes(packet.message.response_receiver_le))
        }
        Some(Kind::CookieReply) => cookie_reply(ctx, &arrival, packet, index),
        Some(Kind::TransportData) if known => Reason::DataWrongSource,
        Some(Kind::TransportData) => {
            hint(ctx, &arrival);
            Reason::DataOwn
        }
    }
}

/// Whether the packet comes from where the session's packets come from, and to where they go.
#[inline(always)]
fn belongs<I: Ip>(session: &Session, packet: &MessageFrame<I>) -> bool {
    session.source_port_be == packet.udp.source_port_be
        && session.source == packet.ip.source()
        && local(session.local_in) == Some(packet.ip.destination())
}

/// Sends transport data on. All that can fail comes before the first byte is written.
#[inline(always)]
fn forward<I: Ip>(
    ctx: &XdpContext,
    packet: &mut MessageFrame<I>,
    entry: *mut Session,
    message_len: usize,
) -> Reason {
    // SAFETY: as in `message`.
    let session = unsafe { &*entry };
    if !I::is_family(session.destination) {
        return Reason::FamilyChange;
    }
    if packet.ip.ttl() <= 1 {
        return Reason::TtlExceeded;
    }
    let (Some(next_hop), Some(local_out)) =
        (NEXT_HOPS.get(session.next_hop.into()), local(session.local_out))
    else {
        return Reason::NextHopUnresolved;
    };
    if next_hop.mtu == 0 {
        return Reason::NextHopUnresolved;
    }
    if packet.ip.packet_len() > next_hop.mtu.into() {
        return Reason::TooBig;
    }
    let reason = if next_hop.ifindex as usize == ctx.ingress_ifindex() {
        Reason::ForwardedTx
    } else if TX_PORTS.redirect(next_hop.ifindex, 0).is_ok() {
        Reason::ForwardedRedirect
    } else {
        return Reason::NoTxPort;
    };
    rewrite(packet, session, next_hop, local_out);
    // SAFETY: `entry` is a map value, as above, and `packets` and `bytes` are aligned words in it.
    unsafe {
        atomic_add(&raw mut (*entry).packets, 1);
        atomic_add(&raw mut (*entry).bytes, message_len as u64);
    }
    reason
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

#[inline(always)]
fn response(ctx: &XdpContext, arrival: &Arrival, receiver: u32) -> Reason {
    // SAFETY: a map value stays readable as long as the program runs, and userspace replaces entries as a whole.
    match unsafe { PENDING.get(receiver) } {
        Some(responder) if *responder != arrival.source => Reason::ResponseWrongSource,
        Some(_) if copy_up::<RESPONSE_LEN>(ctx, arrival) => Reason::Response,
        Some(_) => Reason::ResponseNotCopied,
        None => {
            hint(ctx, arrival);
            Reason::ResponseOwn
        }
    }
}

/// A cookie reply answers an initiation (then the index is the initiator's, and its handshake is pending) or a response
/// (then it is the responder's, whose session stands already).
#[inline(always)]
fn cookie_reply<I: Ip>(
    ctx: &XdpContext,
    arrival: &Arrival,
    packet: &MessageFrame<I>,
    receiver: u32,
) -> Reason {
    // SAFETY: a map value stays readable as long as the program runs, and userspace replaces entries as a whole.
    let (pending, session) = unsafe { (PENDING.get(receiver), SESSIONS.get(receiver)) };
    if pending.is_none() && session.is_none() {
        hint(ctx, arrival);
        return Reason::CookieReplyOwn;
    }
    let expected =
        pending.is_some_and(|p| *p == arrival.source) || session.is_some_and(|s| belongs(s, packet));
    if !expected {
        Reason::CookieReplyWrongSource
    } else if copy_up::<COOKIE_REPLY_LEN>(ctx, arrival) {
        Reason::CookieReply
    } else {
        Reason::CookieReplyNotCopied
    }
}
