//! What `wgrelay top` shows: two answers of the relay, and the rates between them. Pure.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize as _},
    text::Line,
    widgets::{Block, Cell, Paragraph, Row, Table},
};
use relay_user::{
    handshake::Timestamp,
    status::{Host, Status},
};

/// A host that has not been heard of for so long is gone: WireGuard renews a registration after two minutes.
const GONE: f64 = 180.0;
/// So many reasons are shown at most.
const REASONS: u16 = 12;

/// What the relay said at one time.
pub(super) struct Snapshot {
    pub(super) at: Timestamp,
    pub(super) status: Status,
    pub(super) hosts: Vec<Host>,
}

/// By what members are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Traffic,
    Handshake,
    Name,
}

impl Order {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Traffic => Self::Handshake,
            Self::Handshake => Self::Name,
            Self::Name => Self::Traffic,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Handshake => "last handshake",
            Self::Name => "name",
        }
    }
}

/// How much more there is than before, in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rate {
    packets: f64,
    bits: f64,
}

impl Rate {
    /// From packets and bytes. What was counted anew since (a restart) begins at nothing.
    fn between(before: (u64, u64), now: (u64, u64), seconds: f64) -> Self {
        let rise = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        Self { packets: rise(before.0, now.0), bits: 8.0 * rise(before.1, now.1) }
    }
}

struct Member {
    name: String,
    endpoint: Option<String>,
    heard: Option<f64>,
    sessions: usize,
    sent: Rate,
    received: Rate,
}

struct Reason {
    name: String,
    verdict: String,
    total: u64,
    rate: Rate,
}

/// What is shown.
pub(super) struct View<'a> {
    status: &'a Status,
    forwarded: Rate,
    members: Vec<Member>,
    reasons: Vec<Reason>,
    order: Order,
    trouble: Option<&'a str>,
}

impl<'a> View<'a> {
    /// What is to be shown of `now`, with the rates since `before`, if anything was known then. With `trouble` the relay
    /// could not be asked again.
    pub(super) fn new(
        before: Option<&Snapshot>,
        now: &'a Snapshot,
        order: Order,
        trouble: Option<&'a str>,
    ) -> Self {
        // Without an earlier answer there are no rates.
        let earlier = before.unwrap_or(now);
        let seconds = now.at.saturating_sub(earlier.at).as_secs_f64().max(0.001);
        let known: HashMap<&str, &Host> = earlier.hosts.iter().map(|host| (&*host.name, host)).collect();
        let mut members: Vec<Member> =
            now.hosts.iter().map(|host| member(known.get(&*host.name).copied(), host, seconds)).collect();
        match order {
            // They come sorted by name.
            Order::Name => {}
            Order::Traffic => {
                members.sort_by_key(|member| Reverse((member.sent.bits + member.received.bits) as u64));
            }
            Order::Handshake => {
                members.sort_by_key(|member| member.heard.map_or(u64::MAX, |seconds| seconds as u64));
            }
        }
        let reasons = reasons(&earlier.status, &now.status, seconds);
        let forwarded = reasons.iter().filter(|reason| reason.name.starts_with("forwarded"));
        let forwarded = forwarded.fold(Rate::default(), |all, one| Rate {
            packets: all.packets + one.rate.packets,
            bits: all.bits + one.rate.bits,
        });
        Self { status: &now.status, forwarded, members, reasons, order, trouble }
    }

    /// Draws it.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let reasons = (self.reasons.len() as u16).min(REASONS) + 2;
        let [head, members, below, foot] = Layout::vertical([
            Constraint::Length(4),
            Constraint::Min(4),
            Constraint::Length(reasons),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        frame.render_widget(self.member_table(), members);
        frame.render_widget(self.reason_table(), below);
        frame.render_widget(self.foot(), foot);
    }

    fn head(&self) -> Paragraph<'_> {
        let status = self.status;
        let xdp: Vec<String> =
            status.xdp.iter().map(|xdp| format!("{} ({})", xdp.interface, xdp.mode)).collect();
        let maps: Vec<String> = status
            .maps
            .iter()
            .map(|map| format!("{} {} %", map.map, 100 * map.used / map.capacity.max(1)))
            .collect();
        Paragraph::new(vec![
            Line::from(format!(
                "{}  wgrelay {}  up {}  {}",
                status.name,
                status.version,
                duration(status.uptime_seconds),
                xdp.join(", ")
            ))
            .bold(),
            Line::from(format!(
                "{} bit/s, {} packets/s  {} sessions, {} handshakes under way",
                short(self.forwarded.bits),
                short(self.forwarded.packets),
                status.sessions,
                status.pending
            )),
            Line::from(format!(
                "{} of {} relayed hosts registered, {} members  next hops: {} of {} resolved",
                status.registered,
                status.relayed,
                status.members,
                status.next_hops.resolved,
                status.next_hops.known
            )),
            Line::from(format!("in use: {}", maps.join(", "))),
        ])
    }

