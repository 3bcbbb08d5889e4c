//! The oracle: what the relay must do with a frame, from the rules alone.
//!
//! It shares no code with the XDP program. It reads headers with etherparse, follows the rules in the order in which they
//! are written down, and makes a forwarded frame anew ([`super::forward`]) where the program patches the old one. The rules
//! of the TURN server's channels are in [`super::channels`].

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice, SingleVlanHeaderSlice, UdpHeader,
    UdpHeaderSlice,
};
use relay_ebpf::{
    event::{HANDSHAKE, NEW_SOURCE, TOO_BIG, TOO_BIG_QUOTE},
    reason::{Family, Reason},
};

use super::{
    channels, forward,
    tables::{Budget, Class, Direction, INGRESS, Listed, NextHop, PORT, Prefix, Session, Tables},
};

/// What has to become of a frame.
#[derive(Clone, Debug)]
pub struct Judgement<'a> {
    /// Why, and with it the verdict.
    pub reason: Reason,
    /// What it is counted under.
    pub family: Family,
    /// The frame as it leaves; `None` if it stays as it came.
    pub frame: Option<Vec<u8>>,
    /// What counts it, and as how many bytes: a session its UDP payload, a channel the data.
    pub carried: Option<(Direction, u64)>,
    /// What goes up, if the ring buffer and (all but handshakes) the rate limit allow it.
    pub event: Option<Raised<'a>>,
}

impl Judgement<'_> {
    /// It stays as it came, and nothing goes up.
    pub fn kept(reason: Reason, family: Family) -> Self {
        Self { reason, family, frame: None, carried: None, event: None }
    }
}

/// What goes up to userspace: the parts of [`relay_ebpf::event::Event`] that are defined.
#[derive(Clone, Copy, Debug)]
pub struct Raised<'a> {
    /// `HANDSHAKE`, `NEW_SOURCE` or `TOO_BIG`.
    pub kind: u32,
    /// Where the datagram came from.
    pub source: SocketAddr,
    /// Where it was sent to.
    pub local: IpAddr,
    /// Its TTL or hop limit.
    pub ttl: u8,
    /// `message_len`.
    pub message_len: usize,
    /// The bytes of `message` that are defined.
    pub message: &'a [u8],
}

/// A UDP datagram in a frame whose lengths fit together.
pub struct Datagram<'a> {
    /// The IP packet's headers as they came: 20 or 40 bytes.
    pub ip: &'a [u8],
    /// Ethernet header and VLAN tags, in bytes.
    pub link_len: usize,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it was sent to.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The UDP header as it came.
    pub udp: UdpHeader,
    /// The message.
    pub payload: &'a [u8],
    /// What stands behind the IP packet.
    pub trailer: &'a [u8],
}

impl Datagram<'_> {
    /// The family as received.
    pub fn family(&self) -> Family {
        if self.source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// Whether it has no checksum where it must have one (RFC 8200, section 8.1).
    pub fn lacks_checksum(&self) -> bool {
        self.source.is_ipv6() && self.udp.checksum == 0
    }

    /// The frame's length.
    pub fn frame_len(&self) -> usize {
        self.link_len + self.ip.len() + UDP_HEADER + self.payload.len() + self.trailer.len()
    }

    fn dont_fragment(&self) -> bool {
        self.source.is_ipv6() || Ipv4HeaderSlice::from_slice(self.ip).is_ok_and(|ip| ip.dont_fragment())
    }
}

/// A frame's end before it is known to be a datagram for the relay port.
type End = (Reason, Family);

/// Judges a frame that came in by [`INGRESS`] and has so many bytes before it that it may grow into.
pub fn judge<'a>(tables: &Tables, frame: &'a [u8], headroom: usize) -> Judgement<'a> {
    let datagram = match datagram(tables, frame) {
        Ok(datagram) => datagram,
        Err((reason, family)) => return Judgement::kept(reason, family),
    };
    if datagram.udp.destination_port != PORT {
        return channels::judge(tables, &datagram, headroom);
    }
    let shape = Shape::of(datagram.payload);
    let session = match shape {
        Some(Shape::Data(index)) => tables.sessions.get(&index).map(|session| (index, session)),
        _ => None,
    };
    match session {
        Some((index, session)) if !datagram.lacks_checksum() && is_of(tables, session, &datagram) => {
            send_on(tables, &datagram, index, session, headroom)
        }
        _ => keep(tables, &datagram, shape),
    }
}

