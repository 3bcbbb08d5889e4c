//! Floods of what is not WireGuard's, as fast as a generator in the kernel makes them: who is known does not notice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{
    scene::{FIRST_TRY, SOON, go_on, poke},
    tap::{Hears, Tap},
};
use crate::{
    flood::{DEVICE, Flood, Garbage, object},
    relay::{Outer, PORT, Relay, Status},
    traffic::{Pinging, connect, ping},
    wait::{now, within},
    world::{REGISTRATION, World},
};

/// Sources of a flood from very many: more than there is room for.
const MANY: u32 = 1 << 18;
/// What is admitted at once when a flood begins, and may well be too much for a socket, for a moment.
const BUCKET: u64 = 2_000;

fn scene() -> (World, Flood) {
    let mut world = World::new();
    let flood = Flood::new(&world.relay.namespace, object());
    world.relay.attach.push(DEVICE.to_owned());
    world.relay.start();
    // So that it comes back from where it was.
    world.b.set_listen_port(PORT);
    world.point_hosts(Outer::Ipv4, 5);
    world.start_hosts();
    connect(&world.a, &world.p, REGISTRATION);
    connect(&world.a, &world.b, REGISTRATION);
    (world, flood)
}

fn dropped(status: &Status) -> u64 {
    status.packets("source_over_budget") + status.packets("unknown_over_budget")
}

fn flood(garbage: Garbage, sources: u32) -> Result<String> {
    let (mut world, flood) = scene();
    let pings = Pinging::start(&world.a, &world.p, Duration::from_millis(20));
    pings.more(20, SOON);
    let relay = Relay::endpoint(Outer::Ipv4);
    let before = world.relay.status();
    let full = world.relay.namespace.udp_buffer_errors();
    let (sent, time, meanwhile) = flood.during(garbage, sources, relay, || under_fire(&mut world, &pings));
    assert!(sent >= 500_000, "no flood, {sent} frames");
    let came_back = meanwhile?;
    let (after, lost) = (world.relay.status(), pings.lost().len());
    ensure!(lost < 10, "{lost} pings were lost");
    let full = world.relay.namespace.udp_buffer_errors() - full;
    ensure!(full <= BUCKET, "{full} datagrams found WireGuard's socket full");
    ensure!(after.ring_lost == before.ring_lost, "the ring buffer overflowed");
    let dropped = dropped(&after) - dropped(&before);
    ensure!(dropped as f64 > 0.95 * sent as f64, "only {dropped} of {sent} frames were dropped");
    let shown = world.relay.sources();
    ensure!(shown.iter().any(|source| source.source.starts_with("11.")), "no source is shown: {shown:?}");
    let rate = sent as f64 / time.as_secs_f64() / 1e6;
    Ok(format!("{rate:.2} million frames a second: {came_back}, {lost} pings lost"))
}

/// What has to work meanwhile.
fn under_fire(world: &mut World, pings: &Pinging) -> Result<String> {
    go_on(pings, 100)?;
    // A host that starts anew, at the endpoint at which it is known: its registration and a session, each at once.
    world.b.restart();
    let start = now();
    let key = world.relay.keys.public.clone();
    within(FIRST_TRY, || world.b.last_handshake(&key)).context("b is not registered with its first try")?;
    let registered = start.elapsed().as_millis();
    within(FIRST_TRY, || (ping(&world.b, &world.a, 1, Duration::from_secs(1)).received > 0).then_some(()))
        .context("b has no session with its first try")?;
    let connected = start.elapsed().as_millis();
    ensure!(world.relay.host("a").endpoint.is_some(), "a is registered no more");
    Ok(format!("b registered after {registered} ms, connected after {connected} ms"))
}

pub fn initiations_from_one() -> Result<String> {
    flood(Garbage::Initiations, 1)
}

pub fn initiations_from_many() -> Result<String> {
    flood(Garbage::Initiations, MANY)
}

pub fn data_from_one() -> Result<String> {
    flood(Garbage::Data, 1)
}

pub fn data_from_many() -> Result<String> {
    flood(Garbage::Data, MANY)
}

pub fn ring_buffer() -> Result<String> {
    /// So long userspace reads nothing. Unknown sources have 2,000 messages a second, and as many at once: that is half of the
    /// buffer within a second, and all of it in less than two.
    const STUCK: Duration = Duration::from_millis(2_500);
    let (world, flood) = scene();
    let (bridge, port) = world.internet.port(&world.relay.namespace);
    let at_relay = Tap::new(bridge, &port, Hears::Both);
    world.b.forget_peer(&world.p);
    world.relay.signal(Signal::STOP);
    let relay = Relay::endpoint(Outer::Ipv4);
    let (sent, _, (start, poke)) = flood.during(Garbage::Initiations, MANY, relay, || {
        std::thread::sleep(STUCK);
        at_relay.heard();
        let (start, poke) = (now(), poke(&world.b, &world.p));
        at_relay
            .wait_for(SOON, |heard| (heard.is(1) && heard.to == relay).then_some(()))
            .expect("b initiates");
        (start, poke)
    });
    world.relay.signal(Signal::CONT);
    let rest = FIRST_TRY.saturating_sub(start.elapsed());
    let answered = within(rest, || poke.printed().contains(" time=").then_some(()));
    let took = start.elapsed().as_millis();
    let left_out = world.relay.status().packets("initiation_not_copied");
    assert!(left_out > 0, "the buffer was never scarce, with {sent} frames");
    answered.context("b has no session with its first try")?;
    Ok(format!("{left_out} initiations of unknown sources found no room; b connected after {took} ms"))
}
