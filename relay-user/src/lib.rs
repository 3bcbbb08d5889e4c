//! wgrelay's userspace: follows handshakes, keeps the XDP program's tables, and shows what goes on.

pub mod handshake;
pub mod members;
