//! Hosts that talk over the relay.

use std::time::Duration;

use relay_tests::{
    Member, World,
    command::run,
    internet::public,
    relay::{Outer, PORT, Relay},
    traffic::{connect, ping, throughput},
    until,
    world::REGISTRATION,
};

/// Every pair completes a handshake, loses nothing afterwards, and XDP forwards nearly all data packets.
fn every_pair_talks(outer: Outer) {
    let world = World::running(outer);
    let mut sent = 0;
    for (from, to) in world.pairs() {
        connect(from, to, REGISTRATION);
        let pings = ping(from, to, 100, Duration::from_millis(5));
        assert_eq!(pings.loss(), 0.0, "{} → {}: {pings:?}", from.name, to.name);
        sent += u64::from(pings.sent + pings.received);
        assert!(throughput(from, to, 1) > 1.0, "{} → {}", from.name, to.name);
    }
    let status = world.relay.status();
    let (fast, slow) = (status.forwarded(), status.not_forwarded());
    assert!(fast >= sent, "XDP forwarded {fast} data packets, the pings alone were {sent}");
    assert!(slow * 1000 <= fast, "{slow} data packets took another way than XDP, {fast} that one");
    let other = if outer == Outer::Ipv4 { "ipv6" } else { "ipv4" };
    let foreign = status.counters.iter().filter(|c| c.family == other && c.reason.starts_with("forwarded"));
    assert_eq!(foreign.map(|c| c.packets).sum::<u64>(), 0, "the other family was used");
    assert_eq!(world.checksum_errors(), 0, "datagrams with a spoilt UDP checksum reached a host");
    assert_eq!((status.ring_lost, status.userspace.send_errors), (0, 0));
    assert_eq!(status.xdp[0].mode, "driver", "veth has native XDP");
}

#[test]
fn every_pair_talks_over_ipv4() {
    every_pair_talks(Outer::Ipv4);
}

#[test]
fn every_pair_talks_over_ipv6() {
    every_pair_talks(Outer::Ipv6);
}

#[test]
fn generic_mode_forwards_too() {
    let mut world = World::new();
    world.relay.changes = vec![(r#"xdp_mode = "auto""#.into(), r#"xdp_mode = "generic""#.into())];
    world.relay.start();
    world.point_hosts(Outer::Ipv4, 25);
    world.start_hosts();
    connect(&world.a, &world.b, REGISTRATION);
    assert_eq!(ping(&world.a, &world.b, 100, Duration::from_millis(5)).loss(), 0.0);
    assert!(throughput(&world.a, &world.b, 1) > 1.0);
    let status = world.relay.status();
    assert_eq!(status.xdp[0].mode, "generic");
    assert!(status.forwarded() >= 200 && status.not_forwarded() * 1000 <= status.forwarded(), "{status:?}");
    assert_eq!(world.checksum_errors(), 0, "datagrams with a spoilt UDP checksum reached a host");
}

#[test]
fn the_relays_own_wireguard_traffic_still_works() {
    let mut world = World::new();
    world.relay.start();
    // A peer of the relay host's administrator, who uses the same interface: no member.
    let inside = "10.77.0.254".parse().expect("an address");
    world.relay.namespace.ip(&format!("address add {inside}/24 dev {}", world.relay.interface));
    let set = ["set", &world.relay.interface, "peer", &world.p.keys.public, "allowed-ips", "10.77.0.9/32"];
    world.relay.wg(&set);
    world.relay.members.retain(|member| member.name != "p");
    world.p.register_at(&world.relay.keys.public, Relay::endpoint(Outer::Ipv4), 25);
    world.p.allow(&world.relay.keys.public, inside);
    world.p.start();
    until("reply of the relay's own tunnel address", REGISTRATION, || {
        let mut ping = world.p.namespace.command("ping");
        ping.args(["-c1", "-W1", &inside.to_string()])
            .output()
            .expect("start ping")
            .status
            .success()
            .then_some(())
    });
    run(world.p.namespace.command("ping").args(["-c50", "-i0.01", "-W1", &inside.to_string()]));
    assert!(world.relay.status().packets("data_own") >= 50, "the relay's own data passed XDP");
    assert_eq!(world.relay.status().forwarded(), 0);
}

#[test]
fn an_unknown_source_is_asked_for_a_cookie_and_then_connects() {
    let mut world = World::new();
    // p is a member, but nobody has said where it is.
    world.relay.members[2] = Member::at(&world.p, &[]);
    world.relay.start();
    world.point_hosts(Outer::Ipv4, 25);
    world.start_hosts();
    assert_eq!(world.relay.status().handshakes("challenged"), 0);
    // wireguard-go tries again after 5 s, then with the cookie.
    connect(&world.p, &world.a, REGISTRATION);
    let status = world.relay.status();
    assert!(status.handshakes("challenged") >= 1 && status.handshakes("mac2_verified") >= 1, "{status:?}");
    assert_eq!(ping(&world.p, &world.a, 50, Duration::from_millis(10)).loss(), 0.0);
    let from_p = std::net::SocketAddr::new(public(relay_tests::world::P).0.into(), PORT);
    assert!(world.relay.sessions().iter().any(|session| session.source == from_p));
}
