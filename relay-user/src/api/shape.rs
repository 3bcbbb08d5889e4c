//! The shapes of the control plane's JSON: what the API takes and answers, on both sides of it.
//!
//! They are not the records: those hold hashes of secrets, and may change with the store's format.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;
use crate::{
    members::{PublicKey, RateLimit},
    model::{self, Name, Role, UnixTime, base64_key},
    status::Host,
    turn::credentials::{Key as TurnKey, Realm},
};

/// A network: who is in it may talk, at addresses of its prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Its name.
    pub name: Name,
    /// Its IPv4 prefix.
    #[schema(value_type = Option<schema::Ipv4Prefix>)]
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 prefix.
    #[schema(value_type = Option<schema::Ipv6Prefix>)]
    pub ipv6: Option<Ipv6Net>,
    /// How many members it has.
    pub members: usize,
    /// When it was last changed; also its ETag.
    pub revision: u64,
}

/// A network to be made. It has an IPv4 or an IPv6 prefix, or both.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewNetwork {
    /// Its name, unique among networks.
    pub name: Name,
    /// Its IPv4 prefix.
    #[serde(default)]
    #[schema(value_type = Option<schema::Ipv4Prefix>)]
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 prefix.
    #[serde(default)]
    #[schema(value_type = Option<schema::Ipv6Prefix>)]
    pub ipv6: Option<Ipv6Net>,
}

/// A network as it shall be. A prefix can only grow while it is in use.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkChange {
    /// Its IPv4 prefix.
    #[serde(default)]
    #[schema(value_type = Option<schema::Ipv4Prefix>)]
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 prefix.
    #[serde(default)]
    #[schema(value_type = Option<schema::Ipv6Prefix>)]
    pub ipv6: Option<Ipv6Net>,
}

/// A member's place in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The network.
    pub network: Name,
    /// Its IPv4 address there. The lowest free one if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Ipv4>)]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address there likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Ipv6>)]
    pub ipv6: Option<Ipv6Addr>,
    /// Ranges behind the member that the others reach through it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::Prefix>)]
    pub routes: Vec<IpNet>,
}

impl Membership {
    /// A membership with addresses still to be assigned.
    pub fn of(network: Name) -> Self {
        Self { network, ipv4: None, ipv6: None, routes: Vec::new() }
    }
}

/// A host with a WireGuard key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// Its public key.
    #[serde(with = "base64_key")]
    #[schema(value_type = schema::PublicKey)]
    pub public_key: PublicKey,
    /// Whether a relay has seen a handshake of this key. Until then nothing is relayed for it.
    pub active: bool,
    /// Its networks.
    pub networks: Vec<Membership>,
    /// Its static public endpoints.
    #[schema(value_type = Vec<schema::Endpoint>)]
    pub endpoints: Vec<SocketAddr>,
    /// The relay that relays it.
    pub relayed_by: Option<Name>,
    /// The one address of that relay that it was promised, if one in particular.
    #[schema(value_type = Option<schema::Address>)]
    pub relay_address: Option<IpAddr>,
    /// Whether it is a relay itself.
    pub is_relay: bool,
    /// How much is relayed for it, if that is limited.
    pub rate_limit: Option<RateLimit>,
    /// Its tags.
    pub tags: Vec<Name>,
    /// How it came here by itself, if it did.
    pub enrolled: Option<Enrolled>,
    /// When it was last changed; also its ETag.
    pub revision: u64,
}

/// How a member came here by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrolled {
    /// The enrolment key's id.
    pub key: Name,
    /// When, in seconds since 1970-01-01 UTC.
    #[schema(value_type = u64)]
    pub at: UnixTime,
}

