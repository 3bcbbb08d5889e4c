//! Who is who: the members, the networks that they share and where each is to be found. The desired state, as a control
//! source gives it; pure data, checked once when it is built.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A WireGuard public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Reads the usual base64 form of 44 characters.
    pub fn from_base64(text: &str) -> Option<Self> {
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        BASE64_STANDARD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// The member id that goes with this key.
    pub fn id(&self) -> MemberId {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        MemberId(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A member's short name in the maps: the first eight bytes of its public key, little-endian. It needs no table that
/// would have to survive a restart; two members whose ids are equal are refused ([`MembersError::IdCollision`]), and 0
/// stands for "no member".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct MemberId(pub u64);

impl MemberId {
    /// As the maps have it.
    pub fn of_map(id: u64) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// For the maps.
    pub fn to_map(member: Option<Self>) -> u64 {
        member.map_or(0, |Self(id)| id)
    }
}

/// Where a member is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Relayed by this relay: at the endpoint that the relay's own WireGuard interface has learned.
    Relayed,
    /// Relayed by another relay of the network: at that relay's public address, by the relay's name.
    RelayedBy(Arc<str>),
    /// Not relayed: at its static endpoints, at most one for each family, perhaps none.
    Static(Vec<SocketAddr>),
}

/// A host with a WireGuard key in one or more networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, unique.
    pub name: Arc<str>,
    /// Its static public key, unique.
    pub public_key: PublicKey,
    /// The networks that it is in, at least one.
    pub networks: Vec<Arc<str>>,
    /// Where it is to be found.
    pub place: Place,
    /// How much may be relayed for it.
    pub rate_limit: Option<RateLimit>,
}

/// How much of a member's traffic is relayed: of what it sends, and of what it receives, each by itself. Without either
/// number it is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "Numbers")]
pub struct RateLimit {
    /// Bits of WireGuard messages a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 64000, maximum = 1000000000000u64)]
    pub bits_per_second: Option<u64>,
    /// Packets a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 4294967295u64)]
    pub packets_per_second: Option<u32>,
}

impl RateLimit {
    /// Below this the largest message would not fit into ten seconds, above it a byte would cost next to nothing.
    pub const BITS: std::ops::RangeInclusive<u64> = 64_000..=1_000_000_000_000;

    /// It, if it limits anything.
    pub fn if_any(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

/// A rate limit as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    bits_per_second: Option<u64>,
    packets_per_second: Option<u32>,
}

impl TryFrom<Numbers> for RateLimit {
    type Error = &'static str;

    fn try_from(Numbers { bits_per_second, packets_per_second }: Numbers) -> Result<Self, &'static str> {
        if bits_per_second.is_some_and(|bits| !Self::BITS.contains(&bits)) {
            return Err("`bits_per_second` must be from 64000 to 1000000000000");
        }
        if packets_per_second == Some(0) {
            return Err("`packets_per_second` must be at least 1");
        }
        Ok(Self { bits_per_second, packets_per_second })
    }
}

/// Another relay of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherRelay {
    /// Its name, unique.
    pub name: Arc<str>,
    /// Its public addresses and port, at most one for each family, at least one.
    pub endpoints: Vec<SocketAddr>,
}

/// Whose handshakes are relayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Both sides share a network, and at least one of the two is relayed here.
    #[default]
    Members,
    /// The addressed member's acceptance is enough.
    Any,
}

/// The desired state as a whole. A clone shares what it has in common with the original, so that one change among many
/// members costs next to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    by_id: OrdMap<MemberId, Arc<Member>>,
    names: OrdMap<Arc<str>, MemberId>,
    relays: OrdMap<Arc<str>, OtherRelay>,
    /// How many are relayed here.
    relayed: usize,
    /// Whose each static endpoint is.
    endpoints: OrdMap<SocketAddr, Arc<str>>,
    relay_key: Option<PublicKey>,
    policy: Policy,
}

/// A member that is another now: as it was, and as it is.
pub type MemberChange<'a> = (MemberId, Option<&'a Arc<Member>>, Option<&'a Arc<Member>>);

