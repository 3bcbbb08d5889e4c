//! What the program's maps hold, as plain values that the oracle reads. `kernel` writes them into the real maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use relay_ebpf::tables::{self, Address, LOCALS_MAX};
use relay_user::{
    forwarding::{Locals, directions},
    handshake::{Session as Proven, Side},
    members::MemberId,
    next_hops::Flow,
    turn::{
        entries::entries,
        server::{Binding, FiveTuple, Transport},
    },
};
use serde::{Deserialize, Serialize};

use crate::sessions::SEED;

/// The relay port of every run: a constant of the loaded program. Its two bytes differ.
pub const PORT: u16 = 51_820;
/// The port of the TURN server, likewise.
pub const TURN_PORT: u16 = 3478;
/// The ports of its relayed addresses, likewise.
pub const RELAYED: RangeInclusive<u16> = 50_000..=50_099;
/// The interface that frames come in by: BPF_PROG_TEST_RUN takes the loopback device when it is told of no other.
pub const INGRESS: u32 = 1;

/// The tables of a relay.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tables {
    /// The relay's addresses by their key.
    pub locals: BTreeMap<u8, IpAddr>,
    /// Sessions by receiver index.
    pub sessions: BTreeMap<u32, Session>,
    /// Channels of the TURN server.
    #[serde(default)]
    pub channels: BTreeSet<Channel>,
    /// Expected responders by the initiation's sender index.
    pub pending: BTreeMap<u32, SocketAddr>,
    /// Authenticated endpoints.
    pub endpoints: BTreeSet<SocketAddr>,
    /// Budgets that are used up. All others last longer than any test.
    #[serde(default)]
    pub used_up: BTreeSet<Budget>,
    /// What is said of sources by their prefix.
    #[serde(default)]
    pub prefixes: BTreeSet<Prefix>,
    /// Rate limits by their key: which directions of which are used up.
    #[serde(default)]
    pub rates: BTreeMap<u16, Rate>,
    /// Next hops by their key.
    pub next_hops: BTreeMap<u16, NextHop>,
    /// Interfaces that frames may be redirected to.
    pub tx_ports: BTreeSet<u32>,
    /// Whether userspace is so far behind that the ring buffer takes nothing.
    pub ring_full: bool,
    /// Whether it is so far behind that what is left of the ring buffer is for known sources.
    #[serde(default)]
    pub ring_half_full: bool,
}

/// A budget of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Budget {
    /// That of an authenticated endpoint.
    Endpoint(SocketAddr, Class),
    /// That of an unknown source: an IPv4 address or the first address of an IPv6 network of 64 bits.
    Source(IpAddr, Class),
    /// That of all unknown sources together.
    Unknown(Class),
}

/// What a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Handshake messages and keepalives.
    Signal,
    /// Anything else.
    Bulk,
}

/// What is said of the sources in a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// Its length, in bits.
    pub length: u8,
    /// What is said of it.
    pub verdict: Listed,
}

/// What a list says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Listed {
    /// New sources may be there.
    Allowed,
    /// They may not.
    NotAllowed,
    /// Nobody may.
    Denied,
}

/// Whether a member's rate limit is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// For what it sends.
    pub sent: bool,
    /// For what it receives.
    pub received: bool,
}

/// One direction of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Who sends in it.
    pub source: SocketAddr,
    /// Where that goes.
    pub destination: SocketAddr,
    /// Key of the relay address that it is sent to.
    pub local_in: u8,
    /// Key of the relay address that it leaves from.
    pub local_out: u8,
    /// Key of the next hop.
    pub next_hop: u16,
    /// Key of the sender's rate limit.
    #[serde(default)]
    pub sender_rate: u16,
    /// Key of the receiver's.
    #[serde(default)]
    pub receiver_rate: u16,
}

/// A channel of the TURN server: both of its directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Channel {
    /// Who has bound it.
    pub client: SocketAddr,
    /// Key of the relay address that the client sends to.
    pub server: u8,
    /// Its number.
    pub number: u16,
    /// Whom it is bound to.
    pub peer: SocketAddr,
    /// Key of the relay address that the peer sends to.
    pub relayed: u8,
    /// The port that the peer sends to.
    pub relayed_port: u16,
    /// Whether its time is up.
    pub expired: bool,
    /// Key of the next hop to the peer.
    pub to_peer: u16,
    /// Key of the next hop to the client.
    pub to_client: u16,
    /// Key of the user's rate limit.
    #[serde(default)]
    pub rate: u16,
}

impl Channel {
    /// Whether the program's table can't hold both: it knows what clients send by source and number, and what peers send by
    /// source and port.
    pub fn excludes(&self, other: &Self) -> bool {
        (self.client, self.number) == (other.client, other.number)
            || (self.peer, self.relayed_port) == (other.peer, other.relayed_port)
    }
}

/// What counts the packets that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// That of the session with this receiver index.
    Session(u32),
    /// What the client of a channel sends.
    ToPeer(Channel),
    /// What its peer sends.
    ToClient(Channel),
}

/// Where and how frames leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The egress interface.
    pub ifindex: u32,
    /// The largest IP packet in bytes, 0 if the next hop is not resolved.
    pub mtu: u16,
    /// How many of `tags` count.
    pub tag_count: u16,
    /// TPID and TCI, the outermost first.
    pub tags: [[u8; 4]; 2],
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Source MAC address.
    pub source_mac: [u8; 6],
}

