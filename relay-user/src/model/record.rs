//! What is kept: records, each a JSON value under a key of one flat, ordered key space.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Name, SecretHash};
use crate::{
    members::{PublicKey, RateLimit},
    turn::credentials::{Key as TurnKey, Realm},
};

/// Seconds since 1970-01-01 UTC.
pub type UnixTime = u64;

/// A number that grows with every change of the store. A record's is that of its last change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// A network: who is in it may talk, at addresses of its prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name, unique among networks.
    pub name: Name,
    /// Its IPv4 prefix; it has this or an IPv6 prefix, or both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Net>,
}

impl Network {
    /// Its prefixes.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.ipv4.map(IpNet::V4).into_iter().chain(self.ipv6.map(IpNet::V6))
    }
}

/// A member's place in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The network.
    pub network: Name,
    /// Its IPv4 address in the network, if that has such; in a command, the one that is wished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Ranges behind the member that the others reach through it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<IpNet>,
}

impl Membership {
    /// A membership with addresses still to be assigned.
    pub fn of(network: Name) -> Self {
        Self { network, ipv4: None, ipv6: None, routes: Vec::new() }
    }

    /// The addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}

/// By whom a member is relayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relayed {
    /// The relay.
    pub by: Name,
    /// The relay's address that the member was promised, if one in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// How a member came here by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// The enrolment key's id.
    pub key: Name,
    /// When.
    pub at: UnixTime,
}

/// A host with a WireGuard key. All but the memberships belongs to the key as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name, unique among members.
    pub name: Name,
    /// Its public key, unique among members.
    #[serde(with = "base64_key")]
    pub public_key: PublicKey,
    /// Whether a relay's interface has seen a handshake of this key: until then the key is not proven to be the host's,
    /// and nothing is relayed for it.
    #[serde(default)]
    pub active: bool,
    /// Its networks, by name, at least one.
    pub networks: Vec<Membership>,
    /// Its static public endpoints, at most one for each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<SocketAddr>,
    /// Its relay, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relayed: Option<Relayed>,
    /// How much is relayed for it, if that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Tags, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Name>,
    /// Hash of the secret that its owner has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<SecretHash>,
    /// How it came here by itself, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled: Option<Enrolled>,
}

impl Member {
    /// Its place in a network.
    pub fn membership(&self, network: &Name) -> Option<&Membership> {
        self.networks.iter().find(|m| m.network == *network)
    }

    /// When its unproven key was reserved, if it enrolled by itself: the key lapses
    /// [`RESERVED_SECONDS`](super::RESERVED_SECONDS) later.
    pub fn pending_since(&self) -> Option<UnixTime> {
        self.enrolled.as_ref().filter(|_| !self.active).map(|enrolled| enrolled.at)
    }
}

/// What makes a member a relay. It has the member's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// The member's name.
    pub name: Name,
    /// Its public addresses, at least one, the preferred one first. They may differ from its interface's, as behind a 1:1
    /// NAT.
    pub addresses: Vec<IpAddr>,
    /// Its public port.
    pub port: u16,
    /// Allows private addresses, for a relay that serves one site.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}

impl Relay {
    /// Its public endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().map(|&address| SocketAddr::new(address, self.port))
    }
}

/// What lets hosts join a network by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentKey {
    /// Its id.
    pub id: Name,
    /// Hash of its secret.
    pub secret: SecretHash,
    /// The network that hosts join with it.
    pub network: Name,
    /// The relay that relays them from then on, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Name>,
    /// Tags that they get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Name>,
    /// How many may still join, if that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_left: Option<u32>,
    /// From when on it is of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
}

/// What a bearer of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// See everything but secrets.
    Read,
    /// Enrol hosts.
    Enrol,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Read => "read",
            Self::Enrol => "enrol",
        })
    }
}

/// A bearer token of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Its id.
    pub id: Name,
    /// Hash of its secret.
    pub secret: SecretHash,
    /// What it allows.
    pub role: Role,
    /// From when on it is of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
}

