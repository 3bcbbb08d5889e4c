//! From a server's answers to the members: pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use serde::Serialize;

use super::{
    Relayed,
    answers::{Host, Node},
};
use crate::{
    config::Config,
    members::{Member, MemberId, Members, MembersError, OtherRelay, Place, Policy, PublicKey, unusable},
};

/// What the relay knows of itself.
#[derive(Clone, Debug)]
pub struct Us {
    /// The key of its own interface.
    pub relay_key: PublicKey,
    /// Whose handshakes are relayed.
    pub policy: Policy,
    /// The other relays; hosts that the server says to be at one of them are relayed by it.
    pub relays: Vec<OtherRelay>,
    /// Where others reach it.
    pub endpoints: Vec<SocketAddr>,
}

impl Us {
    /// As a configuration has it; an error says what is wrong there.
    pub fn of(config: &Config, relay_key: PublicKey) -> Result<Self, String> {
        let members = config.members(relay_key).map_err(|(_, reason)| reason)?;
        let relay = &config.relay;
        Ok(Self {
            relay_key,
            policy: members.policy(),
            relays: members.relays().cloned().collect(),
            endpoints: relay.addresses.iter().map(|&address| SocketAddr::new(address, relay.port)).collect(),
        })
    }
}

/// Why something of the answers is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is no host or node as any known version of the server describes it.
    #[error("what the server says of it can't be read")]
    Unreadable,
    /// A host or node without an id.
    #[error("it has no id")]
    NoId,
    /// A node of a host that is not listed.
    #[error("its host is not among the server's hosts")]
    NoHost,
    /// A client of a gateway.
    #[error("it is a client of a gateway, not a host")]
    NotAHost,
    /// A node that is about to go.
    #[error("it is being deleted")]
    Deleting,
    /// A node that does not take part.
    #[error("it is disconnected")]
    Disconnected,
    /// A host without a node that counts.
    #[error("it is in none of the networks")]
    NoNetwork,
    /// Not a WireGuard key.
    #[error("its public key is missing or none")]
    NoKey,
    /// The relay itself.
    #[error("it is this relay")]
    ThisRelay,
    /// Another host has the key, and was heard of later.
    #[error("another host has its public key")]
    SameKey,
    /// Another host's key begins with the same eight bytes, or they are all zero.
    #[error("the first 8 bytes of its public key are another's, or zero: give it a new key")]
    KeyCollision,
    /// The host is used, but not this endpoint.
    #[error("its endpoint can't be sent to")]
    BadEndpoint,
    /// The host is used, but not this endpoint: it is our own, and the host is not relayed.
    #[error("its endpoint is this relay's, though it is not relayed")]
    OurEndpoint,
    /// The hosts are used, but not this endpoint.
    #[error("another host has the same endpoint")]
    SharedEndpoint,
}

/// Something that is not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftOut {
    /// What, in words for people.
    pub what: String,
    /// Why.
    pub reason: Reason,
}

/// What the answers come to.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// The members.
    pub members: Members,
    /// The ids of the hosts that are relayed here.
    pub relayed: BTreeSet<String>,
    /// What is not used.
    pub left_out: Vec<LeftOut>,
}

/// A host that is used so far.
struct Candidate<'a> {
    host: &'a Host,
    key: PublicKey,
    networks: BTreeSet<String>,
    relayed: bool,
    checked_in: i64,
}

impl Mesh {
    /// Joins nodes to their hosts. Members are in those networks alone in which their host has a node.
    pub fn new(hosts: &[Host], nodes: &[Node], wanted: &Relayed, us: &Us) -> Result<Self, MembersError> {
        let mut left_out = Vec::new();
        let by_host = nodes_by_host(hosts, nodes, &mut left_out);
        let relays = relaying_nodes(hosts, &by_host, wanted);
        let candidates = candidates(hosts, &by_host, &relays, wanted, us.relay_key, &mut left_out);
        let relayed = candidates.iter().filter(|c| c.relayed).map(|c| c.host.id.clone()).collect();
        let places = places(&candidates, us, &mut left_out);
        let names = names(&candidates);
        let members = candidates.into_iter().zip(places).zip(names).map(|((candidate, place), name)| {
            let networks = candidate.networks.into_iter().map(Arc::from).collect();
            let rate_limit = wanted.rate_limit.if_any().filter(|_| candidate.relayed);
            Member { name: name.into(), public_key: candidate.key, networks, place, rate_limit }
        });
        let members = Members::new(us.relay_key, us.policy, us.relays.iter().cloned(), members)?;
        Ok(Self { members, relayed, left_out })
    }
}

impl LeftOut {
    /// A host's entry.
    fn host(host: &Host, reason: Reason) -> Self {
        let name = if host.name.is_empty() { &host.id } else { &host.name };
        Self { what: format!("host {name}"), reason }
    }
}

/// The nodes that count.
fn nodes_by_host<'a>(
    hosts: &[Host],
    nodes: &'a [Node],
    left_out: &mut Vec<LeftOut>,
) -> HashMap<&'a str, Vec<&'a Node>> {
    let listed: BTreeSet<&str> = hosts.iter().map(|host| host.id.as_str()).collect();
    let mut by_host: HashMap<&str, Vec<&Node>> = HashMap::new();
    for node in nodes {
        let reason = if node.is_static {
            Reason::NotAHost
        } else if node.id.is_empty() || node.hostid.is_empty() || node.network.is_empty() {
            Reason::NoId
        } else if node.pendingdelete {
            Reason::Deleting
        } else if node.connected == Some(false) {
            Reason::Disconnected
        } else if !listed.contains(node.hostid.as_str()) {
            Reason::NoHost
        } else {
            by_host.entry(&node.hostid).or_default().push(node);
            continue;
        };
        left_out.push(LeftOut { what: format!("node {} of network {}", node.id, node.network), reason });
    }
    by_host
}

