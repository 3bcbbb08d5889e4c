//! The program with its maps, filled as a relay's would be.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
};

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, PerCpuValues, RingBuf, xdp::DevMapHash},
    programs::{SocketFilter, Xdp},
};
use relay_ebpf::{
    checksum::{TTL_DECREMENT, add, delta},
    event::Event,
    reason::{Family, Reason, counter_index},
    tables::{
        self, Address, Budgets, Channel, Counter, Endpoint, HINT_NEW_SOURCE, HINT_TOO_BIG, Known, LOCALS_MAX,
        Locals, NextHop, Rate, Session, Source, TAGS_MAX,
    },
};
use relay_tests::{
    channels::Channels,
    sessions::{SEED, Sessions, constants_with_turn},
};
use relay_user::ticks::Ticks;
use zerocopy::FromBytes as _;

use crate::datagram::Datagram;

/// The relay port.
pub const PORT: u16 = 51820;
/// The port of the TURN server.
pub const TURN_PORT: u16 = 3478;
/// The ports of its relayed addresses.
pub const RELAYED: std::ops::RangeInclusive<u16> = 50_000..=50_099;
/// The interface that frames come in by: BPF_PROG_TEST_RUN takes the loopback device when it is told of no other.
pub const INGRESS: u32 = 1;
/// An interface that frames can be redirected to. (A test run does not carry the redirection out.)
const ACROSS_IFINDEX: u32 = 7;
/// An interface that takes no redirected frames.
const NOWHERE_IFINDEX: u32 = 9;
/// Directions of sessions that there is room for.
const DIRECTIONS: u32 = 64;
/// MTU of every next hop, in bytes.
pub const MTU: u16 = 1400;
/// The MAC addresses of frames that come in.
pub const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
pub const RELAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

/// Keys in `NEXT_HOPS`.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub enum Hop {
    Unresolved = 0,
    /// Out by the interface that the frame came in by.
    Back = 1,
    /// Out by another.
    Across = 2,
    /// Out by one that is not in `TX_PORTS`.
    Nowhere = 3,
    /// As `Back`, with an 802.1Q tag.
    BackTagged = 4,
    /// As `Across`, with an 802.1Q tag in an 802.1ad one.
    AcrossTwiceTagged = 5,
    /// More tags than there can be.
    TooManyTags = 6,
}

impl Hop {
    const ALL: [Self; 7] = [
        Self::Unresolved,
        Self::Back,
        Self::Across,
        Self::Nowhere,
        Self::BackTagged,
        Self::AcrossTwiceTagged,
        Self::TooManyTags,
    ];

    /// The VLAN tags of what leaves.
    pub fn tags(self) -> Vec<[u8; 4]> {
        match self {
            Self::BackTagged => vec![[0x81, 0, 0x61, 0x23]],
            Self::AcrossTwiceTagged => vec![[0x88, 0xa8, 0x2f, 0xff], [0x81, 0, 0xe0, 1]],
            _ => vec![],
        }
    }

    /// What becomes of a packet that nothing is wrong with.
    pub fn reason(self) -> Reason {
        match self {
            Self::Unresolved | Self::TooManyTags => Reason::NextHopUnresolved,
            Self::Back | Self::BackTagged => Reason::ForwardedTx,
            Self::Across | Self::AcrossTwiceTagged => Reason::ForwardedRedirect,
            Self::Nowhere => Reason::NoTxPort,
        }
    }

    /// The next hop's MAC address and the relay's own on that link.
    pub fn macs(self) -> [[u8; 6]; 2] {
        [[2, 0, 0, 1, 0, self as u8], [2, 0, 0, 2, 0, self as u8]]
    }

