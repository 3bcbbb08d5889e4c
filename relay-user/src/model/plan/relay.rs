//! Relays and the hosts that they relay.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::{Plan, member::named};
use crate::model::{
    Command, EnrolmentKey, Hosts, Key, Member, Name, NewRelay, Op, Record, Refusal, Relay, Relayed, State,
};

impl State {
    pub(super) fn create_relay(&self, new: &NewRelay, limit: usize) -> Result<Plan, Refusal> {
        let mut relay = new.relay.clone();
        self.absent(Key::Relay(relay.name.clone()))?;
        let member = self.existing_member(&relay.name)?;
        if let Some(relayed) = &member.relayed {
            return Err(Refusal::RelayedRelay(relay.name, relayed.by.clone()));
        }
        if relay.addresses.is_empty() {
            relay.addresses = member.endpoints.iter().map(SocketAddr::ip).collect();
            let mut ports =
                member.endpoints.iter().map(SocketAddr::port).chain((relay.port != 0).then_some(relay.port));
            relay.port = ports.next().unwrap_or_default();
            if ports.any(|port| port != relay.port) {
                return Err(Refusal::RelayPort(relay.name));
            }
        }
        self.check_relay(&relay)?;
        let mut plan = Plan::from(vec![Op::Put(Record::Relay(relay.clone()))]);
        let hosts = self.relay_to(&relay, member, &new.hosts, None, limit.saturating_sub(1))?;
        plan.ops.extend(hosts.ops);
        plan.rest = hosts.rest;
        Ok(plan)
    }

    pub(super) fn change_relay(&self, relay: &Relay) -> Result<Vec<Op>, Refusal> {
        let old = self.existing_relay(&relay.name)?;
        self.check_relay(relay)?;
        Ok(if relay == old { Vec::new() } else { vec![Op::Put(Record::Relay(relay.clone()))] })
    }

    pub(super) fn delete_relay(
        &self,
        name: &Name,
        move_to: Option<&Name>,
        limit: usize,
    ) -> Result<Plan, Refusal> {
        let delete = self.deletion(Key::Relay(name.clone()))?;
        let other = match move_to {
            Some(other) if other == name => return Err(Refusal::RelayItself(name.clone())),
            Some(other) => Some((self.existing_relay(other)?, self.existing_member(other)?)),
            None => None,
        };
        let mut plan = Plan::default();
        for host in self.hosts(name.as_str()) {
            let mut host = self.existing_member(host)?.clone();
            host.relayed = None;
            if let Some((relay, member)) = other {
                host.relayed = Some(Relayed { by: relay.name.clone(), address: None });
                self.check_relayed(&host, relay, member)?;
            }
            if plan.ops.len() < limit {
                plan.ops.push(Op::Put(Record::Member(host)));
            } else {
                plan.rest = Some(Command::DeleteRelay { name: name.clone(), move_to: move_to.cloned() });
            }
        }
        for key in self.keys().filter(|key| key.relay.as_ref() == Some(name)) {
            if let Some((relay, member)) = other
                && member.membership(&key.network).is_none()
            {
                let (key, network) = (key.id.clone(), key.network.clone());
                return Err(Refusal::RelayNotInNetwork(key, relay.name.clone(), network));
            }
            if plan.rest.is_none() {
                let key = EnrolmentKey { relay: move_to.cloned(), ..(*key.record).clone() };
                plan.ops.push(Op::Put(Record::EnrolmentKey(key)));
            }
        }
        if plan.rest.is_none() {
            plan.ops.push(delete);
        }
        Ok(plan)
    }

    pub(super) fn relay_hosts(
        &self,
        relay: &Name,
        hosts: &Hosts,
        address: Option<IpAddr>,
        limit: usize,
    ) -> Result<Plan, Refusal> {
        self.relay_to(self.existing_relay(relay)?, self.existing_member(relay)?, hosts, address, limit)
    }

