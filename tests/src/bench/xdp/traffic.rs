//! The frames of the benchmark: sessions, what their hosts send, and what has to come out of a relay, each made from
//! scratch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::PacketBuilder;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use relay_bench_ebpf::{Flow, Frame, HEAD, LAYOUTS, Layout, WORDS};
use relay_user::handshake::{Session, Side};
use serde::{Deserialize, Serialize};
use zerocopy::FromZeros as _;

/// The relay port.
pub const PORT: u16 = 51_820;
/// The relay's IPv4 address.
pub const RELAY_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The relay's IPv6 address.
pub const RELAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// Hop count of frames as sent.
const TTL: u8 = 64;

/// How often which session's packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visits {
    /// All sessions alike, in random order.
    Uniform,
    /// By a Zipf law with exponent 1: the session of rank k sends in proportion to 1/k.
    Zipf,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "4")]
    V4,
    /// IPv6.
    #[serde(rename = "6")]
    V6,
}

/// What is sent through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// How many sessions there are. One direction of each is used, and only that is in the relay's tables.
    pub sessions: u32,
    /// How they are visited.
    pub visits: Visits,
    /// The family that packets come in.
    pub from: Family,
    /// The family that they leave in.
    pub to: Family,
    /// Length of the IP packet inside of the WireGuard message, in bytes. The message has 32 bytes more.
    pub payload: usize,
}

impl Scenario {
    /// What one factor at a time is varied around.
    pub const CENTRE: Self =
        Self { sessions: 1_000, visits: Visits::Uniform, from: Family::V4, to: Family::V4, payload: 128 };
    /// So many sessions that hardly any look-up finds its line in a cache.
    pub const MANY: Self = Self { sessions: 1_000_000, ..Self::CENTRE };

    /// Whether what is measured here is held against a figure, and so is measured longer.
    pub fn has_a_figure(self) -> bool {
        self == Self::CENTRE || self == Self::MANY
    }
}

impl std::fmt::Display for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digit = |family| if family == Family::V4 { 4 } else { 6 };
        let visits = if self.visits == Visits::Uniform { "uniform" } else { "zipf" };
        let Self { sessions, payload, .. } = self;
        write!(f, "{}→{} {payload} B, {sessions} sessions, {visits}", digit(self.from), digit(self.to))
    }
}

/// The Ethernet addresses of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macs {
    /// Of who sends it.
    pub source: [u8; 6],
    /// Of who is to take it.
    pub destination: [u8; 6],
}

impl Macs {
    /// Those of the way back.
    pub fn swapped(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It comes back as it is, but for its MAC addresses.
    Reflected,
    /// It comes back as the relay sends it on.
    Relayed,
}

/// The frames of a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// The scenario.
    pub scenario: Scenario,
    /// The MAC addresses of frames as sent.
    pub macs: Macs,
}

