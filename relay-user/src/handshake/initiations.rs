//! What becomes of a handshake initiation.

use std::net::SocketAddr;

use super::{
    Action, Datagram, Timestamp,
    directory::Recipient,
    message::Initiation,
    outcome::Outcome,
    pending::{Handshake, Origin},
    tracker::Tracker,
};
use crate::{admission::Work, members::MemberId};

/// TTL or hop limit of what the relay itself says.
const OWN_TTL: u8 = 64;

impl Tracker {
    pub(super) fn initiation(
        &mut self,
        now: Timestamp,
        datagram: &Datagram,
        initiation: &Initiation,
        out: &mut Vec<Action>,
    ) -> Outcome {
        let source = datagram.remote;
        let origin = self.directory.origin(source);
        // Before any search for keys: it costs four short hashes at most.
        let trusted = origin != Origin::Stranger || self.proves_address(now, source, initiation);
        let recipient = match self.directory.likely_recipient(source, &initiation.macs) {
            None if !self.may_search(now, source, origin) => return Outcome::SearchLimit,
            None => self.directory.any_recipient(&initiation.macs),
            likely => likely,
        };
        match recipient {
            None => Outcome::UnknownRecipient,
            Some(Recipient::Relay) => {
                match origin {
                    Origin::Stranger => _ = self.greeted.insert(now, source, datagram.local),
                    Origin::Member(_) | Origin::Relay => self.directory.heard(source, datagram.local),
                }
                out.push(Action::ReadInterface);
                Outcome::InitiationForRelay
            }
            Some(Recipient::Member(member)) if trusted => {
                self.directory.heard(source, datagram.local);
                self.directory.met(source, member);
                self.forward_initiation(now, datagram, initiation, member, out)
                    .map_or_else(|refused| refused, |()| Outcome::InitiationForwarded)
            }
            Some(Recipient::Member(member)) => self.challenge(now, datagram, initiation, member, out),
        }
    }

    /// Whether the keys of all members may be tried for this source. Other relays speak for many and have as much of it as all
    /// unknown sources together. A member has a little of its own, so that it finds a new peer while others flood us; beyond
    /// that it pays from what the unknown have.
    fn may_search(&mut self, now: Timestamp, source: SocketAddr, origin: Origin) -> bool {
        let per_second = self.settings.work.searched_keys;
        let keys = self.directory.members().iter().len() as u64;
        let own = match origin {
            Origin::Relay => per_second,
            Origin::Member(_) => per_second.div_ceil(20),
            Origin::Stranger => return self.searches.uses(now, keys, per_second),
        };
        let within = self.directory.searches_of(source).is_some_and(|budget| budget.uses(now, keys, own));
        within || origin != Origin::Relay && self.searches.uses(now, keys, per_second)
    }

    /// Whether the member may be sent one more initiation: hosts count those by the address that they come from, and all of
    /// ours come from one.
    fn may_send_to(
        &mut self,
        now: Timestamp,
        source: SocketAddr,
        origin: Origin,
        recipient: MemberId,
    ) -> Result<(), Outcome> {
        let Work { initiations, unknown_initiations, .. } = self.settings.work;
        let addressed = self.addressed.entry(recipient).or_default();
        if origin == Origin::Stranger {
            let within = addressed.unknown.uses(now, 1, unknown_initiations);
            return within.then_some(()).ok_or(Outcome::UnknownInitiationLimit);
        }
        // No member uses up what others have.
        let share = match origin {
            Origin::Member(_) => initiations.div_ceil(10),
            _ => 0,
        };
        let own = self.directory.initiations_of(source, recipient);
        let within =
            own.is_none_or(|budget| budget.uses(now, 1, share)) && addressed.known.uses(now, 1, initiations);
        within.then_some(()).ok_or(Outcome::InitiationLimit)
    }

    /// Whether an unknown source has shown, now or lately, that it receives what is sent to it.
    fn proves_address(&mut self, now: Timestamp, source: SocketAddr, initiation: &Initiation) -> bool {
        if self.proven.get(source).is_some() {
            return true;
        }
        let proves = self.cookies.verify(now, &mut self.rng, source, &initiation.macs);
        if proves {
            self.outcomes.add(Outcome::Mac2Verified);
            // If the table is full the proof still counts for this message.
            self.proven.insert(now, source, ());
        }
        proves
    }

    /// Asks an unknown source to prove its address, in the name of the member that it wants to reach.
    fn challenge(
        &mut self,
        now: Timestamp,
        datagram: &Datagram,
        initiation: &Initiation,
        member: MemberId,
        out: &mut Vec<Action>,
    ) -> Outcome {
        // What would be refused anyhow is refused right away.
        let checked = self.directory.may_initiate(Origin::Stranger, member);
        if let Err(refused) = checked.and_then(|()| self.directory.route(datagram.remote, member)) {
            return refused;
        }
        let Some(key) = self.directory.members().member(member).map(|member| member.public_key) else {
            return Outcome::UnknownRecipient;
        };
        let message = self.cookies.reply(now, &mut self.rng, datagram.remote, initiation, &key);
        let Datagram { local, remote, .. } = *datagram;
        out.push(Action::Send(Datagram { local, remote, ttl: OWN_TTL, message }));
        Outcome::Challenged
    }

    fn forward_initiation(
        &mut self,
        now: Timestamp,
        datagram: &Datagram,
        initiation: &Initiation,
        recipient: MemberId,
        out: &mut Vec<Action>,
    ) -> Result<(), Outcome> {
        let (index, source) = (initiation.sender, datagram.remote);
        let origin = self.directory.speaker(source, recipient);
        self.directory.may_initiate(origin, recipient)?;

        let responder = match self.pending.get(index) {
            // The network has repeated it, or the host has.
            Some(known) if known.source == source && known.recipient == recipient => known.responder,
            Some(_) => return Err(Outcome::IndexTaken),
            None if self.sessions.by_index(index).is_some() => return Err(Outcome::IndexTaken),
            None => self.directory.route(source, recipient)?,
        };
        let local = self.local_towards(responder).ok_or(Outcome::FamilyMismatch)?;
        let forwarded = Self::forwarded(datagram, local, responder)?;
        self.may_send_to(now, source, origin, recipient)?;
        if self.pending.get(index).is_none() {
            let local = datagram.local;
            let handshake =
                Handshake { source, local, origin, recipient, responder, answers: 0, bad_answers: 0 };
            self.pending.insert(now, index, handshake)?;
            out.push(Action::Expect { index, responder });
        }
        out.push(Action::Send(forwarded));
        Ok(())
    }
}
