//! Where attacks happen: the [`World`], and whoever attacks it.
//!
//! An [`Attacker`] runs no WireGuard: it puts datagrams on the wire as it likes, with whatever source. One is nobody's, one
//! is a member with a fixed endpoint. The victim is a host that has nothing to do with the relay.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use relay_user::members::PublicKey;

use super::tap::{Heard, Hears, Tap};
use crate::{
    bench::xdp::traffic::{Macs, frame},
    command::{Process, run},
    host::Host,
    internet::public,
    lab::Namespace,
    message::{INITIATION_MAC1, Mac, cookie, initiation, sign},
    relay::{Member, Outer, PORT, Relay, SessionStatus, Status},
    traffic::{Pinging, connect, ping},
    until,
    wait::{now, within},
    world::{REGISTRATION, World, p_endpoints},
};

/// How soon something that the lab does by itself must have happened.
pub const SOON: Duration = Duration::from_secs(5);
/// WireGuard repeats an initiation after five seconds: what has come about before was the first.
pub const FIRST_TRY: Duration = Duration::from_millis(4_500);

/// See the module.
pub struct Scene {
    /// Relay and hosts; a talks with b and with p.
    pub world: World,
    /// The family of all their packets.
    pub outer: Outer,
    /// Nobody's.
    pub outsider: Attacker,
    /// A member.
    pub mallory: Attacker,
    /// A host that has never asked for anything.
    pub victim: Attacker,
    /// All that passes the relay's port of the public network, on its way in or out.
    pub at_relay: Tap,
    relay_mac: [u8; 6],
}

impl Scene {
    /// Makes it: all run, and a talks with b and with p.
    pub fn new() -> Self {
        Self::over(Outer::Ipv4)
    }

    /// Likewise, over this family.
    pub fn over(outer: Outer) -> Self {
        let mut world = World::new();
        let [outsider, mallory, victim] =
            [("outsider", 66), ("mallory", 67), ("victim", 88)].map(|(role, number)| {
                let namespace = world.lab.namespace(role);
                world.internet.attach(&namespace, "eth0", number);
                Attacker::new(namespace, number, outer, &world.relay)
            });
        let name = "mallory".to_owned();
        let (public_key, endpoints) = (mallory.key.to_string(), vec![mallory.endpoint]);
        world.relay.members.push(Member { name, public_key, relayed: false, endpoints });
        let (internet, port) = world.internet.port(&world.relay.namespace);
        let at_relay = Tap::new(internet, &port, Hears::Both);
        let relay_mac = world.relay.namespace.mac_octets("eth0");
        world.relay.start();
        world.point_hosts(outer, 25);
        world.start_hosts();
        connect(&world.a, &world.p, REGISTRATION);
        connect(&world.a, &world.b, REGISTRATION);
        // It takes some time, which is as well: WireGuard takes two handshakes in a few milliseconds for a replay.
        for attacker in [&outsider, &mallory, &victim] {
            // So that the relay knows how to reach it.
            let relay = Relay::endpoint(outer).ip().to_string();
            run(attacker.namespace.command("ping").args(["-n", "-c", "1", "-W", "2", &relay]));
        }
        Self { world, outer, outsider, mallory, victim, at_relay, relay_mac }
    }

    /// The relay's endpoint.
    pub fn relay(&self) -> SocketAddr {
        Relay::endpoint(self.outer)
    }

    /// The endpoint of p.
    pub fn p(&self) -> SocketAddr {
        p_endpoints()
            .into_iter()
            .find(|e| e.is_ipv4() == self.relay().is_ipv4())
            .expect("p has one of each family")
    }

    /// `wgrelay status`.
    pub fn status(&self) -> Status {
        self.world.relay.status()
    }

    /// All that the relay has sent since this was last asked.
    pub fn sent_by_relay(&self) -> Vec<Heard> {
        let mut heard = self.at_relay.heard();
        heard.retain(|heard| heard.mac == self.relay_mac);
        heard
    }

    /// Waits until the relay has got `count` packets more than in `before` that ended for one of these reasons, and userspace
    /// has done what it was given.
    pub fn await_packets(&self, before: &Status, count: u64, reasons: &[&str]) {
        let all = |status: &Status| reasons.iter().map(|reason| status.packets(reason)).sum::<u64>();
        until(&format!("{count} packets that are {}", reasons.join(" or ")), SOON, || {
            (all(&self.status()) >= all(before) + count).then_some(())
        });
        until("userspace that has caught up", SOON, || {
            let status = self.status();
            let copied: u64 =
                ["initiation", "response", "cookie_reply"].map(|reason| status.packets(reason)).iter().sum();
            (status.userspace.handshake_messages + status.ring_lost >= copied).then_some(())
        });
    }

    /// The session's direction between two members.
    pub fn session(&self, from: &Host, to: &Host) -> SessionStatus {
        let is =
            |s: &SessionStatus| s.from.as_deref() == Some(&*from.name) && s.to.as_deref() == Some(&*to.name);
        let newest = self.world.relay.sessions().into_iter().filter(is).max_by_key(|s| s.packets);
        newest.unwrap_or_else(|| panic!("no session from {} to {}", from.name, to.name))
    }

