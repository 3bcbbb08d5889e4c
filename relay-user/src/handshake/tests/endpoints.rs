//! Members that move, and members that change.

use std::collections::BTreeSet;

use super::crafted::{ALICE, BOB, Relay, at, id, members, settings};
use crate::{
    handshake::{EndpointChanges, Outcome},
    members::{Members, Policy},
};

const CAROL: &str = "198.51.100.30:1003";
const MOVED: &str = "198.51.100.99:9009";

fn trio() -> Relay {
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "bob", "carol"]));
    relay.learn("alice", ALICE);
    relay.learn("bob", BOB);
    relay.learn("carol", CAROL);
    relay
}

#[test]
fn roaming_moves_exactly_the_sessions_bound_to_the_old_endpoint() {
    let mut relay = trio();
    let by_alice = relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    let to_alice = relay.open(("carol", CAROL, 3), ("alice", ALICE, 4));
    let without = relay.open(("bob", BOB, 5), ("carol", CAROL, 6));
    relay.prove(MOVED, 7, "bob");
    let response = relay.response(8, 7, "alice");
    relay.hear(BOB, response);
    let elsewhere = *relay.tracker.session_by_index(7).unwrap();

    relay.learn("alice", "198.51.100.10:2222");
    let moved = |index: u32| *relay.tracker.session_by_index(index).unwrap();
    let mut expected = by_alice;
    expected.initiator.endpoint = at("198.51.100.10:2222");
    assert_eq!(moved(1), expected);
    let mut expected = to_alice;
    expected.responder.endpoint = at("198.51.100.10:2222");
    assert_eq!(moved(4), expected);
    assert_eq!(moved(5), without);
    assert_eq!(moved(7), elsewhere, "proven from elsewhere");
    assert_eq!(relay.count(Outcome::SessionMoved), 2);
    // What comes from the old place is nobody's now, the new place is Alice's.
    let initiation = relay.initiation(21, "bob");
    assert_eq!(relay.hear("198.51.100.10:2222", initiation)[0].remote, at(BOB));
    let initiation = relay.initiation(22, "bob");
    assert_eq!(relay.hear(ALICE, initiation)[0].remote, at(ALICE), "challenged");
}

#[test]
fn moving_keeps_what_was_seen_of_a_session() {
    let mut relay = trio();
    for n in 0..6 {
        relay.open(("alice", ALICE, 10 + n), ("bob", BOB, 20 + n));
    }
    relay.tracker.confirm(20);
    relay.learn("alice", MOVED);
    relay.open(("alice", MOVED, 30), ("bob", BOB, 31));
    assert!(relay.tracker.session_by_index(10).is_some(), "confirmed before the move");
    assert!(relay.tracker.session_by_index(11).is_none(), "the oldest unconfirmed");
}

#[test]
fn pending_handshakes_stay_bound_to_where_they_were_sent() {
    let mut relay = trio();
    let initiation = relay.initiation(1, "bob");
    relay.hear(ALICE, initiation);
    relay.learn("bob", MOVED);
    assert_eq!(relay.kernel.pending.get(&1), Some(&at(BOB)));
    let response = relay.response(2, 1, "alice");
    assert!(relay.hear(MOVED, response.clone()).is_empty());
    assert_eq!(relay.hear(BOB, response).len(), 1);
}

#[test]
fn a_repeated_report_changes_nothing() {
    let mut relay = trio();
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    relay.tracker.endpoint_changes();
    relay.learn("alice", ALICE);
    assert_eq!(relay.tracker.endpoint_changes(), EndpointChanges::default());
    relay.learn("alice", MOVED);
    let moved = EndpointChanges { held: vec![(at(MOVED), Some(id("alice")))], gone: vec![at(ALICE)] };
    assert_eq!(relay.tracker.endpoint_changes(), moved);
}

#[test]
fn a_change_of_family_moves_sessions_to_the_relays_address_of_that_family() {
    let mut relay = trio();
    let mut session = relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    relay.learn("alice", "[2001:db8:a::1]:1");
    let ipv6 = *settings().addresses.iter().find(|address| address.is_ipv6()).unwrap();
    (session.initiator.endpoint, session.initiator.local) = (at("[2001:db8:a::1]:1"), ipv6);
    assert_eq!(relay.tracker.session_by_index(1), Some(&session));
    // And new handshakes go from one family to the other.
    let initiation = relay.initiation(3, "bob");
    let sent = relay.hear("[2001:db8:a::1]:1", initiation);
    assert_eq!((sent[0].remote, sent[0].local.is_ipv4()), (at(BOB), true));
}

