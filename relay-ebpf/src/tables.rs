//! Names, keys, values and sizes of the BPF maps.
//!
//! | map | kind | key → value | writer |
//! |---|---|---|---|
//! | [`SESSIONS`] | array | slot → [`Session`]; where to look for an index: [`home`] | userspace (counters: XDP) |
//! | [`LEDGER`] | array | entry → [`Ledger`], one for each pair of directions | userspace |
//! | [`TOTALS`] | array | entry → [`Total`], what was forwarded for a member beside what its live sessions count | userspace |
//! | [`SEED`] | array of one | what [`home`] mixes indices with, odd | userspace |
//! | [`PENDING`] | hash | sender index of an initiation → [`Endpoint`] of the expected responder | userspace |
//! | [`ENDPOINTS`] | hash | [`Endpoint`] of a member or of another relay → [`Known`] | userspace (buckets: XDP) |
//! | [`SOURCES`] | LRU hash | [`source_key`] of an unknown source → [`Source`] | XDP |
//! | [`BUDGETS`] | array of one | [`Budgets`], what may pass in a time | userspace (bucket: XDP) |
//! | [`PREFIXES`] | LPM trie | [`prefix_key`] → [`ALLOWED`], [`NOT_ALLOWED`] or [`DENIED`] | userspace |
//! | [`RATES`] | array | id → [`Rate`], a member's rate limit | userspace (buckets: XDP) |
//! | [`NEXT_HOPS`] | array | id → [`NextHop`] | userspace |
//! | [`TX_PORTS`] | devmap hash | ifindex → device | userspace |
//! | [`LOCALS`] | array of one | [`Locals`], the relay's addresses by their ids | userspace |
//! | [`CHANNELS`] | array | slot → [`Channel`], a direction of a TURN channel; where to look: [`channel_key`] | userspace (counters: XDP) |
//! | [`COUNTERS`] | per-CPU array | [`crate::reason::counter_index`] → [`Counter`] | XDP |
//! | [`EVENTS`] | ring buffer | [`crate::event::Event`] | XDP |
//! | [`HINTS`] | per-CPU array | [`HINT_NEW_SOURCE`] or [`HINT_TOO_BIG`] → time of the last one, ns since boot | XDP |
//!
//! A receiver index is the `u32` that WireGuard's little-endian field means.
//!
//! The keys and values are built of 64-bit words where the program keeps them on its stack: LLVM merges neighbouring
//! narrower stores into ones that the verifier rejects as misaligned.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::bucket::{self, Bucket, RATE_DEPTH_NS};

/// Established sessions by receiver index.
pub const SESSIONS: &str = "SESSIONS";
/// Who each session belongs to.
pub const LEDGER: &str = "LEDGER";
/// What was forwarded for each member, beside what the counters of live sessions hold.
pub const TOTALS: &str = "TOTALS";
/// What decides the place of a session in [`SESSIONS`].
pub const SEED: &str = "SEED";
/// Handshakes under way by the initiator's index.
pub const PENDING: &str = "PENDING";
/// Authenticated endpoints.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// What unknown sources have sent.
pub const SOURCES: &str = "SOURCES";
/// How much is admitted.
pub const BUDGETS: &str = "BUDGETS";
/// Which sources are refused, by prefix.
pub const PREFIXES: &str = "PREFIXES";
/// Rate limits of members.
pub const RATES: &str = "RATES";
/// Where and how frames leave.
pub const NEXT_HOPS: &str = "NEXT_HOPS";
/// Devices that frames may be redirected to.
pub const TX_PORTS: &str = "TX_PORTS";
/// The relay's own addresses.
pub const LOCALS: &str = "LOCALS";
/// Channels of the TURN server.
pub const CHANNELS: &str = "CHANNELS";
/// Packets and bytes by reason.
pub const COUNTERS: &str = "COUNTERS";
/// What goes up to userspace.
pub const EVENTS: &str = "EVENTS";
/// Rate limits of what goes up beside handshakes.
pub const HINTS: &str = "HINTS";
/// Every map that is pinned.
pub const ALL: [&str; 17] = [
    SESSIONS, LEDGER, TOTALS, SEED, PENDING, ENDPOINTS, SOURCES, BUDGETS, PREFIXES, RATES, NEXT_HOPS,
    TX_PORTS, LOCALS, CHANNELS, COUNTERS, EVENTS, HINTS,
];

