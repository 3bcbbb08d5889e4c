//! The hashes of WireGuard's macs and cookies (WireGuard paper, section 5.4).
//!
//! `mac1 = BLAKE2s-128(key = BLAKE2s-256("mac1----" || recipient's public key), message up to mac1)`. Whoever has the
//! recipient's public key can compute it, so the relay finds the recipient by trying the keys of those it serves: that
//! stands in `search`. The comparison needs no constant time: nothing in it is secret.

use blake2s_simd::Params;
use relay_ebpf::wireguard::MAC_LEN;

use super::message::Mac;
use crate::members::PublicKey;

/// mac1 over `body`, the message up to mac1, for the owner of `recipient`: what `search` looks for, one at a time.
#[cfg(test)]
pub fn mac1(recipient: &PublicKey, body: &[u8]) -> Mac {
    keyed_mac(&labelled_hash(b"mac1----", recipient), &[body])
}

/// BLAKE2s-256 of an eight-byte label and a public key: how WireGuard derives what macs and cookie replies are keyed with.
pub(super) fn labelled_hash(label: &[u8; 8], key: &PublicKey) -> [u8; 32] {
    *Params::new().to_state().update(label).update(&key.0).finalize().as_array()
}

/// BLAKE2s-128 keyed with up to 32 bytes, over the parts one after the other.
pub(super) fn keyed_mac(key: &[u8], parts: &[&[u8]]) -> Mac {
    let mut state = Params::new().hash_length(MAC_LEN).key(key).to_state();
    for part in parts {
        state.update(part);
    }
    let mut mac = Mac::default();
    mac.copy_from_slice(state.finalize().as_bytes());
    mac
}
