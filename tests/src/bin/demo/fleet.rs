//! `cargo xtask demo --fleet`: two relays on one etcd, hosts that join by key, and a relay that is lost.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use relay_tests::{
    Fleet, Relay,
    fleet::{Joined, RELAYS},
    traffic::{Pinging, connect, ping},
    until, wait,
};
use serde::Serialize;

use crate::{PINGS, progress};

/// What came of it.
#[derive(Serialize)]
pub(crate) struct Outcome {
    /// All hosts were relayed, all pairs talked without loss before and after, and who was at the other relay lost nothing.
    pub ok: bool,
    /// The relays, by name.
    relays: Vec<String>,
    /// XDP mode of each.
    xdp_mode: Vec<String>,
    hosts: Vec<HostOutcome>,
    /// Before the relay was lost, and after.
    before: Vec<Pair>,
    after: Vec<Pair>,
    /// Relayed data packets that XDP forwarded, at all relays.
    data_packets_xdp: u64,
    /// Those that it did not, but for those to the lost relay.
    data_packets_slow: u64,
    /// From the pulled cable to the first reply by the other relay.
    failover_seconds: f64,
    /// Pings that were lost meanwhile between hosts of the other relay.
    lost_by_others: usize,
}

/// A host that joined.
#[derive(Serialize)]
struct HostOutcome {
    name: String,
    /// Its relay at first, and at the end.
    relay: String,
    relay_after: String,
    /// From the start of `wgrelay join` until the relay knew where it is.
    join_seconds: f64,
}

#[derive(Serialize)]
struct Pair {
    from: String,
    to: String,
    /// 0 to 1, counted after the first handshake.
    ping_loss: f64,
    rtt_ms_median: Option<f64>,
}

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so many seconds a relay counts as gone, once its lease has ended.
const FAILOVER_SECONDS: u64 = 2;

pub(crate) fn show() -> (Outcome, String) {
    progress("network: etcd, two relays, hosts a, b and c behind NATs");
    progress("both relays: wgrelay starts on etcd and loads the XDP program; `wgrelay relay create`");
    let fleet = Fleet::new(FAILOVER_SECONDS);
    let [r1, r2] = &fleet.relays;
    let keys = [fleet.key(r1), fleet.key(r2)];
    let joined: Vec<(Joined, f64)> =
        [(0, r1, &keys[0]), (1, r2, &keys[1]), (2, r2, &keys[1])].map(|it| join(&fleet, it)).into();
    let hosts: Vec<&Joined> = joined.iter().map(|(host, _)| host).collect();
    let before = talk(&hosts);
    let first: Vec<String> = hosts.iter().map(|host| relay_of(r2, host)).collect();

    progress(&format!("the cable of {} is pulled", r1.name()));
    let others = Pinging::start(&hosts[1].host, &hosts[2].host, Duration::from_millis(10));
    let moving = Pinging::start(&hosts[2].host, &hosts[0].host, Duration::from_millis(10));
    moving.more(20, PATIENCE);
    others.more(20, PATIENCE);
    let [forwarded, other] = [r1, r2].map(Relay::status);
    fleet.internet.set_cable(&r1.namespace, false);
    let (pulled, newest) = (wait::now(), moving.newest());
    // What was under way when the cable was pulled may still come.
    let failover_seconds = until("replies by the other relay", PATIENCE, || {
        (moving.newest() > newest + 50).then(|| since(pulled))
    });
    let back = r2.status();
    progress(&format!("replies again after {failover_seconds:.1} s, by {}", r2.name()));
    others.more(20, PATIENCE);
    let lost_by_others = others.lost().len();
    drop(moving);
    let after = talk(&hosts);

    let last = r2.status();
    let hosts = joined.iter().zip(first).map(|((host, join_seconds), relay)| HostOutcome {
        name: host.host.name.clone(),
        relay,
        relay_after: relay_of(r2, host),
        join_seconds: *join_seconds,
    });
    let hosts: Vec<HostOutcome> = hosts.collect();
    let silent = |pairs: &[Pair]| pairs.iter().any(|pair| pair.ping_loss > 0.0);
    let fast = forwarded.forwarded() + last.forwarded();
    // What the other relay had for the one that was gone had nowhere to go.
    let meanwhile = back.not_forwarded() - other.not_forwarded();
    let slow = forwarded.not_forwarded() + last.not_forwarded() - meanwhile;
    let moved = hosts.iter().all(|host| host.relay_after == r2.name());
    let outcome = Outcome {
        ok: moved && !silent(&before) && !silent(&after) && lost_by_others == 0 && slow * 100 <= fast,
        relays: fleet.relays.iter().map(Relay::name).collect(),
        xdp_mode: [forwarded, last].iter().map(|status| status.xdp[0].mode.clone()).collect(),
        hosts,
        before,
        after,
        data_packets_xdp: fast,
        data_packets_slow: slow,
        failover_seconds,
        lost_by_others,
    };
    progress("the lab is removed");
    let text = table(&outcome);
    (outcome, text)
}

