//! What hosts get end to end: TCP through WireGuard, by the relay, by a hub, and directly.
//!
//! Both hosts, the relay and the hub share this machine's CPUs, and WireGuard's cryptography takes most of them. So these
//! figures say what a relay takes away from hosts on *this* machine, not what a relay can carry.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    Host, Internet, Lab, Member, Relay,
    bench::{
        Effort,
        cpu::Spinners,
        stats::{Ratio, Samples, Spread, interleave},
    },
    host::LARGE_MTU,
    internet::public,
    relay::{Outer, PORT},
    traffic::{connect, throughput},
    world::REGISTRATION,
};

/// How the two hosts of a pair reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Each knows the other's address.
    Direct,
    /// By wgrelay: XDP in the driver.
    Relay,
    /// By a wireguard-go that decrypts and encrypts again.
    Hub,
}

impl Way {
    const ALL: [Self; 3] = [Self::Direct, Self::Relay, Self::Hub];

    fn label(self) -> char {
        match self {
            Self::Direct => 'd',
            Self::Relay => 'r',
            Self::Hub => 'h',
        }
    }
}

/// One way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    pub way: Way,
    /// How often it was measured.
    pub rounds: usize,
    /// TCP payload, one stream, as received.
    pub mbit_per_second: Spread,
    /// Throughput over the direct way's.
    pub to_direct: Ratio,
    /// CPU seconds of everything (both hosts, the relay, iperf3) for 10⁹ bits.
    pub cpu_seconds_per_gbit: Spread,
}

/// Three pairs of hosts, a relay and a hub in one public network.
struct Scene {
    pairs: Vec<(Way, Host, Host)>,
    relay: Relay,
    _hub: Host,
    _internet: Internet,
}

impl Scene {
    fn new(lab: &Lab) -> Self {
        let mut internet = Internet::new(lab);
        let relay_namespace = lab.namespace("relay");
        internet.attach_for_xdp(&relay_namespace, "eth0", crate::relay::NUMBER);
        let host = |role: &str, number: u8| {
            let namespace = lab.namespace(role);
            internet.attach(&namespace, "eth0", number);
            let mut host = Host::new(&namespace, number).listening_on(PORT);
            host.set_mtu(LARGE_MTU);
            host
        };
        let mut pairs: Vec<_> = (0..)
            .zip(Way::ALL)
            .map(|(n, way)| {
                let [a, b] = [("a", 31 + n), ("b", 41 + n)]
                    .map(|(side, number)| host(&format!("{}{side}", way.label()), number));
                (way, a, b)
            })
            .collect();
        let mut hub = host("hub", 51);
        let mut relay = Relay::new(&relay_namespace);
        for (way, a, b) in &mut pairs {
            match way {
                Way::Direct => point(a, b, endpoint),
                Way::Relay => {
                    relay.members = vec![Member::relayed(a), Member::relayed(b)];
                    let endpoint = Relay::endpoint(Outer::Ipv4);
                    for host in [&mut *a, &mut *b] {
                        host.register_at(&relay.keys.public, endpoint, 25);
                    }
                    point(a, b, |_| endpoint);
                }
                Way::Hub => {
                    let (for_a, for_b) = (b.tunnel, a.tunnel);
                    for (host, other) in [(&mut *a, for_a), (&mut *b, for_b)] {
                        host.register_at(&hub.keys.public, endpoint(&hub), 25);
                        host.allow(&hub.keys.public, other.into());
                        hub.add_peer(host, None);
                    }
                }
            }
        }
        hub.namespace.set("net/ipv4/ip_forward", "1");
        hub.start();
        relay.start();
        for (_, a, b) in &mut pairs {
            a.start();
            b.start();
        }
        Self { pairs, relay, _hub: hub, _internet: internet }
    }
}

/// Makes two hosts each other's peers.
fn point(a: &mut Host, b: &mut Host, endpoint: impl Fn(&Host) -> SocketAddr) {
    a.add_peer(b, Some(endpoint(b)));
    b.add_peer(a, Some(endpoint(a)));
}

/// Where a host of this scene is: its number is its tunnel address' last byte, too.
fn endpoint(host: &Host) -> SocketAddr {
    SocketAddr::new(public(host.tunnel.octets()[3]).0.into(), PORT)
}

/// Measures all ways.
///
/// # Errors
/// If relayed data did not go by XDP.
pub fn run(effort: Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let (rounds, seconds) = if effort == Effort::Short { (1, 2) } else { (5, 5) };
    let lab = Lab::new();
    let mut scene = Scene::new(&lab);
    for (way, a, b) in &scene.pairs {
        if *way == Way::Relay {
            scene.relay.await_registration(a, REGISTRATION);
            scene.relay.await_registration(b, REGISTRATION);
        }
        connect(a, b, REGISTRATION);
    }
    let spinners = Spinners::start()?;
    let mut costs = vec![Samples::default(); Way::ALL.len()];
    let samples = interleave(
        &mut scene.pairs,
        rounds,
        |(way, a, b)| {
            let (mbit_s, usage) = spinners.measure(&[], || throughput(a, b, seconds));
            let gbit = mbit_s * Duration::from_secs(seconds.into()).as_secs_f64() / 1e3;
            costs[*way as usize].values.push(usage.busy.as_secs_f64() / gbit);
            Ok(mbit_s)
        },
        |round| progress(&format!("throughput: round {} of {rounds}", round + 1)),
    )?;
    let status = scene.relay.status();
    let (fast, slow) = (status.forwarded(), status.not_forwarded());
    ensure!(
        fast > 0 && slow * 1000 <= fast,
        "relayed data did not go by XDP: {fast} packets did, {slow} not"
    );
    let rows = Way::ALL.into_iter().zip(&samples).zip(&costs);
    Ok(rows
        .map(|((way, speed), cost)| Row {
            way,
            rounds,
            mbit_per_second: speed.into(),
            to_direct: speed.ratio(&samples[0]),
            cpu_seconds_per_gbit: cost.into(),
        })
        .collect())
}