/// A relay has at most this many addresses, both families together.
pub const LOCALS_MAX: u32 = 16;
/// Capacity of [`NEXT_HOPS`].
pub const NEXT_HOPS_MAX: u32 = 4096;
/// Capacity of [`TX_PORTS`].
pub const TX_PORTS_MAX: u32 = 64;
/// Default number of directions that fit into [`SESSIONS`]; the configuration sets the real one at load.
pub const SESSIONS_DEFAULT: u32 = 65_536;
/// A session stands in one of so many slots, of which its [`home`] is the first.
pub const WINDOW: u32 = 32;

/// How many homes a table for so many directions has: half of them stay empty, so that windows hardly ever fill.
pub const fn homes(directions: u32) -> u32 {
    directions * 2
}

/// Capacity of [`SESSIONS`] for so many directions. The last home has a whole window, too.
pub const fn slots(directions: u32) -> u32 {
    homes(directions) + WINDOW - 1
}

/// Capacity of [`LEDGER`] for so many directions.
pub const fn ledger_entries(directions: u32) -> u32 {
    directions.div_ceil(2)
}

/// The first slot to look at for a receiver index. Some implementations count in their indices and everyone chooses
/// their own, so they are mixed with an odd number that nobody knows: twice, since what counts in steps stays in steps
/// after one multiplication, and then the upper half is scaled to the table.
#[inline(always)]
pub const fn home(index: u32, seed: u64, homes: u32) -> u32 {
    let once = (index as u64).wrapping_mul(seed);
    let twice = (once ^ once >> 32).wrapping_mul(seed) >> 32;
    ((twice * homes as u64) >> 32) as u32
}
/// Default capacity of [`PENDING`]; the configuration sets the real one at load.
pub const PENDING_DEFAULT: u32 = 16_384;
/// Default capacity of [`ENDPOINTS`]; the configuration sets the real one at load.
pub const ENDPOINTS_DEFAULT: u32 = 65_536;
/// Size of [`EVENTS`] in bytes, a power of two: some 5,000 messages.
pub const EVENTS_BYTES: u32 = 1 << 20;
/// Unknown sources get nothing into [`EVENTS`] when so many bytes wait in it: half of it is kept for known ones.
pub const fn events_for_unknown(size: u64) -> u64 {
    size / 2
}
/// Capacity of [`SOURCES`].
pub const SOURCES_MAX: u32 = 16_384;
/// Capacity of [`PREFIXES`].
pub const PREFIXES_MAX: u32 = 16_384;
/// Capacity of [`RATES`], the first of which is that of nobody.
pub const RATES_MAX: u32 = 65_536;
/// VLAN tags that a frame may have: IEEE 802.1Q, and 802.1ad around it.
pub const TAGS_MAX: usize = 2;
/// Capacity of [`HINTS`].
pub const HINTS_LEN: u32 = 2;
/// Key in [`HINTS`] of the new-source hint.
pub const HINT_NEW_SOURCE: u32 = 0;
/// At most one new-source hint a CPU in this time, in ns.
pub const NEW_SOURCE_INTERVAL_NS: u64 = 50_000_000;
/// Key in [`HINTS`] of the too-big event.
pub const HINT_TOO_BIG: u32 = 1;
/// At most one too-big event a CPU in this time, in ns.
pub const TOO_BIG_INTERVAL_NS: u64 = 10_000_000;

/// Capacity of [`CHANNELS`]: half as many directions fit in.
pub const CHANNELS_MAX: u32 = 65_536;
/// A direction of a channel stands in one of so many slots of [`CHANNELS`], of which its [`channel_home`] is the first.
pub const CHANNEL_WINDOW: u32 = 16;