fn since(start: Instant) -> f64 {
    wait::now().duration_since(start).as_secs_f64()
}

fn join(fleet: &Fleet, (place, relay, key): (usize, &Relay, &String)) -> (Joined, f64) {
    let start = wait::now();
    let joined = fleet.join(place, key);
    until(&format!("{} at its relay", joined.host.name), PATIENCE, || {
        relay.hosts().into_iter().find(|host| host.name == joined.host.name)?.endpoint
    });
    let seconds = since(start);
    progress(&format!(
        "{}: `wgrelay join --key KEY --watch`, relayed by {} after {seconds:.1} s",
        joined.host.name,
        relay.name()
    ));
    (joined, seconds)
}

/// The relay that the control plane has for a host.
fn relay_of(asked: &Relay, host: &Joined) -> String {
    let member = asked.ask(&["member", "show", &host.host.name]);
    member["relayed_by"].as_str().unwrap_or_default().to_owned()
}

fn talk(hosts: &[&Joined]) -> Vec<Pair> {
    let pairs = [(0, 1), (1, 2), (2, 0)].map(|(from, to)| (&hosts[from].host, &hosts[to].host));
    let talk = pairs.map(|(from, to)| {
        connect(from, to, PATIENCE);
        let pings = ping(from, to, PINGS.0, PINGS.1);
        let (from, to) = (from.name.clone(), to.name.clone());
        let (ping_loss, rtt_ms_median) = (pings.loss(), pings.median());
        let rtt = rtt_ms_median.unwrap_or(f64::NAN);
        progress(&format!("{from} → {to}: {:.1} % lost, {rtt:.2} ms", ping_loss * 100.0));
        Pair { from, to, ping_loss, rtt_ms_median }
    });
    talk.into()
}

fn table(outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("write to a string");
    line(format!("\n{:<6} {:<10} {:<12} {:>8}", "host", "relay", "relay after", "joined"));
    for HostOutcome { name, relay, relay_after, join_seconds } in &outcome.hosts {
        line(format!("{name:<6} {relay:<10} {relay_after:<12} {join_seconds:>6.1} s"));
    }
    line(format!("\n{:<9} {:>12} {:>12} {:>14}", "pair", "loss before", "loss after", "round trip"));
    for (before, after) in outcome.before.iter().zip(&outcome.after) {
        let rtt = after.rtt_ms_median.map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
        line(format!(
            "{:<9} {:>10.1} % {:>10.1} % {rtt:>14}",
            format!("{} → {}", before.from, before.to),
            before.ping_loss * 100.0,
            after.ping_loss * 100.0
        ));
    }
    let [first, second] = RELAYS.map(|number| format!("relay-{number}"));
    line(format!("\nfrom the loss of {first} to replies by {second}: {:.1} s", outcome.failover_seconds));
    line(format!("pings lost meanwhile between hosts of {second}: {}", outcome.lost_by_others));
    line(format!("data packets forwarded by XDP: {}", outcome.data_packets_xdp));
    line(format!("data packets that took another way, or none: {}", outcome.data_packets_slow));
    line(format!("\n{}", if outcome.ok { "ok" } else { "NOT ok" }));
    text
}
