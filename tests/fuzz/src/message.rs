//! WireGuard's handshake messages with right macs (WireGuard paper, section 5.4), made apart from the code under test.

use blake2s_simd::Params;
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305,
    aead::{Aead as _, Payload},
};
use relay_user::members::PublicKey;

/// mac1, mac2 or a cookie.
pub type Mac = [u8; 16];

/// Offset of mac1 in an initiation.
pub const INITIATION_MAC1: usize = 116;
/// Offset of mac1 in a response.
pub const RESPONSE_MAC1: usize = 60;

/// An initiation for the owner of `recipient`, perhaps with mac2 under a cookie.
pub fn initiation(sender: u32, recipient: &PublicKey, cookie: Option<&Mac>) -> Vec<u8> {
    let mut message = vec![0; 148];
    message[0] = 1;
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    sign(&mut message, INITIATION_MAC1, recipient, cookie);
    message
}

/// A response to the owner of `initiator`.
pub fn response(sender: u32, receiver: u32, initiator: &PublicKey) -> Vec<u8> {
    let mut message = vec![0; 92];
    message[0] = 2;
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message[8..12].copy_from_slice(&receiver.to_le_bytes());
    sign(&mut message, RESPONSE_MAC1, initiator, None);
    message
}

/// A cookie reply; only its receiver could tell that it is none.
pub fn cookie_reply(receiver: u32) -> Vec<u8> {
    let mut message = vec![0; 64];
    message[0] = 3;
    message[4..8].copy_from_slice(&receiver.to_le_bytes());
    message
}

/// The sender index of an initiation.
pub fn initiation_index(message: &[u8]) -> Option<u32> {
    let word = |at: usize| Some(u32::from_le_bytes(message.get(at..at + 4)?.try_into().ok()?));
    if word(0)? == 1 { word(4) } else { None }
}

/// Writes mac1 for the owner of `recipient` at its offset, and mac2 after it if there is a cookie.
pub fn sign(message: &mut [u8], mac1_at: usize, recipient: &PublicKey, cookie: Option<&Mac>) {
    let (body, macs) = message.split_at_mut(mac1_at);
    macs[..16].copy_from_slice(&keyed(&labelled(b"mac1----", recipient), body));
    if let Some(cookie) = cookie {
        let mac2 = keyed(cookie, &message[..mac1_at + 16]);
        message[mac1_at + 16..mac1_at + 32].copy_from_slice(&mac2);
    }
}

/// The cookie in a cookie reply that answers `initiation` in the name of `member`.
pub fn cookie(reply: &[u8], initiation: &[u8], member: &PublicKey) -> Option<Mac> {
    let aad = initiation.get(INITIATION_MAC1..INITIATION_MAC1 + 16)?;
    let payload = Payload { msg: reply.get(32..)?, aad };
    let nonce: [u8; 24] = reply.get(8..32)?.try_into().ok()?;
    XChaCha20Poly1305::new(&labelled(b"cookie--", member).into())
        .decrypt(&nonce.into(), payload)
        .ok()?
        .try_into()
        .ok()
}

fn labelled(label: &[u8; 8], key: &PublicKey) -> [u8; 32] {
    *Params::new().to_state().update(label).update(&key.0).finalize().as_array()
}

fn keyed(key: &[u8], data: &[u8]) -> Mac {
    let hash = Params::new().hash_length(16).key(key).hash(data);
    hash.as_bytes().try_into().expect("16 bytes were asked for")
}
