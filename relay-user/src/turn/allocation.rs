//! What one client has: its relayed addresses, whom it may talk to, and its channels.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use turn_types::stun::message::TransactionId;

use super::credentials::{Key, User};
use crate::{handshake::Timestamp, maps::Traffic};

/// How long a permission lasts (RFC 8656, section 9).
pub const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// How long a channel lasts (RFC 8656, section 12).
pub const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// A relayed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// The address.
    pub address: SocketAddr,
    /// When it ends, unless it is refreshed.
    pub until: Timestamp,
}

/// A channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Where it leads.
    pub peer: SocketAddr,
    /// When it ends, unless it is bound again.
    pub until: Timestamp,
}

/// What has passed, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BothWays {
    /// From the client to its peers.
    pub sent: Traffic,
    /// From its peers to the client.
    pub received: Traffic,
}

impl std::ops::AddAssign for BothWays {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Allocation {
    /// Whose it is; nobody else's messages change it.
    pub username: String,
    /// Whose quota it counts in.
    pub account: String,
    /// What the request that made it was signed with.
    pub key: Key,
    /// That request.
    pub transaction: TransactionId,
    /// What goes with the next channel, should the client repeat it.
    pub reservation: Option<u64>,
    /// One for each family that it has.
    pub relayed: Vec<Relayed>,
    /// What userspace has passed on.
    pub traffic: BothWays,
    permissions: HashMap<IpAddr, Timestamp>,
    channels: HashMap<u16, Channel>,
    numbers: HashMap<SocketAddr, u16>,
}

impl Allocation {
    /// Without permissions and channels.
    pub fn new(username: String, user: User, transaction: TransactionId, relayed: Vec<Relayed>) -> Self {
        Self {
            username,
            account: user.account,
            key: user.key,
            transaction,
            reservation: None,
            relayed,
            traffic: BothWays::default(),
            permissions: HashMap::new(),
            channels: HashMap::new(),
            numbers: HashMap::new(),
        }
    }

    /// The relayed address that a peer is sent to from.
    pub fn relayed_for(&self, peer: IpAddr) -> Option<Relayed> {
        self.relayed.iter().find(|relayed| relayed.address.is_ipv4() == peer.is_ipv4()).copied()
    }

    /// Permits a peer's address.
    pub fn permit(&mut self, now: Timestamp, peer: IpAddr) {
        self.permissions.insert(peer, now + PERMISSION_LIFETIME);
    }

    /// Whether a peer's address is permitted.
    pub fn permits(&self, now: Timestamp, peer: IpAddr) -> bool {
        self.permissions.get(&peer).is_some_and(|until| *until > now)
    }

    /// The addresses that are permitted, or were until lately.
    pub fn permitted(&self) -> impl Iterator<Item = IpAddr> {
        self.permissions.keys().copied()
    }

    /// How many permissions there would be with these.
    pub fn permissions_with(&self, peers: &[IpAddr]) -> usize {
        let mut new: Vec<_> = peers.iter().filter(|peer| !self.permissions.contains_key(peer)).collect();
        new.sort_unstable();
        new.dedup();
        self.permissions.len() + new.len()
    }

    /// Whether this number may be bound to this peer: neither is bound to another.
    pub fn may_bind(&self, number: u16, peer: SocketAddr) -> bool {
        self.channels.get(&number).is_none_or(|channel| channel.peer == peer)
            && self.numbers.get(&peer).is_none_or(|bound| *bound == number)
    }

    /// Binds a channel, and permits its peer.
    pub fn bind(&mut self, now: Timestamp, number: u16, peer: SocketAddr) {
        self.channels.insert(number, Channel { peer, until: now + CHANNEL_LIFETIME });
        self.numbers.insert(peer, number);
        self.permit(now, peer.ip());
    }

    /// The peer that a channel leads to.
    pub fn peer(&self, now: Timestamp, number: u16) -> Option<SocketAddr> {
        self.channels.get(&number).filter(|channel| channel.until > now).map(|channel| channel.peer)
    }

    /// The channel that leads to a peer.
    pub fn number(&self, now: Timestamp, peer: SocketAddr) -> Option<u16> {
        self.numbers.get(&peer).copied().filter(|number| self.peer(now, *number).is_some())
    }

    /// The channels, with when they stop to forward: when they end, or the permission or the relayed address that they
    /// need.
    pub fn channels(&self) -> impl Iterator<Item = (u16, Relayed, Channel)> {
        self.channels.iter().filter_map(|(&number, channel)| {
            let relayed = self.relayed_for(channel.peer.ip())?;
            let permitted = *self.permissions.get(&channel.peer.ip())?;
            let until = channel.until.min(permitted).min(relayed.until);
            Some((number, relayed, Channel { until, ..*channel }))
        })
    }

    /// How many channels there are.
    pub fn channels_len(&self) -> usize {
        self.channels.len()
    }

    /// Takes out what has ended. What is gone of relayed addresses and of channels comes back.
    pub fn expire(&mut self, now: Timestamp) -> (Vec<SocketAddr>, Vec<(u16, SocketAddr)>) {
        let relayed =
            self.relayed.extract_if(.., |relayed| relayed.until <= now).map(|r| r.address).collect();
        self.permissions.retain(|_, until| *until > now);
        let has_family =
            |peer: &SocketAddr| self.relayed.iter().any(|r| r.address.is_ipv4() == peer.is_ipv4());
        let channels: Vec<_> = self
            .channels
            .extract_if(|_, channel| channel.until <= now || !has_family(&channel.peer))
            .map(|(number, channel)| (number, channel.peer))
            .collect();
        for (_, peer) in &channels {
            self.numbers.remove(peer);
        }
        (relayed, channels)
    }

    /// When something of it ends next.
    pub fn next_end(&self) -> Option<Timestamp> {
        let relayed = self.relayed.iter().map(|relayed| relayed.until);
        let channels = self.channels.values().map(|channel| channel.until);
        relayed.chain(channels).chain(self.permissions.values().copied()).min()
    }
}