/// A member to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// Its name, unique among members.
    pub name: Name,
    /// Its public key, unique among members.
    #[serde(with = "base64_key")]
    #[schema(value_type = schema::PublicKey)]
    pub public_key: PublicKey,
    /// Its networks, at least one.
    pub networks: Vec<Membership>,
    /// Its static public endpoints, at most one of each family.
    #[serde(default)]
    #[schema(value_type = Vec<schema::Endpoint>)]
    pub endpoints: Vec<SocketAddr>,
    /// How much is relayed for it.
    #[serde(default)]
    pub rate_limit: RateLimit,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<Name>,
    /// Whether to draw a secret for its owner, who can then read its configuration and have it join other networks.
    #[serde(default)]
    pub owner: bool,
}

/// What becomes different about a member. What is not given stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberChange {
    /// All its networks from now on. An address that is not given stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<Membership>>,
    /// All its static endpoints from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<schema::Endpoint>>)]
    pub endpoints: Option<Vec<SocketAddr>>,
    /// How much is relayed for it from now on. An empty one takes the limit away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// All its tags from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<Name>>,
    /// Whether to draw a new secret for its owner. The one before is of no use then.
    #[serde(default)]
    pub owner: bool,
}

/// A member, and its owner's secret if one was drawn.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MemberWithOwner {
    /// The member.
    pub member: Member,
    /// The owner's secret, as NAME.SECRET. It is told this once.
    pub owner: Option<String>,
}

/// A relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Relay {
    /// The member's name.
    pub name: Name,
    /// The member's public key.
    #[serde(with = "base64_key")]
    #[schema(value_type = schema::PublicKey)]
    pub public_key: PublicKey,
    /// The member's networks.
    pub networks: Vec<Name>,
    /// Its public addresses, the preferred one first.
    #[schema(value_type = Vec<schema::Address>)]
    pub addresses: Vec<IpAddr>,
    /// Its public port.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: u16,
    /// Whether private addresses are allowed, for a relay that serves one site.
    pub private: bool,
    /// How many hosts it relays.
    pub hosts: usize,
    /// Whether it is alive, as far as the store tells.
    pub alive: bool,
    /// When it was last changed; also its ETag.
    pub revision: u64,
}

/// A relay to be made. For this process's own relay the name is enough, and the networks if it is in none yet.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRelay {
    /// The name of the member that becomes a relay. If there is none, it is made.
    pub name: Name,
    /// Its public key, if it has to be made and is not this process's own relay.
    #[serde(default, with = "optional_key", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::PublicKey>)]
    pub public_key: Option<PublicKey>,
    /// Its networks, if it has to be made.
    #[serde(default)]
    pub networks: Vec<Membership>,
    /// Its public addresses. If none is given: those of this process's own relay, or else of the member's endpoints.
    #[serde(default)]
    #[schema(value_type = Vec<schema::Address>)]
    pub addresses: Vec<IpAddr>,
    /// Its public port likewise.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    /// Allows private addresses, for a relay that serves one site.
    #[serde(default)]
    pub private: bool,
    /// The hosts that it relays at once.
    #[serde(default)]
    pub hosts: Vec<Name>,
    /// Whether it relays all hosts of its networks at once that have no relay.
    #[serde(default)]
    pub all: bool,
}

/// A relay's addresses as they shall be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RelayChange {
    /// Its public addresses, the preferred one first.
    #[schema(value_type = Vec<schema::Address>)]
    pub addresses: Vec<IpAddr>,
    /// Its public port.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: u16,
    /// Allows private addresses, for a relay that serves one site.
    #[serde(default)]
    pub private: bool,
}

/// Hosts to be relayed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RelayHosts {
    /// These.
    #[serde(default)]
    pub hosts: Vec<Name>,
    /// All of the relay's networks that have no relay, instead.
    #[serde(default)]
    pub all: bool,
    /// The relay's address that they shall use, if one in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Address>)]
    pub address: Option<IpAddr>,
}

