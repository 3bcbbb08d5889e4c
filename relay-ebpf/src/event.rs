//! What the XDP program sends up through the ring buffer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    tables::{Address, Endpoint},
    wireguard::INITIATION_LEN,
};

/// [`Event::kind`]: a handshake message stands in [`Event::message`].
pub const HANDSHAKE: u32 = 1;
/// [`Event::kind`]: a source that is not in `ENDPOINTS` sent something for the relay's own WireGuard interface: a host
/// may have registered or moved, so reading the interface is worth while. No message.
pub const NEW_SOURCE: u32 = 2;

/// [`Event::kind`]: relayed data was larger than the next hop takes, and may not be fragmented: its sender has to be told.
/// [`Event::message`] holds the first [`TOO_BIG_QUOTE`] bytes of the message, `message_len` is the length of it all.
pub const TOO_BIG: u32 = 3;
/// How much of a message that is too big goes up, in bytes: type, receiver index and counter.
pub const TOO_BIG_QUOTE: usize = 16;

/// One record of the ring buffer.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// Where the packet came from.
    pub source: Endpoint,
    /// The relay address that it was sent to.
    pub local: Address,
    /// [`HANDSHAKE`], [`NEW_SOURCE`] or [`TOO_BIG`].
    pub kind: u32,
    /// The interface that it came in by.
    pub ifindex: u32,
    /// Length of the message as it came, in bytes; 0 for a hint.
    pub message_len: u16,
    /// The packet's TTL or hop limit as received.
    pub ttl: u8,
    /// Padding, zero.
    pub reserved: u8,
    /// A handshake initiation, response or cookie reply, of which the first `message_len` bytes are defined; or the begin of
    /// a message that is too big, of which [`TOO_BIG_QUOTE`] are.
    pub message: [u8; INITIATION_LEN],
}

impl Event {
    /// The handshake message, or `None` for a hint or a length that can't be.
    pub fn message(&self) -> Option<&[u8]> {
        if self.kind != HANDSHAKE { None } else { self.message.get(..usize::from(self.message_len)) }
    }
}

const _: () = assert!(size_of::<Event>() == 200);

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use zerocopy::FromZeros as _;

    use super::*;

    #[test]
    fn fields_are_where_the_first_version_put_them() {
        assert_eq!(
            (offset_of!(Event, source), offset_of!(Event, local), offset_of!(Event, kind)),
            (0, 24, 40)
        );
        assert_eq!(
            (offset_of!(Event, ifindex), offset_of!(Event, message_len), offset_of!(Event, ttl)),
            (44, 48, 50)
        );
        assert_eq!(offset_of!(Event, message), 52);
    }

    #[test]
    fn a_message_is_as_long_as_it_says() {
        let mut event = Event { kind: HANDSHAKE, message_len: 92, ..Event::new_zeroed() };
        assert_eq!(event.message().map(<[u8]>::len), Some(92));
        event.message_len = 149;
        assert_eq!(event.message(), None, "longer than there is room");
        let hint = Event { kind: NEW_SOURCE, message_len: 0, ..Event::new_zeroed() };
        assert_eq!(hint.message(), None);
    }
}
