//! The real program in the kernel: tables in, frames through BPF_PROG_TEST_RUN, and out comes what it did.
//!
//! aya's `TestRun` allocates for each call; a run is a million calls, so the system call is made here, with buffers that stay.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, Map, MapData, RingBuf, lpm_trie::Key, xdp::DevMapHash},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use relay_ebpf::{
    bucket::{Bucket, LONGEST_NS},
    event::Event,
    reason::{COUNTERS_LEN, Family, Reason, counter_index},
    tables::{
        self, Address, Buckets, Budgets, Costs, Counter, Endpoint, HINTS_LEN, Known, LOCALS_MAX, Locals,
        NextHop, Rate, RateBuckets, Session, Source,
    },
};
use relay_user::{clock, ticks::Ticks};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use super::{
    pace::now,
    tables::{Budget, Class, Direction, INGRESS, Listed, PORT, Prefix, RELAYED, TURN_PORT, Tables},
};
use crate::{
    affinity::{last, pin},
    channels::Channels,
    sessions::{Sessions, constants_with_turn},
    xdp_pass,
};

/// Capacity of the hash maps of a run, in entries.
const ENTRIES: u32 = 256;
/// Directions of sessions that a run has room for: few, so that they stand close to each other.
const DIRECTIONS: u32 = 64;
/// Size of the ring buffer of a run, in bytes: some 19 records.
const EVENTS_BYTES: u32 = 4096;
/// Records that fill half of it; each takes eight bytes more than an event.
const HALF: usize = (EVENTS_BYTES as usize / 2).div_ceil(size_of::<Event>() + 8);
/// What anything costs: so little that no budget is ever used up.
const COST: u64 = 1;
/// Room for what a frame may grow, and more, in bytes.
const OUTPUT: usize = 8192;

/// The loaded program. Nothing of it is pinned or attached.
pub struct Kernel {
    ebpf: Ebpf,
    sessions: Sessions,
    channels: Channels,
    events: RingBuf<MapData>,
    program: RawFd,
    counters: RawFd,
    hints: RawFd,
    cpus: usize,
    room: Room,
    input: Vec<u8>,
    output: Vec<u8>,
    filled: Tables,
    ticks: Ticks,
    /// What was run to fill the ring buffer up again: not to be counted.
    fillers: Counter,
}

/// A bucket that stays full enough, or one that stays empty for some seconds, longer than any batch takes.
fn bucket(used_up: bool) -> Bucket {
    Bucket { full_at_ns: if used_up { now() + LONGEST_NS - 1_000_000_000 } else { 0 } }
}

/// How long a channel lasts that does not end: longer than any test.
const LASTING: Duration = Duration::from_secs(600);

impl Prefix {
    fn key(&self) -> Key<[u8; 20]> {
        let of_family = if self.address.is_ipv4() { 96 } else { 0 };
        let mut data = [0; 20];
        data[4..].copy_from_slice(&match self.address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        });
        Key::new(32 + of_family + u32::from(self.length), data)
    }
}

/// The room before the frames of a run, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// How much a frame without metadata may grow. Metadata takes as much from it as it is long.
    pub headroom: usize,
    /// The most metadata that a frame may have. Kernels before 6.10 or so take 32 bytes, later ones what fits.
    pub metadata: usize,
}

impl Room {
    /// The most that metadata may leave of the headroom for a frame that shall not find enough to grow: the longer header of
    /// IPv6, two VLAN tags and a channel's header.
    const GROWTH: usize = 20 + 2 * 4 + 4;

    /// Whether a frame can have so much metadata that it may not grow any more.
    pub fn can_be_too_little(self) -> bool {
        self.headroom < self.metadata + Self::GROWTH
    }
}