    /// What stands in `NEXT_HOPS`.
    pub fn entry(self) -> NextHop {
        let [destination_mac, source_mac] = self.macs();
        let (ifindex, mtu) = match self {
            Self::Unresolved => (INGRESS, 0),
            Self::Back | Self::BackTagged | Self::TooManyTags => (INGRESS, MTU),
            Self::Across | Self::AcrossTwiceTagged => (ACROSS_IFINDEX, MTU),
            Self::Nowhere => (NOWHERE_IFINDEX, MTU),
        };
        let mut tags = [[0xee; 4]; TAGS_MAX];
        tags.iter_mut().zip(self.tags()).for_each(|(to, tag)| *to = tag);
        let tag_count = if matches!(self, Self::TooManyTags) { 3 } else { self.tags().len() as u16 };
        NextHop { ifindex, mtu, tag_count, destination_mac, source_mac, tags, reserved: 0 }
    }
}

/// Who takes part, in one family. What the receiver indices mean is the same in both.
#[derive(Clone, Copy, Debug)]
pub struct Hosts {
    pub family: Family,
    pub relay: SocketAddr,
    /// A second address of the relay's.
    pub relay_too: SocketAddr,
    /// Sends in all sessions; a known endpoint.
    pub alice: SocketAddr,
    /// What alice sends is for bob; the expected responder of the pending handshake.
    pub bob: SocketAddr,
    /// No known endpoint.
    pub stranger: SocketAddr,
    /// Not the relay, though the port is the relay port.
    pub elsewhere: SocketAddr,
    indices: u32,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

const fn v6(subnet: u16, host: u16, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, host)), port)
}

pub const IPV4: Hosts = Hosts {
    family: Family::Ipv4,
    relay: v4(192, 0, 2, 1, PORT),
    relay_too: v4(192, 0, 2, 2, PORT),
    alice: v4(198, 51, 100, 10, 40_001),
    bob: v4(203, 0, 113, 20, 40_002),
    stranger: v4(203, 0, 113, 66, 40_003),
    elsewhere: v4(192, 0, 2, 99, PORT),
    indices: 0x0a40_0000,
};

pub const IPV6: Hosts = Hosts {
    family: Family::Ipv6,
    relay: v6(0, 1, PORT),
    relay_too: v6(0, 2, PORT),
    alice: v6(0xa, 0x10, 40_001),
    bob: v6(0xb, 0x20, 40_002),
    stranger: v6(0xc, 0x66, 40_003),
    elsewhere: v6(0, 0x99, PORT),
    indices: 0xf060_0000,
};

pub const FAMILIES: [Hosts; 2] = [IPV4, IPV6];

/// The relay's addresses, by their key in `LOCALS`.
const LOCALS: [SocketAddr; 4] = [IPV4.relay, IPV6.relay, IPV4.relay_too, IPV6.relay_too];

impl Hosts {
    /// Alice's session with bob by this next hop.
    pub fn session(&self, hop: Hop) -> u32 {
        self.indices + hop as u32
    }

    /// The session whose data leaves from the relay's second address.
    pub fn session_by_relay_too(&self) -> u32 {
        self.indices + 0x10
    }

    /// Alice's session by this next hop with the bob of these hosts, who may be of the other family.
    pub fn session_to(&self, to: &Self, hop: Hop) -> u32 {
        if to.family == self.family { self.session(hop) } else { self.indices + 0x40 + hop as u32 }
    }

    /// Those of the other family.
    pub fn other(&self) -> Self {
        if self.family == Family::Ipv4 { IPV6 } else { IPV4 }
    }

    /// The sender index of alice's initiation that bob may answer.
    pub fn pending(&self) -> u32 {
        self.indices + 0x20
    }

    /// An index that stands for nothing.
    pub fn unknown(&self) -> u32 {
        self.indices + 0x30
    }

