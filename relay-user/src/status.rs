//! What wgrelay shows of itself: the shapes that its API answers with and that the command line prints.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/status`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// wgrelay's version.
    pub version: String,
    /// The relay's name.
    pub name: String,
    /// The relay's public key, base64.
    pub public_key: String,
    /// The relay port.
    pub port: u16,
    /// The relay's addresses.
    pub addresses: Vec<String>,
    /// How long this process has run, in seconds.
    pub uptime_seconds: f64,
    /// Where the XDP program is attached.
    pub xdp: Vec<XdpInterface>,
    /// Members in all.
    pub members: usize,
    /// Members that this relay relays.
    pub relayed: usize,
    /// Relayed members whose endpoint is known.
    pub registered: usize,
    /// Sessions (two directions each).
    pub sessions: usize,
    /// Handshakes under way.
    pub pending: usize,
    /// Handshake messages by what became of them in userspace.
    pub handshakes: Vec<Handshakes>,
    /// Packets by why they met their end in the XDP program; those that have occurred.
    pub counters: Vec<ReasonCount>,
    /// What userspace itself did.
    pub userspace: Userspace,
    /// Handshake messages that found the ring buffer full.
    pub ring_lost: u64,
    /// The unknown sources with the most packets, ten at most.
    #[serde(default)]
    pub unknown_sources: Vec<UnknownSource>,
    /// How full the tables are.
    pub maps: Vec<MapUse>,
    /// Next hops, and how many of them are resolved.
    pub next_hops: NextHopUse,
    /// The control source.
    pub source: Source,
    /// The TURN server, while it is on.
    #[serde(default)]
    pub turn: Option<TurnStatus>,
    /// How long ago the relay's WireGuard interface was read, in seconds.
    pub interface_read_seconds_ago: Option<f64>,
}

/// An interface that has the XDP program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct XdpInterface {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// `driver` or `generic`.
    pub mode: String,
}

/// Handshake messages with one outcome.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Handshakes {
    /// What became of them.
    pub outcome: String,
    /// How many.
    pub count: u64,
}

/// Packets with one reason.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReasonCount {
    /// Why they met their end.
    pub reason: String,
    /// The family that they came in.
    pub family: String,
    /// What the kernel did with them.
    pub verdict: String,
    /// How many.
    pub packets: u64,
    /// Their frames' bytes.
    pub bytes: u64,
}

/// What userspace itself did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Userspace {
    /// Handshake messages that came up.
    pub handshake_messages: u64,
    /// Hints of new sources that came up.
    pub new_source_hints: u64,
    /// Data packets that userspace forwarded.
    pub data_packets: u64,
    /// Data packets that came to userspace without a session.
    pub data_no_session: u64,
    /// Data packets that came to userspace from or to other addresses than their session's.
    pub data_wrong_source: u64,
    /// Data packets that came to userspace with a TTL or hop limit of 1 or 0.
    pub data_ttl_exceeded: u64,
    /// Data packets that came to userspace beyond the rate limit of their sender or receiver.
    pub data_over_rate_limit: u64,
    /// Data packets that came to userspace with a wrong UDP checksum.
    pub data_bad_checksum: u64,
    /// Data packets for userspace that the kernel dropped because they came faster than they were read.
    pub slow_path_lost: u64,
    /// Hosts told that a packet of theirs was too big.
    pub too_big_sent: u64,
    /// "Packet too big" messages that did not answer a relayed packet.
    pub too_big_ignored: u64,
    /// Handshake messages sent.
    pub sent: u64,
    /// Packets of any kind that could not be sent.
    pub send_errors: u64,
    /// Failed writes to the maps.
    pub map_errors: u64,
}

/// How full a table is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MapUse {
    /// The map.
    pub map: String,
    /// Entries in use.
    pub used: usize,
    /// Entries that there can be.
    pub capacity: usize,
}

