//! The small world that the targets play in: the relay's settings, the hosts and the places where they may be.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::LazyLock,
};

use arbitrary::Arbitrary;
use ipnet::IpNet;
use relay_user::{
    admission::{Filter, Work},
    handshake::{Limits, Quotas, Settings},
    members::{Member, Members, OtherRelay, Place, Policy, PublicKey, unusable},
};

/// The relay port.
pub const PORT: u16 = 51820;
/// The relay's addresses.
pub const ADDRESSES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];
/// Tables so small that a short input fills them.
pub const LIMITS: Limits = Limits {
    sessions: 6,
    sessions_per_responder: 4,
    sessions_per_pair: 2,
    pending: 4,
    pending_quotas: Quotas { source: 3, unknown: 2 },
    proven: 2,
};
/// So little that an input which repeats itself uses it up.
pub const WORK: Work = Work { searched_keys: 600, initiations: 100, unknown_initiations: 5 };
/// How many hosts may be members.
pub const HOSTS: u8 = 6;
/// Stands for the relay itself among the hosts that a message may be for.
pub const RELAY: u8 = HOSTS;

static DENIED: LazyLock<[IpNet; 2]> =
    LazyLock::new(|| ["203.0.113.0/24", "2001:db8:bad::/48"].map(|prefix| prefix.parse().expect("a prefix")));

/// Endpoints at which hosts meet, good and bad.
static KNOWN: LazyLock<[SocketAddr; 12]> = LazyLock::new(|| {
    [
        "198.51.100.1:1001",
        "198.51.100.2:1002",
        "198.51.100.3:1003",
        "[2001:db8:a::1]:1001",
        "[2001:db8:a::2]:1002",
        "192.0.2.77:51820",
        "[2001:db8::77]:51820",
        "127.0.0.1:6",
        "203.0.113.5:7",
        "192.0.2.1:51820",
        "[::ffff:198.51.100.1]:1001",
        "[2001:db8:bad::1]:1",
    ]
    .map(|endpoint| endpoint.parse().expect("an endpoint"))
});

/// What the relay is told once.
pub fn settings() -> Settings {
    Settings {
        public_key: key(RELAY),
        addresses: ADDRESSES.to_vec(),
        port: PORT,
        filter: Filter::new(&[], &*DENIED),
        work: WORK,
        limits: LIMITS,
    }
}

/// The public key of a host, or of the relay, or of nobody.
pub fn key(host: u8) -> PublicKey {
    let host = host % (HOSTS + 2);
    PublicKey(std::array::from_fn(|n| host + 1 + n as u8))
}

/// Whether nothing may ever be taken from or sent to this endpoint.
pub fn refused(endpoint: SocketAddr) -> bool {
    let ip = endpoint.ip().to_canonical();
    unusable(endpoint).is_some()
        || ADDRESSES.contains(&ip)
        || DENIED.iter().any(|prefix| prefix.contains(&ip))
}

/// An endpoint, good or bad.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum At {
    /// One of a few, so that hosts meet.
    Known(u8),
    /// Any IPv4 address and port.
    V4([u8; 4], u16),
    /// Any IPv6 address and port.
    V6([u8; 16], u16),
}

impl At {
    /// The address and port.
    pub fn endpoint(self) -> SocketAddr {
        match self {
            Self::Known(n) => KNOWN[usize::from(n) % KNOWN.len()],
            Self::V4(ip, port) => SocketAddr::new(IpAddr::from(ip), port),
            Self::V6(ip, port) => SocketAddr::new(IpAddr::from(ip), port),
        }
    }
}

/// One of the relay's addresses, of this endpoint's family: the program sends nothing else up.
pub fn local(endpoint: SocketAddr, choice: u8) -> IpAddr {
    let of_family = || ADDRESSES.into_iter().filter(|a| a.is_ipv4() == endpoint.is_ipv4());
    of_family().nth(usize::from(choice) % of_family().count()).expect("both families are there")
}

/// Where the control plane says that a host is.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Located {
    /// It is no member.
    Nowhere,
    /// Relayed here.
    Here,
    /// By another relay.
    Elsewhere,
    /// At one static endpoint.
    Static(At),
    /// At two.
    Both(At, At),
}

/// A desired state.
#[derive(Clone, Debug, Arbitrary)]
pub struct Desired {
    /// Policy `any`.
    any: bool,
    /// Where the other relay is.
    other_relay: At,
    /// Where each host is, and in which of two networks.
    hosts: [(Located, u8); HOSTS as usize],
}

impl Desired {
    /// The members, those left out that can't be beside the ones before.
    pub fn members(&self) -> Members {
        let policy = if self.any { Policy::Any } else { Policy::Members };
        let relay = OtherRelay { name: "other".into(), endpoints: vec![self.other_relay.endpoint()] };
        let new = |relay: Option<&OtherRelay>, members: &[Member]| {
            Members::new(key(RELAY), policy, relay.cloned(), members.iter().cloned())
        };
        let relay = Some(&relay).filter(|relay| new(Some(relay), &[]).is_ok());
        let mut members = Vec::new();
        for (&(located, networks), host) in self.hosts.iter().zip(0..) {
            let place = match located {
                Located::Nowhere => continue,
                Located::Here => Place::Relayed,
                Located::Elsewhere => Place::RelayedBy("other".into()),
                Located::Static(a) => Place::Static(vec![a.endpoint()]),
                Located::Both(a, b) => Place::Static(vec![a.endpoint(), b.endpoint()]),
            };
            let networks: &[&str] = [&["red", "blue"][..], &["red"], &["blue"]][usize::from(networks % 3)];
            let networks = networks.iter().map(|&network| network.into()).collect();
            let name = format!("host {host}").into();
            members.push(Member { name, public_key: key(host), networks, place, rate_limit: None });
            if new(relay, &members).is_err() {
                members.pop();
            }
        }
        new(relay, &members).expect("each was tried")
    }
}