/// The ids of the nodes that stand for this relay on the server.
fn relaying_nodes<'a>(
    hosts: &[Host],
    by_host: &HashMap<&str, Vec<&'a Node>>,
    wanted: &Relayed,
) -> BTreeSet<&'a str> {
    let own = hosts.iter().filter(|host| wanted.by.as_ref().is_some_and(|by| is(host, by)));
    let nodes = own.filter_map(|host| by_host.get(host.id.as_str())).flatten();
    nodes.map(|node| node.id.as_str()).collect()
}

/// The hosts that can be members, each once, by id.
fn candidates<'a>(
    hosts: &'a [Host],
    by_host: &HashMap<&str, Vec<&Node>>,
    relays: &BTreeSet<&str>,
    wanted: &Relayed,
    relay_key: PublicKey,
    left_out: &mut Vec<LeftOut>,
) -> Vec<Candidate<'a>> {
    let mut found = BTreeMap::new();
    for host in hosts {
        let nodes = by_host.get(host.id.as_str());
        let key = PublicKey::from_base64(&host.publickey);
        let reason = match (nodes, key) {
            _ if host.id.is_empty() => Reason::NoId,
            (_, Some(key)) if key == relay_key => Reason::ThisRelay,
            (None, _) => Reason::NoNetwork,
            (_, None) => Reason::NoKey,
            (_, Some(key)) if key.id() == MemberId(0) => Reason::KeyCollision,
            (Some(nodes), Some(key)) => {
                let candidate = Candidate {
                    host,
                    key,
                    networks: nodes.iter().map(|node| node.network.clone()).collect(),
                    relayed: wanted.hosts.iter().any(|wanted| is(host, wanted))
                        || nodes.iter().any(|node| {
                            relays.contains(node.relayedby.as_str())
                                || wanted.tags.iter().any(|tag| has(node, tag))
                        }),
                    checked_in: nodes.iter().map(|node| node.lastcheckin).max().unwrap_or_default(),
                };
                found.insert(&host.id, candidate);
                continue;
            }
        };
        left_out.push(LeftOut::host(host, reason));
    }
    // Of several hosts with one key the one counts that was heard of last.
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by_key(|candidate| std::cmp::Reverse(candidate.checked_in));
    let mut keys: HashMap<MemberId, PublicKey> = HashMap::new();
    found.retain(|candidate| {
        let Some(&other) = keys.get(&candidate.key.id()) else {
            keys.insert(candidate.key.id(), candidate.key);
            return true;
        };
        let reason = if other == candidate.key { Reason::SameKey } else { Reason::KeyCollision };
        left_out.push(LeftOut::host(candidate.host, reason));
        false
    });
    found.sort_by(|a, b| a.host.id.cmp(&b.host.id));
    found
}

/// Where each is to be found.
fn places(candidates: &[Candidate<'_>], us: &Us, left_out: &mut Vec<LeftOut>) -> Vec<Place> {
    let mut places = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        if candidate.relayed {
            places.push(Place::Relayed);
            continue;
        }
        let (addresses, port) = candidate.host.reached_at();
        let endpoints: Vec<_> =
            addresses.into_iter().filter_map(|address| Some(SocketAddr::new(address, port?))).collect();
        let at = |relay: &&OtherRelay| endpoints.iter().any(|endpoint| relay.endpoints.contains(endpoint));
        if let Some(relay) = us.relays.iter().find(at) {
            places.push(Place::RelayedBy(relay.name.clone()));
            continue;
        }
        let good = endpoints.into_iter().filter(|endpoint| {
            let reason = if unusable(*endpoint).is_some() {
                Reason::BadEndpoint
            } else if us.endpoints.contains(endpoint) {
                Reason::OurEndpoint
            } else {
                return true;
            };
            left_out.push(LeftOut::host(candidate.host, reason));
            false
        });
        places.push(Place::Static(good.collect()));
    }
    // Two hosts behind one address that say the same port: at least one of them is wrong, and nobody knows which.
    let mut claims: HashMap<SocketAddr, usize> = HashMap::new();
    for place in &places {
        let Place::Static(endpoints) = place else { continue };
        endpoints.iter().for_each(|endpoint| *claims.entry(*endpoint).or_default() += 1);
    }
    for (place, candidate) in places.iter_mut().zip(candidates) {
        let Place::Static(endpoints) = place else { continue };
        let before = endpoints.len();
        endpoints.retain(|endpoint| claims[endpoint] == 1);
        if endpoints.len() < before {
            left_out.push(LeftOut::host(candidate.host, Reason::SharedEndpoint));
        }
    }
    places
}

/// A name for each. The server's need not be unique: of several hosts with one name the first by id has it alone.
fn names(candidates: &[Candidate<'_>]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let unique = |host: &Host| {
        let mut name = if host.name.is_empty() { host.id.clone() } else { host.name.clone() };
        if taken.contains(&name) {
            name = format!("{name} {}", host.id);
        }
        // Somebody may have named a host like that.
        while !taken.insert(name.clone()) {
            name.push('\'');
        }
        name
    };
    candidates.iter().map(|candidate| candidate.host).map(unique).collect()
}

/// Whether that is how a host is called in our configuration.
fn is(host: &Host, name_or_id: &str) -> bool {
    host.id == name_or_id || host.name == name_or_id
}

/// Tags are kept as `NETWORK.NAME`; either way of writing one will do.
fn has(node: &Node, tag: &str) -> bool {
    let is_short_for = |full: &str| {
        full.strip_prefix(&node.network)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|name| name == tag)
    };
    node.tags.iter().any(|full| full == tag || is_short_for(full))
}
