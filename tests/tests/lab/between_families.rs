//! A host that knows the relay over IPv4 and one that knows it over IPv6.

use std::time::Duration;

use relay_tests::{
    World,
    relay::{Outer, Relay},
    traffic::{connect, ping, throughput},
    world::REGISTRATION,
};

/// a is there over IPv4, b over IPv6; both ways lose nothing and XDP forwards nearly all.
fn both_ways(xdp_mode: &str) {
    let mut world = World::new();
    world.relay.changes = vec![(r#"xdp_mode = "auto""#.into(), format!("xdp_mode = {xdp_mode:?}"))];
    world.relay.start();
    world.point_each([Outer::Ipv4, Outer::Ipv6, Outer::Ipv4].map(Relay::endpoint), 25);
    world.start_hosts();
    for (from, to) in [(&world.a, &world.b), (&world.b, &world.a)] {
        connect(from, to, REGISTRATION);
        let pings = ping(from, to, 100, Duration::from_millis(5));
        assert_eq!(pings.loss(), 0.0, "{} → {}: {pings:?}", from.name, to.name);
        assert!(throughput(from, to, 1) > 1.0, "{} → {}", from.name, to.name);
    }
    let status = world.relay.status();
    assert_eq!(status.xdp[0].mode, xdp_mode);
    for family in ["ipv4_to_ipv6", "ipv6_to_ipv4"] {
        assert!(status.forwarded_within(family) >= 400, "{family}: {:?}", status.counters);
    }
    for family in ["ipv4", "ipv6"] {
        assert_eq!(status.forwarded_within(family), 0, "{family}: {:?}", status.counters);
    }
    let (fast, slow) = (status.forwarded(), status.not_forwarded());
    assert!(
        slow * 1000 <= fast,
        "{slow} data packets took another way than XDP, {fast} that one: {status:?}"
    );
    assert_eq!(world.checksum_errors(), 0, "datagrams with a spoilt UDP checksum reached a host");
    assert_eq!((status.ring_lost, status.userspace.send_errors), (0, 0));
}

#[test]
fn ipv4_and_ipv6_talk() {
    both_ways("driver");
}

#[test]
fn ipv4_and_ipv6_talk_in_generic_mode() {
    both_ways("generic");
}

#[test]
fn a_static_host_of_either_family_answers_a_host_of_the_other() {
    let mut world = World::new();
    world.relay.start();
    world.point_each([Outer::Ipv6, Outer::Ipv4, Outer::Ipv4].map(Relay::endpoint), 25);
    world.start_hosts();
    // p begins, from IPv4; and p answers b, who is of the same family.
    for (from, to) in [(&world.p, &world.a), (&world.b, &world.p)] {
        connect(from, to, REGISTRATION);
        assert_eq!(ping(from, to, 50, Duration::from_millis(5)).loss(), 0.0, "{} → {}", from.name, to.name);
    }
    let status = world.relay.status();
    assert!(status.forwarded_within("ipv4_to_ipv6") >= 50, "{:?}", status.counters);
    assert_eq!(world.checksum_errors(), 0);
}
