//! The control plane's model: networks, members, relays, enrolment keys, tokens and users of TURN servers, and all rules about them.
//!
//! Pure: commands and times go in, changed records or a [`Refusal`] come out. It reads no clock, makes no random numbers
//! and knows no store.
//!
//! - [`State`] is everything that is known, in memory, with the indices that make one change cheap. A clone shares what
//!   it has in common with the original, so that it costs next to nothing, and two states are compared by what differs.
//! - [`State::plan`] decides what a [`Command`] changes, [`State::apply`] follows a store.
//! - [`Part`] is what one relay needs of it, [`State::configuration`] what one member's WireGuard needs.

mod command;
mod name;
mod part;
mod plan;
mod record;
mod refusal;
mod secret;
mod state;
mod wireguard;

pub use command::{Command, Enrol, Hosts, MemberChange, NewMember, NewRelay, Request};
pub use name::Name;
pub use part::Part;
pub use plan::{Consequence, Plan, STEP};
pub use record::{
    Enrolled, EnrolmentKey, Key, Member, Membership, Network, Op, Record, RecordError, Relay, Relayed,
    Revision, Role, Token, TurnUser, UnixTime, base64_key,
};
pub use refusal::{Class, Refusal};
pub use secret::{Credential, Secret, SecretHash};
pub use state::{Kept, Records, State};
pub use wireguard::{Configuration, MTU, Peer, ViaRelay};

/// How long an enrolled public key is reserved, in seconds, for the handshake that proves it. After that anybody with an
/// enrolment key may claim it, and [`Command::Sweep`] removes it.
pub const RESERVED_SECONDS: u64 = 600;

#[cfg(test)]
mod tests;