/// A peer of the relay's own WireGuard interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// What it may send, and what is sent to it, by the interface itself. Relaying needs none.
    pub allowed_ips: Vec<IpNet>,
    /// Where it is, if it is another relay. Of all others that is learned.
    pub endpoint: Option<SocketAddr>,
}

/// The peers of the relay's own WireGuard interface. A clone is cheap.
pub type Peers = OrdMap<PublicKey, Peer>;

/// What a control source wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Who is who.
    pub members: Arc<Members>,
    /// Whom the relay's own interface knows: all that are relayed here, and perhaps more.
    pub peers: Peers,
}

impl Desired {
    /// Members, of whom those that are relayed here are the peers.
    pub fn of(members: Members) -> Self {
        let relayed = members.iter().filter(|(_, member)| member.place == Place::Relayed);
        let peers = relayed.map(|(_, member)| (member.public_key, Peer::default())).collect();
        Self { members: Arc::new(members), peers }
    }

    /// Leaves out peers beyond `most`, which is what the interface takes: those first that are not relayed here, then those
    /// that it did not have `before`. Returns how many are left out.
    pub fn fit(&mut self, most: usize, before: &Peers) -> usize {
        let beyond = self.peers.len().saturating_sub(most);
        if beyond > 0 {
            let relayed = |key: &PublicKey| {
                self.members.member(key.id()).is_some_and(|member| member.place == Place::Relayed)
            };
            let mut keys: Vec<PublicKey> = self.peers.keys().copied().collect();
            keys.sort_by_cached_key(|key| (relayed(key), before.contains_key(key)));
            for key in &keys[..beyond] {
                self.peers.remove(key);
            }
        }
        beyond
    }
}

/// Why a set of members can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// Two members have the same name.
    #[error("two members are named {0:?}: names are unique")]
    DuplicateName(String),
    /// Two members have the same public key.
    #[error("members {0:?} and {1:?} have the same public key: a key is one host")]
    DuplicateKey(String, String),
    /// Two keys begin with the same eight bytes.
    #[error(
        "the public keys of members {0:?} and {1:?} begin with the same 8 bytes: give one of them a new key"
    )]
    IdCollision(String, String),
    /// A key's first eight bytes are zero.
    #[error("member {0:?}: the public key begins with 8 zero bytes: give it a new key")]
    ZeroId(String),
    /// The relay itself is listed.
    #[error("member {0:?} has the relay's own public key: the relay is not a member of its own")]
    IsRelay(String),
    /// A member without a network.
    #[error("member {0:?} is in no network: name at least one")]
    NoNetwork(String),
    /// `relayed_by` names nothing.
    #[error("member {0:?} is relayed by {1:?}, which is no [[other_relay]]")]
    UnknownRelay(String, String),
    /// Two other relays have the same name.
    #[error("two other relays are named {0:?}: names are unique")]
    DuplicateRelay(String),
    /// More than one endpoint of a family.
    #[error("{0:?} has more than one endpoint of a family")]
    TwoEndpoints(String),
    /// Two hosts have the same static endpoint.
    #[error("{0:?} and {1:?} have the same static endpoint {2}")]
    DuplicateEndpoint(String, String, SocketAddr),
    /// An endpoint that nothing may be sent to.
    #[error("{0:?} has the endpoint {1}: {2}")]
    BadEndpoint(String, SocketAddr, &'static str),
}

impl Members {
    /// Checks and builds the desired state. `relay_key` is the relay's own public key.
    pub fn new(
        relay_key: PublicKey,
        policy: Policy,
        relays: impl IntoIterator<Item = OtherRelay>,
        members: impl IntoIterator<Item = Member>,
    ) -> Result<Self, MembersError> {
        let mut this = Self { relay_key: Some(relay_key), policy, ..Self::default() };
        relays.into_iter().try_for_each(|relay| this.add_relay(relay))?;
        members.into_iter().try_for_each(|member| this.add(member))?;
        Ok(this)
    }

    /// Adds another relay. An error changes nothing.
    pub fn add_relay(&mut self, relay: OtherRelay) -> Result<(), MembersError> {
        if self.relays.contains_key(&relay.name) {
            return Err(MembersError::DuplicateRelay(relay.name.to_string()));
        }
        self.claim(&relay.name, &relay.endpoints)?;
        self.relays.insert(relay.name.clone(), relay);
        Ok(())
    }

