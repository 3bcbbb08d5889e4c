//! Frames: whole ones made from a grammar, nearly right in every way that the rules tell apart, and mutations of them.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use etherparse::UdpHeader;
use fastrand::Rng;

use super::{
    forward::udp_checksum,
    kernel::Room,
    tables::{Channel, PORT, RELAYED, TURN_PORT, Tables},
};

/// A frame as it comes in.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// The frame: at least 14 bytes, as BPF_PROG_TEST_RUN takes no less.
    pub frame: Vec<u8>,
    /// Metadata before the frame, in bytes, a multiple of four: it takes room that the frame could grow into.
    pub metadata: usize,
}

/// The longest frame that is made: with headroom and metadata it fits a page.
const LONGEST: usize = 3000;
/// How many of the last frames are there to be mutated.
const REMEMBERED: usize = 32;

/// Makes frames. What it makes depends on the tables and the generator alone.
pub struct Grammar {
    rng: Rng,
    room: Room,
    last: Vec<Vec<u8>>,
}

/// Whether something happens that does so in so many of a thousand cases.
fn chance(rng: &mut Rng, per_mille: u32) -> bool {
    rng.u32(..1000) < per_mille
}

fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

impl Grammar {
    /// One for frames that have this room before them.
    pub fn new(rng: Rng, room: Room) -> Self {
        Self { rng, room, last: Vec::new() }
    }

    /// The next frame.
    pub fn case(&mut self, tables: &Tables) -> Case {
        let rng = &mut self.rng;
        let mut frame = if self.last.len() == REMEMBERED && chance(rng, 150) {
            mutated(rng, &self.last)
        } else {
            let frame = Datagram::new(rng, tables).frame(rng);
            if self.last.len() < REMEMBERED {
                self.last.push(frame.clone());
            } else if chance(rng, 250) {
                self.last[rng.usize(..REMEMBERED)].clone_from(&frame);
            }
            frame
        };
        if chance(rng, 25) {
            frame.truncate(rng.usize(..=frame.len()));
        }
        frame.truncate(LONGEST);
        if frame.len() < 14 {
            frame.resize(14, 0);
        }
        // A multiple of four, mostly so large that it matters.
        let metadata = match rng.u32(..1000) {
            ..20 => self.room.metadata.saturating_sub(4 * rng.usize(..12)),
            20..25 => 4 * rng.usize(..=self.room.metadata / 4),
            _ => 0,
        };
        Case { frame, metadata }
    }
}

/// A UDP datagram that is to be put into a frame.
struct Datagram {
    source: SocketAddr,
    destination: SocketAddr,
    payload: Vec<u8>,
    /// As what it leaves if it is forwarded.
    leaves: Option<Leaves>,
}

#[derive(Clone, Copy)]
struct Leaves {
    from: SocketAddr,
    to: SocketAddr,
    header: Header,
}

/// What becomes of a channel's header.
#[derive(Clone, Copy)]
enum Header {
    None,
    Goes,
    Comes { number: u16 },
}

impl Header {
    /// The payload with which a datagram leaves.
    fn leaving(self, payload: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::None => Cow::Borrowed(payload),
            Self::Goes => match payload {
                [_, _, a, b, data @ ..] => {
                    let length = usize::from(u16::from_be_bytes([*a, *b]));
                    Cow::Borrowed(&data[..length.min(data.len())])
                }
                _ => Cow::Borrowed(&[]),
            },
            Self::Comes { number } => Cow::Owned(with_header(number, payload.len() as u16, payload)),
        }
    }
}

