//! How much is done for whom in a time, by a simulated clock; and whom nothing is done for.

use std::time::Duration;

use super::crafted::{ALICE, BOB, Relay, UNLIMITED, id, members, seconds, settings};
use crate::{
    admission::{Filter, Work},
    handshake::{Limits, Outcome, Quotas, Settings},
    members::Policy,
};

const CAROL: &str = "198.51.100.30:1003";
const OTHER_RELAY: &str = "192.0.2.77:51820";
const STRANGER: &str = "198.18.0.1:7";

/// Alice, Bob and Carol are relayed here, Dave by another relay: four keys to search.
fn with(settings: Settings) -> Relay {
    let words = ["alice", "bob", "carol", "dave@@other"];
    let mut relay = Relay::new(settings, members(Policy::Members, &[("other", OTHER_RELAY)], &words));
    for (name, endpoint) in [("alice", ALICE), ("bob", BOB), ("carol", CAROL)] {
        relay.learn(name, endpoint);
    }
    relay
}

fn working(work: Work) -> Relay {
    with(Settings { work, ..settings() })
}

/// Hears so many initiations for a recipient from a source; how often it came to this.
fn hears(relay: &mut Relay, source: &str, recipient: &str, times: u32, outcome: Outcome) -> u64 {
    let before = relay.count(outcome);
    for _ in 0..times {
        let index = rand::RngCore::next_u32(&mut relay.rng);
        let message = relay.initiation(index, recipient);
        relay.hear(source, message);
    }
    relay.count(outcome) - before
}

#[test]
fn unknown_sources_have_so_many_keys_searched_for_them() {
    let mut relay = working(Work { searched_keys: 4 * 10, ..UNLIMITED });
    assert_eq!(hears(&mut relay, STRANGER, "nobody", 30, Outcome::UnknownRecipient), 10);
    assert_eq!(relay.count(Outcome::SearchLimit), 20);
    assert_eq!(hears(&mut relay, "198.18.0.2:7", "bob", 5, Outcome::SearchLimit), 5, "all of them together");
    // What is for the relay itself is found without a search.
    assert_eq!(hears(&mut relay, STRANGER, "relay", 5, Outcome::InitiationForRelay), 5);
    relay.wait(Duration::from_millis(250));
    assert_eq!(hears(&mut relay, STRANGER, "bob", 10, Outcome::Challenged), 2);
    relay.wait(seconds(60));
    assert_eq!(
        hears(&mut relay, STRANGER, "nobody", 30, Outcome::UnknownRecipient),
        10,
        "no more than it holds"
    );
}

#[test]
fn a_flood_does_not_keep_known_sources_from_those_that_they_know_nor_from_one_more() {
    // A member's own share: two keys a second. A full budget lets any search pass.
    let mut relay = working(Work { searched_keys: 4 * 10, ..UNLIMITED });
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    relay.wait(seconds(5));
    for n in 0..50 {
        hears(&mut relay, STRANGER, "nobody", 1, Outcome::UnknownRecipient);
        relay.wait(Duration::from_millis(10));
        relay.open(("alice", ALICE, 100 + n), ("bob", BOB, 200 + n));
    }
    assert!(relay.count(Outcome::SearchLimit) >= 30);
    hears(&mut relay, STRANGER, "nobody", 20, Outcome::SearchLimit);
    relay.open(("alice", ALICE, 3), ("carol", CAROL, 4));
}

#[test]
fn a_member_that_looks_for_nobody_uses_up_its_share_and_then_what_the_unknown_have() {
    let mut relay = working(Work { searched_keys: 4 * 40, ..UNLIMITED });
    // Eight keys a second of its own, and all of the unknown ones' 160.
    assert_eq!(hears(&mut relay, ALICE, "nobody", 100, Outcome::UnknownRecipient), 2 + 40);
    assert_eq!(hears(&mut relay, STRANGER, "bob", 1, Outcome::SearchLimit), 1);
    relay.open(("bob", BOB, 1), ("carol", CAROL, 2));
}

#[test]
fn another_relay_has_as_much_of_its_own() {
    let mut relay = working(Work { searched_keys: 4 * 10, ..UNLIMITED });
    hears(&mut relay, STRANGER, "nobody", 30, Outcome::SearchLimit);
    assert_eq!(hears(&mut relay, OTHER_RELAY, "nobody", 30, Outcome::UnknownRecipient), 10);
    relay.wait(seconds(1));
    assert_eq!(
        hears(&mut relay, STRANGER, "nobody", 30, Outcome::UnknownRecipient),
        10,
        "nor does it take theirs"
    );
}

#[test]
fn a_member_is_sent_five_initiations_a_second_from_unknown_sources() {
    let mut relay = working(Work { unknown_initiations: 5, ..UNLIMITED });
    let sources = ["198.18.0.1:7", "198.18.0.2:7"];
    for (n, source) in sources.into_iter().enumerate() {
        relay.prove(source, 1 + n as u32, "bob");
    }
    relay.wait(seconds(2));
    let sent: u64 =
        sources.map(|s| hears(&mut relay, s, "bob", 10, Outcome::InitiationForwarded)).iter().sum();
    assert_eq!((sent, relay.count(Outcome::UnknownInitiationLimit)), (5, 15));
    assert_eq!(hears(&mut relay, sources[0], "carol", 10, Outcome::InitiationForwarded), 5, "each member");
    relay.open(("alice", ALICE, 11), ("bob", BOB, 12));
    for _ in 0..20 {
        relay.wait(Duration::from_millis(100));
        hears(&mut relay, sources[0], "bob", 3, Outcome::InitiationForwarded);
    }
    let more = relay.count(Outcome::InitiationForwarded) - 2 - 5 - 5 - 1;
    assert!((9..=11).contains(&more), "{more} in two seconds");
}

