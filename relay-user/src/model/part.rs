//! What one relay needs to know of the whole.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use ipnet::IpNet;

use super::{Kept, Key, Member, Name, Relay, State};
use crate::members::{
    self, Desired, Members, MembersError, OtherRelay, Peer, Peers, Place, Policy, PublicKey,
};

/// One relay's part of the state, kept in step with it: everybody who shares a network with the relay.
///
/// Members whose keys are not proven yet are peers of the relay's interface, which is how they are proven, and nothing
/// more.
#[derive(Clone, Debug)]
pub struct Part {
    relay_key: PublicKey,
    policy: Policy,
    state: State,
    desired: Desired,
}

impl Part {
    /// The part of the relay with this public key. It is empty as long as there is no such relay.
    pub fn new(relay_key: PublicKey, policy: Policy, state: &State) -> Result<Self, MembersError> {
        let desired = whole(relay_key, policy, state)?;
        Ok(Self { relay_key, policy, state: state.clone(), desired })
    }

    /// What the relay's tables and interface are to hold.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The relay's name, if the state knows a relay with its key.
    pub fn name(&self) -> Option<&Name> {
        own(&self.state, self.relay_key).map(|own| &own.name)
    }

    /// Follows the state, at a cost that goes with what is different. An error changes nothing.
    pub fn follow(&mut self, state: &State) -> Result<(), MembersError> {
        let (before, after) = (own(&self.state, self.relay_key), own(state, self.relay_key));
        let desired = match (before, after) {
            (Some(before), Some(after))
                if (&before.name, &before.networks) == (&after.name, &after.networks) =>
            {
                self.changed(after, state)?
            }
            (None, None) => self.desired.clone(),
            _ => whole(self.relay_key, self.policy, state)?,
        };
        self.desired = desired;
        self.state = state.clone();
        Ok(())
    }

    fn changed(&self, own: &Member, state: &State) -> Result<Desired, MembersError> {
        let changes = state.changes_since(&self.state).into_iter().filter_map(|key| match key {
            Key::Member(name) | Key::Relay(name) => Some(name),
            Key::EnrolmentKey(_) | Key::Network(_) | Key::Token(_) | Key::TurnUser(_) => None,
        });
        let names: BTreeSet<Name> = changes.filter(|name| *name != own.name).collect();
        if names.is_empty() {
            return Ok(self.desired.clone());
        }
        let (mut members, mut peers) = (Members::clone(&self.desired.members), self.desired.peers.clone());
        for name in &names {
            members.remove_relay(name.as_str());
            if let Some(was) = self.state.member(name.as_str()) {
                // Its place may be another's by now, but nobody has been added yet.
                members.remove(was.public_key.id());
                peers.remove(&was.public_key);
            }
        }
        let now = names.iter().filter_map(|name| state.member(name.as_str()));
        add(own, state, now, &mut members, &mut peers)?;
        Ok(Desired { members: Arc::new(members), peers })
    }
}

/// The member that is the relay with this key, if it is one.
fn own(state: &State, relay_key: PublicKey) -> Option<&Kept<Member>> {
    state.by_public_key(relay_key).filter(|member| state.relay(member.name.as_str()).is_some())
}

fn whole(relay_key: PublicKey, policy: Policy, state: &State) -> Result<Desired, MembersError> {
    let mut members = Members::new(relay_key, policy, [], [])?;
    let mut peers = Peers::new();
    if let Some(own) = own(state, relay_key) {
        let of_network = |place: &super::Membership| state.members_of(place.network.as_str());
        if let [place] = &own.networks[..] {
            add(own, state, of_network(place), &mut members, &mut peers)?;
        } else {
            let names: BTreeSet<&Name> = own.networks.iter().flat_map(of_network).map(|m| &m.name).collect();
            let all = names.into_iter().filter_map(|name| state.member(name.as_str()));
            add(own, state, all, &mut members, &mut peers)?;
        }
    }
    Ok(Desired { members: Arc::new(members), peers })
}

/// Adds those of `all` that `own` has to do with.
fn add<'a>(
    own: &Member,
    state: &State,
    all: impl Iterator<Item = &'a Kept<Member>>,
    members: &mut Members,
    peers: &mut Peers,
) -> Result<(), MembersError> {
    let shares = |member: &&Kept<Member>| {
        member.name != own.name && member.networks.iter().any(|at| own.membership(&at.network).is_some())
    };
    let all: Vec<_> = all.filter(shares).map(|member| (member, state.relay(member.name.as_str()))).collect();
    // Hosts name their relays.
    for relay in all.iter().filter_map(|(_, relay)| *relay) {
        members.add_relay(other_relay(relay))?;
    }
    for (member, relay) in all {
        let endpoint = relay.and_then(|relay| relay.endpoints().next());
        peers.insert(member.public_key, Peer { allowed_ips: allowed_ips(own, member), endpoint });
        if relay.is_none() && member.active {
            members.add(seen(own, member))?;
        }
    }
    Ok(())
}

/// A member as a relay sees it.
fn seen(own: &Member, member: &Member) -> members::Member {
    members::Member {
        name: member.name.shared(),
        public_key: member.public_key,
        networks: member.networks.iter().map(|place| place.network.shared()).collect(),
        place: match &member.relayed {
            Some(relayed) if relayed.by == own.name => Place::Relayed,
            Some(relayed) => Place::RelayedBy(relayed.by.shared()),
            None => Place::Static(member.endpoints.clone()),
        },
        rate_limit: member.rate_limit,
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
    OtherRelay { name: relay.name.shared(), endpoints }
}