    /// A datagram as it comes in. Traffic class, identification and flow label are what no default has, so that a test
    /// that compares whole frames sees whether they were kept.
    pub fn datagram(&self, source: SocketAddr, payload: Vec<u8>) -> Datagram {
        Datagram {
            source_mac: SENDER_MAC,
            destination_mac: RELAY_MAC,
            source,
            destination: self.relay,
            tags: vec![],
            traffic_class: 0xba,
            flow_label: 0xabcde,
            identification: 0x1234,
            dont_fragment: true,
            ttl: 64,
            payload,
        }
    }

    /// The datagram from alice as it is sent on to bob.
    pub fn sent_on(&self, received: &Datagram, hop: Hop) -> Datagram {
        let [destination_mac, source_mac] = hop.macs();
        Datagram {
            source_mac,
            destination_mac,
            source: self.relay,
            destination: self.bob,
            tags: hop.tags(),
            ttl: received.ttl - 1,
            ..received.clone()
        }
    }

    /// The datagram from alice as it is sent on to the bob of these hosts, who may be of the other family.
    pub fn sent_on_to(&self, to: &Self, received: &Datagram, hop: Hop) -> Datagram {
        if to.family == self.family {
            return self.sent_on(received, hop);
        }
        to.sent_on(
            &Datagram { flow_label: 0, identification: 0, dont_fragment: true, ..received.clone() },
            hop,
        )
    }
}

/// An entry of `SESSIONS`.
pub fn session(
    index: u32,
    source: SocketAddr,
    local_in: SocketAddr,
    local_out: SocketAddr,
    to: SocketAddr,
    hop: Hop,
) -> Session {
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let port = |address: SocketAddr| address.port().to_be_bytes();
    let key = |local| LOCALS.iter().position(|&l| l == local).unwrap() as u8;
    // Zeros add nothing to a sum: they fill up the shorter addresses.
    let addresses = |a, b| {
        let mut both = [octets(a), octets(b)].concat();
        both.resize(32, 0);
        both
    };
    let addresses = delta(&addresses(source, local_in), &addresses(local_out, to));
    let ports = delta(&[port(source), port(local_in)].concat(), &[port(local_out), port(to)].concat());
    let ip_delta = if source.is_ipv4() && to.is_ipv4() { add(addresses, TTL_DECREMENT) } else { 0 };
    let udp_delta = add(addresses, ports);
    Session {
        source: source.ip().into(),
        destination: to.ip().into(),
        packets: 0,
        sender_rate: 0,
        receiver_rate: 0,
        bytes: 0,
        source_port_be: port(source),
        destination_port_be: port(to),
        ip_delta,
        udp_delta,
        next_hop: hop as u16,
        local_in: key(local_in),
        local_out: key(local_out),
        index,
    }
}

/// One direction of a TURN channel. `number` is 0 in what comes from a peer, as far as its key goes.
pub fn channel(
    [source, local_in, local_out, to]: [SocketAddr; 4],
    number: u16,
    from_client: bool,
    hop: Hop,
    until: u32,
) -> Channel {
    let session = session(0, source, on_relay_port(local_in), on_relay_port(local_out), to, hop);
    let (ip_delta, udp_delta) = (session.ip_delta, session.udp_delta);
    // The session's delta has the relay port where the channel has others.
    let ports = |address: SocketAddr| address.port().to_be_bytes();
    let relay_port = PORT.to_be_bytes();
    let udp_delta = add(udp_delta, delta(&relay_port, &ports(local_out)));
    let udp_delta = add(udp_delta, delta(&ports(local_in), &relay_port));
    Channel {
        key: tables::channel_key(
            source.ip().into(),
            source.port(),
            local_in.port(),
            if from_client { number } else { 0 },
            SEED,
        ),
        source: session.source,
        destination: session.destination,
        source_port_be: session.source_port_be,
        local_in_port_be: local_in.port().to_be_bytes(),
        local_out_port_be: local_out.port().to_be_bytes(),
        destination_port_be: session.destination_port_be,
        ip_delta,
        udp_delta,
        next_hop: hop as u16,
        local_in: session.local_in,
        local_out: session.local_out,
        until,
        number_be: number.to_be_bytes(),
        from_client: from_client.into(),
        packets: 0,
        bytes: 0,
        rate: 0,
        reserved: [0; 23],
    }
}

