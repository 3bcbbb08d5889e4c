//! Data of the TURN server's channels (RFC 8656, section 12): what a client sends leaves without its four bytes of header,
//! and without the padding after it; what a peer sends leaves with them. Whatever is no such data, or does not fit, is
//! passed on to the server, which does the same.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_jiffies64, bpf_xdp_load_bytes},
    macros::socket_filter,
    programs::{SkBuffContext, XdpContext},
};
use relay_ebpf::{
    checksum,
    reason::{Family, Reason},
    tables::{Channel, NextHop, TAGS_MAX, UNTIL_SHIFT, channel_key},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned};

use crate::{
    admission::within_rate,
    channels,
    forward::headers_len,
    frame::{Frame, HeadedFrame, Udp, UdpFrame},
    ip::{Ip, LeaveAs, Leaving},
    maps::{NEXT_HOPS, is_local_id, is_relay, local, locals, relayed_ports, seed, turn_port_be},
    rewrite::write,
    straight::egress,
};

/// The header of a client's data.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    pub number_be: [u8; 2],
    pub len_be: [u8; 2],
}

impl Header {
    /// How many bytes a message with this header has behind its data; more than it may, if it is shorter than it says.
    #[inline(always)]
    pub fn padding(self, message_len: usize) -> usize {
        message_len.wrapping_sub(size_of::<Self>() + usize::from(u16::from_be_bytes(self.len_be)))
    }
}

/// Over UDP there need be no padding, but there may be (RFC 8656, section 12.5).
const PADDING_MAX: usize = 3;

/// A UDP packet, as far as it is read.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct UdpPacket<I> {
    ip: I,
    udp: Udp,
}