/// A WireGuard message by its receiver index, if it has one (WireGuard paper, section 5.4).
#[derive(Clone, Copy)]
enum Shape {
    Initiation,
    Response(u32),
    Cookie(u32),
    Data(u32),
}

impl Shape {
    fn of(payload: &[u8]) -> Option<Self> {
        let word = |at: usize| payload.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
        match (word(0)?, payload.len()) {
            (1, 148) => Some(Self::Initiation),
            (2, 92) => Some(Self::Response(word(8)?)),
            (3, 64) => Some(Self::Cookie(word(4)?)),
            (4, 32..) => Some(Self::Data(word(4)?)),
            _ => None,
        }
    }
}

fn datagram<'a>(tables: &Tables, frame: &'a [u8]) -> Result<Datagram<'a>, End> {
    let (kind, packet) = link(frame)?;
    let link_len = frame.len() - packet.len();
    match kind {
        EtherType::IPV4 => ipv4(tables, packet, link_len),
        EtherType::IPV6 => ipv6(tables, packet, link_len),
        _ => Err((Reason::OtherProtocol, Family::Other)),
    }
}

/// The ethertype behind the VLAN tags, and what follows it.
fn link(frame: &[u8]) -> Result<(EtherType, &[u8]), End> {
    let malformed = (Reason::Malformed, Family::Other);
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).map_err(|_| malformed)?;
    let (mut kind, mut rest, mut tags) = (ethernet.ether_type(), &frame[ethernet.slice().len()..], 0);
    while [EtherType::VLAN_TAGGED_FRAME, EtherType::PROVIDER_BRIDGING].contains(&kind) {
        if tags == 2 {
            return Err((Reason::VlanTagged, Family::Other));
        }
        let tag = SingleVlanHeaderSlice::from_slice(rest).map_err(|_| malformed)?;
        (kind, rest, tags) = (tag.ether_type(), &rest[tag.slice().len()..], tags + 1);
    }
    Ok((kind, rest))
}

const UDP: u8 = 17;
/// Length of a UDP header.
pub const UDP_HEADER: usize = 8;
/// Data without content.
const KEEPALIVE: usize = 32;

fn ipv4<'a>(tables: &Tables, packet: &'a [u8], link_len: usize) -> Result<Datagram<'a>, End> {
    let end = |reason| (reason, Family::Ipv4);
    let mut fixed: [u8; 20] =
        packet.get(..20).and_then(|f| f.try_into().ok()).ok_or(end(Reason::Malformed))?;
    let options = fixed[0] & 0xf > 5;
    if options {
        // Whether they are there in full is not asked: what has options is passed on anyway.
        fixed[0] = fixed[0] & 0xf0 | 5;
    }
    let ip = Ipv4HeaderSlice::from_slice(&fixed).map_err(|_| end(Reason::Malformed))?;
    let destination = IpAddr::V4(ip.destination_addr());
    if ip.protocol().0 != UDP {
        return Err(end(Reason::OtherProtocol));
    }
    let source = IpAddr::V4(ip.source_addr());
    if options || ip.is_fragmenting_payload() {
        return Err(end(match tables.is_local(destination) {
            false => Reason::OtherDestination,
            true if options => admitted_or(tables, Reason::IpOptions, Some(SocketAddr::new(source, HIDDEN))),
            true if ip.fragments_offset().value() > 0 => Reason::Fragment,
            true => admitted_or(tables, Reason::Fragment, first_fragment(source, &packet[20..])),
        }));
    }
    let addresses = (source, destination);
    let total = usize::from(ip.total_len());
    udp(tables, packet, addresses, ip.ttl(), (20, total), link_len).map_err(end)
}