/// What the program knows a direction of a TURN channel by: the `remote` address and port, the server's port, and the
/// channel number in what a client sends (0 in what a peer sends, which comes to a port of its own). The ports and the
/// number are in host byte order. Never 0. Two directions that have one key can't be in the table both; `seed` is secret,
/// so nobody finds such.
#[inline(always)]
pub const fn channel_key(remote: Address, remote_port: u16, local_port: u16, number: u16, seed: u64) -> u64 {
    let ports = (remote_port as u64) | (local_port as u64) << 16 | (number as u64) << 32;
    let mixed = (remote.0[0] ^ ports).wrapping_mul(seed);
    let mixed = (mixed ^ mixed >> 32 ^ remote.0[1]).wrapping_mul(seed);
    let mixed = (mixed ^ mixed >> 32 ^ ports << 16).wrapping_mul(seed);
    if mixed == 0 { 1 } else { mixed }
}

/// The first slot to look at for a key.
#[inline(always)]
pub const fn channel_home(key: u64) -> u32 {
    const HOMES: u64 = (CHANNELS_MAX - CHANNEL_WINDOW + 1) as u64;
    (((key >> 32) * HOMES) >> 32) as u32
}

/// The unit in which [`Channel::until`] counts: 2⁶ ticks of the kernel (jiffies), which are 64 to 640 ms.
pub const UNTIL_SHIFT: u32 = 6;

/// What the loader tells the program (a global, constant once loaded). Aligned so that the program, which reads it as
/// volatile, does so in one load and not byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Config {
    /// The relay port (the listen port of the relay's WireGuard interface), network byte order.
    pub port_be: [u8; 2],
    /// The port of the TURN server, network byte order; 0 if there is none.
    pub turn_port_be: [u8; 2],
    /// How many [`homes`] [`SESSIONS`] has.
    pub homes: u32,
    /// As in [`SEED`].
    pub seed: u64,
    /// The first of the ports of relayed addresses of the TURN server.
    pub relayed_first: u16,
    /// The last of them.
    pub relayed_last: u16,
    /// Padding, zero.
    pub reserved: u32,
}

/// The name of the [`Config`] global in the program.
pub const CONFIG: &str = "CONFIG";

/// An IPv6 address, or an IPv4 address as IPv4-mapped IPv6: the 16 octets in network order, held as two words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Address(pub [u64; 2]);

impl Address {
    /// `::`, which no packet that we handle carries.
    pub const UNSPECIFIED: Self = Self([0; 2]);

    /// From an IPv4 address as four octets read as a native integer.
    #[inline(always)]
    pub const fn from_ipv4_ne(octets: u32) -> Self {
        let o = octets.to_ne_bytes();
        Self([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3]])])
    }

    /// From 16 octets in network order.
    #[inline(always)]
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self([
            u64::from_ne_bytes([o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]]),
            u64::from_ne_bytes([o[8], o[9], o[10], o[11], o[12], o[13], o[14], o[15]]),
        ])
    }

    /// The 16 octets in network order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) =
            (self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The IPv4 address as four octets read as a native integer; meaningful if [`Self::is_ipv4`].
    #[inline(always)]
    pub const fn ipv4_ne(self) -> u32 {
        let o = self.0[1].to_ne_bytes();
        u32::from_ne_bytes([o[4], o[5], o[6], o[7]])
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_ipv4(self) -> bool {
        const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        let o = self.0[1].to_ne_bytes();
        self.0[0] == 0 && u32::from_ne_bytes([o[0], o[1], o[2], o[3]]) == MAPPED
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self::from_octets(match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        })
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        IpAddr::V4(address).into()
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.octets()).to_canonical()
    }
}

impl core::fmt::Debug for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// An address and a UDP port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port in host byte order; the upper 48 bits are zero.
    pub port: u64,
}

impl From<SocketAddr> for Endpoint {
    fn from(endpoint: SocketAddr) -> Self {
        Self { address: endpoint.ip().into(), port: endpoint.port().into() }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        SocketAddr::new(endpoint.address.into(), endpoint.port as u16)
    }
}

impl core::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

