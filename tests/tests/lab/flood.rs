//! Floods of what is not WireGuard's, as fast as a generator in the kernel makes them: who is known does not notice.

use std::time::Duration;

use relay_tests::{
    World,
    flood::{DEVICE, Flood, Garbage},
    relay::{Outer, PORT, Relay},
    traffic::{Pinging, connect},
    until,
    wait::now,
    world::REGISTRATION,
};

/// Sources of a flood from very many: more than there is room for.
const MANY: u32 = 1 << 18;
/// What is admitted at once when a flood begins, and may well be too much for a socket, for a moment.
const BUCKET: u64 = 2_000;
/// WireGuard repeats an initiation after five seconds: what has come about before was the first.
const FIRST_TRY: Duration = Duration::from_millis(4_500);

#[test]
fn a_flood_costs_known_hosts_neither_their_sessions_nor_a_handshake() {
    let mut world = World::new();
    let flood = Flood::new(&world.relay.namespace, relay_tests::flood::object());
    world.relay.attach.push(DEVICE.to_owned());
    world.relay.start();
    // So that it comes back from where it was.
    world.b.set_listen_port(PORT);
    world.point_hosts(Outer::Ipv4, 5);
    world.start_hosts();
    connect(&world.a, &world.p, REGISTRATION);
    connect(&world.a, &world.b, REGISTRATION);
    let pings = Pinging::start(&world.a, &world.p, Duration::from_millis(20));
    pings.more(20, Duration::from_secs(5));
    let relay = Relay::endpoint(Outer::Ipv4);
    for (garbage, sources) in
        [(Garbage::Initiations, 1), (Garbage::Data, 1), (Garbage::Initiations, MANY), (Garbage::Data, MANY)]
    {
        let what = format!("{garbage:?} from {sources}");
        let before = world.relay.status();
        let lost = world.relay.namespace.udp_buffer_errors();
        let (sent, time, ()) =
            flood.during(garbage, sources, relay, || under_fire(&mut world, &pings, &what));
        let rate = sent as f64 / time.as_secs_f64();
        let after = world.relay.status();
        let more = |reason: &str| after.packets(reason) - before.packets(reason);
        let dropped = more("source_over_budget") + more("unknown_over_budget");
        eprintln!("{what}: {sent} frames, {rate:.0} a second, {dropped} of them dropped");
        assert!(sent >= 1_000_000, "{what}: no flood, {sent} frames");
        assert!(dropped as f64 > 0.95 * sent as f64, "{what}: {dropped} of {sent} dropped");
        let lost = world.relay.namespace.udp_buffer_errors() - lost;
        assert!(lost <= BUCKET, "{what}: {lost} datagrams found WireGuard's socket full");
        assert_eq!(after.ring_lost, before.ring_lost, "{what}: the ring buffer overflowed");
        let shown = world.relay.sources();
        assert!(shown.iter().any(|source| source.source.starts_with("11.")), "{what}: {shown:?}");
    }
    let lost = pings.lost();
    assert!(lost.len() < 10, "pings were lost: {lost:?}");
}

/// What has to work meanwhile.
fn under_fire(world: &mut World, pings: &Pinging, what: &str) {
    pings.more(100, Duration::from_secs(10));
    // A host that starts anew, at the endpoint at which it is known: its registration and a session, each at once.
    world.b.restart();
    let start = now();
    let key = world.relay.keys.public.clone();
    until("registration of b", FIRST_TRY, || world.b.last_handshake(&key).map(|_| ()));
    let registered = start.elapsed();
    connect(&world.b, &world.a, FIRST_TRY);
    eprintln!("{what}: registered after {registered:?}, connected after {:?}", start.elapsed());
    assert!(world.relay.host("a").endpoint.is_some() && world.relay.host("b").endpoint.is_some());
    pings.more(50, Duration::from_secs(5));
}
