//! Members: what each must be, whoever makes or changes it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Plan, STEP, addresses};
use crate::{
    members::{MemberId, PublicKey, RateLimit, unusable},
    model::{
        Command, Key, Member, MemberChange, Membership, Name, NewMember, Op, Record, Refusal, State,
        state::Use,
    },
};

/// How many networks a member may be in: a relay may serve many.
const NETWORKS: usize = 1_024;
/// How many routes in a network, and tags, a member may have.
const MANY: usize = 64;

impl State {
    pub(super) fn create_member(&self, new: &NewMember) -> Result<Vec<Op>, Refusal> {
        self.absent(Key::Member(new.name.clone()))?;
        let member = self.settle(Member {
            name: new.name.clone(),
            public_key: new.public_key,
            active: false,
            networks: new.networks.clone(),
            endpoints: new.endpoints.clone(),
            relayed: None,
            rate_limit: Some(new.rate_limit),
            tags: new.tags.clone(),
            owner: new.owner,
            enrolled: None,
        })?;
        Ok(vec![Op::Put(Record::Member(member))])
    }

    pub(super) fn change_member(&self, name: &Name, change: &MemberChange) -> Result<Vec<Op>, Refusal> {
        let old = self.existing_member(name)?;
        let mut new = old.clone();
        if let Some(networks) = &change.networks {
            new.networks.clone_from(networks);
            for place in &mut new.networks {
                if let Some(before) = old.membership(&place.network) {
                    place.ipv4 = place.ipv4.or(before.ipv4);
                    place.ipv6 = place.ipv6.or(before.ipv6);
                }
            }
            for gone in old.networks.iter().filter(|place| new.membership(&place.network).is_none()) {
                self.no_hosts_in(name, &gone.network)?;
            }
        }
        if let Some(endpoints) = &change.endpoints {
            new.endpoints.clone_from(endpoints);
        }
        new.rate_limit = change.rate_limit.or(new.rate_limit);
        if let Some(tags) = &change.tags {
            new.tags.clone_from(tags);
        }
        new.owner = change.owner.or(new.owner);
        let new = self.settle(new)?;
        Ok(if new == *old { Vec::new() } else { vec![Op::Put(Record::Member(new))] })
    }

    pub(super) fn delete_member(&self, name: &Name) -> Result<Vec<Op>, Refusal> {
        let delete = self.deletion(Key::Member(name.clone()))?;
        if self.relays.contains_key(name) {
            return Err(Refusal::MemberIsRelay(name.clone()));
        }
        Ok(vec![delete])
    }

    pub(super) fn activate(&self, keys: &[PublicKey], limit: usize) -> Plan {
        let mut plan = Plan::default();
        for (n, &key) in keys.iter().enumerate() {
            if plan.ops.len() >= limit {
                plan.rest = Some(Command::Activate(keys[n..].to_vec()));
                break;
            }
            if let Some(member) = self.by_public_key(key).filter(|member| !member.active) {
                plan.ops.push(Op::Put(Record::Member(Member { active: true, ..(*member.record).clone() })));
            }
        }
        plan
    }

    pub(super) fn existing_member(&self, name: &Name) -> Result<&Member, Refusal> {
        self.members.get(name).map(|kept| &**kept).ok_or_else(|| Refusal::NotFound(Key::Member(name.clone())))
    }

    /// Checks a member as it shall be, against all others, and gives it the addresses that it lacks.
    pub(super) fn settle(&self, mut member: Member) -> Result<Member, Refusal> {
        self.check_public_key(&member)?;
        member.tags = tags(member.tags)?;
        member.rate_limit = member.rate_limit.and_then(RateLimit::if_any);
        if member.networks.is_empty() {
            return Err(Refusal::NoNetwork(member.name));
        }
        few("networks", member.networks.len(), NETWORKS)?;
        member.networks.sort_by(|a, b| a.network.cmp(&b.network));
        if let Some(twice) = member.networks.windows(2).find(|pair| pair[0].network == pair[1].network) {
            return Err(Refusal::NetworkTwice(member.name, twice[0].network.clone()));
        }
        let name = member.name.clone();
        for place in &mut member.networks {
            self.settle_in(&name, place)?;
        }
        self.check_overlaps(&member)?;
        self.check_endpoints(&member)?;
        if let Some(relayed) = &member.relayed {
            let relay = self.existing_relay(&relayed.by)?;
            self.check_relayed(&member, relay, self.existing_member(&relay.name)?)?;
        }
        Ok(member)
    }

    fn check_public_key(&self, member: &Member) -> Result<(), Refusal> {
        let id = member.public_key.id();
        if id == MemberId(0) {
            return Err(Refusal::BadPublicKey(member.name.clone()));
        }
        match self.by_key.get(&id) {
            Some(other) if *other != member.name => Err(if self.by_public_key(member.public_key).is_some() {
                Refusal::PublicKeyTaken(other.clone())
            } else {
                Refusal::PublicKeyCollision(other.clone())
            }),
            _ => Ok(()),
        }
    }

