//! Which CPU a thread runs on.

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Lets this thread run on one CPU only, and gives where it could run before.
///
/// # Errors
/// If there is no such CPU.
pub fn pin(cpu: usize) -> Result<CpuSet> {
    let before = sched_getaffinity(None).context("ask where a thread may run")?;
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).with_context(|| format!("pin a thread to CPU {cpu}"))?;
    Ok(before)
}

/// Does something on one CPU, then lets the thread run again where it could. What is started meanwhile stays there.
///
/// # Errors
/// If there is no such CPU.
pub fn pinned<T>(cpu: usize, work: impl FnOnce() -> T) -> Result<T> {
    let before = pin(cpu)?;
    let result = work();
    sched_setaffinity(None, &before).context("unpin a thread")?;
    Ok(result)
}

/// Does something on the [`last`] CPU.
///
/// # Errors
/// If the system refuses, or that of the work.
pub fn on_one<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    pinned(last()?, work)?
}

/// The last CPU that this thread may use: on the first one the system does more of its own.
///
/// # Errors
/// If the system does not say.
pub fn last() -> Result<usize> {
    let allowed = sched_getaffinity(None).context("ask where a thread may run")?;
    (0..CpuSet::MAX_CPU).rev().find(|&cpu| allowed.is_set(cpu)).context("no CPU is allowed")
}
