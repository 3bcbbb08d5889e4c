//! The traffic that is relayed: flows of WireGuard transport data over IPv4.
//!
//! ```text
//! source namespace                          relay namespace
//!   198.18.x.y:20000+n ── to 198.18.0.1:51820 ──▶ relay
//!   198.19.x.y:30000+n ◀── from 198.18.0.1:51820 ──┘
//! ```
//!
//! The flows' addresses are on no device (RFC 2544's, for benchmarks), and neither is the MAC address that stands for all
//! of them. So what comes back is dropped right after the sink has seen it, and no stack answers it.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::PacketBuilder;
use turn_types::channel::ChannelData;

use crate::turn_requests::NUMBER as CHANNEL;

/// The relay.
pub const RELAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 51820);
/// The gateway that the relay believes all flows to be behind.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The gateway's MAC address, which no device has.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// Where the addresses begin that a relay changes: the IPv4 source address. From there to the end a frame is the same
/// whatever time to live and identification it has.
const REST: usize = 14 + 12;
/// Where the UDP payload begins.
pub const PAYLOAD: usize = 14 + 20 + 8;
/// Where a flow's number stands: the first ciphertext of its transport data.
const NUMBER: usize = PAYLOAD + 16;

/// One flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// From 0.
    pub number: u32,
}

impl Flow {
    fn host(self, network: u8) -> Ipv4Addr {
        let [_, high, middle, low] = (self.number + 256).to_be_bytes();
        assert_eq!(high, 0, "so many flows have no addresses");
        Ipv4Addr::new(198, network, middle, low)
    }

    fn port(self, first: u16) -> u16 {
        first + (self.number % 10_000) as u16
    }

    /// Who sends.
    pub fn source(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.host(18), self.port(20_000))
    }

    /// Who receives.
    pub fn destination(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.host(19), self.port(30_000))
    }

    /// The receiver index of its session: no two flows have the same.
    pub fn index(self) -> u32 {
        self.number.wrapping_mul(0x9e37_79b1).wrapping_add(0x1234_5678)
    }

    /// Its transport data: a UDP payload of that many bytes.
    fn data(self, size: usize, index: u32) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(self.number.into());
        let mut data = vec![4, 0, 0, 0];
        data.extend(index.to_le_bytes());
        data.extend(1_u64.to_le_bytes());
        data.extend(self.number.to_le_bytes());
        data.resize_with(size, || random.u8(..));
        data
    }
}

/// A frame with UDP over IPv4, its checksums complete.
pub fn frame(macs: [[u8; 6]; 2], source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs[0], macs[1])
        .ipv4(source.ip().octets(), destination.ip().octets(), 64)
        .udp(source.port(), destination.port())
        .write(&mut frame, payload)
        .expect("write to a vector");
    frame
}

/// The UDP payload of a frame with UDP over IPv4.
pub fn payload(frame: &[u8]) -> Option<&[u8]> {
    let is_udp = frame.get(12..15)? == [8, 0, 0x45] && *frame.get(23)? == 17;
    let length = u16::from_be_bytes(*frame.get(PAYLOAD - 4..)?.first_chunk()?).checked_sub(8)?;
    is_udp.then(|| frame.get(PAYLOAD..)?.get(..length.into()))?
}

/// Frames ready to be sent, and what is to come back.
#[derive(Debug)]
pub struct Flows {
    /// One for each flow.
    pub frames: Vec<Vec<u8>>,
    reflected: Vec<Vec<u8>>,
    relayed: Vec<Vec<u8>>,
}

/// What is to be done to the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing but swapping the MAC addresses.
    Reflected,
    /// Sent on from the relay to the flow's destination.
    Relayed,
}

impl Flows {
    /// That many, each with one frame of `size` bytes of UDP payload, to the relay with this MAC address.
    pub fn new(count: u32, size: usize, relay_mac: [u8; 6]) -> Self {
        Self::with_indices(count, size, relay_mac, Flow::index)
    }

