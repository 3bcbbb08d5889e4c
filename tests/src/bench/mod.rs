//! The benchmark: all contenders side by side in one run. How it measures, and why so, stands in docs/benchmarks.md.

pub mod batch;
pub mod cpu;
pub mod flows;
pub mod hub;
pub mod load;
pub mod nft;
pub mod peer;
pub mod place;
pub mod relays;
pub mod ring;
pub mod row;
pub mod stats;
pub mod throughput;
pub mod userspace;
pub mod wgrelay;
