//! The proven sessions, found by index, by member, by pair and by age.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Session, Side, Timestamp};
use crate::members::MemberId;

/// How long after its response a session is closed. WireGuard refuses to use one after 180 s (REJECT_AFTER_TIME).
pub const LIFETIME: Duration = Duration::from_secs(185);
/// How many cookie replies of a loaded initiator are sent on for one session.
pub const COOKIES: u8 = 3;

/// A session and what was seen of it.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The session.
    pub session: Session,
    /// Whether the initiator has sent data with it, which proves that it accepted the response.
    pub confirmed: bool,
    /// Cookie replies of the initiator sent on.
    pub cookies: u8,
}

/// The two hosts of a session, whoever began.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Pair {
    Members(MemberId, MemberId),
    /// At least one is not a member.
    Endpoints(SocketAddr, SocketAddr),
}

impl Pair {
    fn of(session: &Session) -> Self {
        let (a, b) = (&session.initiator, &session.responder);
        match (a.member, b.member) {
            (Some(a), Some(b)) => Self::Members(a.min(b), a.max(b)),
            _ => Self::Endpoints(a.endpoint.min(b.endpoint), a.endpoint.max(b.endpoint)),
        }
    }
}

/// All live sessions. A session's name in here is its responder's index.
#[derive(Default)]
pub struct Sessions {
    records: HashMap<u32, Record>,
    by_initiator: HashMap<u32, u32>,
    by_member: HashMap<MemberId, BTreeSet<u32>>,
    by_pair: HashMap<Pair, BTreeSet<(Timestamp, u32)>>,
    by_age: BTreeSet<(Timestamp, u32)>,
    answered: HashMap<MemberId, usize>,
}

impl Sessions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Every session, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The session in which one side has this index.
    pub fn by_index(&self, index: u32) -> Option<&Record> {
        self.records.get(self.by_initiator.get(&index).unwrap_or(&index))
    }

    /// The session in which one side has this index, to be marked.
    pub fn by_index_mut(&mut self, index: u32) -> Option<&mut Record> {
        self.records.get_mut(self.by_initiator.get(&index).unwrap_or(&index))
    }

    /// The session whose responder has this index, to be marked.
    pub fn by_responder_mut(&mut self, index: u32) -> Option<&mut Record> {
        self.records.get_mut(&index)
    }

    /// How many sessions this member has as the responder.
    pub fn answered_by(&self, member: MemberId) -> usize {
        self.answered.get(&member).copied().unwrap_or(0)
    }

    /// The session that makes room when the hosts of `session` have `limit` already: the oldest unconfirmed, else the
    /// oldest.
    pub fn superseded_by(&self, session: &Session, limit: usize) -> Option<&Session> {
        let pair = self.by_pair.get(&Pair::of(session)).filter(|pair| pair.len() >= limit)?;
        let mut records = pair.iter().filter_map(|(_, index)| self.records.get(index));
        let oldest = records.clone().next();
        records.find(|record| !record.confirmed).or(oldest).map(|record| &record.session)
    }

    /// The sessions of a member.
    pub fn of(&self, member: MemberId) -> impl Iterator<Item = &Session> {
        let indices = self.by_member.get(&member).into_iter().flatten();
        indices.filter_map(|index| self.records.get(index)).map(|record| &record.session)
    }

    /// The members that have sessions.
    pub fn members(&self) -> impl Iterator<Item = MemberId> {
        self.by_member.keys().copied()
    }

    /// When the next session ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.by_age.first().map(|&(opened, _)| opened + LIFETIME)
    }

    /// Removes one session whose time is up.
    pub fn pop_ended(&mut self, now: Timestamp) -> Option<Session> {
        let &(opened, index) = self.by_age.first().filter(|(opened, _)| *opened + LIFETIME <= now)?;
        debug_assert!(self.records.get(&index).is_some_and(|r| r.session.opened == opened));
        self.remove(index)
    }

    /// Adds a session. Returns false, and changes nothing, if one of its indices is in use or both are the same.
    pub fn insert(&mut self, session: Session) -> bool {
        let (i, j) = (session.initiator.index, session.responder.index);
        if i == j || self.by_index(i).is_some() || self.by_index(j).is_some() {
            return false;
        }
        self.link(Record { session, confirmed: false, cookies: 0 });
        true
    }

    /// Removes the session whose responder has this index.
    pub fn remove(&mut self, index: u32) -> Option<Session> {
        self.unlink(index).map(|record| record.session)
    }

    /// Sets a side's endpoint and the relay's address towards it; what was seen of the session is kept. `responder` is the
    /// responder's index. Returns the session before and after.
    pub fn relocate(
        &mut self,
        responder: u32,
        side: impl Fn(&mut Session) -> &mut Side,
        (endpoint, local): (SocketAddr, IpAddr),
    ) -> Option<(Session, Session)> {
        let mut record = self.unlink(responder)?;
        let before = record.session;
        let side = side(&mut record.session);
        (side.endpoint, side.local) = (endpoint, local);
        let after = record.session;
        self.link(record);
        Some((before, after))
    }

    fn link(&mut self, record: Record) {
        let session = record.session;
        let index = session.responder.index;
        self.by_initiator.insert(session.initiator.index, index);
        for member in [session.initiator.member, session.responder.member].into_iter().flatten() {
            self.by_member.entry(member).or_default().insert(index);
        }
        self.by_pair.entry(Pair::of(&session)).or_default().insert((session.opened, index));
        self.by_age.insert((session.opened, index));
        if let Some(member) = session.responder.member {
            *self.answered.entry(member).or_default() += 1;
        }
        self.records.insert(index, record);
    }

    fn unlink(&mut self, index: u32) -> Option<Record> {
        let record = self.records.remove(&index)?;
        let session = &record.session;
        self.by_initiator.remove(&session.initiator.index);
        for member in [session.initiator.member, session.responder.member].into_iter().flatten() {
            drop_from(&mut self.by_member, member, &index);
        }
        drop_from(&mut self.by_pair, Pair::of(session), &(session.opened, index));
        self.by_age.remove(&(session.opened, index));
        if let Some(member) = session.responder.member
            && let Some(count) = self.answered.get_mut(&member)
        {
            *count -= 1;
            if *count == 0 {
                self.answered.remove(&member);
            }
        }
        Some(record)
    }
}

/// Removes a value from the set under `key`, and the set when it is empty, so that nothing is kept of what is gone.
fn drop_from<K: Eq + std::hash::Hash, V: Ord>(sets: &mut HashMap<K, BTreeSet<V>>, key: K, value: &V) {
    if let Some(set) = sets.get_mut(&key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(&key);
        }
    }
}