    /// Has hosts relayed by a relay that may still be to be made.
    fn relay_to(
        &self,
        relay: &Relay,
        member: &Member,
        hosts: &Hosts,
        address: Option<IpAddr>,
        limit: usize,
    ) -> Result<Plan, Refusal> {
        if let Some(address) = address.filter(|address| !relay.addresses.contains(address)) {
            return Err(Refusal::UnknownRelayAddress(address, relay.name.clone()));
        }
        let relayed = |host: &Member| Member {
            relayed: Some(Relayed { by: relay.name.clone(), address }),
            ..host.clone()
        };
        let mut plan = Plan::default();
        match hosts {
            Hosts::Named(names) => {
                for name in named(names)? {
                    let old = self.existing_member(name)?;
                    self.check_relayed(old, relay, member)?;
                    let new = relayed(old);
                    if new != *old {
                        plan.ops.push(Op::Put(Record::Member(new)));
                    }
                }
            }
            Hosts::All => {
                let networks = member.networks.iter().map(|place| place.network.as_str());
                let all = networks.flat_map(|network| self.members_of(network));
                let mut seen = BTreeSet::new();
                for host in all.filter(|host| host.relayed.is_none()) {
                    if self.check_relayed(host, relay, member).is_err() || !seen.insert(&host.name) {
                        continue;
                    }
                    if plan.ops.len() >= limit {
                        let (relay, hosts) = (relay.name.clone(), Hosts::All);
                        plan.rest = Some(Command::RelayHosts { relay, hosts, address });
                        break;
                    }
                    plan.ops.push(Op::Put(Record::Member(relayed(host))));
                }
            }
        }
        Ok(plan)
    }

    pub(super) fn release_hosts(&self, relay: &Name, hosts: &Hosts, limit: usize) -> Result<Plan, Refusal> {
        self.existing_relay(relay)?;
        let release = |name: &Name| -> Result<Op, Refusal> {
            let host = self.existing_member(name)?;
            if host.relayed.as_ref().is_none_or(|relayed| relayed.by != *relay) {
                return Err(Refusal::NotRelayedHere(name.clone(), relay.clone()));
            }
            Ok(Op::Put(Record::Member(Member { relayed: None, ..host.clone() })))
        };
        let mut plan = Plan::default();
        match hosts {
            Hosts::Named(names) => {
                plan.ops = named(names)?.into_iter().map(release).collect::<Result<_, _>>()?;
            }
            Hosts::All => {
                let all = self.hosts(relay.as_str());
                if all.len() > limit {
                    plan.rest = Some(Command::ReleaseHosts { relay: relay.clone(), hosts: Hosts::All });
                }
                plan.ops = all.take(limit).map(release).collect::<Result<_, _>>()?;
            }
        }
        Ok(plan)
    }

    pub(super) fn existing_relay(&self, name: &Name) -> Result<&Relay, Refusal> {
        self.relays.get(name).map(|kept| &**kept).ok_or_else(|| Refusal::NotFound(Key::Relay(name.clone())))
    }

    fn check_relay(&self, relay: &Relay) -> Result<(), Refusal> {
        if relay.addresses.is_empty() || relay.port == 0 {
            return Err(Refusal::RelayNotPublic(relay.name.clone()));
        }
        for (n, &address) in relay.addresses.iter().enumerate() {
            if relay.addresses[..n].contains(&address) {
                return Err(Refusal::RelayAddressTwice(address));
            }
            self.check_endpoint(SocketAddr::new(address, relay.port), &relay.name)?;
            if !relay.private && is_private(address) {
                return Err(Refusal::RelayPrivate(address));
            }
        }
        Ok(())
    }

    /// Whether a host can be relayed by a relay, whose member is given too.
    pub(super) fn check_relayed(&self, host: &Member, relay: &Relay, member: &Member) -> Result<(), Refusal> {
        if host.name == relay.name {
            return Err(Refusal::RelayItself(host.name.clone()));
        }
        if self.relays.contains_key(&host.name) {
            return Err(Refusal::RelayRelayed(host.name.clone()));
        }
        match host.networks.iter().find(|place| member.membership(&place.network).is_none()) {
            Some(place) => {
                let (host, relay) = (host.name.clone(), relay.name.clone());
                Err(Refusal::RelayNotInNetwork(host, relay, place.network.clone()))
            }
            None => Ok(()),
        }
    }

    /// A relay can't leave a network of its hosts.
    pub(super) fn no_hosts_in(&self, relay: &Name, network: &Name) -> Result<(), Refusal> {
        let hosts = self.hosts(relay.as_str()).filter_map(|host| self.members.get(host));
        match hosts.into_iter().find(|host| host.membership(network).is_some()) {
            Some(host) => Err(Refusal::RelayNotInNetwork(host.name.clone(), relay.clone(), network.clone())),
            None => Ok(()),
        }
    }
}

/// Whether hosts elsewhere can't reach this address.
fn is_private(address: IpAddr) -> bool {
    match address {
        // 100.64.0.0/10 is that of carrier-grade NATs.
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}
