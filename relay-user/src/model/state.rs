//! Everything that is known, in memory, with indices.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};
use ipnet::IpNet;

use super::{
    EnrolmentKey, Key, Member, Name, Network, Op, Record, RecordError, Relay, Revision, Secret, Token,
    TurnUser, UnixTime,
};
use crate::members::{MemberId, PublicKey};

/// A record and when it was last changed.
#[derive(Debug)]
pub struct Kept<T> {
    /// The record.
    pub record: Arc<T>,
    /// The revision of its last change.
    pub revision: Revision,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { record: self.record.clone(), revision: self.revision }
    }
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision && Arc::ptr_eq(&self.record, &other.record)
    }
}

impl<T> std::ops::Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.record
    }
}

/// Records of one kind.
pub type Records<T> = OrdMap<Name, Kept<T>>;

/// Who uses what of a network.
#[derive(Clone, Debug, Default)]
pub(super) struct Use {
    pub(super) members: OrdSet<Name>,
    pub(super) addresses: OrdMap<IpAddr, Name>,
    pub(super) routes: OrdMap<IpNet, Name>,
    /// For IPv4 and IPv6: all addresses of hosts below this one are in use, or among the released ones.
    mark: [Option<IpAddr>; 2],
    released: OrdSet<IpAddr>,
}

/// All records, with indices. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub struct State {
    revision: Revision,
    pub(super) networks: Records<Network>,
    pub(super) members: Records<Member>,
    pub(super) relays: Records<Relay>,
    pub(super) keys: Records<EnrolmentKey>,
    pub(super) tokens: Records<Token>,
    pub(super) turn_users: Records<TurnUser>,
    /// Of each network, also of one whose record is not there (yet).
    pub(super) uses: OrdMap<Name, Use>,
    pub(super) by_key: OrdMap<MemberId, Name>,
    /// Members by their relay.
    pub(super) relayed: OrdMap<Name, OrdSet<Name>>,
    /// Static endpoints of members, and public ones of relays.
    pub(super) endpoints: OrdMap<SocketAddr, Name>,
    pub(super) relay_endpoints: OrdMap<SocketAddr, Name>,
    /// Members whose enrolled key is not proven, oldest first.
    pub(super) pending: OrdSet<(UnixTime, Name)>,
}

