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
pub const TTL_DECREMENT: u16 = fold(!u16::from_ne_bytes([1, 0]) as u32);

/// The delta that replacing the words of `old` by the words of `new` makes. Both are byte strings in network order, of
/// the same even length.
///
/// # Panics
/// If the lengths differ or are odd. For userspace; the XDP program uses deltas that are computed already.
pub fn delta(old: &[u8], new: &[u8]) -> u16 {
    assert!(old.len() == new.len() && old.len().is_multiple_of(2), "words are replaced by as many words");
    let words = |bytes: &[u8], flip: u16| {
        bytes
            .chunks_exact(2)
            .map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]) ^ flip))
            .fold(0, |sum, word| u32::from(add(fold(sum), fold(word))))
    };
    add(words(old, 0xffff) as u16, words(new, 0) as u16)
}

/// One's complement addition of two deltas. One fold is enough: the sum of two words has one carry at most, and where it
/// has one there is room for it.
#[inline(always)]
pub const fn add(a: u16, b: u16) -> u16 {
    let sum = a as u32 + b as u32;
    (sum + (sum >> 16)) as u16
}

/// The delta of one word in place of another, both as they stand in the packet.
#[inline(always)]
pub const fn replace(old: [u8; 2], new: [u8; 2]) -> u16 {
    add(!u16::from_ne_bytes(old), u16::from_ne_bytes(new))
}

/// The checksum after a change whose delta is given. `checksum` is the field as it is in the packet.
#[inline(always)]
pub const fn apply(checksum: u16, delta: u16) -> u16 {
    !add(!checksum, delta)
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

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, section 4.1: the checksum of all the bytes, by the book, as a field in memory.
    fn full(bytes: &[u8]) -> u16 {
        let mut sum: u64 =
            bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be()
    }

    /// The same for UDP: zero is sent as all ones.
    fn full_udp(bytes: &[u8]) -> u16 {
        match full(bytes) {
            0 => 0xffff,
            sum => sum,
        }
    }

    /// A packet, where in it bytes are replaced, and by what. Replacements begin at even offsets.
    fn replacement() -> impl Strategy<Value = (Vec<u8>, usize, Vec<u8>)> {
        let bytes = prop_oneof![any::<u8>(), Just(0), Just(0xff)];
        (
            prop::collection::vec(bytes.clone(), 2..200),
            prop::collection::vec(bytes, 0..40),
            any::<prop::sample::Index>(),
        )
            .prop_map(|(packet, mut new, at)| {
                new.truncate(packet.len() / 2 * 2);
                new.truncate(new.len() / 2 * 2);
                let at = at.index((packet.len() - new.len()) / 2 + 1) * 2;
                (packet, at, new)
            })
    }

    fn replaced(packet: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
        let mut after = packet.to_vec();
        after[at..at + new.len()].copy_from_slice(new);
        after
    }

    proptest! {
        #[test]
        fn a_delta_does_what_a_full_recomputation_does((packet, at, new) in replacement()) {
            let after = replaced(&packet, at, &new);
            let delta = delta(&packet[at..at + new.len()], &new);
            prop_assert_eq!(apply_udp(full_udp(&packet), delta), full_udp(&after));
            // Of a header, which is never all zero, the field's two zeros can't be confused either.
            prop_assume!(after.iter().any(|&byte| byte != 0) && packet.iter().any(|&byte| byte != 0));
            prop_assert_eq!(apply(full(&packet), delta), full(&after));
        }

        #[test]
        fn a_wrong_checksum_stays_wrong((packet, at, new) in replacement(), error in 1..0xffff_u16) {
            let wrong = add(full(&packet), error);
            let after = apply(wrong, delta(&packet[at..at + new.len()], &new));
            // Both sides modulo 0xffff, where 0 and 0xffff are one number.
            let right = full(&replaced(&packet, at, &new));
            prop_assert_ne!(u32::from(after) % 0xffff, u32::from(right) % 0xffff);
        }

        #[test]
        fn deltas_of_neighbours_add_up((packet, at, new) in replacement(), middle: prop::sample::Index) {
            let middle = middle.index(new.len() / 2 + 1) * 2;
            let old = &packet[at..at + new.len()];
            let apart = add(delta(&old[..middle], &new[..middle]), delta(&old[middle..], &new[middle..]));
            prop_assert_eq!(u32::from(apart) % 0xffff, u32::from(delta(old, &new)) % 0xffff);
        }

        #[test]
        fn fold_is_the_remainder(sum: u32) {
            prop_assert_eq!(u32::from(fold(sum)) % 0xffff, sum % 0xffff);
            prop_assert_eq!(fold(sum) == 0, sum == 0);
        }

        #[test]
        fn one_hop_less(mut header: [u8; 20], ttl in 1..=255_u8) {
            header[8] = ttl;
            header[10..12].fill(0);
            let before = full(&header);
            header[8] -= 1;
            prop_assert_eq!(apply(before, TTL_DECREMENT), full(&header));
        }
    }

    #[test]
    #[should_panic(expected = "words are replaced by as many words")]
    fn half_a_word_is_no_delta() {
        delta(&[1], &[2]);
    }
}
