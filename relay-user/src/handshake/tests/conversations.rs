//! Hosts with a real WireGuard implementation talk over the relay.

use std::time::Duration;

use super::{
    crafted::{RELAY_2, ip, seconds, settings},
    world::{Weather, World},
};
use crate::{
    handshake::Outcome,
    members::{OtherRelay, Place, Policy},
};

/// Alice (0) and Bob (1), peers, both relayed here and registered.
fn pair(seed: u64) -> World {
    pair_at(seed, "198.51.100.10:1001", "198.51.100.20:1002")
}

fn pair_at(seed: u64, alice: &str, bob: &str) -> World {
    let mut world = World::new(settings(), seed);
    let (alice, bob) = (world.host("alice", alice), world.host("bob", bob));
    world.peer(alice, bob);
    world.set_members(Policy::Members, vec![], &[(alice, Place::Relayed), (bob, Place::Relayed)]);
    world.register(alice);
    world.register(bob);
    world
}

/// Both say something and wait; whether both have heard it.
fn both_get_through(world: &mut World, time: Duration) -> bool {
    let word = format!("at {:?}", world.now).into_bytes();
    world.say(0, 1, &word);
    world.say(1, 0, &word);
    world.run(time);
    world.heard(1, 0, &word) && world.heard(0, 1, &word)
}

#[test]
fn two_hosts_connect_over_either_family() {
    for (alice, bob) in
        [("198.51.100.10:1001", "198.51.100.20:1002"), ("[2001:db8:a::1]:1001", "[2001:db8:b::1]:1002")]
    {
        let mut world = pair_at(1, alice, bob);
        world.say(0, 1, b"hello");
        world.run(seconds(1));
        assert!(world.heard(1, 0, b"hello"));
        assert!(both_get_through(&mut world, seconds(1)));
        assert_eq!(world.tracker.outcomes().count(Outcome::SessionOpened), 1);
        assert_eq!(world.data_refused, 0);
    }
}

#[test]
fn both_may_begin_at_once() {
    let mut world = pair(2);
    assert!(both_get_through(&mut world, seconds(11)));
    assert!(both_get_through(&mut world, seconds(1)));
}

#[test]
fn an_hour_of_talk_loses_nothing_and_leaves_nothing() {
    let mut world = pair(3);
    world.say(0, 1, b"hello");
    world.run(seconds(1));
    for _ in 0..360 {
        assert!(both_get_through(&mut world, seconds(10)), "silence at {:?}", world.now);
        assert!(world.tracker.sessions_len() <= 3);
    }
    assert!(world.tracker.outcomes().count(Outcome::SessionOpened) >= 28, "a new session every two minutes");
    assert_eq!(world.data_refused, 0);
    world.peer(0, 1); // both forget each other
    world.run(seconds(200));
    assert_eq!((world.tracker.sessions_len(), world.tracker.pending_len()), (0, 0));
    assert!(world.kernel.sessions.is_empty() && world.kernel.pending.is_empty());
}

#[test]
fn loss_repetition_and_reordering_are_got_over() {
    for seed in 10..20 {
        let mut world = pair(seed);
        world.weather = Weather { loss: 0.3, repetition: 0.3, jitter: Duration::from_millis(400) };
        let mut got_through = 0;
        for _ in 0..60 {
            got_through += usize::from(both_get_through(&mut world, seconds(10)));
        }
        assert!(got_through > 10, "only {got_through} of 60 in seed {seed}");
        assert!(world.tracker.sessions_len() <= 6);
        world.weather = Weather::default();
        both_get_through(&mut world, seconds(30));
        assert!(both_get_through(&mut world, seconds(1)), "fair weather again, seed {seed}");
    }
}

