//! Messages in a stream of bytes (RFC 8489, section 6.2.2; RFC 8656, section 12.5): each says how long it is, and data of a
//! channel is followed by padding up to a multiple of four bytes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use tokio_util::codec::Decoder;
use turn_types::stun::message::{MAGIC_COOKIE, MessageHeader};

/// The header of data of a channel, in bytes.
const CHANNEL_HEADER: usize = 4;
/// So much of a STUN message says that it is one.
const STUN_HEAD: usize = 8;
/// No request is longer, in bytes, so nobody has to be believed who says so.
const LONGEST_REQUEST: usize = 4_096;

/// Takes messages out of a stream, without their padding.
#[derive(Debug)]
pub struct Framing {
    is_proven: Arc<AtomicBool>,
}

impl Framing {
    /// `is_proven` says whether messages may be longer than requests are.
    pub fn new(is_proven: Arc<AtomicBool>) -> Self {
        Self { is_proven }
    }
}

/// Why a stream can't be read any further.
#[derive(Debug)]
pub enum Ended {
    /// What comes is neither a STUN message nor data of a channel, so nobody can say where the next message begins; or longer
    /// than it may be.
    NotTurn,
    /// It could not be read, or has ended within a message.
    Broken(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// How long the message is that the bytes begin with, without and with its padding; `None` if they do not say yet.
fn lengths(bytes: &[u8]) -> Result<Option<(usize, usize)>, Ended> {
    let said = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    match bytes.first() {
        Some(0..=3) if bytes.len() < STUN_HEAD => Ok(None),
        Some(0..=3) if bytes[4..STUN_HEAD] == MAGIC_COOKIE.to_be_bytes() && said(2).is_multiple_of(4) => {
            let len = MessageHeader::LENGTH + said(2);
            Ok(Some((len, len)))
        }
        Some(0x40..=0x7f) if bytes.len() < CHANNEL_HEADER => Ok(None),
        Some(0x40..=0x7f) => {
            let len = CHANNEL_HEADER + said(2);
            Ok(Some((len, padded(len))))
        }
        Some(_) => Err(Ended::NotTurn),
        None => Ok(None),
    }
}

/// The length of a message with its padding, in bytes.
pub fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

impl Decoder for Framing {
    type Item = Bytes;
    type Error = Ended;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, Ended> {
        let Some((message, all)) = lengths(bytes)? else { return Ok(None) };
        if all > LONGEST_REQUEST && !self.is_proven.load(Relaxed) {
            return Err(Ended::NotTurn);
        }
        // Room is made for what has come, not for what somebody says that will.
        if bytes.len() < all {
            return Ok(None);
        }
        let mut taken = bytes.split_to(all).freeze();
        taken.truncate(message);
        Ok(Some(taken))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stun(attributes: usize) -> Vec<u8> {
        let len = (attributes as u16 * 4).to_be_bytes();
        [&[0, 1][..], &len, &MAGIC_COOKIE.to_be_bytes(), &vec![7; 12 + attributes * 4]].concat()
    }

    fn data(len: usize) -> Vec<u8> {
        [&[0x40, 1][..], &(len as u16).to_be_bytes(), &vec![0xa5; len]].concat()
    }

    fn framing(is_proven: bool) -> Framing {
        Framing::new(Arc::new(AtomicBool::new(is_proven)))
    }

    /// All messages of a stream that comes in pieces.
    fn read(pieces: &[&[u8]]) -> Result<Vec<Bytes>, Ended> {
        let (mut bytes, mut messages) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            bytes.extend_from_slice(piece);
            while let Some(message) = framing(true).decode(&mut bytes)? {
                messages.push(message);
            }
        }
        assert!(bytes.is_empty(), "{} bytes are left", bytes.len());
        Ok(messages)
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(
            sizes in prop::collection::vec((any::<bool>(), 0..300_usize), 1..20),
            piece in 1..100_usize,
        ) {
            let messages: Vec<_> = sizes.iter().map(|(is_stun, n)| if *is_stun { stun(*n) } else { data(*n) }).collect();
            let mut stream = Vec::new();
            for message in &messages {
                stream.extend(message);
                stream.resize(padded(stream.len()), 0xff);
            }
            let pieces: Vec<_> = stream.chunks(piece).collect();
            prop_assert_eq!(read(&pieces).unwrap(), messages);
        }

        #[test]
        fn nothing_makes_it_panic(stream in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = BytesMut::from(&stream[..]);
            while let Ok(Some(_)) = framing(true).decode(&mut bytes) {}
        }
    }

    #[test]
    fn the_longest_messages_fit() {
        assert_eq!(read(&[&stun(16_383), &data(65_535), &[0]]).unwrap().len(), 2);
    }

    #[test]
    fn who_has_proven_nothing_is_not_waited_for_so_long() {
        let announced = [0x40, 1, 0xff, 0xff];
        assert!(matches!(framing(false).decode(&mut BytesMut::from(&announced[..])), Err(Ended::NotTurn)));
        assert!(matches!(framing(true).decode(&mut BytesMut::from(&announced[..])), Ok(None)));
        let longest = stun((LONGEST_REQUEST - MessageHeader::LENGTH) / 4);
        assert!(matches!(framing(false).decode(&mut BytesMut::from(&longest[..])), Ok(Some(_))));
    }

    #[test]
    fn what_is_no_turn_ends_it() {
        let mut no_cookie = stun(1);
        no_cookie[4] ^= 1;
        let mut odd = stun(1);
        odd[3] = 3;
        for wrong in [&[0x16, 3, 1][..], &[0x04], &[0x80], &no_cookie, &odd] {
            assert!(matches!(read(&[wrong]), Err(Ended::NotTurn)), "{wrong:02x?}");
        }
    }
}