/// A user of the relays' TURN servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnUser {
    /// Its name, unique among these.
    pub name: Name,
    /// The realm of the servers that it may use: its key is good for no other.
    pub realm: Realm,
    /// Its long-term key. The password is kept nowhere.
    pub key: TurnKey,
}

/// A public key as its usual base64 text.
pub mod base64_key {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::PublicKey;

    /// Writes it.
    pub fn serialize<S: Serializer>(key: &PublicKey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(key)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        PublicKey::from_base64(&text).ok_or_else(|| {
            D::Error::custom("not a WireGuard public key: give the 44 characters that `wg pubkey` prints")
        })
    }
}

/// Defines [`Key`] and [`Record`], which go by the same kinds.
macro_rules! kinds {
    ($($kind:ident, $prefix:literal, $name:ident, $what:literal;)*) => {
        /// Where a record is kept.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key {
            $(#[doc = concat!("`", $prefix, "/`, then the name: ", $what, ".")] $kind(Name),)*
        }

        /// A record of any kind.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Record {
            $(#[doc = $what] $kind($kind),)*
        }

        impl Key {
            /// The name or id within its kind.
            pub fn name(&self) -> &Name {
                match self { $(Self::$kind(name) => name,)* }
            }
        }

        impl fmt::Display for Key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$kind(name) => write!(f, concat!($prefix, "/{}"), name),)* }
            }
        }

        impl FromStr for Key {
            type Err = RecordError;

            fn from_str(text: &str) -> Result<Self, RecordError> {
                let unknown = || RecordError::UnknownKind(text.to_owned());
                let (kind, name) = text.split_once('/').ok_or_else(unknown)?;
                let name = name.parse().map_err(|_| unknown())?;
                match kind { $($prefix => Ok(Self::$kind(name)),)* _ => Err(unknown()) }
            }
        }

        impl Record {
            /// Where it is kept.
            pub fn key(&self) -> Key {
                match self { $(Self::$kind(record) => Key::$kind(record.$name.clone()),)* }
            }

            /// Its JSON.
            pub fn encode(&self) -> Vec<u8> {
                let json = match self { $(Self::$kind(record) => serde_json::to_vec(record),)* };
                json.expect("records have no maps with odd keys")
            }

            /// Reads what is kept under `key`.
            pub fn decode(key: &Key, json: &[u8]) -> Result<Self, RecordError> {
                let record = match key {
                    $(Key::$kind(_) => serde_json::from_slice(json).map(Self::$kind),)*
                };
                let fault = |reason| RecordError::Unreadable { key: key.to_string(), reason };
                let record = record.map_err(|error| fault(error.to_string()))?;
                if record.key() == *key {
                    Ok(record)
                } else {
                    Err(fault(format!("it calls itself {}", record.key())))
                }
            }
        }
    };
}

kinds! {
    EnrolmentKey, "key", id, "an enrolment key";
    Member, "member", name, "a member";
    Network, "network", name, "a network";
    Relay, "relay", name, "what makes a member a relay";
    Token, "token", id, "a token of the API";
    TurnUser, "turn-user", name, "a user of the TURN servers";
}

/// A change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all put something, and there are never many at a time")]
pub enum Op {
    /// It is this from now on.
    Put(Record),
    /// It is gone.
    Delete(Key),
}

impl Op {
    /// Which record.
    pub fn key(&self) -> Key {
        match self {
            Self::Put(record) => record.key(),
            Self::Delete(key) => key.clone(),
        }
    }
}

/// Why something in a store is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The key is none of ours.
    #[error("{0:?} is no key of a record that this version of wgrelay knows: is another newer?")]
    UnknownKind(String),
    /// The value is not what the key says.
    #[error("the record {key} can't be read: {reason}; restore it, or delete it from the store")]
    Unreadable {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}