/// How much a frame without metadata may grow: the kernel itself is asked, by a program that does nothing but move a
/// frame's head.
fn measure_headroom() -> Result<usize> {
    let grows = |by: usize| -> Result<bool> {
        // `r2 = -by; r0 = bpf_xdp_adjust_head(r1, r2); exit` (Documentation/bpf/standardization/instruction-set.rst).
        let [a, b, c, d] = (-(by as i32)).to_ne_bytes();
        let instructions =
            [[0xb7, 2, 0, 0, a, b, c, d], [0x85, 0, 0, 0, 44, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
        let mut loaded = xdp_pass::load(&instructions)?;
        let program = xdp_pass::program(&mut loaded);
        let frame = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::default() };
        Ok(program.test_run(frame).context("run a frame")?.return_value == 0)
    };
    // What fits, and what does not: the page before a frame is not longer.
    let (mut fits, mut not) = (0, 4096_usize);
    while not - fits > 1 {
        let middle = fits.midpoint(not);
        *(if grows(middle)? { &mut fits } else { &mut not }) = middle;
    }
    Ok(fits)
}

/// What the kernel did with a frame.
pub struct Ran<'a> {
    /// The program's return value.
    pub verdict: u32,
    /// The frame afterwards.
    pub frame: &'a [u8],
}