/// Next hops.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct NextHopUse {
    /// How many.
    pub known: usize,
    /// How many of them have a MAC address.
    pub resolved: usize,
}

/// The control source.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// The configuration file, the store or the Netmaker server.
    pub name: String,
    /// How long ago its present content was taken over, in seconds.
    pub loaded_seconds_ago: f64,
    /// Why its newest content was not taken over, if so.
    pub error: Option<String>,
    /// What of it is not used, and what else people should know.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// Settings that have changed in the configuration file but need a restart.
    pub needs_restart: Vec<String>,
}

/// One of `GET /v1/hosts`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// The member's name.
    pub name: String,
    /// Its public key, base64.
    pub public_key: String,
    /// Its networks.
    pub networks: Vec<String>,
    /// Whether this relay relays it.
    pub relayed: bool,
    /// The other relay that relays it.
    pub relayed_by: Option<String>,
    /// Where it is now.
    pub endpoint: Option<String>,
    /// How long ago it last completed a handshake with the relay, in seconds.
    pub last_handshake_seconds_ago: Option<f64>,
    /// Its live sessions.
    pub sessions: usize,
    /// Packets from it that were forwarded.
    pub sent_packets: u64,
    /// Bytes (WireGuard messages) from it that were forwarded.
    pub sent_bytes: u64,
    /// Packets that were forwarded to it.
    pub received_packets: u64,
    /// Bytes (WireGuard messages) that were forwarded to it.
    pub received_bytes: u64,
}

/// One of `GET /v1/sources`: an unknown source that was admitted lately.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UnknownSource {
    /// Its IPv4 address, or its IPv6 network of 64 bits.
    pub source: String,
    /// Packets of it that were admitted.
    pub admitted_packets: u64,
    /// Packets of it that were dropped since then, because a budget was used up.
    pub dropped_packets: u64,
    /// How long ago it last sent something, in seconds.
    pub seen_seconds_ago: f64,
}

impl UnknownSource {
    /// All packets of it.
    pub fn packets(&self) -> u64 {
        self.admitted_packets + self.dropped_packets
    }
}

/// One of `GET /v1/sessions`: a direction.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SessionDirection {
    /// The receiver index, hexadecimal.
    pub receiver_index: String,
    /// The member that sends, if it is one.
    pub from: Option<String>,
    /// The member that receives, if it is one.
    pub to: Option<String>,
    /// Where its packets come from.
    pub source: String,
    /// Where they go to.
    pub destination: String,
    /// The relay's address that they come to.
    pub local_in: String,
    /// The relay's address that they leave from.
    pub local_out: String,
    /// Whether they go from the initiator of the handshake to the responder.
    pub to_responder: bool,
    /// Age of the session, in seconds.
    pub age_seconds: f64,
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes (WireGuard messages) forwarded.
    pub bytes: u64,
}

/// The TURN server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TurnStatus {
    /// The UDP port that clients talk to.
    pub port: u16,
    /// Allocations.
    pub allocations: usize,
    /// Their channels.
    pub channels: usize,
    /// Connections of clients by TCP and TLS.
    #[serde(default)]
    pub connections: usize,
    /// Users that have, or lately had, allocations: those with the most bytes, 100 at most.
    pub users: Vec<TurnUsage>,
    /// What has become of requests and data.
    pub outcomes: Vec<TurnOutcome>,
}

/// A user of the TURN server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TurnUsage {
    /// Its name; of time-limited credentials what follows the time.
    pub name: String,
    /// Its allocations.
    pub allocations: usize,
    /// Packets from it to its peers.
    pub sent_packets: u64,
    /// Bytes of data from it to its peers.
    pub sent_bytes: u64,
    /// Packets from its peers to it.
    pub received_packets: u64,
    /// Bytes of data from its peers to it.
    pub received_bytes: u64,
}

/// Requests or data with one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TurnOutcome {
    /// What became of them.
    pub outcome: String,
    /// How many.
    pub count: u64,
}