#[test]
fn a_relay_without_an_address_of_the_family_does_not_join() {
    let mut settings = settings();
    settings.addresses.retain(|address| address.is_ipv4());
    let mut relay = Relay::new(settings, members(Policy::Members, &[], &["alice", "bob"]));
    relay.learn("alice", ALICE);
    relay.learn("bob", "[2001:db8:b::1]:1");
    let initiation = relay.initiation(3, "bob");
    assert!(relay.hear(ALICE, initiation).is_empty());
    assert_eq!(relay.count(Outcome::FamilyMismatch), 1);
}

#[test]
fn an_endpoint_seen_of_two_members_is_the_newests() {
    let mut relay = trio();
    relay.learn("bob", ALICE);
    let known: BTreeSet<_> = relay.tracker.endpoints().collect();
    assert_eq!(known, [(at(ALICE), Some(id("bob"))), (at(CAROL), Some(id("carol")))].into());
    let session = relay.open(("bob", ALICE, 1), ("carol", CAROL, 2));
    assert_eq!(session.initiator.member, Some(id("bob")));
    // Alice's interface report does not change as it is read again, and does not take it back.
    relay.learn("alice", ALICE);
    assert_eq!(relay.tracker.endpoints().collect::<BTreeSet<_>>(), known);
    // If it was Alice all along (Bob forged a source address), her handshakes still work.
    let session = relay.open(("alice", ALICE, 3), ("carol", CAROL, 4));
    assert_eq!(session.initiator.member, Some(id("alice")));
    // And when Bob goes, it is Alice's alone.
    relay.learn("bob", BOB);
    assert!(relay.tracker.endpoints().any(|known| known == (at(ALICE), Some(id("alice")))));
    assert_eq!(
        relay.tracker.session_by_index(1).unwrap().initiator.endpoint,
        at(BOB),
        "his session follows him"
    );
    assert_eq!(relay.tracker.session_by_index(3).unwrap().initiator.endpoint, at(ALICE));
}

#[test]
fn a_member_seen_at_anothers_endpoint_does_not_cut_it_off() {
    // Mallory, of another network, has sent one authenticated keepalive with Alice's source address.
    let words = ["alice", "bob", "mallory/elsewhere"];
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &words));
    for (name, endpoint) in [("alice", ALICE), ("bob", BOB), ("mallory", ALICE)] {
        relay.learn(name, endpoint);
    }
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    relay.open(("bob", BOB, 3), ("alice", ALICE, 4));
}

#[test]
fn two_members_at_one_endpoint_do_not_talk_over_the_relay() {
    let mut relay = trio();
    relay.learn("bob", ALICE);
    let initiation = relay.initiation(1, "alice");
    assert!(relay.hear(ALICE, initiation).is_empty());
    assert_eq!(relay.count(Outcome::SameEndpoint), 1);
}

#[test]
fn a_session_does_not_follow_to_where_its_other_side_is() {
    let mut relay = trio();
    let session = relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    relay.learn("alice", BOB);
    assert_eq!(relay.tracker.session_by_index(1), Some(&session));
}

#[test]
fn a_forgotten_endpoint_is_unknown() {
    let mut relay = trio();
    let session = relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    let mut out = Vec::new();
    relay.tracker.set_endpoint(relay.now, id("bob"), None, &mut out);
    assert!(out.is_empty());
    assert_eq!(relay.tracker.endpoint_of(id("bob")), None);
    assert_eq!(relay.tracker.session_by_index(1), Some(&session), "a session is proven by itself");
    let initiation = relay.initiation(3, "bob");
    assert!(relay.hear(ALICE, initiation).is_empty());
}

#[test]
fn only_members_relayed_here_are_learned() {
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "p@198.51.100.50:5"]));
    for name in ["p", "nobody", "relay"] {
        relay.learn(name, MOVED);
    }
    assert_eq!(relay.tracker.endpoints().count(), 1);
    assert_eq!(relay.tracker.endpoint_of(id("p")), Some(at("198.51.100.50:5")));
}

/// Alice, Bob and Carol with a session for each pair and a handshake under way for each, then other members.
fn after(change: std::sync::Arc<Members>) -> (Relay, BTreeSet<u32>, BTreeSet<u32>) {
    let mut relay = trio();
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    relay.open(("bob", BOB, 3), ("carol", CAROL, 4));
    relay.open(("carol", CAROL, 5), ("alice", ALICE, 6));
    relay.wait(super::crafted::seconds(20));
    for (source, recipient, index) in [(ALICE, "bob", 11), (BOB, "carol", 13), (CAROL, "alice", 15)] {
        let initiation = relay.initiation(index, recipient);
        relay.hear(source, initiation);
    }
    relay.set_members(change);
    let sessions = relay.tracker.sessions().map(|session| session.initiator.index).collect();
    assert_eq!(relay.kernel.sessions.len(), 2 * relay.tracker.sessions_len());
    let pending = relay.kernel.pending.keys().copied().collect();
    (relay, sessions, pending)
}

