//! A relay under test, messages made by hand, and a model of the maps that checks every action.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use crate::{
    admission::{Filter, Work},
    handshake::{
        Action, Datagram, Limits, Outcome, Session, Settings, Timestamp, Tracker, cookie,
        mac::mac1,
        message::{Mac, Message},
    },
    members::{Member, MemberId, Members, OtherRelay, Place, Policy, PublicKey},
};

/// What most tests are not about.
pub const UNLIMITED: Work = Work { searched_keys: 0, initiations: 0, unknown_initiations: 0 };
/// The relay's first IPv4 address.
pub const RELAY: &str = "192.0.2.1";
/// The relay's second IPv4 address.
pub const RELAY_2: &str = "192.0.2.2";
/// The relay's IPv6 address.
pub const RELAY_6: &str = "2001:db8::1";

pub fn at(endpoint: &str) -> SocketAddr {
    endpoint.parse().unwrap()
}

pub fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// A key that goes with a name.
pub fn key(name: &str) -> PublicKey {
    PublicKey(*blake2s_simd::blake2s(name.as_bytes()).as_array())
}

pub fn id(name: &str) -> MemberId {
    key(name).id()
}

pub fn settings() -> Settings {
    Settings {
        public_key: key("relay"),
        addresses: vec![ip(RELAY), ip(RELAY_2), ip(RELAY_6)],
        port: 51820,
        filter: Filter::new(&[], &["203.0.113.0/24".parse().unwrap()]),
        work: UNLIMITED,
        limits: Limits::default(),
    }
}

pub fn member(name: &str, networks: &[&str], place: Place) -> Member {
    Member {
        name: name.into(),
        public_key: key(name),
        networks: networks.iter().map(|&network| network.into()).collect(),
        place,
        rate_limit: None,
    }
}

/// Members named in one word each: `name` is relayed here; `name@ENDPOINT` is static, and `name@` without a known endpoint; `name@@RELAY` is relayed by another;
/// `name/NETWORK` is in that network instead of "net".
pub fn members(policy: Policy, relays: &[(&str, &str)], words: &[&str]) -> Arc<Members> {
    let relays = relays
        .iter()
        .map(|&(name, endpoint)| OtherRelay { name: name.into(), endpoints: vec![at(endpoint)] });
    let members = words.iter().map(|word| {
        let (word, network) = word.split_once('/').unwrap_or((word, "net"));
        match (word.split_once("@@"), word.split_once('@')) {
            (Some((name, relay)), _) => member(name, &[network], Place::RelayedBy(relay.into())),
            (None, Some((name, ""))) => member(name, &[network], Place::Static(Vec::new())),
            (None, Some((name, endpoint))) => member(name, &[network], Place::Static(vec![at(endpoint)])),
            (None, None) => member(word, &[network], Place::Relayed),
        }
    });
    Arc::new(Members::new(key("relay"), policy, relays, members).unwrap())
}

/// What stands in the maps, as the actions say; every action is checked against it.
#[derive(Default)]
pub struct Kernel {
    pub pending: HashMap<u32, SocketAddr>,
    /// Sessions by each of their two indices.
    pub sessions: HashMap<u32, Session>,
    pub interface_reads: usize,
}