    /// Adds a member. An error changes nothing.
    pub fn add(&mut self, mut member: Member) -> Result<(), MembersError> {
        let (name, id) = (member.name.to_string(), member.public_key.id());
        if self.names.contains_key(&member.name) {
            return Err(MembersError::DuplicateName(name));
        }
        if self.relay_key == Some(member.public_key) {
            return Err(MembersError::IsRelay(name));
        }
        if id == MemberId(0) {
            return Err(MembersError::ZeroId(name));
        }
        if member.networks.is_empty() {
            return Err(MembersError::NoNetwork(name));
        }
        if let Some(other) = self.by_id.get(&id) {
            let other_name = other.name.to_string();
            return Err(if other.public_key == member.public_key {
                MembersError::DuplicateKey(other_name, name)
            } else {
                MembersError::IdCollision(other_name, name)
            });
        }
        match &member.place {
            Place::Relayed => {}
            Place::RelayedBy(relay) if self.relays.contains_key(relay) => {}
            Place::RelayedBy(relay) => return Err(MembersError::UnknownRelay(name, relay.to_string())),
            Place::Static(given) => self.claim(&member.name, given)?,
        }
        member.networks.sort();
        member.networks.dedup();
        self.relayed += usize::from(member.place == Place::Relayed);
        self.names.insert(member.name.clone(), id);
        self.by_id.insert(id, Arc::new(member));
        Ok(())
    }

    /// Takes static endpoints for `owner`.
    fn claim(&mut self, owner: &Arc<str>, given: &[SocketAddr]) -> Result<(), MembersError> {
        if given.iter().filter(|e| e.is_ipv4()).count() > 1
            || given.iter().filter(|e| e.is_ipv6()).count() > 1
        {
            return Err(MembersError::TwoEndpoints(owner.to_string()));
        }
        for &endpoint in given {
            if let Some(why) = unusable(endpoint) {
                return Err(MembersError::BadEndpoint(owner.to_string(), endpoint, why));
            }
            if let Some(other) = self.endpoints.get(&endpoint) {
                return Err(MembersError::DuplicateEndpoint(other.to_string(), owner.to_string(), endpoint));
            }
        }
        self.endpoints.extend(given.iter().map(|&endpoint| (endpoint, owner.clone())));
        Ok(())
    }

    /// Removes a member.
    pub fn remove(&mut self, id: MemberId) {
        let Some(member) = self.by_id.remove(&id) else { return };
        self.names.remove(&member.name);
        self.relayed -= usize::from(member.place == Place::Relayed);
        if let Place::Static(endpoints) = &member.place {
            endpoints.iter().for_each(|endpoint| drop(self.endpoints.remove(endpoint)));
        }
    }

    /// Removes another relay. Members that are relayed by it can't be found until they get another.
    pub fn remove_relay(&mut self, name: &str) {
        let Some(relay) = self.relays.remove(name) else { return };
        relay.endpoints.iter().for_each(|endpoint| drop(self.endpoints.remove(endpoint)));
    }

    /// The members that are different in `old`, at a cost that goes with their number if one was made from the other.
    pub fn changes_since<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = MemberChange<'a>> {
        old.by_id.diff(&self.by_id).map(|item| match item {
            DiffItem::Add(id, new) => (*id, None, Some(new)),
            DiffItem::Update { old: (id, old), new: (_, new) } => (*id, Some(old), Some(new)),
            DiffItem::Remove(id, old) => (*id, Some(old), None),
        })
    }

    /// Whether the other relays are the same.
    pub fn same_relays(&self, other: &Self) -> bool {
        self.relays == other.relays
    }

    /// The member with this id.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.by_id.get(&id).map(Arc::as_ref)
    }

    /// All members, by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (MemberId, &Member)> {
        self.by_id.iter().map(|(&id, member)| (id, &**member))
    }

    /// How many members are relayed by this relay.
    pub fn relayed(&self) -> usize {
        self.relayed
    }

    /// All other relays.
    pub fn relays(&self) -> impl ExactSizeIterator<Item = &OtherRelay> {
        self.relays.values()
    }

    /// The other relay with this name.
    pub fn relay(&self, name: &str) -> Option<&OtherRelay> {
        self.relays.get(name)
    }

    /// The policy.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether `a` and `b` may talk over this relay under policy `members`: both exist and differ, they share a network,
    /// and at least one of the two is relayed here.
    pub fn may_talk(&self, a: MemberId, b: MemberId) -> bool {
        let (Some(a), Some(b)) = (self.member(a), self.member(b)) else { return false };
        a.public_key != b.public_key
            && (a.place == Place::Relayed || b.place == Place::Relayed)
            && a.networks.iter().any(|network| b.networks.contains(network))
    }
}

