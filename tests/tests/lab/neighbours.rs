//! What changes next to the relay: forwarding follows, and loses nothing but what the event itself takes.
//!
//! Loss is measured by pings every 10 ms, of which two packets each cross the relay. [`Event::ended`] notes the newest
//! ping that was answered once the event was over: nothing after it may be lost, and before it only so much.

use std::time::Duration;

use relay_tests::{
    FrameCounter, World,
    internet::public,
    relay::Outer,
    traffic::{Pinging, connect, ping_patiently},
    until,
    wait::now,
    world::REGISTRATION,
};

const INTERVAL: Duration = Duration::from_millis(10);
/// For what takes no timer of WireGuard's.
const SOON: Duration = Duration::from_secs(5);
/// The public router that a is behind.
const ROUTER_A: u8 = 2;

/// The address of a public node as `ip` prints it.
fn address(outer: Outer, number: u8) -> String {
    let (v4, v6) = public(number);
    if outer == Outer::Ipv4 { v4.to_string() } else { v6.to_string() }
}

/// The state and MAC address that the relay's kernel has of a neighbour.
fn neighbour(world: &World, address: &str) -> String {
    world.relay.namespace.ip(&format!("neigh show {address} dev eth0"))
}

/// The relay's kernel checks its neighbours more often and gives up sooner than it does by default.
fn quick_neighbours(world: &World, outer: Outer) {
    let family = outer.label();
    for (name, value) in [
        ("base_reachable_time_ms", "500"),
        ("delay_first_probe_time", "1"),
        ("retrans_time_ms", "100"),
        ("ucast_solicit", "2"),
        ("mcast_solicit", "10"),
    ] {
        world.relay.namespace.set(&format!("net/{family}/neigh/eth0/{name}"), value);
    }
}

/// Pings between a and b while something happens.
struct Event {
    world: World,
    pings: Pinging,
}

impl Event {
    /// The world goes on until something happens.
    fn new(outer: Outer) -> Self {
        let mut world = World::new();
        quick_neighbours(&world, outer);
        world.relay.start();
        world.point_hosts(outer, 25);
        world.start_hosts();
        connect(&world.a, &world.b, REGISTRATION);
        let pings = Pinging::start(&world.a, &world.b, INTERVAL);
        pings.more(20, SOON);
        Self { world, pings }
    }

    /// It is over when pings are answered again.
    fn ended(&self) -> Ended {
        self.pings.more(20, SOON);
        Ended { newest: self.pings.newest(), slow: self.world.relay.status().not_forwarded() }
    }

    /// Goes on for a second: nothing more is lost, and XDP forwards all. Up to the end at most `meanwhile` were lost.
    fn goes_on(self, ended: &Ended, meanwhile: usize) -> World {
        self.pings.more(100, SOON);
        assert_eq!(self.world.relay.status().not_forwarded(), ended.slow, "XDP does not forward all again");
        let (during, after): (Vec<u32>, Vec<u32>) =
            self.pings.lost().into_iter().partition(|n| *n <= ended.newest);
        assert_eq!(after, Vec::<u32>::new(), "pings were lost after the event");
        assert!(during.len() <= meanwhile, "the event cost {} pings: {during:?}", during.len());
        self.world
    }
}

/// How many pings are sent in this time, rounded up.
fn pings_in(time: Duration) -> usize {
    time.as_millis().div_ceil(INTERVAL.as_millis()).try_into().expect("a few")
}

/// How things stood when an event was over.
struct Ended {
    newest: u32,
    slow: u64,
}

fn a_new_mac_address_is_followed(outer: Outer) {
    let event = Event::new(outer);
    let router = event.world.nat_a.namespace();
    let (old, new) = (router.mac("wan"), "02:00:00:00:be:ef");
    let to_old = FrameCounter::new(router, "wan", &old);
    // Not by pings that were answered: those may have passed before the counter was there.
    until("frames to be counted", SOON, || (to_old.count() >= 5).then_some(()));
    router.change_mac("wan", new);
    until("new MAC address of a's router", SOON, || {
        neighbour(&event.world, &address(outer, ROUTER_A)).contains(new).then_some(())
    });
    let ended = event.ended();
    let before = to_old.count();
    event.pings.more(50, SOON);
    assert_eq!(to_old.count(), before, "frames go to the old MAC address although the new one is known");
    event.goes_on(&ended, 10);
}

#[test]
fn a_new_mac_address_is_followed_over_ipv4() {
    a_new_mac_address_is_followed(Outer::Ipv4);
}

#[test]
fn a_new_mac_address_is_followed_over_ipv6() {
    a_new_mac_address_is_followed(Outer::Ipv6);
}

