//! The session table while the program reads it: sessions move and end and others take their slots, and yet every packet
//! leaves as one of them says, as a whole, and none of a session that stays is missed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use aya::{EbpfLoader, TestRun as _, TestRunOptions, maps::Array, programs::Xdp};
use etherparse::PacketBuilder;
use relay_ebpf::{
    reason::Verdict,
    tables::{self, Address, LOCALS_MAX, Locals as LocalsEntry, NextHop, Session, slots},
};
use relay_tests::sessions::{SEED, constants};
use relay_user::{
    forwarding::{Locals, directions},
    handshake::{Session as Proven, Side},
    next_hops::NOWHERE,
    session_table::SessionTable,
};

use crate::{
    datagram::transport_data,
    relay::{INGRESS, PORT},
};

/// Directions that the table has room for.
const DIRECTIONS: u32 = 256;
/// Sessions that move; others, as many again, come and go.
const SESSIONS: u32 = 16;
/// Places that each of them may be at, no two at the same.
const PLACES: u32 = 400;
/// Moves that the writer makes.
const MOVES: u64 = 30_000;
/// Packets that are run while it does, at least.
const PACKETS: u64 = 50_000;
const NEXT_HOPS: u16 = 8;
const RELAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SENDER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 40_001);

/// A place that a session may be at.
fn place(index: u32, n: u32) -> u32 {
    n % PLACES * 2 * SESSIONS + (index - 1)
}

/// Where that is, and the next hop towards it.
fn endpoint(place: u32) -> (SocketAddr, u16) {
    let [.., a, b] = place.to_be_bytes();
    let port = 1024 + place as u16;
    (SocketAddr::new(Ipv4Addr::new(203, 0, a, b).into(), port), 1 + place as u16 % NEXT_HOPS)
}

fn mac(next_hop: u16) -> [u8; 6] {
    [2, next_hop as u8, next_hop as u8, next_hop as u8, next_hop as u8, next_hop as u8]
}

fn entry(index: u32, at: u32, locals: &Locals) -> Session {
    let (destination, next_hop) = endpoint(at);
    let side = |index, endpoint: SocketAddr| Side { index, endpoint, local: RELAY.into(), member: None };
    let proven = Proven {
        initiator: side(u32::MAX, SENDER),
        responder: side(index, destination),
        opened: Duration::ZERO,
    };
    let ([there, _], _) =
        directions(&proven, locals, PORT, |_| next_hop, |_| 0).expect("the relay's address");
    there
}

/// The frame of a session as it comes in, or as it leaves for a place.
fn frame(index: u32, to: Option<u32>) -> Vec<u8> {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(address) => address.ip().octets(),
        SocketAddr::V6(_) => unreachable!("all is IPv4"),
    };
    let builder = match to.map(endpoint) {
        None => PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(octets(SENDER), RELAY.octets(), 64)
            .udp(SENDER.port(), PORT),
        Some((to, next_hop)) => PacketBuilder::ethernet2([6; 6], mac(next_hop))
            .ipv4(RELAY.octets(), octets(to), 63)
            .udp(PORT, to.port()),
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, &transport_data(index, 64)).expect("a frame");
    frame
}

#[test]
fn no_packet_leaves_as_a_mixture_of_two_sessions() {
    let mut ebpf = EbpfLoader::new()
        .override_global(tables::CONFIG, &constants(PORT, DIRECTIONS), true)
        .map_max_entries(tables::SESSIONS, slots(DIRECTIONS))
        .load(relay_user::object::object().unwrap())
        .unwrap();
    let locals = Locals::assign(&LocalsEntry([Address::UNSPECIFIED; LOCALS_MAX as usize]), &[RELAY.into()]);
    let mut map: Array<_, LocalsEntry> = ebpf.map_mut(tables::LOCALS).unwrap().try_into().unwrap();
    map.set(0, locals.table(), 0).unwrap();
    let mut map: Array<_, NextHop> = ebpf.map_mut(tables::NEXT_HOPS).unwrap().try_into().unwrap();
    for id in 1..=NEXT_HOPS {
        let hop =
            NextHop { destination_mac: mac(id), source_mac: [6; 6], mtu: 1500, ifindex: INGRESS, ..NOWHERE };
        map.set(id.into(), hop, 0).unwrap();
    }
    let map = ebpf.take_map(tables::SESSIONS).unwrap();
    let mut table = SessionTable::<()>::new(&map, SEED).unwrap();
    for index in 1..=SESSIONS {
        table.insert(&entry(index, place(index, 0), &locals), ()).unwrap();
    }
    let program: &mut Xdp = ebpf.program_mut("wgrelay").unwrap().try_into().unwrap();
    program.load().unwrap();
    let program: &Xdp = program;

    let arriving: Vec<_> = (1..=2 * SESSIONS).map(|index| frame(index, None)).collect();
    let leaving: Vec<_> =
        (0..2 * SESSIONS * PLACES).map(|at| frame(at % (2 * SESSIONS) + 1, Some(at))).collect();
    let mut moved = 0;
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(1);
            let mut late = 0;
            let mut moves = 0;
            while moves < MOVES {
                let index = random.u32(1..=2 * SESSIONS);
                if index > SESSIONS && random.bool() {
                    table.remove(index);
                    continue;
                }
                let to = place(index, random.u32(..));
                if table.insert(&entry(index, to, &locals), ()).is_ok() {
                    moves += 1;
                } else {
                    // Every slot of its window is waiting for programs to end.
                    thread::yield_now();
                }
                late += table.settle().iter().map(|(_, late)| late.packets).sum::<u64>();
            }
            late
        });
        let mut random = fastrand::Rng::with_seed(2);
        let (mut before, mut sent_on) = (0, 0);
        while !writer.is_finished() || sent_on < PACKETS {
            let index = random.u32(1..=2 * SESSIONS);
            let input = &arriving[index as usize - 1];
            let mut out = vec![0; input.len()];
            let options = TestRunOptions {
                data_in: Some(input),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            };
            let ran = program.test_run(options).unwrap();
            if ran.return_value == Verdict::Pass as u32 {
                assert!(index > SESSIONS, "session {index:#x} was never removed, and yet not found");
                assert_eq!(out, *input, "a packet that is not relayed was changed");
                continue;
            }
            assert_eq!(ran.return_value, Verdict::Tx as u32);
            sent_on += 1;
            let at = u32::from(out[32]) << 8 | u32::from(out[33]);
            assert_eq!(at % (2 * SESSIONS), index - 1, "sent to where another session's packets go");
            assert_eq!(out, leaving[at as usize], "a mixture of two entries");
            moved += u64::from(at != before);
            before = at;
        }
        let late = writer.join().expect("the writer");
        println!("{sent_on} packets sent on, {late} of them counted in slots that were retired");
    });
    assert!(moved > MOVES / 4, "the sessions hardly moved");
}
