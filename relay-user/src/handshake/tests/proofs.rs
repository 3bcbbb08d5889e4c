//! What proves a session, and what does not.

use proptest::prelude::*;

use super::crafted::{ALICE, BOB, RELAY, RELAY_2, RELAY_6, Relay, at, id, ip, members, seconds, settings};
use crate::{
    handshake::{Datagram, Outcome, Session, Side},
    members::Policy,
};

#[test]
fn a_handshake_goes_both_ways_and_opens_a_session() {
    let mut relay = Relay::with_alice_and_bob();
    let initiation = relay.initiation(1, "bob");
    let sent = relay.hear(ALICE, initiation.clone());
    assert_eq!(sent, [Datagram { local: ip(RELAY), remote: at(BOB), ttl: 63, message: initiation }]);
    assert_eq!(relay.kernel.pending.get(&1), Some(&at(BOB)));
    assert_eq!(relay.tracker.sessions_len(), 0);

    let response = relay.response(2, 1, "alice");
    let sent = relay.hear(BOB, response.clone());
    assert_eq!(sent, [Datagram { local: ip(RELAY), remote: at(ALICE), ttl: 63, message: response }]);
    let side = |index, endpoint, name| Side {
        index,
        endpoint: at(endpoint),
        local: ip(RELAY),
        member: Some(id(name)),
    };
    let session =
        Session { initiator: side(1, ALICE, "alice"), responder: side(2, BOB, "bob"), opened: relay.now };
    assert_eq!(relay.tracker.sessions().collect::<Vec<_>>(), [&session]);
    assert_eq!(relay.tracker.session_by_index(1), Some(&session));
    assert_eq!(relay.tracker.session_by_index(2), Some(&session));
    assert_eq!(relay.kernel.sessions.len(), 2);
    assert_eq!(relay.count(Outcome::InitiationForwarded), 1);
    assert_eq!(relay.count(Outcome::ResponseForwarded), 1);
    assert_eq!(relay.count(Outcome::SessionOpened), 1);
}

#[test]
fn ipv6_hosts_talk_over_the_ipv6_address() {
    let mut relay = Relay::with_alice_and_bob();
    relay.learn("alice", "[2001:db8:a::1]:1");
    relay.learn("bob", "[2001:db8:b::1]:1");
    let session = relay.open(("alice", "[2001:db8:a::1]:1", 1), ("bob", "[2001:db8:b::1]:1", 2));
    assert_eq!(session.responder.local, ip(RELAY_6));
}

#[test]
fn a_repeated_initiation_is_sent_on_again_without_a_second_entry() {
    let mut relay = Relay::with_alice_and_bob();
    let initiation = relay.initiation(1, "bob");
    for _ in 0..3 {
        assert_eq!(relay.hear(ALICE, initiation.clone()).len(), 1);
    }
    let response = relay.response(2, 1, "alice");
    assert_eq!(relay.hear(BOB, response).len(), 1);
    assert_eq!(relay.hear(ALICE, initiation).len(), 1, "also after the response");
    assert_eq!((relay.tracker.pending_len(), relay.tracker.sessions_len()), (1, 1));
}

#[test]
fn the_first_pending_entry_for_an_index_wins() {
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "bob", "carol"]));
    for (name, endpoint) in [("alice", ALICE), ("bob", BOB), ("carol", "198.51.100.30:3")] {
        relay.learn(name, endpoint);
    }
    let first = relay.initiation(1, "bob");
    relay.hear(ALICE, first);
    for (source, recipient) in [("198.51.100.30:3", "bob"), (ALICE, "carol")] {
        let second = relay.initiation(1, recipient);
        assert!(relay.hear(source, second).is_empty());
    }
    assert_eq!(relay.count(Outcome::IndexTaken), 2);
    assert_eq!(relay.kernel.pending.get(&1), Some(&at(BOB)), "the first entry still stands");
    // It is not prolonged either: 15 s after the first, the index is free.
    relay.wait(seconds(14));
    let again = relay.initiation(1, "bob");
    relay.hear(ALICE, again);
    relay.wait(seconds(1));
    assert!(relay.kernel.pending.is_empty());
}

#[test]
fn a_response_does_not_consume_the_pending_entry_and_three_are_relayed() {
    let mut relay = Relay::with_alice_and_bob();
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    let response = relay.response(2, 1, "alice");
    assert_eq!(relay.hear(BOB, response.clone()).len(), 1);
    assert_eq!(relay.hear(BOB, response.clone()).len(), 1);
    assert!(relay.hear(BOB, response.clone()).is_empty());
    assert_eq!(relay.count(Outcome::ResponseLimit), 1);
    assert_eq!(relay.count(Outcome::SessionOpened), 1, "a repeated response opens nothing new");
    assert_eq!(relay.tracker.pending_len(), 1);
    relay.wait(seconds(15));
    assert!(relay.hear(BOB, response).is_empty());
    assert_eq!(relay.count(Outcome::ResponseUnexpected), 1);
    assert_eq!(relay.tracker.sessions_len(), 1);
}