/// What a packet to the relay port is as far as admission goes. Each source has a bucket for either class, so that data
/// which finds no session never keeps its sender from making a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A handshake message or a keepalive: what keeps hosts registered and makes their sessions.
    Signal,
    /// All else: data of no session, fragments, what is not WireGuard.
    Bulk,
}

/// A bucket for either [`Class`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Buckets {
    /// That of [`Class::Signal`].
    pub signal: Bucket,
    /// That of [`Class::Bulk`].
    pub bulk: Bucket,
}

/// What a packet of either [`Class`] costs, in ns (see [`crate::bucket`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Costs {
    /// That of [`Class::Signal`].
    pub signal: u64,
    /// That of [`Class::Bulk`].
    pub bulk: u64,
}

impl Costs {
    /// The cost of a packet of this class.
    #[inline(always)]
    pub const fn of(&self, class: Class) -> u64 {
        match class {
            Class::Signal => self.signal,
            Class::Bulk => self.bulk,
        }
    }
}

/// How much is admitted: what a packet costs, by whose bucket it is taken from. All zero, nothing is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Budgets {
    /// A member's.
    pub member: Costs,
    /// Another relay's.
    pub relay: Costs,
    /// An unknown source's.
    pub source: Costs,
    /// That of all unknown sources together.
    pub unknown: Costs,
    /// The buckets of all unknown sources together.
    pub buckets: Buckets,
}

/// A known endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Known {
    /// The member whose it is; 0 for another relay's.
    pub member: u64,
    /// Its buckets.
    pub buckets: Buckets,
}

/// An unknown source that was admitted lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Source {
    /// Its buckets.
    pub buckets: Buckets,
    /// Packets admitted.
    pub admitted: u64,
    /// Packets dropped because a budget was used up, its own or that of all.
    pub dropped: u64,
    /// When it last sent something, ns since boot.
    pub seen_ns: u64,
}

/// Whose budget an unknown source with this address pays from: an IPv6 address stands for its /64, which is what one host
/// may have.
#[inline(always)]
pub const fn source_key(address: Address) -> Address {
    if address.is_ipv4() { address } else { Address([address.0[0], 0]) }
}

/// In [`PREFIXES`]: new sources may come from there.
pub const ALLOWED: u64 = 1;
/// In [`PREFIXES`]: there is an allow list, and this prefix is not on it.
pub const NOT_ALLOWED: u64 = 2;
/// In [`PREFIXES`]: nothing is taken from there.
pub const DENIED: u64 = 3;

/// A key of [`PREFIXES`]: as the kernel has it, the length of the prefix in bits as a native `u32`, and the bits. It is
/// built of whole words, so four zero bytes come before the address, and 32 is added to the length. `len` counts the bits
/// of an IPv6 address: of an IPv4 prefix it is 96 more than written.
#[inline(always)]
pub const fn prefix_key(address: Address, len: u32) -> [u64; 3] {
    let [a, b, c, d] = (32 + len).to_ne_bytes();
    [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), address.0[0], address.0[1]]
}

/// A member's rate limit. What it sends and what it receives are limited each by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rate {
    /// The member; 0 in an entry that is free.
    pub member: u64,
    /// What a packet costs, in ns.
    pub packet_cost: u64,
    /// What a byte of a WireGuard message costs (see [`crate::bucket::byte_cost`]).
    pub byte_cost: u64,
    /// For what it sends.
    pub sent: RateBuckets,
    /// For what it receives.
    pub received: RateBuckets,
}

impl Rate {
    /// The buckets after a message of so many bytes has passed; `None` if it may not pass.
    #[inline(always)]
    #[must_use]
    pub const fn after(&self, buckets: RateBuckets, now_ns: u64, message_len: u16) -> Option<RateBuckets> {
        let bytes_cost = bucket::bytes_cost(message_len, self.byte_cost);
        match (
            buckets.packets.after(now_ns, self.packet_cost, RATE_DEPTH_NS),
            buckets.bytes.after(now_ns, bytes_cost, RATE_DEPTH_NS),
        ) {
            (Some(packets), Some(bytes)) => Some(RateBuckets { packets, bytes }),
            _ => None,
        }
    }
}

