//! XDP programs side by side: what a run costs, what a packet costs end to end, and how long it is on its way.

pub mod channels;
pub mod contender;
pub mod driver;
pub mod latency;
pub mod packets;
pub mod programs;
pub mod relay;
pub mod traffic;
pub mod wire;
