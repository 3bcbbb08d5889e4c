//! Who may talk to whom, and where each is to be found.

use std::sync::Arc;

use super::crafted::{ALICE, BOB, RELAY, RELAY_6, Relay, at, id, key, member, members, settings};
use crate::{
    handshake::Outcome,
    members::{Members, OtherRelay, Place, Policy},
};

const OTHER_RELAY: &str = "192.0.2.77:51820";
const STATIC: &str = "198.51.100.50:5";

fn world(policy: Policy) -> Relay {
    let words = [
        "alice",
        "bob",
        "eve/elsewhere",
        "static@198.51.100.50:5",
        "static2@198.51.100.51:5",
        "remote@@other",
        "remote2@@other",
    ];
    let mut relay = Relay::new(settings(), members(policy, &[("other", OTHER_RELAY)], &words));
    relay.learn("alice", ALICE);
    relay.learn("bob", BOB);
    relay.learn("eve", "198.51.100.40:4");
    relay
}

#[test]
fn members_of_one_network_may_talk_and_others_not() {
    let mut relay = world(Policy::Members);
    let initiation = relay.initiation(1, "alice");
    assert!(relay.hear("198.51.100.40:4", initiation).is_empty());
    let initiation = relay.initiation(1, "eve");
    assert!(relay.hear(ALICE, initiation).is_empty());
    assert_eq!(relay.count(Outcome::NotPermitted), 2);
    let initiation = relay.initiation(1, "bob");
    assert_eq!(relay.hear(ALICE, initiation).len(), 1);
}

#[test]
fn a_member_does_not_talk_to_itself() {
    for policy in [Policy::Members, Policy::Any] {
        let mut relay = world(policy);
        let initiation = relay.initiation(1, "alice");
        assert!(relay.hear(ALICE, initiation).is_empty());
        assert_eq!(relay.count(Outcome::NotPermitted), 1);
    }
}

#[test]
fn one_of_the_two_must_be_relayed_here() {
    let mut relay = world(Policy::Members);
    for (recipient, index) in [("static2", 1), ("remote", 2)] {
        let initiation = relay.initiation(index, recipient);
        assert!(relay.hear(STATIC, initiation).is_empty());
    }
    assert_eq!(relay.count(Outcome::NotPermitted), 2);
}

#[test]
fn a_member_is_found_here_at_its_relay_or_at_its_static_endpoint() {
    let mut relay = world(Policy::Members);
    for (recipient, endpoint, index) in [("bob", BOB, 1), ("remote", OTHER_RELAY, 2), ("static", STATIC, 3)] {
        let initiation = relay.initiation(index, recipient);
        assert_eq!(relay.hear(ALICE, initiation)[0].remote, at(endpoint));
        assert_eq!(relay.tracker.endpoint_of(id(recipient)), Some(at(endpoint)));
    }
    relay.open(("alice", ALICE, 11), ("static", STATIC, 12));
    relay.open(("static", STATIC, 13), ("alice", ALICE, 14));
    relay.open(("alice", ALICE, 15), ("remote", OTHER_RELAY, 16));
}

#[test]
fn another_relay_is_trusted_and_its_response_names_the_member() {
    let mut relay = world(Policy::Members);
    let session = relay.open(("remote", OTHER_RELAY, 1), ("alice", ALICE, 2));
    assert_eq!(session.initiator.member, Some(id("remote")));
    assert_eq!(relay.count(Outcome::Challenged), 0);
    // Two of its hosts with the same endpoint are told apart.
    let session = relay.open(("remote2", OTHER_RELAY, 3), ("alice", ALICE, 4));
    assert_eq!(session.initiator.member, Some(id("remote2")));
    // But not every name goes.
    let initiation = relay.initiation(5, "alice");
    relay.hear(OTHER_RELAY, initiation);
    for named in ["eve", "nobody", "alice"] {
        let response = relay.response(6, 5, named);
        assert!(relay.hear(ALICE, response).is_empty(), "{named}");
    }
}

#[test]
fn what_comes_from_another_relay_goes_only_to_members_relayed_here() {
    for policy in [Policy::Members, Policy::Any] {
        let mut relay = world(policy);
        for (recipient, index) in [("remote", 1), ("static", 2)] {
            let initiation = relay.initiation(index, recipient);
            assert!(relay.hear(OTHER_RELAY, initiation).is_empty(), "{recipient}: a loop");
        }
        assert_eq!(relay.count(Outcome::RelayLoop), 2);
        assert!(relay.kernel.pending.is_empty());
    }
}

#[test]
fn under_policy_any_acceptance_is_enough() {
    let mut relay = world(Policy::Any);
    let stranger = "198.51.100.77:7";
    relay.prove(stranger, 1, "alice");
    let response = relay.response(2, 1, "nobody that we know");
    assert_eq!(relay.hear(ALICE, response).len(), 1);
    let session = relay.tracker.session_by_index(1).unwrap();
    assert_eq!((session.initiator.member, session.responder.member), (None, Some(id("alice"))));
    // Members are still recognised, across networks too.
    let session = relay.open(("eve", "198.51.100.40:4", 3), ("alice", ALICE, 4));
    assert_eq!(session.initiator.member, Some(id("eve")));
    // Under policy members the same is refused.
    let mut relay = world(Policy::Members);
    relay.prove(stranger, 1, "alice");
    let response = relay.response(2, 1, "nobody that we know");
    assert!(relay.hear(ALICE, response).is_empty());
}

