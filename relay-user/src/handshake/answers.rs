//! What becomes of a response and of a cookie reply.

use super::{
    Action, Datagram, Session, Side, Timestamp,
    message::{CookieReply, Response},
    outcome::Outcome,
    pending::{ANSWERS, BAD_ANSWERS, Handshake, Origin},
    sessions::COOKIES,
    tracker::Tracker,
};

impl Tracker {
    pub(super) fn response(
        &mut self,
        now: Timestamp,
        datagram: &Datagram,
        response: &Response,
        out: &mut Vec<Action>,
    ) -> Outcome {
        let Some(&handshake) = self.pending.get(response.receiver) else {
            return Outcome::ResponseUnexpected;
        };
        let result = self.answer(now, datagram, response, &handshake, out);
        if let Some(handshake) = self.pending.get_mut(response.receiver) {
            match result {
                Ok(()) => handshake.answers += 1,
                Err(Outcome::ResponseBadMac1) => handshake.bad_answers += 1,
                Err(_) => {}
            }
        }
        result.map_or_else(|refused| refused, |()| Outcome::ResponseForwarded)
    }

    fn answer(
        &mut self,
        now: Timestamp,
        datagram: &Datagram,
        response: &Response,
        handshake: &Handshake,
        out: &mut Vec<Action>,
    ) -> Result<(), Outcome> {
        if datagram.remote != handshake.responder {
            return Err(Outcome::ResponseWrongSource);
        }
        if handshake.answers >= ANSWERS || handshake.bad_answers >= BAD_ANSWERS {
            return Err(Outcome::ResponseLimit);
        }
        let forwarded = Self::forwarded(datagram, handshake.local, handshake.source)?;
        let Some(initiator) = self.directory.initiator(handshake, &response.macs) else {
            if matches!(handshake.origin, Origin::Member(_)) {
                // Perhaps the endpoint is another's by now, and the interface knows already.
                out.push(Action::ReadInterface);
            }
            return Err(Outcome::ResponseBadMac1);
        };
        let session = Session {
            initiator: Side {
                index: response.receiver,
                endpoint: handshake.source,
                local: handshake.local,
                member: initiator,
            },
            responder: Side {
                index: response.sender,
                endpoint: datagram.remote,
                local: datagram.local,
                member: Some(handshake.recipient),
            },
            opened: now,
        };
        self.open(session, out)?;
        self.directory.heard(datagram.remote, datagram.local);
        if let Some(initiator) = initiator {
            self.directory.met(handshake.source, initiator);
        }
        out.push(Action::Send(forwarded));
        Ok(())
    }

    /// Opens a session unless it is open already.
    fn open(&mut self, session: Session, out: &mut Vec<Action>) -> Result<(), Outcome> {
        let (i, j) = (session.initiator.index, session.responder.index);
        let of_initiator = self.sessions.by_index(i).copied();
        let of_responder = self.sessions.by_index(j).copied();
        let replaced = match (of_initiator, of_responder) {
            (None, None) => None,
            // A repeated response, perhaps to a session that has moved since.
            (Some(old), Some(_)) if old.session.initiator.index == i && old.session.responder.index == j => {
                return Ok(());
            }
            // Another response to the same initiation. Until the initiator has shown which one it accepted, it is the
            // later: a forged one that came first must not keep the genuine out.
            (Some(old), None) if !old.confirmed && answers_the_same(&old.session, &session) => {
                Some(old.session.responder.index)
            }
            _ => return Err(Outcome::IndexTaken),
        };
        // The session table has no index 0: there it stands for a free slot.
        if i == j || i == 0 || j == 0 {
            return Err(Outcome::IndexTaken);
        }
        match replaced {
            Some(index) => self.close(index, Outcome::SessionSuperseded, out),
            None => {
                self.has_room_for(&session)?;
                let limit = self.settings.limits.sessions_per_pair;
                if let Some(oldest) = self.sessions.superseded_by(&session, limit) {
                    self.close(oldest.responder.index, Outcome::SessionSuperseded, out);
                }
            }
        }
        if !self.sessions.insert(session) {
            return Err(Outcome::IndexTaken);
        }
        out.push(Action::Open(session));
        self.outcomes.add(Outcome::SessionOpened);
        Ok(())
    }

    /// A loaded responder answers an initiation with a cookie reply, a loaded initiator a response.
    pub(super) fn cookie_reply(
        &mut self,
        datagram: &Datagram,
        reply: CookieReply,
        out: &mut Vec<Action>,
    ) -> Outcome {
        self.forward_cookie(datagram, reply.receiver, out)
            .map_or_else(|refused| refused, |()| Outcome::CookieForwarded)
    }

    fn forward_cookie(
        &mut self,
        datagram: &Datagram,
        receiver: u32,
        out: &mut Vec<Action>,
    ) -> Result<(), Outcome> {
        let (count, limit, local, remote) = if let Some(handshake) = self.pending.get_mut(receiver)
            && handshake.responder == datagram.remote
        {
            (&mut handshake.answers, ANSWERS, handshake.local, handshake.source)
        } else if let Some(record) = self.sessions.by_index_mut(receiver) {
            let Session { initiator, responder, .. } = record.session;
            let (from, to) =
                if receiver == responder.index { (initiator, responder) } else { (responder, initiator) };
            if from.endpoint != datagram.remote {
                return Err(Outcome::CookieWrongSource);
            }
            (&mut record.cookies, COOKIES, to.local, to.endpoint)
        } else if self.pending.get(receiver).is_some() {
            return Err(Outcome::CookieWrongSource);
        } else {
            return Err(Outcome::CookieUnexpected);
        };
        if *count >= limit {
            return Err(Outcome::ResponseLimit);
        }
        out.push(Action::Send(Self::forwarded(datagram, local, remote)?));
        *count += 1;
        self.directory.heard(datagram.remote, datagram.local);
        Ok(())
    }
}

/// Whether two sessions come from the same initiation.
fn answers_the_same(a: &Session, b: &Session) -> bool {
    a.initiator == b.initiator
        && a.responder.endpoint == b.responder.endpoint
        && a.responder.member == b.responder.member
}
