//! The result of a run: as JSON, as tables, as a picture.

pub mod net_cost;
pub mod page;
pub mod part;
pub mod picture;
pub mod table;
pub mod tables;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use self::net_cost::NetCost;
pub use self::part::Part;
use super::{
    CONTROL, Effort, handshakes,
    load::{flood, hub, relays, row},
    machine::Machine,
    members,
    stats::Ratio,
    throughput,
    xdp::{channels, latency, packets, programs},
};

/// What a run measured. A part that was not measured has no rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What it was measured on.
    pub machine: Machine,
    /// Whether it was the short form, whose figures are rough.
    pub short: bool,
    /// What a run of a program costs.
    pub programs: Vec<programs::Row>,
    /// What a run costs for data of TURN channels.
    pub channels: Vec<channels::Row>,
    /// What a packet costs end to end.
    pub packets: Vec<packets::Row>,
    /// How long a packet is on its way.
    pub latency: Vec<latency::Row>,
    /// Handshakes per second.
    pub handshakes: Vec<handshakes::Row>,
    /// How long a handshake waits behind a burst of others.
    pub flood: Vec<flood::Row>,
    /// What a packet costs relays of all kinds.
    pub relays: Vec<row::Row>,
    /// What it costs a hub.
    pub hub: Vec<row::Row>,
    /// TCP from end to end.
    pub throughput: Vec<throughput::Row>,
    /// The control plane with very many members.
    pub members: Vec<members::Row>,
    /// The A/A controls of all parts that have one.
    pub controls: Vec<Control>,
    /// All kinds of relays compared, if what that needs was measured.
    pub net_cost: Option<NetCost>,
}

/// `reflect` over itself: what of a difference is chance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// Of which part.
    pub part: String,
    /// Of which of its scenarios.
    pub scenario: String,
    /// The second over the first.
    pub ratio: Ratio,
    /// Whether that is within 3 %: a figure counts only then.
    pub held: bool,
}

impl Report {
    /// Measures one part more. `object` is the benchmark's BPF object file.
    pub fn measure(
        &mut self,
        part: Part,
        object: &[u8],
        effort: Effort,
        progress: &dyn Fn(&str),
    ) -> Result<()> {
        match part {
            Part::Programs => self.programs = programs::run(object, effort, progress)?,
            Part::Channels => self.channels = channels::run(object, effort, progress)?,
            Part::Packets => self.packets = packets::run(object, effort, progress)?,
            Part::Latency => self.latency = latency::run(object, effort, progress)?,
            Part::Handshakes => self.handshakes = handshakes::run(effort, progress)?,
            Part::Flood => self.flood = flood::run(effort, progress)?,
            Part::Relays => self.relays = relays::run(effort, progress)?,
            Part::Hub => self.hub = hub::run(effort, progress)?,
            Part::Throughput => self.throughput = throughput::run(effort, progress)?,
            Part::Members => self.members = members::run(effort, progress)?,
        }
        self.controls = self.controls();
        self.net_cost = NetCost::of(self);
        Ok(())
    }

    fn controls(&self) -> Vec<Control> {
        const AGAIN: &str = "reflect again";
        let control = |part: &str, scenario: String, ratio: Ratio| Control {
            part: part.to_owned(),
            scenario,
            ratio,
            held: (ratio.median - 1.0).abs() <= CONTROL,
        };
        let mut all = Vec::new();
        for row in self.programs.iter().filter(|row| row.contender == AGAIN) {
            all.push(control("programs", row.scenario.to_string(), row.to_reflect));
        }
        for row in self.packets.iter().filter(|row| row.contender == AGAIN) {
            all.push(control("packets", row.scenario.to_string(), row.to_reflect));
        }
        for row in self.latency.iter().filter(|row| row.contender == AGAIN) {
            all.push(control("latency", row.scenario.to_string(), row.median_to_reflect));
        }
        for (part, rows) in [("relays", &self.relays), ("hub", &self.hub)] {
            for row in rows.iter().filter(|row| row.contender.ends_with("reflect-again")) {
                all.push(control(part, format!("{} sessions", row.sessions), row.tasks_to_reflect));
            }
        }
        all
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bench::{
        stats::Spread,
        xdp::traffic::{Family, Scenario},
    };

    /// A made-up result.
    pub(crate) fn made_up() -> Report {
        let ratio = |median| Ratio { median, low: median - 0.01, high: median + 0.01 };
        let spread = |median| Spread { median, min: median - 1.0, max: median + 1.0 };
        let program = |scenario, contender: &str, gross: f64| programs::Row {
            contender: contender.to_owned(),
            scenario,
            gross,
            range: (gross - 1.0, gross + 1.0),
            net: gross - 4.0,
            gross_fast: gross,
            net_fast: gross - 4.0,
            to_reflect: ratio(gross / 5.0),
            net_to_reflect: ratio(gross - 4.0),
            to_reflmiss: ratio(gross / 6.0),
            control: true,
        };
        let programs_of = |scenario| {
            [("empty", 4.0), ("reflect", 5.0), ("reflmiss", 6.0), ("wgrelay", 14.0), ("reflect again", 5.0)]
                .map(|(contender, gross)| program(scenario, contender, gross))
        };
        let relay = |contender: &str, sessions, net: f64| row::Row {
            contender: contender.to_owned(),
            sessions,
            payload: 128,
            rounds: 3,
            ns_per_packet: spread(net + 600.0),
            tasks_ns_per_packet: spread(net + 500.0),
            net_ns_per_packet: spread(net + 1.0),
            net_tasks_ns_per_packet: spread(net),
            to_reflect: ratio(1.0 + net / 600.0),
            tasks_to_reflect: ratio(1.0 + net / 500.0),
            net_cpu_seconds_per_gbit: net / 1_024.0,
            packets_per_second: spread(1e6),
            delivered: 1_000,
            lost: 0,
        };
        let channel = |from_client, net| channels::Row {
            from_client,
            from: Family::V4,
            to: Family::V4,
            net,
            net_fast: net,
            reflect: 1.0,
            control: 1.0,
            held: true,
        };
        let mut report = Report {
            short: true,
            programs: [Scenario::CENTRE, Scenario { to: Family::V6, ..Scenario::CENTRE }]
                .into_iter()
                .flat_map(programs_of)
                .collect(),
            relays: vec![
                relay("reflect", 1_000, 0.0),
                relay("nft-conntrack", 1_000, 999.0),
                relay("userspace", 1_000, 99.0),
                relay("wgrelay-turn", 1_000, 49.0),
                relay("coturn", 1_000, 8_999.0),
                relay("reflect-again", 1_000, 50.0),
            ],
            channels: vec![channel(true, 27.0), channel(false, 17.0)],
            hub: vec![relay("hub-reflect", 1, 0.0), relay("wireguard-go-hub", 1, 7_999.0)],
            ..Report::default()
        };
        report.controls = report.controls();
        report.net_cost = NetCost::of(&report);
        report
    }

    #[test]
    fn a_report_can_be_read_again() {
        let report = made_up();
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        // Numbers may differ in their last bits, which no table shows.
        let page = |report| page::updated(&format!("{}{}", page::BEGIN, page::END), report).unwrap();
        assert_eq!(page(&again), page(&report));
        assert_eq!(again.machine, report.machine);
    }

    #[test]
    fn controls_say_whether_they_held() {
        let held: Vec<_> =
            made_up().controls.iter().map(|control| (control.part.clone(), control.held)).collect();
        let expected = [("programs", true), ("programs", true), ("relays", false)];
        assert_eq!(held, expected.map(|(part, held)| (part.to_owned(), held)));
    }
}
