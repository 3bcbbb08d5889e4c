//! What becomes of a packet: the checks in their order, and the one [`Reason`] at the end of them.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use relay_ebpf::{
    reason::{Family, Reason},
    tables::{Class, Endpoint},
    wireguard::{COOKIE_REPLY_LEN, INITIATION_LEN, Kind, RESPONSE_LEN, TRANSPORT_DATA_MIN_LEN},
};

use crate::{
    admission::{Admission, admit},
    forward::{belongs, forward},
    frame::{Ethernet, FragmentFrame, Frame, IpFrame, MessageFrame, Packet, Udp, UdpFrame, endpoint},
    ip::{FragmentOf, Ip, Ipv4, Ipv6, LeaveAs},
    maps::{PENDING, is_relay, locals, port_be},
    sessions,
    straight::straight,
    straight_channel::straight_channel,
    turn::turn,
    up::{Arrival, copy_up, hint},
};

const ETHERTYPE_8021Q: u16 = 0x8100;
const ETHERTYPE_8021AD: u16 = 0x88a8;

/// Carries a packet through. It is sent on, copied up, or neither; only one that is sent on is changed.
#[inline(always)]
pub fn decide(ctx: &XdpContext, frame: &mut Frame<'_>) -> (Reason, Family) {
    let ethertype = frame.prefix::<Ethernet<0>>().map(|ethernet| u16::from_be_bytes(ethernet.ethertype_be));
    let sent = match ethertype {
        Some(Ipv4::ETHERTYPE) => untagged::<Ipv4>(ctx, frame),
        Some(Ipv6::ETHERTYPE) => untagged::<Ipv6>(ctx, frame),
        _ => None,
    };
    // Anew, since the verifier takes any call that may move the head for one that has.
    sent.unwrap_or_else(|| by_tags(ctx, &mut Frame::of(ctx)))
}

