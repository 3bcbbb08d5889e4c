//! A line of the result: what one contender's relaying costs.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::bench::{
    cpu::Usage,
    stats::{Ratio, Samples, Spread},
};

/// One contender with one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub contender: String,
    /// How many sessions the load had.
    pub sessions: u32,
    /// Bytes of UDP payload in each packet.
    pub payload: usize,
    /// How often it was measured.
    pub rounds: usize,
    /// CPU time of everything (load, cable, relay, sink), both CPUs, for one delivered packet.
    pub ns_per_packet: Spread,
    /// The same of the tasks that took part: without what else ran on the machine.
    pub tasks_ns_per_packet: Spread,
    /// `ns_per_packet` less `reflect`'s in the same round: what the relay itself costs.
    pub net_ns_per_packet: Spread,
    /// `tasks_ns_per_packet` less `reflect`'s.
    pub net_tasks_ns_per_packet: Spread,
    /// `ns_per_packet` over `reflect`'s.
    pub to_reflect: Ratio,
    /// The same of the tasks that took part.
    pub tasks_to_reflect: Ratio,
    /// Net CPU seconds of the tasks that took part for 10⁹ bits of UDP payload.
    pub net_cpu_seconds_per_gbit: f64,
    /// Packets delivered each second of the clock, with a load that waits for no one but its window.
    pub packets_per_second: Spread,
    /// Packets delivered in all rounds.
    pub delivered: u64,
    /// Packets that did not come back right.
    pub lost: u64,
}

/// What was measured in the rounds.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// ns of CPU time per packet.
    pub cost: Samples,
    /// The same of the tasks that took part.
    pub tasks: Samples,
    /// Delivered packets per second.
    pub speed: Samples,
    /// Packets delivered.
    pub delivered: u64,
    /// Packets lost.
    pub lost: u64,
}

impl Measured {
    /// Takes a measurement in, and gives its cost.
    ///
    /// # Errors
    /// If nothing was delivered.
    pub fn add(&mut self, outcome: Outcome, usage: Usage) -> Result<f64> {
        ensure!(outcome.delivered > 0, "nothing was delivered: {outcome:?}");
        self.delivered += outcome.delivered;
        self.lost += outcome.lost();
        let packets = outcome.delivered as f64;
        let cost = usage.busy.as_nanos() as f64 / packets;
        self.cost.values.push(cost);
        self.tasks.values.push(usage.tasks.as_nanos() as f64 / packets);
        self.speed.values.push(packets / usage.wall.as_secs_f64());
        Ok(cost)
    }
}

impl Row {
    /// From measurements of a contender and of `reflect` in the same rounds.
    pub fn new(
        contender: &str,
        sessions: u32,
        payload: usize,
        measured: &Measured,
        reflect: &Measured,
    ) -> Self {
        let net_tasks = measured.tasks.less(&reflect.tasks);
        let net = measured.cost.less(&reflect.cost);
        Self {
            contender: contender.to_owned(),
            sessions,
            payload,
            rounds: measured.cost.values.len(),
            ns_per_packet: (&measured.cost).into(),
            tasks_ns_per_packet: (&measured.tasks).into(),
            net_ns_per_packet: (&net).into(),
            net_tasks_ns_per_packet: (&net_tasks).into(),
            to_reflect: measured.cost.ratio(&reflect.cost),
            tasks_to_reflect: measured.tasks.ratio(&reflect.tasks),
            // ns for bits are seconds for Gbit.
            net_cpu_seconds_per_gbit: net_tasks.median() / (payload * 8) as f64,
            packets_per_second: (&measured.speed).into(),
            delivered: measured.delivered,
            lost: measured.lost,
        }
    }
}