#[test]
fn sessions_of_strangers_under_policy_any_are_bounded_per_pair_too() {
    let mut relay = world(Policy::Any);
    let stranger = "198.51.100.77:7";
    relay.prove(stranger, 0, "alice");
    for n in 0..8 {
        relay.open(("nobody", stranger, 100 + n), ("alice", ALICE, 200 + n));
    }
    assert_eq!(relay.tracker.sessions_len(), 6);
}

#[test]
fn refused_sources_are_not_heard() {
    let mut relay = world(Policy::Members);
    let refused = [
        "127.0.0.1:7",
        "224.0.0.1:7",
        "255.255.255.255:7",
        "0.0.0.0:7",
        "198.51.100.1:0",
        "203.0.113.9:7",
        "192.0.2.1:7",
        "192.0.2.2:51820",
        "[::1]:7",
        "[::]:7",
        "[ff02::1]:7",
        "[fe80::1]:7",
        "[2001:db8::1]:51820",
    ];
    for source in refused {
        for message in [relay.initiation(1, "alice"), relay.initiation(1, "relay")] {
            assert!(relay.hear(source, message).is_empty(), "{source}");
        }
    }
    assert_eq!(relay.count(Outcome::SourceRefused), 2 * refused.len() as u64);
    assert_eq!(relay.kernel.interface_reads, 0);
}

#[test]
fn refused_endpoints_are_not_learned_and_the_old_one_stays() {
    let mut relay = world(Policy::Members);
    let own = format!("{RELAY}:9");
    let own_6 = format!("[{RELAY_6}]:9");
    let refused = ["127.0.0.1:7", "203.0.113.9:7", "198.51.100.1:0", &own, &own_6, OTHER_RELAY, STATIC];
    for endpoint in refused {
        relay.learn("alice", endpoint);
        assert_eq!(relay.tracker.endpoint_of(id("alice")), Some(at(ALICE)), "{endpoint}");
    }
    assert_eq!(relay.count(Outcome::EndpointRefused), refused.len() as u64);
    assert!(relay.tracker.endpoints().any(|known| known == (at(OTHER_RELAY), None)));
    assert!(relay.tracker.endpoints().any(|known| known == (at(STATIC), Some(id("static")))));
}

#[test]
fn configured_endpoints_are_subject_to_the_deny_list() {
    let words = ["alice", "denied@203.0.113.1:1", "self@192.0.2.1:9", "remote@@bad"];
    let mut relay = Relay::new(settings(), members(Policy::Members, &[("bad", "203.0.113.2:2")], &words));
    relay.learn("alice", ALICE);
    for (recipient, index) in [("denied", 1), ("self", 2), ("remote", 3)] {
        let initiation = relay.initiation(index, recipient);
        assert!(relay.hear(ALICE, initiation).is_empty(), "{recipient}");
        assert_eq!(relay.tracker.endpoint_of(id(recipient)), None);
    }
    assert_eq!(relay.count(Outcome::EndpointRefused), 3);
    assert_eq!(relay.count(Outcome::RecipientUnknownEndpoint), 3);
    assert_eq!(relay.tracker.endpoints().collect::<Vec<_>>(), [(at(ALICE), Some(id("alice")))]);
}

#[test]
fn of_two_endpoints_the_one_of_the_sources_family_is_taken() {
    let both = Place::Static(vec![at("198.51.100.60:6"), at("[2001:db8:6::1]:6")]);
    let list = [member("alice", &["net"], Place::Relayed), member("both", &["net"], both)];
    let relays = [OtherRelay { name: "other".into(), endpoints: vec![at("[2001:db8:7::1]:7")] }];
    let remote = member("remote", &["net"], Place::RelayedBy("other".into()));
    let all = Members::new(key("relay"), Policy::Members, relays, list.into_iter().chain([remote])).unwrap();
    let mut relay = Relay::new(settings(), Arc::new(all));
    relay.learn("alice", ALICE);
    let initiation = relay.initiation(1, "both");
    assert_eq!(relay.hear(ALICE, initiation)[0].remote, at("198.51.100.60:6"));
    let initiation = relay.initiation(2, "remote");
    assert_eq!(relay.hear(ALICE, initiation)[0].remote, at("[2001:db8:7::1]:7"));
    relay.learn("alice", "[2001:db8:a::1]:1");
    let initiation = relay.initiation(3, "both");
    assert_eq!(relay.hear("[2001:db8:a::1]:1", initiation)[0].remote, at("[2001:db8:6::1]:6"));
}

#[test]
fn a_known_source_needs_no_search_for_whom_it_talked_to_last() {
    // The recipient is found by the source's own short list. Told by what is remembered, not by time.
    let list = (0..500).map(|n| member(&format!("host{n}"), &["net"], Place::Relayed));
    let mut relay =
        Relay::new(settings(), Arc::new(Members::new(key("relay"), Policy::Members, [], list).unwrap()));
    relay.learn("host0", ALICE);
    for n in 1..=80 {
        relay.learn(&format!("host{n}"), &format!("198.51.100.{n}:9"));
        let initiation = relay.initiation(n, &format!("host{n}"));
        assert_eq!(relay.hear(ALICE, initiation).len(), 1);
    }
    let met = relay.tracker.directory.met_by(at(ALICE)).collect::<Vec<_>>();
    let latest: Vec<_> = (18..=80).rev().map(|n| id(&format!("host{n}"))).collect();
    assert_eq!(met, latest, "bounded, the latest first");
    let initiation = relay.initiation(100, "host25");
    relay.hear(ALICE, initiation);
    let met = relay.tracker.directory.met_by(at(ALICE)).collect::<Vec<_>>();
    assert_eq!((met[0], met.len()), (id("host25"), 63), "moved to the front");
}
