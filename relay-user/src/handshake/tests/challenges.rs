//! Sources from which nothing is known: they prove their address with our cookie before anything is sent on for them.

use super::crafted::{ALICE, BOB, Relay, at, id, ip, members, opened, seconds, settings};
use crate::{
    handshake::{Limits, Outcome, Settings},
    members::Policy,
};

const STRANGER: &str = "198.51.100.77:7007";

#[test]
fn an_unknown_source_is_challenged_in_the_addressed_members_name() {
    let mut relay = Relay::with_alice_and_bob();
    let initiation = relay.initiation(1, "bob");
    let sent = relay.hear(STRANGER, initiation.clone());
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].remote, sent[0].local), (at(STRANGER), ip(super::crafted::RELAY)));
    opened(&sent[0].message, &initiation, "bob");
    assert!(sent[0].message.len() < initiation.len(), "no amplification");
    assert_eq!(relay.count(Outcome::Challenged), 1);
    assert!(relay.kernel.pending.is_empty(), "and nothing is remembered");
}

#[test]
fn it_obeys_and_connects_as_whom_the_response_names() {
    let mut relay = Relay::with_alice_and_bob();
    relay.prove(STRANGER, 1, "bob");
    assert_eq!(relay.count(Outcome::Mac2Verified), 1);
    let response = relay.response(2, 1, "alice");
    assert_eq!(relay.hear(BOB, response)[0].remote, at(STRANGER));
    let session = relay.tracker.session_by_index(1).unwrap();
    assert_eq!((session.initiator.member, session.initiator.endpoint), (Some(id("alice")), at(STRANGER)));
    // The session is bound to where it was proven from; where the interface has seen Alice is another matter.
    assert_eq!(relay.tracker.endpoint_of(id("alice")), Some(at(ALICE)));
}

#[test]
fn a_session_proven_from_elsewhere_stays_while_the_interface_says_otherwise() {
    let mut relay = Relay::with_alice_and_bob();
    relay.prove(STRANGER, 1, "bob");
    let response = relay.response(2, 1, "alice");
    relay.hear(BOB, response);
    let proven = *relay.tracker.session_by_index(1).unwrap();
    let at_home = relay.open(("alice", ALICE, 3), ("bob", BOB, 4));
    relay.learn("alice", ALICE);
    assert_eq!(relay.tracker.session_by_index(1), Some(&proven));
    relay.learn("alice", STRANGER);
    assert_eq!(relay.tracker.session_by_index(1), Some(&proven));
    assert_eq!(relay.tracker.session_by_index(3).unwrap().initiator.endpoint, at(STRANGER));
    assert_ne!(relay.tracker.session_by_index(3), Some(&at_home));
}

#[test]
fn a_wrong_mac2_is_challenged_again() {
    let mut relay = Relay::with_alice_and_bob();
    let initiation = relay.initiation(1, "bob");
    let sent = relay.hear(STRANGER, initiation.clone());
    let cookie = opened(&sent[0].message, &initiation, "bob");
    let mut wrong = cookie;
    wrong[0] ^= 1;
    let initiation = relay.initiation_with(2, "bob", &wrong);
    opened(&relay.hear(STRANGER, initiation.clone())[0].message, &initiation, "bob");
    // The right one, but from another address or port: no proof either.
    for other in ["198.51.100.77:7008", "198.51.100.78:7007"] {
        let initiation = relay.initiation_with(2, "bob", &cookie);
        assert_eq!(relay.hear(other, initiation)[0].message.len(), 64);
    }
    assert_eq!(relay.count(Outcome::Challenged), 4);
    assert_eq!(relay.count(Outcome::Mac2Verified), 0);
}