/// A host that a relay relays.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RelayedHost {
    /// Its name.
    pub name: Name,
    /// Its public key.
    #[serde(with = "base64_key")]
    #[schema(value_type = schema::PublicKey)]
    pub public_key: PublicKey,
    /// Whether a relay has seen a handshake of this key. Until then nothing is relayed for it.
    pub active: bool,
    /// Its networks, with its addresses there.
    pub networks: Vec<Membership>,
    /// The relay's address and port that it uses for all its peers.
    #[schema(value_type = Option<schema::Endpoint>)]
    pub relay_endpoint: Option<SocketAddr>,
    /// What the relay sees of it, if the relay is this process's own.
    pub seen: Option<Host>,
}

/// An enrolment key: lets hosts join a network by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnrolmentKey {
    /// Its id.
    pub id: Name,
    /// The network that hosts join with it.
    pub network: Name,
    /// The relay that relays them from then on.
    pub relay: Option<Name>,
    /// Tags that they get.
    pub tags: Vec<Name>,
    /// How many may still join, if that is limited.
    #[schema(value_type = Option<u64>)]
    pub uses_left: Option<u32>,
    /// From when on it is of no use, in seconds since 1970-01-01 UTC.
    #[schema(value_type = Option<u64>)]
    pub expires: Option<UnixTime>,
    /// When it was last changed; also its ETag.
    pub revision: u64,
}

/// An enrolment key to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEnrolmentKey {
    /// Its id. One is drawn if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Name>,
    /// The network that hosts join with it.
    pub network: Name,
    /// The relay that relays them from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Name>,
    /// Tags that they get.
    #[serde(default)]
    pub tags: Vec<Name>,
    /// How many may join. Any number if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 4294967295u64)]
    pub uses: Option<u32>,
    /// For how many seconds it is good. For ever if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 4294967295u64)]
    pub valid_seconds: Option<u32>,
}

/// An enrolment key, and its secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyWithSecret {
    /// The key.
    pub key: EnrolmentKey,
    /// What hosts enrol with, as ID.SECRET. It is told this once.
    pub secret: String,
}

/// A bearer token of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its id.
    pub id: Name,
    /// What it allows.
    pub role: Role,
    /// From when on it is of no use, in seconds since 1970-01-01 UTC.
    #[schema(value_type = Option<u64>)]
    pub expires: Option<UnixTime>,
    /// When it was last changed; also its ETag.
    pub revision: u64,
}

/// A token to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Its id. One is drawn if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Name>,
    /// What it allows.
    pub role: Role,
    /// For how many seconds it is good. For ever if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 4294967295u64)]
    pub valid_seconds: Option<u32>,
}

/// A token, and its secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenWithSecret {
    /// The token.
    pub token: Token,
    /// What to give as the bearer token, as ID.SECRET. It is told this once.
    pub secret: String,
}

/// A user of the relays' TURN servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TurnUser {
    /// Its name.
    pub name: Name,
    /// The realm of the servers that it may use.
    #[schema(value_type = schema::Realm)]
    pub realm: Realm,
    /// When it was last changed; also its ETag.
    pub revision: u64,
}

/// A user of the relays' TURN servers to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTurnUser {
    /// Its name, unique among these.
    pub name: Name,
    /// The realm of the servers that it may use.
    #[schema(value_type = schema::Realm)]
    pub realm: Realm,
    /// Its key: MD5 of `name:realm:password`. It is not told to anybody.
    #[schema(value_type = schema::TurnKey)]
    pub key: TurnKey,
}

/// A user of the relays' TURN servers as it shall be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TurnUserChange {
    /// The realm of the servers that it may use.
    #[schema(value_type = schema::Realm)]
    pub realm: Realm,
    /// Its key: MD5 of `name:realm:password`. It is not told to anybody.
    #[schema(value_type = schema::TurnKey)]
    pub key: TurnKey,
}