fn ipv6<'a>(tables: &Tables, packet: &'a [u8], link_len: usize) -> Result<Datagram<'a>, End> {
    /// Hop-by-hop options, routing, authentication, destination options, mobility, HIP, shim6 (RFC 7045).
    const EXTENSIONS: [u8; 7] = [0, 43, 51, 60, 135, 139, 140];
    const FRAGMENT: u8 = 44;
    let end = |reason| (reason, Family::Ipv6);
    let ip = Ipv6HeaderSlice::from_slice(packet).map_err(|_| end(Reason::Malformed))?;
    let (source, destination) = (ip.source_addr(), ip.destination_addr());
    if source.to_ipv4_mapped().is_some()
        || destination.to_ipv4_mapped().is_some()
        || destination.is_unspecified()
    {
        return Err(end(Reason::Malformed));
    }
    let (source, destination) = (IpAddr::V6(source), IpAddr::V6(destination));
    match ip.next_header().0 {
        UDP => {}
        FRAGMENT if tables.is_local(destination) => {
            // Next header, reserved, 13 bits of offset and three others, identification; then 8 bytes of UDP at least.
            let source = match &packet[40..] {
                [next, _, high, low, _, _, _, _, rest @ ..] if rest.len() >= UDP_HEADER => {
                    match (*next, u16::from_be_bytes([*high, *low]) >> 3) {
                        (UDP, 0) => first_fragment(source, rest),
                        (FRAGMENT, 0) => Some(SocketAddr::new(source, HIDDEN)),
                        (next, 0) if EXTENSIONS.contains(&next) => Some(SocketAddr::new(source, HIDDEN)),
                        _ => None,
                    }
                }
                _ => None,
            };
            return Err(end(admitted_or(tables, Reason::Fragment, source)));
        }
        next if EXTENSIONS.contains(&next) && tables.is_local(destination) => {
            return Err(end(admitted_or(tables, Reason::IpOptions, Some(SocketAddr::new(source, HIDDEN)))));
        }
        _ => return Err(end(Reason::OtherProtocol)),
    }
    let total = 40 + usize::from(ip.payload_length());
    udp(tables, packet, (source, destination), ip.hop_limit(), (40, total), link_len).map_err(end)
}

fn udp<'a>(
    tables: &Tables,
    packet: &'a [u8],
    (source, destination): (IpAddr, IpAddr),
    ttl: u8,
    (header, total): (usize, usize),
    link_len: usize,
) -> Result<Datagram<'a>, Reason> {
    /// The shortest message: transport data without content.
    const SHORTEST: usize = 32;
    let (ip, rest) = packet.split_at(header);
    let udp = UdpHeaderSlice::from_slice(rest).map_err(|_| Reason::Malformed)?.to_header();
    let length = usize::from(udp.length);
    let lengths_fit = length >= UDP_HEADER && header + length == total && total <= packet.len();
    if udp.destination_port != PORT {
        if !lengths_fit {
            return Err(channels::passed(tables, destination, udp.destination_port));
        }
    } else {
        let ours = tables.is_local(destination);
        let of_port = ours.then_some(SocketAddr::new(source, udp.source_port));
        if !lengths_fit {
            return Err(admitted_or(tables, Reason::Malformed, of_port));
        }
        if rest.len() - UDP_HEADER < SHORTEST {
            let reason = if ours { Reason::NotWireguard } else { Reason::OtherDestination };
            return Err(admitted_or(tables, reason, of_port));
        }
    }
    Ok(Datagram {
        ip,
        link_len,
        source: SocketAddr::new(source, udp.source_port),
        destination,
        ttl,
        udp,
        payload: &rest[UDP_HEADER..length],
        trailer: &rest[length..],
    })
}

/// The port of a source whose port can't be seen.
const HIDDEN: u16 = 0;

/// Where the first fragment of a datagram comes from, if that is for the relay port.
fn first_fragment(source: IpAddr, rest: &[u8]) -> Option<SocketAddr> {
    let udp = UdpHeaderSlice::from_slice(rest).ok()?.to_header();
    (udp.destination_port == PORT).then_some(SocketAddr::new(source, udp.source_port))
}