#[test]
fn one_member_has_a_tenth_of_what_another_is_sent_from_known_sources() {
    let mut relay = working(Work { initiations: 50, ..UNLIMITED });
    assert_eq!(hears(&mut relay, ALICE, "bob", 100, Outcome::InitiationForwarded), 5);
    assert_eq!(hears(&mut relay, ALICE, "carol", 3, Outcome::InitiationForwarded), 3, "of each");
    relay.open(("carol", CAROL, 1), ("bob", BOB, 2));
    // Another relay speaks for many.
    assert_eq!(hears(&mut relay, OTHER_RELAY, "bob", 100, Outcome::InitiationForwarded), 44);
    assert_eq!(relay.count(Outcome::InitiationLimit), 95 + 56);
    relay.wait(Duration::from_millis(200));
    assert_eq!(hears(&mut relay, ALICE, "bob", 10, Outcome::InitiationForwarded), 1);
}

#[test]
fn with_its_defaults_nothing_that_hosts_do_is_limited() {
    let mut relay = working(Work::default());
    // Both begin at once, each repeats itself, and all of it every two minutes.
    for round in 0..20 {
        let index = 1000 * (round + 1);
        relay.open(("alice", ALICE, index), ("bob", BOB, index + 1));
        relay.open(("bob", BOB, index + 2), ("alice", ALICE, index + 3));
        for n in 4..8 {
            relay.wait(seconds(5));
            assert_eq!(hears(&mut relay, ALICE, "carol", 1, Outcome::InitiationForwarded), 1, "{n}");
        }
        relay.wait(seconds(100));
    }
    let limits = [Outcome::SearchLimit, Outcome::InitiationLimit, Outcome::UnknownInitiationLimit];
    assert_eq!(limits.map(|limit| relay.count(limit)), [0; 3]);
}

#[test]
fn no_source_fills_the_table_of_handshakes_under_way() {
    let limits =
        Limits { pending: 20, pending_quotas: Quotas { source: 4, unknown: 3 }, ..Limits::default() };
    let mut relay = with(Settings { limits, ..settings() });
    assert_eq!(hears(&mut relay, ALICE, "bob", 10, Outcome::PendingQuota), 6);
    for n in 0..3 {
        relay.prove(&format!("198.18.0.{n}:7"), 1 + n, "bob");
    }
    assert_eq!(hears(&mut relay, "198.18.0.0:7", "carol", 5, Outcome::PendingQuota), 5);
    relay.open(("carol", CAROL, 11), ("bob", BOB, 12));
    // Another relay has no quota but the table.
    assert_eq!(hears(&mut relay, OTHER_RELAY, "bob", 30, Outcome::PendingFull), 30 - (20 - 4 - 3 - 1));
    relay.wait(seconds(15));
    assert_eq!(relay.tracker.pending_len(), 0);
    assert_eq!(hears(&mut relay, ALICE, "bob", 10, Outcome::InitiationForwarded), 4, "they are given back");
}

fn filter(allow: &[&str], deny: &[&str]) -> Filter {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    Filter::new(&nets(allow), &nets(deny))
}

fn set_filter(relay: &mut Relay, filter: Filter) {
    let mut out = Vec::new();
    relay.tracker.set_admission(relay.now, filter, UNLIMITED, &mut out);
    assert!(relay.kernel.apply(out).is_empty());
}

#[test]
fn what_is_denied_while_it_lives_ends_at_once() {
    let mut relay = working(UNLIMITED);
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    relay.open(("bob", BOB, 3), ("carol", CAROL, 4));
    let under_way = relay.initiation(5, "alice");
    assert_eq!(relay.hear(CAROL, under_way).len(), 1);
    set_filter(&mut relay, filter(&[], &["198.51.100.10/32"]));
    assert_eq!(relay.tracker.sessions().map(|s| s.initiator.index).collect::<Vec<_>>(), [3]);
    assert_eq!((relay.count(Outcome::SessionRevoked), relay.tracker.pending_len()), (1, 1));
    assert_eq!(relay.tracker.endpoint_of(id("alice")), None, "nothing is sent there");
    assert_eq!(hears(&mut relay, ALICE, "bob", 1, Outcome::SourceRefused), 1);
    relay.learn("alice", ALICE);
    assert_eq!(relay.count(Outcome::EndpointRefused), 1);

    set_filter(&mut relay, filter(&[], &[]));
    relay.learn("alice", ALICE);
    relay.open(("alice", ALICE, 6), ("bob", BOB, 7));
}

#[test]
fn with_an_allow_list_only_what_is_on_it_may_be_new() {
    let mut relay = working(UNLIMITED);
    set_filter(&mut relay, filter(&["198.18.0.0/24"], &["198.18.0.128/25"]));
    // Who is known stays.
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    assert_eq!(hears(&mut relay, OTHER_RELAY, "bob", 1, Outcome::InitiationForwarded), 1);
    assert_eq!(hears(&mut relay, "198.18.0.1:7", "bob", 1, Outcome::Challenged), 1);
    assert_eq!(hears(&mut relay, "198.18.0.129:7", "bob", 1, Outcome::SourceRefused), 1);
    assert_eq!(hears(&mut relay, "198.18.1.1:7", "bob", 1, Outcome::SourceRefused), 1);
    relay.learn("alice", "198.18.1.1:7");
    assert_eq!(
        relay.tracker.endpoint_of(id("alice")).unwrap().to_string(),
        "198.18.1.1:7",
        "WireGuard has seen it"
    );
}
