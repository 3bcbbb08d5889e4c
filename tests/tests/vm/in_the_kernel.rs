//! Hosts and relay on the kernel's own WireGuard.

use std::time::Duration;

use relay_tests::{
    World,
    host::Implementation,
    relay::Outer,
    traffic::{connect, ping, throughput},
    world::REGISTRATION,
};

const PINGS: u32 = 50;
const INTERVAL: Duration = Duration::from_millis(20);

/// A relay and hosts that run. The relay's interface and that of each host are the kernel's.
pub fn world(outer: Outer) -> World {
    let mut world = World::new();
    for host in [&mut world.a, &mut world.b, &mut world.p] {
        host.implementation = Implementation::Kernel;
    }
    world.relay.start();
    assert_kernel_registrar(&world);
    world.point_hosts(outer, 25);
    world.start_hosts();
    world
}

/// wgrelay has made its interface by the kernel, not by wireguard-go.
#[track_caller]
pub fn assert_kernel_registrar(world: &World) {
    let link = world.relay.namespace.ip(&format!("-details link show dev {}", world.relay.interface));
    assert!(link.contains("\n    wireguard "), "the kernel's WireGuard was there to be used: {link}");
}

/// Every pair talks, nothing is lost, and XDP in the driver forwards (nearly) all.
#[track_caller]
pub fn assert_all_talk(world: &World) {
    // The first packet to a next hop may find nobody to send it to.
    world.pairs().iter().for_each(|(from, to)| connect(from, to, REGISTRATION));
    let before = world.relay.status();
    let mut sent = 0;
    for (from, to) in world.pairs() {
        let pings = ping(from, to, PINGS, INTERVAL);
        assert_eq!(pings.loss(), 0.0, "{} → {}: {pings:?}", from.name, to.name);
        sent += u64::from(pings.sent + pings.received);
    }
    assert!(throughput(&world.a, &world.b, 1) > 0.0);
    let status = world.relay.status();
    let fast = status.forwarded() - before.forwarded();
    let slow = status.not_forwarded() - before.not_forwarded();
    assert!(fast >= sent, "XDP forwarded {fast} data packets, the pings alone were {sent}");
    assert!(slow * 1000 <= fast, "{slow} data packets took another way than XDP, {fast} that one");
    assert_eq!(world.checksum_errors(), 0, "datagrams with a spoilt UDP checksum reached a host");
    assert_eq!((status.ring_lost, status.userspace.send_errors), (0, 0));
}

#[test]
fn every_pair_talks_over_ipv4() {
    let world = world(Outer::Ipv4);
    assert_all_talk(&world);
    assert_eq!(world.relay.status().xdp[0].mode, "driver", "veth has native XDP");
}

#[test]
fn every_pair_talks_over_ipv6() {
    assert_all_talk(&world(Outer::Ipv6));
}
