//! How much is done for whom in a time: token buckets by the tracker's clock.

use relay_ebpf::bucket::{ADMISSION_DEPTH_NS, Bucket};

use super::Timestamp;

/// A budget; full when it is made. It holds what may be used in a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget(Bucket);

impl Budget {
    /// Uses so many of which so many may be used in a second (0: any number). `false` if that is too much.
    pub fn uses(&mut self, now: Timestamp, count: u64, per_second: u32) -> bool {
        let cost = match per_second {
            0 => 0,
            per_second => count.saturating_mul(1_000_000_000).div_ceil(per_second.into()),
        };
        let after = self.0.after(now.as_nanos() as u64, cost, ADMISSION_DEPTH_NS);
        self.0 = after.unwrap_or(self.0);
        after.is_some()
    }
}
