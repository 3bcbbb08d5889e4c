//! A WireGuard peer within the load: it takes handshakes, encrypts packets in advance, and decrypts what came.

use std::{fs, net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use boringtun::{
    noise::{Tunn, TunnResult},
    x25519::{PublicKey, StaticSecret},
};

use super::{
    flows::{GATEWAY_MAC, RELAY, frame, payload},
    place::Place,
};
use crate::{host::Keys, lab::Lab, wait::now};

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Room for any message.
const MESSAGE: usize = 2048;

/// One peer.
pub struct Peer {
    /// Its keys.
    pub keys: Keys,
    /// Where it is.
    pub address: SocketAddrV4,
    secret: StaticSecret,
    tunnel: Option<Tunn>,
    index: u32,
}

impl Peer {
    /// A peer with new keys.
    ///
    /// # Errors
    /// If its keys can't be read.
    pub fn new(lab: &Lab, name: &str, address: SocketAddrV4) -> Result<Self> {
        let keys = Keys::new(lab, name);
        let text = fs::read_to_string(&keys.private_file).context("read a private key")?;
        let secret = StaticSecret::from(key(text.trim())?);
        // boringtun takes 24 bits of it. A relay takes no index that another pair has.
        Ok(Self { keys, address, secret, tunnel: None, index: fastrand::u32(..1 << 23) })
    }

    /// Makes a new session with the relay's own WireGuard, which has this key.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn connect(&mut self, place: &mut Place, relay: &str) -> Result<()> {
        let mut handshake = vec![self.begin(place, relay)?];
        exchange(place, &mut [self], &mut handshake, 2)
    }

    /// Makes a new session with another peer, by the relay.
    ///
    /// # Errors
    /// If the relay does not relay it.
    pub fn meet(&mut self, place: &mut Place, other: &mut Peer) -> Result<()> {
        other.expect(&self.keys.public)?;
        let mut handshake = vec![self.begin(place, &other.keys.public)?];
        exchange(place, &mut [self, other], &mut handshake, 3)
    }

    /// Gets ready for a session with whoever has this key.
    fn expect(&mut self, other: &str) -> Result<&mut Tunn> {
        self.index += 1;
        let other = PublicKey::from(key(other)?);
        Ok(self.tunnel.insert(Tunn::new(self.secret.clone(), other, None, None, self.index, None)))
    }

    /// Gives the frame that begins a handshake.
    fn begin(&mut self, place: &Place, other: &str) -> Result<Vec<u8>> {
        let mut room = [0; MESSAGE];
        match self.expect(other)?.format_handshake_initiation(&mut room, false) {
            TunnResult::WriteToNetwork(initiation) => Ok(self.frame(place, initiation)),
            other => bail!("no initiation could be made: {other:?}"),
        }
    }

    /// The frame that answers one for this peer.
    fn answer(&mut self, relay_mac: [u8; 6], frame_in: &[u8]) -> Option<Vec<u8>> {
        let message = message_to(self.address, frame_in)?;
        let mut room = [0; MESSAGE];
        match self.tunnel.as_mut()?.decapsulate(None, message, &mut room) {
            TunnResult::WriteToNetwork(answer) => {
                Some(frame([GATEWAY_MAC, relay_mac], self.address, RELAY, answer))
            }
            _ => None,
        }
    }

    /// A message of this peer as a frame to the relay.
    fn frame(&self, place: &Place, message: &[u8]) -> Vec<u8> {
        frame([GATEWAY_MAC, place.relay_mac], self.address, RELAY, message)
    }

    /// Frames to the relay, each with this IP packet, encrypted for the session.
    ///
    /// # Errors
    /// If there is no session.
    pub fn encrypt(&mut self, place: &Place, packet: &[u8], count: usize) -> Result<Vec<Vec<u8>>> {
        let mut tunnel = self.tunnel.take().context("no session yet")?;
        let mut room = [0; MESSAGE];
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            let TunnResult::WriteToNetwork(message) = tunnel.encapsulate(packet, &mut room) else {
                bail!("a packet can't be encrypted")
            };
            frames.push(self.frame(place, message));
        }
        self.tunnel = Some(tunnel);
        Ok(frames)
    }

    /// The IP packet in a frame for this peer.
    ///
    /// # Errors
    /// If there is none.
    pub fn decrypt(&mut self, frame: &[u8]) -> Result<Vec<u8>> {
        let message = message_to(self.address, frame).context("a frame is for someone else")?;
        let mut room = [0; MESSAGE];
        match self.tunnel.as_mut().context("no session yet")?.decapsulate(None, message, &mut room) {
            TunnResult::WriteToTunnelV4(packet, _) => Ok(packet.to_vec()),
            other => bail!("not decrypted: {other:?}"),
        }
    }
}

/// Sends frames and answers what comes, until `count` frames were sent: the last of a handshake confirms the session.
fn exchange(
    place: &mut Place,
    peers: &mut [&mut Peer],
    frames: &mut Vec<Vec<u8>>,
    count: usize,
) -> Result<()> {
    let (start, mut sent, mac) = (now(), 0, place.relay_mac);
    loop {
        for frame in frames.drain(..) {
            place.load.send(&frame)?;
            sent += 1;
        }
        if sent >= count {
            return Ok(());
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "no WireGuard handshake within {PATIENCE:?}: {sent} of {count} frames"
        );
        place.load.receive(Duration::from_millis(100), |frame| {
            frames.extend(peers.iter_mut().filter_map(|peer| peer.answer(mac, frame)));
        })?;
    }
}

/// The UDP payload of a frame, if it is from the relay to this address.
pub fn message_to(address: SocketAddrV4, frame: &[u8]) -> Option<&[u8]> {
    let message = payload(frame)?;
    let endpoint = |ip: usize, port: usize| {
        let ip: [u8; 4] = frame[ip..ip + 4].try_into().expect("four bytes");
        SocketAddrV4::new(ip.into(), u16::from_be_bytes([frame[port], frame[port + 1]]))
    };
    (endpoint(26, 34) == RELAY && endpoint(30, 36) == address).then_some(message)
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("address", &self.address).field("key", &self.keys.public).finish()
    }
}

fn key(text: &str) -> Result<[u8; 32]> {
    let bytes = STANDARD.decode(text).context("a key is base64")?;
    bytes.try_into().ok().context("a key has 32 bytes")
}
