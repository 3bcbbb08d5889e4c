//! What must become of a UDP packet that is not for the relay port: the rules of the TURN server's channels (RFC 8656,
//! section 12). What is no data of a channel, or can't leave here, is the server's.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use relay_ebpf::reason::Reason;

use super::{
    forward,
    model::{Datagram, Judgement, egress, leaving, takes, way_out},
    tables::{Channel, Direction, RELAYED, TURN_PORT, Tables},
};

/// Judges a datagram that has so many bytes before it that its frame may grow into.
pub fn judge<'a>(tables: &Tables, datagram: &Datagram, headroom: usize) -> Judgement<'a> {
    let port = datagram.udp.destination_port;
    let carried = match port {
        // No socket would take it.
        _ if datagram.lacks_checksum() => None,
        TURN_PORT => of_client(tables, datagram),
        _ => of_peer(tables, datagram),
    };
    match carried {
        Some(carried) => send_on(tables, datagram, &carried, headroom),
        None => Judgement::kept(passed(tables, datagram.destination, port), datagram.family()),
    }
}

/// Why something that is no data of a channel is passed on.
pub fn passed(tables: &Tables, destination: IpAddr, port: u16) -> Reason {
    let for_server = port == TURN_PORT || RELAYED.contains(&port);
    if for_server && tables.is_local(destination) { Reason::NoChannel } else { Reason::OtherDestination }
}

/// A ChannelData message (section 12.4).
struct ChannelData<'a> {
    number: u16,
    data: &'a [u8],
    /// Over UDP there need be none, but there may be as much as makes four bytes of one (section 12.5).
    padding: &'a [u8],
}

impl<'a> ChannelData<'a> {
    fn of(payload: &'a [u8]) -> Option<Self> {
        let (&number, rest) = payload.split_first_chunk()?;
        let (&length, rest) = rest.split_first_chunk()?;
        let (data, padding) = rest.split_at_checked(u16::from_be_bytes(length).into())?;
        (padding.len() < 4).then_some(Self { number: u16::from_be_bytes(number), data, padding })
    }
}

/// Data on its way through a channel.
struct Carried<'a> {
    direction: Direction,
    expired: bool,
    data_len: usize,
    /// What leaves behind the UDP header.
    payload: Cow<'a, [u8]>,
    /// What leaves behind the packet.
    padding: &'a [u8],
    /// Key of the relay address that it leaves from.
    local: u8,
    port: u16,
    to: SocketAddr,
    /// Key of the next hop.
    next_hop: u16,
    /// Whether its user has nothing left for it.
    over_rate: bool,
}

/// Data of a client leaves from the relayed address without its header (section 12.6).
fn of_client<'a>(tables: &Tables, datagram: &Datagram<'a>) -> Option<Carried<'a>> {
    let ChannelData { number, data, padding } = ChannelData::of(datagram.payload)?;
    let is_its = |channel: &&Channel| {
        (channel.client, channel.number) == (datagram.source, number)
            && tables.local(channel.server) == Some(datagram.destination)
    };
    let channel = tables.channels.iter().find(is_its)?;
    Some(Carried {
        direction: Direction::ToPeer(*channel),
        expired: channel.expired,
        data_len: data.len(),
        payload: Cow::Borrowed(data),
        padding,
        local: channel.relayed,
        port: channel.relayed_port,
        to: channel.peer,
        next_hop: channel.to_peer,
        over_rate: tables.rate(channel.rate).sent,
    })
}

/// Data of a peer leaves from the server's address with a header, and without padding (section 12.7).
fn of_peer<'a>(tables: &Tables, datagram: &Datagram<'a>) -> Option<Carried<'a>> {
    let is_its = |channel: &&Channel| {
        (channel.peer, channel.relayed_port) == (datagram.source, datagram.udp.destination_port)
            && tables.local(channel.relayed) == Some(datagram.destination)
    };
    let channel = tables.channels.iter().find(is_its)?;
    let data = datagram.payload;
    let length = u16::try_from(data.len()).expect("UDP has as many bits for it");
    Some(Carried {
        direction: Direction::ToClient(*channel),
        expired: channel.expired,
        data_len: data.len(),
        payload: Cow::Owned([&channel.number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()),
        padding: &[],
        local: channel.server,
        port: TURN_PORT,
        to: channel.client,
        next_hop: channel.to_client,
        over_rate: tables.rate(channel.rate).received,
    })
}

fn send_on<'a>(tables: &Tables, datagram: &Datagram, carried: &Carried, headroom: usize) -> Judgement<'a> {
    let family = datagram.family();
    let kept = |reason| Judgement::kept(reason, family);
    let to_ipv6 = carried.to.is_ipv6();
    if carried.expired {
        return kept(Reason::ChannelExpired);
    }
    if datagram.ttl <= 1 {
        return kept(Reason::TtlExceeded);
    }
    let Some((hop, local)) = way_out(tables, carried.next_hop, carried.local) else {
        return kept(Reason::NextHopUnresolved);
    };
    if to_ipv6 && datagram.udp.checksum == 0 {
        return kept(Reason::ToChecksum);
    }
    // Whether it may be fragmented or not: the server's packets to both sides are its own.
    if !takes(hop, carried.to, carried.payload.len()) {
        return kept(Reason::ToFragment);
    }
    if carried.over_rate {
        return kept(Reason::OverRateLimit);
    }
    let Some(reason) = egress(tables, hop, [Reason::ChannelTx, Reason::ChannelRedirect]) else {
        return kept(Reason::NoTxPort);
    };
    let from = SocketAddr::new(local, carried.port);
    let mut frame = forward::frame(datagram, hop, from, carried.to, &carried.payload);
    frame.extend(carried.padding);
    frame.extend(datagram.trailer);
    if frame.len() > datagram.frame_len() + headroom {
        return kept(Reason::NoHeadroom);
    }
    Judgement {
        frame: Some(frame),
        carried: Some((carried.direction, carried.data_len as u64)),
        ..Judgement::kept(reason, leaving(family, to_ipv6))
    }
}
