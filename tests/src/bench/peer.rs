//! A WireGuard peer within the load: it takes handshakes, encrypts packets in advance, and decrypts what came.

use std::{fs, net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use boringtun::{
    noise::{Tunn, TunnResult},
    x25519::{PublicKey, StaticSecret},
};

use crate::{
    bench::{
        flows::{GATEWAY_MAC, PAYLOAD, RELAY, frame},
        place::Place,
    },
    host::Keys,
    lab::Lab,
    wait::now,
};

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
        Ok(Self { keys, address, secret, tunnel: None, index: 0 })
    }

    /// Makes a new session with whoever has this key and is reached at [`RELAY`].
    ///
    /// # Errors
    /// If there is no answer.
    pub fn connect(&mut self, place: &mut Place, other: &str) -> Result<()> {
        self.index += 1;
        let other = PublicKey::from(key(other)?);
        let mut tunnel = Tunn::new(self.secret.clone(), other, None, None, self.index, None);
        let mut room = [0; MESSAGE];
        let TunnResult::WriteToNetwork(initiation) = tunnel.format_handshake_initiation(&mut room, false)
        else {
            bail!("no initiation could be made")
        };
        place.load.send(&self.frame(place, initiation))?;
        let start = now();
        let mut reply = None;
        while reply.is_none() {
            ensure!(start.elapsed() < PATIENCE, "no WireGuard handshake within {PATIENCE:?}");
            place.load.receive(Duration::from_millis(100), |frame| {
                let Some(message) = message_to(self.address, frame) else { return };
                if let TunnResult::WriteToNetwork(message) = tunnel.decapsulate(None, message, &mut room) {
                    reply = Some(message.to_vec());
                }
            })?;
        }
        // The first data confirms the session: only then may the other side send.
        place.load.send(&self.frame(place, &reply.expect("awaited above")))?;
        self.tunnel = Some(tunnel);
        Ok(())
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

/// The UDP payload of a frame, if it is from the relay to this address.
pub fn message_to(address: SocketAddrV4, frame: &[u8]) -> Option<&[u8]> {
    let message = frame.get(PAYLOAD..)?;
    let length = u16::from_be_bytes([frame[PAYLOAD - 4], frame[PAYLOAD - 3]]).checked_sub(8)?;
    let endpoint = |ip: usize, port: usize| {
        let ip: [u8; 4] = frame[ip..ip + 4].try_into().expect("four bytes");
        SocketAddrV4::new(ip.into(), u16::from_be_bytes([frame[port], frame[port + 1]]))
    };
    let right = frame[12..15] == [8, 0, 0x45] && frame[23] == 17;
    (right && endpoint(26, 34) == RELAY && endpoint(30, 36) == address).then(|| message.get(..length.into()))?
}

fn key(text: &str) -> Result<[u8; 32]> {
    let bytes = STANDARD.decode(text).context("a key is base64")?;
    bytes.try_into().ok().context("a key has 32 bytes")
}
