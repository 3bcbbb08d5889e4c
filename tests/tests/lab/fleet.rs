//! The control plane and the relays that follow it: hosts that join, changes under traffic, and relays that share etcd.

use std::time::Duration;

use relay_tests::{
    Fleet, Host, Relay, World,
    fleet::{Joined, NETWORK},
    relay::{Outer, PORT},
    traffic::{Pinging, connect},
    until,
    world::REGISTRATION,
};
use serde_json::Value;

/// How soon a change at one relay must be in force at all.
const LIVE: Duration = Duration::from_secs(5);
/// How long two hosts may take to talk that have not talked before.
const TALK: Duration = Duration::from_secs(12);
/// After so long without an answer WireGuard gives a session up.
const UNANSWERED: Duration = Duration::from_secs(15);
/// How long it may take at most until hosts of a lost relay talk again: etcd takes its lease for lost, the hosts notice
/// that its API is gone, another relay moves them, and they shake hands.
const MOVED: Duration = Duration::from_secs(60);
const OFTEN: Duration = Duration::from_millis(20);
const NONE: [u32; 0] = [];

fn at(relay: &Relay) -> String {
    format!("{}:{PORT}", relay.addresses[0])
}

/// Waits until the relay has the host in its tables and knows where it is.
#[track_caller]
fn await_relayed(relay: &Relay, host: &Host) {
    until(&format!("{} at {}", host.name, relay.name()), LIVE, || {
        relay.hosts().into_iter().find(|found| found.name == host.name)?.endpoint
    });
}

/// The relay that the control plane has for a host.
fn relayed_by(asked: &Relay, host: &Joined) -> Value {
    asked.ask(&["member", "show", &host.host.name])["relayed_by"].take()
}