impl Traffic {
    /// A session of the scenario by its number: what its initiator sends goes through the relay. Random to look at, but
    /// always the same.
    pub fn session(&self, number: u32) -> Session {
        let endpoint = |family, salt: u32| {
            let port = 1_024 + (mix(number ^ salt) % 60_000) as u16;
            let [a, b, c, d] = number.to_be_bytes();
            let ip: IpAddr = match family {
                Family::V4 => Ipv4Addr::new(salt as u8 + a, b, c, d).into(),
                Family::V6 => {
                    Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(salt) << 64).to_bits_with(number)
                }
            };
            SocketAddr::new(ip, port)
        };
        let side = |family, salt, index| Side {
            index,
            endpoint: endpoint(family, salt),
            local: if family == Family::V4 { RELAY_V4.into() } else { RELAY_V6.into() },
            member: None,
        };
        // Never 0, which is no index.
        let index = mix(number + 1);
        Session {
            initiator: side(self.scenario.from, 10, !index),
            responder: side(self.scenario.to, 11, index),
            opened: std::time::Duration::ZERO,
        }
    }

    /// The frame that a session's initiator sends, with a number that stands in WireGuard's counter.
    pub fn sent(&self, session: u32, number: u32) -> Vec<u8> {
        let Session { initiator, responder, .. } = self.session(session);
        let relay = SocketAddr::new(initiator.local, PORT);
        frame(self.macs, initiator.endpoint, relay, TTL, &self.message(responder.index, number))
    }

    /// What has to come back for it.
    pub fn returned(&self, session: u32, number: u32, fate: Fate) -> Vec<u8> {
        let Session { initiator, responder, .. } = self.session(session);
        let message = self.message(responder.index, number);
        match fate {
            Fate::Reflected => {
                let relay = SocketAddr::new(initiator.local, PORT);
                frame(self.macs.swapped(), initiator.endpoint, relay, TTL, &message)
            }
            Fate::Relayed => {
                let relay = SocketAddr::new(responder.local, PORT);
                frame(self.macs.swapped(), relay, responder.endpoint, TTL - 1, &message)
            }
        }
    }

    /// Transport data. The counter is the number and its complement, the payload begins with zeros and their
    /// complement (see [`Layout`]), then counts.
    fn message(&self, index: u32, number: u32) -> Vec<u8> {
        let mut message = vec![4, 0, 0, 0];
        message.extend(index.to_le_bytes());
        message.extend(number.to_le_bytes());
        message.extend((!number).to_le_bytes());
        message.extend((0..self.scenario.payload + 16).map(|at| at as u8));
        let udp_headers = if self.scenario.from == Family::V4 { 42 } else { 62 };
        let stamp = self.sent_layout().stamp - udp_headers;
        message[stamp..stamp + 8].fill(0);
        message[stamp + 8..stamp + 16].fill(0xff);
        message
    }

    fn sent_layout(&self) -> &'static Layout {
        &LAYOUTS[Layout::of(self.scenario.from == Family::V4, true) as usize]
    }

    /// Frames as sent, for the driver and the generator, and the flow of each session.
    pub fn sent_template(&self) -> (Frame, impl Fn(u32) -> Flow + use<>) {
        let (this, layout) = (*self, Layout::of(self.scenario.from == Family::V4, true));
        (template(&self.sent(0, 0), layout), move |session| flow(&this.sent(session, 0), layout))
    }

    /// Frames as they are to come back, for the sink, and the flow of each session.
    pub fn returned_template(&self, fate: Fate) -> (Frame, impl Fn(u32) -> Flow + use<>) {
        let this = *self;
        let layout = match fate {
            Fate::Reflected => Layout::of(self.scenario.from == Family::V4, true),
            Fate::Relayed => Layout::of(self.scenario.to == Family::V4, false),
        };
        (template(&self.returned(0, 0, fate), layout), move |session| {
            flow(&this.returned(session, 0, fate), layout)
        })
    }

    /// Numbers of sessions in the order of visiting; a power of two of them, over and over.
    pub fn order(&self) -> Vec<u32> {
        /// So many draws show the law also where there are few sessions.
        const DRAWS: usize = 1 << 16;
        let (sessions, mut random) = (self.scenario.sessions, SmallRng::seed_from_u64(1));
        let length = (sessions as usize).next_power_of_two();
        match self.scenario.visits {
            Visits::Uniform => {
                let mut order = Vec::with_capacity(length + sessions as usize);
                while order.len() < length {
                    let from = order.len();
                    order.extend(0..sessions);
                    order[from..].shuffle(&mut random);
                }
                order.truncate(length);
                order
            }
            Visits::Zipf => {
                let law = rand_distr::Zipf::new(f64::from(sessions), 1.0).expect("there are sessions");
                let draws = random.sample_iter(law).map(|rank: f64| rank as u32 - 1);
                draws.take(length.max(DRAWS)).collect()
            }
        }
    }
}

trait WithLow32 {
    /// The address with these last 32 bits.
    fn to_bits_with(self, low: u32) -> IpAddr;
}

impl WithLow32 for Ipv6Addr {
    fn to_bits_with(self, low: u32) -> IpAddr {
        Self::from_bits(self.to_bits() | u128::from(low)).into()
    }
}

/// A permutation of all 32-bit numbers that looks random (the finalizer of MurmurHash3).
fn mix(mut n: u32) -> u32 {
    n ^= n >> 16;
    n = n.wrapping_mul(0x85eb_ca6b);
    n ^= n >> 13;
    n = n.wrapping_mul(0xc2b2_ae35);
    n ^ n >> 16
}