fn on_relay_port(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), PORT)
}

/// What a packet did.
pub struct Ran {
    /// The program's return value.
    pub verdict: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// The counters that moved, and by how much.
    pub counted: Vec<(Reason, Family, Counter)>,
    /// The sessions whose counters moved, by receiver index.
    pub sessions: Vec<(u32, Counter)>,
    /// The events that it raised.
    pub events: Vec<Event>,
}

/// A relay of its own: nothing of it is pinned or attached, so tests can run side by side.
pub struct Relay {
    ebpf: Ebpf,
    channels: Channels,
    sessions: Sessions,
    /// Those that are open.
    indices: Vec<u32>,
    events: RingBuf<MapData>,
}

impl Relay {
    /// The time as the program has it.
    pub fn ticks(&mut self) -> Ticks {
        Ticks::read(&mut self.ebpf).unwrap()
    }

    /// Loads the program and fills its maps for [`FAMILIES`].
    pub fn new() -> Self {
        let config = constants_with_turn(PORT, DIRECTIONS, TURN_PORT, RELAYED);
        let mut ebpf = EbpfLoader::new()
            .override_global(tables::CONFIG, &config, true)
            .map_max_entries(tables::SESSIONS, tables::slots(DIRECTIONS))
            .map_max_entries(tables::LEDGER, 64)
            .map_max_entries(tables::PENDING, 64)
            .map_max_entries(tables::ENDPOINTS, 64)
            .map_max_entries(tables::EVENTS, 4096)
            .load(relay_user::object::object().unwrap())
            .unwrap();
        let program: &mut Xdp = ebpf.program_mut("wgrelay").unwrap().try_into().unwrap();
        program.load().unwrap();
        let events = RingBuf::try_from(ebpf.take_map(tables::EVENTS).unwrap()).unwrap();
        let sessions = Sessions::take(&mut ebpf, DIRECTIONS);
        let channels = Channels::take(&mut ebpf);
        let mut this = Self { ebpf, channels, sessions, indices: Vec::new(), events };
        let mut locals = [Address::UNSPECIFIED; LOCALS_MAX as usize];
        locals.iter_mut().zip(LOCALS).for_each(|(address, local)| *address = local.ip().into());
        this.locals().set(0, Locals(locals), 0).unwrap();
        for hop in Hop::ALL {
            this.next_hop(hop, hop.entry());
        }
        this.tx_ports().insert(ACROSS_IFINDEX, INGRESS, None, 0).unwrap();
        for hosts in FAMILIES {
            let (other, Hosts { relay, relay_too, alice, bob, .. }) = (hosts.other(), hosts);
            for hop in Hop::ALL {
                this.open(&session(hosts.session(hop), alice, relay, relay, bob, hop));
                let index = hosts.session_to(&other, hop);
                this.open(&session(index, alice, relay, other.relay, other.bob, hop));
            }
            this.open(&session(hosts.session_by_relay_too(), alice, relay, relay_too, bob, Hop::Back));
            this.pending().insert(hosts.pending(), Endpoint::from(bob), 0).unwrap();
            this.endpoints()
                .insert(Endpoint::from(alice), Known { member: 1, ..Known::default() }, 0)
                .unwrap();
        }
        this
    }

    /// Runs the program on one frame.
    pub fn run(&mut self, frame: &[u8]) -> Ran {
        self.run_behind(0, frame)
    }

    /// Whether this kernel takes a frame with so many bytes of metadata before it: old ones take 32 at most.
    pub fn takes_metadata(&self, metadata: usize) -> bool {
        let input = vec![0; metadata + 64];
        let md = [metadata as u32, input.len() as u32, 0, INGRESS, 0, 0].map(u32::to_ne_bytes).concat();
        let options =
            TestRunOptions { data_in: Some(&input), ctx_in: Some(&md), ..TestRunOptions::default() };
        self.program().test_run(options).is_ok()
    }

