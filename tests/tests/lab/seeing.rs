//! What the relay tells of itself.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use relay_tests::{
    World,
    command::{Process, program, run, run_with_input},
    internet::public,
    relay::Outer,
    traffic::{connect, ping},
    until,
    world::REGISTRATION,
};
use rustix::process::Signal;
use serde_json::{Value, json};

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
fn log_readiness_and_costs_are_told_to_programs() {
    let world = World::new();
    world.relay.write_configuration();
    let log = world.lab.file("json.log");
    let mut relay = Process::start(world.relay.command().args(["--log-format", "json"]), log);
    until("a relay that is ready", Duration::from_secs(20), || {
        assert!(relay.ended().is_none(), "{}", relay.printed());
        let mut ask = program("curl");
        ask.args(["--silent", "--fail", "http://relay/v1/ready", "--unix-socket"]).arg(world.relay.socket());
        ask.output().expect("start curl").status.success().then_some(())
    });
    for line in relay.printed().lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["timestamp"].is_string() && event["fields"]["message"].is_string(), "{line}");
    }
    let output = world.relay.query("status", &["--bpf-stats", "1", "--json"]);
    let costs: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let all = costs.as_array().expect("a list");
    assert!(all.iter().any(|one| one["program"] == "wgrelay" && one["runs"].is_u64()), "{costs}");
    relay.stop(Signal::TERM);
}

#[test]
fn a_query_without_a_relay_says_so() {
    let world = World::new();
    let output = world.relay.query("status", &[]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("relay.sock") && said.lines().count() == 1, "{said}");
}

/// The names of wgrelay's metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let name = |part: &str| {
        let end = part.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(part.len());
        format!("wgrelay_{}", &part[..end])
    };
    text.split("wgrelay_").skip(1).map(name).collect()
}

/// All expressions in a dashboard.
fn expressions(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(all) => all.iter().flat_map(expressions).collect(),
        Value::Object(all) => {
            let here = all.get("expr").and_then(Value::as_str);
            here.into_iter().chain(all.values().flat_map(expressions)).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn alerts_and_dashboard_are_well_formed_and_ask_for_what_there_is() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let alerts = docs.join("alerts.yml");
    run(program("promtool").args(["check", "rules", "--lint-fatal"]).arg(&alerts));
    let dashboard = fs::read_to_string(docs.join("dashboard.json")).expect("read the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("the dashboard is JSON");
    let expressions = expressions(&dashboard);
    assert!(expressions.len() > 20, "{expressions:?}");
    // As rules, promtool checks them too. Grafana's variables stand for a duration and for a regular expression.
    let promql = |text: &str| text.replace("$__rate_interval", "5m").replace("$instance", ".+");
    let rules: Vec<_> =
        expressions.iter().map(|text| json!({"record": "panel", "expr": promql(text)})).collect();
    let world = World::running(Outer::Ipv4);
    let file = world.lab.file("dashboard.yml");
    let groups = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(&file, groups.to_string()).expect("write the dashboard's expressions");
    run(program("promtool").args(["check", "rules", "--lint=none"]).arg(file));

    connect(&world.a, &world.b, REGISTRATION);
    ping(&world.a, &world.b, 5, Duration::from_millis(5));
    let metrics = world.relay.metrics();
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let served: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
    let alerts = fs::read_to_string(alerts).expect("read the alerts");
    // Only what is asked for: the texts of the alerts speak of commands as well.
    let asked = metrics_in(&alerts).into_iter().chain(expressions.iter().copied().flat_map(metrics_in));
    let missing: Vec<_> = asked.filter(|name| !served.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?} are not in:\n{metrics}");
    assert!(
        metrics.contains("wgrelay_driver_xdp_total{interface=\"eth0\",counter=\"rx_queue_0_xdp_packets\"}")
    );
}
