//! The session table as its writer sees it, in a real map.

use aya::{
    EbpfLoader,
    maps::{Array, Map, MapData},
};
use relay_ebpf::tables::{self, Session, WINDOW, home, homes, slots};
use relay_tests::sessions::{SEED, constants};
use relay_user::{
    maps::Traffic,
    session_table::{NoRoom, SessionTable},
};
use zerocopy::FromZeros as _;

use crate::relay::PORT;

const DIRECTIONS: u32 = 64;

fn map() -> Map {
    let mut ebpf = EbpfLoader::new()
        .override_global(tables::CONFIG, &constants(PORT, DIRECTIONS), true)
        .map_max_entries(tables::SESSIONS, slots(DIRECTIONS))
        .load(relay_user::object::object().unwrap())
        .unwrap();
    ebpf.take_map(tables::SESSIONS).unwrap()
}

fn session(index: u32, next_hop: u16) -> Session {
    Session { index, next_hop, ..Session::new_zeroed() }
}

/// Indices whose windows begin at the same slot.
fn neighbours(count: usize) -> Vec<u32> {
    let at = |index| home(index, SEED, homes(DIRECTIONS));
    (1..).filter(|index| at(*index) == at(1)).take(count).collect()
}

/// The slots as the program sees them.
fn slots_of(map: &Map) -> Array<MapData, Session> {
    let Map::Array(map) = map else { panic!("SESSIONS is an array") };
    Map::Array(MapData::from_id(map.info().unwrap().id()).unwrap()).try_into().unwrap()
}

/// Where an index stands.
fn places(map: &Map, index: u32) -> Vec<u32> {
    let slots = slots_of(map);
    (0..slots.len()).filter(|at| slots.get(at, 0).unwrap().index == index).collect()
}

#[test]
fn a_session_that_moves_takes_another_slot_and_its_counters_along() {
    let map = map();
    let mut table = SessionTable::<u8>::new(&map, SEED).unwrap();
    table.insert(&Session { packets: 7, bytes: 700, ..session(5, 1) }, 1).unwrap();
    assert_eq!(table.traffic(5), Traffic::default(), "what is new has carried nothing");
    let first = places(&map, 5);
    table.insert(&session(5, 1), 2).unwrap();
    assert_eq!(places(&map, 5), first, "what stands there already is left alone");
    let counted = Traffic { packets: 3, bytes: 300 };
    slots_of(&map).set(first[0], Session { packets: 3, bytes: 300, ..session(5, 1) }, 0).unwrap();
    table.insert(&session(5, 2), 2).unwrap();
    assert_eq!(table.traffic(5), counted);
    let second = places(&map, 5);
    assert!(second.len() == 1 && second != first, "{first:?}, then {second:?}");
    assert_eq!(table.iter().map(|s| (s.index, s.next_hop)).collect::<Vec<_>>(), [(5, 2)]);
    // A program was still in the first slot.
    slots_of(&map).set(first[0], Session { packets: 4, bytes: 450, ..session(0, 1) }, 0).unwrap();
    let late = std::iter::repeat_with(|| table.settle()).find(|late| !late.is_empty());
    assert_eq!(late.unwrap(), [(2, Traffic { packets: 1, bytes: 150 })]);
    assert_eq!(table.remove(5), counted);
    assert_eq!(places(&map, 5), [0; 0]);
    assert_eq!(table.iter().count(), 0);
}

#[test]
fn a_full_window_refuses_until_a_slot_is_sure_to_be_unused() {
    let map = map();
    let mut table = SessionTable::<()>::new(&map, SEED).unwrap();
    let indices = neighbours(WINDOW as usize + 1);
    let (one_too_many, others) = indices.split_last().unwrap();
    for index in others {
        table.insert(&session(*index, 1), ()).unwrap();
    }
    assert_eq!(table.insert(&session(*one_too_many, 1), ()), Err(NoRoom));
    assert_eq!(table.insert(&session(others[0], 2), ()), Err(NoRoom), "no second slot to move to");
    assert_eq!(table.iter().filter(|session| session.next_hop == 1).count(), others.len(), "nothing changed");
    table.remove(others[3]);
    assert_eq!(table.insert(&session(*one_too_many, 1), ()), Err(NoRoom), "a program may still be in it");
    while table.insert(&session(*one_too_many, 1), ()).is_err() {
        table.settle();
        std::thread::yield_now();
    }
    assert_eq!(places(&map, *one_too_many).len(), 1);
    assert_eq!(table.insert(&session(0, 1), ()), Err(NoRoom), "index 0 stands for a free slot");
}

#[test]
fn the_next_run_finds_what_an_earlier_one_has_left() {
    let map = map();
    let mut table = SessionTable::<()>::new(&map, SEED).unwrap();
    for index in neighbours(3) {
        table.insert(&session(index, 1), ()).unwrap();
    }
    drop(table);
    // Killed in the middle of a move: one session stands in two slots.
    let twice = neighbours(1)[0];
    let last = home(twice, SEED, homes(DIRECTIONS)) + WINDOW - 1;
    slots_of(&map).set(last, session(twice, 2), 0).unwrap();
    assert_eq!(places(&map, twice).len(), 2);
    let table = SessionTable::<()>::new(&map, SEED).unwrap();
    let mut found: Vec<u32> = table.iter().map(|session| session.index).collect();
    found.sort_unstable();
    assert_eq!(found, neighbours(3));
    assert_eq!(places(&map, twice).len(), 1, "one of the two is enough");
}