#[test]
fn a_response_that_names_nobody_permitted_proves_nothing() {
    let words = ["alice", "bob", "eve/elsewhere"];
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &words));
    relay.learn("bob", BOB);
    relay.prove(STRANGER, 1, "bob");
    for named in ["eve", "nobody", "bob", "relay"] {
        let response = relay.response(2, 1, named);
        assert!(relay.hear(BOB, response).is_empty(), "{named}");
    }
    assert_eq!(relay.count(Outcome::ResponseBadMac1), 4);
    assert_eq!(relay.tracker.sessions_len(), 0);
}

#[test]
fn a_proven_source_is_not_challenged_for_120_s() {
    let mut relay = Relay::with_alice_and_bob();
    relay.prove(STRANGER, 1, "bob");
    relay.wait(seconds(119));
    // Without any mac2, or with one under the loaded member's own cookie, as a client has but one.
    let initiation = relay.initiation(2, "bob");
    assert_eq!(relay.hear(STRANGER, initiation)[0].remote, at(BOB));
    let initiation = relay.initiation_with(3, "bob", &[0xb0; 16]);
    assert_eq!(relay.hear(STRANGER, initiation)[0].remote, at(BOB));
    relay.wait(seconds(1));
    let initiation = relay.initiation(4, "bob");
    assert_eq!(relay.hear(STRANGER, initiation)[0].remote, at(STRANGER), "challenged anew");
    assert_eq!(relay.count(Outcome::Mac2Verified), 1);
}

#[test]
fn the_previous_secret_stays_valid() {
    let mut relay = Relay::with_alice_and_bob();
    // The secret is born with the first challenge; the stranger's cookie is made by it 110 s later.
    let initiation = relay.initiation(1, "bob");
    relay.hear("198.51.100.1:1", initiation);
    relay.wait(seconds(110));
    let initiation = relay.initiation(2, "bob");
    let cookie = opened(&relay.hear(STRANGER, initiation.clone())[0].message, &initiation, "bob");
    relay.wait(seconds(100));
    let initiation = relay.initiation(3, "bob");
    relay.hear("198.51.100.1:1", initiation); // rotates
    let initiation = relay.initiation_with(4, "bob", &cookie);
    assert_eq!(relay.hear(STRANGER, initiation)[0].remote, at(BOB));
    // A cookie of two secrets ago is worth nothing.
    relay.wait(seconds(240));
    let initiation = relay.initiation_with(5, "bob", &cookie);
    assert_eq!(relay.hear(STRANGER, initiation)[0].remote, at(STRANGER));
}

#[test]
fn members_are_not_challenged() {
    let mut relay = Relay::with_alice_and_bob();
    let initiation = relay.initiation(1, "bob");
    assert_eq!(relay.hear(ALICE, initiation)[0].remote, at(BOB));
    assert_eq!(relay.count(Outcome::Challenged), 0);
}

#[test]
fn nothing_goes_out_for_a_stranger_that_wants_nobody_reachable() {
    let mut relay = Relay::new(settings(), members(Policy::Members, &[], &["alice", "bob"]));
    let initiation = relay.initiation(1, "nobody");
    assert!(relay.hear(STRANGER, initiation).is_empty());
    assert_eq!(relay.count(Outcome::UnknownRecipient), 1);
    let initiation = relay.initiation(1, "bob");
    assert!(relay.hear(STRANGER, initiation).is_empty());
    assert_eq!(relay.count(Outcome::RecipientUnknownEndpoint), 1);
}

#[test]
fn a_full_table_of_the_proven_still_honours_proofs() {
    let limits = Limits { proven: 2, ..Limits::default() };
    let mut relay =
        Relay::new(Settings { limits, ..settings() }, members(Policy::Members, &[], &["alice", "bob"]));
    relay.learn("bob", BOB);
    for n in 0..10 {
        relay.prove(&format!("198.51.100.{}:7", 100 + n), n, "bob");
    }
    assert_eq!(relay.tracker.proven.len(), 2);
    // The first ones were not pushed out.
    let initiation = relay.initiation(100, "bob");
    assert_eq!(relay.hear("198.51.100.100:7", initiation)[0].remote, at(BOB));
}
