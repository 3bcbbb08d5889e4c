//! Incremental Internet checksums (RFC 1071, RFC 1624).
//!
//! A one's complement sum does not depend on byte order (RFC 1071, section 2 (B)), so 16-bit words are read from the
//! packet as native integers and results are written back the same way; nothing is ever swapped.
//!
//! A [`delta`] is what a known change of words adds to the sum: `Σ ~old + new`. Both addresses and ports of a session
//! are known when the session is written, so userspace computes its deltas once, and the XDP program only folds them
//! in with [`apply`] (RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`).

/// Folds a sum of 16-bit words into 16 bits. Two folds are enough for any `u32`.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The delta of the IPv4 header checksum for a TTL that is one less: TTL is the first byte in memory of its word.
pub const TTL_DECREMENT: u16 = fold(!(u16::from_ne_bytes([1, 0])) as u16 as u32);

/// The delta that replacing the words of `old` by the words of `new` makes. Both are byte strings in network order, of
/// the same even length.
///
/// # Panics
/// If the lengths differ or are odd. For userspace; the XDP program uses deltas that are computed already.
pub fn delta(old: &[u8], new: &[u8]) -> u16 {
    assert!(old.len() == new.len() && old.len() % 2 == 0, "words are replaced by as many words");
    let words = |bytes: &[u8], flip: u16| {
        bytes
            .chunks_exact(2)
            .map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]) ^ flip))
            .fold(0, |sum, word| u32::from(add(fold(sum), fold(word))))
    };
    add(words(old, 0xffff) as u16, words(new, 0) as u16)
}

/// One's complement addition of two deltas.
#[inline(always)]
pub const fn add(a: u16, b: u16) -> u16 {
    fold(a as u32 + b as u32)
}

/// The checksum after a change whose delta is given. `checksum` is the field as it is in the packet.
#[inline(always)]
pub const fn apply(checksum: u16, delta: u16) -> u16 {
    !fold((!checksum) as u32 + delta as u32)
}

/// [`apply`] for UDP: a computed zero is sent as all ones, since zero means "no checksum" (RFC 768). The caller leaves
/// a field that is already zero alone.
#[inline(always)]
pub const fn apply_udp(checksum: u16, delta: u16) -> u16 {
    match apply(checksum, delta) {
        0 => 0xffff,
        sum => sum,
    }
}