/// A host that joins.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// The enrolment key, as ID.SECRET.
    #[schema(value_type = schema::Credential)]
    pub key: String,
    /// The name that it wants. A host that is known already keeps its own.
    pub name: Name,
    /// Its public key.
    #[serde(with = "base64_key")]
    #[schema(value_type = schema::PublicKey)]
    pub public_key: PublicKey,
    /// Its static public endpoints, if it has any. A host that is known already keeps its own.
    #[serde(default)]
    #[schema(value_type = Vec<schema::Endpoint>)]
    pub endpoints: Vec<SocketAddr>,
    /// Its owner's secret, as NAME.SECRET: what it was told when it joined first. A new host may bring 32 random bytes
    /// of its own (base64 for URLs), so that it can ask again if it has not heard the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Credential>)]
    pub proof: Option<String>,
}

/// A host has joined.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EnrolAnswer {
    /// What it is now.
    pub member: Member,
    /// Its owner's secret, as NAME.SECRET, if the host is new. It is told this once.
    pub owner: Option<String>,
    /// What its WireGuard interface needs.
    pub configuration: Configuration,
}

/// A member's WireGuard configuration but for the private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    /// The interface's addresses, each with its network's prefix length.
    #[schema(value_type = Vec<schema::Prefix>)]
    pub addresses: Vec<IpNet>,
    /// The port to listen at, if it matters.
    pub listen_port: Option<u16>,
    /// The interface's MTU.
    pub mtu: u16,
    /// The relay that relays it.
    pub relayed_by: Option<Name>,
    /// The peers, by name.
    pub peers: Vec<Peer>,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// The member's name.
    pub name: Name,
    /// Its public key.
    #[serde(with = "base64_key")]
    #[schema(value_type = schema::PublicKey)]
    pub public_key: PublicKey,
    /// Where to send to at first; none if it has to come to us.
    #[schema(value_type = Option<schema::Endpoint>)]
    pub endpoint: Option<SocketAddr>,
    /// Its addresses and routes.
    #[schema(value_type = Vec<schema::Prefix>)]
    pub allowed_ips: Vec<IpNet>,
    /// Keepalive interval in seconds.
    pub keepalive: Option<u16>,
    /// Whether it is a relay.
    pub is_relay: bool,
}

impl Configuration {
    /// A member's configuration as a state has it.
    pub fn of(
        state: &model::State,
        member: &str,
        via: model::ViaRelay,
    ) -> Result<(Self, model::Configuration), model::Refusal> {
        let configuration = state.configuration(member, via)?;
        let relayed = state.member(member).and_then(|member| member.relayed.as_ref());
        let peers = configuration.peers.iter().map(|peer| Peer {
            name: peer.name.clone(),
            public_key: peer.public_key,
            endpoint: peer.endpoint,
            allowed_ips: peer.allowed_ips.clone(),
            keepalive: peer.keepalive,
            is_relay: state.relay(peer.name.as_str()).is_some(),
        });
        let shape = Self {
            addresses: configuration.addresses.clone(),
            listen_port: configuration.listen_port,
            mtu: configuration.mtu,
            relayed_by: relayed.map(|relayed| relayed.by.clone()),
            peers: peers.collect(),
        };
        Ok((shape, configuration))
    }
}

impl From<Configuration> for model::Configuration {
    fn from(Configuration { addresses, listen_port, mtu, peers, .. }: Configuration) -> Self {
        let peer = |Peer { name, public_key, endpoint, allowed_ips, keepalive, .. }| model::Peer {
            name,
            public_key,
            endpoint,
            allowed_ips,
            keepalive,
        };
        Self { addresses, listen_port, mtu, peers: peers.into_iter().map(peer).collect() }
    }
}

/// What a change would bring with it, if it were made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// Besides what it is about. Nothing has been done.
    pub consequences: Vec<Consequence>,
}

/// What a change is answered with: what it is about as it is now, or what a dry run tells.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum OrDryRun<T> {
    /// Nothing has been done.
    DryRun(DryRun),
    /// It is done.
    Done(T),
}

/// What a change brings with it, besides what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "what", rename_all = "snake_case")]
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
    Deleted {
        /// Its kind and name, as `key/NAME`.
        record: String,
    },
    /// A record changes as well.
    Changed {
        /// Its kind and name, as `member/NAME`.
        record: String,
    },
}

