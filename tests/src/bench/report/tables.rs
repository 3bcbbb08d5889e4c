//! The tables of a result.

use super::{Part, Report, net_cost::NetCost, table::Table};
use crate::bench::{
    stats::{Ratio, Spread},
    throughput::Way,
    xdp::traffic::{Family, Scenario},
};

/// The table of a part; empty if it was not measured.
pub fn of_part(report: &Report, part: Part) -> String {
    match part {
        Part::Programs => programs(report),
        Part::Channels => channels(report),
        Part::Packets => packets(report),
        Part::Latency => latency(report),
        Part::Handshakes => handshakes(report),
        Part::Flood => flood(report),
        Part::Relays => load(report, &report.relays),
        Part::Hub => load(report, &report.hub),
        Part::Throughput => throughput(report),
        Part::Members => members(report),
    }
}

/// What a run of a program costs.
fn programs(report: &Report) -> String {
    let mut table = Table::new([
        "ns for a run",
        "empty",
        "reflect",
        "reflmiss",
        "wgrelay",
        "min–max",
        "wgrelay, net",
        "gross / reflect",
        "net / reflect, net",
        "A/A",
    ]);
    for rows in report.programs.chunk_by(|a, b| a.scenario == b.scenario) {
        let row = |name| rows.iter().find(|row| row.contender == name);
        let ns = |name| row(name).map_or_else(String::new, |row| format!("{:.1}", row.gross));
        let Some(wgrelay) = row("wgrelay") else { continue };
        table.row([
            rows[0].scenario.to_string(),
            ns("empty"),
            ns("reflect"),
            ns("reflmiss"),
            ns("wgrelay"),
            format!("{:.1}–{:.1}", wgrelay.range.0, wgrelay.range.1),
            format!("**{:.1}**", wgrelay.net),
            ratio(wgrelay.to_reflect),
            ratio(wgrelay.net_to_reflect),
            control(report, "programs", rows[0].scenario),
        ]);
    }
    if report.programs.is_empty() { String::new() } else { table.to_string() }
}

/// What a run costs for data of TURN channels.
fn channels(report: &Report) -> String {
    let header =
        ["ns for a run, net", "from", "reflect, fast", "wgrelay", "wgrelay, fast", "× reflect, fast", "A/A"];
    let mut table = Table::new(header);
    for row in &report.channels {
        let digit = |family| if family == Family::V4 { 4 } else { 6 };
        table.row([
            format!("{}→{}", digit(row.from), digit(row.to)),
            if row.from_client { "client" } else { "peer" }.to_owned(),
            format!("{:.1}", row.reflect),
            format!("{:.1}", row.net),
            format!("**{:.1}**", row.net_fast),
            format!("{:.1}", row.net_fast / row.reflect),
            format!("{:.3}{}", row.control, if row.held { "" } else { " (not held)" }),
        ]);
    }
    if report.channels.is_empty() { String::new() } else { table.to_string() }
}

/// What a packet costs end to end.
fn packets(report: &Report) -> String {
    let mut table = Table::new([
        "ns for a packet",
        "reflect",
        "reflmiss",
        "wgrelay",
        "min–max",
        "generic",
        "Mpps",
        "× reflect",
        "× reflmiss",
        "CPU s/Gbit",
        "A/A",
    ]);
    for rows in report.packets.chunk_by(|a, b| a.scenario == b.scenario) {
        let row = |name| rows.iter().find(|row| row.contender == name);
        let ns = |name| row(name).map_or_else(|| "–".to_owned(), |row| format!("{:.1}", row.ns));
        let Some(wgrelay) = row("wgrelay") else { continue };
        table.row([
            rows[0].scenario.to_string(),
            ns("reflect"),
            ns("reflmiss"),
            ns("wgrelay"),
            format!("{:.1}–{:.1}", wgrelay.range.0, wgrelay.range.1),
            ns("wgrelay, generic"),
            format!("{:.2}", wgrelay.per_second / 1e6),
            ratio(wgrelay.to_reflect),
            ratio(wgrelay.to_reflmiss),
            format!("{:.3}", wgrelay.cpu_seconds_per_gbit),
            control(report, "packets", rows[0].scenario),
        ]);
    }
    if report.packets.is_empty() { String::new() } else { table.to_string() }
}

