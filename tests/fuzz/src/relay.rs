//! A relay under test: the tracker, the maps that its actions make, the time, and what must hold whatever happens.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng};
use relay_ebpf::tables::Endpoint;
use relay_user::{
    handshake::{Action, Datagram, Session, Timestamp, Tracker},
    members::{MemberId, Members, Place, Policy, PublicKey},
};

use crate::{
    maps::Maps,
    message::{self, Mac},
    world::{ADDRESSES, LIMITS, key, refused, settings},
};

/// A session is over this long after it was proven.
const SESSION_LIFETIME: Duration = Duration::from_secs(185);

/// See the module.
pub struct Relay {
    /// The tracker under test.
    pub tracker: Tracker,
    /// What it has made of the maps.
    pub maps: Maps,
    /// The cookies that strangers were given.
    pub cookies: HashMap<SocketAddr, Mac>,
    /// Where the last initiation with each index came from.
    sources: HashMap<u32, SocketAddr>,
    members: Arc<Members>,
    now: Timestamp,
}

impl Relay {
    /// A relay with these members.
    pub fn new(members: Members) -> Self {
        let mut this = Self {
            tracker: Tracker::new(settings(), StdRng::seed_from_u64(1)),
            maps: Maps::default(),
            cookies: HashMap::new(),
            sources: HashMap::new(),
            members: Arc::default(),
            now: Duration::from_secs(1000),
        };
        this.set_members(members);
        this
    }

    fn act(&mut self, act: impl FnOnce(&mut Tracker, Timestamp, &mut Vec<Action>)) -> Vec<Datagram> {
        let mut actions = Vec::new();
        act(&mut self.tracker, self.now, &mut actions);
        self.maps.apply(actions)
    }

    /// The members are others.
    pub fn set_members(&mut self, members: Members) {
        self.members = Arc::new(members);
        let members = Arc::clone(&self.members);
        assert_eq!(self.act(|tracker, now, out| tracker.set_members(now, members, out)), []);
    }

    /// The relay's WireGuard interface says where a host is.
    pub fn learn(&mut self, host: u8, endpoint: Option<SocketAddr>) {
        let id = key(host).id();
        assert_eq!(self.act(|tracker, now, out| tracker.set_endpoint(now, id, endpoint, out)), []);
    }

    /// Time passes.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        assert_eq!(self.act(|tracker, now, out| tracker.expire(now, out)), []);
        assert!(
            self.tracker.next_expiry().is_none_or(|at| at > self.now),
            "something has expired and is there"
        );
    }

    /// A datagram comes in. At most one goes out for it, which is no larger.
    pub fn receive(&mut self, datagram: &Datagram) {
        let sent = self.act(|tracker, now, out| tracker.handle(now, datagram, out));
        assert!(sent.len() <= 1, "one message became {}", sent.len());
        assert!(sent.is_empty() || !refused(datagram.remote), "served {}", datagram.remote);
        for answer in sent {
            assert!(answer.message.len() <= datagram.message.len(), "a message has grown");
            if answer.message == datagram.message {
                if let Some(index) = message::initiation_index(&answer.message) {
                    self.sources.insert(index, datagram.remote);
                }
                assert_eq!(answer.ttl + 1, datagram.ttl, "sent on, with its TTL decremented");
            } else {
                assert_eq!(
                    (answer.local, answer.remote),
                    (datagram.local, datagram.remote),
                    "an answer goes back"
                );
                let found = self.members.iter().find_map(|(_, member)| {
                    message::cookie(&answer.message, &datagram.message, &member.public_key)
                });
                self.cookies.insert(answer.remote, found.expect("a cookie for a member's name"));
            }
        }
    }

    /// The public key that an honest response to the initiation with this index is for.
    pub fn initiator(&self, index: u32) -> PublicKey {
        let source = self.sources.get(&index);
        let at_source = self.tracker.endpoints().find(|(endpoint, _)| source == Some(endpoint));
        let member = at_source.and_then(|(_, id)| self.members.member(id?));
        member.map_or(key(0), |member| member.public_key)
    }

    /// A session of an earlier run is put back.
    pub fn restore(&mut self, mut session: Session, age: Duration) {
        session.opened = self.now.saturating_sub(age);
        if self.tracker.restore(session) {
            self.maps.open(session);
            self.wait(Duration::ZERO);
        }
    }

    /// What must hold after whatever has happened.
    pub fn check(&self) {
        let Self { tracker, maps, members, .. } = self;
        assert!(tracker.sessions_len() <= LIMITS.sessions && tracker.pending_len() <= LIMITS.pending);
        assert_eq!(maps.pending.len(), tracker.pending_len());
        assert_eq!(maps.sessions.len(), 2 * tracker.sessions_len());
        let mut answered: HashMap<MemberId, usize> = HashMap::new();
        let mut pairs: HashMap<[MemberId; 2], usize> = HashMap::new();
        for session in tracker.sessions() {
            self.check_session(session);
            let (a, b) = (session.initiator.member, session.responder.member);
            if let Some(b) = b {
                *answered.entry(b).or_default() += 1;
            }
            if let (Some(a), Some(b)) = (a, b) {
                *pairs.entry([a.min(b), a.max(b)]).or_default() += 1;
            }
        }
        assert!(answered.values().all(|n| *n <= LIMITS.sessions_per_responder), "a quota is exceeded");
        assert!(pairs.values().all(|n| *n <= LIMITS.sessions_per_pair), "a pair has too many sessions");
        self.check_endpoints(members);
    }

    fn check_session(&self, session: &Session) {
        let (initiator, responder) = (session.initiator, session.responder);
        for side in [initiator, responder] {
            assert_eq!(self.maps.sessions.get(&side.index), Some(session), "tracker and maps differ");
            assert_eq!(self.tracker.session_by_index(side.index), Some(session));
            assert!(!refused(side.endpoint), "a session with {}", side.endpoint);
            assert!(ADDRESSES.contains(&side.local), "a session over {}", side.local);
            assert_eq!(side.endpoint.is_ipv4(), side.local.is_ipv4(), "one packet has one family");
            // In the maps an IPv4-mapped address is the IPv4 address.
            assert_eq!(side.endpoint, Endpoint::from(side.endpoint).into(), "the maps say something else");
            assert!(side.member.is_none_or(|id| self.members.member(id).is_some()), "a session of no member");
        }
        assert_ne!(initiator.endpoint, responder.endpoint, "a loop");
        assert!(session.opened + SESSION_LIFETIME > self.now, "a session of the dead");
        let permitted = match (self.members.policy(), initiator.member, responder.member) {
            (Policy::Members, Some(a), Some(b)) => self.members.may_talk(a, b),
            (Policy::Members, ..) => false,
            (Policy::Any, a, b) => b.is_some() && a != b,
        };
        assert!(permitted, "{session:?} is not permitted");
    }

    fn check_endpoints(&self, members: &Members) {
        let mut count = 0;
        for (endpoint, member) in self.tracker.endpoints() {
            count += 1;
            assert!(!refused(endpoint), "{endpoint} in ENDPOINTS");
            let Some(id) = member else {
                assert!(members.relays().any(|relay| relay.endpoints.contains(&endpoint)));
                continue;
            };
            match &members.member(id).expect("only members").place {
                Place::Relayed => assert_eq!(self.tracker.endpoint_of(id), Some(endpoint)),
                Place::Static(endpoints) => assert!(endpoints.contains(&endpoint)),
                Place::RelayedBy(_) => panic!("{endpoint} is the other relay's"),
            }
        }
        assert!(count <= 2 * (members.relays().len() + members.iter().len()));
    }
}