#[test]
fn replayed_handshakes_disturb_nobody() {
    let mut world = pair(4);
    world.say(0, 1, b"hello");
    world.run(seconds(1));
    let sessions: Vec<_> = world.tracker.sessions().copied().collect();
    for _ in 0..3 {
        world.replay();
        assert!(both_get_through(&mut world, seconds(20)));
        assert_eq!(world.tracker.sessions().copied().collect::<Vec<_>>(), sessions, "nothing new is proven");
    }
    // Also when the session that they once made is long gone.
    for _ in 0..40 {
        both_get_through(&mut world, seconds(10));
    }
    world.replay();
    assert!(both_get_through(&mut world, seconds(20)));
    assert!(world.tracker.sessions_len() <= 6);
}

#[test]
fn a_loaded_responder_gets_its_own_cookie_through_the_relay() {
    let mut world = pair(5);
    world.hosts[1].under_load();
    world.say(0, 1, b"hello");
    world.run(seconds(12));
    assert!(world.heard(1, 0, b"hello"));
    assert!(world.tracker.outcomes().count(Outcome::CookieForwarded) >= 1);
    assert_eq!(world.tracker.outcomes().count(Outcome::Challenged), 0, "the relay asked for nothing");
    assert!(world.hosts[0].with_mac2 >= 1);
}

#[test]
fn a_loaded_initiator_gets_its_own_cookie_through_the_relay() {
    let mut world = pair(6);
    world.hosts[0].under_load();
    world.say(0, 1, b"hello");
    world.run(seconds(12));
    assert!(world.heard(1, 0, b"hello"));
    assert!(world.tracker.outcomes().count(Outcome::CookieForwarded) >= 1);
    assert!(world.hosts[1].with_mac2 >= 1, "the response's");
}

#[test]
fn a_host_from_an_unknown_address_is_asked_for_a_cookie_and_connects() {
    let mut world = pair(7);
    // Alice's NAT has given her another port; the relay's interface does not know yet.
    world.hosts[0].endpoint = "198.51.100.10:7777".parse().unwrap();
    world.say(0, 1, b"hello");
    world.run(seconds(7));
    assert!(world.heard(1, 0, b"hello"));
    assert_eq!(world.tracker.outcomes().count(Outcome::Challenged), 1);
    assert_eq!(world.tracker.outcomes().count(Outcome::Mac2Verified), 1);
    let session = world.tracker.sessions().next().unwrap();
    assert_eq!(session.initiator.member, Some(world.hosts[0].id()));
    assert_eq!(session.initiator.endpoint, world.hosts[0].endpoint);
    assert!(both_get_through(&mut world, seconds(1)));
    // For two hours, in which proofs and cookies expire many times.
    for _ in 0..120 {
        assert!(both_get_through(&mut world, seconds(60)), "silence at {:?}", world.now);
    }
}

#[test]
fn our_cookie_and_the_loaded_members_own_come_in_turn() {
    let mut world = pair(8);
    world.hosts[0].endpoint = "198.51.100.10:7777".parse().unwrap();
    world.hosts[1].under_load();
    world.say(0, 1, b"hello");
    world.run(seconds(17));
    assert!(world.heard(1, 0, b"hello"), "ours, then its, then in");
    assert_eq!(world.tracker.outcomes().count(Outcome::Challenged), 1);
    assert!(world.tracker.outcomes().count(Outcome::CookieForwarded) >= 1);
}

#[test]
fn live_sessions_follow_a_host_that_moves() {
    let mut world = pair(9);
    world.say(0, 1, b"hello");
    world.run(seconds(1));
    let before = world.tracker.outcomes().count(Outcome::SessionOpened);
    for host in [0, 1] {
        world.hosts[host].endpoint.set_port(4000);
        world.say(host, 1 - host, b"into the void");
        world.run(seconds(1));
        assert!(!world.heard(1 - host, host, b"into the void"), "data moves nothing");
        world.register(host);
        assert!(both_get_through(&mut world, seconds(1)));
    }
    assert_eq!(world.tracker.outcomes().count(Outcome::SessionOpened), before, "without a new handshake");
    assert_eq!(world.data_refused, 2);
}