/// The buckets of one direction of a [`Rate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RateBuckets {
    /// That of packets.
    pub packets: Bucket,
    /// That of bytes.
    pub bytes: Bucket,
}

/// The relay's addresses by their ids; unused ones are [`Address::UNSPECIFIED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Locals(pub [Address; LOCALS_MAX as usize]);

/// One direction of a relayed WireGuard session: which packet is its own, and what becomes of it. A cache line.
///
/// A packet belongs to it if its receiver index is `index`, its source is `source` and `source_port_be`, and it was sent
/// to the relay address `local_in`. It leaves from relay address `local_out` to `destination`, by next hop `next_hop`.
///
/// The fields from `next_hop` on are one word, which is written last, and to zero first when the session ends: whoever
/// has read the index from it finds the rest whole. A slot that was in use is left alone until no reader can be in it any
/// more, and nothing but its counters ever changes in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Session {
    /// The expected source address.
    pub source: Address,
    /// The address to send to. Not of the same family as `source`: the packet changes family.
    pub destination: Address,
    /// Packets forwarded. In the 185 s that a session lives a CPU does not forward as many as fit.
    pub packets: u32,
    /// Key in [`RATES`] of the sender's limit, 0 if it has none.
    pub sender_rate: u16,
    /// Key in [`RATES`] of the receiver's limit, 0 if it has none.
    pub receiver_rate: u16,
    /// Bytes forwarded: the UDP payload, that is whole WireGuard messages.
    pub bytes: u64,
    /// The expected source port, network byte order.
    pub source_port_be: [u8; 2],
    /// The port to send to, network byte order.
    pub destination_port_be: [u8; 2],
    /// What the rewrite adds to the IPv4 header checksum, TTL decrement included (see [`crate::checksum`]); 0 for IPv6.
    pub ip_delta: u16,
    /// What the rewrite adds to the UDP checksum.
    pub udp_delta: u16,
    /// Key in [`NEXT_HOPS`].
    pub next_hop: u16,
    /// Id in [`Locals`] of the address that the packet was sent to.
    pub local_in: u8,
    /// Id in [`Locals`] of the address that it leaves from.
    pub local_out: u8,
    /// The receiver index; 0 in a slot that is free, and of no session.
    pub index: u32,
}

/// One direction of a TURN channel: data of the client, which leaves without its header, or data of the peer, which leaves
/// with one. The first cache line of a slot is what is read.
///
/// `key` is written last, and to zero first when the channel ends; a slot that was in use is left alone until no reader
/// can be in it any more. What changes in place is the counters, `until`, `next_hop` and `rate`: whole words whose other
/// fields stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Channel {
    /// Its [`channel_key`]; 0 in a slot that is free.
    pub key: u64,
    /// The expected source address.
    pub source: Address,
    /// The address to send to. Not of the same family as `source`: the packet changes family.
    pub destination: Address,
    /// The expected source port, network byte order.
    pub source_port_be: [u8; 2],
    /// The port that it was sent to, network byte order: the server's or a relayed one.
    pub local_in_port_be: [u8; 2],
    /// The port that it leaves from, network byte order: a relayed one or the server's.
    pub local_out_port_be: [u8; 2],
    /// The port to send to, network byte order.
    pub destination_port_be: [u8; 2],
    /// What addresses and TTL add to the IPv4 header checksum (see [`crate::checksum`]); 0 unless it is IPv4 on both sides.
    pub ip_delta: u16,
    /// What addresses and ports add to the UDP checksum.
    pub udp_delta: u16,
    /// Key in [`NEXT_HOPS`].
    pub next_hop: u16,
    /// Id in [`Locals`] of the address that the packet was sent to.
    pub local_in: u8,
    /// Id in [`Locals`] of the address that it leaves from.
    pub local_out: u8,
    /// It forwards as long as the kernel's ticks (jiffies), in units of 2^[`UNTIL_SHIFT`], are less than this.
    pub until: u32,
    /// The channel number, network byte order.
    pub number_be: [u8; 2],
    /// Whether it is the client that sends: 1 or 0.
    pub from_client: u16,
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of data forwarded, without the channel's header.
    pub bytes: u64,
    /// Id in [`RATES`] of the user's limit, of which the client pays `sent` and its peer `received`; 0 for none.
    pub rate: u16,
    /// Padding to a cache line, zero.
    pub reserved: [u16; 23],
}