/// Why nothing may be relayed from or to this endpoint, whoever asks: `None` if it is an ordinary unicast address with a
/// port. The relay's own addresses and the deny list are checked where they are known.
pub fn unusable(endpoint: SocketAddr) -> Option<&'static str> {
    if endpoint.port() == 0 {
        return Some("port 0 can't be sent to");
    }
    if let IpAddr::V6(ip) = endpoint.ip()
        && ip.to_ipv4_mapped().is_some()
    {
        // Packets carry, and the maps hold, the IPv4 address: this one would never match.
        return Some("an IPv4-mapped address is an IPv4 address: write it as such");
    }
    match endpoint.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => Some("a loopback address is the relay host itself"),
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Some("an unspecified address is no host"),
        IpAddr::V4(ip) if ip.is_multicast() => Some("a multicast address is not one host"),
        IpAddr::V4(ip) if ip.octets()[0] >= 240 => Some("a broadcast or reserved address is not one host"),
        IpAddr::V4(ip) if ip.is_link_local() => {
            Some("a link-local address needs an interface, which maps don't hold")
        }
        IpAddr::V6(ip) if ip.is_loopback() => Some("a loopback address is the relay host itself"),
        IpAddr::V6(ip) if ip.is_unspecified() => Some("an unspecified address is no host"),
        IpAddr::V6(ip) if ip.is_multicast() => Some("a multicast address is not one host"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            Some("a link-local address needs an interface, which maps don't hold")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: u8, last: u8) -> PublicKey {
        let mut bytes = [first; 32];
        bytes[31] = last;
        PublicKey(bytes)
    }

    fn member(name: &str, key: PublicKey, networks: &[&str], place: Place) -> Member {
        let networks = networks.iter().map(|&network| network.into()).collect();
        Member { name: name.into(), public_key: key, networks, place, rate_limit: None }
    }

    fn relayed(name: &str, first: u8) -> Member {
        member(name, key(first, 0), &["net"], Place::Relayed)
    }

    fn fixed(name: &str, first: u8, endpoints: &[&str]) -> Member {
        let endpoints = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        member(name, key(first, 0), &["net"], Place::Static(endpoints))
    }

    fn relay(name: &str, endpoints: &[&str]) -> OtherRelay {
        let endpoints = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        OtherRelay { name: name.into(), endpoints }
    }

    fn build(
        relays: impl IntoIterator<Item = OtherRelay>,
        members: impl IntoIterator<Item = Member>,
    ) -> Result<Members, MembersError> {
        Members::new(key(99, 99), Policy::Members, relays, members)
    }

    #[test]
    fn a_key_is_read_from_base64_and_shown_as_such() {
        let text = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
        let key = PublicKey::from_base64(text).unwrap();
        assert_eq!(key.0, std::array::from_fn(|n| n as u8 + 1));
        assert_eq!((key.to_string().as_str(), format!("{key:?}").as_str()), (text, text));
        assert_eq!(key.id(), MemberId(0x0807_0605_0403_0201), "the first eight bytes, little-endian");
        for bad in ["", "AQID", &text[..43], &format!("{text}A"), &text.replace('A', "*")] {
            assert_eq!(PublicKey::from_base64(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn peers_that_the_interface_does_not_take_are_left_out() {
        let peers = |firsts: &[u8]| firsts.iter().map(|&first| (key(first, 0), Peer::default())).collect();
        let members = Arc::new(build([], [relayed("a", 1), relayed("b", 4)]).unwrap());
        let left = |most, before: &[u8]| {
            let mut desired = Desired { members: Arc::clone(&members), peers: peers(&[1, 2, 3, 4]) };
            let beyond = desired.fit(most, &peers(before));
            (beyond, desired.peers)
        };
        assert_eq!(left(4, &[]), (0, peers(&[1, 2, 3, 4])));
        assert_eq!(left(3, &[1, 2]), (1, peers(&[1, 2, 4])), "who is new");
        assert_eq!(left(2, &[2, 3]), (2, peers(&[1, 4])), "who is not relayed here");
        assert_eq!(left(1, &[4]), (3, peers(&[4])));
    }

    #[test]
    fn members_and_relays_are_found_by_their_names_for_each_other() {
        let by = member("b", key(2, 0), &["net"], Place::RelayedBy("r".into()));
        let all = build([relay("r", &["192.0.2.7:1"])], [relayed("a", 1), by.clone()]).unwrap();
        assert_eq!(all.member(key(2, 0).id()), Some(&by));
        assert_eq!(all.member(key(3, 0).id()), None);
        assert_eq!(all.iter().map(|(id, _)| id).collect::<Vec<_>>(), [key(1, 0).id(), key(2, 0).id()]);
        assert_eq!(all.relay("r"), Some(&relay("r", &["192.0.2.7:1"])));
        assert_eq!((all.relays().len(), all.relay("x"), all.policy()), (1, None, Policy::Members));
    }

    #[test]
    fn what_can_not_be_is_refused_with_the_reason() {
        use MembersError::*;
        let s = str::to_owned;
        let at = |endpoint: &str| endpoint.parse::<SocketAddr>().unwrap();
        let nowhere = member("a", key(1, 0), &[], Place::Relayed);
        let lost = member("a", key(1, 0), &["net"], Place::RelayedBy("x".into()));
        let own = member("a", key(99, 99), &["net"], Place::Relayed);
        let cases = [
            (vec![], vec![relayed("a", 1), relayed("a", 2)], DuplicateName(s("a"))),
            (vec![], vec![relayed("a", 1), relayed("b", 1)], DuplicateKey(s("a"), s("b"))),
            (
                vec![],
                vec![relayed("a", 1), member("b", key(1, 7), &["net"], Place::Relayed)],
                IdCollision(s("a"), s("b")),
            ),
            (vec![], vec![relayed("a", 0)], ZeroId(s("a"))),
            (vec![], vec![own], IsRelay(s("a"))),
            (vec![], vec![nowhere], NoNetwork(s("a"))),
            (vec![], vec![lost], UnknownRelay(s("a"), s("x"))),
            (
                vec![relay("r", &["192.0.2.7:1"]), relay("r", &["192.0.2.8:1"])],
                vec![],
                DuplicateRelay(s("r")),
            ),
            (vec![], vec![fixed("a", 1, &["198.51.100.1:1", "198.51.100.2:1"])], TwoEndpoints(s("a"))),
            (vec![relay("r", &["[2001:db8::1]:1", "[2001:db8::2]:1"])], vec![], TwoEndpoints(s("r"))),
            (
                vec![],
                vec![fixed("a", 1, &["198.51.100.1:1"]), fixed("b", 2, &["198.51.100.1:1"])],
                DuplicateEndpoint(s("a"), s("b"), at("198.51.100.1:1")),
            ),
            (
                vec![relay("r", &["198.51.100.1:1"])],
                vec![fixed("b", 2, &["198.51.100.1:1"])],
                DuplicateEndpoint(s("r"), s("b"), at("198.51.100.1:1")),
            ),
            (
                vec![],
                vec![fixed("a", 1, &["198.51.100.1:0"])],
                BadEndpoint(s("a"), at("198.51.100.1:0"), "port 0 can't be sent to"),
            ),
        ];
        for (relays, members, error) in cases {
            assert_eq!(build(relays, members), Err(error));
        }
    }

    #[test]
    fn members_come_and_go_one_by_one() {
        let by_r = |name, first| member(name, key(first, 0), &["net"], Place::RelayedBy("r".into()));
        let before =
            build([relay("r", &["192.0.2.7:1"])], [relayed("a", 1), fixed("p", 4, &["198.51.100.1:1"])])
                .unwrap();
        let mut now = before.clone();
        now.add(by_r("c", 3)).unwrap();
        now.remove(key(4, 0).id());
        // Name, key and endpoint are free again.
        now.add(fixed("p", 5, &["198.51.100.1:1"])).unwrap();
        now.add(relayed("q", 4)).unwrap();
        assert_eq!(now.add(relayed("a", 6)), Err(MembersError::DuplicateName("a".into())));
        assert_eq!(now.add(by_r("d", 1)), Err(MembersError::DuplicateKey("a".into(), "d".into())));
        let all = [relayed("a", 1), relayed("q", 4), fixed("p", 5, &["198.51.100.1:1"]), by_r("c", 3)];
        assert_eq!(now, build([relay("r", &["192.0.2.7:1"])], all).unwrap());

        let names = |member: Option<&Arc<Member>>| member.map(|member| member.name.to_string());
        let changes: Vec<_> =
            now.changes_since(&before).map(|(id, old, new)| (id, names(old), names(new))).collect();
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(
            changes,
            [
                (key(3, 0).id(), None, some("c")),
                (key(4, 0).id(), some("p"), some("q")),
                (key(5, 0).id(), None, some("p")),
            ]
        );
        now.remove_relay("r");
        assert!(!now.same_relays(&before));
        now.add(fixed("s", 8, &["192.0.2.7:1"])).unwrap();
        assert_eq!(now.add(by_r("t", 9)), Err(MembersError::UnknownRelay("t".into(), "r".into())));
        assert_eq!(now.iter().len(), 5, "what is refused changes nothing");
    }

    #[test]
    fn one_address_of_each_family_is_fine_and_so_is_none() {
        let both = fixed("a", 1, &["198.51.100.1:1", "[2001:db8::1]:1"]);
        assert!(build([], [both, fixed("b", 2, &[]), fixed("c", 3, &["198.51.100.1:2"])]).is_ok());
    }

    #[test]
    fn two_may_talk_if_they_share_a_network_and_one_is_relayed_here() {
        let id = |first| key(first, 0).id();
        let all = build(
            [relay("r", &["192.0.2.7:1"])],
            [
                relayed("a", 1),
                member("b", key(2, 0), &["net", "other"], Place::Relayed),
                member("c", key(3, 0), &["other"], Place::Relayed),
                fixed("p", 4, &["198.51.100.1:1"]),
                member("q", key(5, 0), &["net", "other"], Place::RelayedBy("r".into())),
            ],
        )
        .unwrap();
        let pairs: Vec<_> = (1..=5)
            .flat_map(|a| (1..=5).map(move |b| (a, b)))
            .filter(|&(a, b)| all.may_talk(id(a), id(b)))
            .filter(|(a, b)| a < b)
            .collect();
        assert_eq!(pairs, [(1, 2), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5), (3, 5)]);
        for a in 1..=5 {
            assert!(!all.may_talk(id(a), id(a)), "nobody talks to itself");
            assert!(!all.may_talk(id(a), id(9)) && !all.may_talk(id(9), id(a)), "nobody talks to strangers");
            for b in 1..=5 {
                assert_eq!(all.may_talk(id(a), id(b)), all.may_talk(id(b), id(a)));
            }
        }
    }

    #[test]
    fn only_ordinary_unicast_endpoints_are_usable() {
        let bad = [
            "198.51.100.1:0",
            "127.0.0.1:1",
            "127.255.0.1:1",
            "0.0.0.0:1",
            "0.1.2.3:1",
            "224.0.0.1:1",
            "239.255.255.255:1",
            "240.0.0.1:1",
            "255.255.255.255:1",
            "169.254.1.1:1",
            "[::]:1",
            "[::1]:1",
            "[ff02::1]:1",
            "[fe80::1]:1",
            "[::ffff:127.0.0.1]:1",
            "[::ffff:224.0.0.1]:1",
            "[::ffff:198.51.100.1]:1",
        ];
        for endpoint in bad {
            assert!(unusable(endpoint.parse().unwrap()).is_some(), "{endpoint}");
        }
        let good = [
            "198.51.100.1:1",
            "10.0.0.1:65535",
            "100.64.0.1:1",
            "223.255.255.255:1",
            "[2001:db8::1]:1",
            "[fd00::1]:1",
        ];
        for endpoint in good {
            assert_eq!(unusable(endpoint.parse().unwrap()), None, "{endpoint}");
        }
    }
}