/// How long a packet is on its way.
fn latency(report: &Report) -> String {
    let Some(first) = report.latency.first() else { return String::new() };
    let mut table = Table::new(["ns on the way", "median", "p99", "p99.9", "p99 / reflect"]);
    for row in &report.latency {
        let [median, p99, p999] = [row.median, row.p99, row.p999].map(|ns| format!("{ns:.0}"));
        table.row([row.contender.clone(), median, p99, p999, ratio(row.p99_to_reflect)]);
    }
    format!("{}, a packet every {} ns:\n\n{table}", first.scenario, first.interval)
}

/// Handshakes per second.
fn handshakes(report: &Report) -> String {
    let mut table = Table::new([
        "members",
        "search by",
        "known /s",
        "unknown, proven /s",
        "unknown /s",
        "full search, µs",
        "search's share",
    ]);
    for row in &report.handshakes {
        table.row([
            thousands(row.members as f64),
            row.kernel.clone(),
            thousands(row.known_per_second.median),
            thousands(row.proven_per_second.median),
            thousands(row.unknown_per_second.median),
            format!("{:.1}", row.full_search_microseconds.median),
            format!("{:.0} %", row.search_share_of_proven * 100.0),
        ]);
    }
    if report.handshakes.is_empty() { String::new() } else { table.to_string() }
}

/// How long a handshake waits behind a burst of others.
fn flood(report: &Report) -> String {
    let mut table = Table::new(["members", "initiations before it", "ms for a handshake", "min–max"]);
    for row in &report.flood {
        table.row([
            thousands(row.members as f64),
            thousands(row.burst as f64),
            format!("**{:.1}**", row.milliseconds.median),
            format!("{:.1}–{:.1}", row.milliseconds.min, row.milliseconds.max),
        ]);
    }
    if report.flood.is_empty() { String::new() } else { table.to_string() }
}

/// What a packet costs relays of all kinds under one load.
fn load(report: &Report, rows: &[crate::bench::load::row::Row]) -> String {
    let mut table = Table::new([
        "ns CPU for a packet",
        "sessions",
        "all",
        "min–max",
        "net",
        "net, busy",
        "/ reflect",
        "packets/s",
        "net CPU s/Gbit",
        "lost",
    ]);
    for row in rows {
        table.row([
            row.contender.clone(),
            thousands(row.sessions.into()),
            thousands(row.tasks_ns_per_packet.median),
            extremes(row.tasks_ns_per_packet),
            thousands(row.net_tasks_ns_per_packet.median),
            thousands(row.net_ns_per_packet.median),
            ratio(row.tasks_to_reflect),
            thousands(row.packets_per_second.median),
            format!("{:.2}", row.net_cpu_seconds_per_gbit),
            row.lost.to_string(),
        ]);
    }
    if rows.is_empty() || report.relays.is_empty() && report.hub.is_empty() {
        String::new()
    } else {
        table.to_string()
    }
}

/// TCP from end to end.
fn throughput(report: &Report) -> String {
    let mut table = Table::new(["way", "Mbit/s", "min–max", "× direct", "CPU s/Gbit"]);
    for row in &report.throughput {
        let way = match row.way {
            Way::Direct => "direct",
            Way::Relay => "by wgrelay",
            Way::Hub => "by the hub",
        };
        table.row([
            way.to_owned(),
            format!("{:.0}", row.mbit_per_second.median),
            extremes(row.mbit_per_second),
            ratio(row.to_direct),
            format!("{:.2}", row.cpu_seconds_per_gbit.median),
        ]);
    }
    if report.throughput.is_empty() { String::new() } else { table.to_string() }
}

/// All kinds of relays compared.
pub fn net_cost(cost: &NetCost) -> String {
    let mut table =
        Table::new(["net cost of a packet", "sessions", "ns", "ns, busy", "× wgrelay", "figure", "reached"]);
    let dash = || "–".to_owned();
    for (name, ns) in cost.own() {
        let times = format!("{:.1}", ns / cost.wgrelay_ns);
        let sessions = thousands(Scenario::CENTRE.sessions.into());
        table.row([name.to_owned(), sessions, format!("{ns:.1}"), dash(), times, dash(), dash()]);
    }
    for row in &cost.rows {
        table.row([
            row.contender.clone(),
            thousands(row.sessions.into()),
            thousands(row.ns),
            thousands(row.busy_ns),
            format!("{:.1}", 1.0 / row.wgrelay_to_it),
            row.at_most.map_or_else(dash, |at_most| format!("≥ {:.0}", 1.0 / at_most)),
            row.reached.map_or_else(dash, yes),
        ]);
    }
    table.to_string()
}

