//! The relay's own cookies: how a source from which nothing is known proves that it owns its address.
//!
//! The mechanism is WireGuard's (paper, section 5.4.7): a cookie is a MAC of the source address under a secret that
//! changes every two minutes, it is handed out encrypted in a cookie reply, and the next initiation's mac2 shows that
//! the sender has received it. Encrypting a cookie reply takes the addressed member's *public* key only, so the relay can
//! answer in its name, and any stock client obeys.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use rand::{RngCore, rngs::StdRng};
use relay_ebpf::wireguard::{COOKIE_REPLY, COOKIE_REPLY_LEN};

use super::{
    Timestamp,
    mac::{keyed_mac, labelled_hash},
    message::{Initiation, Mac, Macs},
};
use crate::members::PublicKey;

/// How long a secret makes new cookies. It stays valid for as long again, so every cookie is good for at least the 120 s
/// that a client keeps it.
pub const SECRET_LIFETIME: Duration = Duration::from_secs(120);

const NONCE_LEN: usize = 24;

struct Secret {
    bytes: [u8; 32],
    born: Timestamp,
}

/// The rotating secrets.
#[derive(Default)]
pub struct Cookies {
    current: Option<Secret>,
    previous: Option<Secret>,
}

impl Cookies {
    /// Whether mac2 shows that the sender holds a cookie that we gave to `source`.
    pub fn verify(&mut self, now: Timestamp, rng: &mut StdRng, source: SocketAddr, macs: &Macs) -> bool {
        self.rotate(now, rng);
        [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .any(|secret| mac2(&secret.cookie(source), macs) == macs.mac2)
    }

    /// A cookie reply to `initiation` from `source` in the name of `member`, whom it is for: 64 bytes.
    pub fn reply(
        &mut self,
        now: Timestamp,
        rng: &mut StdRng,
        source: SocketAddr,
        initiation: &Initiation,
        member: &PublicKey,
    ) -> Vec<u8> {
        let cookie = self.rotate(now, rng).cookie(source);
        let mut nonce = [0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        seal(&cookie, &nonce, initiation.sender, &initiation.macs.mac1, member)
    }

    fn rotate(&mut self, now: Timestamp, rng: &mut StdRng) -> &Secret {
        let age = |secret: &Secret| now.saturating_sub(secret.born);
        if self.current.as_ref().is_none_or(|secret| age(secret) >= SECRET_LIFETIME) {
            self.previous = self.current.take().filter(|secret| age(secret) < 2 * SECRET_LIFETIME);
        } else if self.previous.as_ref().is_some_and(|secret| age(secret) >= 2 * SECRET_LIFETIME) {
            self.previous = None;
        }
        self.current.get_or_insert_with(|| {
            let mut bytes = [0; 32];
            rng.fill_bytes(&mut bytes);
            Secret { bytes, born: now }
        })
    }
}

impl Secret {
    /// MAC(secret, address || port), both in network order.
    fn cookie(&self, source: SocketAddr) -> Mac {
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(ip) => keyed_mac(&self.bytes, &[&ip.octets(), &port]),
            IpAddr::V6(ip) => keyed_mac(&self.bytes, &[&ip.octets(), &port]),
        }
    }
}

/// mac2 of a message under `cookie`: `BLAKE2s-128(key = cookie, message up to mac2)`.
pub fn mac2(cookie: &Mac, macs: &Macs) -> Mac {
    keyed_mac(cookie, &[macs.body_and_mac1])
}

/// A cookie reply: `cookie` sealed with XChaCha20-Poly1305 under `BLAKE2s-256("cookie--" || member)`, with mac1 of the
/// message that it answers as additional data.
pub fn seal(cookie: &Mac, nonce: &[u8; NONCE_LEN], receiver: u32, mac1: &Mac, member: &PublicKey) -> Vec<u8> {
    let sealed = XChaCha20Poly1305::new(&labelled_hash(b"cookie--", member).into())
        .encrypt(nonce.into(), Payload { msg: cookie, aad: mac1 })
        .expect("16 bytes are far below the cipher's limit");
    let mut reply = Vec::with_capacity(COOKIE_REPLY_LEN);
    reply.extend_from_slice(&COOKIE_REPLY.to_le_bytes());
    reply.extend_from_slice(&receiver.to_le_bytes());
    reply.extend_from_slice(nonce);
    reply.extend_from_slice(&sealed);
    reply
}