    /// The same with receiver indices that someone else has chosen.
    pub fn with_indices(count: u32, size: usize, relay_mac: [u8; 6], index: impl Fn(Flow) -> u32) -> Self {
        let data = |flow: Flow| flow.data(size, index(flow));
        Self::of(count, relay_mac, |flow| (RELAY, data(flow)), |flow| (RELAY, data(flow)))
    }

    /// The same in channels to the TURN server, each with `size` bytes of data; `relayed` is the address that it leaves from.
    pub fn in_channels(
        count: u32,
        size: usize,
        relay_mac: [u8; 6],
        server: SocketAddrV4,
        relayed: impl Fn(Flow) -> SocketAddrV4,
    ) -> Self {
        let data = |flow: Flow| flow.data(size, flow.index());
        let sent = |flow| {
            let data = data(flow);
            let mut message = vec![0; 4 + data.len()];
            ChannelData::new(CHANNEL, &data).write_into_unchecked(&mut message);
            (server, message)
        };
        Self::of(count, relay_mac, sent, |flow| (relayed(flow), data(flow)))
    }

    /// `sent` is where to and what, `relayed` where from and what.
    fn of(
        count: u32,
        relay_mac: [u8; 6],
        sent: impl Fn(Flow) -> (SocketAddrV4, Vec<u8>),
        relayed: impl Fn(Flow) -> (SocketAddrV4, Vec<u8>),
    ) -> Self {
        let macs = [GATEWAY_MAC, relay_mac];
        let (mut frames, mut left) = (Vec::new(), Vec::new());
        for flow in (0..count).map(|number| Flow { number }) {
            let ((to, message), (from, content)) = (sent(flow), relayed(flow));
            frames.push(frame(macs, flow.source(), to, &message));
            left.push(frame(macs, from, flow.destination(), &content));
        }
        let rest = |frames: &[Vec<u8>]| frames.iter().map(|frame| frame[REST..].to_vec()).collect();
        Self { reflected: rest(&frames), relayed: rest(&left), frames }
    }

    /// Whether a frame that came back is what it should be: addresses, ports, UDP checksum and every byte of payload.
    pub fn is_right(&self, way: Way, frame: &[u8]) -> bool {
        let Some(number) = frame.get(NUMBER..).and_then(|rest| rest.first_chunk()) else { return false };
        let expected = if way == Way::Reflected { &self.reflected } else { &self.relayed };
        let expected = expected.get(u32::from_le_bytes(*number) as usize);
        expected.is_some_and(|expected| frame[12..16] == [8, 0, 0x45, 0] && frame[REST..] == **expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_bytes_are_right() {
        let flows = Flows::new(1_000, 128, [2, 0, 0, 0, 0, 1]);
        assert_eq!(flows.frames[0].len(), PAYLOAD + 128);
        for frame in &flows.frames {
            assert!(flows.is_right(Way::Reflected, frame) && !flows.is_right(Way::Relayed, frame));
        }
        let flow = Flow { number: 300 };
        let relayed = frame([[0; 6]; 2], RELAY, flow.destination(), &flow.data(128, flow.index()));
        assert!(flows.is_right(Way::Relayed, &relayed));
        for at in REST..relayed.len() {
            let mut wrong = relayed.clone();
            wrong[at] ^= 1;
            assert!(!flows.is_right(Way::Relayed, &wrong), "byte {at}");
        }
        assert!(!flows.is_right(Way::Relayed, &relayed[..50]) && !flows.is_right(Way::Relayed, &[]));
    }

    #[test]
    fn flows_differ() {
        let all: std::collections::HashSet<_> = (0..1_000)
            .map(|number| Flow { number })
            .map(|f| (f.source(), f.destination(), f.index()))
            .collect();
        assert_eq!(all.len(), 1_000);
    }
}
