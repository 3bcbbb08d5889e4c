//! Deciding: what a command changes, or why it can't be.

mod addresses;
mod enrol;
mod fail_over;
mod member;
mod relay;

pub(super) use addresses::{hosts, next_free};

use super::{
    Command, EnrolmentKey, Key, Name, Network, Op, Record, Refusal, Request, State, Token, UnixTime,
};

/// How many records one step of a plan changes at most, a few more or less. Stores have limits.
pub const STEP: usize = 1000;

/// What a command changes.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The changes to make at once.
    pub ops: Vec<Op>,
    /// What is still to be done after these, if it is too much for one step. The state between two steps is sound.
    pub rest: Option<Command>,
}

impl From<Vec<Op>> for Plan {
    fn from(ops: Vec<Op>) -> Self {
        Self { ops, rest: None }
    }
}

/// What a command brings with it, besides what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// A host is relayed by another relay, or not at all any more.
    Relayed {
        /// The host.
        host: Name,
        /// Its relay so far.
        from: Option<Name>,
        /// Its relay afterwards.
        to: Option<Name>,
    },
    /// A record goes as well.
    Deleted(Key),
    /// A record changes as well.
    Changed(Key),
}

impl State {
    /// Decides what a request changes. `now` is the calendar's time.
    pub fn plan(&self, now: UnixTime, request: &Request) -> Result<Plan, Refusal> {
        if let (Some(expected), Some(subject)) = (request.expected, request.command.subject()) {
            match self.revision_of(&subject) {
                None => return Err(Refusal::NotFound(subject)),
                Some(revision) if revision != expected => return Err(Refusal::Stale(subject)),
                Some(_) => {}
            }
        }
        self.step(now, &request.command, STEP)
    }

    /// Says what a command would bring with it, without doing it.
    pub fn consequences(&self, now: UnixTime, command: &Command) -> Result<Vec<Consequence>, Refusal> {
        let subject = command.subject().or_else(|| command.makes());
        let plan = self.step(now, command, usize::MAX)?;
        let other = plan.ops.into_iter().filter(|op| Some(op.key()) != subject);
        Ok(other
            .map(|op| match op {
                Op::Delete(key) => Consequence::Deleted(key),
                Op::Put(Record::Member(new)) => {
                    let from =
                        self.member(new.name.as_str()).and_then(|m| Some(m.relayed.as_ref()?.by.clone()));
                    let to = new.relayed.map(|relayed| relayed.by);
                    if from == to {
                        Consequence::Changed(Key::Member(new.name))
                    } else {
                        Consequence::Relayed { host: new.name, from, to }
                    }
                }
                Op::Put(record) => Consequence::Changed(record.key()),
            })
            .collect())
    }

    fn step(&self, now: UnixTime, command: &Command, limit: usize) -> Result<Plan, Refusal> {
        Ok(match command {
            Command::CreateNetwork(network) => {
                self.absent(Key::Network(network.name.clone()))?;
                addresses::check_network(network)?;
                vec![Op::Put(Record::Network(network.clone()))].into()
            }
            Command::ChangeNetwork(network) => self.change_network(network, limit)?,
            Command::DeleteNetwork(name) => self.delete_network(name)?.into(),
            Command::CreateMember(new) => self.create_member(new)?.into(),
            Command::ChangeMember(name, change) => self.change_member(name, change)?.into(),
            Command::DeleteMember(name) => self.delete_member(name)?.into(),
            Command::CreateRelay(new) => self.create_relay(new, limit)?,
            Command::ChangeRelay(relay) => self.change_relay(relay)?.into(),
            Command::DeleteRelay { name, move_to } => self.delete_relay(name, move_to.as_ref(), limit)?,
            Command::RelayHosts { relay, hosts, address } => {
                self.relay_hosts(relay, hosts, *address, limit)?
            }
            Command::ReleaseHosts { relay, hosts } => self.release_hosts(relay, hosts, limit)?,
            Command::FailOver { from, hosts, alive } => self.fail_over(from, hosts, alive, limit),
            Command::CreateKey(key) => self.create_key(now, key)?.into(),
            Command::DeleteKey(id) => vec![self.deletion(Key::EnrolmentKey(id.clone()))?].into(),
            Command::Enrol(enrol) => self.enrol(now, enrol)?.into(),
            Command::CreateToken(token) => self.create_token(now, token)?.into(),
            Command::DeleteToken(id) => vec![self.deletion(Key::Token(id.clone()))?].into(),
            Command::CreateTurnUser(user) => {
                self.absent(Key::TurnUser(user.name.clone()))?;
                vec![Op::Put(Record::TurnUser(user.clone()))].into()
            }
            Command::ChangeTurnUser(user) => {
                self.present(Key::TurnUser(user.name.clone()))?;
                vec![Op::Put(Record::TurnUser(user.clone()))].into()
            }
            Command::DeleteTurnUser(name) => vec![self.deletion(Key::TurnUser(name.clone()))?].into(),
            Command::Activate(keys) => self.activate(keys, limit),
            Command::Sweep => self.sweep(now, limit),
        })
    }

