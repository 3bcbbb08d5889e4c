//! What goes up at most once in a while: whether it must, may or must not go up now.
//!
//! The program reads the clock somewhere between our looks at it before and after a frame, so the last time something went
//! up is known as a window, and near the end of the interval both answers are right.

use relay_ebpf::{
    event::{NEW_SOURCE, TOO_BIG},
    tables::{NEW_SOURCE_INTERVAL_NS, TOO_BIG_INTERVAL_NS},
};

/// A time between the two, in ns since boot.
pub type Window = (u64, u64);

/// Whether an event goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// It has to.
    Must,
    /// It may.
    May,
    /// It must not.
    MustNot,
}

/// The limits of a CPU, none of whose events has gone up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    new_source: Option<Window>,
    too_big: Option<Window>,
}

impl Pace {
    /// What is to become of an event of this kind in this window.
    pub fn demand(&self, kind: u32, now: Window) -> Demand {
        let (last, interval) = match kind {
            NEW_SOURCE => (self.new_source, NEW_SOURCE_INTERVAL_NS),
            TOO_BIG => (self.too_big, TOO_BIG_INTERVAL_NS),
            _ => (None, 0),
        };
        match last {
            None => Demand::Must,
            Some((_, latest)) if now.0.saturating_sub(latest) > interval => Demand::Must,
            Some((earliest, _)) if now.1 - earliest < interval => Demand::MustNot,
            Some(_) => Demand::May,
        }
    }

    /// One went up.
    pub fn note(&mut self, kind: u32, now: Window) {
        match kind {
            NEW_SOURCE => self.new_source = Some(now),
            TOO_BIG => self.too_big = Some(now),
            _ => {}
        }
    }
}

/// Time since boot in ns: the clock of the program's limits.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
