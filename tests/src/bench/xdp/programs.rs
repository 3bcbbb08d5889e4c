//! What a run of a program costs, without what is around it.

use anyhow::{Result, ensure};
use aya::programs::ProgramFd;
use serde::{Deserialize, Serialize};

use super::{
    driver::{Driver, Ran},
    relay::Relay,
    traffic::{Family, Fate, Macs, Scenario, Traffic, Visits},
};
use crate::{
    affinity::on_one,
    bench::{
        Effort, settle,
        stats::{Ratio, Samples, interleave},
    },
};

/// A verdict (include/uapi/linux/bpf.h).
const XDP_TX: u32 = 3;
/// The loopback device, by which a test run's frames come in.
const LOOPBACK: u32 = 1;
const MACS: Macs = Macs { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2] };
/// What is subtracted from the others.
const EMPTY: usize = 0;
/// What the others are compared with.
const REFLECT: usize = 1;
const REFLMISS: usize = 2;

/// What one program costs in one scenario. All times are ns for a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The program. `reflect again` is the A/A control.
    pub contender: String,
    /// What it was given.
    pub scenario: Scenario,
    /// Median of all batches, with the harness.
    pub gross: f64,
    /// Smallest and largest of the rounds' medians, with the harness.
    pub range: (f64, f64),
    /// `gross` without the harness.
    pub net: f64,
    /// 10th percentile of all batches, with the harness.
    pub gross_fast: f64,
    /// `gross_fast` without the harness.
    pub net_fast: f64,
    /// `gross_fast` over that of `reflect`: with the harness.
    pub to_reflect: Ratio,
    /// `net_fast` over that of `reflect`: without the harness, and then `reflect` is little more than nothing.
    pub net_to_reflect: Ratio,
    /// `gross` over that of `reflmiss`.
    pub to_reflmiss: Ratio,
    /// Whether the A/A control held: a figure counts only then.
    pub control: bool,
}

/// A program under test, with what was measured so far.
struct Contender {
    name: &'static str,
    program: ProgramFd,
    fate: Option<Fate>,
    all: Samples,
    median: Samples,
    fast: Samples,
    batches: u64,
}

/// The scenarios: one factor at a time.
fn scenarios(effort: Effort) -> Vec<Scenario> {
    use Family::{V4, V6};
    let centre = Scenario::CENTRE;
    let mut all = vec![centre];
    let sizes: &[usize] = if effort == Effort::Short { &[1_420] } else { &[64, 512, 1_420] };
    all.extend(sizes.iter().map(|&payload| Scenario { payload, ..centre }));
    let sessions: &[u32] = if effort == Effort::Short { &[1_000_000] } else { &[1, 100_000, 1_000_000] };
    all.extend(sessions.iter().map(|&sessions| Scenario { sessions, ..centre }));
    let zipf: &[u32] = if effort == Effort::Short { &[] } else { &[1_000, 100_000, 1_000_000] };
    all.extend(zipf.iter().map(|&sessions| Scenario { sessions, visits: Visits::Zipf, ..centre }));
    all.extend([(V6, V6), (V4, V6), (V6, V4)].map(|(from, to)| Scenario { from, to, ..centre }));
    all
}

/// Measures all scenarios. `object` is the benchmark's BPF object file.
pub fn run(object: &[u8], effort: Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for scenario in scenarios(effort) {
        progress(&format!("programs: {scenario}"));
        rows.extend(on_one(|| measure(object, scenario, effort))?);
    }
    Ok(rows)
}

fn measure(object: &[u8], scenario: Scenario, effort: Effort) -> Result<Vec<Row>> {
    let traffic = Traffic { scenario, macs: MACS };
    let mut driver = Driver::load(object, &traffic)?;
    let mut relay = Relay::load(&traffic, LOOPBACK)?;
    let mut contenders = Vec::new();
    for (name, program, fate) in [
        ("empty", driver.own("empty")?, None),
        ("reflect", driver.own("reflect")?, Some(Fate::Reflected)),
        ("reflmiss", driver.own("reflmiss")?, Some(Fate::Reflected)),
        ("wgrelay", relay.program()?.fd()?.try_clone()?, Some(Fate::Relayed)),
        ("reflect again", driver.own("reflect")?, Some(Fate::Reflected)),
    ] {
        let [all, median, fast] = Default::default();
        contenders.push(Contender { name, program, fate, all, median, fast, batches: 0 });
    }
    let (rounds, call_ns) = match (effort, scenario.has_a_figure()) {
        (Effort::Short, _) => (10, 25e6),
        (Effort::Full, true) => (40, 250e6),
        (Effort::Full, false) => (20, 60e6),
    };
    for contender in &mut contenders {
        check(&mut driver, &traffic, contender)?;
        let cost = driver.time(50)?.median();
        contender.batches = (call_ns / cost / relay_bench_ebpf::BATCH as f64) as u64;
    }
    let mut measure = |contender: &mut Contender| {
        driver.call(&contender.program)?;
        let forwarded = relay.forwarded()?;
        let batches = driver.time(contender.batches)?;
        let forwarded = relay.forwarded()? - forwarded;
        let expected = if contender.fate == Some(Fate::Relayed) { driver.runs() } else { 0 };
        ensure!(forwarded == expected, "{}: {forwarded} of {expected} forwarded", contender.name);
        contender.median.values.push(batches.median());
        contender.fast.values.push(batches.quantile(0.1));
        contender.all.values.extend(&batches.values);
        Ok(batches.median())
    };
    let control = settle(effort, || {
        interleave(&mut contenders, rounds, &mut measure, |_| {})?;
        let [_, reflect, .., again] = &contenders[..] else { unreachable!("`reflect` is among them twice") };
        Ok(again.fast.ratio(&reflect.fast).median)
    })?;
    Ok(rows(scenario, &contenders, control))
}

/// Looks at what the program does with the frames of the first flows: a contender that does nothing would be fast.
fn check(driver: &mut Driver, traffic: &Traffic, contender: &Contender) -> Result<()> {
    let order = traffic.order();
    driver.call(&contender.program)?;
    for (number, &session) in (0..200).zip(order.iter().cycle()) {
        let expected = match contender.fate {
            None => traffic.sent(session, number),
            Some(fate) => traffic.returned(session, number, fate),
        };
        let Ran { verdict, frame } = driver.once()?;
        ensure!(
            verdict == XDP_TX && frame == expected,
            "{} does not do its work ({}, frame {number}): verdict {verdict}, {frame:02x?} instead of {expected:02x?}",
            contender.name,
            traffic.scenario
        );
    }
    Ok(())
}

fn rows(scenario: Scenario, contenders: &[Contender], control: bool) -> Vec<Row> {
    let gross = |contender: &Contender| (contender.all.median(), contender.all.quantile(0.1));
    let (empty, empty_fast) = gross(&contenders[EMPTY]);
    let net_fast = |contender: &Contender| contender.fast.less(&contenders[EMPTY].fast);
    let reflect = net_fast(&contenders[REFLECT]);
    let row = |contender: &Contender| {
        let (gross, gross_fast) = gross(contender);
        Row {
            contender: contender.name.to_owned(),
            scenario,
            gross,
            range: (contender.median.min(), contender.median.max()),
            net: gross - empty,
            gross_fast,
            net_fast: gross_fast - empty_fast,
            to_reflect: contender.fast.ratio(&contenders[REFLECT].fast),
            net_to_reflect: net_fast(contender).ratio(&reflect),
            to_reflmiss: contender.median.ratio(&contenders[REFLMISS].median),
            control,
        }
    };
    contenders.iter().map(row).collect()
}
