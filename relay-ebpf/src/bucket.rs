//! Token buckets: how much may pass in a time.
//!
//! A [`Bucket`] is one word, the time at which it will be full again. To take something out moves that time on by what it
//! costs; what would move it further ahead than the bucket is deep does not pass. (This is the generic cell rate
//! algorithm, ITU-T I.371.) Costs are times: at 500 packets a second one costs 2 ms.
//!
//! **Several CPUs take from one bucket without a lock.** Each reads the word and writes it again, so of two that do so at
//! once, one is not charged: a little more passes than should. It would be as many times as much as there are CPUs if all
//! of them took in the very same nanoseconds every time; and they hardly do, since most of a flood does not pass.
//! Nothing gets stuck by it: whatever was written, by whomever and in whatever order, was at most [`LONGEST_NS`] ahead of
//! a clock that all CPUs share, so that long after the last packet that passed the bucket is full. A packet that is refused
//! writes nothing: a flood leaves the word in every CPU's cache.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Nothing costs more, and no bucket is ever further from being full. A word that says otherwise is none of ours, and the
/// bucket is taken to be full.
pub const LONGEST_NS: u64 = 10_000_000_000;
/// How deep the buckets of admission are: each holds what may pass in a second.
pub const ADMISSION_DEPTH_NS: u64 = 1_000_000_000;
/// How deep the buckets of members' rate limits are.
pub const RATE_DEPTH_NS: u64 = 100_000_000;

/// A token bucket. All zero, it is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Bucket {
    /// When it will be full, ns since boot.
    pub full_at_ns: u64,
}

impl Bucket {
    /// The bucket after something has passed that costs `cost_ns`; `None` if it may not pass. A full bucket lets anything
    /// pass, even what costs more than it holds: the next has to wait all the longer.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, now_ns: u64, cost_ns: u64, depth_ns: u64) -> Option<Self> {
        let cost_ns = if cost_ns < LONGEST_NS { cost_ns } else { LONGEST_NS };
        let ahead = self.full_at_ns.wrapping_sub(now_ns);
        if self.full_at_ns <= now_ns || ahead > LONGEST_NS {
            Some(Self { full_at_ns: now_ns.wrapping_add(cost_ns) })
        } else if ahead + cost_ns <= depth_ns {
            Some(Self { full_at_ns: self.full_at_ns + cost_ns })
        } else {
            None
        }
    }
}

/// What one costs of which so many may pass in a second, in ns; 0, which is free, for no limit.
pub const fn cost(per_second: u32) -> u64 {
    if per_second == 0 { 0 } else { 1_000_000_000_u64.div_ceil(per_second as u64) }
}

/// The unit of [`byte_cost`]: parts of a nanosecond.
const BYTE_COST_BITS: u32 = 16;

/// What a byte costs where so many bits may pass in a second, in parts of a nanosecond (2⁻¹⁶); 0 for no limit.
pub const fn byte_cost(bits_per_second: u64) -> u64 {
    if bits_per_second == 0 { 0 } else { (8_000_000_000_u64 << BYTE_COST_BITS).div_ceil(bits_per_second) }
}

