//! Tunnels that are as large as links of 1500 bytes allow, over paths that are narrower somewhere.

use std::{net::SocketAddr, time::Duration};

use relay_tests::{
    Host, World,
    attack::too_big::Claim,
    host::LARGE_MTU,
    internet::public,
    relay::{Outer, PORT, Relay, SessionStatus},
    traffic::{connect, ping, ping_large, throughput},
    until,
    world::REGISTRATION,
};

const NARROW: u16 = 1400;
/// The payload of a ping that fills the tunnel.
const FULL: u16 = LARGE_MTU - 28;
const INTERVAL: Duration = Duration::from_millis(10);
/// A path is learned by losing a packet or two; ping tries every second.
const LEARNING: Duration = Duration::from_secs(10);

/// A world with large tunnels, not running yet.
fn with_large_tunnels(mut world: World) -> World {
    for host in [&mut world.a, &mut world.b, &mut world.p] {
        host.set_mtu(LARGE_MTU);
    }
    world
}

/// The relay and the hosts run; small packets go both ways.
fn connected(mut world: World, at: [SocketAddr; 3]) -> World {
    world.relay.start();
    world.point_each(at, 25);
    world.start_hosts();
    connect(&world.a, &world.b, REGISTRATION);
    world
}

/// Both directions deliver packets that fill the tunnel, after the path was learned.
fn assert_large_packets_pass(world: &World) {
    let pairs: [(&Host, &Host); 2] = [(&world.a, &world.b), (&world.b, &world.a)];
    for (from, to) in pairs {
        until(&format!("large packets between {} and {}", from.name, to.name), LEARNING, || {
            (ping_large(from, to, 1, INTERVAL, FULL).received == 1).then_some(())
        });
    }
    for (from, to) in pairs {
        let pings = ping_large(from, to, 20, INTERVAL, FULL);
        assert_eq!(pings.loss(), 0.0, "{} → {}: {pings:?}", from.name, to.name);
        let mbit_s = throughput(from, to, 2);
        assert!(mbit_s > 1.0, "{} → {}: {mbit_s} Mbit/s", from.name, to.name);
    }
    assert_eq!(world.checksum_errors(), 0, "datagrams with a spoilt UDP checksum reached a host");
}

/// The access link of a takes 1400 bytes: a sends fragments, and what is sent to it is too big at its router.
fn a_narrow_access_link(a: Outer, b: Outer) {
    let world = with_large_tunnels(World::new());
    world.nat_a.set_inside_mtu(&world.a.namespace, "eth0", NARROW);
    let world = connected(world, [a, b, b].map(Relay::endpoint));
    assert_large_packets_pass(&world);
    let status = world.relay.status();
    assert!(status.userspace.data_packets >= 40, "a's fragments went through userspace: {status:?}");
    assert!(status.userspace.too_big_sent >= 1, "b was told: {status:?}");
    assert!(status.packets("fragment") >= 80, "{status:?}");
    assert_eq!(status.userspace.send_errors, 0, "{status:?}");
}

#[test]
fn a_narrow_access_link_over_ipv4() {
    a_narrow_access_link(Outer::Ipv4, Outer::Ipv4);
}

#[test]
fn a_narrow_access_link_over_ipv6() {
    a_narrow_access_link(Outer::Ipv6, Outer::Ipv6);
}

#[test]
fn a_narrow_access_link_between_families() {
    a_narrow_access_link(Outer::Ipv4, Outer::Ipv6);
}

#[test]
fn narrow_links_on_both_sides() {
    let world = with_large_tunnels(World::new());
    world.nat_a.set_inside_mtu(&world.a.namespace, "eth0", NARROW);
    // Between the two NATs of b, who can't know.
    world.nat_b_carrier.set_inside_mtu(world.nat_b.namespace(), "wan", NARROW);
    let world = connected(world, [Relay::endpoint(Outer::Ipv4); 3]);
    assert_large_packets_pass(&world);
    assert!(world.relay.status().userspace.data_packets >= 80);
}

