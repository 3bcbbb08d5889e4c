//! Random tables: those of a busy relay with a bit of everything, small enough that frames meet it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
};

use fastrand::Rng;
use relay_ebpf::tables::LOCALS_MAX;

use super::tables::{
    Budget, Channel, Class, INGRESS, Listed, NextHop, Prefix, RELAYED, Rate, Session, Tables,
};

/// Rate limits of a run.
const RATES: u16 = 6;

/// Interfaces of next hops: where the frame came in; three others.
const INTERFACES: [u32; 4] = [INGRESS, 7, 300, 0x0102_0304];

/// Tables as a relay might have them.
pub fn random(rng: &mut Rng) -> Tables {
    let locals = locals(rng);
    let tx_ports: BTreeSet<_> = INTERFACES.into_iter().filter(|_| rng.u32(..3) > 0).collect();
    let next_hops: BTreeMap<_, _> = (0..8).map(|_| (next_hop_key(rng), next_hop(rng))).collect();
    let hosts: Vec<_> = (0..12).map(|n| SocketAddr::new(address(rng, n % 2 == 0), rng.u16(1..))).collect();
    let endpoints: BTreeSet<_> = hosts.iter().copied().filter(|_| rng.bool()).collect();
    let (used_up, prefixes) = (used_up(rng, &hosts), prefixes(rng, &hosts));
    let sessions: BTreeMap<_, _> = (0..rng.usize(4..24))
        .map(|_| {
            let (source, destination) = (one_of(rng, &hosts), one_of(rng, &hosts));
            let mut session = Session {
                source,
                destination,
                local_in: local(rng, &locals, source),
                local_out: local(rng, &locals, destination),
                next_hop: *rng.choice(next_hops.keys()).expect("there are some"),
                sender_rate: rate_key(rng),
                receiver_rate: rate_key(rng),
            };
            match rng.u32(..40) {
                0 => session.local_in = rng.u8(..),
                1 => session.local_out = rng.u8(LOCALS_MAX as u8..),
                2 => session.next_hop = rng.u16(..),
                _ => {}
            }
            // Of index 0 there is no session.
            (index(rng).max(1), session)
        })
        .collect();
    let channels = channels(rng, &hosts, &locals, &next_hops);
    let mut pending: BTreeMap<_, _> = (0..8).map(|_| (index(rng), one_of(rng, &hosts))).collect();
    // An index may stand in both tables: they are chosen by different hosts.
    let both: Vec<_> = sessions.keys().copied().filter(|_| rng.u32(..4) == 0).collect();
    pending.extend(both.into_iter().map(|index| (index, one_of(rng, &hosts))));
    let rates = (1..=RATES).map(|key| (key, Rate { sent: rng.bool(), received: rng.bool() })).collect();
    let (ring_full, ring_half_full) = (rng.u32(..12) == 0, rng.u32(..12) == 0);
    Tables {
        locals,
        sessions,
        channels,
        pending,
        endpoints,
        used_up,
        prefixes,
        rates,
        next_hops,
        tx_ports,
        ring_full,
        ring_half_full,
    }
}

/// Channels of some hosts with others, some of which are over.
fn channels(
    rng: &mut Rng,
    hosts: &[SocketAddr],
    locals: &BTreeMap<u8, IpAddr>,
    next_hops: &BTreeMap<u16, NextHop>,
) -> BTreeSet<Channel> {
    let mut channels: BTreeSet<Channel> = BTreeSet::new();
    for _ in 0..rng.usize(2..14) {
        let (client, peer) = (one_of(rng, hosts), one_of(rng, hosts));
        let mut next_hop = || *rng.choice(next_hops.keys()).expect("there are some");
        let (to_peer, to_client) = (next_hop(), next_hop());
        let mut channel = Channel {
            client,
            server: local(rng, locals, client),
            number: any_of(rng, 0x4000..=0x4fff),
            peer,
            relayed: local(rng, locals, peer),
            relayed_port: any_of(rng, RELAYED),
            expired: rng.u32(..10) == 0,
            to_peer,
            to_client,
            rate: rate_key(rng),
        };
        match rng.u32(..40) {
            0 => channel.server = rng.u8(LOCALS_MAX as u8..),
            1 => channel.relayed = rng.u8(LOCALS_MAX as u8..),
            2 => channel.to_peer = rng.u16(..),
            3 => channel.to_client = rng.u16(..),
            _ => {}
        }
        // What goes the same way would have one next hop.
        if client.ip() != peer.ip() && !channels.iter().any(|other| channel.excludes(other)) {
            channels.insert(channel);
        }
    }
    channels
}

/// One of them, often the first or the last.
fn any_of(rng: &mut Rng, range: RangeInclusive<u16>) -> u16 {
    match rng.u32(..8) {
        0 => *range.start(),
        1 => *range.end(),
        _ => rng.u16(range),
    }
}

/// Mostly none.
fn rate_key(rng: &mut Rng) -> u16 {
    if rng.u32(..8) == 0 { rng.u16(1..=RATES) } else { 0 }
}

