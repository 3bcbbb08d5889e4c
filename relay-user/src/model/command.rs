//! What can be asked of the model.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::{
    Credential, EnrolmentKey, Key, Membership, Name, Network, Relay, Revision, SecretHash, Token, TurnUser,
};
use crate::members::{PublicKey, RateLimit};

/// A command, and the revision that its subject must still have (If-Match), if that matters.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// The revision that [`Command::subject`] must have.
    pub expected: Option<Revision>,
}

impl From<Command> for Request {
    fn from(command: Command) -> Self {
        Self { command, expected: None }
    }
}

/// A change that somebody wants.
#[derive(Clone, Debug)]
pub enum Command {
    /// Makes a network.
    CreateNetwork(Network),
    /// Gives a network other prefixes. Members that lack an address get one.
    ChangeNetwork(Network),
    /// Deletes an empty network and the enrolment keys for it.
    DeleteNetwork(Name),
    /// Makes a member.
    CreateMember(NewMember),
    /// Changes a member.
    ChangeMember(Name, MemberChange),
    /// Deletes a member that is no relay.
    DeleteMember(Name),
    /// Makes a member a relay and, if hosts are named, has them relayed by it.
    CreateRelay(NewRelay),
    /// Gives a relay other public addresses.
    ChangeRelay(Relay),
    /// Makes a relay an ordinary member again. Its hosts are relayed by another from then on, or not at all.
    DeleteRelay {
        /// The relay.
        name: Name,
        /// Where its hosts, and the enrolment keys that name it, go.
        move_to: Option<Name>,
    },
    /// Has hosts relayed.
    RelayHosts {
        /// By whom.
        relay: Name,
        /// Which; those of other relays only if they are named.
        hosts: Hosts,
        /// The relay's address that they shall use, if one in particular.
        address: Option<IpAddr>,
    },
    /// Has hosts relayed no more.
    ReleaseHosts {
        /// By whom they are relayed.
        relay: Name,
        /// Which.
        hosts: Hosts,
    },
    /// Has hosts relayed by others while their relay is gone. Hosts that are not relayed by it any more stay where they are,
    /// and so do those that no other relay can take.
    FailOver {
        /// The relay that is gone.
        from: Name,
        /// The hosts that will notice: others would be lost to their relay when it is back.
        hosts: Vec<Name>,
        /// The relays that are there.
        alive: BTreeSet<Name>,
    },
    /// Makes an enrolment key.
    CreateKey(EnrolmentKey),
    /// Deletes an enrolment key. Who has joined with it stays.
    DeleteKey(Name),
    /// Joins a network with an enrolment key.
    Enrol(Enrol),
    /// Makes a token of the API.
    CreateToken(Token),
    /// Deletes a token.
    DeleteToken(Name),
    /// Makes a user of the TURN servers.
    CreateTurnUser(TurnUser),
    /// Gives one another key.
    ChangeTurnUser(TurnUser),
    /// Deletes one. Its allocations end.
    DeleteTurnUser(Name),
    /// A relay's interface has seen handshakes of these keys. Keys that nobody has, or that are active, are passed over.
    Activate(Vec<PublicKey>),
    /// Removes enrolled members that never proved their key.
    Sweep,
}

impl Command {
    /// The record that the command is about, if it is about one that exists already.
    pub fn subject(&self) -> Option<Key> {
        Some(match self {
            Self::ChangeNetwork(network) => Key::Network(network.name.clone()),
            Self::DeleteNetwork(name) => Key::Network(name.clone()),
            Self::ChangeMember(name, _) | Self::DeleteMember(name) => Key::Member(name.clone()),
            Self::ChangeRelay(relay) => Key::Relay(relay.name.clone()),
            Self::DeleteRelay { name, .. } => Key::Relay(name.clone()),
            Self::RelayHosts { relay, .. } | Self::ReleaseHosts { relay, .. } => Key::Relay(relay.clone()),
            Self::DeleteKey(id) => Key::EnrolmentKey(id.clone()),
            Self::DeleteToken(id) => Key::Token(id.clone()),
            Self::ChangeTurnUser(user) => Key::TurnUser(user.name.clone()),
            Self::DeleteTurnUser(name) => Key::TurnUser(name.clone()),
            Self::CreateNetwork(_)
            | Self::CreateMember(_)
            | Self::CreateRelay(_)
            | Self::CreateKey(_)
            | Self::CreateToken(_)
            | Self::CreateTurnUser(_)
            | Self::Enrol(_)
            | Self::FailOver { .. }
            | Self::Activate(_)
            | Self::Sweep => return None,
        })
    }

    /// The record that the command makes, if it is about one that does not exist yet.
    pub fn makes(&self) -> Option<Key> {
        Some(match self {
            Self::CreateNetwork(network) => Key::Network(network.name.clone()),
            Self::CreateMember(member) => Key::Member(member.name.clone()),
            Self::CreateRelay(new) => Key::Relay(new.relay.name.clone()),
            Self::CreateKey(key) => Key::EnrolmentKey(key.id.clone()),
            Self::CreateToken(token) => Key::Token(token.id.clone()),
            Self::CreateTurnUser(user) => Key::TurnUser(user.name.clone()),
            _ => return None,
        })
    }
}

/// A member to be made.
#[derive(Clone, Debug)]
pub struct NewMember {
    /// Its name.
    pub name: Name,
    /// Its public key.
    pub public_key: PublicKey,
    /// Its networks, with the addresses that are wished.
    pub networks: Vec<Membership>,
    /// Its static endpoints.
    pub endpoints: Vec<SocketAddr>,
    /// How much is relayed for it.
    pub rate_limit: RateLimit,
    /// Its tags.
    pub tags: Vec<Name>,
    /// Hash of the secret that its owner gets.
    pub owner: Option<SecretHash>,
}

/// What becomes different about a member. What is `None` stays. Its name and key always do: another key is another member.
#[derive(Clone, Debug, Default)]
pub struct MemberChange {
    /// All its networks; an address that is not given stays, or is assigned.
    pub networks: Option<Vec<Membership>>,
    /// All its static endpoints.
    pub endpoints: Option<Vec<SocketAddr>>,
    /// How much is relayed for it.
    pub rate_limit: Option<RateLimit>,
    /// All its tags.
    pub tags: Option<Vec<Name>>,
    /// Hash of a new secret for its owner.
    pub owner: Option<SecretHash>,
}

/// A relay to be designated.
#[derive(Clone, Debug)]
pub struct NewRelay {
    /// What it will be. Without addresses, the member's static endpoints are taken.
    pub relay: Relay,
    /// The hosts that it relays at once.
    pub hosts: Hosts,
}

/// Which hosts.
#[derive(Clone, Debug)]
pub enum Hosts {
    /// All of the relay's networks that can be meant.
    All,
    /// These.
    Named(Vec<Name>),
}

/// A host that joins.
#[derive(Clone, Debug)]
pub struct Enrol {
    /// The enrolment key, as the host shows it.
    pub key: Credential,
    /// The name that it wants; a host that is known already keeps its own.
    pub name: Name,
    /// Its public key.
    pub public_key: PublicKey,
    /// Its static endpoints; a host that is known already keeps its own.
    pub endpoints: Vec<SocketAddr>,
    /// Hash of the owner's secret that it gets if it is new.
    pub owner: SecretHash,
    /// The owner's secret that it got earlier, for a key that is known already.
    pub proof: Option<Credential>,
}
