//! Simulated hosts that run a real WireGuard implementation (boringtun) behind port-restricted NATs, a network that loses,
//! repeats and reorders, and the relay between them. Time is simulated, also boringtun's.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use boringtun::{
    noise::{Tunn, TunnResult, errors::WireGuardError, rate_limiter::RateLimiter},
    x25519,
};
use mock_instant::MockClock;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::crafted::{Kernel, RELAY, RELAY_6};
use crate::{
    handshake::{Action, Datagram, Settings, Timestamp, Tracker},
    members::{Member, MemberId, Members, OtherRelay, Place, Policy, PublicKey},
};

const STEP: Duration = Duration::from_millis(50);
const RELAY_PORT: u16 = 51820;

/// A host with one WireGuard interface.
pub struct Host {
    pub name: &'static str,
    secret: x25519::StaticSecret,
    /// Its public address, as its NAT shows it.
    pub endpoint: SocketAddr,
    /// The relay's address that it talks to. Its NAT lets nothing else in.
    pub relay: IpAddr,
    peers: Vec<Peer>,
    limiter: Arc<RateLimiter>,
    /// What came out of its tunnels: the sender and the payload.
    pub inbox: Vec<(&'static str, Vec<u8>)>,
    /// How many handshake messages it has sent that carry a mac2.
    pub with_mac2: usize,
}

struct Peer {
    name: &'static str,
    index: u32,
    tunnel: Tunn,
}

impl Host {
    pub fn public_key(&self) -> PublicKey {
        PublicKey(*x25519::PublicKey::from(&self.secret).as_bytes())
    }

    pub fn id(&self) -> MemberId {
        self.public_key().id()
    }

    /// From now on every handshake message needs a mac2 under this host's own cookie.
    pub fn under_load(&mut self) {
        self.limiter = Arc::new(RateLimiter::new(&x25519::PublicKey::from(&self.secret), 0));
        for peer in &mut self.peers {
            let public = x25519::PublicKey::from(&self.secret);
            peer.tunnel.set_static_private(self.secret.clone(), public, Some(self.limiter.clone()));
        }
    }

    /// Takes a datagram; returns what it sends in turn.
    fn receive(&mut self, from: IpAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut buffer = [0; 2048];
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let receiver = match word(0) {
            1 => None,
            2 => Some(word(8)),
            _ => Some(word(4)),
        };
        for peer in &mut self.peers {
            if receiver.is_some_and(|index| index >> 8 != peer.index) {
                continue;
            }
            match peer.tunnel.decapsulate(Some(from), bytes, &mut buffer) {
                TunnResult::Err(WireGuardError::WrongKey) => continue,
                TunnResult::WriteToNetwork(message) => {
                    let mut sent = vec![message.to_vec()];
                    while let TunnResult::WriteToNetwork(more) =
                        peer.tunnel.decapsulate(None, &[], &mut buffer)
                    {
                        sent.push(more.to_vec());
                    }
                    return sent;
                }
                TunnResult::WriteToTunnelV4(packet, _) => {
                    self.inbox.push((peer.name, packet[20..].to_vec()));
                    return Vec::new();
                }
                _ => return Vec::new(),
            }
        }
        Vec::new()
    }
}

struct Packet {
    source: SocketAddr,
    destination: SocketAddr,
    ttl: u8,
    bytes: Vec<u8>,
}

/// How bad the network is.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    /// Share of packets lost.
    pub loss: f64,
    /// Share of packets that arrive twice.
    pub repetition: f64,
    /// The longest additional delay; packets overtake each other.
    pub jitter: Duration,
}

/// Everything.
pub struct World {
    pub tracker: Tracker,
    pub kernel: Kernel,
    pub hosts: Vec<Host>,
    pub weather: Weather,
    pub now: Timestamp,
    pub rng: StdRng,
    flying: BTreeMap<(Timestamp, u64), Packet>,
    sequence: u64,
    /// Handshake messages that have reached the relay.
    recorded: Vec<Datagram>,
    /// Data messages that the relay passed on.
    pub data_forwarded: usize,
    /// Data messages that reached the relay and matched no session.
    pub data_refused: usize,
}

impl World {
    pub fn new(settings: Settings, seed: u64) -> Self {
        let now = Duration::from_secs(1_000);
        MockClock::set_time(now);
        Self {
            tracker: Tracker::new(settings, StdRng::seed_from_u64(seed)),
            kernel: Kernel::default(),
            hosts: Vec::new(),
            weather: Weather::default(),
            now,
            rng: StdRng::seed_from_u64(seed ^ 0x5eed),
            flying: BTreeMap::new(),
            sequence: 0,
            recorded: Vec::new(),
            data_forwarded: 0,
            data_refused: 0,
        }
    }