#[test]
fn a_host_that_restarts_comes_back_within_wireguards_timers() {
    for restarted in [0, 1] {
        let mut world = pair(20);
        world.say(0, 1, b"hello");
        world.run(seconds(1));
        world.restart(restarted);
        both_get_through(&mut world, seconds(21));
        assert!(both_get_through(&mut world, seconds(1)), "host {restarted}");
    }
}

#[test]
fn a_relay_that_restarts_loses_no_session() {
    let mut world = pair(21);
    world.say(0, 1, b"hello");
    world.run(seconds(30));
    world.restart_relay(settings());
    assert!(both_get_through(&mut world, seconds(1)), "the maps were there all along");
    world.register(0);
    world.register(1);
    for _ in 0..30 {
        assert!(both_get_through(&mut world, seconds(10)));
    }
    assert!(world.tracker.outcomes().count(Outcome::SessionExpired) >= 1);
}

#[test]
fn a_host_that_uses_the_relays_second_address_is_served_from_it() {
    let mut world = pair(22);
    // Bob's NAT lets in only what comes from the address that Bob talks to.
    world.hosts[1].relay = ip(RELAY_2);
    world.say(1, 0, b"hello");
    world.run(seconds(1));
    assert!(world.heard(0, 1, b"hello"));
    world.peer(0, 1);
    world.say(0, 1, b"and back");
    world.run(seconds(1));
    assert!(world.heard(1, 0, b"and back"), "the relay has heard Bob at its second address");
}

#[test]
fn a_relayed_host_and_one_with_a_static_endpoint_talk() {
    let mut world = World::new(settings(), 23);
    let (alice, public) =
        (world.host("alice", "198.51.100.10:1001"), world.host("public", "198.51.100.50:5"));
    world.peer(alice, public);
    let place = Place::Static(vec![world.hosts[public].endpoint]);
    world.set_members(Policy::Members, vec![], &[(alice, Place::Relayed), (public, place)]);
    world.register(alice);
    world.say(public, alice, b"knock knock");
    world.run(seconds(1));
    assert!(world.heard(alice, public, b"knock knock"));
    assert!(both_get_through(&mut world, seconds(1)));
}

#[test]
fn a_host_behind_another_relay_talks_to_one_here() {
    let mut world = World::new(settings(), 24);
    // The other relay's hosts all come from its address; one of them is enough here.
    let (alice, remote) =
        (world.host("alice", "198.51.100.10:1001"), world.host("remote", "192.0.2.77:51820"));
    world.hosts[remote].endpoint = "192.0.2.77:51820".parse().unwrap();
    world.peer(alice, remote);
    let relays = vec![OtherRelay { name: "other".into(), endpoints: vec![world.hosts[remote].endpoint] }];
    world.set_members(
        Policy::Members,
        relays,
        &[(alice, Place::Relayed), (remote, Place::RelayedBy("other".into()))],
    );
    world.register(alice);
    world.say(remote, alice, b"from afar");
    world.run(seconds(1));
    assert!(world.heard(alice, remote, b"from afar"));
    assert!(both_get_through(&mut world, seconds(1)));
    assert_eq!(world.tracker.sessions().next().unwrap().initiator.member, Some(world.hosts[remote].id()));
}

#[test]
fn a_removed_host_is_cut_off_at_once_and_the_others_lose_nothing() {
    let mut world = pair(25);
    let carol = world.host("carol", "198.51.100.30:1003");
    world.peer(0, carol);
    let all = [(0, Place::Relayed), (1, Place::Relayed), (carol, Place::Relayed)];
    world.set_members(Policy::Members, vec![], &all);
    world.register(carol);
    for host in [1, carol] {
        world.say(0, host, b"hello");
        world.run(seconds(1));
        assert!(world.heard(host, 0, b"hello"));
    }
    world.set_members(Policy::Members, vec![], &all[..2]);
    world.say(0, carol, b"anybody there?");
    world.say(carol, 0, b"anybody there?");
    assert!(both_get_through(&mut world, seconds(60)));
    assert!(!world.heard(carol, 0, b"anybody there?") && !world.heard(0, carol, b"anybody there?"));
    assert_eq!(world.tracker.sessions_len(), 1);
}
