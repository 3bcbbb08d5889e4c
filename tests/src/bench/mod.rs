//! The benchmark: all contenders side by side in one run. How it measures, and why so, stands in docs/benchmarks.md.

pub mod cpu;
pub mod handshakes;
pub mod load;
pub mod machine;
pub mod members;
pub mod report;
pub mod stats;
pub mod throughput;
pub mod xdp;

use anyhow::Result;

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Under two minutes in all.
    Short,
    /// As long as figures need that something is held against.
    Full,
}

/// By so much the two of an A/A control may differ.
pub const CONTROL: f64 = 0.03;

/// Measures until the A/A control holds: `round` measures more, and gives what the second `reflect` was over the first so
/// far, in all rounds. Says whether it held in the end; there is a bound to how long is tried.
pub fn settle(effort: Effort, mut round: impl FnMut() -> Result<f64>) -> Result<bool> {
    let tries = if effort == Effort::Short { 1 } else { 3 };
    for _ in 0..tries {
        if (round()? - 1.0).abs() <= CONTROL {
            return Ok(true);
        }
    }
    Ok(false)
}
