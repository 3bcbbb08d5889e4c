//! The TURN server (RFC 8656, RFC 8489): for clients that speak TURN, on the relay's own addresses.
//!
//! What decides is pure: [`server`] takes datagrams and the time, and gives [`Action`](server::Action)s, in the order in
//! which they are to be carried out. [`task`] carries them out: it owns the sockets, and tells the engine of channels, which the
//! XDP program then forwards. A channel is in the program's table before the client is told that it is bound. What the
//! program passes on goes the same way through here.

pub mod allocation;
pub mod config;
pub mod credentials;
pub mod doors;
pub mod entries;
mod framing;
mod guard;
pub mod message;
pub mod netmaker;
mod nonce;
pub mod peers;
mod ports;
mod requests;
pub mod server;
mod sockets;
pub mod streams;
pub mod task;

#[cfg(test)]
mod tests;