/// A ChannelData message (RFC 8656, section 12.4).
fn with_header(number: u16, length: u16, data: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

impl Datagram {
    fn new(rng: &mut Rng, tables: &Tables) -> Self {
        let mut this = match rng.u32(..100) {
            ..38 => Self::data(rng, tables),
            38..62 => Self::of_channel(rng, tables),
            62..68 => Self::answer(rng, tables, 2, 92, 8),
            68..78 => Self::answer(rng, tables, 3, 64, 4),
            kind => {
                let (word, len) = match kind {
                    78..86 => (1, 148),
                    86..88 => (2, 92),
                    88..90 => (3, 64),
                    90..97 => (4, rng.usize(32..160)),
                    _ => (rng.u32(..6), rng.usize(..200)),
                };
                let (source, local) = (source(rng, tables), local(rng, tables));
                Self::message(rng, word, len, None).sent(like(rng, source, local), local)
            }
        };
        this.disturb(rng, tables);
        this
    }

    fn message(rng: &mut Rng, word: u32, len: usize, index: Option<(usize, u32)>) -> Self {
        let mut payload = vec![0; len];
        rng.fill(&mut payload);
        let mut put = |at: usize, word: u32| {
            if let Some(field) = payload.get_mut(at..at + 4) {
                field.copy_from_slice(&word.to_le_bytes());
            }
        };
        put(0, word);
        if let Some((at, index)) = index {
            put(at, index);
        }
        let nowhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        Self { source: nowhere, destination: nowhere, payload, leaves: None }
    }

    fn sent(mut self, source: SocketAddr, local: IpAddr) -> Self {
        (self.source, self.destination) = (source, SocketAddr::new(local, PORT));
        self
    }

    /// What a session carries.
    fn data(rng: &mut Rng, tables: &Tables) -> Self {
        let Some((&index, session)) = rng.choice(&tables.sessions) else {
            let (source, local) = (source(rng, tables), local(rng, tables));
            return Self::message(rng, 4, 32, Some((4, 0))).sent(source, local);
        };
        let mtu = tables.next_hops.get(&session.next_hop).map_or(0, |hop| usize::from(hop.mtu));
        let header = if session.destination.is_ipv4() { 28 } else { 48 };
        let len = match rng.u32(..100) {
            ..12 if mtu > header + 33 => mtu - header - 1 + rng.usize(..3),
            ..14 => rng.usize(1200..1500),
            14..40 => one_of(rng, &[31, 32, 33, 63, 64, 65, 91, 92, 93, 147, 148, 149, 48]),
            _ => 32 + 16 * rng.usize(..6),
        };
        let mut this = Self::message(rng, 4, len, Some((4, index)));
        let to = tables.local(session.local_in).unwrap_or_else(|| local(rng, tables));
        this.leaves = leaves(tables, session.local_out, PORT, session.destination, Header::None);
        this.sent(session.source, to)
    }

    /// What a channel carries.
    fn of_channel(rng: &mut Rng, tables: &Tables) -> Self {
        match rng.choice(&tables.channels) {
            Some(channel) if rng.bool() => Self::of_client(rng, tables, channel),
            Some(channel) => Self::of_peer(rng, tables, channel),
            None => Self::data(rng, tables),
        }
    }

    /// What its client sends: sometimes under a number that is not its own, or longer or shorter than it says.
    fn of_client(rng: &mut Rng, tables: &Tables, channel: &Channel) -> Self {
        let data = content(rng, tables, channel.to_peer, channel.peer, 0);
        let number = match rng.u32(..40) {
            0 => rng.choice(&tables.channels).map_or(0, |other| other.number),
            1 => one_of(rng, &[0, channel.number.swap_bytes(), channel.number ^ 0x8000, 0x3fff, 0x5000]),
            _ => channel.number,
        };
        let length = match rng.u32(..40) {
            0 => data.len().wrapping_sub(rng.usize(1..9)),
            1 => data.len() + rng.usize(1..9),
            _ => data.len(),
        };
        let mut payload = with_header(number, length as u16, &data);
        let padding = match rng.u32(..40) {
            ..20 => 0,
            20..28 => payload.len().next_multiple_of(4) - payload.len(),
            28..38 => rng.usize(1..4),
            _ => rng.usize(4..9),
        };
        payload.extend((0..padding).map(|_| rng.u8(..)));
        let local = tables.local(channel.server).unwrap_or_else(|| local(rng, tables));
        Self {
            source: channel.client,
            destination: SocketAddr::new(local, TURN_PORT),
            payload,
            leaves: leaves(tables, channel.relayed, channel.relayed_port, channel.peer, Header::Goes),
        }
    }

    /// What its peer sends.
    fn of_peer(rng: &mut Rng, tables: &Tables, channel: &Channel) -> Self {
        let payload = content(rng, tables, channel.to_client, channel.client, 4);
        let local = tables.local(channel.relayed).unwrap_or_else(|| local(rng, tables));
        let header = Header::Comes { number: channel.number };
        Self {
            source: channel.peer,
            destination: SocketAddr::new(local, channel.relayed_port),
            payload,
            leaves: leaves(tables, channel.server, TURN_PORT, channel.client, header),
        }
    }

    /// A response or a cookie reply within a handshake or a session.
    fn answer(rng: &mut Rng, tables: &Tables, word: u32, len: usize, index_at: usize) -> Self {
        let pending = rng.choice(&tables.pending).map(|(&index, &source)| (index, source, None));
        let session = rng.choice(&tables.sessions);
        let session = session.map(|(&index, session)| (index, session.source, Some(session.local_in)));
        let (first, second) = if rng.bool() { (pending, session) } else { (session, pending) };
        let Some((index, source, local_in)) = first.or(second) else { return Self::data(rng, tables) };
        let to = local_in.and_then(|key| tables.local(key)).unwrap_or_else(|| {
            let fits = |local: &&IpAddr| local.is_ipv4() == source.is_ipv4();
            let locals: Vec<_> = tables.locals.values().filter(fits).copied().collect();
            rng.choice(locals).unwrap_or_else(|| local(rng, tables))
        });
        Self::message(rng, word, len, Some((index_at, index))).sent(source, to)
    }

    /// Makes it nearly right.
    fn disturb(&mut self, rng: &mut Rng, tables: &Tables) {
        if chance(rng, 30) {
            self.source.set_port(match rng.u32(..3) {
                0 => self.source.port().swap_bytes(),
                1 => self.source.port().wrapping_add(1),
                _ => rng.u16(..),
            });
        }
        if chance(rng, 30) {
            self.source = source(rng, tables);
        }
        if chance(rng, 20) {
            self.source.set_ip(nearly(rng, self.source.ip()));
        }
        if chance(rng, 30) {
            self.destination.set_ip(local(rng, tables));
        }
        if chance(rng, 30) {
            self.destination.set_ip(nearly(rng, self.destination.ip()));
        }
        if chance(rng, 20) {
            let (port, first, last) = (self.destination.port(), *RELAYED.start(), *RELAYED.end());
            let near = [port.swap_bytes(), port.wrapping_add(1), port.wrapping_sub(1), 0];
            let others = [PORT, TURN_PORT, first - 1, first, last, last + 1];
            self.destination.set_port(if rng.bool() { one_of(rng, &near) } else { one_of(rng, &others) });
        }
        if chance(rng, 40) && self.payload.len() >= 12 {
            let at = one_of(rng, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 11]);
            self.payload[at] ^= 1 << rng.u32(..8);
        }
        if chance(rng, 30) {
            self.payload.resize((self.payload.len() + rng.usize(..3)).saturating_sub(1), 0xa5);
        }
        if chance(rng, 8) {
            self.payload.truncate(rng.usize(..40));
        }
        match (self.source.ip(), self.destination.ip()) {
            // IPv6 that must not pass for the IPv4 that it spells.
            (IpAddr::V4(from), IpAddr::V4(to)) if chance(rng, 10) => {
                self.source.set_ip(from.to_ipv6_mapped().into());
                self.destination.set_ip(to.to_ipv6_mapped().into());
            }
            (IpAddr::V6(_), IpAddr::V6(_)) if chance(rng, 20) => {
                let odd = odd_ipv6(rng, tables).into();
                if rng.bool() { self.source.set_ip(odd) } else { self.destination.set_ip(odd) }
            }
            _ => {}
        }
        self.source = like(rng, self.source, self.destination.ip());
    }

    /// Chooses content for which the right checksum, as the datagram comes or as it leaves, is the one that is special.
    fn aim_at_zero(&mut self, rng: &mut Rng) {
        let Some(word) = self.payload.get_mut(20..22) else { return };
        word.fill(0);
        let checksum = match self.leaves {
            Some(Leaves { from, to, header }) if rng.bool() => {
                checksum(from, to, &header.leaving(&self.payload))
            }
            _ => checksum(self.source, self.destination, &self.payload),
        };
        self.payload[20..22].copy_from_slice(&checksum.to_be_bytes());
    }

    fn frame(mut self, rng: &mut Rng) -> Vec<u8> {
        let mut frame = Vec::with_capacity(self.payload.len() + 128);
        for _ in 0..12 {
            frame.push(rng.u8(..));
        }
        for _ in 0..one_of(rng, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3]) {
            let others = [0x9100u16, 0x9200, 0x88a9];
            let tpid = if chance(rng, 30) { one_of(rng, &others) } else { one_of(rng, &[0x8100, 0x88a8]) };
            frame.extend(tpid.to_be_bytes());
            frame.extend(rng.u16(..).to_be_bytes());
        }
        let kind: u16 = if self.destination.is_ipv4() { 0x0800 } else { 0x86dd };
        let others = [0x0806, 0x0800, 0x86dd, 0x8847, 100, 0x88cc];
        frame.extend((if chance(rng, 10) { one_of(rng, &others) } else { kind }).to_be_bytes());
        if chance(rng, 20) {
            self.aim_at_zero(rng);
        }
        let mut udp = Vec::with_capacity(8 + self.payload.len());
        udp.extend(self.source.port().to_be_bytes());
        udp.extend(self.destination.port().to_be_bytes());
        let mut length = 8 + self.payload.len() as u16;
        if chance(rng, 15) {
            length = one_of(
                rng,
                &[
                    0,
                    7,
                    8,
                    11,
                    12,
                    39,
                    40,
                    length.wrapping_sub(1),
                    length.wrapping_add(1),
                    length.wrapping_add(8),
                    0xffff,
                ],
            );
        }
        udp.extend(length.to_be_bytes());
        let checksum = match rng.u32(..100) {
            ..70 => checksum(self.source, self.destination, &self.payload),
            70..83 => 0,
            83..90 => one_of(rng, &[1, 0xffff, 0xfffe, 0x8000]),
            _ => rng.u16(..),
        };
        udp.extend(checksum.to_be_bytes());
        udp.extend(&self.payload);
        // A wrong length is wrong in both headers, or in this one alone.
        let claimed = if rng.bool() { usize::from(length) } else { udp.len() };
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ipv4(rng, &mut frame, [from.octets(), to.octets()], claimed);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ipv6(rng, &mut frame, [from.octets(), to.octets()], claimed);
            }
            _ => unreachable!("`like` gave both one family"),
        }
        frame.extend(udp);
        if chance(rng, 120) {
            let trailer = frame.len();
            frame.resize(trailer + rng.usize(1..64), 0);
            rng.fill(&mut frame[trailer..]);
        }
        frame
    }
}

