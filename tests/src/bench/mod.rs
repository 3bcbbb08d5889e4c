//! The benchmark: all contenders side by side in one run. How it measures, and why so, stands in docs/benchmarks.md.

pub mod batch;
pub mod contender;
pub mod cpu;
pub mod driver;
pub mod flows;
pub mod handshakes;
pub mod hub;
pub mod latency;
pub mod load;
pub mod machine;
pub mod nft;
pub mod packets;
pub mod peer;
pub mod place;
pub mod programs;
pub mod relay;
pub mod relays;
pub mod ring;
pub mod row;
pub mod stats;
pub mod throughput;
pub mod traffic;
pub mod userspace;
pub mod wgrelay;
pub mod wire;

use anyhow::{Context as _, Result};

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Under two minutes in all.
    Short,
    /// As long as figures need that something is held against.
    Full,
}

/// Ties this thread to the last CPU that it may use.
pub fn pin_to_a_cpu() -> Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let allowed = sched_getaffinity(None)?;
    let cpu = (0..CpuSet::MAX_CPU).rev().find(|&cpu| allowed.is_set(cpu)).context("no CPU is allowed")?;
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).context("tie this thread to a CPU")
}

/// Measures until the A/A control holds: `round` measures more, and gives what the second `reflect` was over the first so
/// far, in all rounds. Says whether it held in the end; there is a bound to how long is tried.
pub fn settle(effort: Effort, mut round: impl FnMut() -> Result<f64>) -> Result<bool> {
    /// By so much the two may differ.
    const CONTROL: f64 = 0.03;
    let tries = if effort == Effort::Short { 1 } else { 3 };
    for _ in 0..tries {
        if (round()? - 1.0).abs() <= CONTROL {
            return Ok(true);
        }
    }
    Ok(false)
}