impl Kernel {
    /// Loads the program from its object file ([`relay_user::object::object`] holds the one that this binary was built
    /// with), and ties this thread to a CPU, since the program limits events by CPU.
    pub fn load(object: &[u8]) -> Result<Self> {
        pin(last()?)?;
        let config = constants_with_turn(PORT, DIRECTIONS, TURN_PORT, RELAYED);
        let mut loader = EbpfLoader::new();
        loader.override_global(tables::CONFIG, &config, true).map_max_entries(tables::EVENTS, EVENTS_BYTES);
        loader.map_max_entries(tables::SESSIONS, tables::slots(DIRECTIONS));
        for map in [tables::LEDGER, tables::PENDING, tables::ENDPOINTS] {
            loader.map_max_entries(map, ENTRIES);
        }
        let mut ebpf = loader.load(object).context("load the XDP program (root is needed)")?;
        let program: &mut Xdp = ebpf.program_mut("wgrelay").context("no program `wgrelay`")?.try_into()?;
        program.load().context("verify the XDP program")?;
        let program = program.fd()?.as_fd().as_raw_fd();
        let events = RingBuf::try_from(ebpf.take_map(tables::EVENTS).context("no map EVENTS")?)?;
        let (counters, hints) = (per_cpu(&ebpf, tables::COUNTERS)?, per_cpu(&ebpf, tables::HINTS)?);
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error).context("count the CPUs")?;
        let ticks = Ticks::read(&mut ebpf)?;
        let sessions = Sessions::take(&mut ebpf, DIRECTIONS);
        let channels = Channels::take(&mut ebpf);
        let (input, output) = (Vec::new(), vec![0; OUTPUT]);
        let filled = Tables::default();
        let mut this = Self {
            ebpf,
            sessions,
            channels,
            events,
            program,
            counters,
            hints,
            cpus,
            room: Room { headroom: measure_headroom()?, metadata: 0 },
            input,
            output,
            filled,
            ticks,
            fillers: Counter::default(),
        };
        // Some kernels take more of it than they would leave room for.
        let most = this.room.headroom.min(252) / 4;
        let takes = |metadata: &usize| this.run(&[0; 64], *metadata).is_ok();
        this.room.metadata = (0..=most).rev().map(|words| 4 * words).find(takes).context("run a frame")?;
        Ok(this)
    }

    /// What this kernel leaves before a frame.
    pub fn room(&self) -> Room {
        self.room
    }

    /// Makes the maps hold this and nothing else, forgets when events went up, and empties or fills the ring buffer.
    pub fn install(&mut self, tables: &Tables) -> Result<()> {
        self.events();
        if tables.ring_full {
            self.fill_ring(EVENTS_BYTES as usize / size_of::<Event>() + 1)?;
        } else if tables.ring_half_full {
            self.fill_ring(HALF)?;
        }
        let before = std::mem::take(&mut self.filled);
        before.sessions.keys().try_for_each(|index| self.sessions.remove(*index))?;
        for (index, session) in &tables.sessions {
            self.sessions.insert(&tables.session_entry(*index, session))?;
        }
        for channel in &before.channels {
            let [of_client, of_peer] = before.channel_entries(channel, 0);
            self.channels.remove(of_client.key)?;
            self.channels.remove(of_peer.key)?;
        }
        for channel in &tables.channels {
            // What ends now is over for all frames to come: the ticks do not go back.
            let lasts = if channel.expired { Duration::ZERO } else { LASTING };
            let until = self.ticks.by(clock::monotonic() + lasts);
            let [of_client, of_peer] = tables.channel_entries(channel, until);
            self.channels.insert(&of_client)?;
            self.channels.insert(&of_peer)?;
        }
        let mut pending: HashMap<_, u32, Endpoint> = self.map(tables::PENDING)?.try_into()?;
        before.pending.keys().try_for_each(|index| pending.remove(index))?;
        for (index, responder) in &tables.pending {
            pending.insert(index, Endpoint::from(*responder), 0)?;
        }
        self.install_admission(&before, tables)?;
        let mut rates: Array<_, Rate> = self.map(tables::RATES)?.try_into()?;
        for key in before.rates.keys() {
            rates.set((*key).into(), Rate::default(), 0)?;
        }
        for (key, rate) in &tables.rates {
            // One packet a second more than there may be: the bucket of packets alone decides.
            let buckets = |used_up| RateBuckets { packets: bucket(used_up), bytes: bucket(false) };
            let (sent, received) = (buckets(rate.sent), buckets(rate.received));
            let rate = Rate { member: 1, packet_cost: COST, byte_cost: COST, sent, received };
            rates.set((*key).into(), rate, 0)?;
        }
        let mut next_hops: Array<_, NextHop> = self.map(tables::NEXT_HOPS)?.try_into()?;
        for key in before.next_hops.keys() {
            next_hops.set((*key).into(), NextHop::new_zeroed(), 0)?;
        }
        for (key, hop) in &tables.next_hops {
            next_hops.set((*key).into(), hop.entry(), 0)?;
        }
        let mut tx_ports: DevMapHash<_> = self.map(tables::TX_PORTS)?.try_into()?;
        before.tx_ports.iter().try_for_each(|&ifindex| tx_ports.remove(ifindex))?;
        for ifindex in &tables.tx_ports {
            // A test run does not carry the redirection out, so any device will do.
            tx_ports.insert(*ifindex, INGRESS, None, 0)?;
        }
        let mut locals: Array<_, Locals> = self.map(tables::LOCALS)?.try_into()?;
        locals.set(0, tables.locals_entry(), 0)?;
        self.filled = tables.clone();
        self.forget_hints()
    }

    /// What decides on admission.
    fn install_admission(&mut self, before: &Tables, tables: &Tables) -> Result<()> {
        let buckets = |budget: fn(SocketAddr, Class) -> Budget, of: SocketAddr| Buckets {
            signal: bucket(tables.used_up.contains(&budget(of, Class::Signal))),
            bulk: bucket(tables.used_up.contains(&budget(of, Class::Bulk))),
        };
        let mut endpoints: HashMap<_, Endpoint, Known> = self.map(tables::ENDPOINTS)?.try_into()?;
        before.endpoints.iter().try_for_each(|&endpoint| endpoints.remove(&endpoint.into()))?;
        for (member, endpoint) in (0..).zip(&tables.endpoints) {
            let known = Known { member, buckets: buckets(Budget::Endpoint, *endpoint) };
            endpoints.insert(Endpoint::from(*endpoint), known, 0)?;
        }
        // Sources come by themselves.
        let mut sources: HashMap<_, Address, Source> = self.map(tables::SOURCES)?.try_into()?;
        let gone: Vec<_> = sources.keys().collect::<Result<_, _>>()?;
        gone.iter().try_for_each(|source| sources.remove(source))?;
        let of_source =
            |budget: &Budget| if let Budget::Source(address, _) = budget { Some(*address) } else { None };
        for address in tables.used_up.iter().filter_map(of_source) {
            let buckets = buckets(|of, class| Budget::Source(of.ip(), class), SocketAddr::new(address, 0));
            sources.insert(Address::from(address), Source { buckets, ..Source::default() }, 0)?;
        }
        let costs = Costs { signal: COST, bulk: COST };
        let budgets = Budgets {
            member: costs,
            relay: costs,
            source: costs,
            unknown: costs,
            buckets: buckets(|_, class| Budget::Unknown(class), SocketAddr::new([0; 4].into(), 0)),
        };
        let mut all: Array<_, Budgets> = self.map(tables::BUDGETS)?.try_into()?;
        all.set(0, budgets, 0)?;
        let mut prefixes: LpmTrie<_, [u8; 20], u64> = self.map(tables::PREFIXES)?.try_into()?;
        before.prefixes.iter().try_for_each(|prefix| prefixes.remove(&prefix.key()))?;
        for prefix in &tables.prefixes {
            let verdict = match prefix.verdict {
                Listed::Allowed => tables::ALLOWED,
                Listed::NotAllowed => tables::NOT_ALLOWED,
                Listed::Denied => tables::DENIED,
            };
            prefixes.insert(&prefix.key(), verdict, 0)?;
        }
        Ok(())
    }

    /// Fills the ring buffer with copies of an initiation that nobody takes out: so many, or as many as there is room for.
    /// Tells how many bytes their frames have.
    fn fill_ring(&mut self, records: usize) -> Result<u64> {
        let (relay, host) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        let mut frame = Vec::new();
        let mut message = [0; 148];
        message[0] = 1;
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(host, relay, 64)
            .udp(PORT, PORT)
            .write(&mut frame, &message)?;
        let mut locals: Array<_, Locals> = self.map(tables::LOCALS)?.try_into()?;
        locals.set(0, Locals([std::net::Ipv4Addr::from(relay).into(); LOCALS_MAX as usize]), 0)?;
        // Half of it is for known hosts.
        let host = Endpoint::from(SocketAddr::from((host, PORT)));
        let mut endpoints: HashMap<_, Endpoint, Known> = self.map(tables::ENDPOINTS)?.try_into()?;
        let known = endpoints.get(&host, 0).ok();
        endpoints.insert(host, Known::default(), 0)?;
        for _ in 0..records {
            self.run(&frame, 0)?;
        }
        let mut endpoints: HashMap<_, Endpoint, Known> = self.map(tables::ENDPOINTS)?.try_into()?;
        match known {
            Some(known) => endpoints.insert(host, known, 0)?,
            None => endpoints.remove(&host)?,
        }
        Ok((records * frame.len()) as u64)
    }

    /// Runs the program on a frame that has so much metadata before it, in bytes.
    pub fn run(&mut self, frame: &[u8], metadata: usize) -> io::Result<Ran<'_>> {
        /// The part of `union bpf_attr` that BPF_PROG_TEST_RUN reads (include/uapi/linux/bpf.h).
        #[repr(C)]
        #[derive(Default)]
        struct TestRun {
            prog_fd: u32,
            retval: u32,
            data_size_in: u32,
            data_size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            ctx_size_in: u32,
            ctx_size_out: u32,
            ctx_in: u64,
            ctx_out: u64,
            flags: u32,
            cpu: u32,
            batch_size: u32,
            reserved: u32,
        }
        const BPF_PROG_TEST_RUN: libc::c_int = 10;
        let data = if metadata == 0 {
            frame
        } else {
            self.input.clear();
            self.input.resize(metadata, 0x5a);
            self.input.extend(frame);
            &self.input
        };
        // `struct xdp_md`: where the frame begins and ends; no metadata before 0; the default interface and queue.
        let md: [u32; 6] = [metadata as u32, data.len() as u32, 0, 0, 0, 0];
        let mut attributes = TestRun {
            prog_fd: self.program as u32,
            data_size_in: data.len() as u32,
            data_size_out: self.output.len() as u32,
            data_in: data.as_ptr() as u64,
            data_out: self.output.as_mut_ptr() as u64,
            ..TestRun::default()
        };
        if metadata > 0 {
            (attributes.ctx_in, attributes.ctx_size_in) = (md.as_ptr() as u64, size_of_val(&md) as u32);
        }
        // SAFETY: the kernel reads `data` and `md`, writes at most `data_size_out` bytes of `output` and the attributes
        // themselves; all of them live, and are borrowed, until the call returns.
        unsafe { bpf(BPF_PROG_TEST_RUN, &raw mut attributes) }?;
        let end = attributes.data_size_out as usize;
        let frame = self.output.get(metadata..end).ok_or_else(|| io::Error::other("the metadata is gone"))?;
        Ok(Ran { verdict: attributes.retval, frame })
    }

    /// Takes out what waits in the ring buffer.
    pub fn events(&mut self) -> Vec<Event> {
        // An empty `Vec` allocates nothing.
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            events.push(Event::read_from_bytes(&item).expect("a record is an event"));
        }
        events
    }

    /// Takes out what a frame has raised. What keeps the ring buffer half full is put back.
    pub fn new_events(&mut self, tables: &Tables) -> Result<Vec<Event>> {
        let mut events = self.events();
        if tables.ring_half_full && !tables.ring_full {
            let new = events.split_off(HALF);
            let bytes = self.fill_ring(HALF)?;
            self.fillers.packets += HALF as u64;
            self.fillers.bytes += bytes;
            let mut locals: Array<_, Locals> = self.map(tables::LOCALS)?.try_into()?;
            locals.set(0, tables.locals_entry(), 0)?;
            return Ok(new);
        }
        Ok(events)
    }

    /// All counters by their index, all CPUs together.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        let mut by_cpu = vec![Counter::default(); self.cpus];
        let sum = |by_cpu: &[Counter]| {
            by_cpu.iter().fold(Counter::default(), |sum, one| Counter {
                packets: sum.packets + one.packets,
                bytes: sum.bytes + one.bytes,
            })
        };
        const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
        (0..COUNTERS_LEN)
            .map(|key| {
                element(BPF_MAP_LOOKUP_ELEM, self.counters, key, by_cpu.as_mut_bytes())
                    .context("read COUNTERS")?;
                let mut counter = sum(&by_cpu);
                if key == counter_index(Reason::Initiation, Family::Ipv4) {
                    counter.packets = counter.packets.wrapping_sub(self.fillers.packets);
                    counter.bytes = counter.bytes.wrapping_sub(self.fillers.bytes);
                }
                Ok(counter)
            })
            .collect()
    }

    /// Packets and bytes of every session and of every channel.
    pub fn carried(&self) -> Result<Vec<(Direction, Counter)>> {
        let mut carried = Vec::new();
        for &index in self.filled.sessions.keys() {
            let session = self.sessions.get(index)?.with_context(|| format!("session {index:#x} is gone"))?;
            let Session { packets, bytes, .. } = session;
            carried.push((Direction::Session(index), Counter { packets: packets.into(), bytes }));
        }
        for channel in &self.filled.channels {
            let directions = [Direction::ToPeer(*channel), Direction::ToClient(*channel)];
            for (direction, entry) in directions.into_iter().zip(self.filled.channel_entries(channel, 0)) {
                let entry =
                    self.channels.get(entry.key)?.with_context(|| format!("{direction:?} is gone"))?;
                carried.push((direction, Counter { packets: entry.packets, bytes: entry.bytes }));
            }
        }
        Ok(carried)
    }

    /// Makes it so that nothing that is limited in time has gone up yet.
    pub fn forget_hints(&mut self) -> Result<()> {
        const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
        let mut never = vec![0u64; self.cpus];
        (0..HINTS_LEN)
            .try_for_each(|key| element(BPF_MAP_UPDATE_ELEM, self.hints, key, never.as_mut_bytes()))
            .context("write HINTS")
    }

    fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }
}