#[test]
fn cookie_replies_count_as_answers() {
    let mut relay = Relay::with_alice_and_bob();
    let initiation = relay.initiation(1, "bob");
    relay.hear(ALICE, initiation);
    for _ in 0..3 {
        let cookie = relay.cookie_reply(1);
        assert_eq!(relay.hear(BOB, cookie)[0].remote, at(ALICE));
    }
    let cookie = relay.cookie_reply(1);
    assert!(relay.hear(BOB, cookie).is_empty());
    let response = relay.response(2, 1, "alice");
    assert!(relay.hear(BOB, response).is_empty());
    assert_eq!(relay.count(Outcome::CookieForwarded), 3);
    assert_eq!(relay.count(Outcome::ResponseLimit), 2);
}

#[test]
fn a_response_from_another_endpoint_than_the_recipients_is_refused() {
    let mut relay = Relay::with_alice_and_bob();
    let initiation = relay.initiation(1, "bob");
    relay.hear(ALICE, initiation);
    for source in ["198.51.100.20:1003", "198.51.100.21:1002", ALICE] {
        let response = relay.response(2, 1, "alice");
        assert!(relay.hear(source, response).is_empty());
    }
    assert_eq!(relay.count(Outcome::ResponseWrongSource), 3);
    assert_eq!(relay.tracker.sessions_len(), 0);
}

#[test]
fn a_response_whose_mac1_names_somebody_else_is_refused() {
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "bob", "carol"]));
    relay.learn("alice", ALICE);
    relay.learn("bob", BOB);
    let initiation = relay.initiation(1, "bob");
    relay.hear(ALICE, initiation);
    for named in ["carol", "bob", "relay", "nobody"] {
        let response = relay.response(2, 1, named);
        assert!(relay.hear(BOB, response).is_empty(), "{named}");
    }
    assert_eq!(relay.count(Outcome::ResponseBadMac1), 4);
    assert!(relay.kernel.interface_reads > 0, "perhaps the endpoint is another's by now");
    let response = relay.response(2, 1, "alice");
    assert_eq!(relay.hear(BOB, response).len(), 1, "the genuine one still counts");
}

#[test]
fn bad_responses_to_one_initiation_are_not_looked_at_for_ever() {
    let mut relay = Relay::with_alice_and_bob();
    let initiation = relay.initiation(1, "bob");
    relay.hear(ALICE, initiation);
    for _ in 0..20 {
        let response = relay.response(2, 1, "nobody");
        relay.hear(BOB, response);
    }
    assert_eq!(relay.count(Outcome::ResponseBadMac1), 8);
    assert_eq!(relay.count(Outcome::ResponseLimit), 12);
}

#[test]
fn a_member_that_forges_a_response_never_changes_anothers_endpoint() {
    // Mallory knows Alice's public key. She answers an initiation of her own making in Alice's name, from two places.
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "bob", "mallory"]));
    let mallory = "198.51.100.66:6";
    for (name, endpoint) in [("alice", ALICE), ("bob", BOB), ("mallory", mallory)] {
        relay.learn(name, endpoint);
    }
    let before: std::collections::BTreeSet<_> = relay.tracker.endpoints().collect();
    let genuine = relay.open(("alice", ALICE, 1), ("bob", BOB, 2));

    relay.prove("198.51.100.67:7", 11, "mallory");
    let forged = relay.response(12, 11, "alice");
    assert_eq!(relay.hear(mallory, forged).len(), 1, "it proves a session of its addresses, no more");

    assert_eq!(relay.tracker.endpoint_of(id("alice")), Some(at(ALICE)));
    assert_eq!(relay.tracker.endpoints().collect::<std::collections::BTreeSet<_>>(), before);
    assert_eq!(relay.tracker.session_by_index(1), Some(&genuine));
    let initiation = relay.initiation(21, "alice");
    assert_eq!(relay.hear(BOB, initiation)[0].remote, at(ALICE), "Alice's traffic goes to Alice");
}

#[test]
fn indices_of_live_sessions_are_refused() {
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "bob", "carol"]));
    let carol = "198.51.100.30:3";
    for (name, endpoint) in [("alice", ALICE), ("bob", BOB), ("carol", carol)] {
        relay.learn(name, endpoint);
    }
    let live = relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    relay.wait(seconds(20));
    for taken in [1, 2] {
        let initiation = relay.initiation(taken, "alice");
        assert!(relay.hear(carol, initiation).is_empty(), "an initiator's index");
    }
    let initiation = relay.initiation(3, "alice");
    relay.hear(carol, initiation);
    for taken in [1, 2, 3] {
        let response = relay.response(taken, 3, "carol");
        assert!(relay.hear(ALICE, response).is_empty(), "a responder's index {taken}");
    }
    assert_eq!(relay.count(Outcome::IndexTaken), 5);
    assert_eq!(relay.tracker.sessions().collect::<Vec<_>>(), [&live]);
    let response = relay.response(4, 3, "carol");
    assert_eq!(relay.hear(ALICE, response).len(), 1, "with another index it works");
}

