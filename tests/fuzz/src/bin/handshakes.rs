//! Handshakes through the whole tracker: any sequence of datagrams, endpoints learnt, members changed and time passed.

#![no_main]

use std::{net::SocketAddr, time::Duration};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use relay_fuzz::{
    message,
    relay::Relay,
    world::{At, Desired, HOSTS, key, local},
};
use relay_user::handshake::{Datagram, Session, Side};

/// Indices are few, so that they collide.
const INDICES: u8 = 12;

#[derive(Debug, Arbitrary)]
enum Operation {
    Initiation {
        from: At,
        sender: u8,
        recipient: u8,
        obedient: bool,
        hop: Hop,
    },
    /// From where it is expected and for whom it should be, unless others are named.
    Response {
        from: Option<At>,
        sender: u8,
        receiver: u8,
        initiator: Option<u8>,
        hop: Hop,
    },
    CookieReply {
        from: Option<At>,
        receiver: u8,
        hop: Hop,
    },
    Other {
        from: At,
        message: Vec<u8>,
        hop: Hop,
    },
    Learn {
        host: u8,
        at: Option<At>,
    },
    Wait {
        seconds: u8,
    },
    Confirm {
        responder: u8,
    },
    Members(Box<Desired>),
    Restore {
        sides: [Remembered; 2],
        age: u8,
    },
}

#[derive(Clone, Copy, Debug, Arbitrary)]
struct Hop {
    local: u8,
    ttl: u8,
}

#[derive(Clone, Copy, Debug, Arbitrary)]
struct Remembered {
    index: u8,
    at: At,
    local: At,
    member: Option<u8>,
}

#[derive(Debug, Arbitrary)]
struct Story {
    members: Desired,
    operations: Vec<Operation>,
}

fn index(choice: u8) -> u32 {
    u32::from(choice % INDICES)
}

fuzz_target!(|story: Story| {
    let mut relay = Relay::new(story.members.members());
    for host in 0..HOSTS {
        relay.learn(host, Some(At::Known(host).endpoint()));
    }
    for operation in story.operations.into_iter().take(64) {
        perform(&mut relay, operation);
        relay.check();
    }
    relay.wait(Duration::from_secs(200));
    relay.check();
    assert!(relay.maps.pending.is_empty() && relay.maps.sessions.is_empty(), "everything ends");
});

fn perform(relay: &mut Relay, operation: Operation) {
    match operation {
        Operation::Initiation { from, sender, recipient, obedient, hop } => {
            let from = from.endpoint();
            let cookie = relay.cookies.get(&from).filter(|_| obedient);
            let message = message::initiation(index(sender), &key(recipient), cookie);
            receive(relay, from, hop, message);
        }
        Operation::Response { from, sender, receiver, initiator, hop } => {
            let expected = relay.maps.pending.get(&index(receiver)).copied();
            let Some(from) = from.map(At::endpoint).or(expected) else { return };
            let initiator = initiator.map_or_else(|| relay.initiator(index(receiver)), key);
            let message = message::response(index(sender), index(receiver), &initiator);
            receive(relay, from, hop, message);
        }
        Operation::CookieReply { from, receiver, hop } => {
            let expected = relay.maps.pending.get(&index(receiver)).copied();
            let Some(from) = from.map(At::endpoint).or(expected) else { return };
            let message = message::cookie_reply(index(receiver));
            receive(relay, from, hop, message);
        }
        Operation::Other { from, message, hop } => receive(relay, from.endpoint(), hop, message),
        Operation::Learn { host, at } => relay.learn(host % HOSTS, at.map(At::endpoint)),
        Operation::Wait { seconds } => relay.wait(Duration::from_secs(seconds.into())),
        Operation::Confirm { responder } => {
            let known = relay.tracker.sessions().any(|session| session.responder.index == index(responder));
            assert_eq!(relay.tracker.confirm(index(responder)), known);
        }
        Operation::Members(desired) => {
            relay.set_members(desired.members());
        }
        Operation::Restore { sides, age } => {
            let [initiator, responder] = sides.map(|side| Side {
                index: index(side.index),
                endpoint: side.at.endpoint(),
                local: side.local.endpoint().ip(),
                member: side.member.map(|host| key(host).id()),
            });
            let session = Session { initiator, responder, opened: Duration::ZERO };
            relay.restore(session, Duration::from_secs(age.into()));
        }
    }
}

fn receive(relay: &mut Relay, remote: SocketAddr, hop: Hop, message: Vec<u8>) {
    relay.receive(&Datagram { local: local(remote, hop.local), remote, ttl: hop.ttl, message });
}
