//! The lab: real WireGuard hosts, NATs and a relay in network namespaces.
//!
//! ```text
//!      host a ── NAT ──┐                       ┌── relay   (wgrelay, XDP on eth0)
//!                      ├── bridge, "Internet" ─┤
//! host b ── NAT ── NAT ┘    198.51.100.0/24    └── host p
//!                           2001:db8:1::/64
//! ```
//!
//! Hosts run plain wireguard-go (or another implementation, [`host::Implementation`]) and know nothing of the relay but an
//! endpoint and a public key. IPv4 goes through port-restricted NATs with random ports; for IPv6 the same boxes are
//! stateful firewalls.
//!
//! A [`Lab`] owns what it makes, and its names carry the process id. It is removed when the value goes, when the process
//! gets SIGINT or SIGTERM, and, if it was killed outright, by the next lab that starts ([`cleanup`]).
//!
//! The harness panics on what should not happen, with the command and what it printed: it is for tests and the demo.

pub mod affinity;
pub mod attack;
pub mod bench;
pub mod cards;
pub mod channels;
pub mod cleanup;
pub mod command;
pub mod fleet;
pub mod flood;
pub mod frames;
pub mod host;
pub mod internet;
pub mod lab;
pub mod machine;
/// The fuzz targets' messages: made by other implementations than the relay's.
#[path = "../fuzz/src/message.rs"]
pub mod message;
pub mod oracle;
pub mod relay;
pub mod restarts;
pub mod sessions;
pub mod stream;
pub mod traffic;
pub mod turn;
pub mod turn_client;
pub mod turn_requests;
pub mod uplink;
pub mod wait;
pub mod world;
pub mod xdp_pass;

pub use fleet::Fleet;
pub use frames::FrameCounter;
pub use host::{Host, Keys};
pub use internet::{Internet, Nat};
pub use lab::{Lab, Namespace};
pub use relay::{Member, Relay};
pub use uplink::Uplink;
pub use wait::until;
pub use world::World;
