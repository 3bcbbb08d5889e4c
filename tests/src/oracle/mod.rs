//! The oracle: an independent model of what the relay must do with any frame, and a run that holds the real program against
//! it, frame by frame.
//!
//! ```text
//! state ── tables ──┬── kernel: the maps, BPF_PROG_TEST_RUN ── what it did ──┐
//!                   │                                                        ├── check ── shrink ── a fixture
//! grammar ─ frame ──┴── model (channels, forward): rules ── what it must do ─┘
//! ```
//!
//! Verdict, bytes and events are compared for each frame, counters (by reason and family, of each session and of each
//! channel) as sums over a batch of frames; where a sum is wrong, the batch is run again frame by frame. What is limited
//! in time (hints, too-big events) is held against a window of time that is known to hold the last one.
//!
//! What BPF_PROG_TEST_RUN does not show, and so the lab must: which device a redirected frame leaves by, frames of
//! more than a page, and frames of less than an Ethernet header.

pub mod channels;
pub mod check;
pub mod fixture;
pub mod forward;
pub mod grammar;
pub mod kernel;
pub mod model;
pub mod pace;
pub mod run;
pub mod shrink;
pub mod state;
pub mod tables;

pub use kernel::Kernel;
pub use run::{Plan, Report, run};

#[cfg(test)]
mod tests;
