//! The scene of the demo and of most tests: a relay, host a behind a NAT, host b behind two, and the public host p.

use std::{net::SocketAddr, time::Duration};

use crate::{
    host::Host,
    internet::{Internet, Nat, public},
    lab::Lab,
    relay::{Member, NUMBER, Outer, PORT, Relay},
};

/// The public host's number.
pub const P: u8 = 9;

/// A relay and three hosts. Hosts a and b are relayed; p has static endpoints.
#[derive(Debug)]
pub struct World {
    /// The relay.
    pub relay: Relay,
    /// Behind [`Self::nat_a`].
    pub a: Host,
    /// Behind [`Self::nat_b`], which is behind [`Self::nat_b_carrier`].
    pub b: Host,
    /// Public.
    pub p: Host,
    /// The NAT of a.
    pub nat_a: Nat,
    /// The inner NAT of b.
    pub nat_b: Nat,
    /// The outer NAT of b.
    pub nat_b_carrier: Nat,
    /// The public network.
    pub internet: Internet,
    /// The lab.
    pub lab: Lab,
}

/// How long a host may take to register: it tries at once and then every five seconds.
pub const REGISTRATION: Duration = Duration::from_secs(16);

impl World {
    /// Makes it, without starting anything but the network.
    pub fn new() -> Self {
        let lab = Lab::new();
        let mut internet = Internet::new(&lab);
        let relay = lab.namespace("relay");
        internet.attach_for_xdp(&relay, "eth0", NUMBER);
        let mut nat_a = Nat::at_internet(&internet, "nat-a", 2);
        let mut nat_b_carrier = Nat::at_internet(&internet, "nat-b-out", 3);
        let mut nat_b = Nat::behind(&mut nat_b_carrier, "nat-b");
        let hosts = ["a", "b", "p"].map(|role| lab.namespace(role));
        nat_a.plug(&hosts[0]);
        nat_b.plug(&hosts[1]);
        internet.attach(&hosts[2], "eth0", P);
        let [a, b, p] = [(0, 1), (1, 2), (2, P)].map(|(host, number)| Host::new(&hosts[host], number));
        let p = p.listening_on(PORT);
        let mut relay = Relay::new(&relay);
        relay.members = vec![Member::relayed(&a), Member::relayed(&b), Member::at(&p, &p_endpoints())];
        Self { relay, a, b, p, nat_a, nat_b, nat_b_carrier, internet, lab }
    }

    /// Makes it and starts the relay and all hosts, with peers as a user would set them: every host sends everything to
    /// its relay. Waits until a and b are registered.
    pub fn running(outer: Outer) -> Self {
        let mut world = Self::new();
        world.relay.start();
        world.point_hosts(outer, 25);
        world.start_hosts();
        world
    }

    /// Gives every host its peers, at the relay's address of a family.
    pub fn point_hosts(&mut self, outer: Outer, keepalive_seconds: u16) {
        let at_relay = Some(Relay::endpoint(outer));
        for host in [&mut self.a, &mut self.b] {
            host.register_at(&self.relay.keys.public, Relay::endpoint(outer), keepalive_seconds);
        }
        self.a.add_peer(&self.b, at_relay);
        self.a.add_peer(&self.p, at_relay);
        self.b.add_peer(&self.a, at_relay);
        self.b.add_peer(&self.p, at_relay);
        self.p.add_peer(&self.a, at_relay);
        self.p.add_peer(&self.b, at_relay);
    }

    /// Starts all hosts and waits until a and b are registered.
    pub fn start_hosts(&mut self) {
        for host in [&mut self.a, &mut self.b, &mut self.p] {
            host.start();
        }
        for host in [&self.a, &self.b] {
            self.relay.await_registration(host, REGISTRATION);
        }
    }

    /// All hosts.
    pub fn hosts(&self) -> [&Host; 3] {
        [&self.a, &self.b, &self.p]
    }

    /// The pairs that talk: from, to.
    pub fn pairs(&self) -> [(&Host, &Host); 4] {
        [(&self.a, &self.b), (&self.b, &self.a), (&self.b, &self.p), (&self.p, &self.a)]
    }

    /// Datagrams with wrong UDP checksums that any host has received.
    pub fn checksum_errors(&self) -> u64 {
        self.hosts().iter().map(|host| host.namespace.udp_checksum_errors()).sum()
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The static endpoints of p.
pub fn p_endpoints() -> [SocketAddr; 2] {
    let (v4, v6) = public(P);
    [SocketAddr::new(v4.into(), PORT), SocketAddr::new(v6.into(), PORT)]
}