/// The reason, or why something from this source (if it matters) is not even admitted.
fn admitted_or(tables: &Tables, reason: Reason, source: Option<SocketAddr>) -> Reason {
    source.and_then(|source| admit(tables, source, Class::Bulk).err()).unwrap_or(reason)
}

/// Whether a packet is admitted, and then whether its source is known.
fn admit(tables: &Tables, source: SocketAddr, class: Class) -> Result<bool, Reason> {
    let used_up = |budget| tables.used_up.contains(&budget);
    if tables.endpoints.contains(&source) {
        return if used_up(Budget::Endpoint(source, class)) {
            Err(Reason::KnownOverBudget)
        } else {
            Ok(true)
        };
    }
    match listed(tables, source.ip()) {
        Listed::Denied => return Err(Reason::SourceDenied),
        Listed::NotAllowed => return Err(Reason::SourceNotAllowed),
        Listed::Allowed => {}
    }
    let network = match source.ip() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    };
    if used_up(Budget::Source(network, class)) {
        Err(Reason::SourceOverBudget)
    } else if used_up(Budget::Unknown(class)) {
        Err(Reason::UnknownOverBudget)
    } else {
        Ok(false)
    }
}

/// What the longest prefix says that the address is in.
fn listed(tables: &Tables, address: IpAddr) -> Listed {
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
    };
    let is_in = |prefix: &&Prefix| {
        prefix.address.is_ipv4() == address.is_ipv4()
            && bits(prefix.address)[..prefix.length.into()] == bits(address)[..prefix.length.into()]
    };
    let longest = tables.prefixes.iter().filter(is_in).max_by_key(|prefix| prefix.length);
    longest.map_or(Listed::Allowed, |prefix| prefix.verdict)
}

/// Whether the datagram comes from where the session's do, and was sent to where they are.
fn is_of(tables: &Tables, session: &Session, datagram: &Datagram) -> bool {
    session.source == datagram.source && tables.local(session.local_in) == Some(datagram.destination)
}

/// What is not forwarded: all but a session's own data.
fn keep<'a>(tables: &Tables, datagram: &Datagram<'a>, shape: Option<Shape>) -> Judgement<'a> {
    let raised = |kind, message: &'a [u8]| Raised {
        kind,
        source: datagram.source,
        local: datagram.destination,
        ttl: datagram.ttl,
        message_len: message.len(),
        message,
    };
    let end = |reason, event| Judgement { event, ..Judgement::kept(reason, datagram.family()) };
    if !tables.is_local(datagram.destination) {
        return end(Reason::OtherDestination, None);
    }
    let class = match shape {
        Some(Shape::Data(_)) if datagram.payload.len() == KEEPALIVE => Class::Signal,
        Some(Shape::Data(_)) | None => Class::Bulk,
        Some(_) => Class::Signal,
    };
    let known = match admit(tables, datagram.source, class) {
        Ok(known) => known,
        Err(reason) => return end(reason, None),
    };
    let room = !tables.ring_full && (known || !tables.ring_half_full);
    let copied = |copied, not_copied| match room {
        true => end(copied, Some(raised(HANDSHAKE, datagram.payload))),
        false => end(not_copied, None),
    };
    let own = |reason| end(reason, (!known && room).then(|| raised(NEW_SOURCE, &[])));
    if datagram.lacks_checksum() {
        return end(Reason::NoUdpChecksum, None);
    }
    match shape {
        None => end(Reason::NotWireguard, None),
        Some(Shape::Initiation) => copied(Reason::Initiation, Reason::InitiationNotCopied),
        Some(Shape::Response(index)) => match tables.pending.get(&index) {
            None => own(Reason::ResponseOwn),
            Some(&responder) if responder == datagram.source => {
                copied(Reason::Response, Reason::ResponseNotCopied)
            }
            Some(_) => end(Reason::ResponseWrongSource, None),
        },
        Some(Shape::Cookie(index)) => match (tables.pending.get(&index), tables.sessions.get(&index)) {
            (None, None) => own(Reason::CookieReplyOwn),
            (responder, session)
                if responder == Some(&datagram.source)
                    || session.is_some_and(|session| is_of(tables, session, datagram)) =>
            {
                copied(Reason::CookieReply, Reason::CookieReplyNotCopied)
            }
            _ => end(Reason::CookieReplyWrongSource, None),
        },
        Some(Shape::Data(index)) if tables.sessions.contains_key(&index) => {
            end(Reason::DataWrongSource, None)
        }
        Some(Shape::Data(_)) => own(Reason::DataOwn),
    }
}