    /// Runs the program on one frame with so many bytes of metadata before it, which take from the room that a driver
    /// leaves there.
    pub fn run_behind(&mut self, metadata: usize, frame: &[u8]) -> Ran {
        let (counters, sessions) = (self.counters(), self.sessions());
        let input = [&vec![0xdd; metadata], frame].concat();
        // As `struct xdp_md`: where the frame begins and ends, where metadata begins, the ingress interface, queue 0, no
        // egress.
        let md = [metadata as u32, input.len() as u32, 0, INGRESS, 0, 0].map(u32::to_ne_bytes).concat();
        let mut out = vec![0xee; input.len() + 64];
        let ran = self
            .program()
            .test_run(TestRunOptions {
                data_in: Some(&input),
                data_out: Some(&mut out),
                ctx_in: Some(&md),
                ..TestRunOptions::default()
            })
            .unwrap();
        out.truncate(ran.data_size_out as usize);
        out.drain(..metadata);
        Ran {
            verdict: ran.return_value,
            frame: out,
            counted: std::iter::zip(counters, self.counters())
                .filter(|(before, after)| before != after)
                .map(|((reason, family, before), (_, _, after))| (reason, family, minus(after, before)))
                .collect(),
            sessions: std::iter::zip(sessions, self.sessions())
                .filter(|(before, after)| before != after)
                .map(|((index, before), (_, after))| (index, minus(after, before)))
                .collect(),
            events: self.events(),
        }
    }

