//! WireGuard's messages as far as they are in the clear (WireGuard paper, section 5.4).
//!
//! All integers are little-endian on the wire. The type byte is followed by three reserved zero bytes; like the
//! reference implementations we read the four as one little-endian word, so a non-zero reserved byte is no WireGuard.

/// Handshake initiation.
pub const INITIATION: u32 = 1;
/// Handshake response.
pub const RESPONSE: u32 = 2;
/// Cookie reply.
pub const COOKIE_REPLY: u32 = 3;
/// Transport data.
pub const TRANSPORT_DATA: u32 = 4;

/// Length of a handshake initiation, in bytes.
pub const INITIATION_LEN: usize = 148;
/// Length of a handshake response, in bytes.
pub const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply, in bytes.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Length of the shortest transport data message (a keepalive: header and authentication tag), in bytes.
pub const TRANSPORT_DATA_MIN_LEN: usize = 32;

/// Offset of an initiation's and a response's sender index.
pub const SENDER_INDEX: usize = 4;
/// Offset of a response's receiver index.
pub const RESPONSE_RECEIVER_INDEX: usize = 8;
/// Offset of the receiver index of a cookie reply and of transport data.
pub const RECEIVER_INDEX: usize = 4;
/// Offset of an initiation's mac1; mac2 follows it.
pub const INITIATION_MAC1: usize = 116;
/// Offset of a response's mac1; mac2 follows it.
pub const RESPONSE_MAC1: usize = 60;
/// Length of mac1 and of mac2, in bytes.
pub const MAC_LEN: usize = 16;

/// What a datagram is, by its first four bytes and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Handshake initiation.
    Initiation = INITIATION,
    /// Handshake response.
    Response = RESPONSE,
    /// Cookie reply.
    CookieReply = COOKIE_REPLY,
    /// Transport data.
    TransportData = TRANSPORT_DATA,
}

impl Kind {
    /// Classifies a message by `word`, its first four bytes read as a little-endian integer, and `len`, its length in
    /// bytes. `None` if it has the shape of no WireGuard message.
    #[inline(always)]
    pub const fn classify(word: u32, len: usize) -> Option<Self> {
        match (word, len) {
            (TRANSPORT_DATA, TRANSPORT_DATA_MIN_LEN..) => Some(Self::TransportData),
            (INITIATION, INITIATION_LEN) => Some(Self::Initiation),
            (RESPONSE, RESPONSE_LEN) => Some(Self::Response),
            (COOKIE_REPLY, COOKIE_REPLY_LEN) => Some(Self::CookieReply),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_a_type_with_its_length() {
        assert_eq!(Kind::classify(1, 148), Some(Kind::Initiation));
        assert_eq!(Kind::classify(2, 92), Some(Kind::Response));
        assert_eq!(Kind::classify(3, 64), Some(Kind::CookieReply));
        assert_eq!(Kind::classify(4, 32), Some(Kind::TransportData));
        assert_eq!(Kind::classify(4, 65_507), Some(Kind::TransportData));
        for (word, len) in
            [(0, 148), (1, 147), (1, 149), (2, 91), (3, 65), (4, 31), (5, 64), (0x0100_0004, 64)]
        {
            assert_eq!(Kind::classify(word, len), None, "type word {word:#x}, {len} bytes");
        }
    }

    #[test]
    fn macs_are_the_last_32_bytes() {
        assert_eq!(INITIATION_MAC1 + 2 * MAC_LEN, INITIATION_LEN);
        assert_eq!(RESPONSE_MAC1 + 2 * MAC_LEN, RESPONSE_LEN);
    }
}
