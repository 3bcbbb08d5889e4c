//! What the relay tells of itself.

use std::time::Duration;

use relay_tests::{
    World,
    command::{program, run_with_input},
    internet::public,
    relay::Outer,
    traffic::{connect, ping},
    world::REGISTRATION,
};

#[test]
fn metrics_are_well_formed_and_count_what_happened() {
    let world = World::running(Outer::Ipv4);
    connect(&world.a, &world.b, REGISTRATION);
    ping(&world.a, &world.b, 50, Duration::from_millis(5));
    let metrics = world.relay.metrics();
    let lint = run_with_input(program("promtool").args(["check", "metrics"]), &metrics);
    assert_eq!(lint.trim(), "", "promtool has something to say");
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let forwarded: f64 = samples
        .filter(|line| line.contains("forwarded_tx") && line.contains("packets"))
        .map(|line| {
            line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok()).expect("a sample has a value")
        })
        .sum();
    assert!(forwarded >= 100.0, "{metrics}");
}

#[test]
fn tables_and_json_tell_of_hosts_and_sessions() {
    let world = World::running(Outer::Ipv4);
    connect(&world.a, &world.b, REGISTRATION);
    ping(&world.a, &world.b, 20, Duration::from_millis(5));
    let status = world.relay.status();
    assert_eq!((status.members, status.registered, status.sessions), (3, 2, 1));
    let a = world.relay.host("a");
    assert!(a.sent_packets >= 20 && a.received_packets >= 20 && a.sessions == 1, "{a:?}");
    assert!(a.last_handshake_seconds_ago.is_some_and(|seconds| seconds < 60.0), "{a:?}");
    let sessions = world.relay.sessions();
    assert_eq!(sessions.len(), 2);
    for session in sessions {
        let router = if session.from.as_deref() == Some("a") { 2 } else { 3 };
        assert_eq!(session.source.ip(), public(router).0);
        assert!(session.packets >= 20, "{session:?}");
    }
    for (what, words) in [
        ("status", ["eth0", "driver"]),
        ("hosts", ["a", "b"]),
        ("sessions", ["198.51.100.2", "198.51.100.3"]),
    ] {
        let output = world.relay.query(what, &[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && words.iter().all(|word| text.contains(word)), "{what}: {text}");
    }
}

#[test]
fn a_query_without_a_relay_says_so() {
    let world = World::new();
    let output = world.relay.query("status", &[]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("relay.sock") && said.lines().count() == 1, "{said}");
}
