//! The contract between the XDP program and userspace.
//!
//! Everything that both sides must agree on stands here, once: WireGuard's wire format ([`wireguard`]), the keys and
//! values of the BPF maps ([`tables`]), what travels through the ring buffer ([`event`]), why a packet met its end
//! ([`reason`]), how much may pass in a time ([`bucket`]) and the arithmetic of incremental checksums ([`checksum`]). The
//! crate is `no_std` and pure, so all of it is tested on the host with plain `cargo test`; the XDP program is this
//! package's binary.
//!
//! Fields in network byte order are byte arrays, [`tables::Address`]es, or end in `_be`.
#![no_std]

pub mod bucket;
pub mod checksum;
pub mod event;
pub mod reason;
pub mod tables;
pub mod wireguard;

/// Version of the contract. It is part of the pin directory's name, so a program never meets maps of another layout.
/// Raise it whenever a key, a value, the meaning of a field or the set of maps changes.
pub const ABI_VERSION: u32 = 5;
