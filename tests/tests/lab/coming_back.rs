//! What breaks and comes back by itself. Nothing is touched but what breaks; the limits are WireGuard's own timers: a
//! host that hears nothing tries a new handshake after 15 s and then every 5 s, a keepalive comes every 25 s (5 s where a
//! test says so), and a session is renewed after 120 s.

use std::time::Duration;

use relay_tests::{
    World,
    relay::Outer,
    traffic::{Pinging, connect},
    until,
    world::REGISTRATION,
};
use rustix::process::Signal;

const INTERVAL: Duration = Duration::from_millis(20);
/// For what a new handshake mends.
const HANDSHAKE: Duration = Duration::from_secs(35);
/// For what the renewal of a host's registration mends.
const RENEWAL: Duration = Duration::from_secs(150);

/// A world in which a and b ping each other, and how they do.
fn pinging(outer: Outer, keepalive_seconds: u16) -> (World, Pinging) {
    let mut world = World::new();
    world.relay.start();
    world.point_hosts(outer, keepalive_seconds);
    world.start_hosts();
    connect(&world.a, &world.b, REGISTRATION);
    let pings = Pinging::start(&world.a, &world.b, INTERVAL);
    pings.more(20, Duration::from_secs(5));
    (world, pings)
}

#[test]
fn a_nat_that_forgets_is_followed() {
    let (world, pings) = pinging(Outer::Ipv4, 5);
    let before = world.relay.host("a").endpoint;
    let opened = world.relay.status().handshakes("session_opened");
    world.nat_a.forget();
    until("another endpoint of a", Duration::from_secs(8), || {
        (world.relay.host("a").endpoint != before).then_some(())
    });
    // Its next keepalive tells the relay, and the live sessions follow: no new handshake is needed.
    pings.more(50, Duration::from_secs(3));
    let status = world.relay.status();
    assert!(status.handshakes("session_moved") >= 1, "{:?}", status.handshakes);
    assert_eq!(status.handshakes("session_opened"), opened, "it took a new handshake");
}

#[test]
fn a_host_whose_nat_forgot_comes_back_by_its_own_handshake() {
    // No keepalive comes in time, so for the relay its new handshake is from a stranger, who is asked for a cookie.
    let (world, pings) = pinging(Outer::Ipv4, 600);
    assert_eq!(world.relay.status().handshakes("challenged"), 0);
    world.nat_a.forget();
    pings.more(50, HANDSHAKE);
    assert!(world.relay.status().handshakes("challenged") >= 1, "a came from an unknown address");
}

#[test]
fn a_carrier_nat_that_forgets_is_followed() {
    let (world, pings) = pinging(Outer::Ipv4, 5);
    world.nat_b_carrier.forget();
    until("moved sessions", Duration::from_secs(8), || {
        (world.relay.status().handshakes("session_moved") >= 1).then_some(())
    });
    pings.more(50, Duration::from_secs(3));
}

#[test]
fn a_restarted_host_comes_back() {
    let (mut world, pings) = pinging(Outer::Ipv4, 25);
    world.b.restart();
    pings.more(50, HANDSHAKE);
}

#[test]
fn a_restarted_nat_comes_back() {
    let (world, pings) = pinging(Outer::Ipv4, 5);
    world.nat_a.switch_off();
    let before = pings.received();
    std::thread::sleep(Duration::from_secs(1));
    assert!(pings.received() - before < 20, "a NAT that is off still lets something through");
    world.nat_a.switch_on();
    pings.more(50, HANDSHAKE);
}

#[test]
fn a_restarted_ipv6_firewall_comes_back() {
    let (world, pings) = pinging(Outer::Ipv6, 5);
    world.nat_b.switch_off();
    world.nat_b.switch_on();
    pings.more(50, HANDSHAKE);
}

#[test]
fn a_killed_relay_goes_on_forwarding_and_is_taken_over() {
    let (mut world, pings) = pinging(Outer::Ipv4, 25);
    world.relay.stop(Signal::KILL);
    pings.more(100, Duration::from_secs(5));
    world.relay.start();
    pings.more(100, Duration::from_secs(5));
    assert_eq!(world.relay.status().sessions, 1, "the sessions were read back");
    assert_eq!(pings.lost(), Vec::<u32>::new(), "a → b lost some");
    for host in [&world.a, &world.b] {
        world.relay.await_registration(host, RENEWAL);
    }
    connect(&world.p, &world.a, REGISTRATION);
}

#[test]
fn a_relay_that_was_stopped_leaves_nothing_and_comes_back() {
    let (mut world, pings) = pinging(Outer::Ipv4, 25);
    let status = world.relay.stop(Signal::TERM);
    assert!(status.success(), "a stop is no failure: {status}");
    super::failures::assert_nothing_is_left(&world);
    world.relay.start();
    pings.more(50, RENEWAL);
}