    /// Has `from` begin a handshake with p, whose answers do not come through until [`Held::release`].
    pub fn hold_answer_of_p(&self, from: &Host) -> Held<'_> {
        let (bridge, port) = self.world.internet.port(&self.world.p.namespace);
        let answers = Tap::new(bridge, &port, Hears::Incoming);
        // 92 bytes, and UDP's header. A tap hears it nevertheless: it comes before the rule.
        bridge.nft(&format!(
            "table netdev held {{
                chain answers {{
                    type filter hook ingress device {port} priority 0
                    udp length 100 drop
                }}
            }}"
        ));
        self.at_relay.heard();
        from.forget_peer(&self.world.p);
        let begun = now();
        let poke = poke(from, &self.world.p);
        let (relay, key) = (self.relay(), key_of(&self.world.p));
        let (initiation, source) = self
            .at_relay
            .wait_for(SOON, |heard| {
                let fits = heard.to == relay && heard.is(1) && is_for(&heard.message, &key);
                fits.then(|| (heard.message.clone(), heard.from))
            })
            .expect("an initiation for p");
        let response = answers.wait_for(SOON, |heard| heard.is(2).then(|| heard.message.clone()));
        let response = response.expect("p answers");
        Held { scene: self, begun, initiation, source, response, poke }
    }
}

/// Whether an initiation is for the owner of this key.
fn is_for(message: &[u8], key: &PublicKey) -> bool {
    let mut again = message.to_vec();
    sign(&mut again, INITIATION_MAC1, key, None);
    again[INITIATION_MAC1..][..16] == message[INITIATION_MAC1..][..16]
}

/// A handshake of a host with p, as an observer in front of the relay sees it: p has answered, but nobody has heard it yet.
pub struct Held<'a> {
    scene: &'a Scene,
    begun: Instant,
    /// What the host has sent.
    pub initiation: Vec<u8>,
    /// Where it came from.
    pub source: SocketAddr,
    response: Vec<u8>,
    poke: Process,
}

impl Held<'_> {
    /// The index that the initiator has chosen.
    pub fn index(&self) -> u32 {
        u32::from_le_bytes(self.initiation[4..8].try_into().expect("four bytes"))
    }

    /// Lets p's answer through, and tells after how many ms, since its initiation, the host talks to p.
    ///
    /// # Errors
    /// If it does not with its first try.
    pub fn release(self) -> Result<u128> {
        let (bridge, _) = self.scene.world.internet.port(&self.scene.world.p.namespace);
        bridge.nft("delete table netdev held");
        self.scene.outsider.send(self.scene.p(), &self.response);
        let rest = FIRST_TRY.saturating_sub(self.begun.elapsed());
        let answered = within(rest, || self.poke.printed().contains(" time=").then_some(()));
        answered.context("the handshake did not come about with its first try")?;
        Ok(self.begun.elapsed().as_millis())
    }
}

/// Sends one packet through the tunnel, and waits for its reply in the background.
pub fn poke(from: &Host, to: &Host) -> Process {
    let log = from.namespace.lab().file(&format!("poke-{}-{}.log", from.name, to.name));
    let mut ping = from.namespace.command("ping");
    Process::start(ping.args(["-n", "-c", "1", "-W", "10", &to.tunnel.to_string()]), log)
}

/// The public key of a host.
pub fn key_of(host: &Host) -> PublicKey {
    PublicKey::from_base64(&host.keys.public).expect("wg prints keys in base64")
}

/// Whether all pings from one host to another are answered.
///
/// # Errors
/// If not.
pub fn all_answered(from: &Host, to: &Host) -> Result<u32> {
    let pings = ping(from, to, 50, Duration::from_millis(5));
    ensure!(pings.received == pings.sent, "{} → {}: {pings:?}", from.name, to.name);
    Ok(pings.received)
}

/// Waits for so many more replies to pings.
///
/// # Errors
/// If they don't come.
pub fn go_on(pings: &Pinging, count: usize) -> Result<()> {
    let before = pings.received();
    let came = within(SOON, || (pings.received() >= before + count).then_some(()));
    came.with_context(|| format!("a live session has no {count} more replies to pings within {SOON:?}"))
}

/// Who attacks: a public node, and a packet socket at its device.
pub struct Attacker {
    /// Where it is.
    pub namespace: Namespace,
    /// Its own address and port.
    pub endpoint: SocketAddr,
    /// The key that it is known by, if it is known.
    pub key: PublicKey,
    /// What it sends and hears.
    pub tap: Tap,
    macs: Macs,
}

impl Attacker {
    fn new(namespace: Namespace, number: u8, outer: Outer, relay: &Relay) -> Self {
        let (v4, v6) = public(number);
        let ip: IpAddr = if outer == Outer::Ipv4 { v4.into() } else { v6.into() };
        let macs =
            Macs { source: namespace.mac_octets("eth0"), destination: relay.namespace.mac_octets("eth0") };
        Self {
            endpoint: SocketAddr::new(ip, PORT),
            key: PublicKey(std::array::from_fn(|_| fastrand::u8(1..))),
            tap: Tap::new(&namespace, "eth0", Hears::Incoming),
            namespace,
            macs,
        }
    }

    /// Sends the relay a datagram, with any source.
    pub fn send(&self, source: SocketAddr, message: &[u8]) {
        self.tap.send(&self.frame(source, message));
    }

    /// The frame with such a datagram.
    pub fn frame(&self, source: SocketAddr, message: &[u8]) -> Vec<u8> {
        let outer = if source.is_ipv4() { Outer::Ipv4 } else { Outer::Ipv6 };
        frame(self.macs, source, Relay::endpoint(outer), 64, message)
    }

    /// Proves its address, by an initiation for this member: the cookie that it is given.
    pub fn prove(&self, member: &PublicKey) -> Mac {
        let message = initiation(fastrand::u32(1..), member, None);
        self.tap.heard();
        self.send(self.endpoint, &message);
        let given = self.tap.wait_for(SOON, |heard| cookie(&heard.message, &message, member));
        let given = given.expect("a cookie for an initiation");
        self.send(self.endpoint, &initiation(fastrand::u32(1..), member, Some(&given)));
        given
    }
}
