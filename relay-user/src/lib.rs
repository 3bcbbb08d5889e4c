//! wgrelay's userspace: follows handshakes, keeps the XDP program's tables, and shows what goes on.

pub mod api;
pub mod clock;
pub mod config;
pub mod control;
pub mod engine;
pub mod forwarding;
pub mod handshake;
pub mod interface;
pub mod maps;
pub mod members;
pub mod metrics;
pub mod model;
pub mod netlink;
pub mod next_hops;
pub mod object;
pub mod path_mtu;
pub mod preflight;
pub mod program;
pub mod raw;
pub mod run;
pub mod slow_path;
pub mod sockets;
pub mod status;
pub mod store;
