//! Who is at which endpoint, where each member is to be found, and by which key each is recognised.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    budget::Budget,
    message::Macs,
    outcome::Outcome,
    pending::{Handshake, Origin},
};
use crate::members::{MemberId, Members, Place, Policy, PublicKey};
use relay_search::{Kernel, Key, Keys, LANES};

/// How many members an endpoint is remembered to have had to do with. With the relay's own key that is few enough to be
/// searched in microseconds, and enough for a host with many peers, each of which it talks to every two minutes.
const MET: usize = 4 * LANES - 1;
/// How many members may be seen at one endpoint at a time.
const CLAIMANTS: usize = 8;

/// Whose an endpoint is.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// Another relay's, from the control plane.
    Relay,
    /// A member's, from the control plane.
    Static(MemberId),
    /// That of members that the relay's own interface has seen there, the newest last; never empty.
    Learned(Vec<MemberId>),
}

impl Owner {
    /// The member, the newest of several; `None` if it is a relay.
    fn member(&self) -> Option<MemberId> {
        match self {
            Self::Relay => None,
            Self::Static(id) => Some(*id),
            Self::Learned(claimants) => claimants.last().copied(),
        }
    }
}

/// A known endpoint.
#[derive(Debug)]
struct Source {
    owner: Owner,
    /// The relay's address that it talks to, if it has sent something.
    local: Option<IpAddr>,
    /// The members that it has had to do with, the latest first.
    met: Vec<Met>,
    /// Keys searched for it.
    searches: Budget,
}

/// A member that a source has had to do with.
#[derive(Clone, Copy, Debug)]
struct Met {
    member: MemberId,
    /// Initiations sent on to it.
    initiations: Budget,
}

impl Source {
    fn new(owner: Owner, met: Vec<Met>) -> Self {
        Self { owner, local: None, met, searches: Budget::default() }
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The relay's own interface.
    Relay,
    /// A member.
    Member(MemberId),
}

/// See the module.
pub struct Directory {
    kernel: Kernel,
    relay_key: Key,
    members: Arc<Members>,
    /// The keys of all members, and whose the key at each place is.
    keys: Keys,
    owners: Vec<MemberId>,
    places: HashMap<MemberId, usize>,
    learned: HashMap<MemberId, SocketAddr>,
    sources: HashMap<SocketAddr, Source>,
    /// Endpoints whose owner may be another since it was last asked.
    touched: HashSet<SocketAddr>,
}

/// Whose endpoints are others now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EndpointChanges {
    /// Those that are somebody's, with the member (the newest, if several were seen there), or `None` for another relay's.
    pub held: Vec<(SocketAddr, Option<MemberId>)>,
    /// Those that are nobody's any more.
    pub gone: Vec<SocketAddr>,
}

impl Directory {
    /// A directory without members.
    pub fn new(relay_key: &PublicKey, kernel: Kernel) -> Self {
        Self {
            kernel,
            relay_key: Keys::of(kernel, [&relay_key.0].into_iter()).key(0),
            members: Arc::default(),
            keys: Keys::some(kernel, []),
            owners: Vec::new(),
            places: HashMap::new(),
            learned: HashMap::new(),
            sources: HashMap::new(),
            touched: HashSet::new(),
        }
    }