/// Data for a channel, of which so many bytes of header leave; often about as much as its next hop takes.
fn content(rng: &mut Rng, tables: &Tables, next_hop: u16, to: SocketAddr, header: usize) -> Vec<u8> {
    let mtu = tables.next_hops.get(&next_hop).map_or(0, |hop| usize::from(hop.mtu));
    let headers = header + if to.is_ipv4() { 28 } else { 48 };
    let len = match rng.u32(..100) {
        ..12 if mtu > headers && mtu < LONGEST => mtu - headers - 1 + rng.usize(..3),
        ..14 => rng.usize(1200..1500),
        14..40 => one_of(rng, &[0, 1, 2, 3, 4, 5, 31, 32, 33]),
        _ => rng.usize(..160),
    };
    let mut data = vec![0; len];
    rng.fill(&mut data);
    data
}

/// The checksum that a datagram should have.
fn checksum(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> u16 {
    let (source_port, destination_port) = (from.port(), to.port());
    let udp = UdpHeader { source_port, destination_port, length: 8 + payload.len() as u16, checksum: 0 };
    udp_checksum(&udp, (from.ip(), to.ip()), payload)
}

/// How something leaves from the relay address under this key, if it can.
fn leaves(tables: &Tables, local: u8, port: u16, to: SocketAddr, header: Header) -> Option<Leaves> {
    let local = tables.local(local).filter(|local| local.is_ipv4() == to.is_ipv4())?;
    Some(Leaves { from: SocketAddr::new(local, port), to, header })
}

fn ttl(rng: &mut Rng) -> u8 {
    match rng.u32(..100) {
        ..2 => 0,
        2..4 => 1,
        4..10 => 2,
        10..60 => 64,
        60..70 => 255,
        _ => rng.u8(..),
    }
}

fn wrong_length(rng: &mut Rng, length: u16) -> u16 {
    if chance(rng, 980) {
        return length;
    }
    one_of(
        rng,
        &[
            0,
            19,
            20,
            28,
            40,
            length.wrapping_sub(1),
            length.wrapping_add(1),
            length.wrapping_add(8),
            length.wrapping_add(20),
            0xffff,
        ],
    )
}

/// An IPv4 header for so many bytes.
fn ipv4(rng: &mut Rng, frame: &mut Vec<u8>, [from, to]: [[u8; 4]; 2], len: usize) {
    let words = if chance(rng, 40) { rng.usize(6..=15) } else { 5 };
    let mut header = vec![0; 4 * words];
    header[0] = 0x40 | words as u8;
    header[1] = rng.u8(..);
    let total = wrong_length(rng, (header.len() + len) as u16);
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[4..6].copy_from_slice(&rng.u16(..).to_be_bytes());
    // Reserved, DF, MF, 13 bits of offset.
    let mut fragment: u16 = if rng.bool() { 0x4000 } else { 0 };
    if chance(rng, 30) {
        fragment |= 0x8000;
    }
    if chance(rng, 40) {
        fragment |= one_of(rng, &[0x2000, 0x0001, 0x1000, 0x2001, 0x00b9, 0x1fff]);
    }
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[8] = ttl(rng);
    header[9] = if chance(rng, 15) { one_of(rng, &[1, 6, 16, 18, 41, 50, 132, 136]) } else { 17 };
    header[12..16].copy_from_slice(&from);
    header[16..20].copy_from_slice(&to);
    rng.fill(&mut header[20..]);
    if chance(rng, 10) {
        header[0] = one_of(rng, &[0x44, 0x40, 0x65, 0x05, 0x55, 0xf5, 0x4f, 0x46]);
    }
    let right = etherparse::checksum::Sum16BitWords::new().add_slice(&header).ones_complement().to_be();
    let checksum = match rng.u32(..100) {
        ..85 => right,
        85..92 => one_of(rng, &[0, 0xffff, !right, 1]),
        _ => rng.u16(..),
    };
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(header);
}

/// An IPv6 header, sometimes with an extension header, for so many bytes.
fn ipv6(rng: &mut Rng, frame: &mut Vec<u8>, [from, to]: [[u8; 16]; 2], len: usize) {
    let first = (6 << 28) | (rng.u32(..) >> 4);
    let first = if chance(rng, 10) { rng.u32(..) } else { first };
    frame.extend(first.to_be_bytes());
    let extension = chance(rng, 50).then(|| one_of(rng, &[0, 43, 44, 51, 60, 135, 139, 140, 44, 50, 59]));
    let mut next = extension.unwrap_or(17);
    if chance(rng, 10) {
        next = rng.u8(..);
    }
    let length = wrong_length(rng, (len + if extension.is_some() { 8 } else { 0 }) as u16);
    frame.extend(length.to_be_bytes());
    frame.extend([next, ttl(rng)]);
    frame.extend(from);
    frame.extend(to);
    if extension.is_some() {
        frame.extend([17, 0, 0, rng.u8(..) & 1, 0, 0, 0, 0]);
    }
}

/// Some source that the tables know, or none does.
fn source(rng: &mut Rng, tables: &Tables) -> SocketAddr {
    let known = match rng.u32(..6) {
        0 => rng.choice(&tables.endpoints).copied(),
        1 => rng.choice(tables.pending.values()).copied(),
        2 => rng.choice(tables.sessions.values()).map(|session| session.source),
        3 => rng.choice(&tables.channels).map(|channel| channel.client),
        4 => rng.choice(&tables.channels).map(|channel| channel.peer),
        _ => None,
    };
    let unknown = |rng: &mut Rng| SocketAddr::new(IpAddr::V4([203, 0, 113, rng.u8(..)].into()), rng.u16(1..));
    known.unwrap_or_else(|| unknown(rng))
}

fn local(rng: &mut Rng, tables: &Tables) -> IpAddr {
    rng.choice(tables.locals.values()).copied().unwrap_or(IpAddr::V4([192, 0, 2, 1].into()))
}

/// The source, or if it is of another family than the destination, some that isn't.
fn like(rng: &mut Rng, source: SocketAddr, destination: IpAddr) -> SocketAddr {
    if source.is_ipv4() == destination.is_ipv4() {
        return source;
    }
    let address = match destination {
        IpAddr::V4(_) => IpAddr::V4(rng.u32(..).into()),
        IpAddr::V6(_) => IpAddr::V6(rng.u128(..).into()),
    };
    SocketAddr::new(address, source.port())
}

/// An IPv6 address that is, or is nearly, one that no packet may carry.
fn odd_ipv6(rng: &mut Rng, tables: &Tables) -> Ipv6Addr {
    let mapped = match local(rng, tables) {
        IpAddr::V4(local) => local.to_ipv6_mapped(),
        IpAddr::V6(_) => Ipv4Addr::from(rng.u32(..)).to_ipv6_mapped(),
    };
    match rng.u32(..8) {
        0 => Ipv6Addr::UNSPECIFIED,
        1 => Ipv6Addr::from(1 << rng.u32(..128)),
        2..5 => mapped,
        _ => Ipv6Addr::from(u128::from(mapped) ^ 1 << rng.u32(32..128)),
    }
}

/// The address with one bit turned.
fn nearly(rng: &mut Rng, address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) ^ 1 << rng.u32(..32)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) ^ 1 << rng.u32(..128)).into()),
    }
}