    /// The events that are waiting.
    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.next().map(|item| Event::read_from_bytes(&item).unwrap())).collect()
    }

    /// Fills the ring buffer with copies of an initiation, and gives how many went in. None of them is taken out
    /// before [`Self::events`] or [`Self::run`] is called.
    pub fn fill_events(&mut self) -> usize {
        let frame = IPV4.datagram(IPV4.alice, crate::datagram::initiation(1)).frame();
        let refused = |relay: &Self| relay.counter(Reason::InitiationNotCopied, Family::Ipv4).packets;
        let before = refused(self);
        let goes_in = |_: &i32| {
            self.verdict(&frame);
            refused(self) == before
        };
        (0..1000).take_while(goes_in).count()
    }

    /// Runs the program on one frame, looking at nothing but the verdict.
    pub fn verdict(&self, frame: &[u8]) -> u32 {
        self.program()
            .test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() })
            .unwrap()
            .return_value
    }

    pub fn program(&self) -> &Xdp {
        self.ebpf.program("wgrelay").unwrap().try_into().unwrap()
    }

    pub fn program_mut(&mut self) -> &mut Xdp {
        self.ebpf.program_mut("wgrelay").unwrap().try_into().unwrap()
    }

    /// Puts the socket filter of this name on a socket.
    pub fn filter(&mut self, name: &str, socket: &impl AsFd) {
        let filter: &mut SocketFilter = self.ebpf.program_mut(name).unwrap().try_into().unwrap();
        filter.load().unwrap();
        filter.attach(socket).unwrap();
    }

    /// One counter, all CPUs together.
    pub fn counter(&self, reason: Reason, family: Family) -> Counter {
        let counters: PerCpuArray<_, Counter> = self.ebpf.map(tables::COUNTERS).unwrap().try_into().unwrap();
        counters.get(&counter_index(reason, family), 0).unwrap().iter().fold(
            Counter::default(),
            |sum, one| Counter { packets: sum.packets + one.packets, bytes: sum.bytes + one.bytes },
        )
    }

    fn counters(&self) -> Vec<(Reason, Family, Counter)> {
        let pairs = Reason::ALL.iter().flat_map(|&r| Family::ALL.iter().map(move |&f| (r, f)));
        pairs.map(|(reason, family)| (reason, family, self.counter(reason, family))).collect()
    }

    fn sessions(&self) -> Vec<(u32, Counter)> {
        let read = |&index: &u32| {
            let Session { packets, bytes, .. } = self.sessions.get(index).unwrap().unwrap();
            (index, Counter { packets: packets.into(), bytes })
        };
        self.indices.iter().map(read).collect()
    }

    pub fn open(&mut self, session: &Session) {
        self.sessions.insert(session).unwrap();
        self.indices.push(session.index);
    }

    /// Puts a direction of a channel into the table.
    pub fn bind(&mut self, channel: &Channel) {
        self.channels.insert(channel).unwrap();
    }

    /// What a direction of a channel has carried.
    pub fn carried(&self, key: u64) -> Counter {
        let Channel { packets, bytes, .. } = self.channels.get(key).unwrap().unwrap();
        Counter { packets, bytes }
    }

    pub fn next_hop(&mut self, hop: Hop, entry: NextHop) {
        let mut next_hops: Array<_, NextHop> =
            self.ebpf.map_mut(tables::NEXT_HOPS).unwrap().try_into().unwrap();
        next_hops.set(hop as u32, entry, 0).unwrap();
    }

    pub fn pending(&mut self) -> HashMap<&mut MapData, u32, Endpoint> {
        self.ebpf.map_mut(tables::PENDING).unwrap().try_into().unwrap()
    }

    pub fn endpoints(&mut self) -> HashMap<&mut MapData, Endpoint, Known> {
        self.ebpf.map_mut(tables::ENDPOINTS).unwrap().try_into().unwrap()
    }

    pub fn sources(&mut self) -> HashMap<&mut MapData, Address, Source> {
        self.ebpf.map_mut(tables::SOURCES).unwrap().try_into().unwrap()
    }

    pub fn budgets(&mut self) -> Array<&mut MapData, Budgets> {
        self.ebpf.map_mut(tables::BUDGETS).unwrap().try_into().unwrap()
    }

    pub fn prefixes(&mut self) -> LpmTrie<&mut MapData, [u8; 20], u64> {
        self.ebpf.map_mut(tables::PREFIXES).unwrap().try_into().unwrap()
    }

    pub fn rates(&mut self) -> Array<&mut MapData, Rate> {
        self.ebpf.map_mut(tables::RATES).unwrap().try_into().unwrap()
    }

    /// When each CPU last had its turn by this key of `HINTS`, ns since boot.
    pub fn hints(&self, key: u32) -> PerCpuValues<u64> {
        let hints: PerCpuArray<_, u64> = self.ebpf.map(tables::HINTS).unwrap().try_into().unwrap();
        hints.get(&key, 0).unwrap()
    }

    /// Makes it so that no CPU has raised a hint yet.
    pub fn forget_hints(&mut self) {
        for key in [HINT_NEW_SOURCE, HINT_TOO_BIG] {
            let never = PerCpuValues::try_from(vec![0; self.hints(key).len()]).unwrap();
            self.set_hints(key, never);
        }
    }

    pub fn set_hints(&mut self, key: u32, times: PerCpuValues<u64>) {
        let mut hints: PerCpuArray<_, u64> = self.ebpf.map_mut(tables::HINTS).unwrap().try_into().unwrap();
        hints.set(key, times, 0).unwrap();
    }

    fn locals(&mut self) -> Array<&mut MapData, Locals> {
        self.ebpf.map_mut(tables::LOCALS).unwrap().try_into().unwrap()
    }

    pub fn tx_ports(&mut self) -> DevMapHash<&mut MapData> {
        self.ebpf.map_mut(tables::TX_PORTS).unwrap().try_into().unwrap()
    }
}

fn minus(after: Counter, before: Counter) -> Counter {
    Counter { packets: after.packets - before.packets, bytes: after.bytes - before.bytes }
}
