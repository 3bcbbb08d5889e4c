//! STUN messages as the server reads and writes them, over `stun-types`. Signatures are made here: the keys of users are kept,
//! not their passwords, which is what that crate asks for.

use hmac::Mac as _;
use turn_types::{
    message::DATA,
    stun::{
        attribute::{
            AttributeType, ErrorCode, Fingerprint, MessageIntegrity, Nonce, Realm, UnknownAttributes,
        },
        message::{Message, MessageHeader, MessageWrite as _, MessageWriteExt as _, MessageWriteVec},
        prelude::{AttributeFromRaw as _, AttributeStaticType as _, AttributeWrite},
    },
};

use super::credentials::Key;

/// Length of the MESSAGE-INTEGRITY attribute, in bytes.
const INTEGRITY_LEN: usize = 24;
const HMAC_LEN: usize = 20;

/// Whether the message carries a MESSAGE-INTEGRITY, right or wrong.
pub fn is_signed(message: &Message<'_>) -> bool {
    message.has_attribute(MessageIntegrity::TYPE)
}

/// Whether its MESSAGE-INTEGRITY was made with this key (RFC 8489, section 14.5).
pub fn is_signed_with(message: &Message<'_>, key: &Key) -> bool {
    let Some((at, integrity)) = message.raw_attribute_and_offset(MessageIntegrity::TYPE) else {
        return false;
    };
    let Ok(integrity) = MessageIntegrity::from_raw(integrity) else { return false };
    let bytes = message.as_bytes();
    // The length as it was when the attribute was the last one.
    let len = (at + INTEGRITY_LEN - MessageHeader::LENGTH) as u16;
    let mut hmac = key.hmac();
    hmac.update(&bytes[..2]);
    hmac.update(&len.to_be_bytes());
    hmac.update(&bytes[4..at]);
    hmac.verify_slice(integrity.hmac()).is_ok()
}

/// A response that is being written.
pub struct Response {
    message: MessageWriteVec,
    fingerprint: bool,
}

impl Response {
    /// That a request has succeeded.
    pub fn success(request: &Message<'_>) -> Self {
        Self::new(request, Message::builder_success(request, MessageWriteVec::new()))
    }

    /// That it has not, with one of the codes of [`ErrorCode`].
    pub fn error(request: &Message<'_>, code: u16) -> Self {
        let error = ErrorCode::builder(code).build().expect("the codes are those of the standard");
        Self::new(request, Message::builder_error(request, MessageWriteVec::new())).with(&error)
    }

    /// That it has attributes which must be understood and are not.
    pub fn unknown_attributes(request: &Message<'_>, unknown: &[AttributeType]) -> Self {
        Self::error(request, ErrorCode::UNKNOWN_ATTRIBUTE).with(&UnknownAttributes::new(unknown))
    }

    fn new(request: &Message<'_>, message: MessageWriteVec) -> Self {
        Self { message, fingerprint: request.has_attribute(Fingerprint::TYPE) }
    }

    /// With what a client needs to prove who it is.
    pub fn with_challenge(self, realm: &str, nonce: &str) -> Self {
        self.with(&Realm::new(realm).expect("the configuration's realm is short"))
            .with(&Nonce::new(nonce).expect("nonces are short"))
    }

    /// With an attribute.
    pub fn with(mut self, attribute: &dyn AttributeWrite) -> Self {
        self.message.add_attribute(attribute).expect("a response is small, and not signed yet");
        self
    }

    /// The bytes, signed with a key if there is one.
    pub fn finish(mut self, key: Option<&Key>) -> Vec<u8> {
        if let Some(key) = key {
            self.message.push_attribute_unchecked(&MessageIntegrity::new([0; HMAC_LEN]));
            let bytes = self.message.mut_data();
            let (signed, integrity) = bytes.split_at_mut(bytes.len() - INTEGRITY_LEN);
            let mut hmac = key.hmac();
            hmac.update(signed);
            integrity[INTEGRITY_LEN - HMAC_LEN..].copy_from_slice(&hmac.finalize().into_bytes());
        }
        if self.fingerprint {
            self.message.add_fingerprint().expect("there is none yet");
        }
        self.message.finish()
    }
}

/// An indication with data of a peer.
pub fn data_indication(
    attributes: &[&dyn AttributeWrite],
    transaction: turn_types::stun::message::TransactionId,
) -> Option<Vec<u8>> {
    use turn_types::stun::message::{MessageClass, MessageType};
    let kind = MessageType::from_class_method(MessageClass::Indication, DATA);
    let mut message = Message::builder(kind, transaction, MessageWriteVec::new());
    attributes.iter().try_for_each(|attribute| message.add_attribute(*attribute)).ok()?;
    Some(message.finish())
}