impl State {
    /// Reads a whole store: key, value and revision of each record. A record that can't be read is an error, so that
    /// nobody acts on half a state.
    pub fn load<'a>(
        revision: Revision,
        entries: impl IntoIterator<Item = (&'a str, &'a [u8], Revision)>,
    ) -> Result<Self, RecordError> {
        let mut this = Self::default();
        let mut later = Vec::new();
        for (key, value, at) in entries {
            let key: Key = key.parse()?;
            match Record::decode(&key, value)? {
                // Members' names of networks and relays are shared with these.
                record @ (Record::Network(_) | Record::Relay(_)) => this.put(record, at),
                record => later.push((record, at)),
            }
        }
        for (record, at) in later {
            this.put(record, at);
        }
        this.revision = revision;
        Ok(this)
    }

    /// Follows the store to `revision`.
    pub fn apply(&mut self, revision: Revision, ops: impl IntoIterator<Item = Op>) {
        for op in ops {
            match op {
                Op::Put(record) => self.put(record, revision),
                Op::Delete(key) => self.delete(&key),
            }
        }
        self.revision = revision;
    }

    /// The store's revision that this is.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// All networks, by name.
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &Kept<Network>> {
        self.networks.values()
    }

    /// All members, by name.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Kept<Member>> {
        self.members.values()
    }

    /// All relays, by name.
    pub fn relays(&self) -> impl ExactSizeIterator<Item = &Kept<Relay>> {
        self.relays.values()
    }

    /// All enrolment keys, by id.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Kept<EnrolmentKey>> {
        self.keys.values()
    }

    /// All tokens, by id.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = &Kept<Token>> {
        self.tokens.values()
    }

    /// All users of the TURN servers, by name.
    pub fn turn_users(&self) -> &Records<TurnUser> {
        &self.turn_users
    }

    /// The network with this name.
    pub fn network(&self, name: &str) -> Option<&Kept<Network>> {
        self.networks.get(name)
    }

    /// The member with this name.
    pub fn member(&self, name: &str) -> Option<&Kept<Member>> {
        self.members.get(name)
    }

    /// The relay with this name.
    pub fn relay(&self, name: &str) -> Option<&Kept<Relay>> {
        self.relays.get(name)
    }

    /// The enrolment key with this id.
    pub fn key(&self, id: &str) -> Option<&Kept<EnrolmentKey>> {
        self.keys.get(id)
    }

    /// The token with this id, if the secret is its and it has not expired.
    pub fn token(&self, id: &str, secret: &Secret, now: UnixTime) -> Option<&Kept<Token>> {
        let token = self.tokens.get(id).filter(|token| token.secret.is_of(secret))?;
        token.expires.is_none_or(|expires| now < expires).then_some(token)
    }

    /// The token with this id, whoever asks for it.
    pub fn token_record(&self, id: &str) -> Option<&Kept<Token>> {
        self.tokens.get(id)
    }

    /// The member with this public key.
    pub fn by_public_key(&self, key: PublicKey) -> Option<&Kept<Member>> {
        self.member(self.by_key.get(&key.id())?.as_str()).filter(|member| member.public_key == key)
    }

    /// Whether this secret is that of a member's owner.
    pub fn owns(&self, member: &str, secret: &Secret) -> bool {
        self.member(member).and_then(|member| member.owner).is_some_and(|owner| owner.is_of(secret))
    }

    /// The hosts that a relay relays.
    pub fn hosts(&self, relay: &str) -> impl ExactSizeIterator<Item = &Name> + use<'_> {
        static NONE: std::sync::LazyLock<OrdSet<Name>> = std::sync::LazyLock::new(OrdSet::new);
        self.relayed.get(relay).unwrap_or(&NONE).iter()
    }

    /// The members of a network.
    pub fn members_of(&self, network: &str) -> impl Iterator<Item = &Kept<Member>> + use<'_> {
        let names = self.uses.get(network).into_iter().flat_map(|uses| uses.members.iter());
        names.filter_map(|name| self.members.get(name))
    }

    /// When a record was last changed, if it is there.
    pub fn revision_of(&self, key: &Key) -> Option<Revision> {
        match key {
            Key::EnrolmentKey(id) => self.keys.get(id).map(|kept| kept.revision),
            Key::Member(name) => self.members.get(name).map(|kept| kept.revision),
            Key::Network(name) => self.networks.get(name).map(|kept| kept.revision),
            Key::Relay(name) => self.relays.get(name).map(|kept| kept.revision),
            Key::Token(id) => self.tokens.get(id).map(|kept| kept.revision),
            Key::TurnUser(name) => self.turn_users.get(name).map(|kept| kept.revision),
        }
    }

    /// The records that are different in `old`, at a cost that goes with their number.
    pub fn changes_since(&self, old: &Self) -> Vec<Key> {
        fn differing<T>(old: &Records<T>, new: &Records<T>, kind: fn(Name) -> Key, into: &mut Vec<Key>) {
            into.extend(old.diff(new).map(|item| match item {
                DiffItem::Add(name, _) | DiffItem::Remove(name, _) => kind(name.clone()),
                DiffItem::Update { new: (name, _), .. } => kind(name.clone()),
            }));
        }
        let mut keys = Vec::new();
        differing(&old.networks, &self.networks, Key::Network, &mut keys);
        differing(&old.members, &self.members, Key::Member, &mut keys);
        differing(&old.relays, &self.relays, Key::Relay, &mut keys);
        differing(&old.keys, &self.keys, Key::EnrolmentKey, &mut keys);
        differing(&old.tokens, &self.tokens, Key::Token, &mut keys);
        differing(&old.turn_users, &self.turn_users, Key::TurnUser, &mut keys);
        keys
    }

    fn put(&mut self, record: Record, revision: Revision) {
        self.unlink(&record.key());
        match record {
            Record::EnrolmentKey(key) => keep(&mut self.keys, key.id.clone(), key, revision),
            Record::Token(token) => keep(&mut self.tokens, token.id.clone(), token, revision),
            Record::TurnUser(user) => keep(&mut self.turn_users, user.name.clone(), user, revision),
            Record::Network(network) => {
                let uses = self.uses.entry(network.name.clone()).or_default();
                for (family, prefix) in
                    [network.ipv4.map(IpNet::V4), network.ipv6.map(IpNet::V6)].iter().enumerate()
                {
                    uses.mark[family] = prefix.map(|prefix| super::plan::hosts(prefix).0);
                    uses.advance(family);
                }
                uses.released = OrdSet::new();
                keep(&mut self.networks, network.name.clone(), network, revision);
            }
            Record::Relay(relay) => {
                for endpoint in relay.endpoints() {
                    self.relay_endpoints.insert(endpoint, relay.name.clone());
                }
                keep(&mut self.relays, relay.name.clone(), relay, revision);
            }
            Record::Member(mut member) => {
                self.link(&mut member);
                keep(&mut self.members, member.name.clone(), member, revision);
            }
        }
    }

    fn link(&mut self, member: &mut Member) {
        let name = &member.name;
        for membership in &mut member.networks {
            if let Some((shared, _)) = self.networks.get_key_value(&membership.network) {
                membership.network = shared.clone();
            }
            let uses = self.uses.entry(membership.network.clone()).or_default();
            uses.members.insert(name.clone());
            for address in membership.addresses() {
                uses.addresses.insert(address, name.clone());
                uses.released.remove(&address);
                uses.advance(usize::from(address.is_ipv6()));
            }
            for &route in &membership.routes {
                uses.routes.insert(route, name.clone());
            }
        }
        self.by_key.insert(member.public_key.id(), name.clone());
        for &endpoint in &member.endpoints {
            self.endpoints.insert(endpoint, name.clone());
        }
        if let Some(relayed) = &mut member.relayed {
            if let Some((shared, _)) = self.relays.get_key_value(&relayed.by) {
                relayed.by = shared.clone();
            }
            self.relayed.entry(relayed.by.clone()).or_default().insert(name.clone());
        }
        if let Some(since) = member.pending_since() {
            self.pending.insert((since, name.clone()));
        }
    }

    /// Takes a record out of the indices.
    fn unlink(&mut self, key: &Key) {
        match key {
            Key::Member(name) => {
                let Some(member) = self.members.get(name).map(|kept| kept.record.clone()) else { return };
                for membership in &member.networks {
                    let Some(uses) = self.uses.get_mut(&membership.network) else { continue };
                    uses.members.remove(name);
                    for address in membership.addresses() {
                        let below =
                            uses.mark[usize::from(address.is_ipv6())].is_some_and(|mark| address < mark);
                        if release(&mut uses.addresses, &address, name) && below {
                            uses.released.insert(address);
                        }
                    }
                    for route in &membership.routes {
                        release(&mut uses.routes, route, name);
                    }
                }
                release(&mut self.by_key, &member.public_key.id(), name);
                for endpoint in &member.endpoints {
                    release(&mut self.endpoints, endpoint, name);
                }
                if let Some(relayed) = &member.relayed
                    && let Some(hosts) = self.relayed.get_mut(&relayed.by)
                {
                    hosts.remove(name);
                }
                if let Some(since) = member.pending_since() {
                    self.pending.remove(&(since, name.clone()));
                }
            }
            Key::Relay(name) => {
                let Some(relay) = self.relays.get(name).map(|kept| kept.record.clone()) else { return };
                for endpoint in relay.endpoints() {
                    release(&mut self.relay_endpoints, &endpoint, name);
                }
            }
            Key::EnrolmentKey(_) | Key::Network(_) | Key::Token(_) | Key::TurnUser(_) => {}
        }
    }

    fn delete(&mut self, key: &Key) {
        self.unlink(key);
        match key {
            Key::EnrolmentKey(id) => drop(self.keys.remove(id)),
            Key::Member(name) => drop(self.members.remove(name)),
            Key::Network(name) => {
                self.networks.remove(name);
                if self.uses.get(name).is_some_and(|uses| uses.members.is_empty()) {
                    self.uses.remove(name);
                }
            }
            Key::Relay(name) => {
                self.relays.remove(name);
                if self.relayed.get(name).is_some_and(OrdSet::is_empty) {
                    self.relayed.remove(name);
                }
            }
            Key::Token(id) => drop(self.tokens.remove(id)),
            Key::TurnUser(name) => drop(self.turn_users.remove(name)),
        }
    }
}