impl From<model::Consequence> for Consequence {
    fn from(consequence: model::Consequence) -> Self {
        match consequence {
            model::Consequence::Relayed { host, from, to } => Self::Relayed { host, from, to },
            model::Consequence::Deleted(key) => Self::Deleted { record: key.to_string() },
            model::Consequence::Changed(key) => Self::Changed { record: key.to_string() },
        }
    }
}

/// A server-sent event of the change stream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangeEvent {
    /// `changed`.
    pub event: String,
    /// The state's revision.
    pub id: String,
    /// What has changed, as JSON: see `Changed`.
    pub data: String,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// The state's revision.
    pub revision: u64,
    /// The records that are different, as `member/NAME`. Anything may be if there is no list.
    pub records: Option<Vec<String>>,
}

/// That the API answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// wgrelay's version.
    pub version: String,
    /// What is wrong with the store at the moment, if anything is. The last good state is shown then.
    pub store: Option<String>,
}

impl Network {
    pub(super) fn of(state: &model::State, kept: &model::Kept<model::Network>) -> Self {
        Self {
            name: kept.name.clone(),
            ipv4: kept.ipv4,
            ipv6: kept.ipv6,
            members: state.members_of(kept.name.as_str()).count(),
            revision: kept.revision.0,
        }
    }
}

impl Member {
    pub(super) fn of(state: &model::State, kept: &model::Kept<model::Member>) -> Self {
        Self {
            name: kept.name.clone(),
            public_key: kept.public_key,
            active: kept.active,
            networks: memberships(&kept.networks),
            endpoints: kept.endpoints.clone(),
            relayed_by: kept.relayed.as_ref().map(|relayed| relayed.by.clone()),
            relay_address: kept.relayed.as_ref().and_then(|relayed| relayed.address),
            is_relay: state.relay(kept.name.as_str()).is_some(),
            rate_limit: kept.rate_limit,
            tags: kept.tags.clone(),
            enrolled: kept
                .enrolled
                .as_ref()
                .map(|enrolled| Enrolled { key: enrolled.key.clone(), at: enrolled.at }),
            revision: kept.revision.0,
        }
    }
}

impl EnrolmentKey {
    pub(super) fn of(kept: &model::Kept<model::EnrolmentKey>) -> Self {
        Self {
            id: kept.id.clone(),
            network: kept.network.clone(),
            relay: kept.relay.clone(),
            tags: kept.tags.clone(),
            uses_left: kept.uses_left,
            expires: kept.expires,
            revision: kept.revision.0,
        }
    }
}

impl Token {
    pub(super) fn of(kept: &model::Kept<model::Token>) -> Self {
        Self { id: kept.id.clone(), role: kept.role, expires: kept.expires, revision: kept.revision.0 }
    }
}

impl TurnUser {
    pub(super) fn of(kept: &model::Kept<model::TurnUser>) -> Self {
        Self { name: kept.name.clone(), realm: kept.realm.clone(), revision: kept.revision.0 }
    }
}

pub(super) fn memberships(places: &[model::Membership]) -> Vec<Membership> {
    let shape = |place: &model::Membership| Membership {
        network: place.network.clone(),
        ipv4: place.ipv4,
        ipv6: place.ipv6,
        routes: place.routes.clone(),
    };
    places.iter().map(shape).collect()
}

impl From<Membership> for model::Membership {
    fn from(Membership { network, ipv4, ipv6, routes }: Membership) -> Self {
        Self { network, ipv4, ipv6, routes }
    }
}

/// A public key that may be missing.
mod optional_key {
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    use super::{PublicKey, base64_key};

    #[derive(Deserialize)]
    struct Given(#[serde(with = "base64_key")] PublicKey);

    pub(super) fn serialize<S: Serializer>(
        key: &Option<PublicKey>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        key.map(|key| key.to_string()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PublicKey>, D::Error> {
        Ok(Option::<Given>::deserialize(deserializer)?.map(|Given(key)| key))
    }
}