    /// Replaces the members, at a cost that goes with what is different. What was learned of members that stay relayed
    /// here is kept, and so is what is known of endpoints whose owner stays the same. Configured endpoints that `usable`
    /// rejects are left out; returns how many of the new ones.
    pub fn replace(&mut self, members: Arc<Members>, usable: impl Fn(SocketAddr) -> bool) -> usize {
        let old = std::mem::replace(&mut self.members, Arc::clone(&members));
        let (mut gone, mut come) = (HashMap::new(), HashMap::new());
        if !members.same_relays(&old) {
            let owned = |relays: &Members, into: &mut HashMap<_, _>| {
                let endpoints = relays.relays().flat_map(|relay| relay.endpoints.iter());
                into.extend(endpoints.map(|&endpoint| (endpoint, Owner::Relay)));
            };
            owned(&old, &mut gone);
            owned(&members, &mut come);
        }
        let mut new_keys = Vec::new();
        for (id, before, after) in members.changes_since(&old) {
            for (member, endpoints) in [(before, &mut gone), (after, &mut come)] {
                if let Some(Place::Static(given)) = member.map(|member| &member.place) {
                    endpoints.extend(given.iter().map(|&endpoint| (endpoint, Owner::Static(id))));
                }
            }
            let same_key = before.map(|m| m.public_key) == after.map(|m| m.public_key);
            if !same_key || after.is_none_or(|member| member.place != Place::Relayed) {
                self.forget(id);
            }
            match after {
                Some(member) if !same_key => new_keys.push((id, &member.public_key)),
                Some(_) => {}
                None => self.remove_key(id),
            }
        }
        let keys = Keys::of(self.kernel, new_keys.iter().map(|&(_, key)| &key.0));
        for (n, (id, _)) in new_keys.into_iter().enumerate() {
            self.set_key(id, keys.key(n));
        }
        for (endpoint, owner) in gone {
            if come.get(&endpoint) != Some(&owner) && self.is_configured(endpoint) {
                self.sources.remove(&endpoint);
                self.touched.insert(endpoint);
            }
        }
        self.configure(come, usable)
    }