#[test]
fn the_same_members_again_change_nothing() {
    let (relay, sessions, pending) = after(members(Policy::Members, &[], &["alice", "bob", "carol"]));
    assert_eq!((sessions, pending), ([1, 3, 5].into(), [11, 13, 15].into()));
    assert_eq!(relay.tracker.endpoint_of(id("alice")), Some(at(ALICE)));
}

#[test]
fn a_removed_members_sessions_end_at_once_and_only_those() {
    let (mut relay, sessions, pending) = after(members(Policy::Members, &[], &["alice", "bob"]));
    assert_eq!((sessions, pending), ([1].into(), [11].into()));
    assert_eq!(relay.count(Outcome::SessionRevoked), 2);
    assert_eq!(relay.tracker.endpoint_of(id("carol")), None);
    assert_eq!(relay.tracker.endpoint_of(id("alice")), Some(at(ALICE)));
    let initiation = relay.initiation(21, "carol");
    assert!(relay.hear(ALICE, initiation).is_empty());
    let response = relay.response(16, 15, "carol");
    assert!(relay.hear(ALICE, response).is_empty(), "nor does what was under way come through");
}

#[test]
fn a_network_no_longer_shared_ends_sessions() {
    let (_, sessions, pending) = after(members(Policy::Members, &[], &["alice", "bob", "carol/away"]));
    assert_eq!((sessions, pending), ([1].into(), [11].into()));
}

#[test]
fn members_of_which_none_is_relayed_here_any_more_lose_their_session() {
    let words = ["alice", "bob@198.51.100.20:1002", "carol@198.51.100.30:1003"];
    let (relay, sessions, pending) = after(members(Policy::Members, &[], &words));
    assert_eq!((sessions, pending), ([1, 5].into(), [11, 15].into()));
    assert_eq!(relay.tracker.endpoint_of(id("bob")), Some(at(BOB)));
}

#[test]
fn a_member_that_is_relayed_no_more_and_is_nowhere_else_loses_its_sessions() {
    let (_, sessions, pending) = after(members(Policy::Members, &[], &["alice", "bob", "carol@"]));
    assert_eq!((sessions, pending), ([1].into(), [11].into()));
}

#[test]
fn a_static_member_that_is_relayed_from_now_on_keeps_its_sessions() {
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "p@198.51.100.50:5"]));
    relay.learn("alice", ALICE);
    relay.open(("alice", ALICE, 1), ("p", "198.51.100.50:5", 2));
    relay.set_members(members(Policy::Members, &[], &["alice", "p"]));
    assert_eq!(relay.tracker.session_by_index(1).unwrap().responder.endpoint, at("198.51.100.50:5"));
}

#[test]
fn a_changed_static_endpoint_is_followed() {
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "p@198.51.100.50:5"]));
    relay.learn("alice", ALICE);
    relay.open(("alice", ALICE, 1), ("p", "198.51.100.50:5", 2));
    relay.set_members(members(Policy::Members, &[], &["alice", "p@198.51.100.51:5"]));
    assert_eq!(relay.tracker.session_by_index(1).unwrap().responder.endpoint, at("198.51.100.51:5"));
    assert_eq!(relay.tracker.endpoints().count(), 2);
}

#[test]
fn another_relays_changed_address_is_followed_and_its_loss_ends_what_it_had_under_way() {
    let words = ["alice", "remote@@other"];
    let (old, new) = ("192.0.2.77:51820", "192.0.2.78:51820");
    let mut relay = Relay::new(settings(), members(Policy::Members, &[("other", old)], &words));
    relay.learn("alice", ALICE);
    relay.open(("alice", ALICE, 1), ("remote", old, 2));
    let initiation = relay.initiation(3, "alice");
    relay.hear(old, initiation);
    relay.set_members(members(Policy::Members, &[("other", new)], &words));
    assert_eq!(relay.tracker.session_by_index(1).unwrap().responder.endpoint, at(new));
    assert!(!relay.kernel.pending.contains_key(&3), "the old address is no relay's any more");
}

#[test]
fn a_configured_endpoint_takes_precedence_over_a_learned_one() {
    let mut relay = trio();
    relay.set_members(members(Policy::Members, &[], &["alice", "bob", "p@198.51.100.30:1003"]));
    let known: BTreeSet<_> = relay.tracker.endpoints().collect();
    assert_eq!(
        known,
        [(at(ALICE), Some(id("alice"))), (at(BOB), Some(id("bob"))), (at(CAROL), Some(id("p")))].into()
    );
}