impl Kernel {
    /// Carries out actions; what is to be sent comes back.
    pub fn apply(&mut self, actions: Vec<Action>) -> Vec<Datagram> {
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Expect { index, responder } => {
                    assert_eq!(
                        self.pending.insert(index, responder),
                        None,
                        "a pending entry was overwritten"
                    );
                }
                Action::Forget { index } => {
                    assert!(self.pending.remove(&index).is_some(), "forgot what was not expected");
                }
                Action::Open(session) => {
                    for index in [session.initiator.index, session.responder.index] {
                        let old = self.sessions.insert(index, session);
                        assert_eq!(old, None, "a session entry was overwritten");
                    }
                }
                Action::Move { from, to } => {
                    for index in [from.initiator.index, from.responder.index] {
                        assert_eq!(self.sessions.insert(index, to), Some(from), "moved what is not there");
                    }
                    assert_eq!(from.initiator.index, to.initiator.index);
                    assert_eq!(from.responder.index, to.responder.index);
                }
                Action::Close(session) => {
                    for index in [session.initiator.index, session.responder.index] {
                        assert_eq!(self.sessions.remove(&index), Some(session), "closed what is not there");
                    }
                }
                Action::ReadInterface => self.interface_reads += 1,
                Action::Send(datagram) => {
                    self.check_order(&datagram);
                    sent.push(datagram);
                }
            }
        }
        sent
    }

    /// What a message needs in the maps must be there before it leaves.
    fn check_order(&self, sent: &Datagram) {
        assert!(sent.ttl > 0);
        assert_eq!(sent.local.is_ipv4(), sent.remote.is_ipv4(), "{sent:?} joins two families");
        match Message::parse(&sent.message).expect("only handshake messages are sent") {
            Message::Initiation(initiation) => {
                assert_eq!(self.pending.get(&initiation.sender), Some(&sent.remote));
            }
            Message::Response(response) => {
                let session =
                    self.sessions.get(&response.receiver).expect("the session is not in the map yet");
                assert_eq!(session.responder.index, response.sender);
                assert_eq!(self.sessions.get(&response.sender), Some(session));
            }
            Message::CookieReply(_) => {}
        }
    }
}

/// A tracker with its maps, its time and a source of messages.
pub struct Relay {
    pub tracker: Tracker,
    pub kernel: Kernel,
    pub now: Timestamp,
    pub rng: StdRng,
}

impl Relay {
    pub fn new(settings: Settings, members: Arc<Members>) -> Self {
        let mut this = Self {
            tracker: Tracker::new(settings, StdRng::seed_from_u64(1)),
            kernel: Kernel::default(),
            now: Duration::from_secs(1_000),
            rng: StdRng::seed_from_u64(2),
        };
        this.set_members(members);
        this
    }

    /// Alice and Bob, relayed here and registered at [`ALICE`] and [`BOB`].
    pub fn with_alice_and_bob() -> Self {
        let mut this = Self::new(settings(), members(Policy::Members, &[], &["alice", "bob"]));
        this.learn("alice", ALICE);
        this.learn("bob", BOB);
        this
    }

    fn act(&mut self, act: impl FnOnce(&mut Tracker, Timestamp, &mut Vec<Action>)) -> Vec<Datagram> {
        let mut out = Vec::new();
        act(&mut self.tracker, self.now, &mut out);
        self.kernel.apply(out)
    }

    pub fn set_members(&mut self, members: Arc<Members>) {
        assert!(self.act(|tracker, now, out| tracker.set_members(now, members, out)).is_empty());
    }