impl Tables {
    /// The relay address under a key: `::` where none is set, `None` beyond the table.
    pub fn local(&self, key: u8) -> Option<IpAddr> {
        let unset = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        (u32::from(key) < LOCALS_MAX).then(|| self.locals.get(&key).copied().unwrap_or(unset))
    }

    /// The rate limit under a key: none where none is set.
    pub fn rate(&self, key: u16) -> Rate {
        self.rates.get(&key).copied().unwrap_or_default()
    }

    /// Whether this is an address of the relay's.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.locals.values().any(|&local| local == address)
    }

    /// Whether userspace could have written this: nothing leaves from an address that is not set, or that is of another
    /// family than its destination; no two channels exclude each other, and what goes the same way has one next hop.
    pub fn is_possible(&self) -> bool {
        let leaves = |local: u8, to: SocketAddr| {
            self.local(local).is_none_or(|local| local.is_ipv4() == to.is_ipv4() && !local.is_unspecified())
        };
        let alone = |channel: &Channel| {
            self.channels.iter().filter(|other| channel.excludes(other)).eq(std::iter::once(channel))
        };
        self.sessions.values().all(|session| leaves(session.local_out, session.destination))
            && self.channels.iter().all(|channel| {
                leaves(channel.relayed, channel.peer)
                    && leaves(channel.server, channel.client)
                    && RELAYED.contains(&channel.relayed_port)
                    && (channel.client.ip() != channel.peer.ip() || channel.to_peer == channel.to_client)
                    && alone(channel)
            })
    }

    /// The entry of `LOCALS`.
    pub fn locals_entry(&self) -> tables::Locals {
        let mut locals = [Address::UNSPECIFIED; LOCALS_MAX as usize];
        for (&key, &local) in &self.locals {
            locals[usize::from(key)] = local.into();
        }
        tables::Locals(locals)
    }

    /// The entry of `SESSIONS`, made by the code that makes it in the relay.
    pub fn session_entry(&self, index: u32, session: &Session) -> tables::Session {
        let side = |key: u8, endpoint: SocketAddr, index| {
            let local = self.local_towards(key, endpoint);
            Side { index, endpoint, local, member: None }
        };
        let from = side(session.local_in, session.source, !index);
        let to = side(session.local_out, session.destination, index);
        // Those of the two that are in the table keep their keys.
        let locals = Locals::assign(&self.locals_entry(), &[from.local, to.local]);
        // Both of the directions that userspace makes of a session are used: which, the index says.
        let backwards = index & 1 == 1;
        let (initiator, responder) = if backwards { (to, from) } else { (from, to) };
        let proven = Proven { initiator, responder, opened: Duration::ZERO };
        let (both, _) =
            directions(&proven, &locals, PORT, |_| session.next_hop, |_| 0).expect("the addresses have keys");
        let direction = both[usize::from(backwards)];
        assert_eq!(direction.index, index, "a direction stands under the index of whom it goes to");
        let &Session { local_in, local_out, sender_rate, receiver_rate, .. } = session;
        tables::Session { local_in, local_out, sender_rate, receiver_rate, ..direction }
    }

    /// Both entries of `CHANNELS`, that of what the client sends first, made by the code that makes them in the relay.
    /// `until` is as [`tables::Channel`] has it.
    pub fn channel_entries(&self, channel: &Channel, until: u32) -> [tables::Channel; 2] {
        let &Channel {
            client, server, number, peer, relayed, relayed_port, to_peer, to_client, rate, ..
        } = channel;
        let local_server = self.local_towards(server, client);
        let local_relayed = self.local_towards(relayed, peer);
        let locals = Locals::assign(&self.locals_entry(), &[local_server, local_relayed]);
        let binding = Binding {
            tuple: FiveTuple {
                transport: Transport::Udp,
                client,
                server: SocketAddr::new(local_server, TURN_PORT),
            },
            number,
            relayed: SocketAddr::new(local_relayed, relayed_port),
            peer,
            until: Duration::ZERO,
            user: MemberId(1),
            limit: None,
        };
        let next_hop = |flow| {
            if flow == (Flow { local: local_relayed, remote: peer.ip() }) { to_peer } else { to_client }
        };
        let [of_client, of_peer] =
            entries(&binding, &locals, SEED, until, rate, next_hop).expect("the addresses have keys");
        [
            tables::Channel { local_in: server, local_out: relayed, ..of_client },
            tables::Channel { local_in: relayed, local_out: server, ..of_peer },
        ]
    }

    /// The relay address under a key. A key that names none of the right family stands for a table that has changed since:
    /// then it is some other.
    fn local_towards(&self, key: u8, remote: SocketAddr) -> IpAddr {
        let fits = |local: &IpAddr| local.is_ipv4() == remote.is_ipv4() && !local.is_unspecified();
        self.local(key).filter(fits).unwrap_or(stand_in(remote))
    }
}

fn stand_in(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 199)),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 199)),
    }
}

impl NextHop {
    /// The entry of `NEXT_HOPS`.
    pub fn entry(&self) -> tables::NextHop {
        let &Self { ifindex, mtu, tag_count, tags, destination_mac, source_mac } = self;
        tables::NextHop { ifindex, mtu, tag_count, destination_mac, source_mac, tags, reserved: 0 }
    }
}