fn per_cpu(ebpf: &Ebpf, name: &str) -> Result<RawFd> {
    match ebpf.map(name) {
        Some(Map::PerCpuArray(data)) => Ok(data.fd().as_fd().as_raw_fd()),
        _ => bail!("no per-CPU array {name}"),
    }
}

/// Reads or writes an element of a per-CPU array of which `values` holds the values of all possible CPUs.
fn element(command: libc::c_int, map: RawFd, key: u32, values: &mut [u8]) -> io::Result<()> {
    /// The part of `union bpf_attr` that BPF_MAP_*_ELEM reads.
    #[repr(C)]
    struct Element {
        map_fd: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut attributes = Element {
        map_fd: map as u32,
        reserved: 0,
        key: &raw const key as u64,
        value: values.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the key has four bytes and the value is one of 8 or 16 bytes for each possible CPU, as the maps were made;
    // both live, and `values` is borrowed mutably, until the call returns.
    unsafe { bpf(command, &raw mut attributes) }
}

/// The system call bpf(2).
///
/// # Safety
/// `attributes` is what the command takes, and what it points to is valid for what the command does with it.
unsafe fn bpf<T>(command: libc::c_int, attributes: *mut T) -> io::Result<()> {
    // SAFETY: the caller vouches for the attributes; their size is told.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