/// A frame from scratch.
/// A frame with a UDP datagram.
pub(crate) fn frame(
    macs: Macs,
    source: SocketAddr,
    destination: SocketAddr,
    ttl: u8,
    message: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.source, macs.destination);
    let ip = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), ttl)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), ttl)
        }
        _ => unreachable!("a packet has one family"),
    };
    let mut frame = Vec::new();
    let udp = ip.udp(source.port(), destination.port());
    udp.write(&mut frame, message).expect("write to a vector");
    frame
}

/// What a flow has of its own, from a frame of it.
pub(crate) fn flow(frame: &[u8], layout: u64) -> Flow {
    let layout = &LAYOUTS[layout as usize];
    let two = |at: usize| [frame[at], frame[at + 1]];
    let four = |at: usize| [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]];
    let ip_checksum = layout.ip_checksum.map_or([0; 2], two);
    Flow::new(
        four(layout.address),
        two(layout.port),
        two(layout.udp_checksum),
        ip_checksum,
        four(layout.index),
    )
}

/// The head of a frame without what [`Frame::head`] puts into it.
pub(crate) fn template(frame: &[u8], layout: u64) -> Frame {
    let mut head: [u8; HEAD] = frame[..HEAD].try_into().expect("a frame has a head");
    let fields = &LAYOUTS[layout as usize];
    let mut clear = |at: usize, bytes: usize| head[at..at + bytes].fill(0);
    clear(fields.address, 4);
    clear(fields.port, 2);
    clear(fields.udp_checksum, 2);
    fields.ip_checksum.into_iter().for_each(|at| clear(at, 2));
    clear(fields.index, 4);
    clear(fields.number, 8);
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(head.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Frame { words, len: frame.len() as u64, layout, ..Frame::new_zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: Macs = Macs { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2] };

    fn bytes(words: [u64; WORDS]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn head(frame: &Frame, flow: &Flow, number: u32) -> Vec<u8> {
        bytes(match frame.layout {
            0 => frame.head::<0>(flow, number),
            1 => frame.head::<1>(flow, number),
            2 => frame.head::<2>(flow, number),
            _ => frame.head::<3>(flow, number),
        })
    }

    #[test]
    fn a_template_and_a_flow_make_the_frame_that_is_made_from_scratch() {
        for (from, to) in
            [Family::V4, Family::V6].into_iter().flat_map(|a| [(a, Family::V4), (a, Family::V6)])
        {
            let scenario = Scenario { from, to, payload: 64, ..Scenario::CENTRE };
            let traffic = Traffic { scenario, macs: MACS };
            for (session, number) in [(0, 0), (1, 1), (999_999, 0xffff_ffff), (70_000, 0x1234_5678)] {
                let (template, flow) = traffic.sent_template();
                let whole = traffic.sent(session, number);
                assert_eq!(head(&template, &flow(session), number), whole[..HEAD], "{scenario}");
                assert_eq!(template.len, whole.len() as u64);
                for fate in [Fate::Reflected, Fate::Relayed] {
                    let (template, flow) = traffic.returned_template(fate);
                    let whole = traffic.returned(session, number, fate);
                    assert_eq!(head(&template, &flow(session), number), whole[..HEAD], "{scenario} {fate:?}");
                }
            }
        }
    }

    #[test]
    fn every_session_is_visited_alike_or_by_the_law() {
        let traffic = |sessions, visits| Traffic {
            scenario: Scenario { sessions, visits, ..Scenario::CENTRE },
            macs: MACS,
        };
        let count = |order: &[u32], session| order.iter().filter(|&&visited| visited == session).count();
        let order = traffic(1_000, Visits::Uniform).order();
        assert_eq!(order.len(), 1_024);
        assert!((0..1_000).all(|session| (1..=2).contains(&count(&order, session))));
        assert_eq!(traffic(1, Visits::Uniform).order(), [0]);
        let order = traffic(1_000, Visits::Zipf).order();
        assert_eq!(order.len(), 65_536);
        assert!(order.iter().all(|&session| session < 1_000));
        let (first, tenth) = (count(&order, 0), count(&order, 9));
        assert!((7..14).contains(&(first / tenth)), "{first} {tenth}");
    }
}