/// What userspace needs to know of a session beyond its forwarding, kept in a pinned map so that revocation, roaming and
/// expiry survive a restart. All zero in an entry that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ledger {
    /// Id of the member whose initiation opened the session, or 0 if it is none of ours.
    pub initiator: u64,
    /// Id of the member that answered, or 0.
    pub responder: u64,
    /// When the session was proven, ns since boot (CLOCK_BOOTTIME).
    pub opened_ns: u64,
    /// The initiator's index: that of the direction which carries what the responder sends.
    pub initiator_index: u32,
    /// The responder's index.
    pub responder_index: u32,
}

/// What was forwarded for a member: by sessions that have ended, and by userspace. Kept in a pinned map so that it survives
/// a restart. All zero in an entry that is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Total {
    /// Id of the member.
    pub member: u64,
    /// Packets that it has sent.
    pub sent_packets: u64,
    /// Bytes of WireGuard messages that it has sent.
    pub sent_bytes: u64,
    /// Packets that it has received.
    pub received_packets: u64,
    /// Bytes of WireGuard messages that it has received.
    pub received_bytes: u64,
}

/// Where a frame leaves and what its Ethernet header holds. A `mtu` of 0 marks one that is not resolved.
///
/// Userspace writes it by words of eight bytes, so a destination address is never a mixture of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct NextHop {
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// The largest IP packet that may leave, in bytes; 0 if the next hop is not resolved.
    pub mtu: u16,
    /// How many of `tags` the frame has.
    pub tag_count: u16,
    /// VLAN tags, the outermost first, as they stand in the frame: two bytes of TPID, two of TCI.
    pub tags: [[u8; 4]; TAGS_MAX],
    /// The egress interface.
    pub ifindex: u32,
    /// Padding, zero.
    pub reserved: u32,
}

/// A pair of counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of the frames as received, link header included.
    pub bytes: u64,
}

const _: () = {
    assert!(size_of::<Config>() == 24);
    assert!(size_of::<Channel>() == 128 && core::mem::offset_of!(Channel, packets) == 64);
    assert!(size_of::<Address>() == 16 && align_of::<Address>() == 8);
    assert!(size_of::<Endpoint>() == 24);
    assert!(size_of::<Session>() == 64);
    assert!(size_of::<Known>() == 24);
    assert!(size_of::<Source>() == 40);
    assert!(size_of::<Budgets>() == 80);
    assert!(size_of::<Rate>() == 56);
    assert!(size_of::<Ledger>() == 32);
    assert!(size_of::<Total>() == 40);
    assert!(size_of::<NextHop>() == 32);
    assert!(size_of::<Counter>() == 16);
};

#[cfg(not(target_arch = "bpf"))]
mod pod {
    use super::{
        Address, Budgets, Channel, Config, Counter, Endpoint, Known, Ledger, Locals, NextHop, Rate, Session,
        Source, Total,
    };
    // SAFETY: `repr(C)`, `Copy`, no padding (zerocopy's `IntoBytes`) and valid for every bit pattern (`FromBytes`).
    unsafe impl aya::Pod for Address {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Session {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Ledger {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Total {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NextHop {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Locals {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Known {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Source {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Budgets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Rate {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Channel {}
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::mem::offset_of;
    use std::string::ToString as _;

    use super::*;