fn keep<T>(records: &mut Records<T>, name: Name, record: T, revision: Revision) {
    records.insert(name, Kept { record: Arc::new(record), revision });
}

/// Takes what `name` had out of an index. Of several changes of one record in one commit only the last is kept, so another
/// may have it already.
fn release<K: Ord + Clone>(index: &mut OrdMap<K, Name>, key: &K, name: &Name) -> bool {
    let own = index.get(key) == Some(name);
    if own {
        index.remove(key);
    }
    own
}

impl Use {
    /// The lowest free address of a family in a prefix of the network.
    pub(super) fn free(&self, prefix: IpNet) -> Option<IpAddr> {
        let (first, last) = super::plan::hosts(prefix);
        if let Some(&released) = self.released.range(first..=last).next() {
            return Some(released);
        }
        let free = self.mark[usize::from(first.is_ipv6())].unwrap_or(first);
        // At the very end of the address space there is no next one, so the last may be in use.
        (free <= last && !self.addresses.contains_key(&free)).then_some(free)
    }

    /// Moves the mark of a family on, if its address has been taken. It never goes back, so all in all this is cheap.
    fn advance(&mut self, family: usize) {
        let Some(mark) = self.mark[family] else { return };
        self.mark[family] = Some(super::plan::next_free(&self.addresses, mark));
    }
}
