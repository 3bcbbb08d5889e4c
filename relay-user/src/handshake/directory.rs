//! Who is at which endpoint, where each member is to be found, and by which key each is recognised.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    budget::Budget,
    message::Macs,
    outcome::Outcome,
    pending::{Handshake, Origin},
    search::{Kernel, Key, Keys, LANES},
};
use crate::members::{MemberId, Members, Place, Policy, PublicKey};

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
    version: u64,
}

impl Directory {
    /// A directory without members.
    pub fn new(relay_key: &PublicKey, kernel: Kernel) -> Self {
        Self {
            kernel,
            relay_key: Keys::of(kernel, [relay_key].into_iter()).key(0),
            members: Arc::default(),
            keys: Keys::some(kernel, []),
            owners: Vec::new(),
            places: HashMap::new(),
            learned: HashMap::new(),
            sources: HashMap::new(),
            version: 0,
        }
    }

    /// Replaces the members. What was learned of members that stay relayed here is kept, and so is what is known of
    /// endpoints whose owner stays the same. Configured endpoints that `usable` rejects are left out; returns how many.
    pub fn replace(&mut self, members: Arc<Members>, usable: impl Fn(SocketAddr) -> bool) -> usize {
        let mut configured: HashMap<SocketAddr, Owner> = HashMap::new();
        for relay in members.relays() {
            configured.extend(relay.endpoints.iter().map(|&endpoint| (endpoint, Owner::Relay)));
        }
        for (id, member) in members.iter() {
            if let Place::Static(endpoints) = &member.place {
                configured.extend(endpoints.iter().map(|&endpoint| (endpoint, Owner::Static(id))));
            }
        }
        let given = configured.len();
        configured.retain(|&endpoint, _| usable(endpoint));
        let refused = given - configured.len();

        let before = self.learned.len();
        // In the members' order: that is far fewer cache misses than to look up each of those learned.
        self.learned = (members.iter().filter(|(_, member)| member.place == Place::Relayed))
            .filter_map(|(id, _)| Some((id, *self.learned.get(&id)?)))
            .filter(|(_, endpoint)| !configured.contains_key(endpoint) && usable(*endpoint))
            .collect();
        let learned = &self.learned;
        self.sources.retain(|endpoint, source| match &mut source.owner {
            Owner::Learned(_) if learned.len() == before => true,
            Owner::Learned(claimants) => {
                claimants.retain(|id| learned.get(id) == Some(endpoint));
                !claimants.is_empty()
            }
            fixed => configured.get(endpoint) == Some(fixed),
        });
        for (endpoint, owner) in configured {
            self.sources.entry(endpoint).or_insert(Source::new(owner, Vec::new()));
        }

        self.keys = Keys::of(self.kernel, members.iter().map(|(_, member)| &member.public_key));
        self.owners = members.iter().map(|(id, _)| id).collect();
        self.places = self.owners.iter().copied().zip(0..).collect();
        self.members = members;
        self.version += 1;
        refused
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
        }
        self.version += 1;
    }

    fn disclaim(&mut self, member: MemberId, endpoint: SocketAddr) {
        if let Some(Source { owner: Owner::Learned(claimants), .. }) = self.sources.get_mut(&endpoint) {
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

    /// Changes whenever [`Self::endpoints`] may have changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Every known endpoint with the member whose it is (the newest, if several were seen there), or `None` for another
    /// relay's.
    pub fn endpoints(&self) -> impl Iterator<Item = (SocketAddr, Option<MemberId>)> {
        self.sources.iter().map(|(&endpoint, source)| match &source.owner {
            Owner::Relay => (endpoint, None),
            Owner::Static(id) => (endpoint, Some(*id)),
            Owner::Learned(claimants) => (endpoint, claimants.last().copied()),
        })
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
        Keys::some(self.kernel, keys).find(macs).map(|place| owners[place])
    }

    /// Whose key fits, of all members.
    fn find_among_all(&self, macs: &Macs) -> Option<MemberId> {
        self.keys.find(macs).map(|place| self.owners[place])
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
