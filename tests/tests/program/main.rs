//! The XDP program, run in the kernel by BPF_PROG_TEST_RUN: packets in, verdicts, bytes, counters and events out.
//!
//! `relay` loads the real object with real maps, one for each test. `datagram` builds frames with etherparse, whose
//! checksums are computed from scratch: what the program sent on is compared with a frame that was built, not patched.
//! `fixture` runs one packet and checks everything that it may have moved.

mod admission;
mod attached;
mod between_families;
mod contract;
mod datagram;
mod events;
mod fixture;
mod forwarded;
mod generic;
mod lengths;
mod namespace;
mod passed;
mod race;
mod reasons;
mod relay;
mod slow_path;
mod table;
mod totals;
mod turn;
mod vlan;
