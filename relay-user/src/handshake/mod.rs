//! Following handshakes: who may talk to whom, and which session a response proves.
//!
//! Pure: messages and times go in, [`Action`]s come out. No socket, no map, no clock.
//!
//! The way of a message: `message` reads it, `directory` says whom it is from and for (by [`relay_search`]), `initiations` and
//! `answers` decide. An initiation from nobody known must prove its address first (`cookie`); one that is sent on is
//! remembered (`pending`); its response proves a session (`sessions`). How much of this is done for whom is limited
//! (`budget`).

mod answers;
mod budget;
mod cookie;
mod directory;
mod expiring;
mod initiations;
mod mac;
mod message;
mod outcome;
mod pending;
mod sessions;
#[cfg(test)]
mod tests;
mod tracker;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::{
    budget::Budget,
    directory::EndpointChanges,
    outcome::{Outcome, Outcomes},
    pending::Quotas,
    sessions::LIFETIME,
    tracker::{Limits, Settings, Tracker},
};
use crate::members::MemberId;

/// A point in time: the time since boot (CLOCK_BOOTTIME), so that it means the same after a restart of wgrelay.
pub type Timestamp = Duration;

/// A WireGuard message on its way into or out of the relay, with the addresses in its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The address of the relay's that it was sent to, or is to be sent from (the port is always the relay port).
    pub local: IpAddr,
    /// The other side: the source of a received one, the destination of one to send.
    pub remote: SocketAddr,
    /// TTL or hop limit: as received, or to be sent with.
    pub ttl: u8,
    /// The WireGuard message.
    pub message: Vec<u8>,
}

/// One side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// The index that this side chose: the receiver index of what is sent *to* it.
    pub index: u32,
    /// Where its packets come from and where packets for it go to.
    pub endpoint: SocketAddr,
    /// The relay's address that this side talks to.
    pub local: IpAddr,
    /// The member that it is, if it is one of ours.
    pub member: Option<MemberId>,
}

/// A proven WireGuard session between two hosts. It stands in `SESSIONS` as two entries: the key `responder.index`
/// carries packets from `initiator.endpoint` to `responder.endpoint`, the key `initiator.index` the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The side that sent the initiation.
    pub initiator: Side,
    /// The side that answered.
    pub responder: Side,
    /// When the response proved it.
    pub opened: Timestamp,
}

impl Session {
    /// The side that sends messages with this receiver index, and the side that they are for.
    pub fn sides(&self, receiver_index: u32) -> Option<(&Side, &Side)> {
        let both = [(&self.initiator, &self.responder), (&self.responder, &self.initiator)];
        both.into_iter().find(|(_, to)| to.index == receiver_index)
    }
}

/// What the edge is to do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let responses and cookie replies with this receiver index from this source up (`PENDING`).
    Expect {
        /// Receiver index: the initiation's sender index.
        index: u32,
        /// The only source that they are taken from.
        responder: SocketAddr,
    },
    /// The opposite of `Expect`.
    Forget {
        /// Receiver index.
        index: u32,
    },
    /// Write both entries of a session. They must be in the map before any later action is carried out.
    Open(Session),
    /// One side's endpoint has changed: replace what is written for `from` by `to` (same indices), counters kept.
    Move {
        /// The session as it was.
        from: Session,
        /// The session as it is now.
        to: Session,
    },
    /// Remove both entries of a session.
    Close(Session),
    /// Send a message.
    Send(Datagram),
    /// A host may have registered or moved: read the relay's own WireGuard interface soon.
    ReadInterface,
}
