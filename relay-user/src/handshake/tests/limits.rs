//! Bounds: of time, of a pair, of a member, of every table.

use super::crafted::{ALICE, BOB, Relay, id, ip, members, seconds, settings};
use crate::{
    handshake::{Limits, Outcome, Session, Settings, Side},
    members::Policy,
};

const CAROL: &str = "198.51.100.30:1003";

fn limited(limits: Limits) -> Relay {
    let words = ["alice", "bob", "carol"];
    let mut relay = Relay::new(Settings { limits, ..settings() }, members(Policy::Members, &[], &words));
    for (name, endpoint) in [("alice", ALICE), ("bob", BOB), ("carol", CAROL)] {
        relay.learn(name, endpoint);
    }
    relay
}

fn live(relay: &Relay) -> Vec<u32> {
    let mut indices: Vec<u32> = relay.tracker.sessions().map(|session| session.initiator.index).collect();
    indices.sort_unstable();
    indices
}

#[test]
fn sessions_end_by_the_protocols_clock() {
    let mut relay = limited(Limits::default());
    assert_eq!(relay.tracker.next_expiry(), None);
    let start = relay.now;
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    assert_eq!(relay.tracker.next_expiry(), Some(start + seconds(15)), "the pending handshake");
    relay.wait(seconds(100));
    assert_eq!(relay.tracker.next_expiry(), Some(start + seconds(185)));
    relay.open(("alice", ALICE, 3), ("bob", BOB, 4));
    relay.tracker.confirm(2);
    relay.wait(seconds(85) - std::time::Duration::from_nanos(1));
    assert_eq!(live(&relay), [1, 3]);
    relay.wait(std::time::Duration::from_nanos(1));
    assert_eq!(live(&relay), [3]);
    assert_eq!(relay.tracker.next_expiry(), Some(start + seconds(285)));
    relay.wait(seconds(100));
    assert!(relay.kernel.sessions.is_empty() && relay.kernel.pending.is_empty());
    assert_eq!(relay.count(Outcome::SessionExpired), 2);
    assert_eq!(relay.tracker.next_expiry(), None);
}

#[test]
fn a_message_does_not_see_what_has_expired_unnoticed() {
    let mut relay = limited(Limits::default());
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    relay.now += seconds(185);
    let initiation = relay.initiation(2, "bob");
    assert_eq!(relay.hear(CAROL, initiation).len(), 1, "the index is free again");
    assert!(live(&relay).is_empty());
}

#[test]
fn six_sessions_for_a_pair_the_oldest_unconfirmed_goes_first() {
    let mut relay = limited(Limits::default());
    // Both directions count for the pair.
    for n in 1..=3 {
        relay.open(("alice", ALICE, n), ("bob", BOB, 100 + n));
        relay.open(("bob", BOB, 3 + n), ("alice", ALICE, 103 + n));
        relay.wait(seconds(1));
    }
    relay.open(("alice", ALICE, 50), ("carol", CAROL, 51));
    for confirmed in [101, 104] {
        assert!(relay.tracker.confirm(confirmed));
    }
    // In the order of age: 1, 4 (both confirmed), 2, 5, 3, 6.
    relay.open(("alice", ALICE, 7), ("bob", BOB, 107));
    assert_eq!(live(&relay), [1, 3, 4, 5, 6, 7, 50]);
    for confirmed in [103, 105, 106, 107] {
        relay.tracker.confirm(confirmed);
    }
    relay.open(("alice", ALICE, 8), ("bob", BOB, 108));
    assert_eq!(live(&relay), [3, 4, 5, 6, 7, 8, 50], "all confirmed: the oldest");
    assert_eq!(relay.count(Outcome::SessionSuperseded), 2);
}

#[test]
fn data_confirms_only_by_the_responders_index() {
    let mut relay = limited(Limits::default());
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    assert!(!relay.tracker.confirm(1), "what the responder sends does not prove it");
    assert!(!relay.tracker.confirm(3));
    assert!(relay.tracker.confirm(2));
}

#[test]
fn a_member_fills_only_its_own_quota() {
    let mut relay = limited(Limits { sessions_per_responder: 4, ..Limits::default() });
    for n in 0..2 {
        relay.open(("alice", ALICE, 10 + n), ("bob", BOB, 20 + n));
        relay.open(("carol", CAROL, 30 + n), ("bob", BOB, 40 + n));
    }
    let initiation = relay.initiation(50, "bob");
    relay.hear(ALICE, initiation);
    let response = relay.response(51, 50, "alice");
    assert!(relay.hear(BOB, response).is_empty());
    assert_eq!(relay.count(Outcome::QuotaExceeded), 1);
    assert_eq!(live(&relay), [10, 11, 30, 31], "nobody was put out");
    relay.open(("bob", BOB, 60), ("alice", ALICE, 61));
    relay.open(("alice", ALICE, 62), ("carol", CAROL, 63));
    relay.wait(seconds(185));
    relay.open(("alice", ALICE, 70), ("bob", BOB, 71));
}

#[test]
fn a_pair_at_its_limit_may_still_renew_when_the_quota_is_full() {
    let mut relay = limited(Limits { sessions_per_responder: 6, ..Limits::default() });
    for n in 0..20 {
        relay.open(("alice", ALICE, 100 + n), ("bob", BOB, 200 + n));
    }
    assert_eq!(live(&relay), [114, 115, 116, 117, 118, 119]);
}

