//! The straight way for data of the TURN server's channels: untagged, without padding, with nothing in its way. As with
//! [`straight`](crate::straight), if anything is otherwise nothing has been changed, and `turn` finds out what it is. All of
//! it is inlined: where the kernel guards its returns a call costs as much as a look-up.

use aya_ebpf::programs::XdpContext;
use relay_ebpf::{
    reason::{Family, Reason},
    tables::{Channel, NextHop, channel_key},
};

use crate::{
    admission::within_rate,
    channels,
    frame::{Frame, HeadedFrame, Udp},
    ip::{Ip, LeaveAs, Leaving},
    maps::{NEXT_HOPS, is_local_id, local, relayed_ports, seed, turn_port_be},
    rewrite::write,
    turn::{Header, belongs, egress_of_channel, has_left, now, of_peer, udp, without_header},
};

/// Sends the data on, if it is such.
#[inline(always)]
pub fn straight_channel<I>(ctx: &XdpContext) -> Option<(Reason, Family)>
where
    I: Ip + LeaveAs<<I as Ip>::Other>,
{
    let server_port = turn_port_be();
    if server_port == [0; 2] {
        return None;
    }
    let frame = Frame::of(ctx);
    let headers = frame.prefix::<HeadedFrame<0, I, Header>>()?;
    let HeadedFrame { ethernet, ip, udp, rest } = headers;
    let udp_len = usize::from(u16::from_be_bytes(udp.len_be));
    let packet_len = size_of::<I>() + udp_len;
    let checksummed = I::CHECKSUM_OPTIONAL || udp.checksum_ne != [0; 2];
    if !ip.is_plain_udp()
        || udp_len < size_of::<Udp>()
        || packet_len != ip.packet_len()
        || size_of_val(ethernet) + packet_len > frame.len()
        || !checksummed
        || ip.ttl() <= 1
    {
        return None;
    }
    let port = u16::from_be_bytes(udp.destination_port_be);
    let (first, last) = relayed_ports();
    if udp.destination_port_be == server_port {
        let number = u16::from_be_bytes(rest.number_be);
        let is_data = number != 0 && rest.padding(udp_len - size_of::<Udp>()) == 0;
        if is_data { to_destination::<I, true>(ctx, headers, port, number) } else { None }
    } else if first <= port && port <= last {
        to_destination::<I, false>(ctx, headers, port, 0)
    } else {
        None
    }
}

#[inline(always)]
fn to_destination<I, const FROM_CLIENT: bool>(
    ctx: &XdpContext,
    headers: &HeadedFrame<0, I, Header>,
    port: u16,
    number: u16,
) -> Option<(Reason, Family)>
where
    I: Ip + LeaveAs<<I as Ip>::Other>,
{
    let HeadedFrame { ip, udp, .. } = headers;
    let key = channel_key(ip.source(), u16::from_be_bytes(udp.source_port_be), port, number, seed());
    let entry = channels::find(key)?;
    // SAFETY: as in `turn::belongs`; `until` and `next_hop` are in words that are always whole.
    let (channel, until, next_hop) = unsafe {
        let until = (&raw const (*entry).until).read_volatile();
        (&*entry, until, (&raw const (*entry).next_hop).read_volatile())
    };
    if !belongs(entry, ip, udp, number) || now() >= until {
        return None;
    }
    let next_hop = NEXT_HOPS.get(next_hop.into())?;
    if next_hop.tag_count != 0 {
        return None;
    }
    if I::is_family(channel.destination) {
        return send::<I, I, FROM_CLIENT>(ctx, headers, entry, next_hop).map(|reason| (reason, I::FAMILY));
    }
    let reason = send::<I, I::Other, FROM_CLIENT>(ctx, headers, entry, next_hop)?;
    Some((reason, if has_left(reason) { I::FAMILY_LEAVING } else { I::FAMILY }))
}

#[inline(always)]
fn send<I: LeaveAs<O>, O: Ip, const FROM_CLIENT: bool>(
    ctx: &XdpContext,
    headers: &HeadedFrame<0, I, Header>,
    entry: *mut Channel,
    next_hop: &NextHop,
) -> Option<Reason> {
    // SAFETY: as in `turn::belongs`. Neither this nor the headers are used any more once the head has moved.
    let channel = unsafe { &*entry };
    let HeadedFrame { ip, udp: came, rest, .. } = headers;
    let data = if FROM_CLIENT { without_header(*rest) } else { of_peer(channel, came)? };
    let payload_len = size_of::<Udp>() + data.len + if FROM_CLIENT { 0 } else { size_of::<Header>() };
    let checksummed = O::CHECKSUM_OPTIONAL || came.checksum_ne != [0; 2];
    let fits = size_of::<O>() + payload_len <= next_hop.mtu.into();
    if !checksummed || !fits || !is_local_id(channel.local_out) {
        return None;
    }
    let sent = egress_of_channel(ctx, next_hop)?;
    if channel.rate != 0 && !within_rate(channel.rate, FROM_CLIENT, data.len as u16) {
        return Some(Reason::OverRateLimit);
    }
    // What is kept over the call is kept on the stack, so that is as little as can be.
    let (ip, came) = (*ip, *came);
    let header = size_of::<Header>() as i32;
    let grows_by = size_of::<O>() as i32 - size_of::<I>() as i32 + if FROM_CLIENT { -header } else { header };
    let mut frame = Frame::of(ctx);
    if grows_by != 0 && !frame.grow_head(grows_by) {
        return Some(Reason::NoHeadroom);
    }
    // SAFETY: `entry` is a map value.
    let Some(local) = (unsafe { local(&raw const (*entry).local_out) }) else {
        return Some(Reason::RewriteFailed);
    };
    let Channel { destination, ip_delta, .. } = *channel;
    let ip: O = ip.leave_as(&Leaving { local, destination, ip_delta, payload_len });
    let udp = udp(channel, &came, payload_len, data.delta);
    let written = if FROM_CLIENT {
        write::<0, O, [u8; 0]>(&mut frame, next_hop, ip, udp, [])
    } else {
        write::<0, O, Header>(&mut frame, next_hop, ip, udp, data.header)
    };
    if !written {
        return Some(Reason::RewriteFailed);
    }
    channels::count(entry, data.len);
    Some(sent)
}
