//! The benchmark: all contenders side by side in one run. How it measures, and why so, stands in docs/benchmarks.md.

pub mod batch;
pub mod cpu;
pub mod flows;
pub mod load;
pub mod nft;
pub mod place;
pub mod relays;
pub mod ring;
pub mod row;
pub mod stats;
pub mod userspace;
