//! Members' totals in a real map.

use aya::{
    EbpfLoader,
    maps::{Map, MapData},
};
use relay_ebpf::tables::{self, Total};
use relay_tests::sessions::constants;
use relay_user::{
    mapped::Mapped,
    maps::Traffic,
    members::MemberId,
    totals::{MemberTraffic, Totals},
};

use crate::relay::PORT;

const ALICE: MemberId = MemberId(7);
const BOB: MemberId = MemberId(8);
const CAROL: MemberId = MemberId(9);

/// A map with room for two.
fn map() -> Map {
    let mut ebpf = EbpfLoader::new()
        .override_global(tables::CONFIG, &constants(PORT, 64), true)
        .map_max_entries(tables::TOTALS, 2)
        .load(relay_user::object::object().unwrap())
        .unwrap();
    ebpf.take_map(tables::TOTALS).unwrap()
}

/// The same map for the next process.
fn again(map: &Map) -> Map {
    let Map::Array(map) = map else { panic!("TOTALS is an array") };
    Map::Array(MapData::from_id(map.info().unwrap().id()).unwrap())
}

fn total(n: u64) -> MemberTraffic {
    let traffic = |packets| Traffic { packets, bytes: 100 * packets };
    MemberTraffic { sent: traffic(n), received: traffic(2 * n) }
}

#[test]
fn totals_are_found_by_the_next_process() {
    let map = map();
    let mut totals = Totals::new(&map).unwrap();
    totals.add(ALICE, total(1));
    totals.add(ALICE, total(2));
    totals.add(BOB, total(5));
    let next = Totals::new(&again(&map)).unwrap();
    assert_eq!((next.of(ALICE), next.of(BOB), next.of(CAROL)), (total(3), total(5), total(0)));
}

#[test]
fn what_stands_in_the_map_is_not_taken_from_elsewhere() {
    let mut totals = Totals::new(&map()).unwrap();
    totals.add(ALICE, total(3));
    totals.adopt([(ALICE, total(100)), (BOB, total(4))]);
    assert_eq!((totals.of(ALICE), totals.of(BOB)), (total(3), total(4)));
}

#[test]
fn places_are_given_back_and_members_without_one_are_counted() {
    let map = map();
    let mut totals = Totals::new(&map).unwrap();
    for (member, n) in [(ALICE, 1), (BOB, 2), (CAROL, 3)] {
        totals.add(member, total(n));
    }
    assert_eq!(totals.of(CAROL), total(3));
    assert_eq!(Totals::new(&again(&map)).unwrap().of(CAROL), total(0), "there was no room");
    totals.retain(|member| member == BOB);
    assert_eq!(totals.iter().collect::<Vec<_>>(), [(BOB, total(2))]);
    totals.add(CAROL, total(9));
    let next = Totals::new(&again(&map)).unwrap();
    assert_eq!((next.of(ALICE), next.of(CAROL)), (total(0), total(9)), "nothing of the one before is left");
}

#[test]
fn an_entry_that_is_half_written_is_nobodys() {
    let map = map();
    let half = Total { member: 0, sent_packets: 77, ..Total::default() };
    Mapped::<Total>::new(&map).unwrap().set(0, &half);
    let mut totals = Totals::new(&map).unwrap();
    assert_eq!(totals.iter().count(), 0);
    totals.add(ALICE, total(1));
    totals.add(BOB, total(2));
    assert_eq!((totals.of(ALICE), totals.of(BOB)), (total(1), total(2)));
}