/// Over itself, in this scenario.
fn control(report: &Report, part: &str, scenario: Scenario) -> String {
    let name = scenario.to_string();
    let control = report.controls.iter().find(|control| control.part == part && control.scenario == name);
    control.map_or_else(String::new, |control| {
        format!("{:.3}{}", control.ratio.median, if control.held { "" } else { " ✗" })
    })
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn ratio(Ratio { median, low, high }: Ratio) -> String {
    format!("{median:.2} ({low:.2}–{high:.2})")
}

fn extremes(Spread { min, max, .. }: Spread) -> String {
    format!("{min:.0}–{max:.0}")
}

/// The control plane with very many members.
fn members(report: &Report) -> String {
    let mut table = Table::new([
        "members",
        "relayed here",
        "enrolments /s",
        "start, s",
        "its peers, s",
        "a change, ms",
        "min–max",
        "resident, MiB",
        "at most",
        "idle, % of a CPU",
        "its wireguard-go",
        "a move, ms",
        "min–max",
    ]);
    for row in &report.members {
        let range = |spread: &Spread| format!("{:.0}–{:.0}", spread.min, spread.max);
        table.row([
            thousands(row.members as f64),
            thousands(row.relayed as f64),
            thousands(row.enrolments_per_second),
            format!("{:.2}", row.start_seconds),
            format!("{:.2}", row.peers_seconds),
            format!("{:.1}", row.change_ms.median),
            range(&row.change_ms),
            format!("{:.0}", row.resident_mib),
            format!("{:.0}", row.resident_mib_peak),
            format!("{:.1}", row.idle_percent),
            format!("{:.1}", row.idle_percent_wireguard),
            format!("{:.0}", row.move_ms.median),
            range(&row.move_ms),
        ]);
    }
    if report.members.is_empty() { String::new() } else { table.to_string() }
}

/// A whole number with its thousands apart.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for at in (first..digits.len()).step_by(3) {
        if !text.is_empty() && text != "-" {
            text.push(',');
        }
        text += &digits[at..at + 3];
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::bench::report::tests::made_up;

    #[test]
    fn thousands_are_apart() {
        let text = [0.0, 12.0, 999.0, 1_000.0, 1_234_567.0, -1_000.0, -100.0].map(thousands);
        assert_eq!(text, ["0", "12", "999", "1,000", "1,234,567", "-1,000", "-100"]);
    }

    #[test]
    fn programs_are_a_line_for_each_scenario() {
        let lines = programs(&made_up());
        let lines: Vec<Vec<&str>> =
            lines.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(lines.len(), 4);
        let first = [
            "",
            "4→4 128 B, 1000 sessions, uniform",
            "4.0",
            "5.0",
            "6.0",
            "14.0",
            "13.0–15.0",
            "**10.0**",
            "2.80 (2.79–2.81)",
            "10.00 (9.99–10.01)",
            "1.000",
            "",
        ];
        assert_eq!(lines[2], first);
        assert!(lines[3][1].starts_with("4→6"));
    }

    #[test]
    fn net_costs_are_a_small_table() {
        let expected = "\
| net cost of a packet | sessions |    ns | ns, busy | × wgrelay | figure | reached |
|----------------------|---------:|------:|---------:|----------:|-------:|--------:|
| reflect              |    1,000 |   1.0 |        – |       0.1 |      – |       – |
| wgrelay              |    1,000 |  10.0 |        – |       1.0 |      – |       – |
| wgrelay, channel     |    1,000 |  27.0 |        – |       2.7 |      – |       – |
| nft-conntrack        |    1,000 | 1,000 |    1,001 |     100.0 |    ≥ 8 |     yes |
| userspace            |    1,000 |   100 |      101 |      10.0 |   ≥ 15 |      no |
| coturn               |    1,000 | 9,000 |    9,001 |     333.3 |   ≥ 10 |     yes |
| wireguard-go-hub     |        1 | 8,000 |    8,001 |     800.0 |   ≥ 60 |     yes |
";
        assert_eq!(net_cost(&made_up().net_cost.unwrap()), expected);
    }

    #[test]
    fn what_was_not_measured_has_no_table() {
        let report = Report::default();
        assert!(Part::value_variants().iter().all(|&part| of_part(&report, part).is_empty()));
    }
}
