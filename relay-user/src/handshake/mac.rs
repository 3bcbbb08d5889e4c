//! mac1: who a handshake message is for.
//!
//! `mac1 = BLAKE2s-128(key = BLAKE2s-256("mac1----" || recipient's public key), message up to mac1)` (WireGuard paper,
//! section 5.4.4). Whoever has the recipient's public key can compute it, so the relay finds the recipient by trying
//! the keys of those it serves. The comparison needs no constant time: nothing in it is secret.

use blake2s_simd::{
    Params,
    many::{HashManyJob, hash_many},
};
use relay_ebpf::wireguard::MAC_LEN;

use super::message::{Mac, Macs};
use crate::members::PublicKey;

/// How many keys are tried at once: some multiple of what the CPU hashes in parallel (8 with AVX2).
const BATCH: usize = 32;

/// What mac1 of messages for one public key is keyed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacKey([u8; 32]);

impl MacKey {
    /// The key for messages to the owner of `recipient`.
    pub fn new(recipient: &PublicKey) -> Self {
        Self(labelled_hash(b"mac1----", recipient))
    }

    /// mac1 over `body`, the message up to mac1: what [`find`] looks for, one key at a time.
    #[cfg(test)]
    pub fn mac1(&self, body: &[u8]) -> Mac {
        keyed_mac(&self.0, &[body])
    }
}

/// The first of `keys` that fits the message's mac1. Takes keys only as far as needed, a batch at a time.
pub fn find<'k, T>(macs: &Macs, keys: impl IntoIterator<Item = (T, &'k MacKey)>) -> Option<T> {
    let mut keys = keys.into_iter();
    let mut owners = Vec::with_capacity(BATCH);
    let mut jobs = Vec::with_capacity(BATCH);
    loop {
        owners.clear();
        jobs.clear();
        for (owner, key) in keys.by_ref().take(BATCH) {
            owners.push(owner);
            jobs.push(HashManyJob::new(Params::new().hash_length(MAC_LEN).key(&key.0), macs.body));
        }
        if jobs.is_empty() {
            return None;
        }
        hash_many(&mut jobs);
        if let Some(hit) = jobs.iter().position(|job| job.to_hash().as_bytes() == macs.mac1) {
            return Some(owners.swap_remove(hit));
        }
    }
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