    /// Pinned maps outlive the program: a field that moves needs a new [`crate::ABI_VERSION`].
    #[test]
    fn fields_are_where_this_version_has_them() {
        assert_eq!(crate::ABI_VERSION, 5);
        assert_eq!((offset_of!(Endpoint, address), offset_of!(Endpoint, port)), (0, 16));
        assert_eq!((offset_of!(Session, source), offset_of!(Session, destination)), (0, 16));
        assert_eq!((offset_of!(Session, packets), offset_of!(Session, bytes)), (32, 40));
        assert_eq!((offset_of!(Session, sender_rate), offset_of!(Session, receiver_rate)), (36, 38));
        assert_eq!((offset_of!(Session, source_port_be), offset_of!(Session, destination_port_be)), (48, 50));
        assert_eq!((offset_of!(Session, ip_delta), offset_of!(Session, udp_delta)), (52, 54));
        assert_eq!(offset_of!(Session, next_hop), 56);
        assert_eq!((offset_of!(Session, local_in), offset_of!(Session, local_out)), (58, 59));
        assert_eq!(offset_of!(Session, index), 60);
        assert_eq!((offset_of!(Ledger, initiator), offset_of!(Ledger, responder)), (0, 8));
        assert_eq!(offset_of!(Ledger, opened_ns), 16);
        assert_eq!((offset_of!(Ledger, initiator_index), offset_of!(Ledger, responder_index)), (24, 28));
        assert_eq!((offset_of!(Total, member), offset_of!(Total, sent_packets)), (0, 8));
        assert_eq!((offset_of!(Total, sent_bytes), offset_of!(Total, received_packets)), (16, 24));
        assert_eq!(offset_of!(Total, received_bytes), 32);
        assert_eq!((offset_of!(Known, member), offset_of!(Known, buckets)), (0, 8));
        assert_eq!((offset_of!(Buckets, signal), offset_of!(Buckets, bulk)), (0, 8));
        assert_eq!((offset_of!(Costs, signal), offset_of!(Costs, bulk)), (0, 8));
        assert_eq!((offset_of!(Source, buckets), offset_of!(Source, admitted)), (0, 16));
        assert_eq!((offset_of!(Source, dropped), offset_of!(Source, seen_ns)), (24, 32));
        assert_eq!((offset_of!(Budgets, member), offset_of!(Budgets, relay)), (0, 16));
        assert_eq!((offset_of!(Budgets, source), offset_of!(Budgets, unknown)), (32, 48));
        assert_eq!(offset_of!(Budgets, buckets), 64);
        assert_eq!((offset_of!(Rate, member), offset_of!(Rate, packet_cost)), (0, 8));
        assert_eq!((offset_of!(Rate, byte_cost), offset_of!(Rate, sent)), (16, 24));
        assert_eq!(offset_of!(Rate, received), 40);
        assert_eq!((offset_of!(RateBuckets, packets), offset_of!(RateBuckets, bytes)), (0, 8));
        assert_eq!((offset_of!(NextHop, destination_mac), offset_of!(NextHop, source_mac)), (0, 6));
        assert_eq!((offset_of!(NextHop, mtu), offset_of!(NextHop, tag_count)), (12, 14));
        assert_eq!((offset_of!(NextHop, tags), offset_of!(NextHop, ifindex)), (16, 24));
        assert_eq!((offset_of!(Counter, packets), offset_of!(Counter, bytes)), (0, 8));
        assert_eq!((offset_of!(Config, port_be), offset_of!(Config, homes)), (0, 4));
        assert_eq!((offset_of!(Config, turn_port_be), offset_of!(Config, seed)), (2, 8));
        assert_eq!((offset_of!(Config, relayed_first), offset_of!(Config, relayed_last)), (16, 18));
        assert_eq!((offset_of!(Channel, key), offset_of!(Channel, source)), (0, 8));
        assert_eq!((offset_of!(Channel, destination), offset_of!(Channel, source_port_be)), (24, 40));
        assert_eq!((offset_of!(Channel, ip_delta), offset_of!(Channel, next_hop)), (48, 52));
        assert_eq!((offset_of!(Channel, until), offset_of!(Channel, number_be)), (56, 60));
        assert_eq!((offset_of!(Channel, packets), offset_of!(Channel, bytes)), (64, 72));
        assert_eq!(offset_of!(Channel, rate), 80);
    }

