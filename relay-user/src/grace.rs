//! When a BPF program that has seen something is sure to have ended.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use anyhow::{Context as _, Result};
use nix::libc;
use tracing::warn;

use crate::privileges;

/// Periods at whose end every program has ended that ran at their begin. A thread of its own waits for them, some 16 ms
/// each, and only when somebody asks.
pub struct Grace {
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
    ask: mpsc::Sender<()>,
}

/// A period to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(u64);

impl Grace {
    /// Starts the thread. It ends with the value.
    ///
    /// # Errors
    /// If the kernel can't say when programs have ended.
    pub fn new() -> Result<Self> {
        wait().context(
            "membarrier(2) is refused: the session table needs it (a kernel with CONFIG_MEMBARRIER and without nohz_full, \
             and no seccomp filter against it)",
        )?;
        let (begun, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (ask, asked) = mpsc::channel();
        let (begin, end) = (Arc::clone(&begun), Arc::clone(&ended));
        thread::Builder::new()
            .name("grace".to_owned())
            .spawn(move || {
                privileges::give_up_all();
                while asked.recv().is_ok() {
                    while asked.try_recv().is_ok() {}
                    let period = begin.fetch_add(1, SeqCst) + 1;
                    match wait() {
                        Ok(()) => end.store(period, SeqCst),
                        Err(error) => warn!(%error, "membarrier(2)"),
                    }
                }
            })
            .context("start a thread")?;
        Ok(Self { begun, ended, ask })
    }

    /// The period that begins after all that this thread has written so far.
    pub fn next(&self) -> Period {
        let period = Period(self.begun.load(SeqCst) + 1);
        // The thread lives as long as the sender.
        let _ = self.ask.send(());
        period
    }

    /// Whether a period is over.
    pub fn is_over(&self, period: Period) -> bool {
        self.ended.load(SeqCst) >= period.0
    }
}

/// Waits until every program has ended that runs now: membarrier(2) with MEMBARRIER_CMD_GLOBAL waits for an RCU grace
/// period (kernel/sched/membarrier.c), and BPF programs run in RCU read-side sections. (A time would not do: programs were
/// seen to be held up, with their virtual CPU, for longer than any that one would wait.)
///
/// # Errors
/// If the kernel refuses.
pub fn wait() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes three integers and touches no memory of ours.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_ends_once_it_has_been_asked_for() {
        let grace = Grace::new().unwrap();
        let first = grace.next();
        while !grace.is_over(first) {
            thread::yield_now();
        }
        let second = grace.next();
        assert!(second > first && !grace.is_over(second) || grace.begun.load(SeqCst) >= second.0);
    }
}