#[test]
fn an_index_that_became_a_sessions_after_its_initiation_is_refused_too() {
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "bob", "carol"]));
    let carol = "198.51.100.30:3";
    for (name, endpoint) in [("alice", ALICE), ("bob", BOB), ("carol", carol)] {
        relay.learn(name, endpoint);
    }
    let initiation = relay.initiation(7, "bob");
    relay.hear(carol, initiation);
    let live = relay.open(("alice", ALICE, 1), ("bob", BOB, 7));
    let response = relay.response(8, 7, "carol");
    assert!(relay.hear(BOB, response).is_empty());
    assert_eq!(relay.tracker.sessions().collect::<Vec<_>>(), [&live]);
}

#[test]
fn a_forged_response_that_came_first_does_not_keep_the_genuine_out() {
    let mut relay = Relay::with_alice_and_bob();
    let initiation = relay.initiation(1, "bob");
    relay.hear(ALICE, initiation);
    let forged = relay.response(66, 1, "alice");
    assert_eq!(relay.hear(BOB, forged).len(), 1);
    let genuine = relay.response(2, 1, "alice");
    assert_eq!(relay.hear(BOB, genuine).len(), 1);
    assert_eq!(relay.tracker.session_by_index(1).unwrap().responder.index, 2);
    assert_eq!(relay.tracker.session_by_index(66), None);
    // Once Alice has used it, a later one can't displace it.
    assert!(relay.tracker.confirm(2));
    let late = relay.response(67, 1, "alice");
    assert!(relay.hear(BOB, late).is_empty());
    assert_eq!(relay.tracker.session_by_index(1).unwrap().responder.index, 2);
}

#[test]
fn cookie_replies_are_relayed_in_both_directions() {
    let mut relay = Relay::with_alice_and_bob();
    let initiation = relay.initiation(1, "bob");
    relay.hear(ALICE, initiation);
    let from_responder = relay.cookie_reply(1);
    let sent = relay.hear(BOB, from_responder.clone());
    assert_eq!(sent, [Datagram { local: ip(RELAY), remote: at(ALICE), ttl: 63, message: from_responder }]);
    let response = relay.response(2, 1, "alice");
    relay.hear(BOB, response);
    // A loaded initiator answers the *response*: receiver index is the responder's.
    let from_initiator = relay.cookie_reply(2);
    let sent = relay.hear(ALICE, from_initiator.clone());
    assert_eq!(sent, [Datagram { local: ip(RELAY), remote: at(BOB), ttl: 63, message: from_initiator }]);
    assert_eq!(relay.count(Outcome::CookieForwarded), 2);
    // Bounded as well.
    for _ in 0..5 {
        let cookie = relay.cookie_reply(2);
        relay.hear(ALICE, cookie);
    }
    assert_eq!(relay.count(Outcome::CookieForwarded), 4);
}

#[test]
fn a_cookie_reply_from_elsewhere_or_to_nothing_is_refused() {
    let mut relay = Relay::with_alice_and_bob();
    relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
    for (source, receiver) in [(ALICE, 1), (BOB, 2), ("198.51.100.99:9", 1), ("198.51.100.99:9", 2)] {
        let cookie = relay.cookie_reply(receiver);
        assert!(relay.hear(source, cookie).is_empty(), "{source} to {receiver}");
    }
    assert_eq!(relay.count(Outcome::CookieWrongSource), 4);
    let cookie = relay.cookie_reply(3);
    assert!(relay.hear(BOB, cookie).is_empty());
    assert_eq!(relay.count(Outcome::CookieUnexpected), 1);
}

#[test]
fn every_relayed_message_loses_one_hop() {
    let mut relay = Relay::with_alice_and_bob();
    let (initiation, response, cookie) =
        (relay.initiation(1, "bob"), relay.response(2, 1, "alice"), relay.cookie_reply(1));
    let datagram = |remote, ttl, message: &Vec<u8>| Datagram {
        local: ip(RELAY),
        remote: at(remote),
        ttl,
        message: message.clone(),
    };
    for (source, message) in [(ALICE, &initiation), (BOB, &cookie), (BOB, &response)] {
        for ttl in [0, 1] {
            assert!(relay.receive(&datagram(source, ttl, message)).is_empty());
        }
        assert_eq!(relay.receive(&datagram(source, 2, message))[0].ttl, 1);
    }
    assert_eq!(relay.count(Outcome::TtlExceeded), 6);
    assert_eq!(relay.count(Outcome::SessionOpened), 1);
}