/// What so many bytes (of one packet) cost, in ns; `byte_cost` as above.
#[inline(always)]
pub const fn bytes_cost(bytes: u16, byte_cost: u64) -> u64 {
    (bytes as u64).wrapping_mul(byte_cost) >> BYTE_COST_BITS
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Takes one out if that may be.
    fn takes(bucket: &mut Bucket, now: u64, cost: u64, depth: u64) -> bool {
        let after = bucket.after(now, cost, depth);
        *bucket = after.unwrap_or(*bucket);
        after.is_some()
    }

    #[test]
    fn a_bucket_holds_what_may_pass_in_its_depth_and_fills_at_its_rate() {
        for per_second in [1, 3, 500, 20_000, 1_000_000] {
            let (mut bucket, cost, mut now) = (Bucket::default(), cost(per_second), 77);
            let burst = (0..2 * per_second).take_while(|_| takes(&mut bucket, now, cost, SECOND)).count();
            assert!(burst as u32 == per_second || burst as u32 + 1 == per_second, "{burst} of {per_second}");
            assert!(!takes(&mut bucket, now, cost, SECOND));
            now += cost;
            assert!(takes(&mut bucket, now, cost, SECOND), "one has come in");
            assert!(!takes(&mut bucket, now, cost, SECOND), "no more than one");
        }
    }

    #[test]
    fn what_costs_nothing_always_passes() {
        let mut bucket = Bucket::default();
        assert!((0..1000).all(|_| takes(&mut bucket, 5, cost(0), SECOND)));
        assert_eq!(bytes_cost(u16::MAX, byte_cost(0)), 0);
    }

    #[test]
    fn what_costs_more_than_the_bucket_holds_passes_a_full_one_and_is_paid_for() {
        let (mut bucket, cost) = (Bucket::default(), 8 * SECOND);
        assert!(takes(&mut bucket, 0, cost, SECOND));
        assert!(!takes(&mut bucket, cost - 1, 1, 0));
        assert!(takes(&mut bucket, cost, cost, SECOND));
        let mut bucket = Bucket::default();
        assert!(takes(&mut bucket, 0, u64::MAX, SECOND));
        assert!(takes(&mut bucket, LONGEST_NS, 1, SECOND), "nothing costs more than the longest");
    }

    #[test]
    fn bits_are_paid_for_to_a_hundredth() {
        for bits_per_second in [64_000, 1_000_000, 999_999_937, 10_000_000_000, 100_000_000_000] {
            let (mut bucket, mut now) = (Bucket::default(), 0);
            let cost = bytes_cost(1452, byte_cost(bits_per_second));
            while takes(&mut bucket, now, cost, RATE_DEPTH_NS) {}
            let (empty, mut packets) = (now, 0);
            while packets < 1000 {
                now += cost / 7 + 1;
                packets += u64::from(takes(&mut bucket, now, cost, RATE_DEPTH_NS));
            }
            let rate = (packets * 1452 * 8) as f64 / ((now - empty) as f64 / SECOND as f64);
            assert!((rate / bits_per_second as f64 - 1.0).abs() < 0.01, "{rate} of {bits_per_second}");
        }
    }

    proptest! {
        /// In any time no more passes than the rate times that time, and a bucket full.
        #[test]
        fn no_more_passes_than_the_rate_and_a_bucket_full(
            per_second in 1_u32..2_000_000,
            pauses in prop::collection::vec(0_u64..5_000_000, 1..500),
        ) {
            let (mut bucket, cost, mut now, mut passed) = (Bucket::default(), cost(per_second), 1, 0_u64);
            for pause in &pauses {
                now += pause;
                passed += u64::from(takes(&mut bucket, now, cost, SECOND));
            }
            prop_assert!((passed - 1) * cost <= now + SECOND, "{passed}");
        }

        /// Whatever stands in the word, and whatever is asked of it: later it is full.
        #[test]
        fn no_word_keeps_a_bucket_shut(word: u64, now in 0_u64..u64::MAX / 2, cost: u64, depth in 0_u64..LONGEST_NS) {
            let mut bucket = Bucket { full_at_ns: word };
            let _ = takes(&mut bucket, now, cost, depth);
            prop_assert!(takes(&mut bucket, now + LONGEST_NS, cost, depth));
        }

        /// CPUs that take at once: all read the word, then all write it. What passes is at most as much as if each had a bucket
        /// of its own.
        #[test]
        fn cpus_that_take_at_once_get_no_more_than_a_bucket_each(
            rounds in prop::collection::vec((1_u64..5, 0_u64..2_000_000), 1..1000),
        ) {
            let (cost, mut word, mut now, mut passed) = (cost(1000), Bucket::default(), 1_u64, 0_u64);
            for (cpus, pause) in &rounds {
                now += pause;
                let all: Vec<_> = (0..*cpus).filter_map(|cpu| word.after(now + cpu, cost, SECOND)).collect();
                passed += all.len() as u64;
                word = all.last().copied().unwrap_or(word);
            }
            prop_assert!(passed * cost <= 4 * (now + SECOND + cost), "{passed} in {now} ns");
        }

        /// However late a CPU writes what it has made of a word that is long another: the bucket is full again in time.
        #[test]
        fn no_order_of_reads_and_writes_keeps_a_bucket_shut(
            cpus in 1_usize..5,
            steps in prop::collection::vec((0_usize..5, 0_u64..2_000_000), 1..2000),
        ) {
            let (cost, mut word, mut now) = (cost(1000), Bucket::default(), 1_u64);
            // What each has read and is about to write.
            let mut reading: Vec<Option<Bucket>> = vec![None; cpus];
            for (cpu, pause) in &steps {
                now += pause;
                let reading = &mut reading[cpu % cpus];
                match reading.take() {
                    None => *reading = word.after(now, cost, SECOND),
                    Some(after) => word = after,
                }
            }
            prop_assert!(word.full_at_ns <= now + SECOND + cost);
            prop_assert!(takes(&mut word, now + SECOND + cost, cost, SECOND));
        }
    }
}