    pub fn host(&mut self, name: &'static str, endpoint: &str) -> usize {
        let secret = x25519::StaticSecret::from(self.rng.random::<[u8; 32]>());
        let endpoint: SocketAddr = endpoint.parse().unwrap();
        let limiter = Arc::new(RateLimiter::new(&x25519::PublicKey::from(&secret), u64::MAX));
        let relay = if endpoint.is_ipv4() { RELAY } else { RELAY_6 }.parse().unwrap();
        self.hosts.push(Host {
            name,
            secret,
            endpoint,
            relay,
            peers: Vec::new(),
            limiter,
            inbox: Vec::new(),
            with_mac2: 0,
        });
        self.hosts.len() - 1
    }

    /// Makes two hosts peers of each other, as `wg set` would.
    pub fn peer(&mut self, a: usize, b: usize) {
        for (own, other) in [(a, b), (b, a)] {
            let index = self.rng.random::<u32>() >> 8;
            let theirs = x25519::PublicKey::from(&self.hosts[other].secret);
            let name = self.hosts[other].name;
            let own = &mut self.hosts[own];
            let tunnel = Tunn::new(own.secret.clone(), theirs, None, None, index, Some(own.limiter.clone()));
            own.peers.retain(|peer| peer.name != name);
            own.peers.push(Peer { name, index, tunnel });
        }
    }

    pub fn set_members(&mut self, policy: Policy, relays: Vec<OtherRelay>, places: &[(usize, Place)]) {
        let members = places.iter().map(|(host, place)| Member {
            name: self.hosts[*host].name.into(),
            public_key: self.hosts[*host].public_key(),
            networks: vec!["net".into()],
            place: place.clone(),
            rate_limit: None,
        });
        let relay_key = super::crafted::key("relay");
        let members = Arc::new(Members::new(relay_key, policy, relays, members).unwrap());
        self.act(|tracker, now, out| tracker.set_members(now, members, out));
    }

    /// The relay's own interface has learned where a host is.
    pub fn register(&mut self, host: usize) {
        let (member, endpoint) = (self.hosts[host].id(), self.hosts[host].endpoint);
        self.act(|tracker, now, out| tracker.set_endpoint(now, member, Some(endpoint), out));
    }

    fn act(&mut self, act: impl FnOnce(&mut Tracker, Timestamp, &mut Vec<Action>)) {
        let mut out = Vec::new();
        act(&mut self.tracker, self.now, &mut out);
        for Datagram { local, remote, ttl, message } in self.kernel.apply(out) {
            self.fly(SocketAddr::new(local, RELAY_PORT), remote, ttl, message);
        }
    }

    fn fly(&mut self, source: SocketAddr, destination: SocketAddr, ttl: u8, bytes: Vec<u8>) {
        let copies = if self.rng.random_bool(self.weather.repetition) { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.random_bool(self.weather.loss) {
                continue;
            }
            let delay = Duration::from_millis(5) + self.weather.jitter.mul_f64(self.rng.random());
            self.sequence += 1;
            let packet = Packet { source, destination, ttl, bytes: bytes.clone() };
            self.flying.insert((self.now + delay, self.sequence), packet);
        }
    }

    fn send(&mut self, host: usize, messages: Vec<Vec<u8>>) {
        let (source, relay) =
            (self.hosts[host].endpoint, SocketAddr::new(self.hosts[host].relay, RELAY_PORT));
        for bytes in messages {
            let is_handshake = matches!(bytes[0], 1 | 2);
            if is_handshake && bytes[bytes.len() - 16..] != [0; 16] {
                self.hosts[host].with_mac2 += 1;
            }
            self.fly(source, relay, 64, bytes);
        }
    }

    /// A host sends a payload to a peer, with whatever handshake that takes.
    pub fn say(&mut self, from: usize, to: usize, payload: &[u8]) {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
        packet.extend_from_slice(payload);
        let mut buffer = [0; 2048];
        let name = self.hosts[to].name;
        let peer = self.hosts[from].peers.iter_mut().find(|peer| peer.name == name).unwrap();
        if let TunnResult::WriteToNetwork(message) = peer.tunnel.encapsulate(&packet, &mut buffer) {
            let message = message.to_vec();
            self.send(from, vec![message]);
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let step = self.now + STEP;
            while let Some(entry) = self.flying.first_entry()
                && entry.key().0 <= step
            {
                let ((at, _), packet) = entry.remove_entry();
                self.tick(at.max(self.now));
                self.arrive(packet);
            }
            self.tick(step);
            for host in 0..self.hosts.len() {
                let mut sent = Vec::new();
                let mut buffer = [0; 2048];
                for peer in &mut self.hosts[host].peers {
                    if let TunnResult::WriteToNetwork(message) = peer.tunnel.update_timers(&mut buffer) {
                        sent.push(message.to_vec());
                    }
                }
                self.send(host, sent);
            }
        }
    }

