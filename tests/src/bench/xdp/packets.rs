//! Packets end to end: what a packet costs on its way over a wire, through a relay and back.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    contender::{self, Contender},
    traffic::{Family, Scenario, Visits},
    wire::Eye,
};
use crate::{
    affinity::on_one,
    bench::{
        Effort, settle,
        stats::{Ratio, Samples, interleave},
    },
    lab::Lab,
};

/// Frames of a call that shows what any call costs.
const FEW: u32 = 64;

/// What a contender reached in one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The contender. `reflect again` is the A/A control.
    pub contender: String,
    /// What was sent.
    pub scenario: Scenario,
    /// ns for a packet from source to source, median of rounds.
    pub ns: f64,
    /// Smallest and largest.
    pub range: (f64, f64),
    /// CPU seconds for 10⁹ bits of packets inside of WireGuard's. One CPU does all: source, relay and sink.
    pub cpu_seconds_per_gbit: f64,
    /// Packets per second.
    pub per_second: f64,
    /// Packets per second over those of `reflect`.
    pub to_reflect: Ratio,
    /// Packets per second over those of `reflmiss`.
    pub to_reflmiss: Ratio,
    /// Frames sent in all, and how many came back right.
    pub frames: (u64, u64),
    /// Whether the A/A control held: a figure counts only then.
    pub control: bool,
}

/// ns for a packet in a call of so many, without what every call costs.
fn time(contender: &mut Contender, frames: u32) -> Result<f64> {
    let few = contender.wire.send(FEW)?.time;
    let many = contender.wire.send(frames)?.time;
    contender.check()?;
    Ok((many.as_secs_f64() - few.as_secs_f64()) * 1e9 / f64::from(frames - FEW))
}

/// The scenarios: one factor at a time.
fn scenarios(effort: Effort) -> Vec<Scenario> {
    use Family::{V4, V6};
    let centre = Scenario::CENTRE;
    let many = Scenario::MANY;
    if effort == Effort::Short {
        return vec![centre, many];
    }
    let mut all = vec![centre];
    all.extend([64, 512, 1_420].map(|payload| Scenario { payload, ..centre }));
    all.extend([1, 100_000].map(|sessions| Scenario { sessions, ..centre }));
    all.push(many);
    all.push(Scenario { visits: Visits::Zipf, ..many });
    all.extend([(V6, V6), (V4, V6), (V6, V4)].map(|(from, to)| Scenario { from, to, ..centre }));
    all
}

/// Measures all scenarios. `object` is the benchmark's BPF object file.
pub fn run(object: &[u8], effort: Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for scenario in scenarios(effort) {
        progress(&format!("packets: {scenario}"));
        rows.extend(on_one(|| measure(object, scenario, effort))?);
    }
    Ok(rows)
}

fn measure(object: &[u8], scenario: Scenario, effort: Effort) -> Result<Vec<Row>> {
    let lab = Lab::new();
    // Setting up many sessions takes most of the short form's time.
    let generic = effort == Effort::Full || scenario != Scenario::MANY;
    let mut contenders = contender::xdp(&lab, object, scenario, Eye::Counting, generic)?;
    let (rounds, frames) = match (effort, scenario.has_a_figure()) {
        (Effort::Short, _) => (3, 1 << 20),
        (Effort::Full, true) => (40, 1 << 21),
        (Effort::Full, false) => (10, 1 << 20),
    };
    for contender in &mut contenders {
        time(contender, 1 << 14)?;
    }
    let mut samples = vec![Samples::default(); contenders.len()];
    let control = settle(effort, || {
        let more = interleave(&mut contenders, rounds, |contender| time(contender, frames), |_| {})?;
        samples.iter_mut().zip(more).for_each(|(all, more)| all.values.extend(more.values));
        let [reflect, .., again] = &samples[..] else { unreachable!("`reflect` is among them twice") };
        Ok(again.ratio(reflect).median)
    })?;
    let per_second =
        |samples: &Samples| Samples { values: samples.values.iter().map(|ns| 1e9 / ns).collect() };
    let (reflect, reflmiss) = (per_second(&samples[0]), per_second(&samples[1]));
    let rows = contenders.iter().zip(&samples).map(|(contender, samples)| {
        let all = contender.wire.totals()?;
        let speed = per_second(samples);
        Ok(Row {
            contender: contender.name.to_owned(),
            scenario,
            ns: samples.median(),
            range: (samples.min(), samples.max()),
            // ns for bits are seconds for Gbit.
            cpu_seconds_per_gbit: samples.median() / (scenario.payload * 8) as f64,
            per_second: speed.median(),
            to_reflect: speed.ratio(&reflect),
            to_reflmiss: speed.ratio(&reflmiss),
            frames: (all.sent, all.right),
            control,
        })
    });
    rows.collect()
}
