//! A run: batches of frames, each batch in tables of its own.

use std::fmt;

use anyhow::{Context as _, Result};
use fastrand::Rng;
use relay_ebpf::reason::{Family, Reason, counter_index};

use super::{
    check::{self, Complaint, Sums},
    fixture::{self, Fixture},
    grammar::{Case, Grammar},
    kernel::{Kernel, Room},
    pace::{Pace, now},
    shrink::shrink,
    state,
    tables::Tables,
};

/// Frames that meet the same tables.
const BATCH: u64 = 1000;
/// Frames after which the program may raise hints again, so that their content is seen more often than the limits allow.
const FORGET: usize = 50;
/// Disagreements after which a run ends.
const ENOUGH: usize = 8;
/// A run of so many frames must have reached every reason.
const COVERED: u64 = 100_000;

/// How long to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Frames, in whole batches.
    pub frames: u64,
    /// Decides every frame and every table.
    pub seed: u64,
    /// Ends the run earlier, after so many seconds.
    pub seconds: Option<u64>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Fixtures replayed.
    pub fixtures: usize,
    /// Frames run.
    pub frames: u64,
    /// Frames on which the program and the oracle disagreed.
    pub disagreements: usize,
    /// How long the frames took, fixtures and loading apart.
    pub nanoseconds: u64,
    /// Frames by [`counter_index`].
    pub reached: Vec<u64>,
    /// Reasons that had to be reached and were not.
    pub missed: Vec<Reason>,
}

impl Report {
    /// Whether all was as it has to be.
    pub fn is_good(&self) -> bool {
        self.disagreements == 0 && self.missed.is_empty()
    }

    fn packets(&self, reason: Reason, family: Family) -> u64 {
        self.reached[counter_index(reason, family) as usize]
    }
}

/// Replays the fixtures and then runs new frames. Each disagreement is shrunk and given to `found` as text that holds a
/// fixture.
pub fn run(kernel: &mut Kernel, plan: Plan, mut found: impl FnMut(&str)) -> Result<Report> {
    let mut report = Report {
        fixtures: 0,
        frames: 0,
        disagreements: 0,
        nanoseconds: 0,
        reached: vec![0; Sums::LEN],
        missed: Vec::new(),
    };
    for (name, fixture) in fixture::all()? {
        report.fixtures += 1;
        let case = fixture.case().with_context(|| format!("fixture {name}"))?;
        if let Some(complaint) = check::alone(kernel, &fixture.tables, &case)? {
            report.disagreements += 1;
            found(&format!(
                "fixture {name} ({}), {:?}:\n{}",
                fixture.about, complaint.reason, complaint.text
            ));
        }
    }
    let start = now();
    let elapsed = || now() - start;
    let in_time = || plan.seconds.is_none_or(|seconds| elapsed() < seconds * 1_000_000_000);
    while report.frames < plan.frames && report.disagreements < ENOUGH && in_time() {
        // Each batch can be made again from its number alone.
        let batch = report.frames / BATCH;
        let mut rng = Rng::with_seed(plan.seed.wrapping_add(batch.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let tables = state::random(&mut rng);
        let mut grammar = Grammar::new(rng, kernel.room());
        let cases: Vec<_> = (0..BATCH).map(|_| grammar.case(&tables)).collect();
        if let Some(disagreement) = run_batch(kernel, &tables, &cases, &mut report)? {
            report.disagreements += 1;
            found(&format!("seed {}, batch {batch}: {disagreement}", plan.seed));
        }
        report.frames += BATCH;
    }
    report.nanoseconds = elapsed();
    if report.frames >= COVERED {
        report.missed = missed(&report, kernel.room());
    }
    Ok(report)
}

fn run_batch(
    kernel: &mut Kernel,
    tables: &Tables,
    cases: &[Case],
    report: &mut Report,
) -> Result<Option<String>> {
    kernel.install(tables)?;
    let mut sums = Sums::new(kernel)?;
    let mut pace = Pace::default();
    for (number, case) in cases.iter().enumerate() {
        if number % FORGET == 0 {
            kernel.forget_hints()?;
            pace = Pace::default();
        }
        let (judged, complaint) = check::frame(kernel, tables, case, &mut pace)?;
        if let Some(complaint) = complaint {
            return Ok(Some(explain(kernel, tables, case, complaint)?));
        }
        sums.expect(&judged, case);
        report.reached[counter_index(judged.reason, judged.family) as usize] += 1;
    }
    let text = sums.compare(kernel, tables)?;
    if text.is_empty() {
        return Ok(None);
    }
    for case in cases {
        if let Some(complaint) = check::alone(kernel, tables, case)? {
            return Ok(Some(explain(kernel, tables, case, complaint)?));
        }
    }
    Ok(Some(format!("the sums of a batch differ, though no frame does by itself:\n{text}")))
}

/// The disagreement as small as it gets, as text that holds a fixture.
fn explain(kernel: &mut Kernel, tables: &Tables, case: &Case, complaint: Complaint) -> Result<String> {
    let shrunk = shrink(kernel, tables, case)?;
    let alone = if shrunk.is_some() { "" } else { ", but not by itself" };
    let (tables, case, complaint) = shrunk.unwrap_or_else(|| (tables.clone(), case.clone(), complaint));
    let Complaint { reason, text } = complaint;
    let fixture = Fixture::new(format!("{reason:?}"), &tables, &case);
    Ok(format!(
        "{reason:?}{alone}\n{text}to keep, as tests/src/oracle/fixtures/NAME.json:\n{}",
        serde_json::to_string_pretty(&fixture)?
    ))
}

/// What was not reached but has to be.
fn missed(report: &Report, room: Room) -> Vec<Reason> {
    let can_be_reached = |reason| match reason {
        // By construction there is no way to it.
        Reason::RewriteFailed => false,
        // Old kernels take so little metadata that there is always headroom left.
        Reason::NoHeadroom => room.can_be_too_little(),
        _ => true,
    };
    let reached = |reason| Family::ALL.iter().any(|&family| report.packets(reason, family) > 0);
    Reason::ALL.iter().copied().filter(|&reason| can_be_reached(reason) && !reached(reason)).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<26}", "reason")?;
        for family in Family::ALL {
            write!(f, " {:>13}", family.label())?;
        }
        writeln!(f)?;
        for &reason in Reason::ALL {
            write!(f, "{:<26}", reason.label())?;
            for &family in Family::ALL {
                match self.packets(reason, family) {
                    0 => write!(f, " {:>13}", "·")?,
                    packets => write!(f, " {packets:>13}")?,
                }
            }
            writeln!(f)?;
        }
        for reason in &self.missed {
            writeln!(f, "never reached: {}", reason.label())?;
        }
        let seconds = self.nanoseconds as f64 / 1e9;
        write!(
            f,
            "{} fixtures, {} frames, {} disagreements, {:.0} frames/s ({seconds:.1} s)",
            self.fixtures,
            self.frames,
            self.disagreements,
            self.frames as f64 / seconds.max(1e-9)
        )
    }
}
