//! One member's WireGuard configuration: whom it talks to, and over which address.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use ipnet::IpNet;

use super::{Key, Member, Name, Refusal, State, part::allowed_ips};
use crate::members::PublicKey;

/// The MTU of a member's interface: with it packets pass wherever IPv6 does, on the smallest paths too.
pub const MTU: u16 = 1280;

/// How often a mapping in a NAT is refreshed, in seconds.
const KEEPALIVE: u16 = 25;

/// Which way a relayed host's traffic takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ViaRelay {
    /// All of it over the relay, in both directions.
    #[default]
    Always,
    /// Public peers are reached directly.
    Needed,
}

/// A WireGuard configuration but for the private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The interface's addresses, each with its network's prefix length.
    pub addresses: Vec<IpNet>,
    /// The port to listen at, if the member has a static endpoint or is a relay.
    pub listen_port: Option<u16>,
    /// The interface's MTU.
    pub mtu: u16,
    /// The peers, by name.
    pub peers: Vec<Peer>,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The member's name.
    pub name: Name,
    /// Its key.
    pub public_key: PublicKey,
    /// Where to send to at first; `None` if it has to come to us.
    pub endpoint: Option<SocketAddr>,
    /// Its addresses and routes.
    pub allowed_ips: Vec<IpNet>,
    /// Keepalive interval in seconds.
    pub keepalive: Option<u16>,
}

impl State {
    /// The configuration of a member that is no relay's interface: wgrelay keeps that one itself ([`Part`](super::Part)).
    ///
    /// All relays of its networks are among the peers. Its own, if it has one, has a keepalive, and all other members are
    /// reached at that same address: a single mapping in the host's NAT serves them all. Members whose keys are not
    /// proven yet are left out.
    pub fn configuration(&self, member: &str, via: ViaRelay) -> Result<Configuration, Refusal> {
        let own = self.existing_by(member)?;
        let mut others: BTreeMap<&Name, &Member> = BTreeMap::new();
        for place in &own.networks {
            others.extend(self.members_of(place.network.as_str()).map(|member| (&member.name, &**member)));
        }
        others.remove(&own.name);
        let home = self.home(own);
        let peers =
            others.into_values().filter(|other| other.active || self.relay(other.name.as_str()).is_some());
        let port = self.relay(member).map(|relay| relay.port);
        Ok(Configuration {
            addresses: self.interface_addresses(own),
            listen_port: port.or(own.endpoints.first().map(SocketAddr::port)),
            mtu: MTU,
            peers: peers.map(|other| self.peer(own, home, other, via)).collect(),
        })
    }

    /// The one endpoint of its relay that a relayed member uses.
    pub fn home(&self, member: &Member) -> Option<SocketAddr> {
        let relayed = member.relayed.as_ref()?;
        let relay = self.relay(relayed.by.as_str())?;
        let promised = relayed.address.filter(|address| relay.addresses.contains(address));
        Some(SocketAddr::new(promised.unwrap_or(*relay.addresses.first()?), relay.port))
    }

    fn peer(&self, own: &Member, home: Option<SocketAddr>, other: &Member, via: ViaRelay) -> Peer {
        let relay = self.relay(other.name.as_str());
        let (endpoint, keepalive) = if let Some(relay) = relay {
            // Its own relay is met at the promised address. A host without a relay keeps itself known to all of them:
            // that is also how its key is proven.
            let is_home = own.relayed.as_ref().is_some_and(|relayed| relayed.by == relay.name);
            let endpoint = if is_home { home } else { reachable(own, relay.endpoints()) };
            (endpoint, is_home || own.relayed.is_none())
        } else if let Some(home) = home {
            let direct = reachable(own, other.endpoints.iter().copied());
            match direct.filter(|_| via == ViaRelay::Needed && other.relayed.is_none()) {
                // The other side answers to where this comes from, so this mapping must stay.
                Some(direct) => (Some(direct), true),
                None => (Some(home), false),
            }
        } else {
            let by = other.relayed.as_ref().and_then(|relayed| self.relay(relayed.by.as_str()));
            match by {
                Some(relay) => (reachable(own, relay.endpoints()), own.endpoints.is_empty()),
                None => {
                    let endpoint = reachable(own, other.endpoints.iter().copied());
                    (endpoint, own.endpoints.is_empty() && endpoint.is_some())
                }
            }
        };
        Peer {
            name: other.name.clone(),
            public_key: other.public_key,
            endpoint,
            allowed_ips: allowed_ips(own, other),
            keepalive: keepalive.then_some(KEEPALIVE),
        }
    }

    fn interface_addresses(&self, own: &Member) -> Vec<IpNet> {
        let mut addresses = Vec::new();
        for place in &own.networks {
            let Some(network) = self.network(place.network.as_str()) else { continue };
            for address in place.addresses() {
                let prefix = network.prefixes().find(|prefix| prefix.contains(&address));
                let length = prefix.unwrap_or(IpNet::from(address)).prefix_len();
                addresses.push(IpNet::new(address, length).expect("the length is that of its family"));
            }
        }
        addresses
    }

    fn existing_by(&self, name: &str) -> Result<&Member, Refusal> {
        match self.member(name) {
            Some(member) => Ok(member),
            None => Err(Refusal::NotFound(Key::Member(name.parse()?))),
        }
    }
}

/// The first of some endpoints that a member can reach: one of a family that it has itself, as far as that is known.
fn reachable(own: &Member, endpoints: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let mut endpoints: Vec<SocketAddr> = endpoints.collect();
    let has = |endpoint: &SocketAddr| own.endpoints.iter().any(|own| own.is_ipv4() == endpoint.is_ipv4());
    endpoints.sort_by_key(|endpoint| !has(endpoint));
    endpoints.first().copied()
}

impl Configuration {
    /// The text that wg-quick reads. Without a private key it has a line that says where to put it.
    pub fn wg_quick(&self, private_key: Option<&str>) -> impl fmt::Display {
        WgQuick { configuration: self, private_key: private_key.map(str::to_owned) }
    }
}

struct WgQuick<'a> {
    configuration: &'a Configuration,
    private_key: Option<String>,
}

impl fmt::Display for WgQuick<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Configuration { addresses, listen_port, mtu, peers } = self.configuration;
        writeln!(f, "[Interface]")?;
        match &self.private_key {
            Some(key) => writeln!(f, "PrivateKey = {key}")?,
            None => writeln!(f, "# Put the host's private key here:\n# PrivateKey = ")?,
        }
        writeln!(f, "Address = {}", list(addresses))?;
        if let Some(port) = listen_port {
            writeln!(f, "ListenPort = {port}")?;
        }
        writeln!(f, "MTU = {mtu}")?;
        for peer in peers {
            writeln!(f, "\n# {}\n[Peer]\nPublicKey = {}", peer.name, peer.public_key)?;
            writeln!(f, "AllowedIPs = {}", list(&peer.allowed_ips))?;
            if let Some(endpoint) = peer.endpoint {
                writeln!(f, "Endpoint = {endpoint}")?;
            }
            if let Some(keepalive) = peer.keepalive {
                writeln!(f, "PersistentKeepalive = {keepalive}")?;
            }
        }
        Ok(())
    }
}

fn list(nets: &[IpNet]) -> String {
    nets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")
}
