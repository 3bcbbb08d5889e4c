//! A member's rate limit, between real hosts.

use relay_tests::{
    World,
    relay::Outer,
    traffic::{connect, throughput},
    until,
    world::REGISTRATION,
};

/// In Mbit/s. What TCP makes of a policer lies below it.
const LIMIT: f64 = 8.0;

#[test]
fn a_rate_limit_holds_both_ways_and_goes_when_it_is_taken_away() {
    let mut world = World::running(Outer::Ipv4);
    connect(&world.a, &world.b, REGISTRATION);
    let free = throughput(&world.a, &world.b, 2);
    assert!(free > 5.0 * LIMIT, "{free} Mbit/s without a limit");

    let key = format!("public_key = {:?}", world.b.keys.public);
    let limited = format!("{key}\nrate_limit = {{ bits_per_second = {} }}", LIMIT * 1e6);
    world.relay.changes.push((key, limited));
    world.relay.write_configuration();
    let over = |world: &World| world.relay.status().packets("over_rate_limit");
    until("packets over the limit", REGISTRATION, || {
        let to_b = throughput(&world.a, &world.b, 1);
        (over(&world) > 0).then_some(to_b)
    });
    for (from, to) in [(&world.a, &world.b), (&world.b, &world.a)] {
        let before = over(&world);
        let rate = throughput(from, to, 3);
        assert!(rate < 1.1 * LIMIT && rate > 0.2 * LIMIT, "{rate} Mbit/s from {} to {}", from.name, to.name);
        assert!(over(&world) > before);
    }

    world.relay.changes.clear();
    world.relay.write_configuration();
    until("throughput without a limit", REGISTRATION, || {
        (throughput(&world.a, &world.b, 1) > 5.0 * LIMIT).then_some(())
    });
}