#[test]
fn a_full_session_table_refuses() {
    let mut relay = limited(Limits { sessions: 2, ..Limits::default() });
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    relay.open(("alice", ALICE, 3), ("carol", CAROL, 4));
    let initiation = relay.initiation(5, "carol");
    relay.hear(BOB, initiation);
    let response = relay.response(6, 5, "bob");
    assert!(relay.hear(CAROL, response).is_empty());
    assert_eq!(relay.count(Outcome::SessionsFull), 1);
    assert_eq!(live(&relay), [1, 3]);
}

#[test]
fn a_flood_leaves_genuine_pending_entries_and_bounded_tables() {
    let mut relay = limited(Limits { pending: 1000, proven: 500, ..Limits::default() });
    let initiation = relay.initiation(1, "bob");
    assert_eq!(relay.hear(ALICE, initiation).len(), 1);
    // Sources that do prove their address, more than there is room for.
    for n in 0..600 {
        relay.prove(&format!("198.51.{}.{}:9", n / 200, n % 200 + 1), 10_000 + n, "bob");
    }
    for n in 0..100_000_u32 {
        let source = format!("{}.{}.{}.9:{}", 11 + n % 50, n % 251, n / 251 % 251, 1024 + n % 60_000);
        let recipient = ["bob", "relay", "nobody", "alice"][n as usize % 4];
        let source = if n % 3 == 0 { CAROL } else { &source };
        let initiation = relay.initiation(0x100_0000 + n, recipient);
        relay.hear(source, initiation);
    }
    assert_eq!(relay.tracker.pending_len(), 1000);
    assert_eq!(relay.kernel.pending.len(), 1000);
    assert_eq!(relay.tracker.proven.len(), 500);
    assert_eq!(relay.tracker.greeted.len(), 500);
    assert!(relay.count(Outcome::PendingFull) > 10_000);
    assert_eq!(relay.tracker.endpoints().count(), 3);
    let response = relay.response(2, 1, "alice");
    assert_eq!(relay.hear(BOB, response).len(), 1, "the genuine handshake completes");
    relay.wait(seconds(15));
    assert_eq!((relay.tracker.pending_len(), relay.kernel.pending.len()), (0, 0));
    relay.wait(seconds(120));
    assert_eq!((relay.tracker.proven.len(), relay.tracker.greeted.len()), (0, 0));
    relay.open(("alice", ALICE, 3), ("bob", BOB, 4));
}

#[test]
fn what_was_read_from_the_maps_is_put_back() {
    let mut old = limited(Limits::default());
    let sessions =
        [old.open(("alice", ALICE, 1), ("bob", BOB, 2)), old.open(("bob", BOB, 3), ("carol", CAROL, 4))];
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "bob", "carol"]));
    relay.now = old.now + seconds(60);
    for session in sessions {
        assert!(relay.tracker.restore(session));
        assert!(!relay.tracker.restore(session), "once is enough");
        for index in [session.initiator.index, session.responder.index] {
            relay.kernel.sessions.insert(index, session);
        }
    }
    assert_eq!(relay.tracker.sessions_len(), 2);
    // It is as if nothing had happened: roaming, revocation and expiry go on.
    relay.learn("alice", ALICE);
    relay.learn("alice", CAROL);
    assert_eq!(relay.tracker.session_by_index(2).unwrap().initiator.endpoint.to_string(), CAROL);
    relay.set_members(members(Policy::Members, &[], &["alice", "bob"]));
    assert_eq!(live(&relay), [1]);
    relay.wait(seconds(125));
    assert!(relay.kernel.sessions.is_empty());
}

#[test]
fn the_relays_address_that_a_restored_session_uses_is_remembered() {
    let mut relay = limited(Limits::default());
    let mut session = relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    session.responder.local = ip(super::crafted::RELAY_2);
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "bob"]));
    assert!(relay.tracker.restore(session));
    relay.learn("alice", ALICE);
    relay.learn("bob", BOB);
    let initiation = relay.initiation(3, "bob");
    assert_eq!(relay.hear(ALICE, initiation)[0].local, ip(super::crafted::RELAY_2));
}

#[test]
fn what_can_not_be_a_session_of_ours_is_not_put_back() {
    let mut relay = limited(Limits::default());
    let good = relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    let side = |index, endpoint: &str, member: &str| Side {
        index,
        endpoint: endpoint.parse().unwrap(),
        local: ip(super::crafted::RELAY),
        member: Some(id(member)),
    };
    let base =
        Session { initiator: side(3, ALICE, "alice"), responder: side(4, BOB, "bob"), opened: good.opened };
    let mut bad = [base; 9];
    bad[0].initiator.index = 2;
    bad[1].responder.index = 1;
    bad[2].responder.index = 3;
    bad[3].initiator.member = None;
    bad[4].initiator.member = Some(id("nobody"));
    bad[5].responder.endpoint = "127.0.0.1:5".parse().unwrap();
    bad[6].initiator.local = ip("192.0.2.200");
    bad[7].responder.endpoint = "[2001:db8:b::1]:5".parse().unwrap();
    bad[8].responder.endpoint = base.initiator.endpoint;
    for (n, session) in bad.into_iter().enumerate() {
        assert!(!relay.tracker.restore(session), "case {n}");
    }
    assert_eq!(live(&relay), [1]);
    assert!(relay.tracker.restore(base));
}
