//! Relayed data that userspace forwards, since the XDP program can't: packets that came in fragments, that have to leave
//! in fragments, that need a checksum computed in full, or whose next hop is not resolved yet. Pure.

use crate::handshake::{Datagram, Session, Side};

/// Why a packet is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no session with its receiver index (any more).
    NoSession,
    /// It does not come from where the session's packets come from, or not to where they go.
    WrongSource,
    /// Its TTL or hop limit is 1 or 0.
    TtlExceeded,
}

/// The receiver index of transport data.
pub fn receiver_index(message: &[u8]) -> Option<u32> {
    use relay_ebpf::wireguard::{Kind, RECEIVER_INDEX};
    let word = |at: usize| Some(u32::from_le_bytes(message.get(at..at + 4)?.try_into().ok()?));
    (Kind::classify(word(0)?, message.len()) == Some(Kind::TransportData)).then(|| word(RECEIVER_INDEX))?
}

/// What to send for a received packet, and the side that sent it and the one that it is for: as the XDP program decides.
pub fn forward(received: Datagram, session: Option<&Session>) -> Result<(Datagram, &Side, &Side), Refusal> {
    let index = receiver_index(&received.message).ok_or(Refusal::NoSession)?;
    let (from, to) = session.and_then(|session| session.sides(index)).ok_or(Refusal::NoSession)?;
    if (received.remote, received.local) != (from.endpoint, from.local) {
        return Err(Refusal::WrongSource);
    }
    let ttl = received.ttl.checked_sub(1).filter(|ttl| *ttl > 0).ok_or(Refusal::TtlExceeded)?;
    Ok((Datagram { local: to.local, remote: to.endpoint, ttl, message: received.message }, from, to))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn session() -> Session {
        let side = |index, endpoint: &str, local: &str| Side {
            index,
            endpoint: endpoint.parse().unwrap(),
            local: local.parse().unwrap(),
            member: None,
        };
        Session {
            initiator: side(0x1111, "192.0.2.7:1000", "198.51.100.1"),
            responder: side(0x2222, "203.0.113.9:40001", "198.51.100.2"),
            opened: Duration::ZERO,
        }
    }

    fn data(index: u32) -> Datagram {
        let mut message = vec![0; 48];
        message[0] = 4;
        message[4..8].copy_from_slice(&index.to_le_bytes());
        let from = session().initiator;
        Datagram { local: from.local, remote: from.endpoint, ttl: 9, message }
    }

    #[test]
    fn a_sessions_data_goes_to_its_other_side() {
        let session = session();
        let (sent, from, to) = forward(data(0x2222), Some(&session)).unwrap();
        assert_eq!((from, to), (&session.initiator, &session.responder));
        assert_eq!((sent.local, sent.remote, sent.ttl), (to.local, to.endpoint, 8));
        assert_eq!(sent.message, data(0x2222).message);
    }

    #[test]
    fn what_the_program_would_not_forward_is_refused() {
        let session = session();
        let refused = |f: fn(&mut Datagram)| {
            let mut datagram = data(0x2222);
            f(&mut datagram);
            forward(datagram, Some(&session)).map(|_| ()).unwrap_err()
        };
        assert_eq!(refused(|d| d.remote.set_port(1)), Refusal::WrongSource);
        assert_eq!(refused(|d| d.local = "198.51.100.2".parse().unwrap()), Refusal::WrongSource);
        assert_eq!(refused(|d| d.message[4] = 0x11), Refusal::NoSession);
        assert_eq!(refused(|d| d.message[0] = 1), Refusal::NoSession);
        assert_eq!(refused(|d| d.message.truncate(31)), Refusal::NoSession);
        assert_eq!(refused(|d| d.ttl = 1), Refusal::TtlExceeded);
        assert_eq!(refused(|d| d.ttl = 0), Refusal::TtlExceeded);
        assert_eq!(forward(data(0x2222), None).unwrap_err(), Refusal::NoSession);
        // The other direction's index from this side.
        assert_eq!(refused(|d| d.message[4..6].copy_from_slice(&[0x11, 0x11])), Refusal::WrongSource);
    }
}
