//! Tables for people.

use std::{fmt::Write as _, time::Duration};

use relay_user::status::{Host, SessionDirection, Status, UnknownSource};
use tabled::{builder::Builder, settings::Style};

pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut builder = Builder::default();
    builder.push_record(header);
    rows.into_iter().for_each(|row| builder.push_record(row));
    format!("{}\n", builder.build().with(Style::blank()))
}

fn seconds(seconds: f64) -> String {
    humantime::format_duration(Duration::from_secs(seconds as u64)).to_string()
}

pub(crate) fn ago(age: f64) -> String {
    format!("{} ago", seconds(age))
}

pub(crate) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// How many of the source's remarks are shown.
const REMARKS: usize = 10;

pub(crate) fn status(status: &Status) -> String {
    let xdp: Vec<String> = status.xdp.iter().map(|x| format!("{} ({})", x.interface, x.mode)).collect();
    let mut out = String::new();
    let mut line = |name: &str, value: String| writeln!(out, "{name:<12}{value}").expect("a String takes it");
    line("relay", format!("{} (wgrelay {})", status.name, status.version));
    line("public key", status.public_key.clone());
    line("address", format!("{} port {}", status.addresses.join(", "), status.port));
    line("xdp", xdp.join(", "));
    line("up", seconds(status.uptime_seconds));
    line(
        "members",
        format!(
            "{}, {} relayed here, {} of them registered",
            status.members, status.relayed, status.registered
        ),
    );
    line("sessions", format!("{}, {} handshakes under way", status.sessions, status.pending));
    line("next hops", format!("{}, {} of them resolved", status.next_hops.known, status.next_hops.resolved));
    line("source", format!("{}, taken over {}", status.source.name, ago(status.source.loaded_seconds_ago)));
    if let Some(turn) = &status.turn {
        let (allocations, channels) = (turn.allocations, turn.channels);
        let by_tcp = match turn.connections {
            0 => String::new(),
            connections => format!("; {connections} connections by TCP or TLS"),
        };
        line(
            "turn",
            format!("port {}, {allocations} allocations with {channels} channels{by_tcp}", turn.port),
        );
    }
    if let Some(error) = &status.source.error {
        line("", format!("NOT taken over: {error}"));
    }
    for remark in status.source.remarks.iter().take(REMARKS) {
        line("", remark.clone());
    }
    if let Some(more @ 1..) = status.source.remarks.len().checked_sub(REMARKS) {
        line("", format!("and {more} more: see --json"));
    }
    if !status.source.needs_restart.is_empty() {
        line("", format!("needs a restart: {}", status.source.needs_restart.join(", ")));
    }
    out.push('\n');
    let counters = status.counters.iter().map(|c| {
        [c.reason.clone(), c.family.clone(), c.verdict.clone(), c.packets.to_string(), c.bytes.to_string()]
    });
    out.push_str(&table(["reason", "family", "verdict", "packets", "bytes"], counters));
    let handshakes =
        status.handshakes.iter().filter(|h| h.count > 0).map(|h| [h.outcome.clone(), h.count.to_string()]);
    out.push('\n');
    out.push_str(&table(["handshake messages", "count"], handshakes));
    if let Some(turn) = &status.turn {
        let outcomes = turn.outcomes.iter().filter(|o| o.count > 0);
        out.push('\n');
        out.push_str(&table(["turn", "count"], outcomes.map(|o| [o.outcome.clone(), o.count.to_string()])));
        let users = turn.users.iter().map(|user| {
            [
                user.name.clone(),
                user.allocations.to_string(),
                format!("{} / {}", user.sent_packets, user.sent_bytes),
                format!("{} / {}", user.received_packets, user.received_bytes),
            ]
        });
        let header = ["turn user", "allocations", "sent packets / bytes", "received packets / bytes"];
        out.push('\n');
        out.push_str(&table(header, users));
    }
    out
}

pub(crate) fn hosts(hosts: &[Host]) -> String {
    let rows = hosts.iter().map(|host| {
        let relay = match (&host.relayed_by, host.relayed) {
            (Some(relay), _) => relay.clone(),
            (None, true) => "here".to_owned(),
            (None, false) => "-".to_owned(),
        };
        [
            host.name.clone(),
            host.networks.join(","),
            relay,
            or_dash(host.endpoint.clone()),
            or_dash(host.last_handshake_seconds_ago.map(ago)),
            host.sessions.to_string(),
            format!("{} / {}", host.sent_packets, host.sent_bytes),
            format!("{} / {}", host.received_packets, host.received_bytes),
        ]
    });
    let header = [
        "host",
        "networks",
        "relayed",
        "endpoint",
        "last handshake",
        "sessions",
        "sent packets / bytes",
        "received packets / bytes",
    ];
    table(header, rows)
}

pub(crate) fn sessions(sessions: &[SessionDirection]) -> String {
    let rows = sessions.iter().map(|session| {
        [
            or_dash(session.from.clone()),
            or_dash(session.to.clone()),
            session.receiver_index.clone(),
            session.source.clone(),
            session.destination.clone(),
            seconds(session.age_seconds),
            session.packets.to_string(),
            session.bytes.to_string(),
        ]
    });
    table(["from", "to", "receiver index", "source", "destination", "age", "packets", "bytes"], rows)
}

pub(crate) fn sources(sources: &[UnknownSource]) -> String {
    let rows = sources.iter().map(|source| {
        [
            source.source.clone(),
            source.admitted_packets.to_string(),
            source.dropped_packets.to_string(),
            format!("{} ago", seconds(source.seen_seconds_ago)),
        ]
    });
    table(["unknown source", "admitted packets", "dropped packets", "last seen"], rows)
}