/// A relay with two uplinks, of which the second becomes narrower than the first. a is at the first and b at the second.
fn a_narrow_egress(outer: Outer, may_fragment: bool) -> World {
    let world = with_large_tunnels(World::with_uplinks());
    if may_fragment {
        for host in [&world.a, &world.b] {
            // Packets without DF, as the kernel's WireGuard sends them.
            host.namespace.set("net/ipv4/ip_no_pmtu_disc", "1");
        }
    }
    for uplink in &world.uplinks {
        uplink.take_what_comes_from_its_addresses();
    }
    let at = [0, 1].map(|n| SocketAddr::new(world.uplinks[n].address(outer, 1), PORT));
    let world = connected(world, [at[0], at[1], at[0]]);
    assert_eq!(ping_large(&world.a, &world.b, 20, INTERVAL, FULL).loss(), 0.0, "the path is wide");
    let status = world.relay.status();
    assert_eq!((status.userspace.data_packets, status.packets("fragment")), (0, 0), "{status:?}");
    world.uplinks[1].set_mtu(NARROW);
    assert_large_packets_pass(&world);
    world
}

#[test]
fn a_host_is_told_when_an_egress_link_is_too_narrow() {
    for outer in Outer::BOTH {
        let status = a_narrow_egress(outer, false).relay.status();
        assert!(status.packets("too_big") >= 1, "{status:?}");
        assert!(status.userspace.too_big_sent >= 1, "{status:?}");
        assert!(status.userspace.data_packets >= 40, "then a sends fragments: {status:?}");
        assert_eq!(status.packets("to_fragment"), 0, "{status:?}");
    }
}

#[test]
fn userspace_fragments_what_may_be_fragmented() {
    let status = a_narrow_egress(Outer::Ipv4, true).relay.status();
    assert!(status.packets("to_fragment") >= 20, "{status:?}");
    assert!(status.userspace.data_packets >= 40, "{status:?}");
    assert_eq!((status.packets("too_big"), status.userspace.too_big_sent), (0, 0), "{status:?}");
}

#[test]
fn forged_words_of_too_big_packets_are_not_believed() {
    for outer in Outer::BOTH {
        let world = World::running(outer);
        connect(&world.a, &world.b, REGISTRATION);
        let stranger = world.lab.namespace("stranger");
        world.internet.attach(&stranger, "eth0", 66);
        let to_b = |s: &SessionStatus| s.to.as_deref() == Some("b") && s.from.as_deref() == Some("a");
        let session = world.relay.sessions().into_iter().find(to_b).expect("a session from a to b");
        let least = if outer == Outer::Ipv4 { 600 } else { 1280 };
        let right = || Claim {
            mtu: least,
            from: Relay::endpoint(outer),
            to: session.destination,
            index: session.index(),
        };
        let elsewhere = SocketAddr::new(session.destination.ip(), session.destination.port() ^ 1);
        let other_host = SocketAddr::new(
            if outer == Outer::Ipv4 { public(66).0.into() } else { public(66).1.into() },
            session.destination.port(),
        );
        let forged = [
            Claim { index: session.index() ^ 1, ..right() },
            Claim { to: elsewhere, ..right() },
            Claim { to: other_host, ..right() },
            Claim { mtu: 100, ..right() },
            Claim { mtu: 9000, ..right() },
        ];
        for (n, claim) in (1..).zip(&forged) {
            claim.send(&stranger);
            until("a forged message that is ignored", Duration::from_secs(5), || {
                (world.relay.status().userspace.too_big_ignored == n).then_some(())
            });
        }
        // A reason for wgrelay to ask for its routes again: what the kernel has believed is not believed by it.
        world.relay.namespace.ip("route add 10.9.9.0/24 dev eth0");
        for (from, to) in [(&world.a, &world.b), (&world.b, &world.a)] {
            assert_eq!(ping_large(from, to, 50, INTERVAL, 1200).loss(), 0.0, "{} → {}", from.name, to.name);
        }
        let status = world.relay.status();
        assert_eq!((status.packets("too_big"), status.userspace.too_big_sent), (0, 0), "{status:?}");
        assert_eq!(status.userspace.too_big_ignored, forged.len() as u64);
        assert_eq!(status.userspace.data_packets, 0, "XDP forwards all: {status:?}");

        // The same with everything right is believed.
        right().send(&stranger);
        until("a host that is told", Duration::from_secs(5), || {
            (world.relay.status().userspace.too_big_sent == 1).then_some(())
        });
        assert_eq!(ping(&world.a, &world.b, 10, INTERVAL).loss(), 0.0, "small ones pass");
    }
}