/// Some budgets of hosts, of their neighbours' and of all together.
fn used_up(rng: &mut Rng, hosts: &[SocketAddr]) -> BTreeSet<Budget> {
    let classes = [Class::Signal, Class::Bulk];
    let mut budgets = BTreeSet::new();
    for class in classes {
        if rng.u32(..8) == 0 {
            budgets.insert(Budget::Unknown(class));
        }
        for host in hosts {
            match rng.u32(..12) {
                0 => _ = budgets.insert(Budget::Endpoint(*host, class)),
                1 => _ = budgets.insert(Budget::Source(network(host.ip()), class)),
                _ => {}
            }
        }
    }
    budgets
}

/// The first address of what is taken for one source.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
    }
}

/// Lists in which some hosts are, no prefix twice.
fn prefixes(rng: &mut Rng, hosts: &[SocketAddr]) -> BTreeSet<Prefix> {
    let mut prefixes: BTreeMap<(IpAddr, u8), Listed> = BTreeMap::new();
    for _ in 0..[0, 0, 1, 3, 8][rng.usize(..5)] {
        let (address, bits) = match one_of(rng, hosts).ip() {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
            IpAddr::V6(v6) => (u128::from(v6), 128),
        };
        let length = if rng.u32(..8) == 0 { one_of(rng, &[0, bits]) } else { rng.u8(..=bits) };
        let first = address & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        let first =
            if bits == 32 { IpAddr::V4(((first >> 96) as u32).into()) } else { IpAddr::V6(first.into()) };
        let verdicts = [Listed::Allowed, Listed::Allowed, Listed::NotAllowed, Listed::Denied];
        prefixes.insert((first, length), one_of(rng, &verdicts));
    }
    // As userspace writes them, IPv6's lists never speak of IPv4, whose addresses lie within those of IPv6.
    if !prefixes.is_empty() {
        prefixes.entry((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)).or_insert(Listed::Allowed);
    }
    prefixes.into_iter().map(|((address, length), verdict)| Prefix { address, length, verdict }).collect()
}

/// Up to the whole table of addresses, with holes; at least one of each family.
fn locals(rng: &mut Rng) -> BTreeMap<u8, IpAddr> {
    let mut keys: Vec<u8> = (0..LOCALS_MAX as u8).collect();
    rng.shuffle(&mut keys);
    keys.truncate(if rng.u32(..8) == 0 { keys.len() } else { rng.usize(2..7) });
    let mut locals: BTreeMap<u8, IpAddr> = BTreeMap::new();
    for (n, key) in keys.into_iter().enumerate() {
        let ipv4 = if n < 2 { n == 0 } else { rng.bool() };
        let address = address(rng, ipv4);
        if !locals.values().any(|&other| other == address) {
            locals.insert(key, address);
        }
    }
    locals
}

fn local(rng: &mut Rng, locals: &BTreeMap<u8, IpAddr>, like: SocketAddr) -> u8 {
    let fits = |(_, local): &(&u8, &IpAddr)| local.is_ipv4() == like.is_ipv4();
    let keys: Vec<u8> = locals.iter().filter(fits).map(|(&key, _)| key).collect();
    rng.choice(keys).expect("there is one of each family")
}

/// An address whose words are often the ones that checksums trip over.
fn address(rng: &mut Rng, ipv4: bool) -> IpAddr {
    if !ipv4 && rng.u32(..6) == 0 {
        // An IPv4-mapped one but for one bit.
        let mapped = Ipv4Addr::from(rng.u32(..)).to_ipv6_mapped();
        return IpAddr::V6((u128::from(mapped) ^ 1 << rng.u32(32..128)).into());
    }
    let mut word = |first: bool| match rng.u32(..8) {
        0 if !first => 0,
        1 => 0xffff,
        _ => rng.u16(1..),
    };
    if ipv4 {
        return IpAddr::V4((u32::from(word(true)) << 16 | u32::from(word(false))).into());
    }
    // Its first word is not zero, so it is neither `::` nor an IPv4-mapped one.
    let words: [u16; 8] = std::array::from_fn(|at| word(at == 0));
    IpAddr::V6(words.into())
}

fn index(rng: &mut Rng) -> u32 {
    match rng.u32(..10) {
        0 => rng.u32(..3),
        1 => u32::MAX - rng.u32(..3),
        2 => rng.u32(..4) << 24,
        _ => rng.u32(..),
    }
}

fn next_hop_key(rng: &mut Rng) -> u16 {
    match rng.u32(..4) {
        0 => 0,
        1 => 4095,
        _ => rng.u16(..4096),
    }
}

fn next_hop(rng: &mut Rng) -> NextHop {
    let mac = |rng: &mut Rng| std::array::from_fn(|_| rng.u8(..));
    let tag = |rng: &mut Rng| {
        let tpid: [u8; 2] = if rng.bool() { [0x81, 0x00] } else { [0x88, 0xa8] };
        [tpid[0], tpid[1], rng.u8(..), rng.u8(..)]
    };
    NextHop {
        ifindex: if rng.bool() { INGRESS } else { one_of(rng, &INTERFACES) },
        mtu: match rng.u32(..16) {
            0 => 0,
            1..5 => rng.u16(60..300),
            _ => one_of(rng, &[576, 1280, 1399, 1400, 1420, 1500, 65_535]),
        },
        tag_count: match rng.u32(..40) {
            0 => one_of(rng, &[3, 256, 65_535]),
            1..24 => 0,
            24..32 => 1,
            _ => 2,
        },
        tags: [tag(rng), tag(rng)],
        destination_mac: mac(rng),
        source_mac: mac(rng),
    }
}

fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}