/// Lets a router answer the question for its MAC address, or not.
fn set_answering(world: &World, outer: Outer, answers: bool) {
    let router = world.nat_a.namespace();
    match outer {
        // 8: answers for no address (Documentation/networking/ip-sysctl.rst).
        Outer::Ipv4 => router.set("net/ipv4/conf/wan/arp_ignore", if answers { "0" } else { "8" }),
        Outer::Ipv6 if answers => router.nft("delete table ip6 silent"),
        Outer::Ipv6 => router.nft(
            "table ip6 silent {
                chain input {
                    type filter hook input priority raw
                    iifname wan icmpv6 type nd-neighbor-solicit drop
                }
                chain output {
                    type filter hook output priority raw
                    oifname wan icmpv6 type nd-neighbor-solicit drop
                }
            }",
        ),
    }
}

fn a_neighbour_goes_stale_and_fails_and_comes_back(outer: Outer) {
    let event = Event::new(outer);
    let router = address(outer, ROUTER_A);
    let mac = event.world.nat_a.namespace().mac("wan");
    event.world.relay.namespace.ip(&format!("neigh change {router} lladdr {mac} dev eth0 nud stale"));
    let stale = event.ended();
    event.pings.more(50, SOON);
    assert_eq!(event.world.relay.status().not_forwarded(), stale.slow, "XDP stops at a stale neighbour");

    let silent = now();
    set_answering(&event.world, outer, false);
    // The kernel checks a neighbour when it sends something itself.
    let mut probe = event.world.relay.namespace.command("ping");
    probe.args(["-c1", "-W1", &router]).output().expect("start ping");
    until("failed neighbour", Duration::from_secs(10), || {
        (event.world.relay.status().packets("next_hop_unresolved") > 0).then_some(())
    });
    set_answering(&event.world, outer, true);
    let silent = silent.elapsed();
    let ended = event.ended();
    // The kernel asks every tenth of a second.
    let world = event.goes_on(&ended, pings_in(silent + Duration::from_millis(300)));
    assert!(world.relay.status().userspace.data_packets > 0, "userspace forwards meanwhile");
}

#[test]
fn a_neighbour_goes_stale_and_fails_and_comes_back_over_ipv4() {
    a_neighbour_goes_stale_and_fails_and_comes_back(Outer::Ipv4);
}

#[test]
fn a_neighbour_goes_stale_and_fails_and_comes_back_over_ipv6() {
    a_neighbour_goes_stale_and_fails_and_comes_back(Outer::Ipv6);
}

#[test]
fn a_cable_is_pulled_and_plugged_in() {
    for outer in Outer::BOTH {
        let event = Event::new(outer);
        let (relay, internet) = (&event.world.relay, &event.world.internet);
        let pulled = now();
        internet.set_cable(&relay.namespace, false);
        until("loss of the next hops", SOON, || (relay.status().next_hops.resolved == 0).then_some(()));
        internet.set_cable(&relay.namespace, true);
        let pulled = pulled.elapsed();
        let ended = event.ended();
        event.goes_on(&ended, pings_in(pulled + Duration::from_millis(300)));
    }
}

/// The next hop is not resolved when data comes, and it takes a while: userspace forwards, and nothing is lost.
fn an_unresolved_next_hop(outer: Outer) {
    let mut world = World::new();
    world.relay.start();
    world.point_hosts(outer, 25);
    world.start_hosts();
    connect(&world.a, &world.b, REGISTRATION);
    quick_neighbours(&world, outer);
    let before = world.relay.status();
    assert_eq!(before.packets("next_hop_unresolved"), before.userspace.data_packets);

    set_answering(&world, outer, false);
    world.relay.namespace.ip(&format!("neigh del {} dev eth0", address(outer, ROUTER_A)));
    until("loss of a next hop", SOON, || {
        (world.relay.status().next_hops.resolved < before.next_hops.resolved).then_some(())
    });
    let pings = ping_patiently(&world.b, &world.a, 3, SOON, || {
        until("data that userspace forwards", SOON, || {
            let data_packets = world.relay.status().userspace.data_packets;
            (data_packets >= before.userspace.data_packets + 3).then_some(())
        });
        set_answering(&world, outer, true);
    });
    assert_eq!((pings.sent, pings.received), (3, 3), "some were lost");
    let status = world.relay.status();
    assert!(status.packets("next_hop_unresolved") >= before.packets("next_hop_unresolved") + 3, "{status:?}");
    // And XDP takes over again.
    connect(&world.b, &world.a, SOON);
    assert_eq!(world.relay.status().next_hops.resolved, before.next_hops.resolved);
}

#[test]
fn userspace_forwards_by_an_unresolved_next_hop_over_ipv4() {
    an_unresolved_next_hop(Outer::Ipv4);
}

#[test]
fn userspace_forwards_by_an_unresolved_next_hop_over_ipv6() {
    an_unresolved_next_hop(Outer::Ipv6);
}
