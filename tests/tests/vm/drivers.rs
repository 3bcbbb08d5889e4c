//! The relay on network cards instead of veth: `cargo xtask vm` names their driver in WGRELAY_LAB_CARDS, and the lab gives
//! them to the relay.

use relay_tests::{
    World,
    cards::driver,
    command::run,
    relay::{Outer, PORT, Status},
};

use crate::{fact, in_the_kernel::assert_all_talk};

/// A driver and how the program is attached to it.
fn driver_and_mode() -> (String, &'static str) {
    let driver = driver().expect("WGRELAY_LAB_CARDS names the driver of the relay's cards");
    // The other has no XDP in its driver, up to Linux 6.12 at least.
    let mode = if driver == "virtio_net" { "driver" } else { "generic" };
    (driver, mode)
}

#[track_caller]
fn assert_attached(world: &World) -> (String, Status) {
    let ((driver, mode), status) = (driver_and_mode(), world.relay.status());
    for attached in &status.xdp {
        let text = run(world.relay.namespace.command("ethtool").args(["-i", &attached.interface]));
        assert!(text.contains(&format!("driver: {driver}\n")), "{text}");
        assert_eq!(attached.mode, mode, "{driver}");
    }
    (format!("{driver}, {mode} mode"), status)
}

#[test]
fn data_leaves_by_the_card_that_it_came_by() {
    for outer in Outer::BOTH {
        let world = World::running(outer);
        assert_all_talk(&world);
        let (name, status) = assert_attached(&world);
        let (sent_back, sent_on) = (status.packets("forwarded_tx"), status.packets("forwarded_redirect"));
        assert!(sent_back > 0 && sent_on == 0, "{status:?}");
        fact(&format!("{name}: TX"), "carries, nothing lost");
        if let Some(queues) = queues(&world) {
            fact(&format!("{name}: queues that received"), &queues);
        }
    }
}

#[test]
fn data_leaves_by_another_card() {
    for outer in Outer::BOTH {
        let mut world = World::with_uplinks();
        for uplink in &world.uplinks {
            uplink.take_what_comes_from_its_addresses();
        }
        world.relay.start();
        let at = [0, 1, 1].map(|uplink| (world.uplinks[uplink].address(outer, 1), PORT).into());
        world.point_each(at, 25);
        world.start_hosts();
        assert_all_talk(&world);
        let (name, status) = assert_attached(&world);
        assert!(status.packets("forwarded_redirect") > 0, "{status:?}");
        fact(&format!("{name}: REDIRECT"), "carries, nothing lost");
    }
}

/// How many of the card's queues have received packets, of how many, if its driver counts by queues.
fn queues(world: &World) -> Option<String> {
    let text = run(world.relay.namespace.command("ethtool").args(["-S", "eth0"]));
    // virtio_net has rx_queue_0_packets or, since 6.8 or so, rx0_packets.
    let of_a_queue = |name: &str| {
        let number = name.strip_prefix("rx").and_then(|rest| rest.strip_suffix("_packets"));
        number.is_some_and(|rest| rest.trim_start_matches("_queue_").parse::<u32>().is_ok())
    };
    let counters: Vec<u64> = text
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(name, _)| of_a_queue(name))
        .filter_map(|(_, value)| value.parse().ok())
        .collect();
    let used = counters.iter().filter(|&&packets| packets > 0).count();
    (!counters.is_empty()).then(|| format!("{used} of {}", counters.len()))
}
