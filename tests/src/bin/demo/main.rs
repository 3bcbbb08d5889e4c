//! `cargo xtask demo`: the relay at work, from the outside.

mod fleet;
mod restart;
mod turn;

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use clap::Parser;
use relay_tests::{
    Host, World,
    relay::{Outer, Relay, Status},
    traffic::{Pings, connect, ping, throughput},
    world::REGISTRATION,
};
use serde::Serialize;

/// Show wgrelay at work between hosts in network namespaces, then remove them.
#[derive(Parser)]
struct Arguments {
    /// Print the result as one JSON object, as the last line.
    #[arg(long)]
    json: bool,
    /// Show instead that hosts that talk lose nothing while the relay is stopped, killed, upgraded and reloaded.
    #[arg(long, conflicts_with = "fleet")]
    restart: bool,
    /// Show instead two relays that share etcd, hosts that join them, and the loss of one relay.
    #[arg(long)]
    fleet: bool,
    /// Show instead the TURN server, with coturn's client and with WireGuard.
    #[arg(long, conflicts_with = "fleet")]
    turn: bool,
}

/// What came of it.
#[derive(Serialize)]
struct Outcome {
    /// All pairs talked without loss, nearly all data went by XDP, and no checksum was spoilt.
    ok: bool,
    xdp_mode: String,
    pairs: Vec<Pair>,
    /// Relayed data packets that XDP forwarded.
    data_packets_xdp: u64,
    /// Relayed data packets that it did not: forwarded in userspace, or lost.
    data_packets_slow: u64,
    /// Handshake messages that userspace saw.
    handshakes: u64,
    udp_checksum_errors: u64,
}

/// One pair of hosts, and the outer families that they have.
#[derive(Serialize)]
struct Pair {
    from: String,
    to: String,
    /// `ipv4`, `ipv6`, or both as in `ipv4-ipv6`: the sender's and the receiver's.
    outer: String,
    /// 0 to 1, counted after the first handshake.
    ping_loss: f64,
    rtt_ms_median: Option<f64>,
    mbit_s: f64,
}

