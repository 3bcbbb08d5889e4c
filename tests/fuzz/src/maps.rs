//! What stands in the BPF maps, as the tracker's actions say. Every action must fit what is there.

use std::{collections::HashMap, net::SocketAddr};

use relay_user::handshake::{Action, Datagram, Session};

use crate::world::{ADDRESSES, refused};

/// `PENDING` and `SESSIONS`.
#[derive(Default)]
pub struct Maps {
    /// The expected responder by the initiator's index.
    pub pending: HashMap<u32, SocketAddr>,
    /// Sessions by each of their two indices.
    pub sessions: HashMap<u32, Session>,
}

impl Maps {
    /// Carries out actions; what is to be sent comes back.
    pub fn apply(&mut self, actions: Vec<Action>) -> Vec<Datagram> {
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Expect { index, responder } => {
                    assert!(!refused(responder), "expects an answer from {responder}");
                    let old = self.pending.insert(index, responder);
                    assert_eq!(old, None, "a pending entry was overwritten");
                }
                Action::Forget { index } => {
                    assert!(self.pending.remove(&index).is_some(), "forgot what was not expected");
                }
                Action::Open(session) => self.open(session),
                Action::Move { from, to } => {
                    assert_ne!(from, to, "moved to where it was");
                    for (old, new) in [(from.initiator, to.initiator), (from.responder, to.responder)] {
                        assert_eq!(
                            (old.index, old.member),
                            (new.index, new.member),
                            "it moved, it is no other"
                        );
                        assert_eq!(
                            self.sessions.insert(old.index, to),
                            Some(from),
                            "moved what is not there"
                        );
                    }
                }
                Action::Close(session) => {
                    for index in [session.initiator.index, session.responder.index] {
                        assert_eq!(self.sessions.remove(&index), Some(session), "closed what is not there");
                    }
                }
                Action::Send(datagram) => {
                    self.check_sent(&datagram);
                    sent.push(datagram);
                }
                Action::ReadInterface => {}
            }
        }
        sent
    }

    /// Writes both entries of a session.
    pub fn open(&mut self, session: Session) {
        for index in [session.initiator.index, session.responder.index] {
            let old = self.sessions.insert(index, session);
            assert_eq!(old, None, "a session entry was overwritten");
        }
    }

    /// Only to and from where that may be, and not before what it needs is in the maps.
    fn check_sent(&self, sent: &Datagram) {
        let Datagram { local, remote, ttl, message } = sent;
        assert!(*ttl > 0);
        assert!(!refused(*remote), "sent to {remote}");
        assert!(ADDRESSES.contains(local), "sent from {local}");
        assert_eq!(local.is_ipv4(), remote.is_ipv4(), "one packet has one family");
        let word = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().expect("4 bytes"));
        match (word(0), message.len()) {
            (1, 148) => {
                assert_eq!(self.pending.get(&word(4)), Some(remote), "an initiation without a pending entry")
            }
            (2, 92) => {
                let session = self
                    .sessions
                    .get(&word(8))
                    .expect("the session is in the map before its response leaves");
                assert_eq!((session.initiator.index, session.responder.index), (word(8), word(4)));
                assert_eq!(self.sessions.get(&word(4)), Some(session));
            }
            (3, 64) => {}
            (kind, len) => panic!("sent a message of type {kind} and {len} bytes"),
        }
    }
}
