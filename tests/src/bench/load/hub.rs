//! wireguard-go as a hub: it decrypts what one peer sends and encrypts it again for the other. What Netmaker's relay
//! does, and anyone who routes through a common peer.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use etherparse::PacketBuilder;

use super::{
    Outcome,
    flows::Flow,
    peer::{Peer, message_to},
    place::{Place, reflect},
    relays::{CPUS, PAYLOAD},
    row::{Measured, Row},
};
use crate::{
    Host, Lab,
    affinity::pinned,
    bench::{
        Effort,
        cpu::{Spinners, Usage},
        settle,
        stats::interleave,
    },
    relay::PORT,
};

/// The addresses in the tunnel.
const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];
/// What WireGuard adds: a header of 16 bytes, a tag of 16.
const OVERHEAD: usize = 32;
/// Of what comes back one in so many is decrypted and read.
const SAMPLE: usize = 256;

/// The contenders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Reflect,
    Hub,
    ReflectAgain,
}

/// The hub and the two peers, all in the load, and the same load reflected.
struct Scene {
    hub: Place,
    /// Of wireguard-go.
    process: u32,
    _host: Host,
    hub_key: String,
    peers: [Peer; 2],
    reflect: Place,
    _reflect: Ebpf,
    /// What was encrypted last. A hub takes each only once.
    frames: Vec<Vec<u8>>,
    count: usize,
}

impl Scene {
    fn new(lab: &Lab, count: usize) -> Result<Self> {
        let mut hub = Place::new(lab, "hub")?;
        let mut host = Host::new(&hub.relay, 1).listening_on(PORT);
        let flow = Flow { number: 0 };
        let mut peers =
            [Peer::new(lab, "peer-a", flow.source())?, Peer::new(lab, "peer-b", flow.destination())?];
        for (peer, inner) in peers.iter().zip(INNER) {
            host.register_at(&peer.keys.public, peer.address.into(), 0);
            host.allow(&peer.keys.public, inner.into());
        }
        host.start();
        let hub_key = host.keys.public.clone();
        for peer in &mut peers {
            peer.connect(&mut hub, &hub_key)?;
        }
        let reflect_place = Place::new(lab, "ref")?;
        let program = reflect(&reflect_place);
        let mut this = Self {
            hub,
            process: host.process(),
            _host: host,
            hub_key,
            peers,
            reflect: reflect_place,
            _reflect: program,
            frames: Vec::new(),
            count,
        };
        this.prepare()?;
        Ok(this)
    }

    /// New sessions, so that none ends by its age, and new packets.
    fn prepare(&mut self) -> Result<()> {
        for peer in &mut self.peers {
            peer.connect(&mut self.hub, &self.hub_key)?;
        }
        self.frames = self.peers[0].encrypt(&self.hub, &inner(64), self.count)?;
        Ok(())
    }

    /// The load of one round; what came back is the hub's, and can be decrypted.
    fn through_hub(&mut self, spinners: &Spinners) -> Result<(Outcome, Usage)> {
        self.prepare()?;
        let (to, length) = (self.peers[1].address, PAYLOAD);
        let mut samples: Vec<Vec<u8>> = Vec::with_capacity(self.count / SAMPLE + 1);
        let mut seen = 0;
        let (load, frames) = (&mut self.hub.load, self.frames.iter().map(Vec::as_slice));
        let (outcome, usage) = spinners.measure(&[self.process], || {
            load.run(Duration::MAX, frames, |frame| {
                let right =
                    message_to(to, frame).is_some_and(|m| m.len() == length && m[..4] == [4, 0, 0, 0]);
                if right && seen % SAMPLE == 0 {
                    samples.push(frame.to_vec());
                }
                seen += 1;
                right
            })
        });
        let expected = inner(63);
        for sample in samples {
            let packet = self.peers[1].decrypt(&sample).context("a packet from the hub")?;
            ensure!(packet == expected, "the hub has changed a packet: {packet:?} instead of {expected:?}");
        }
        Ok((outcome?, usage))
    }

    fn reflected(&mut self, spinners: &Spinners) -> Result<(Outcome, Usage)> {
        let (load, frames) = (&mut self.reflect.load, self.frames.iter().map(Vec::as_slice));
        let (outcome, usage) = spinners
            .measure(&[], || load.run(Duration::MAX, frames, |frame| frame[12..16] == [8, 0, 0x45, 0]));
        Ok((outcome?, usage))
    }
}

/// The packet in the tunnel.
fn inner(time_to_live: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    let payload: Vec<u8> = (0..).take(PAYLOAD - OVERHEAD - 28).collect();
    PacketBuilder::ipv4(INNER[0].octets(), INNER[1].octets(), time_to_live)
        .udp(1000, 2000)
        .write(&mut packet, &payload)
        .expect("write to a vector");
    packet
}

/// Measures the hub against the same packets reflected, which is twice there.
///
/// # Errors
/// If the hub can't be set up, or what it sends can't be decrypted.
pub fn run(effort: Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let (rounds, count) = if effort == Effort::Short { (3, 10_000) } else { (40, 50_000) };
    let lab = Lab::new();
    let mut scene = Scene::new(&lab, count)?;
    let spinners = Spinners::start()?;
    let who = [Who::Reflect, Who::Hub, Who::ReflectAgain];
    let mut measured = [Measured::default(), Measured::default(), Measured::default()];
    pinned(CPUS[0], || {
        settle(effort, || {
            let measure = |who: &mut Who| {
                let (outcome, usage) = match who {
                    Who::Hub => scene.through_hub(&spinners)?,
                    Who::Reflect | Who::ReflectAgain => scene.reflected(&spinners)?,
                };
                measured[*who as usize].add(outcome, usage).with_context(|| format!("{who:?}"))
            };
            let tell = |round| progress(&format!("hub: round {} of {rounds}", round + 1));
            interleave(&mut who.clone(), rounds, measure, tell)?;
            Ok(measured[2].tasks.ratio(&measured[0].tasks).median)
        })
    })??;
    let names = ["hub-reflect", "wireguard-go-hub", "hub-reflect-again"];
    let row = |(name, m): (&str, &Measured)| Row::new(name, 1, PAYLOAD, m, &measured[0]);
    Ok(names.into_iter().zip(&measured).map(row).collect())
}