/// A session's data, from here to its next hop.
fn send_on<'a>(
    tables: &Tables,
    datagram: &Datagram<'a>,
    index: u32,
    session: &Session,
    headroom: usize,
) -> Judgement<'a> {
    let family = datagram.family();
    let kept = |reason| Judgement::kept(reason, family);
    if datagram.ttl <= 1 {
        return kept(Reason::TtlExceeded);
    }
    let Some((hop, local)) = way_out(tables, session.next_hop, session.local_out) else {
        return kept(Reason::NextHopUnresolved);
    };
    let to_ipv6 = session.destination.is_ipv6();
    if to_ipv6 && datagram.udp.checksum == 0 {
        return kept(Reason::ToChecksum);
    }
    if !takes(hop, session.destination, datagram.payload.len()) {
        if !datagram.dont_fragment() {
            return kept(Reason::ToFragment);
        }
        let event = Raised {
            kind: TOO_BIG,
            source: datagram.source,
            local: datagram.destination,
            ttl: datagram.ttl,
            message_len: datagram.payload.len(),
            message: &datagram.payload[..TOO_BIG_QUOTE],
        };
        return Judgement { event: (!tables.ring_full).then_some(event), ..kept(Reason::TooBig) };
    }
    if tables.rate(session.sender_rate).sent || tables.rate(session.receiver_rate).received {
        return kept(Reason::OverRateLimit);
    }
    let Some(reason) = egress(tables, hop, [Reason::ForwardedTx, Reason::ForwardedRedirect]) else {
        return kept(Reason::NoTxPort);
    };
    let from = SocketAddr::new(local, PORT);
    let mut frame = forward::frame(datagram, hop, from, session.destination, datagram.payload);
    frame.extend(datagram.trailer);
    if frame.len() > datagram.frame_len() + headroom {
        return kept(Reason::NoHeadroom);
    }
    Judgement {
        frame: Some(frame),
        carried: Some((Direction::Session(index), datagram.payload.len() as u64)),
        ..Judgement::kept(reason, leaving(family, to_ipv6))
    }
}

/// The next hop and the relay address under these keys, if they are good for anything.
pub fn way_out(tables: &Tables, next_hop: u16, local: u8) -> Option<(&NextHop, IpAddr)> {
    let hop = tables.next_hops.get(&next_hop)?;
    let resolved = hop.mtu != 0 && usize::from(hop.tag_count) <= hop.tags.len();
    resolved.then_some(hop).zip(tables.local(local))
}

/// Whether a next hop takes a datagram with so many bytes of payload whole.
pub fn takes(hop: &NextHop, to: SocketAddr, payload_len: usize) -> bool {
    let header = if to.is_ipv6() { 40 } else { 20 };
    header + UDP_HEADER + payload_len <= usize::from(hop.mtu)
}

/// The first reason for what leaves by the interface that it came in by, the second for what leaves by another; `None` if
/// it can't.
pub fn egress(tables: &Tables, hop: &NextHop, [back, across]: [Reason; 2]) -> Option<Reason> {
    match hop.ifindex {
        INGRESS => Some(back),
        ifindex => tables.tx_ports.contains(&ifindex).then_some(across),
    }
}

/// What is counted under if it leaves.
pub fn leaving(received: Family, to_ipv6: bool) -> Family {
    match (received, to_ipv6) {
        (Family::Ipv4, true) => Family::Ipv4ToIpv6,
        (Family::Ipv6, false) => Family::Ipv6ToIpv4,
        (same, _) => same,
    }
}
