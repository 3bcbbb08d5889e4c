//! The benchmark: all contenders side by side in one run. How it measures, and why so, stands in docs/benchmarks.md.

pub mod driver;
pub mod packets;
pub mod programs;
pub mod relay;
pub mod stats;
pub mod traffic;
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