#[inline(always)]
fn untagged<I>(ctx: &XdpContext, frame: &mut Frame<'_>) -> Option<(Reason, Family)>
where
    I: Ip + LeaveAs<<I as Ip>::Other>,
{
    let session = straight::<I>(ctx, frame).map(|reason| (reason, I::FAMILY));
    session.or_else(|| straight_channel::<I>(ctx))
}

#[inline(always)]
fn by_tags(ctx: &XdpContext, frame: &mut Frame<'_>) -> (Reason, Family) {
    match by_ethertype::<0>(ctx, frame) {
        Err(Reason::VlanTagged) => {}
        met => return met.unwrap_or_else(other),
    }
    match by_ethertype::<1>(ctx, frame) {
        Err(Reason::VlanTagged) => {}
        met => return met.unwrap_or_else(other),
    }
    by_ethertype::<2>(ctx, frame).unwrap_or_else(other)
}

#[inline(always)]
fn other(reason: Reason) -> (Reason, Family) {
    (reason, Family::Other)
}

/// Looks behind `TAGS` VLAN tags; what is no IP there is an error, and one more tag is [`Reason::VlanTagged`].
#[inline(always)]
fn by_ethertype<const TAGS: usize>(
    ctx: &XdpContext,
    frame: &mut Frame<'_>,
) -> Result<(Reason, Family), Reason> {
    let ethernet = frame.prefix::<Ethernet<TAGS>>().ok_or(Reason::Malformed)?;
    match u16::from_be_bytes(ethernet.ethertype_be) {
        Ipv4::ETHERTYPE => Ok(ip::<TAGS, Ipv4>(ctx, frame)),
        Ipv6::ETHERTYPE => Ok(ip::<TAGS, Ipv6>(ctx, frame)),
        ETHERTYPE_8021Q | ETHERTYPE_8021AD => Err(Reason::VlanTagged),
        _ => Err(Reason::OtherProtocol),
    }
}

#[inline(always)]
fn ip<const TAGS: usize, I>(ctx: &XdpContext, frame: &mut Frame<'_>) -> (Reason, Family)
where
    I: Ip + LeaveAs<<I as Ip>::Other>,
{
    let reason = match relay_port::<TAGS, I>(frame) {
        Ok(message_len) => match frame.prefix::<MessageFrame<TAGS, I>>() {
            Some(frame) => return message(ctx, frame, message_len),
            // The lengths fit, so the message is shorter than the shortest of WireGuard's.
            None => ours::<TAGS, I>(frame, Reason::NotWireguard),
        },
        Err(Reason::OtherDestination) => return turn::<TAGS, I>(ctx, frame),
        Err(reason) => reason,
    };
    let refused =
        socket_source::<TAGS, I>(frame, reason).and_then(|source| refusal(admit(&source, Class::Bulk)));
    (refused.unwrap_or(reason), I::FAMILY)
}

/// Where a packet comes from that is no whole WireGuard message but may get to WireGuard's socket for all that; `None` if it
/// won't. Whatever hides its port has port 0, at which no endpoint is known.
#[inline(always)]
fn socket_source<const TAGS: usize, I: Ip>(frame: &Frame<'_>, reason: Reason) -> Option<Endpoint> {
    const HIDDEN: [u8; 2] = [0; 2];
    match reason {
        // The kernel cuts off what is longer than UDP's length says, and takes 0 for all there is (udp_rcv, udpv6_rcv).
        Reason::Malformed | Reason::NotWireguard => {
            let UdpFrame { ip, udp, .. } = frame.prefix::<UdpFrame<TAGS, I>>()?;
            let ours =
                ip.is_plain_udp() && udp.destination_port_be == port_be() && is_relay(ip.destination());
            ours.then(|| endpoint(ip.source(), udp.source_port_be))
        }
        Reason::IpOptions => {
            let IpFrame { ip, .. } = frame.prefix::<IpFrame<TAGS, I>>()?;
            Some(endpoint(ip.source(), HIDDEN))
        }
        // Without the first of its fragments a datagram goes nowhere, so only the first pays.
        Reason::Fragment => {
            let FragmentFrame { ip, header, udp, .. } =
                frame.prefix::<FragmentFrame<TAGS, I, I::FragmentHeader>>()?;
            match ip.fragment_of(header) {
                FragmentOf::Udp if udp.destination_port_be == port_be() => {
                    Some(endpoint(ip.source(), udp.source_port_be))
                }
                FragmentOf::Unknown => Some(endpoint(ip.source(), HIDDEN)),
                FragmentOf::Udp | FragmentOf::Other => None,
            }
        }
        _ => None,
    }
}

/// Why a packet is refused; `None` if it is admitted.
#[inline(always)]
fn refusal(admission: Admission) -> Option<Reason> {
    match admission {
        Admission::Known | Admission::Unknown => None,
        Admission::KnownOverBudget => Some(Reason::KnownOverBudget),
        Admission::SourceOverBudget => Some(Reason::SourceOverBudget),
        Admission::UnknownOverBudget => Some(Reason::UnknownOverBudget),
        Admission::Denied => Some(Reason::SourceDenied),
        Admission::NotAllowed => Some(Reason::SourceNotAllowed),
    }
}

/// Checks that it is UDP to the relay port whose lengths agree, and gives the length of the message in bytes. What
/// follows the IP packet in the frame is padding.
#[inline(always)]
fn relay_port<const TAGS: usize, I: Ip>(frame: &Frame<'_>) -> Result<usize, Reason> {
    let IpFrame { ip, .. } = frame.prefix::<IpFrame<TAGS, I>>().ok_or(Reason::Malformed)?;
    if !ip.is_plain_udp() {
        return Err(ip.unusual());
    }
    let UdpFrame { ip, udp, .. } = frame.prefix::<UdpFrame<TAGS, I>>().ok_or(Reason::Malformed)?;
    if udp.destination_port_be != port_be() {
        return Err(Reason::OtherDestination);
    }
    let udp_len = usize::from(u16::from_be_bytes(udp.len_be));
    if udp_len < size_of::<Udp>()
        || size_of::<I>() + udp_len != ip.packet_len()
        || size_of::<IpFrame<TAGS, I>>() + udp_len > frame.len()
    {
        return Err(Reason::Malformed);
    }
    Ok(udp_len - size_of::<Udp>())
}

/// The reason given, if the packet was sent to an address of the relay.
#[inline(always)]
fn ours<const TAGS: usize, I: Ip>(frame: &Frame<'_>, reason: Reason) -> Reason {
    match frame.prefix::<IpFrame<TAGS, I>>() {
        Some(IpFrame { ip, .. }) if is_relay(ip.destination()) => reason,
        _ => Reason::OtherDestination,
    }
}

/// A message to the relay port. Transport data of a session goes first: its session knows which of the relay's addresses
/// it belongs to.
#[inline(always)]
fn message<const TAGS: usize, I>(
    ctx: &XdpContext,
    frame: &MessageFrame<TAGS, I>,
    len: usize,
) -> (Reason, Family)
where
    I: Ip + LeaveAs<<I as Ip>::Other>,
{
    let packet = &frame.packet;
    let kind = Kind::classify(u32::from_le_bytes(packet.message.word_le), len);
    let index = u32::from_le_bytes(packet.message.index_le);
    let mut known = false;
    if kind == Some(Kind::TransportData)
        && is_checksummed(packet)
        && let Some(session) = sessions::find(index)
        && let Some(locals) = locals()
    {
        // SAFETY: a map value stays readable as long as the program runs, and of a slot that is in use only the counters
        // change, which nobody reads here.
        if belongs(unsafe { &*session }, packet, locals) {
            return forward::<TAGS, I>(ctx, packet, session);
        }
        known = true;
    }
    let message_at = size_of::<UdpFrame<TAGS, I>>();
    (not_relayed(ctx.ctx, packet, message_at, known), I::FAMILY)
}

/// A message that is no data of a session. `known` says that it is as if, but from or to other addresses. `packet` lies in
/// the frame. A function of its own, whose stack is no part of what sends packets on.
#[inline(never)]
fn not_relayed<I: Ip>(ctx: *mut xdp_md, packet: *const Packet<I>, message_at: usize, known: bool) -> Reason {
    // SAFETY: the caller has found the packet in the frame, whose head stays where it is.
    let (ctx, packet) = (&XdpContext::new(ctx), unsafe { &*packet });
    if !is_relay(packet.ip.destination()) {
        return Reason::OtherDestination;
    }
    let admission = admit(&packet.source(), class(packet));
    if let Some(reason) = refusal(admission) {
        return reason;
    }
    if !is_checksummed(packet) {
        return Reason::NoUdpChecksum;
    }
    let arrival = Arrival::of(packet, message_at, admission == Admission::Known);
    match kind_again(packet).0 {
        None => Reason::NotWireguard,
        Some(Kind::Initiation) if copy_up::<INITIATION_LEN>(ctx, &arrival) => Reason::Initiation,
        Some(Kind::Initiation) => Reason::InitiationNotCopied,
        Some(Kind::Response) => {
            response(ctx, &arrival, u32::from_le_bytes(packet.message.response_receiver_le))
        }
        Some(Kind::CookieReply) => cookie_reply(ctx, &arrival, packet),
        Some(Kind::TransportData) if known => Reason::DataWrongSource,
        Some(Kind::TransportData) => {
            hint(ctx, &arrival);
            Reason::DataOwn
        }
    }
}

/// What the message is as far as admission goes. A keepalive is data without content.
#[inline(always)]
fn class<I: Ip>(packet: &Packet<I>) -> Class {
    match kind_again(packet) {
        (Some(Kind::Initiation | Kind::Response | Kind::CookieReply), _)
        | (Some(Kind::TransportData), TRANSPORT_DATA_MIN_LEN) => Class::Signal,
        _ => Class::Bulk,
    }
}

/// Whether the packet has a UDP checksum, if it must have one; read anew like the kind.
#[inline(always)]
fn is_checksummed<I: Ip>(packet: &Packet<I>) -> bool {
    // SAFETY: a reference into the packet, valid and without alignment.
    I::CHECKSUM_OPTIONAL || unsafe { (&raw const packet.udp.checksum_ne).read_volatile() } != [0; 2]
}

/// What the message is and its length, read anew. On Linux 6.1 IPv6 responses and cookie replies came out as no WireGuard
/// when what was found before was kept over the call of [`is_relay`], and so did packets without a checksum; nothing of it
/// was seen on 6.12 and 6.18, whose verifiers follow values over calls better. A value from the packet is one that no
/// verifier presumes anything of.
#[inline(always)]
fn kind_again<I: Ip>(packet: &Packet<I>) -> (Option<Kind>, usize) {
    // SAFETY: both are references into the packet, valid and without alignment.
    let (word, len) = unsafe {
        ((&raw const packet.message.word_le).read_volatile(), (&raw const packet.udp.len_be).read_volatile())
    };
    let len = usize::from(u16::from_be_bytes(len)).wrapping_sub(size_of::<Udp>());
    (Kind::classify(u32::from_le_bytes(word), len), len)
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
fn cookie_reply<I: Ip>(ctx: &XdpContext, arrival: &Arrival, packet: &Packet<I>) -> Reason {
    let receiver = u32::from_le_bytes(packet.message.index_le);
    // SAFETY: a map value stays readable as long as the program runs, and userspace replaces entries as a whole.
    let pending = unsafe { PENDING.get(receiver) };
    let session = sessions::find(receiver);
    if pending.is_none() && session.is_none() {
        hint(ctx, arrival);
        return Reason::CookieReplyOwn;
    }
    let expected = pending.is_some_and(|p| *p == arrival.source)
        || session.zip(locals()).is_some_and(|(session, locals)| {
            // SAFETY: as in `message`.
            belongs(unsafe { &*session }, packet, locals)
        });
    if !expected {
        Reason::CookieReplyWrongSource
    } else if copy_up::<COOKIE_REPLY_LEN>(ctx, arrival) {
        Reason::CookieReply
    } else {
        Reason::CookieReplyNotCopied
    }
}