    fn absent(&self, key: Key) -> Result<(), Refusal> {
        if self.revision_of(&key).is_some() { Err(Refusal::Exists(key)) } else { Ok(()) }
    }

    fn present(&self, key: Key) -> Result<Key, Refusal> {
        if self.revision_of(&key).is_some() { Ok(key) } else { Err(Refusal::NotFound(key)) }
    }

    fn deletion(&self, key: Key) -> Result<Op, Refusal> {
        self.present(key).map(Op::Delete)
    }

    fn change_network(&self, network: &Network, limit: usize) -> Result<Plan, Refusal> {
        let key = self.present(Key::Network(network.name.clone()))?;
        addresses::check_network(network)?;
        let prefixes: Vec<_> = network.prefixes().collect();
        let uses = self.uses.get(&network.name).cloned().unwrap_or_default();
        let inside = |address| prefixes.iter().any(|prefix| addresses::is_host(*prefix, address));
        if let Some(&outside) = uses.addresses.keys().find(|&&address| !inside(address)) {
            return Err(Refusal::AddressesOutside(network.name.clone(), outside));
        }
        // Members that lack an address of a new family get one, and those in several networks are checked again: as the
        // network will be.
        let mut after = self.clone();
        let mut plan = Plan::default();
        if **self.networks.get(&network.name).expect("it is present") != *network {
            plan.ops.push(Op::Put(Record::Network(network.clone())));
            after.apply(self.revision(), plan.ops.clone());
            for member in self.members_of(network.name.as_str()).filter(|member| member.networks.len() > 1) {
                after.check_overlaps(member)?;
            }
        }
        for member in self.members_of(network.name.as_str()) {
            let place = member.membership(&network.name).expect("it is a member of it");
            if place.addresses().count() == prefixes.len() {
                continue;
            }
            if plan.ops.len() >= limit {
                plan.rest = Some(Command::ChangeNetwork(network.clone()));
                break;
            }
            let op = Op::Put(Record::Member(after.settle((*member.record).clone())?));
            after.apply(self.revision(), [op.clone()]);
            plan.ops.push(op);
        }
        debug_assert!(plan.ops.iter().all(|op| op.key() == key || matches!(op, Op::Put(Record::Member(_)))));
        Ok(plan)
    }

    fn delete_network(&self, name: &Name) -> Result<Vec<Op>, Refusal> {
        let delete = self.deletion(Key::Network(name.clone()))?;
        match self.members_of(name.as_str()).count() {
            0 => {}
            members => return Err(Refusal::NetworkInUse(name.clone(), members)),
        }
        let keys = self.keys().filter(|key| key.network == *name);
        Ok(keys.map(|key| Op::Delete(Key::EnrolmentKey(key.id.clone()))).chain([delete]).collect())
    }

    fn create_key(&self, now: UnixTime, key: &EnrolmentKey) -> Result<Vec<Op>, Refusal> {
        self.absent(Key::EnrolmentKey(key.id.clone()))?;
        self.present(Key::Network(key.network.clone()))?;
        if let Some(relay) = &key.relay {
            self.present(Key::Relay(relay.clone()))?;
            if self.existing_member(relay)?.membership(&key.network).is_none() {
                let (key, network) = (key.id.clone(), key.network.clone());
                return Err(Refusal::RelayNotInNetwork(key, relay.clone(), network));
            }
        }
        if key.uses_left == Some(0) {
            return Err(Refusal::KeyWithoutUses(key.id.clone()));
        }
        not_past(now, key.expires, &key.id)?;
        let tags = member::tags(key.tags.clone())?;
        Ok(vec![Op::Put(Record::EnrolmentKey(EnrolmentKey { tags, ..key.clone() }))])
    }

    fn create_token(&self, now: UnixTime, token: &Token) -> Result<Vec<Op>, Refusal> {
        self.absent(Key::Token(token.id.clone()))?;
        not_past(now, token.expires, &token.id)?;
        Ok(vec![Op::Put(Record::Token(token.clone()))])
    }
}

fn not_past(now: UnixTime, expires: Option<UnixTime>, id: &Name) -> Result<(), Refusal> {
    if expires.is_some_and(|expires| expires <= now) {
        return Err(Refusal::KeyExpiresInPast(id.clone()));
    }
    Ok(())
}