    /// Other endpoints are usable: those that are not any more are forgotten, and configured ones that are now come in.
    /// Returns how many configured ones are left out.
    pub fn refilter(&mut self, usable: impl Fn(SocketAddr) -> bool) -> usize {
        let unusable = self.learned.iter().filter(|(_, endpoint)| !usable(**endpoint));
        for id in unusable.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.forget(id);
        }
        let touched = &mut self.touched;
        self.sources.retain(|&endpoint, _| {
            let stays = usable(endpoint);
            if !stays {
                touched.insert(endpoint);
            }
            stays
        });
        let relays = self.members.relays().flat_map(|relay| &relay.endpoints);
        let mut all: HashMap<SocketAddr, Owner> = relays.map(|&endpoint| (endpoint, Owner::Relay)).collect();
        for (id, member) in self.members.iter() {
            if let Place::Static(endpoints) = &member.place {
                all.extend(endpoints.iter().map(|&endpoint| (endpoint, Owner::Static(id))));
            }
        }
        self.configure(all, usable)
    }

    /// Takes in configured endpoints but those that `usable` rejects; returns how many these are.
    fn configure(&mut self, come: HashMap<SocketAddr, Owner>, usable: impl Fn(SocketAddr) -> bool) -> usize {
        let mut refused = 0;
        for (endpoint, owner) in come {
            if !usable(endpoint) {
                refused += 1;
            } else if self.sources.get(&endpoint).is_none_or(|source| source.owner != owner) {
                for id in self.claimants(endpoint).to_vec() {
                    self.forget(id);
                }
                self.sources.insert(endpoint, Source::new(owner, Vec::new()));
                self.touched.insert(endpoint);
            }
        }
        refused
    }

    /// Forgets what was learned of a member.
    fn forget(&mut self, id: MemberId) {
        if let Some(endpoint) = self.learned.remove(&id) {
            self.disclaim(id, endpoint);
        }
    }

    fn set_key(&mut self, id: MemberId, key: Key) {
        let place = *self.places.entry(id).or_insert(self.owners.len());
        if place == self.owners.len() {
            self.owners.push(id);
            self.keys.push(key);
        } else {
            self.keys.set(place, key);
        }
    }

    fn remove_key(&mut self, id: MemberId) {
        let Some(place) = self.places.remove(&id) else { return };
        self.keys.swap_remove(place);
        self.owners.swap_remove(place);
        if let Some(moved) = self.owners.get(place) {
            self.places.insert(*moved, place);
        }
    }

    /// Sets what the relay's own interface has learned of a member that is relayed here. `local` is the relay's address
    /// that the endpoint talks to, where that is known.
    pub fn learn(&mut self, member: MemberId, endpoint: Option<SocketAddr>, local: Option<IpAddr>) {
        let (mut met, mut local) = (Vec::new(), local);
        if let Some(old) = self.learned.remove(&member)
            && let Some(source) = self.sources.get_mut(&old)
        {
            met.clone_from(&source.met);
            // A host uses one address of the relay's, wherever it is itself.
            local = local.or(source
                .local
                .filter(|local| endpoint.is_some_and(|new| new.is_ipv4() == local.is_ipv4())));
            self.disclaim(member, old);
        }
        if let Some(endpoint) = endpoint {
            self.learned.insert(member, endpoint);
            let learned = Source::new(Owner::Learned(Vec::new()), met);
            let source = self.sources.entry(endpoint).or_insert(learned);
            source.local = local.or(source.local);
            if let Owner::Learned(claimants) = &mut source.owner {
                claimants.push(member);
                if claimants.len() > CLAIMANTS {
                    self.learned.remove(&claimants.remove(0));
                }
            }
            self.touched.insert(endpoint);
        }
    }

    fn disclaim(&mut self, member: MemberId, endpoint: SocketAddr) {
        if let Some(Source { owner: Owner::Learned(claimants), .. }) = self.sources.get_mut(&endpoint) {
            self.touched.insert(endpoint);
            claimants.retain(|&id| id != member);
            if claimants.is_empty() {
                self.sources.remove(&endpoint);
            }
        }
    }

    /// The members.
    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// What has become of endpoints since this was last asked.
    pub fn endpoint_changes(&mut self) -> EndpointChanges {
        let mut changes = EndpointChanges::default();
        for endpoint in self.touched.drain() {
            match self.sources.get(&endpoint) {
                Some(source) => changes.held.push((endpoint, source.owner.member())),
                None => changes.gone.push(endpoint),
            }
        }
        changes
    }

    /// Every known endpoint with the member whose it is (the newest, if several were seen there), or `None` for another
    /// relay's.
    pub fn endpoints(&self) -> impl Iterator<Item = (SocketAddr, Option<MemberId>)> {
        self.sources.iter().map(|(&endpoint, source)| (endpoint, source.owner.member()))
    }

    /// Whether the endpoint is a relay's or a member's by the control plane's word.
    pub fn is_configured(&self, endpoint: SocketAddr) -> bool {
        self.sources.get(&endpoint).is_some_and(|source| !matches!(source.owner, Owner::Learned(_)))
    }

    /// Whether the member is relayed by this relay.
    pub fn is_relayed_here(&self, member: MemberId) -> bool {
        is_relayed_here(&self.members, member)
    }

    /// What the relay's own interface has learned of a member.
    pub fn learned(&self, member: MemberId) -> Option<SocketAddr> {
        self.learned.get(&member).copied()
    }

    /// Of how many members the relay's own interface has learned something.
    pub fn learned_len(&self) -> usize {
        self.learned.len()
    }

    /// Where a member is to be found, in whatever families.
    pub fn locations(&self, member: MemberId) -> Vec<SocketAddr> {
        let mut locations = match self.members.member(member).map(|member| &member.place) {
            None => Vec::new(),
            Some(Place::Relayed) => return self.learned(member).into_iter().collect(),
            Some(Place::RelayedBy(relay)) => {
                self.members.relay(relay).map(|relay| relay.endpoints.clone()).unwrap_or_default()
            }
            Some(Place::Static(endpoints)) => endpoints.clone(),
        };
        locations.retain(|endpoint| self.is_configured(*endpoint));
        locations
    }

    /// Where to send what `source` has for `recipient`: in the source's family if there is a choice, since such packets
    /// keep their size.
    pub fn route(&self, source: SocketAddr, recipient: MemberId) -> Result<SocketAddr, Outcome> {
        let locations = self.locations(recipient);
        let others = || locations.iter().copied().filter(|location| *location != source);
        match others().find(|location| location.is_ipv4() == source.is_ipv4()).or_else(|| others().next()) {
            Some(location) => Ok(location),
            None if locations.is_empty() => Err(Outcome::RecipientUnknownEndpoint),
            None => Err(Outcome::SameEndpoint),
        }
    }

    /// Whom we take the sender of an initiation for `recipient` for: of several members seen at the source, the newest
    /// that may talk to it.
    pub fn speaker(&self, source: SocketAddr, recipient: MemberId) -> Origin {
        let may_talk = |id: &&MemberId| self.permits(Some(**id), Some(recipient));
        let speaker = self.claimants(source).iter().rev().find(may_talk);
        speaker.map_or_else(|| self.origin(source), |&id| Origin::Member(id))
    }

    /// Whose the source is.
    pub fn origin(&self, source: SocketAddr) -> Origin {
        match self.sources.get(&source).map(|source| &source.owner) {
            Some(Owner::Relay) => Origin::Relay,
            Some(Owner::Static(id)) => Origin::Member(*id),
            Some(Owner::Learned(claimants)) => {
                claimants.last().map_or(Origin::Stranger, |&id| Origin::Member(id))
            }
            None => Origin::Stranger,
        }
    }

    /// The members that the interface has seen at an endpoint, the newest last.
    fn claimants(&self, endpoint: SocketAddr) -> &[MemberId] {
        match self.sources.get(&endpoint).map(|source| &source.owner) {
            Some(Owner::Learned(claimants)) => claimants,
            _ => &[],
        }
    }

    /// The relay's address that a known endpoint talks to.
    pub fn local_of(&self, endpoint: SocketAddr) -> Option<IpAddr> {
        self.sources.get(&endpoint)?.local
    }

    /// Notes that a known endpoint has sent a handshake message to this address of the relay's.
    pub fn heard(&mut self, endpoint: SocketAddr, local: IpAddr) {
        if let Some(source) = self.sources.get_mut(&endpoint) {
            source.local = Some(local);
        }
    }

    /// Notes that a known endpoint has to do with `member`, whose key is then tried first.
    pub fn met(&mut self, endpoint: SocketAddr, member: MemberId) {
        if let Some(source) = self.sources.get_mut(&endpoint) {
            match source.met.iter().position(|met| met.member == member) {
                Some(at) => source.met[..=at].rotate_right(1),
                None => {
                    source.met.truncate(MET - 1);
                    source.met.insert(0, Met { member, initiations: Budget::default() });
                }
            }
        }
    }

    /// The members that a known endpoint has had to do with, the latest first.
    pub fn met_by(&self, endpoint: SocketAddr) -> impl Iterator<Item = MemberId> {
        self.sources.get(&endpoint).into_iter().flat_map(|source| source.met.iter().map(|met| met.member))
    }

    fn key(&self, member: MemberId) -> Option<Key> {
        self.places.get(&member).map(|&place| self.keys.key(place))
    }

    /// Whose key fits, of few.
    fn find_among<T: Copy>(
        &self,
        macs: &Macs,
        candidates: impl IntoIterator<Item = (T, Option<Key>)>,
    ) -> Option<T> {
        let candidates = candidates.into_iter().filter_map(|(owner, key)| Some((owner, key?)));
        let (owners, keys): (Vec<T>, Vec<Key>) = candidates.unzip();
        Keys::some(self.kernel, keys).find(macs.body, macs.mac1).map(|place| owners[place])
    }

    /// Whose key fits, of all members.
    fn find_among_all(&self, macs: &Macs) -> Option<MemberId> {
        self.keys.find(macs.body, macs.mac1).map(|place| self.owners[place])
    }

    /// Whom an initiation from `source` is for, as far as that is quickly found: tries the relay's own key and those of the
    /// members that the source had to do with last.
    pub fn likely_recipient(&self, source: SocketAddr, macs: &Macs) -> Option<Recipient> {
        let own = std::iter::once((Recipient::Relay, Some(self.relay_key)));
        let met = self.met_by(source).map(|id| (Recipient::Member(id), self.key(id)));
        self.find_among(macs, own.chain(met))
    }

    /// Whom an initiation is for: tries all.
    pub fn any_recipient(&self, macs: &Macs) -> Option<Recipient> {
        self.find_among_all(macs).map(Recipient::Member)
    }

    /// The budget of searches among all that a known source has.
    pub fn searches_of(&mut self, source: SocketAddr) -> Option<&mut Budget> {
        self.sources.get_mut(&source).map(|source| &mut source.searches)
    }

    /// The budget of initiations that a known source has for a member that it has met.
    pub fn initiations_of(&mut self, source: SocketAddr, member: MemberId) -> Option<&mut Budget> {
        let met = self.sources.get_mut(&source)?.met.iter_mut().find(|met| met.member == member)?;
        Some(&mut met.initiations)
    }

    /// Which permitted initiator a response within `handshake` is for. `None` if it is for nobody permitted;
    /// `Some(None)` if policy `any` lets it pass although it names no member.
    pub fn initiator(&self, handshake: &Handshake, macs: &Macs) -> Option<Option<MemberId>> {
        let Handshake { source, recipient, origin, .. } = *handshake;
        let permitted = |id: &MemberId| self.permits(Some(*id), Some(recipient));
        // The member that we took it for; others that were seen at this endpoint; or whom a relay spoke for before.
        let own = match origin {
            Origin::Member(id) => Some(id),
            Origin::Relay | Origin::Stranger => None,
        };
        let met = self.met_by(source).filter(|_| origin == Origin::Relay);
        let likely = own.into_iter().chain(self.claimants(source).iter().copied()).chain(met);
        let likely = likely.filter(permitted).map(|id| (id, self.key(id)));
        if let Some(found) = self.find_among(macs, likely) {
            return Some(Some(found));
        }
        if let (Policy::Members, Origin::Member(_)) = (self.members.policy(), origin) {
            return None;
        }
        match self.find_among_all(macs) {
            Some(found) => permitted(&found).then_some(Some(found)),
            None => (self.members.policy() == Policy::Any).then_some(None),
        }
    }

    /// Whether a session between these two may be. `None` is a host that is no member.
    pub fn permits(&self, initiator: Option<MemberId>, responder: Option<MemberId>) -> bool {
        let Some(responder) = responder else { return false };
        match self.members.policy() {
            Policy::Members => initiator.is_some_and(|initiator| self.members.may_talk(initiator, responder)),
            Policy::Any => {
                initiator != Some(responder)
                    && self.members.member(responder).is_some()
                    && initiator.is_none_or(|initiator| self.members.member(initiator).is_some())
            }
        }
    }

    /// Whether an initiation of this origin may be sent on to `recipient`. A stranger's name is known only with the
    /// response.
    pub fn may_initiate(&self, origin: Origin, recipient: MemberId) -> Result<(), Outcome> {
        let permitted = match origin {
            Origin::Member(initiator) => self.permits(Some(initiator), Some(recipient)),
            Origin::Relay if !self.is_relayed_here(recipient) => return Err(Outcome::RelayLoop),
            Origin::Relay | Origin::Stranger => self.members.member(recipient).is_some(),
        };
        if permitted { Ok(()) } else { Err(Outcome::NotPermitted) }
    }
}

fn is_relayed_here(members: &Members, id: MemberId) -> bool {
    members.member(id).is_some_and(|member| member.place == Place::Relayed)
}