    fn tick(&mut self, now: Timestamp) {
        self.now = now;
        MockClock::set_time(now);
        if self.tracker.next_expiry().is_some_and(|due| due <= now) {
            self.act(|tracker, now, out| tracker.expire(now, out));
            assert!(self.tracker.next_expiry().is_none_or(|due| due > now), "expire left something");
        }
    }

    fn arrive(&mut self, packet: Packet) {
        if let Some(host) = self.hosts.iter().position(|host| host.endpoint == packet.destination) {
            let nat_knows = packet.source == SocketAddr::new(self.hosts[host].relay, RELAY_PORT);
            if nat_knows {
                let sent = self.hosts[host].receive(packet.source.ip(), &packet.bytes);
                self.send(host, sent);
            }
        } else if packet.destination.port() == RELAY_PORT {
            self.arrive_at_relay(packet);
        }
    }

    /// What the XDP program does.
    fn arrive_at_relay(&mut self, packet: Packet) {
        let Packet { source, destination, ttl, bytes } = packet;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let up = match word(0) {
            1 => true,
            2 => self.kernel.pending.get(&word(8)) == Some(&source),
            3 => self.kernel.pending.contains_key(&word(4)) || self.kernel.sessions.contains_key(&word(4)),
            _ => return self.forward_data(source, destination.ip(), ttl, word(4), bytes),
        };
        if up {
            let datagram = Datagram { local: destination.ip(), remote: source, ttl, message: bytes };
            self.recorded.push(datagram.clone());
            self.act(|tracker, now, out| tracker.handle(now, &datagram, out));
        }
    }

    fn forward_data(&mut self, source: SocketAddr, local: IpAddr, ttl: u8, index: u32, bytes: Vec<u8>) {
        let Some(session) = self.kernel.sessions.get(&index) else {
            self.data_refused += 1;
            return;
        };
        let to_responder = session.responder.index == index;
        let (from, to) = if to_responder {
            (session.initiator, session.responder)
        } else {
            (session.responder, session.initiator)
        };
        if (from.endpoint, from.local) != (source, local) {
            self.data_refused += 1;
            return;
        }
        self.data_forwarded += 1;
        self.fly(SocketAddr::new(to.local, RELAY_PORT), to.endpoint, ttl - 1, bytes);
        if to_responder {
            assert!(self.tracker.confirm(index));
        }
    }
}

impl World {
    /// Whether `to` has received this payload from `from`.
    pub fn heard(&self, to: usize, from: usize, payload: &[u8]) -> bool {
        self.hosts[to].inbox.iter().any(|(name, got)| *name == self.hosts[from].name && got == payload)
    }

    /// A host's WireGuard starts anew.
    pub fn restart(&mut self, host: usize) {
        let names: Vec<_> = self.hosts[host].peers.iter().map(|peer| peer.name).collect();
        for name in names {
            let other = self.hosts.iter().position(|host| host.name == name).unwrap();
            self.peer(host, other);
        }
    }

    /// Sends every handshake message that has reached the relay so far once more, as one who listens and forges source
    /// addresses can.
    pub fn replay(&mut self) {
        for datagram in std::mem::take(&mut self.recorded) {
            let destination = SocketAddr::new(datagram.local, RELAY_PORT);
            self.fly(datagram.remote, destination, 64, datagram.message);
        }
    }

    /// The relay's userspace starts anew: the maps stay, all else is lost. The interface has yet to be read.
    pub fn restart_relay(&mut self, settings: Settings) {
        let members = self.tracker.directory.members().clone();
        self.tracker = Tracker::new(settings, StdRng::seed_from_u64(99));
        self.kernel.pending.clear();
        self.act(|tracker, now, out| tracker.set_members(now, members, out));
        let sessions: Vec<_> = (self.kernel.sessions.iter())
            .filter(|(index, s)| **index == s.responder.index)
            .map(|(_, s)| *s)
            .collect();
        for session in sessions {
            assert!(self.tracker.restore(session));
        }
    }
}