    pub fn learn(&mut self, member: &str, endpoint: &str) {
        self.act(|tracker, now, out| tracker.set_endpoint(now, id(member), Some(at(endpoint)), out));
    }

    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        self.act(|tracker, now, out| tracker.expire(now, out));
    }

    pub fn receive(&mut self, datagram: &Datagram) -> Vec<Datagram> {
        self.act(|tracker, now, out| tracker.handle(now, datagram, out))
    }

    /// A message from `source` to the relay's first address of that family, with TTL 64.
    pub fn hear(&mut self, source: &str, message: Vec<u8>) -> Vec<Datagram> {
        let remote = at(source);
        let local = ip(if remote.is_ipv4() { RELAY } else { RELAY_6 });
        self.receive(&Datagram { local, remote, ttl: 64, message })
    }

    pub fn count(&self, outcome: Outcome) -> u64 {
        self.tracker.outcomes().count(outcome)
    }

    /// An initiation for `recipient` without a cookie.
    pub fn initiation(&mut self, sender: u32, recipient: &str) -> Vec<u8> {
        crafted(&mut self.rng, 1, 148, &[sender], recipient, None)
    }

    /// An initiation for `recipient` with mac2 under `cookie`.
    pub fn initiation_with(&mut self, sender: u32, recipient: &str, cookie: &Mac) -> Vec<u8> {
        crafted(&mut self.rng, 1, 148, &[sender], recipient, Some(cookie))
    }

    /// A response to `receiver`, whose mac1 names `initiator`.
    pub fn response(&mut self, sender: u32, receiver: u32, initiator: &str) -> Vec<u8> {
        crafted(&mut self.rng, 2, 92, &[sender, receiver], initiator, None)
    }

    /// A cookie reply: nobody but its receiver can tell whether it is good.
    pub fn cookie_reply(&mut self, receiver: u32) -> Vec<u8> {
        let mut message = vec![0; 64];
        self.rng.fill_bytes(&mut message[8..]);
        message[0] = 3;
        message[4..8].copy_from_slice(&receiver.to_le_bytes());
        message
    }

    /// Initiation and response between two endpoints; the session is open afterwards.
    pub fn open(&mut self, initiator: (&str, &str, u32), responder: (&str, &str, u32)) -> Session {
        let message = self.initiation(initiator.2, responder.0);
        assert_eq!(self.hear(initiator.1, message).len(), 1, "initiation was not sent on");
        let message = self.response(responder.2, initiator.2, initiator.0);
        assert_eq!(self.hear(responder.1, message).len(), 1, "response was not sent on");
        *self.tracker.session_by_index(initiator.2).unwrap()
    }

    /// Makes an unknown source prove its address with an initiation for `recipient`, which is then sent on.
    pub fn prove(&mut self, source: &str, sender: u32, recipient: &str) -> Mac {
        let message = self.initiation(sender.wrapping_add(0x8000_0000), recipient);
        let challenge = self.hear(source, message.clone());
        let cookie = opened(&challenge[0].message, &message, recipient);
        let message = self.initiation_with(sender, recipient, &cookie);
        assert_eq!(self.hear(source, message.clone())[0].message, message, "the proof was not taken");
        cookie
    }
}

/// Where Alice is.
pub const ALICE: &str = "198.51.100.10:1001";
/// Where Bob is.
pub const BOB: &str = "198.51.100.20:1002";

fn crafted(
    rng: &mut StdRng,
    kind: u8,
    len: usize,
    indices: &[u32],
    recipient: &str,
    cookie: Option<&Mac>,
) -> Vec<u8> {
    let mut message = vec![0; len];
    rng.fill(&mut message[4..len - 32]);
    message[0] = kind;
    for (at, index) in indices.iter().enumerate() {
        message[4 + 4 * at..8 + 4 * at].copy_from_slice(&index.to_le_bytes());
    }
    let mac1 = mac1(&key(recipient), &message[..len - 32]);
    message[len - 32..len - 16].copy_from_slice(&mac1);
    if let Some(cookie) = cookie {
        let mac2 = match Message::parse(&message).unwrap() {
            Message::Initiation(initiation) => cookie::mac2(cookie, &initiation.macs),
            other => panic!("{other:?} needs no mac2 here"),
        };
        message[len - 16..].copy_from_slice(&mac2);
    }
    message
}

/// What a client does with a cookie reply: opens it with the key of the peer it wanted and the mac1 that it sent.
pub fn opened(reply: &[u8], initiation: &[u8], peer: &str) -> Mac {
    use chacha20poly1305::{
        KeyInit, XChaCha20Poly1305,
        aead::{Aead, Payload},
    };
    assert_eq!(reply.len(), 64);
    assert_eq!(reply[..4], [3, 0, 0, 0]);
    assert_eq!(reply[4..8], initiation[4..8], "receiver index is the initiation's sender index");
    let label = blake2s_simd::State::new().update(b"cookie--").update(&key(peer).0).finalize();
    XChaCha20Poly1305::new(label.as_array().into())
        .decrypt(reply[8..32].into(), Payload { msg: &reply[32..], aad: &initiation[116..132] })
        .expect("sealed for this peer and this mac1")
        .try_into()
        .unwrap()
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