/// One of the frames, changed without regard to what it means.
fn mutated(rng: &mut Rng, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = frames[rng.usize(..frames.len())].clone();
    for _ in 0..rng.usize(1..4) {
        // Mostly in the headers.
        let reach = if chance(rng, 700) { frame.len().min(90) } else { frame.len() };
        let at = rng.usize(..reach.max(1)).min(frame.len().saturating_sub(1));
        match rng.u32(..10) {
            _ if frame.is_empty() => {}
            ..4 => frame[at] ^= 1 << rng.u32(..8),
            4..6 => frame[at] = one_of(rng, &[0, 1, 0x7f, 0x80, 0xff, 4, 6, 17]),
            6 => frame.truncate(at),
            7 => frame.extend(vec![rng.u8(..); rng.usize(..40)]),
            8 => {
                // The tail of another frame, at the same place or not.
                let other = &frames[rng.usize(..frames.len())];
                let from = if rng.bool() { at } else { rng.usize(..=other.len()) };
                frame.truncate(at);
                frame.extend(&other[from.min(other.len())..]);
            }
            _ => {
                let to = (at + rng.usize(1..9)).min(frame.len());
                let part = frame[at..to].to_vec();
                if rng.bool() { frame.splice(at..at, part).for_each(drop) } else { drop(frame.drain(at..to)) }
            }
        }
    }
    frame
}
