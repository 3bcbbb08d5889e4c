//! The three handshake messages as far as they are in the clear (WireGuard paper, section 5.4).

use relay_ebpf::wireguard::{
    INITIATION_MAC1, Kind, MAC_LEN, RECEIVER_INDEX, RESPONSE_MAC1, RESPONSE_RECEIVER_INDEX, SENDER_INDEX,
};

/// mac1, mac2 or a cookie: 16 bytes.
pub type Mac = [u8; MAC_LEN];

/// A handshake message, read but not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Handshake initiation, 148 bytes.
    Initiation(Initiation<'a>),
    /// Handshake response, 92 bytes.
    Response(Response<'a>),
    /// Cookie reply, 64 bytes.
    CookieReply(CookieReply),
}

/// What an initiation says in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initiation<'a> {
    /// The index that the initiator chose for itself.
    pub sender: u32,
    /// The macs at its end.
    pub macs: Macs<'a>,
}

/// What a response says in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The index that the responder chose for itself.
    pub sender: u32,
    /// The initiator's index.
    pub receiver: u32,
    /// The macs at its end.
    pub macs: Macs<'a>,
}

/// What a cookie reply says in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieReply {
    /// The sender index of the message that it answers.
    pub receiver: u32,
}

/// mac1 and mac2, and what each covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macs<'a> {
    /// The message up to mac1, which mac1 covers.
    pub body: &'a [u8],
    /// mac1.
    pub mac1: Mac,
    /// The message up to mac2, which mac2 covers: the body and mac1.
    pub body_and_mac1: &'a [u8],
    /// mac2; all zero if the sender has no cookie.
    pub mac2: Mac,
}

impl<'a> Message<'a> {
    /// Reads a UDP payload. `None` if it has not the type and length of a handshake message.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        match Kind::classify(word(bytes, 0)?, bytes.len())? {
            Kind::Initiation => Some(Self::Initiation(Initiation {
                sender: word(bytes, SENDER_INDEX)?,
                macs: Macs::at(bytes, INITIATION_MAC1)?,
            })),
            Kind::Response => Some(Self::Response(Response {
                sender: word(bytes, SENDER_INDEX)?,
                receiver: word(bytes, RESPONSE_RECEIVER_INDEX)?,
                macs: Macs::at(bytes, RESPONSE_MAC1)?,
            })),
            Kind::CookieReply => {
                Some(Self::CookieReply(CookieReply { receiver: word(bytes, RECEIVER_INDEX)? }))
            }
            Kind::TransportData => None,
        }
    }
}

impl<'a> Macs<'a> {
    fn at(bytes: &'a [u8], mac1: usize) -> Option<Self> {
        let mac2 = mac1 + MAC_LEN;
        Some(Self {
            body: bytes.get(..mac1)?,
            mac1: *bytes.get(mac1..)?.first_chunk()?,
            body_and_mac1: bytes.get(..mac2)?,
            mac2: *bytes.get(mac2..)?.first_chunk()?,
        })
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_le_bytes)
}