#[test]
fn hosts_join_at_two_relays_and_talk_also_while_etcd_is_away() {
    let mut fleet = Fleet::new(60);
    let keys = fleet.relays.each_ref().map(|relay| fleet.key(relay));
    let (a, b, c) = (fleet.join(0, &keys[0]), fleet.join(1, &keys[0]), fleet.join(2, &keys[1]));
    let [r1, r6] = &fleet.relays;
    for (relay, joined) in [(r1, &a), (r1, &b), (r6, &c)] {
        await_relayed(relay, &joined.host);
    }
    // Each has all others at its own relay.
    until("peers at the relays", LIVE, || {
        let knows = |joined: &Joined, other: &Joined, relay| {
            joined.endpoint(&other.host.keys.public) == Some(at(relay))
        };
        let all = knows(&a, &b, r1) && knows(&a, &c, r1) && knows(&b, &a, r1) && knows(&b, &c, r1);
        (all && knows(&c, &a, r6) && knows(&c, &b, r6)).then_some(())
    });
    for (from, to) in [(&a, &b), (&a, &c), (&c, &b), (&b, &c)] {
        connect(&from.host, &to.host, TALK);
    }
    // Both relays forward it, neither in userspace.
    let pinging = Pinging::start(&c.host, &a.host, OFTEN);
    pinging.more(50, LIVE);
    for relay in [r1, r6] {
        let status = relay.status();
        assert!(status.forwarded() >= 100, "{}: {:?}", relay.name(), status.counters);
        assert_eq!(status.userspace.data_packets, 0, "{}", relay.name());
    }

    // Without etcd all goes on, also new handshakes; only nothing can be changed.
    fleet.etcd.kill();
    let [r1, r6] = &fleet.relays;
    until("complaint", LIVE, || r1.status().source.error);
    connect(&b.host, &a.host, TALK);
    let refused = r1.query("member", &["delete", "b"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(r1.hosts().iter().any(|host| host.name == "b"));
    assert_eq!(r6.hosts().len(), 3);
    fleet.etcd.start();
    let [r1, r6] = &fleet.relays;
    until("etcd again", MOVED, || r1.status().source.error.is_none().then_some(()));
    pinging.more(50, LIVE);
    assert_eq!(pinging.lost(), NONE);

    // What is changed at one relay is in force at the other.
    until("deletion of b", MOVED, || r6.query("member", &["delete", "b"]).status.success().then_some(()));
    until("end of b at its relay", LIVE, || r1.hosts().iter().all(|host| host.name != "b").then_some(()));
    assert!(!r1.wg(&["show", &r1.interface, "peers"]).contains(&b.host.keys.public));
}

#[test]
fn hosts_of_a_relay_that_is_lost_move_to_another() {
    let fleet = Fleet::new(2);
    let keys = fleet.relays.each_ref().map(|relay| fleet.key(relay));
    let (a, b, c) = (fleet.join(0, &keys[0]), fleet.join(1, &keys[1]), fleet.join(2, &keys[1]));
    let [r1, r6] = &fleet.relays;
    await_relayed(r1, &a.host);
    for host in [&b.host, &c.host] {
        await_relayed(r6, host);
        connect(&a.host, host, TALK);
    }
    connect(&b.host, &c.host, TALK);
    let others = Pinging::start(&b.host, &c.host, OFTEN);
    let moving = Pinging::start(&c.host, &a.host, OFTEN);
    moving.more(10, LIVE);

    fleet.internet.set_cable(&r1.namespace, false);
    let before = moving.newest();
    until("replies by the other relay", MOVED, || {
        (relayed_by(r6, &a) == "relay-6" && moving.newest() > before + 50).then_some(())
    });
    assert_eq!(a.endpoint(&c.host.keys.public), Some(at(r6)));
    await_relayed(r6, &a.host);

    // Back again, it knows what has happened meanwhile, and nobody is moved for that.
    fleet.internet.set_cable(&r1.namespace, true);
    until("relay that is back", MOVED, || {
        let relays = r6.ask(&["relay", "list"]);
        let alive = |relay: &Value| relay["alive"] == true;
        let hosts = r1.hosts();
        let known = hosts.iter().any(|host| host.name == "a" && !host.relayed);
        (relays.as_array()?.iter().all(alive) && known).then_some(())
    });
    assert_eq!(relayed_by(r6, &a), "relay-6");
    moving.more(50, LIVE);
    others.more(50, LIVE);
    assert_eq!(others.lost(), NONE, "of those at the other relay nobody noticed");
}

#[test]
fn hosts_are_added_and_removed_by_the_command_line_while_others_talk() {
    let mut world = World::new();
    world.relay.members.clear();
    let store = world.lab.file("store");
    world.relay.control =
        format!("\n[control]\nsource = 'store'\n[control.store]\nstate_dir = '{}'\n", store.display());
    world.relay.start();
    let relay = &world.relay;
    assert!(relay.status().source.error.is_some_and(|error| error.contains("wgrelay relay create")));
    relay.ask(&["network", "create", NETWORK, "--ipv4", "10.77.0.0/16"]);
    relay.ask(&["relay", "create", &relay.name(), "--network", &format!("{NETWORK}=10.77.0.200")]);
    for host in world.hosts() {
        let place = format!("{NETWORK}={}", host.tunnel);
        relay.ask(&["member", "create", &host.name, "--public-key", &host.keys.public, "--network", &place]);
    }
    relay.ask(&["relay", "add-host", &relay.name(), "a", "b", "p"]);
    // p goes by its relay, too, and has to register there.
    let relay_key = world.relay.keys.public.clone();
    world.point_hosts(Outer::Ipv4, 25);
    world.p.register_at(&relay_key, Relay::endpoint(Outer::Ipv4), 25);
    for host in [&mut world.a, &mut world.b, &mut world.p] {
        host.start();
    }
    let relay = &world.relay;
    for host in world.hosts() {
        until(&format!("registration of {}", host.name), REGISTRATION, || {
            relay.hosts().into_iter().find(|found| found.name == host.name)?.endpoint
        });
    }
    connect(&world.a, &world.b, TALK);
    connect(&world.a, &world.p, TALK);
    let pinging = Pinging::start(&world.a, &world.b, OFTEN);
    pinging.more(10, LIVE);

    // Others come, go and come back: a and b notice nothing.
    let listed = relay.ask(&["relay", "hosts", &relay.name()]);
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    relay.ask(&["relay", "remove-host", &relay.name(), "p"]);
    until("end of p", LIVE, || {
        let p = relay.hosts().into_iter().find(|host| host.name == "p")?;
        (!p.relayed && p.sessions == 0).then_some(())
    });
    relay.ask(&["relay", "add-host", &relay.name(), "p"]);
    await_relayed(relay, &world.p);
    connect(&world.a, &world.p, UNANSWERED + TALK);
    for n in 0..20 {
        let name = format!("other-{n}");
        let key = relay_tests::Keys::new(&world.lab, &name).public;
        relay.ask(&["member", "create", &name, "--public-key", &key, "--network", NETWORK]);
        relay.ask(&["relay", "add-host", &relay.name(), &name]);
    }
    until("peers", LIVE, || {
        let peers = relay.wg(&["show", &relay.interface, "peers"]);
        (peers.lines().count() == 23).then_some(())
    });
    for n in 0..20 {
        relay.ask(&["member", "delete", &format!("other-{n}")]);
    }
    pinging.more(20, LIVE);
    assert_eq!(pinging.lost(), NONE);

    relay.ask(&["member", "delete", "p"]);
    let p = Some("p".to_owned());
    until("end of p's sessions", LIVE, || {
        relay.sessions().iter().all(|session| session.from != p && session.to != p).then_some(())
    });
    // A restart finds all as it was.
    world.relay.stop(rustix::process::Signal::TERM);
    world.relay.start();
    for host in [&world.a, &world.b] {
        assert!(world.relay.hosts().iter().any(|known| known.name == host.name && known.relayed));
    }
    assert!(world.relay.hosts().iter().all(|known| known.name != "p"));
}