/// Pings per pair, and the time between them.
const PINGS: (u32, Duration) = (100, Duration::from_millis(10));
/// Duration of a TCP run, in seconds.
const TCP_SECONDS: u32 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The harness panics on what should not happen, and by unwinding the lab is removed.
    let shown = std::panic::catch_unwind(|| {
        if arguments.fleet {
            let (outcome, text) = fleet::show();
            return (outcome.ok, text, json(&outcome));
        }
        if arguments.restart {
            let (outcome, text) = restart::show();
            return (outcome.ok, text, json(&outcome));
        }
        if arguments.turn {
            let (outcome, text) = turn::show();
            return (outcome.ok, text, json(&outcome));
        }
        let (outcome, metrics) = show();
        (outcome.ok, table(&outcome, &metrics), json(&outcome))
    });
    let Ok((ok, text, line)) = shown else {
        if arguments.json {
            println!(r#"{{"ok":false}}"#);
        }
        return ExitCode::FAILURE;
    };
    print!("{text}");
    if arguments.json {
        println!("{line}");
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn json(outcome: &impl Serialize) -> String {
    serde_json::to_string(outcome).expect("the outcome is plain data")
}

/// Progress goes to standard error: what is on standard output is the result.
fn progress(text: &str) {
    eprintln!("==> {text}");
}

fn show() -> (Outcome, String) {
    progress("network: relay, a behind a NAT, b behind two NATs, p public");
    let mut world = World::new();
    progress("wgrelay: starts, loads the XDP program and attaches it");
    world.relay.start();
    let mut pairs = Vec::new();
    for outer in Outer::BOTH {
        point(&mut world, [outer; 3]);
        pairs.extend(world.pairs().map(|(from, to)| talk(from, to, outer.label().to_owned())));
    }
    point(&mut world, [Outer::Ipv4, Outer::Ipv6, Outer::Ipv4]);
    pairs.push(talk(&world.a, &world.b, "ipv4-ipv6".to_owned()));
    pairs.push(talk(&world.b, &world.a, "ipv6-ipv4".to_owned()));
    let status = world.relay.status();
    let outcome = judge(pairs, &status, world.checksum_errors());
    let metrics = world.relay.metrics();
    progress("the lab is removed");
    (outcome, metrics)
}

/// Starts the hosts a, b and p, each with the relay's address of a family. Another address is another configuration: if
/// they run, they start anew.
fn point(world: &mut World, outer: [Outer; 3]) {
    let labels = outer.map(Outer::label).join(", ");
    progress(&format!("hosts: wireguard-go starts and registers at the relay, outer {labels} for a, b, p"));
    for host in [&mut world.a, &mut world.b, &mut world.p] {
        if host.is_running() {
            host.kill();
        }
    }
    world.point_each(outer.map(Relay::endpoint), 25);
    world.start_hosts();
}

fn talk(from: &Host, to: &Host, outer: String) -> Pair {
    progress(&format!("{} → {}, outer {outer}: handshake, pings, TCP", from.name, to.name));
    connect(from, to, REGISTRATION);
    let pings: Pings = ping(from, to, PINGS.0, PINGS.1);
    let mbit_s = throughput(from, to, TCP_SECONDS);
    let (ping_loss, rtt_ms_median) = (pings.loss(), pings.median());
    let rtt = rtt_ms_median.unwrap_or(f64::NAN);
    eprintln!("    {:.1} % lost, {rtt:.2} ms, {mbit_s:.0} Mbit/s", ping_loss * 100.0);
    Pair { from: from.name.clone(), to: to.name.clone(), outer, ping_loss, rtt_ms_median, mbit_s }
}

fn judge(pairs: Vec<Pair>, status: &Status, udp_checksum_errors: u64) -> Outcome {
    let (fast, slow) = (status.forwarded(), status.not_forwarded());
    let carried = fast > 0 && slow * 1000 <= fast;
    Outcome {
        ok: carried && udp_checksum_errors == 0 && pairs.iter().all(|pair| pair.ping_loss == 0.0),
        xdp_mode: status.xdp.iter().map(|attachment| attachment.mode.clone()).collect::<Vec<_>>().join(","),
        pairs,
        data_packets_xdp: fast,
        data_packets_slow: slow,
        handshakes: status.userspace.handshake_messages,
        udp_checksum_errors,
    }
}

fn table(outcome: &Outcome, metrics: &str) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("write to a string");
    line(format!("\n{:<9} {:<9} {:>7} {:>12} {:>12}", "pair", "outer", "loss", "round trip", "throughput"));
    for Pair { from, to, outer, ping_loss, rtt_ms_median, mbit_s } in &outcome.pairs {
        let rtt = rtt_ms_median.map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
        line(format!(
            "{:<9} {outer:<9} {:>5.1} % {rtt:>12} {mbit_s:>5.0} Mbit/s",
            format!("{from} → {to}"),
            ping_loss * 100.0
        ));
    }
    line(format!("\ndata packets forwarded by XDP ({}): {}", outcome.xdp_mode, outcome.data_packets_xdp));
    line(format!("data packets that took another way, or none: {}", outcome.data_packets_slow));
    line(format!("handshake messages that userspace followed: {}", outcome.handshakes));
    line(format!("datagrams with a spoilt checksum at the hosts: {}\n", outcome.udp_checksum_errors));
    const SHOWN: [&str; 4] =
        ["forwarded_", "wgrelay_sessions", "wgrelay_member_last", "wgrelay_handshake_messages_total"];
    let telling =
        |l: &&str| !l.starts_with('#') && !l.ends_with(" 0") && SHOWN.iter().any(|shown| l.contains(shown));
    metrics.lines().filter(telling).take(10).for_each(|metric| line(metric.to_owned()));
    line(format!("\n{}", if outcome.ok { "ok" } else { "NOT ok" }));
    text
}
