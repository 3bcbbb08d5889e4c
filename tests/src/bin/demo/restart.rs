//! `cargo xtask demo --restart`: restarts while hosts talk, one of them into another version.

use relay_tests::restarts::{self, Event, Outcome};

use super::progress;

/// Restarts and reloads before the upgrade.
const EVENTS: usize = 15;

/// Shows it: the result, and as text for people.
pub fn show() -> (Outcome, String) {
    progress("network: relay, a behind a NAT, b behind two NATs; wgrelay and hosts start");
    let mut world = restarts::world();
    progress("a and b: 500 datagrams a second each way");
    let repeated = [Event::Stop, Event::Kill, Event::Reload].into_iter().cycle().take(EVENTS);
    let tell = |event| {
        progress(match event {
            Event::Stop => "wgrelay: stopped by SIGTERM, with `keep`, and started",
            Event::Kill => "wgrelay: killed by SIGKILL, and started",
            Event::Upgrade => "wgrelay: stopped, and started from another file",
            Event::Reload => "wgrelay: another configuration, and SIGHUP",
        });
    };
    let outcome = restarts::run(&mut world, repeated.chain([Event::Upgrade]), &tell);
    let Outcome { ok, sent, received, restarts, upgrades, reloads, streams } = &outcome;
    let text = format!(
        "\nrestarts: {restarts}, of them upgrades: {upgrades}; reloads: {reloads}\n\
         datagrams sent: {sent}, received: {received}, lost: {}\n\
         longest time without one: {} ms\n\n{}\n",
        sent - received,
        streams.longest_gap_ms,
        if *ok { "ok" } else { "NOT ok" }
    );
    (outcome, text)
}