    fn settle_in(&self, name: &Name, place: &mut Membership) -> Result<(), Refusal> {
        let Some(network) = self.networks.get(&place.network) else {
            return Err(Refusal::NotFound(Key::Network(place.network.clone())));
        };
        let uses = self.uses.get(&place.network).cloned().unwrap_or_default();
        let wished = [place.ipv4.map(IpAddr::V4), place.ipv6.map(IpAddr::V6)];
        let prefixes = [network.ipv4.map(IpNet::V4), network.ipv6.map(IpNet::V6)];
        for (wished, prefix) in wished.into_iter().zip(prefixes) {
            let address = match (wished, prefix) {
                (None, None) => continue,
                (Some(wished), None) => return Err(Refusal::AddressOutside(wished, network.name.clone())),
                (Some(wished), Some(prefix)) => check_wished(&uses, prefix, wished, name, &network.name)?,
                (None, Some(prefix)) => {
                    uses.free(prefix).ok_or_else(|| Refusal::NetworkFull(network.name.clone()))?
                }
            };
            match address {
                IpAddr::V4(ip) => place.ipv4 = Some(ip),
                IpAddr::V6(ip) => place.ipv6 = Some(ip),
            }
        }
        few("routes", place.routes.len(), MANY)?;
        place.routes.sort();
        place.routes.dedup();
        for &route in &place.routes {
            if route != route.trunc() {
                return Err(Refusal::BadPrefix(route, route.trunc()));
            }
            if network.prefixes().any(|prefix| prefix.contains(&route)) {
                return Err(Refusal::BadRoute(route, network.name.clone()));
            }
            if let Some(other) = uses.routes.get(&route).filter(|other| *other != name) {
                return Err(Refusal::RouteTaken(route, other.clone()));
            }
        }
        Ok(())
    }

    /// A host can't tell two networks apart whose prefixes overlap.
    pub(super) fn check_overlaps(&self, member: &Member) -> Result<(), Refusal> {
        let prefixes: Vec<(&Name, IpNet)> = member
            .networks
            .iter()
            .filter_map(|place| self.networks.get(&place.network))
            .flat_map(|network| network.prefixes().map(|prefix| (&network.name, prefix)))
            .collect();
        for (n, &(a, first)) in prefixes.iter().enumerate() {
            for &(b, second) in &prefixes[n + 1..] {
                if first.contains(&second) || second.contains(&first) {
                    return Err(Refusal::NetworksOverlap(member.name.clone(), a.clone(), b.clone()));
                }
            }
        }
        Ok(())
    }

    fn check_endpoints(&self, member: &Member) -> Result<(), Refusal> {
        let of_family = |v4| member.endpoints.iter().filter(|endpoint| endpoint.is_ipv4() == v4).count();
        if of_family(true) > 1 || of_family(false) > 1 {
            return Err(Refusal::TwoEndpoints(member.name.clone()));
        }
        member.endpoints.iter().try_for_each(|&endpoint| self.check_endpoint(endpoint, &member.name))
    }

    /// Whether an endpoint can be `name`'s.
    pub(super) fn check_endpoint(&self, endpoint: SocketAddr, name: &Name) -> Result<(), Refusal> {
        if let Some(why) = unusable(endpoint) {
            return Err(Refusal::BadEndpoint(endpoint, why));
        }
        let owners = [self.endpoints.get(&endpoint), self.relay_endpoints.get(&endpoint)];
        match owners.into_iter().flatten().find(|other| *other != name) {
            Some(other) => Err(Refusal::EndpointTaken(endpoint, other.clone())),
            None => Ok(()),
        }
    }
}

fn check_wished(
    uses: &Use,
    prefix: IpNet,
    wished: IpAddr,
    name: &Name,
    network: &Name,
) -> Result<IpAddr, Refusal> {
    if !prefix.contains(&wished) {
        return Err(Refusal::AddressOutside(wished, network.clone()));
    }
    if !addresses::is_host(prefix, wished) {
        return Err(Refusal::AddressReserved(wished, network.clone()));
    }
    match uses.addresses.get(&wished) {
        Some(other) if other != name => Err(Refusal::AddressTaken(wished, other.clone())),
        _ => Ok(wished),
    }
}

/// Tags, in order.
pub(super) fn tags(mut tags: Vec<Name>) -> Result<Vec<Name>, Refusal> {
    tags.sort();
    tags.dedup();
    few("tags", tags.len(), MANY)?;
    Ok(tags)
}

fn few(what: &'static str, number: usize, most: usize) -> Result<(), Refusal> {
    if number > most { Err(Refusal::TooMany(what, most)) } else { Ok(()) }
}

/// The names of hosts, each once and not too many for one step.
pub(super) fn named(names: &[Name]) -> Result<std::collections::BTreeSet<&Name>, Refusal> {
    let names: std::collections::BTreeSet<_> = names.iter().collect();
    if names.len() > STEP { Err(Refusal::TooMany("hosts", STEP)) } else { Ok(names) }
}
