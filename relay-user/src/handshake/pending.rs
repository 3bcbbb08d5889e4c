//! Handshakes under way: initiations that were sent on and may still be answered.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::expiring::Expiring;
use crate::members::MemberId;

/// How long an initiation may be answered. WireGuard tries anew, with another index, after 5 s.
pub const LIFETIME: Duration = Duration::from_secs(15);
/// How many messages are sent back to the initiator for one initiation, so that nobody can be flooded through it.
pub const ANSWERS: u8 = 3;
/// How many responses that prove nothing are looked at for one initiation.
pub const BAD_ANSWERS: u8 = 8;

/// Pending handshakes by the initiator's index.
pub type Pending = Expiring<u32, Handshake>;

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
