//! The Prometheus endpoint. Nothing is counted here: at every scrape the engine is asked, and its answer is written out.
//! So a label lives as long as what it names.

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::{
    api::Engine,
    engine::Request,
    ethtool::Ethtool,
    status::{Host, Status, TurnUsage},
};

/// The endpoint.
pub fn router(engine: Engine) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(engine)
}

async fn scrape(State(engine): State<Engine>, headers: HeaderMap) -> axum::response::Response {
    let (Some(status), Some(hosts)) = (engine.ask(Request::Status).await, engine.ask(Request::Hosts).await)
    else {
        return axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let interfaces: Vec<String> = status.xdp.iter().map(|xdp| xdp.interface.clone()).collect();
    // Some drivers take their time.
    let driver = tokio::task::spawn_blocking(move || driver_counters(&interfaces)).await.unwrap_or_default();
    let mut body = String::new();
    let mut registry = Registry::with_prefix("wgrelay");
    registry.register_collector(Box::new(Scrape { status, hosts, driver }));
    if text::encode(&mut body, &registry).is_err() {
        return axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    // Prometheus asks for OpenMetrics; promtool and curl don't.
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (kind, body) = if accepted.into_iter().any(|value| value.contains("application/openmetrics-text")) {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", body)
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", classic(&body))
    };
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

/// The classic text format of what stands here as OpenMetrics: a counter's family is named like its samples, and there
/// are no units and no end mark.
fn classic(open_metrics: &str) -> String {
    let mut counters = std::collections::HashSet::new();
    for line in open_metrics.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter")) {
            counters.insert(family);
        }
    }
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(keyword), Some(family), Some(rest)) if counters.contains(family) => {
                text.push_str(&format!("# {keyword} {family}_total {rest}\n"));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// What a driver has counted of XDP's.
#[derive(Debug)]
struct DriverCounter {
    interface: String,
    counter: String,
    value: u64,
}

/// What the drivers of these interfaces count of XDP's: what they could not send or run, the XDP program can't see.
fn driver_counters(interfaces: &[String]) -> Vec<DriverCounter> {
    let of = |interface: &String| {
        let all = Ethtool::new(interface).and_then(|ethtool| ethtool.statistics()).unwrap_or_default();
        let ours = all.into_iter().filter(|(counter, _)| counter.contains("xdp"));
        let interface = interface.clone();
        ours.map(move |(counter, value)| DriverCounter { interface: interface.clone(), counter, value })
    };
    interfaces.iter().flat_map(of).collect()
}

/// One scrape's worth.
#[derive(Debug)]
struct Scrape {
    status: Status,
    hosts: Vec<Host>,
    driver: Vec<DriverCounter>,
}

/// Writes families: a name, a help text, and a value for each set of labels.
struct Families<'a, 'b>(&'a mut DescriptorEncoder<'b>);

type Result = std::result::Result<(), std::fmt::Error>;

impl Families<'_, '_> {
    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

const NONE: [(&str, &str); 0] = [];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result {
        let mut families = Families(&mut encoder);
        self.relay(&mut families)?;
        self.traffic(&mut families)?;
        self.members(&mut families)?;
        self.turn(&mut families)
    }
}

impl Scrape {
    fn relay(&self, families: &mut Families<'_, '_>) -> Result {
        let Status { sessions, pending, userspace, source, maps, next_hops, .. } = &self.status;
        families.gauges(
            "build_info",
            "The version of wgrelay that runs, always 1.",
            None,
            [([("version", self.status.version.as_str()), ("relay", &self.status.name)], 1.0)],
        )?;
        families.gauges(
            "xdp_attached",
            "Whether the XDP program is attached to an interface, by mode: always 1.",
            None,
            self.status.xdp.iter().map(|x| ([("interface", x.interface.as_str()), ("mode", &x.mode)], 1.0)),
        )?;
        families.gauges(
            "uptime",
            "How long wgrelay has run.",
            Some(&Unit::Seconds),
            [(NONE, self.status.uptime_seconds)],
        )?;
        families.gauges("sessions", "Live relayed sessions.", None, [(NONE, *sessions as f64)])?;
        families.gauges(
            "pending_handshakes",
            "Relayed handshakes under way.",
            None,
            [(NONE, *pending as f64)],
        )?;
        families.gauges(
            "map_entries",
            "Entries in use, by BPF map.",
            None,
            maps.iter().map(|m| ([("map", m.map.as_str())], m.used as f64)),
        )?;
        families.gauges(
            "map_capacity_entries",
            "Entries that there can be, by BPF map.",
            None,
            maps.iter().map(|m| ([("map", m.map.as_str())], m.capacity as f64)),
        )?;
        families.gauges(
            "next_hops",
            "Next hops, by whether their MAC address is known.",
            None,
            [
                ([("resolved", "true")], next_hops.resolved as f64),
                ([("resolved", "false")], (next_hops.known - next_hops.resolved) as f64),
            ],
        )?;
        families.gauges(
            "source_age",
            "How long ago the present desired state was taken over from the control source.",
            Some(&Unit::Seconds),
            [(NONE, source.loaded_seconds_ago)],
        )?;
        families.gauges(
            "source_error",
            "Whether the control source has content that could not be taken over.",
            None,
            [(NONE, if source.error.is_some() { 1.0 } else { 0.0 })],
        )?;
        families.gauges(
            "interface_read_age",
            "How long ago the relay's own WireGuard interface was read.",
            Some(&Unit::Seconds),
            self.status.interface_read_seconds_ago.map(|age| (NONE, age)),
        )?;
        families.counters("map_errors", "Failed writes to BPF maps.", None, [(NONE, userspace.map_errors)])
    }

    fn traffic(&self, families: &mut Families<'_, '_>) -> Result {
        let Status { counters, handshakes, userspace, ring_lost, .. } = &self.status;
        let labels = |c: &'_ crate::status::ReasonCount| {
            [("reason", c.reason.clone()), ("family", c.family.clone()), ("verdict", c.verdict.clone())]
        };
        families.counters(
            "xdp_packets",
            "Packets by why they met their end in the XDP program.",
            None,
            counters.iter().map(|c| (labels(c), c.packets)),
        )?;
        families.counters(
            "xdp",
            "Bytes of frames by why they met their end in the XDP program.",
            Some(&Unit::Bytes),
            counters.iter().map(|c| (labels(c), c.bytes)),
        )?;
        families.counters(
            "driver_xdp",
            "What the drivers of the interfaces with the XDP program count of XDP's, by the drivers' own names.",
            None,
            self.driver.iter().map(|d| {
                ([("interface", d.interface.clone()), ("counter", d.counter.clone())], d.value)
            }),
        )?;
        families.counters(
            "handshake_messages",
            "Handshake messages by what became of them in userspace.",
            None,
            handshakes.iter().map(|h| ([("outcome", h.outcome.as_str())], h.count)),
        )?;
        families.counters(
            "ring_lost",
            "Handshake messages that found the ring buffer full.",
            None,
            [(NONE, *ring_lost)],
        )?;
        families.counters(
            "new_source_hints",
            "Hints that a host may have registered or moved.",
            None,
            [(NONE, userspace.new_source_hints)],
        )?;
        families.counters(
            "slow_path_packets",
            "Data packets that userspace took up because the XDP program could not forward them, by what became of them.",
            None,
            [
                ([("outcome", "forwarded")], userspace.data_packets),
                ([("outcome", "no_session")], userspace.data_no_session),
                ([("outcome", "wrong_source")], userspace.data_wrong_source),
                ([("outcome", "ttl_exceeded")], userspace.data_ttl_exceeded),
                ([("outcome", "over_rate_limit")], userspace.data_over_rate_limit),
                ([("outcome", "bad_checksum")], userspace.data_bad_checksum),
                ([("outcome", "lost")], userspace.slow_path_lost),
            ],
        )?;
        families.counters(
            "too_big_messages",
            "\"Packet too big\": hosts told (sent), and messages that did not answer a relayed packet (ignored).",
            None,
            [([("outcome", "sent")], userspace.too_big_sent), ([("outcome", "ignored")], userspace.too_big_ignored)],
        )?;
        families.counters("sent_messages", "Handshake messages sent.", None, [(NONE, userspace.sent)])?;
        families.counters(
            "send_errors",
            "Packets that could not be sent: handshake messages, data of the slow path, too-big messages.",
            None,
            [(NONE, userspace.send_errors)],
        )
    }

    fn members(&self, families: &mut Families<'_, '_>) -> Result {
        let hosts = || self.hosts.iter();
        let of = |host: &Host| [("member", host.name.clone())];
        let way =
            |host: &Host, way: &'static str| [("member", host.name.clone()), ("direction", way.to_owned())];
        families.gauges(
            "member_endpoint_known",
            "Whether a member's endpoint is known.",
            None,
            hosts().map(|h| (of(h), if h.endpoint.is_some() { 1.0 } else { 0.0 })),
        )?;
        families.gauges(
            "member_last_handshake_age",
            "How long ago a relayed host last completed a handshake with the relay.",
            Some(&Unit::Seconds),
            hosts().filter_map(|h| Some((of(h), h.last_handshake_seconds_ago?))),
        )?;
        families.gauges(
            "member_sessions",
            "Live relayed sessions of a member.",
            None,
            hosts().map(|h| (of(h), h.sessions as f64)),
        )?;
        families.counters(
            "member_packets",
            "Packets forwarded from a member (sent) and to it (received).",
            None,
            hosts()
                .flat_map(|h| [(way(h, "sent"), h.sent_packets), (way(h, "received"), h.received_packets)]),
        )?;
        families.counters(
            "member",
            "Bytes of WireGuard messages forwarded from a member (sent) and to it (received).",
            Some(&Unit::Bytes),
            hosts().flat_map(|h| [(way(h, "sent"), h.sent_bytes), (way(h, "received"), h.received_bytes)]),
        )
    }
}

impl Scrape {
    fn turn(&self, families: &mut Families<'_, '_>) -> Result {
        let Some(turn) = &self.status.turn else { return Ok(()) };
        families.gauges("turn_allocations", "Allocations.", None, [(NONE, turn.allocations as f64)])?;
        families.gauges("turn_channels", "Channels of allocations.", None, [(NONE, turn.channels as f64)])?;
        let connections = [(NONE, turn.connections as f64)];
        families.gauges("turn_connections", "Connections of clients by TCP and TLS.", None, connections)?;
        families.counters(
            "turn_events",
            "What has become of TURN clients' requests, and of data that was refused.",
            None,
            turn.outcomes.iter().map(|o| ([("outcome", o.outcome.as_str())], o.count)),
        )?;
        let way = |user: &TurnUsage, way: &'static str| {
            [("user", user.name.clone()), ("direction", way.to_owned())]
        };
        families.counters(
            "turn_packets",
            "Packets from users to their peers (sent) and back (received), those that the XDP program forwarded included.",
            None,
            turn.users
                .iter()
                .flat_map(|u| [(way(u, "sent"), u.sent_packets), (way(u, "received"), u.received_packets)]),
        )?;
        families.counters(
            "turn",
            "Bytes of data from users to their peers (sent) and back (received), likewise.",
            Some(&Unit::Bytes),
            turn.users
                .iter()
                .flat_map(|u| [(way(u, "sent"), u.sent_bytes), (way(u, "received"), u.received_bytes)]),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::classic;

    #[test]
    fn the_classic_format_names_counters_by_their_samples() {
        let open_metrics = "# HELP a_bytes Bytes of a.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\n\
                            a_bytes_total{x=\"# y\"} 1\n# HELP b b.\n# TYPE b gauge\nb 2\n# EOF\n";
        let text = "# HELP a_bytes_total Bytes of a.\n# TYPE a_bytes_total counter\na_bytes_total{x=\"# y\"} 1\n\
                    # HELP b b.\n# TYPE b gauge\nb 2\n";
        assert_eq!(classic(open_metrics), text);
    }
}