/// What becomes of a packet that is not for the relay port.
#[inline(always)]
pub fn turn<const TAGS: usize, I>(ctx: &XdpContext, frame: &Frame<'_>) -> (Reason, Family)
where
    I: Ip + LeaveAs<<I as Ip>::Other>,
{
    let elsewhere = (Reason::OtherDestination, I::FAMILY);
    let server_port = turn_port_be();
    let Some(headers) = frame.prefix::<UdpFrame<TAGS, I>>() else { return elsewhere };
    if server_port == [0; 2] || !headers.ip.is_plain_udp() {
        return elsewhere;
    }
    let UdpFrame { ip, udp, .. } = headers;
    let port = u16::from_be_bytes(udp.destination_port_be);
    let from_client = udp.destination_port_be == server_port;
    let (first, last) = relayed_ports();
    if !from_client && (port < first || port > last) {
        return elsewhere;
    }
    let checksummed = I::CHECKSUM_OPTIONAL || udp.checksum_ne != [0; 2];
    let udp_len = usize::from(u16::from_be_bytes(udp.len_be));
    // What does not fit its header has none, nor has what stands behind a packet that is too short for one.
    let number = match frame.prefix::<HeadedFrame<TAGS, I, Header>>() {
        Some(HeadedFrame { rest, .. })
            if from_client && rest.padding(udp_len.wrapping_sub(size_of::<Udp>())) <= PADDING_MAX =>
        {
            u16::from_be_bytes(rest.number_be)
        }
        _ => 0,
    };
    let whole = udp_len >= size_of::<Udp>()
        && size_of::<I>() + udp_len == ip.packet_len()
        && size_of_val(headers) - size_of::<Udp>() + udp_len <= frame.len();
    let key = channel_key(ip.source(), u16::from_be_bytes(udp.source_port_be), port, number, seed());
    if whole
        && checksummed
        && from_client == (number != 0)
        && let Some(channel) = channels::find(key)
        && belongs(channel, ip, udp, number)
    {
        return forward::<TAGS, I>(ctx, headers, channel);
    }
    let reason = if is_relay(ip.destination()) { Reason::NoChannel } else { Reason::OtherDestination };
    (reason, I::FAMILY)
}

/// Whether the packet comes from where the channel's data comes from, and to where it goes.
#[inline(always)]
pub fn belongs<I: Ip>(channel: *mut Channel, ip: &I, udp: &Udp, number: u16) -> bool {
    // SAFETY: a map value stays readable as long as the program runs, and of a slot that is in use nothing of this changes.
    let channel = unsafe { &*channel };
    // What a peer sends has no number.
    let numbered = number == 0 || channel.number_be == number.to_be_bytes();
    numbered
        && u16::from(number != 0) == channel.from_client
        && channel.source_port_be == udp.source_port_be
        && channel.local_in_port_be == udp.destination_port_be
        && channel.source == ip.source()
        && locals().and_then(|locals| locals.get(usize::from(channel.local_in))) == Some(&ip.destination())
}

#[inline(always)]
fn forward<const TAGS: usize, I>(
    ctx: &XdpContext,
    headers: &UdpFrame<TAGS, I>,
    channel: *mut Channel,
) -> (Reason, Family)
where
    I: Ip + LeaveAs<<I as Ip>::Other>,
{
    // SAFETY: as in `belongs`; `until` is in a word that is always whole.
    let (next_hop, destination, until) = unsafe {
        let next_hop = (&raw const (*channel).next_hop).read_volatile();
        (next_hop, (*channel).destination, (&raw const (*channel).until).read_volatile())
    };
    if now() >= until {
        return (Reason::ChannelExpired, I::FAMILY);
    }
    if headers.ip.ttl() <= 1 {
        return (Reason::TtlExceeded, I::FAMILY);
    }
    let Some(next_hop) = NEXT_HOPS.get(next_hop.into()) else {
        return (Reason::NextHopUnresolved, I::FAMILY);
    };
    let packet = (&raw const headers.ip).cast::<UdpPacket<I>>();
    if I::is_family(destination) {
        return (moved::<I, I>(ctx.ctx, packet, channel, next_hop, TAGS), I::FAMILY);
    }
    let reason = moved::<I, I::Other>(ctx.ctx, packet, channel, next_hop, TAGS);
    (reason, if has_left(reason) { I::FAMILY_LEAVING } else { I::FAMILY })
}

/// Sends the data on. All that can fail comes before the first byte is written. `packet` lies in the frame, behind `tags`
/// VLAN tags.
#[inline(never)]
fn moved<I: LeaveAs<O>, O: Ip>(
    ctx: *mut xdp_md,
    packet: *const UdpPacket<I>,
    entry: *mut Channel,
    next_hop: &NextHop,
    tags: usize,
) -> Reason {
    let ctx = XdpContext::new(ctx);
    // SAFETY: as in `belongs`; the caller has found the packet in the frame, and the reference is used no more once the head
    // has moved.
    let (channel, packet) = unsafe { (&*entry, &*packet) };
    if !is_local_id(channel.local_out) {
        return Reason::NextHopUnresolved;
    }
    let tags_out = usize::from(next_hop.tag_count);
    if next_hop.mtu == 0 || tags_out > TAGS_MAX {
        return Reason::NextHopUnresolved;
    }
    if !O::CHECKSUM_OPTIONAL && packet.udp.checksum_ne == [0; 2] {
        return Reason::ToChecksum;
    }
    let from_client = channel.from_client != 0;
    let udp_at = headers_len::<I>(tags) as usize;
    let data = if from_client { of_client(&ctx, udp_at, &packet.udp) } else { of_peer(channel, &packet.udp) };
    let Some(Data { len, header, delta }) = data else { return Reason::NoChannel };
    let payload_len = size_of::<Udp>() + len + if from_client { 0 } else { size_of::<Header>() };
    if size_of::<O>() + payload_len > next_hop.mtu.into() {
        return Reason::ToFragment;
    }
    if channel.rate != 0 && !within_rate(channel.rate, from_client, len as u16) {
        return Reason::OverRateLimit;
    }
    let Some(sent) = egress_of_channel(&ctx, next_hop) else { return Reason::NoTxPort };
    // What is kept over the call is kept on the stack, so that is as little as can be.
    let (ip, came) = (packet.ip, packet.udp);
    let mut frame = Frame::of(&ctx);
    let before = udp_at + size_of::<Udp>() + if from_client { size_of::<Header>() } else { 0 };
    let after = headers_len::<O>(tags_out) as usize
        + size_of::<Udp>()
        + if from_client { 0 } else { size_of::<Header>() };
    if !frame.grow_head(after as i32 - before as i32) {
        return Reason::NoHeadroom;
    }
    // SAFETY: `entry` is a map value.
    let Some(local) = (unsafe { local(&raw const (*entry).local_out) }) else { return Reason::RewriteFailed };
    let Channel { destination, ip_delta, .. } = *channel;
    let ip: O = ip.leave_as(&Leaving { local, destination, ip_delta, payload_len });
    let udp = udp(channel, &came, payload_len, delta);
    let written = match (tags_out, from_client) {
        (0, true) => write::<0, O, [u8; 0]>(&mut frame, next_hop, ip, udp, []),
        (1, true) => write::<1, O, [u8; 0]>(&mut frame, next_hop, ip, udp, []),
        (_, true) => write::<2, O, [u8; 0]>(&mut frame, next_hop, ip, udp, []),
        (0, false) => write::<0, O, Header>(&mut frame, next_hop, ip, udp, header),
        (1, false) => write::<1, O, Header>(&mut frame, next_hop, ip, udp, header),
        (_, false) => write::<2, O, Header>(&mut frame, next_hop, ip, udp, header),
    };
    if !written {
        return Reason::RewriteFailed;
    }
    channels::count(entry, len);
    sent
}

/// Whether the data was sent on.
#[inline(always)]
pub fn has_left(reason: Reason) -> bool {
    matches!(reason, Reason::ChannelTx | Reason::ChannelRedirect)
}

/// As [`egress`].
#[inline(always)]
pub fn egress_of_channel(ctx: &XdpContext, next_hop: &NextHop) -> Option<Reason> {
    let way = egress(ctx, next_hop)?;
    Some(if way == Reason::ForwardedTx { Reason::ChannelTx } else { Reason::ChannelRedirect })
}

/// The data in a packet, and what is to be done for it beside the headers.
pub struct Data {
    /// Its length in bytes.
    pub len: usize,
    /// The header that goes before it to the client.
    pub header: Header,
    /// What the header, and padding, that come or go add to the UDP checksum.
    pub delta: u16,
}

/// What a client has sent behind this header, if nothing comes after it.
#[inline(always)]
pub fn without_header(header: Header) -> Data {
    let len = usize::from(u16::from_be_bytes(header.len_be));
    let delta =
        checksum::add(checksum::replace(header.number_be, [0; 2]), checksum::replace(header.len_be, [0; 2]));
    Data { len, header, delta }
}

/// What a client has sent.
#[inline(always)]
fn of_client(ctx: &XdpContext, udp_at: usize, udp: &Udp) -> Option<Data> {
    let message_len = usize::from(u16::from_be_bytes(udp.len_be)).wrapping_sub(size_of::<Udp>());
    let message_at = udp_at + size_of::<Udp>();
    let header: Header = load(ctx, message_at)?;
    let padding = header.padding(message_len);
    let Data { len, mut delta, .. } = without_header(header);
    if padding > 0 {
        // The last four bytes, the first of which may still be data or header.
        let last: [u8; 4] = load(ctx, message_at + message_len - 4)?;
        for (n, byte) in last.iter().enumerate() {
            if n + padding >= 4 {
                let in_word = if (message_len + n) % 2 == 0 { [*byte, 0] } else { [0, *byte] };
                delta = checksum::add(delta, checksum::replace(in_word, [0; 2]));
            }
        }
    }
    Some(Data { len, header, delta })
}

/// What a peer has sent.
#[inline(always)]
pub fn of_peer(channel: &Channel, udp: &Udp) -> Option<Data> {
    let len = usize::from(u16::from_be_bytes(udp.len_be)).wrapping_sub(size_of::<Udp>());
    let header = Header { number_be: channel.number_be, len_be: (len as u16).to_be_bytes() };
    let delta =
        checksum::add(checksum::replace([0; 2], header.number_be), checksum::replace([0; 2], header.len_be));
    // Longer than that it could not be sent with the header.
    (len <= usize::from(u16::MAX) - size_of::<Udp>() - size_of::<Header>()).then_some(Data {
        len,
        header,
        delta,
    })
}

/// The UDP header that the data leaves with. Its length counts twice: it is in the pseudo-header, too.
#[inline(always)]
pub fn udp(channel: &Channel, udp: &Udp, payload_len: usize, delta: u16) -> Udp {
    let len_be = (payload_len as u16).to_be_bytes();
    let longer = checksum::replace(udp.len_be, len_be);
    let delta = checksum::add(checksum::add(channel.udp_delta, delta), checksum::add(longer, longer));
    let checksum = u16::from_ne_bytes(udp.checksum_ne);
    // Zero is "no checksum", which IPv4 allows and which stays so.
    let checksum = if checksum == 0 { 0 } else { checksum::apply_udp(checksum, delta) };
    Udp {
        source_port_be: channel.local_out_port_be,
        destination_port_be: channel.destination_port_be,
        len_be,
        checksum_ne: checksum.to_ne_bytes(),
    }
}

/// Bytes of the frame at an offset that is not known before.
#[inline(always)]
fn load<T: FromBytes + IntoBytes>(ctx: &XdpContext, at: usize) -> Option<T> {
    let mut value = T::new_zeroed();
    // SAFETY: `value` has as many bytes as are asked for, and takes any.
    let failed =
        unsafe { bpf_xdp_load_bytes(ctx.ctx, at as u32, (&raw mut value).cast(), size_of::<T>() as u32) };
    (failed == 0).then_some(value)
}

/// The time as [`Channel::until`] has it. The verifier makes one load of it, where any other clock is a call.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a helper without arguments or conditions.
    (unsafe { bpf_jiffies64() } >> UNTIL_SHIFT) as u32
}

/// The time for userspace, which has no other way to learn it.
#[socket_filter]
pub fn ticks(_: SkBuffContext) -> i64 {
    now().into()
}