#[test]
fn each_side_is_spoken_to_from_the_address_that_it_speaks_to() {
    let mut relay = Relay::with_alice_and_bob();
    // Bob has registered by way of the relay's second address.
    let greeting = relay.initiation(5, "relay");
    relay.receive(&Datagram { local: ip(RELAY_2), remote: at(BOB), ttl: 64, message: greeting });
    let initiation = relay.initiation(1, "bob");
    assert_eq!(relay.hear(ALICE, initiation)[0].local, ip(RELAY_2));
    let response = relay.response(2, 1, "alice");
    let sent = relay.receive(&Datagram { local: ip(RELAY_2), remote: at(BOB), ttl: 64, message: response });
    assert_eq!(sent[0].local, ip(RELAY));
    let session = relay.tracker.session_by_index(1).unwrap();
    assert_eq!((session.initiator.local, session.responder.local), (ip(RELAY), ip(RELAY_2)));
}

#[test]
fn an_answer_too_tells_which_of_our_addresses_a_host_speaks_to() {
    let mut relay = Relay::with_alice_and_bob();
    let answers = [relay.response(2, 1, "alice"), relay.cookie_reply(1)];
    for (answer, local) in answers.into_iter().zip([ip(RELAY_2), ip(RELAY)]) {
        let initiation = relay.initiation(1, "bob");
        relay.hear(ALICE, initiation);
        relay.receive(&Datagram { local, remote: at(BOB), ttl: 64, message: answer });
        let next = relay.initiation(3, "bob");
        assert_eq!(relay.hear(ALICE, next)[0].local, local);
    }
}

#[test]
fn the_address_that_an_unknown_host_greeted_is_remembered_until_it_is_learned() {
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "bob"]));
    relay.learn("alice", ALICE);
    let greeting = relay.initiation(5, "relay");
    relay.receive(&Datagram { local: ip(RELAY_2), remote: at(BOB), ttl: 64, message: greeting });
    relay.learn("bob", BOB);
    let initiation = relay.initiation(1, "bob");
    assert_eq!(relay.hear(ALICE, initiation)[0].local, ip(RELAY_2));
    // And it goes with the host when that moves.
    relay.learn("bob", "198.51.100.20:2002");
    let initiation = relay.initiation(2, "bob");
    let sent = relay.hear(ALICE, initiation);
    assert_eq!((sent[0].local, sent[0].remote), (ip(RELAY_2), at("198.51.100.20:2002")));
}

#[test]
fn an_initiation_for_the_relay_is_not_relayed_but_asks_for_a_look_at_the_interface() {
    let mut relay = Relay::with_alice_and_bob();
    for source in [ALICE, "198.51.100.99:9"] {
        let reads = relay.kernel.interface_reads;
        let initiation = relay.initiation(1, "relay");
        assert!(relay.hear(source, initiation).is_empty(), "neither sent on nor challenged");
        assert_eq!(relay.kernel.interface_reads, reads + 1);
    }
    assert_eq!(relay.count(Outcome::InitiationForRelay), 2);
    assert_eq!(relay.tracker.pending_len(), 0);
}

#[test]
fn what_is_no_handshake_message_is_counted_and_left_alone() {
    let mut relay = Relay::with_alice_and_bob();
    let mut data = vec![0; 32];
    data[0] = 4;
    for message in [vec![], vec![1, 0, 0], data, vec![1; 148]] {
        assert!(relay.hear(ALICE, message).is_empty());
    }
    assert_eq!(relay.count(Outcome::NotHandshake), 4);
}

proptest! {
    #[test]
    fn nothing_panics_on_random_bytes(
        messages in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..160), 0_usize..6, any::<u8>(), 0_u8..3), 1..20)
    ) {
        let mut relay = Relay::with_alice_and_bob();
        relay.open(("alice", ALICE, 1), ("bob", BOB, 2));
        for (mut message, shape, ttl, source) in messages {
            // Most of them with a good shape and indices that hit something.
            if let Some(len) = [148, 92, 64].get(shape) {
                message.resize(*len, 0);
                message[..4].copy_from_slice(&[shape as u8 + 1, 0, 0, 0]);
                message[4..12].copy_from_slice(&[ttl % 4, 0, 0, 0, ttl / 4 % 4, 0, 0, 0]);
            }
            let remote = at([ALICE, BOB, "198.51.100.99:9"][usize::from(source)]);
            relay.receive(&Datagram { local: ip(RELAY), remote, ttl, message });
        }
        prop_assert!(relay.tracker.session_by_index(1).is_some());
    }
}
