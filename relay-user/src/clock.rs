//! The only place that reads a clock.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_getres, clock_gettime};

use serde::{Deserialize, Serialize};

use crate::handshake::Timestamp;

/// The time since boot, suspended time included (CLOCK_BOOTTIME), the same for all processes of the host.
pub fn now() -> Timestamp {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39").into()
}

/// The time since boot without suspended time (CLOCK_MONOTONIC).
pub fn monotonic() -> Timestamp {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists everywhere").into()
}

/// How long a tick of the kernel is (TICK_NSEC, the step of its coarse clocks).
pub fn tick() -> Duration {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .expect("CLOCK_MONOTONIC_COARSE exists since Linux 2.6.32")
        .into()
}

/// How long ago a moment of the calendar was; `None` if it is in the future, as after a clock was set back.
#[expect(clippy::disallowed_methods, reason = "this is the edge")]
pub fn ago(moment: SystemTime) -> Option<Duration> {
    SystemTime::now().duration_since(moment).ok()
}

/// A moment that can be placed from another boot of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot it belongs to.
    pub boot: String,
    /// The time since that boot.
    pub since_boot: Timestamp,
    /// The calendar's: since 1970.
    pub since_epoch: Duration,
}

impl Moment {
    /// Whether both are of one boot. If it is not known of which they are, they are not.
    pub fn is_of_the_boot_of(&self, other: &Self) -> bool {
        !self.boot.is_empty() && self.boot == other.boot
    }
}

/// This moment.
pub fn moment() -> Moment {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Moment {
        boot: boot.trim().to_owned(),
        since_boot: now(),
        since_epoch: clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from),
    }
}

/// A moment of the calendar, since 1970.
pub fn since_epoch(moment: SystemTime) -> Duration {
    moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The time of the calendar, in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "this is the edge")]
pub fn unix() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
