//! What relaying a packet costs, over all kinds of relays.
//!
//! An XDP program's cost is the driver method's, less the empty program's. Any other relay's is the CPU time of a packet
//! under the load, less that of the same load with `reflect`; since `reflect` is itself a program with a cost, that is
//! added again.

use serde::{Deserialize, Serialize};

use super::Report;
use crate::bench::{
    load::row,
    xdp::{
        channels, programs,
        traffic::{Family, Scenario},
    },
};

/// What the figures are held against: the most that wgrelay may cost, as a share of what that contender does.
const FIGURES: [(&str, f64); 4] = [
    ("nft-conntrack", 1.0 / 8.0),
    ("userspace", 1.0 / 15.0),
    ("wireguard-go-hub", 1.0 / 60.0),
    (COTURN, 1.0 / 10.0),
];
/// Its work is not that of the others: what it is compared with is the program's cost for data of a channel.
const COTURN: &str = "coturn";

/// All kinds of relays compared. All times are ns of CPU time for a packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetCost {
    /// wgrelay's program, by the driver method.
    pub wgrelay_ns: f64,
    /// The same for data of a TURN channel, from the client.
    pub channel_ns: Option<f64>,
    /// `reflect`'s program, by the driver method.
    pub reflect_ns: f64,
    /// wgrelay as a whole under the load of the others, by their method. The differences that make it up are mostly
    /// larger than it, so it only says that nothing was overlooked.
    pub wgrelay_under_load_ns: Option<f64>,
    /// The others.
    pub rows: Vec<Row>,
}

/// One of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub contender: String,
    /// How many sessions it had.
    pub sessions: u32,
    /// By the CPU time of the tasks that take part.
    pub ns: f64,
    /// By the time that the CPUs were busy, whoever it was.
    pub busy_ns: f64,
    /// wgrelay's cost over this `ns`.
    pub wgrelay_to_it: f64,
    /// What that may be at most, if there is a figure.
    pub at_most: Option<f64>,
    /// Whether it is.
    pub reached: Option<bool>,
}

impl NetCost {
    /// From what was measured. `None` if there are no programs or nothing to compare them with.
    pub fn of(report: &Report) -> Option<Self> {
        let program = |name: &str| {
            let is = |row: &&programs::Row| row.scenario == Scenario::CENTRE && row.contender == name;
            Some(report.programs.iter().find(is)?.net)
        };
        let (wgrelay_ns, reflect_ns) = (program("wgrelay")?, program("reflect")?);
        let ipv4 = |row: &&channels::Row| row.from_client && (row.from, row.to) == (Family::V4, Family::V4);
        let channel_ns = report.channels.iter().find(ipv4).map(|row| row.net);
        // By as many sessions as there are in the centre; the hub has one.
        let relays = report.relays.iter().filter(|row| row.sessions == Scenario::CENTRE.sessions);
        let is_other =
            |row: &&row::Row| ["reflect", "wgrelay"].iter().all(|own| !row.contender.contains(own));
        let rows = relays.chain(&report.hub).filter(is_other).filter_map(|row| {
            let wgrelay_ns = if row.contender == COTURN { channel_ns? } else { wgrelay_ns };
            let ns = row.net_tasks_ns_per_packet.median + reflect_ns;
            let figure = FIGURES.iter().find(|(name, _)| *name == row.contender);
            let at_most = figure.map(|&(_, at_most)| at_most);
            let wgrelay_to_it = wgrelay_ns / ns;
            Some(Row {
                contender: row.contender.clone(),
                sessions: row.sessions,
                ns,
                busy_ns: row.net_ns_per_packet.median + reflect_ns,
                wgrelay_to_it,
                at_most,
                reached: at_most.map(|at_most| wgrelay_to_it <= at_most),
            })
        });
        let rows: Vec<_> = rows.collect();
        let under_load = report.relays.iter().find(|row| row.contender == "wgrelay-driver");
        let wgrelay_under_load_ns = under_load.map(|row| row.net_tasks_ns_per_packet.median + reflect_ns);
        (!rows.is_empty()).then_some(Self { wgrelay_ns, channel_ns, reflect_ns, wgrelay_under_load_ns, rows })
    }

    /// wgrelay's programs, and what they are held against.
    pub fn own(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let channel = self.channel_ns.map(|ns| ("wgrelay, channel", ns));
        [("reflect", self.reflect_ns), ("wgrelay", self.wgrelay_ns)].into_iter().chain(channel)
    }
}

#[cfg(test)]
mod tests {
    use crate::bench::report::tests::made_up;

    #[test]
    fn wgrelay_is_compared_with_each_of_the_others() {
        let cost = made_up().net_cost.unwrap();
        assert_eq!((cost.wgrelay_ns, cost.reflect_ns), (10.0, 1.0));
        let rows =
            cost.rows.iter().map(|row| (row.contender.as_str(), row.ns, row.wgrelay_to_it, row.reached));
        let expected = [
            ("nft-conntrack", 1_000.0, 0.01, Some(true)),
            ("userspace", 100.0, 0.1, Some(false)),
            ("coturn", 9_000.0, 0.003, Some(true)),
            ("wireguard-go-hub", 8_000.0, 0.00125, Some(true)),
        ];
        assert_eq!(rows.collect::<Vec<_>>(), expected);
    }
}
