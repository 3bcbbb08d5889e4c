//! Handshakes under way: initiations that were sent on and may still be answered.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Timestamp, expiring::Expiring, outcome::Outcome};
use crate::members::MemberId;

/// How long an initiation may be answered. WireGuard tries anew, with another index, after 5 s.
pub const LIFETIME: Duration = Duration::from_secs(15);
/// How many messages are sent back to the initiator for one initiation, so that nobody can be flooded through it.
pub const ANSWERS: u8 = 3;
/// How many responses that prove nothing are looked at for one initiation.
pub const BAD_ANSWERS: u8 = 8;

/// Pending handshakes by the initiator's index. Each known source may have some, all unknown ones together as well, so that
/// nobody fills the table for all.
pub struct Pending {
    table: Expiring<u32, Handshake>,
    quotas: Quotas,
    used: HashMap<Quota, usize>,
}

/// How many handshakes may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Of one known source.
    pub source: usize,
    /// Of all unknown sources together.
    pub unknown: usize,
}

impl Quotas {
    /// For a table of so many handshakes.
    pub fn of(limit: usize) -> Self {
        Self { source: limit.div_ceil(16), unknown: limit.div_ceil(4) }
    }
}

/// Whose quota a handshake is of. Other relays speak for many and have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Quota {
    Source(SocketAddr),
    Unknown,
}

impl Handshake {
    fn quota(&self) -> Option<Quota> {
        match self.origin {
            Origin::Member(_) => Some(Quota::Source(self.source)),
            Origin::Stranger => Some(Quota::Unknown),
            Origin::Relay => None,
        }
    }
}

impl Pending {
    /// An empty table of so many handshakes.
    pub fn new(limit: usize, quotas: Quotas) -> Self {
        Self { table: Expiring::new(limit, LIFETIME), quotas, used: HashMap::new() }
    }

    /// Adds a handshake. Its index must not be in use.
    pub fn insert(&mut self, now: Timestamp, index: u32, handshake: Handshake) -> Result<(), Outcome> {
        let quota = handshake.quota();
        let limit = match quota {
            Some(Quota::Source(_)) => self.quotas.source,
            Some(Quota::Unknown) => self.quotas.unknown,
            None => usize::MAX,
        };
        if quota.is_some_and(|quota| self.used.get(&quota).is_some_and(|used| *used >= limit)) {
            return Err(Outcome::PendingQuota);
        }
        if !self.table.insert(now, index, handshake) {
            return Err(Outcome::PendingFull);
        }
        if let Some(quota) = quota {
            *self.used.entry(quota).or_default() += 1;
        }
        Ok(())
    }

    /// The handshake with this index.
    pub fn get(&self, index: u32) -> Option<&Handshake> {
        self.table.get(index)
    }

    /// The handshake with this index, to be changed: neither its source nor its origin.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Handshake> {
        self.table.get_mut(index)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// When the next one ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.table.next_end()
    }

    /// Removes one whose time is up, and returns its index.
    pub fn pop_ended(&mut self, now: Timestamp) -> Option<u32> {
        let (index, handshake) = self.table.pop_ended(now)?;
        self.give_back(&handshake);
        Some(index)
    }

    /// Removes those that `keep` rejects, and returns their indices.
    pub fn remove_unless(&mut self, keep: impl FnMut(&Handshake) -> bool) -> Vec<u32> {
        let gone = self.table.remove_unless(keep);
        gone.iter().for_each(|(_, handshake)| self.give_back(handshake));
        gone.into_iter().map(|(index, _)| index).collect()
    }

    fn give_back(&mut self, handshake: &Handshake) {
        if let Some(quota) = handshake.quota()
            && let Some(used) = self.used.get_mut(&quota)
        {
            *used -= 1;
            if *used == 0 {
                self.used.remove(&quota);
            }
        }
    }
}

/// Whom we take the sender of an initiation for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The member whose current endpoint is the source.
    Member(MemberId),
    /// Another relay, on behalf of a member that its response will name.
    Relay,
    /// Nobody that we know, but it has proven its address.
    Stranger,
}

/// An initiation that was sent on.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    /// Where it came from.
    pub source: SocketAddr,
    /// The relay's address that it was sent to.
    pub local: IpAddr,
    /// Whom it seems to come from.
    pub origin: Origin,
    /// Whom it is for.
    pub recipient: MemberId,
    /// Where it was sent to: the only source that an answer is taken from.
    pub responder: SocketAddr,
    /// Answers sent back so far.
    pub answers: u8,
    /// Responses refused so far.
    pub bad_answers: u8,
}
