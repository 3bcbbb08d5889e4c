//! The only place that reads a clock.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

use crate::handshake::Timestamp;

/// The time since boot, suspended time included (CLOCK_BOOTTIME), the same for all processes of the host.
pub fn now() -> Timestamp {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39").into()
}

/// The time since boot without suspended time (CLOCK_MONOTONIC), which the XDP program reads as well.
pub fn monotonic() -> Timestamp {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists everywhere").into()
}

/// How long ago a moment of the calendar was; `None` if it is in the future, as after a clock was set back.
#[expect(clippy::disallowed_methods, reason = "this is the edge")]
pub fn ago(moment: SystemTime) -> Option<Duration> {
    SystemTime::now().duration_since(moment).ok()
}

/// The time of the calendar, in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "this is the edge")]
pub fn unix() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
