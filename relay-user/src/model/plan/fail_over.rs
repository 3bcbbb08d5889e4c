//! Hosts whose relay is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::Plan;
use crate::model::{Command, Member, Name, Op, Record, Relay, Relayed, State};

impl State {
    /// Moves hosts to other relays: each to one that is alive and in all its networks, and of several to the one with the
    /// fewest hosts. Nothing here is refused: what can't be moved stays.
    pub(super) fn fail_over(
        &self,
        from: &Name,
        hosts: &[Name],
        alive: &BTreeSet<Name>,
        limit: usize,
    ) -> Plan {
        let others = alive.iter().filter(|other| *other != from);
        let others: Vec<(&Relay, &Member)> = others
            .filter_map(|other| Some((self.existing_relay(other).ok()?, self.existing_member(other).ok()?)))
            .collect();
        let mut load: BTreeMap<&Name, usize> =
            others.iter().map(|(relay, _)| (&relay.name, self.hosts(relay.name.as_str()).len())).collect();
        let mut plan = Plan::default();
        for (n, name) in hosts.iter().enumerate() {
            if plan.ops.len() >= limit {
                let (from, alive) = (from.clone(), alive.clone());
                plan.rest = Some(Command::FailOver { from, hosts: hosts[n..].to_vec(), alive });
                break;
            }
            let host = self.members.get(name).map(|kept| &**kept);
            let Some(host) = host.filter(|host| host.relayed.as_ref().is_some_and(|by| by.by == *from))
            else {
                continue;
            };
            let fits =
                others.iter().filter(|(relay, member)| self.check_relayed(host, relay, member).is_ok());
            let Some((relay, _)) = fits.min_by_key(|(relay, _)| (load[&relay.name], &relay.name)) else {
                continue;
            };
            *load.entry(&relay.name).or_default() += 1;
            let relayed = Some(Relayed { by: relay.name.clone(), address: None });
            plan.ops.push(Op::Put(Record::Member(Member { relayed, ..host.clone() })));
        }
        plan
    }
}
