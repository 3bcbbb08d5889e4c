//! The kernel's ticks (jiffies), by which the XDP program sees whether a channel is over.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::{Ebpf, TestRun as _, TestRunOptions, programs::SocketFilter};
use relay_ebpf::tables::UNTIL_SHIFT;

use crate::{clock, handshake::Timestamp};

/// The program that tells them.
const PROGRAM: &str = "ticks";
/// What it is run on, and does not look at: the kernel takes no shorter frame.
const FRAME: [u8; 14] = [0; 14];

/// A moment by the ticks and by CLOCK_MONOTONIC, which they follow (`tick_do_update_jiffies64` in
/// kernel/time/tick-sched.c): so one is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// By the clock. The unit had begun already.
    at: Timestamp,
    /// By the ticks, as [`Channel::until`](relay_ebpf::tables::Channel::until) counts them.
    units: u32,
    /// How long such a unit is.
    unit: Duration,
}

impl Ticks {
    /// Reads them, by a program of the loaded object.
    ///
    /// # Errors
    /// If the kernel does not run it.
    pub fn read(ebpf: &mut Ebpf) -> Result<Self> {
        let program: &mut SocketFilter = ebpf
            .program_mut(PROGRAM)
            .with_context(|| format!("the BPF object has no program {PROGRAM}"))?
            .try_into()?;
        program.load().with_context(|| format!("load the program {PROGRAM}"))?;
        let options = TestRunOptions { data_in: Some(&FRAME), ..TestRunOptions::default() };
        let units = program.test_run(options).context("read the kernel's ticks")?.return_value;
        Ok(Self { at: clock::monotonic(), units, unit: clock::tick() * (1 << UNTIL_SHIFT) })
    }

    /// The unit that begins at this moment of CLOCK_MONOTONIC, or less than two units before: what ends by it never ends
    /// late.
    pub fn by(&self, moment: Timestamp) -> u32 {
        let since = moment.saturating_sub(self.at).as_nanos() / self.unit.as_nanos();
        self.units.saturating_add(u32::try_from(since).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_late_or_long_before_its_time() {
        let unit = Duration::from_millis(256);
        let begun = Duration::from_secs(1_000);
        // The reading was taken somewhere in the unit.
        for into in [0, 1, 100, 255].map(Duration::from_millis) {
            let ticks = Ticks { at: begun + into, units: 70_000, unit };
            for left in [0, 1, 255, 256, 257, 5_000, 600_000].map(Duration::from_millis) {
                let moment = ticks.at + left;
                let end = begun + unit * (ticks.by(moment) - ticks.units);
                assert!(end <= moment && moment - end < unit * 2, "{into:?} into it, {left:?} left: {end:?}");
            }
        }
    }

    #[test]
    fn what_is_over_is_over_and_what_lasts_for_ever_lasts() {
        let ticks = Ticks { at: Duration::from_secs(1_000), units: 7, unit: Duration::from_millis(64) };
        assert_eq!(ticks.by(Duration::ZERO), 7);
        assert_eq!(ticks.by(Duration::MAX), u32::MAX);
    }
}
