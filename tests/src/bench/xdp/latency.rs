//! How long a packet is on its way over a wire, through a relay and back, at half of what the relay can do.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    contender,
    traffic::Scenario,
    wire::{Eye, quantile},
};
use crate::{
    affinity::on_one,
    bench::{
        Effort, settle,
        stats::{Ratio, Samples, interleave},
    },
    lab::Lab,
};

/// Its place among the contenders: what sets the pace.
const WGRELAY: usize = 2;

/// How long packets took with one contender. All times are ns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The contender. `reflect again` is the A/A control.
    pub contender: String,
    /// What was sent.
    pub scenario: Scenario,
    /// From one packet to the next.
    pub interval: u64,
    /// Median of all packets.
    pub median: f64,
    /// 99th percentile of all packets.
    pub p99: f64,
    /// 99.9th percentile of all packets.
    pub p999: f64,
    /// `median` over that of `reflect`.
    pub median_to_reflect: Ratio,
    /// `p99` over that of `reflect`.
    pub p99_to_reflect: Ratio,
    /// Whether the A/A control of the medians held: a figure counts only then.
    pub control: bool,
}

/// Measures. `object` is the benchmark's BPF object file.
pub fn run(object: &[u8], effort: Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    progress(&format!("latency: {}", Scenario::CENTRE));
    on_one(|| measure(object, effort))
}

fn measure(object: &[u8], effort: Effort) -> Result<Vec<Row>> {
    let scenario = Scenario::CENTRE;
    let lab = Lab::new();
    let mut contenders = contender::xdp(&lab, object, scenario, Eye::Timing, true)?;
    let capacity = {
        let wire = &mut contenders[WGRELAY].wire;
        let few = wire.send_paced(64, 0)?.0.time;
        let many = wire.send_paced(1 << 18, 0)?.0.time;
        (many - few).as_nanos() as u64 >> 18
    };
    let interval = 2 * capacity;
    let (rounds, call_ns) = if effort == Effort::Short { (3, 100_000_000) } else { (40, 300_000_000) };
    let frames = u32::try_from(call_ns / interval)?;
    let mut all = vec![vec![0; relay_bench_ebpf::BUCKETS as usize]; contenders.len()];
    let mut medians = vec![Samples::default(); contenders.len()];
    let mut p99s = medians.clone();
    let mut numbered: Vec<_> = contenders.iter_mut().enumerate().collect();
    let control = settle(effort, || {
        let measure = |(at, contender): &mut (usize, &mut contender::Contender)| {
            let (_, buckets) = contender.wire.send_paced(frames, interval)?;
            contender.check()?;
            all[*at].iter_mut().zip(&buckets).for_each(|(all, more)| *all += more);
            medians[*at].values.push(quantile(&buckets, 0.5));
            p99s[*at].values.push(quantile(&buckets, 0.99));
            Ok(0.0)
        };
        interleave(&mut numbered, rounds, measure, |_| {})?;
        Ok(medians[numbered.len() - 1].ratio(&medians[0]).median)
    })?;
    let row = |(at, contender): (usize, &contender::Contender)| Row {
        contender: contender.name.to_owned(),
        scenario,
        interval,
        median: quantile(&all[at], 0.5),
        p99: quantile(&all[at], 0.99),
        p999: quantile(&all[at], 0.999),
        median_to_reflect: medians[at].ratio(&medians[0]),
        p99_to_reflect: p99s[at].ratio(&p99s[0]),
        control,
    };
    Ok(contenders.iter().enumerate().map(row).collect())
}
