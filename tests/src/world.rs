//! The scene of the demo and of most tests: a relay, host a behind a NAT, host b behind two, and the public host p.

use std::{net::SocketAddr, time::Duration};

use crate::{
    host::Host,
    internet::{Internet, Nat, public},
    lab::{Lab, Namespace},
    relay::{Member, NUMBER, Outer, PORT, Relay},
    uplink::Uplink,
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
    /// The relay's uplinks, if it has gateways instead of a place in the public network.
    pub uplinks: Vec<Uplink>,
    /// The lab.
    pub lab: Lab,
}

/// How long a host may take to register: it tries at once and then every five seconds.
pub const REGISTRATION: Duration = Duration::from_secs(16);

impl World {
    /// Makes it, without starting anything but the network.
    pub fn new() -> Self {
        Self::around(|internet, relay| {
            internet.attach_for_xdp(relay, "eth0", NUMBER);
            Vec::new()
        })
    }

    /// Makes one whose relay has two uplinks, `eth0` and `eth1`, each with a gateway and two addresses of each family.
    /// The relay has all of these addresses, and a default route by the first uplink.
    pub fn with_uplinks() -> Self {
        let mut world =
            Self::around(|internet, relay| [0, 1].map(|number| Uplink::new(internet, relay, number)).into());
        world.relay.attach = world.uplinks.iter().map(|uplink| uplink.device.clone()).collect();
        world.relay.addresses = world.uplinks.iter().flat_map(Uplink::addresses).collect();
        world.uplinks[0].become_default();
        world
    }

    fn around(connect: impl FnOnce(&mut Internet, &Namespace) -> Vec<Uplink>) -> Self {
        let lab = Lab::new();
        let mut internet = Internet::new(&lab);
        let relay = lab.namespace("relay");
        let uplinks = connect(&mut internet, &relay);
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
        Self { relay, a, b, p, nat_a, nat_b, nat_b_carrier, internet, uplinks, lab }
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
        self.point_each([Relay::endpoint(outer); 3], keepalive_seconds);
    }

    /// Gives every host its peers: a, b and p each at an address of the relay's.
    pub fn point_each(&mut self, [a, b, p]: [SocketAddr; 3], keepalive_seconds: u16) {
        for (host, endpoint) in [(&mut self.a, a), (&mut self.b, b)] {
            host.register_at(&self.relay.keys.public, endpoint, keepalive_seconds);
        }
        self.a.add_peer(&self.b, Some(a));
        self.a.add_peer(&self.p, Some(a));
        self.b.add_peer(&self.a, Some(b));
        self.b.add_peer(&self.p, Some(b));
        self.p.add_peer(&self.a, Some(p));
        self.p.add_peer(&self.b, Some(p));
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