    #[test]
    fn indices_are_spread_over_the_whole_table() {
        const DIRECTIONS: u32 = 1000;
        for seed in [0x9e37_79b9_7f4a_7c15, 0x0123_4567_89ab_cdef] {
            let homes = homes(DIRECTIONS);
            // A counter; one in the upper bits; one above the lowest byte, as boringtun numbers its own.
            for index in [|n| n, |n| n << 20, |n| (n << 8) | (n % 3)] {
                let mut hits = std::vec![0; homes as usize];
                (1..=DIRECTIONS).for_each(|n| hits[home(index(n), seed, homes) as usize] += 1);
                assert!(hits.iter().all(|hits| *hits < 8), "{seed:#x}");
                // Of random places so many would be met by 787 on average.
                assert!(hits.iter().filter(|hits| **hits > 0).count() > 700, "{seed:#x}");
            }
            assert!(home(u32::MAX, u64::MAX, homes) < homes);
        }
        assert_eq!((slots(64), ledger_entries(65)), (128 + WINDOW - 1, 33));
    }

    #[test]
    fn keys_of_channels_are_spread_and_differ() {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let client: IpAddr = "2001:db8::1".parse().unwrap();
        let seed = 0x9e37_79b9_7f4a_7c15;
        let mut keys = std::collections::BTreeSet::new();
        let mut homes = std::collections::BTreeMap::<u32, u32>::new();
        for n in 0..2000 {
            for key in [
                channel_key(peer.into(), 40_000, 50_000 + n, 0, seed),
                channel_key(peer.into(), 40_000 + n, 49_999, 0, seed),
                channel_key(client.into(), 40_000, 3478, 0x4000 + n, seed),
                channel_key(client.into(), 42_000 + n, 3478, 0x3fff, seed),
            ] {
                assert!(keys.insert(key), "{n}: {key:#x}");
                assert!(channel_home(key) + CHANNEL_WINDOW <= CHANNELS_MAX);
                *homes.entry(channel_home(key)).or_default() += 1;
            }
        }
        assert!(homes.values().all(|count| *count < 6), "8,000 keys in 65,536 homes");
        assert!(channel_home(u64::MAX) + CHANNEL_WINDOW <= CHANNELS_MAX);
    }

    #[test]
    fn the_kernel_takes_the_names_whole() {
        for name in ALL.into_iter().chain([CONFIG]) {
            assert!(name.len() <= 15, "{name}");
        }
    }

    #[test]
    fn an_address_is_its_octets_and_knows_its_family() {
        for (text, ipv4) in
            [("192.0.2.1", true), ("0.0.0.0", true), ("2001:db8::1", false), ("::", false), ("::1", false)]
        {
            let ip: IpAddr = text.parse().unwrap();
            let address = Address::from(ip);
            assert_eq!(IpAddr::from(address), ip);
            assert_eq!(Address::from_octets(address.octets()), address);
            assert_eq!(address.is_ipv4(), ipv4, "{text}");
            if let IpAddr::V4(v4) = ip {
                assert_eq!(address.ipv4_ne().to_ne_bytes(), v4.octets());
                assert_eq!(Address::from_ipv4_ne(address.ipv4_ne()), address);
            }
        }
        assert_eq!(Address::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), Address::UNSPECIFIED);
    }

    #[test]
    fn an_unknown_source_is_an_ipv4_address_or_an_ipv6_network() {
        let key = |text: &str| IpAddr::from(source_key(text.parse::<IpAddr>().unwrap().into())).to_string();
        assert_eq!(key("192.0.2.1"), "192.0.2.1");
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(key("::1"), "::");
    }

    #[test]
    fn a_prefix_key_is_laid_out_as_the_kernel_wants_it() {
        let address: IpAddr = "198.51.100.0".parse().unwrap();
        let key = prefix_key(address.into(), 96 + 24);
        let bytes = key.as_bytes();
        assert_eq!(bytes[..4], (32 + 96 + 24_u32).to_ne_bytes());
        assert_eq!(bytes[4..20], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(bytes[20..], [198, 51, 100, 0]);
    }

    #[test]
    fn an_endpoint_is_a_socket_address() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:1", "[::]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Endpoint::from(address)).to_string(), text);
        }
    }
}
