//! What one relay needs to know of the whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use ipnet::IpNet;

use super::{Member, Name, Relay, State};
use crate::members::{self, Members, MembersError, OtherRelay, Place, Policy, PublicKey};

/// One relay's part: everybody who shares a network with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The other relays.
    pub relays: Vec<OtherRelay>,
    /// The members whose keys are proven, with their places as this relay sees them.
    pub members: Vec<members::Member>,
    /// The peers of the relay's own WireGuard interface.
    pub peers: Vec<InterfacePeer>,
}

impl Part {
    /// The desired state of the relay's tables. `relay_key` is the relay's own public key.
    pub fn members(self, relay_key: PublicKey, policy: Policy) -> Result<Members, MembersError> {
        Members::new(relay_key, policy, self.relays, self.members)
    }
}

/// A peer of a relay's own WireGuard interface. Keys that are not proven yet are peers too: that is how they are proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfacePeer {
    /// Its key.
    pub public_key: PublicKey,
    /// Its addresses and routes in the networks that it shares with the relay.
    pub allowed_ips: Vec<IpNet>,
    /// Where it is, if it is another relay. All others are learned.
    pub endpoint: Option<SocketAddr>,
}

/// One member, as one relay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// In the relay's tables, if it belongs there.
    pub member: Option<members::Member>,
    /// At the relay's interface.
    pub peer: InterfacePeer,
}

impl State {
    /// A relay's part as a whole; `None` if there is no such relay.
    ///
    /// A change of the relay or of its member changes all of it. After a change of another member ask
    /// [`seen_from`](Self::seen_from) for that one alone.
    pub fn part(&self, relay: &str) -> Option<Part> {
        let own = self.member(relay)?;
        self.relay(relay)?;
        let mut names: BTreeMap<&Name, &Member> = BTreeMap::new();
        for place in &own.networks {
            names.extend(self.members_of(place.network.as_str()).map(|member| (&member.name, &**member)));
        }
        names.remove(&own.name);
        let mut part = Part::default();
        part.members.reserve(names.len());
        part.peers.reserve(names.len());
        for (name, member) in names {
            if let Some(other) = self.relay(name.as_str()) {
                part.relays.push(other_relay(other));
            }
            let seen = self.seen(own, member);
            part.members.extend(seen.member);
            part.peers.push(seen.peer);
        }
        Some(part)
    }

    /// One member as a relay sees it; `None` if they share no network, or one of the two is not there.
    pub fn seen_from(&self, relay: &str, member: &str) -> Option<Seen> {
        let (own, member) = (self.member(relay)?, self.member(member)?);
        let shared = member.networks.iter().any(|place| own.membership(&place.network).is_some());
        (shared && own.name != member.name).then(|| self.seen(own, member))
    }

    fn seen(&self, own: &Member, member: &Member) -> Seen {
        let relay = self.relay(member.name.as_str());
        let place = match &member.relayed {
            Some(relayed) if relayed.by == own.name => Place::Relayed,
            Some(relayed) => Place::RelayedBy(relayed.by.as_str().to_owned()),
            None => Place::Static(member.endpoints.clone()),
        };
        let networks: BTreeSet<String> =
            member.networks.iter().map(|place| place.network.as_str().to_owned()).collect();
        let seen = members::Member {
            name: member.name.as_str().to_owned(),
            public_key: member.public_key,
            networks,
            place,
            rate_limit: None,
        };
        Seen {
            member: (relay.is_none() && member.active).then_some(seen),
            peer: InterfacePeer {
                public_key: member.public_key,
                allowed_ips: allowed_ips(own, member),
                endpoint: relay.and_then(|relay| relay.endpoints().next()),
            },
        }
    }
}

/// What `own` may reach through `other`: its addresses and routes in the networks that they share.
pub(super) fn allowed_ips(own: &Member, other: &Member) -> Vec<IpNet> {
    let shared = other.networks.iter().filter(|place| own.membership(&place.network).is_some());
    shared.flat_map(|place| place.addresses().map(IpNet::from).chain(place.routes.iter().copied())).collect()
}

/// A relay as other relays know it: by its first address of each family.
fn other_relay(relay: &Relay) -> OtherRelay {
    let mut endpoints: Vec<SocketAddr> = Vec::with_capacity(2);
    for endpoint in relay.endpoints() {
        if endpoints.iter().all(|earlier| earlier.is_ipv4() != endpoint.is_ipv4()) {
            endpoints.push(endpoint);
        }
    }
    OtherRelay { name: relay.name.as_str().to_owned(), endpoints }
}
