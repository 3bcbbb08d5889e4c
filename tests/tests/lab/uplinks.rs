//! A relay with several interfaces and several addresses.

use std::{net::SocketAddr, time::Duration};

use relay_tests::{
    World,
    relay::{Outer, PORT},
    traffic::{Pinging, connect, ping, throughput},
    world::REGISTRATION,
};

const INTERVAL: Duration = Duration::from_millis(10);

/// a and b each at one address of the relay's, and connected.
fn connected(mut world: World, at: [SocketAddr; 2]) -> World {
    world.relay.start();
    world.point_each([at[0], at[1], at[0]], 25);
    world.start_hosts();
    connect(&world.a, &world.b, REGISTRATION);
    world
}

/// Every packet between a and b comes to the address that its sender knows, and leaves from the one that its receiver
/// knows.
fn assert_each_has_its_address(world: &World, [of_a, of_b]: [SocketAddr; 2]) {
    let mut sessions = world.relay.sessions();
    sessions.retain(|session| session.packets > 0);
    assert!(sessions.len() >= 2, "{sessions:?}");
    for session in sessions {
        let of = if session.from.as_deref() == Some("a") { [of_a, of_b] } else { [of_b, of_a] };
        assert_eq!([session.local_in, session.local_out], of.map(|at| at.ip()), "{session:?}");
    }
}

/// a is at the first uplink, b at the second, with routing rules by source; the default route goes meanwhile.
fn two_uplinks(a: Outer, b: Outer) {
    let world = World::with_uplinks();
    for uplink in &world.uplinks {
        uplink.take_what_comes_from_its_addresses();
    }
    let at = [(0, a), (1, b)].map(|(n, outer)| SocketAddr::new(world.uplinks[n].address(outer, 1), PORT));
    let world = connected(world, at);
    for (from, to) in [(&world.a, &world.b), (&world.b, &world.a)] {
        assert_eq!(ping(from, to, 100, INTERVAL / 2).loss(), 0.0, "{} → {}", from.name, to.name);
        assert!(throughput(from, to, 1) > 1.0, "{} → {}", from.name, to.name);
    }
    assert_each_has_its_address(&world, at);

    let pings = Pinging::start(&world.a, &world.b, INTERVAL);
    pings.more(20, Duration::from_secs(5));
    for family in ["-4", "-6"] {
        world.relay.namespace.ip(&format!("{family} route del default"));
    }
    pings.more(100, Duration::from_secs(5));
    assert_eq!(pings.lost(), Vec::<u32>::new(), "without a default route some were lost");

    let status = world.relay.status();
    assert_eq!(status.xdp.iter().map(|xdp| &*xdp.mode).collect::<Vec<_>>(), ["driver", "driver"]);
    assert_eq!(status.packets("forwarded_tx"), 0, "in by one, out by the other: {:?}", status.counters);
    let (fast, slow) = (status.packets("forwarded_redirect"), status.not_forwarded());
    assert!(fast >= 600 && slow * 1000 <= fast, "{fast} by XDP, {slow} not: {status:?}");
    assert_eq!(world.checksum_errors(), 0);
}

#[test]
fn two_uplinks_over_ipv4() {
    two_uplinks(Outer::Ipv4, Outer::Ipv4);
}

#[test]
fn two_uplinks_over_ipv6() {
    two_uplinks(Outer::Ipv6, Outer::Ipv6);
}

#[test]
fn two_uplinks_of_two_families() {
    two_uplinks(Outer::Ipv4, Outer::Ipv6);
}

#[test]
fn two_addresses_of_one_family_on_one_interface() {
    for outer in Outer::BOTH {
        let world = World::with_uplinks();
        let at = [1, 2].map(|n| SocketAddr::new(world.uplinks[0].address(outer, n), PORT));
        let world = connected(world, at);
        for (from, to) in [(&world.a, &world.b), (&world.b, &world.a)] {
            assert_eq!(ping(from, to, 50, INTERVAL / 2).loss(), 0.0, "{} → {}", from.name, to.name);
        }
        assert_each_has_its_address(&world, at);
        let status = world.relay.status();
        assert!(status.packets("forwarded_tx") >= 200, "{:?}", status.counters);
        assert_eq!(status.packets("forwarded_redirect"), 0, "{:?}", status.counters);
        assert_eq!(world.checksum_errors(), 0);
    }
}

#[test]
fn a_default_route_that_moves_to_another_gateway_is_followed() {
    for outer in Outer::BOTH {
        let world = World::with_uplinks();
        let at = SocketAddr::new(world.uplinks[0].address(outer, 1), PORT);
        let world = connected(world, [at; 2]);
        let pings = Pinging::start(&world.a, &world.b, INTERVAL);
        pings.more(20, Duration::from_secs(5));
        assert_eq!(world.relay.status().packets("forwarded_redirect"), 0);
        world.uplinks[1].become_default();
        pings.more(20, Duration::from_secs(5));
        let moved = world.relay.status();
        pings.more(100, Duration::from_secs(5));
        let now = world.relay.status();
        let more = |reason: &str| now.packets(reason) - moved.packets(reason);
        assert_eq!(more("forwarded_tx"), 0, "some still leave by the old gateway");
        assert!(more("forwarded_redirect") >= 200, "{:?}", now.counters);
        assert_eq!(now.not_forwarded(), moved.not_forwarded(), "XDP has them all");
        // Until the new gateway is resolved, userspace forwards.
        assert_eq!(pings.lost(), Vec::<u32>::new(), "outer {}: some were lost", outer.label());
    }
}
