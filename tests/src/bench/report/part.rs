//! The parts of the benchmark. `cargo xtask bench` takes this file too, so that it knows them before it builds anything.

/// What can be measured by itself, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// What a run of an XDP program costs
    Programs,
    /// What a run costs for data of TURN channels
    Channels,
    /// What a packet costs end to end, with XDP programs
    Packets,
    /// How long a packet is on its way
    Latency,
    /// Handshakes per second
    Handshakes,
    /// How long a handshake waits behind a burst of others
    Flood,
    /// What a packet costs relays of all kinds
    Relays,
    /// What it costs a hub that decrypts and encrypts again
    Hub,
    /// TCP through WireGuard: direct, by the relay, by the hub
    Throughput,
    /// The control plane with very many members
    Members,
}