    fn member_table(&self) -> Table<'_> {
        let rows = self.members.iter().map(|member| {
            let gone = member.heard.is_some_and(|seconds| seconds > GONE);
            Row::new([
                Cell::from(member.name.as_str()),
                Cell::from(member.endpoint.as_deref().unwrap_or("-")),
                Cell::from(member.heard.map_or_else(|| "-".to_owned(), duration)),
                Cell::from(member.sessions.to_string()),
                Cell::from(short(member.sent.bits)),
                Cell::from(short(member.sent.packets)),
                Cell::from(short(member.received.bits)),
                Cell::from(short(member.received.packets)),
            ])
            .style(if gone { Style::new().fg(Color::Yellow) } else { Style::new() })
        });
        let widths = [
            Constraint::Fill(2),
            Constraint::Fill(3),
            Constraint::Length(9),
            Constraint::Length(8),
            Constraint::Length(10),
            Constraint::Length(8),
            Constraint::Length(10),
            Constraint::Length(8),
        ];
        Table::new(rows, widths)
            .header(
                Row::new([
                    "member", "endpoint", "heard", "sessions", "sent b/s", "pkt/s", "rcvd b/s", "pkt/s",
                ])
                .bold(),
            )
            .block(Block::bordered().title(format!(" members by {} ", self.order.label())))
    }

    fn reason_table(&self) -> Table<'_> {
        let rows = self.reasons.iter().take(REASONS.into()).map(|reason| {
            let lost = ["drop", "aborted"].contains(&&*reason.verdict) && reason.rate.packets > 0.0;
            Row::new([
                Cell::from(reason.name.as_str()),
                Cell::from(reason.verdict.as_str()),
                Cell::from(short(reason.rate.packets)),
                Cell::from(reason.total.to_string()),
            ])
            .style(if lost { Style::new().fg(Color::Yellow) } else { Style::new() })
        });
        let widths =
            [Constraint::Fill(2), Constraint::Length(10), Constraint::Length(10), Constraint::Fill(1)];
        Table::new(rows, widths)
            .block(Block::bordered().title(" packets by reason: verdict, per second, in all "))
    }

    fn foot(&self) -> Line<'_> {
        match (self.trouble, &self.status.source.error) {
            (Some(trouble), _) => Line::from(format!("as it was: {trouble}")).style(Color::Red),
            (None, Some(error)) => {
                Line::from(format!("configuration NOT taken over: {error}")).style(Color::Yellow)
            }
            (None, None) => Line::from("q quits, s sorts otherwise").dim(),
        }
    }
}

fn member(before: Option<&Host>, now: &Host, seconds: f64) -> Member {
    // One that was not there before has no rates yet.
    let before = before.unwrap_or(now);
    Member {
        name: now.name.clone(),
        endpoint: now.endpoint.clone(),
        heard: now.last_handshake_seconds_ago,
        sessions: now.sessions,
        sent: Rate::between(
            (before.sent_packets, before.sent_bytes),
            (now.sent_packets, now.sent_bytes),
            seconds,
        ),
        received: Rate::between(
            (before.received_packets, before.received_bytes),
            (now.received_packets, now.received_bytes),
            seconds,
        ),
    }
}

/// All families together, those with most packets now first.
fn reasons(before: &Status, now: &Status, seconds: f64) -> Vec<Reason> {
    let sum = |status: &Status, reason: &str| {
        let of = status.counters.iter().filter(|counter| counter.reason == reason);
        of.fold((0, 0), |(packets, bytes), counter| (packets + counter.packets, bytes + counter.bytes))
    };
    let mut reasons: Vec<Reason> = Vec::new();
    for counter in &now.counters {
        if reasons.iter().any(|reason| reason.name == counter.reason) {
            continue;
        }
        let all = sum(now, &counter.reason);
        reasons.push(Reason {
            name: counter.reason.clone(),
            verdict: counter.verdict.clone(),
            total: all.0,
            rate: Rate::between(sum(before, &counter.reason), all, seconds),
        });
    }
    reasons.sort_by_key(|reason| Reverse((reason.rate.packets as u64, reason.total)));
    reasons
}

/// A number in three digits or so.
fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 1e9 => (n / 1e9, " G"),
        n if n >= 1e6 => (n / 1e6, " M"),
        n if n >= 1e3 => (n / 1e3, " k"),
        n => return format!("{n:.0}"),
    };
    if scaled < 10.0 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// A time in its two largest units.
fn duration(seconds: f64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds as u64)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;

    fn status(forwarded: u64, dropped: u64) -> Status {
        let counter = |reason: &str, verdict: &str, packets: u64| json!({"reason": reason, "family": "ipv4", "verdict": verdict, "packets": packets, "bytes": 100 * packets});
        serde_json::from_value(json!({
            "version": "1.2.3", "name": "relay-1", "public_key": "", "port": 51820, "addresses": [],
            "uptime_seconds": 90_061.0, "xdp": [{"interface": "eth0", "ifindex": 2, "mode": "driver"}],
            "members": 3, "relayed": 2, "registered": 1, "sessions": 7, "pending": 1, "handshakes": [],
            "counters": [counter("forwarded_tx", "tx", forwarded), counter("source_over_budget", "drop", dropped)],
            "userspace": {"handshake_messages": 0, "new_source_hints": 0, "data_packets": 0, "data_no_session": 0,
                "data_wrong_source": 0, "data_ttl_exceeded": 0, "data_over_rate_limit": 0, "data_bad_checksum": 0,
                "slow_path_lost": 0, "too_big_sent": 0, "too_big_ignored": 0, "sent": 0, "send_errors": 0, "map_errors": 0},
            "ring_lost": 0, "maps": [{"map": "SESSIONS", "used": 50, "capacity": 100}],
            "next_hops": {"known": 2, "resolved": 1},
            "source": {"name": "", "loaded_seconds_ago": 0.0, "error": null, "needs_restart": []},
            "interface_read_seconds_ago": 1.0
        }))
        .unwrap()
    }

    fn host(name: &str, sent: u64, heard: f64) -> Host {
        Host {
            name: name.to_owned(),
            public_key: String::new(),
            networks: Vec::new(),
            relayed: true,
            relayed_by: None,
            endpoint: Some("203.0.113.7:4242".to_owned()),
            last_handshake_seconds_ago: Some(heard),
            sessions: 2,
            sent_packets: sent,
            sent_bytes: 1000 * sent,
            received_packets: 0,
            received_bytes: 0,
        }
    }

    fn snapshot(seconds: u64, packets: u64) -> Snapshot {
        Snapshot {
            at: Duration::from_secs(seconds),
            status: status(packets, packets / 10),
            hosts: vec![host("anna", 0, 20.0), host("berta", packets, 400.0)],
        }
    }

    /// What is on the screen, line by line.
    fn drawn(view: &View<'_>) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(110, 20)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..buffer.area.height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    fn line<'a>(lines: &'a [String], part: &str) -> &'a str {
        lines.iter().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part} in {lines:#?}"))
    }

    #[test]
    fn rates_are_those_between_two_answers() {
        let (before, now) = (snapshot(100, 1000), snapshot(102, 21_000));
        let lines = drawn(&View::new(Some(&before), &now, Order::Traffic, None));
        assert_eq!(lines[0], "relay-1  wgrelay 1.2.3  up 1day 1h  eth0 (driver)");
        // 20,000 frames of 100 bytes in two seconds.
        assert!(lines[1].starts_with("8.0 M bit/s, 10 k packets/s  7 sessions"), "{}", lines[1]);
        assert!(lines[3].contains("SESSIONS 50 %"), "{}", lines[3]);
        let words =
            |part| -> Vec<&str> { line(&lines, part).trim_matches('│').split_whitespace().collect() };
        assert_eq!(
            words("berta"),
            ["berta", "203.0.113.7:4242", "6m", "40s", "2", "80", "M", "10", "k", "0", "0"]
        );
        assert_eq!(words("source_over_budget"), ["source_over_budget", "drop", "1.0", "k", "2100"]);
    }

    #[test]
    fn members_are_sorted_as_one_likes() {
        let (before, now) = (snapshot(100, 1000), snapshot(102, 21_000));
        let names = |order| -> Vec<String> {
            let view = View::new(Some(&before), &now, order, None);
            view.members.iter().map(|member| member.name.clone()).collect()
        };
        assert_eq!(names(Order::Traffic), ["berta", "anna"]);
        assert_eq!(names(Order::Handshake), ["anna", "berta"]);
        assert_eq!(names(Order::Name), ["anna", "berta"]);
        assert_eq!(Order::Traffic.next().next().next(), Order::Traffic);
    }

    #[test]
    fn the_first_answer_and_one_after_a_restart_have_no_rates() {
        let now = snapshot(100, 1000);
        let lines = drawn(&View::new(None, &now, Order::Name, None));
        assert!(lines[1].starts_with("0 bit/s, 0 packets/s"), "{}", lines[1]);
        let again = snapshot(102, 10);
        let lines = drawn(&View::new(Some(&now), &again, Order::Name, None));
        assert!(lines[1].starts_with("0 bit/s, 0 packets/s"), "{}", lines[1]);
    }

    #[test]
    fn trouble_is_told_below() {
        let now = snapshot(100, 1000);
        let lines = drawn(&View::new(None, &now, Order::Name, Some("nobody is there")));
        assert_eq!(lines.last().unwrap(), "as it was: nobody is there");
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 12.4, 999.0, 1234.0, 45_678.0, 9_900_000.0, 2.5e9].map(short);
        assert_eq!(all, ["0", "12", "999", "1.2 k", "46 k", "9.9 M", "2.5 G"]);
        assert_eq!([3.2, 75.0, 90_061.0].map(duration), ["3s", "1m 15s", "1day 1h"]);
    }
}
