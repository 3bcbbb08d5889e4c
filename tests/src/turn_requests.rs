//! What a client asks a TURN server, as messages, in the name of [`USER`].

use std::net::SocketAddr;

use turn_types::{
    attribute::{ChannelNumber, RequestedTransport, XorPeerAddress},
    message::{ALLOCATE, CHANNEL_BIND, REFRESH},
    stun::{
        attribute::{Nonce, Realm, Username},
        message::{
            IntegrityAlgorithm, LongTermCredentials, Message, MessageClass, MessageType, MessageWrite as _,
            MessageWriteExt as _, MessageWriteVec, Method, TransactionId,
        },
        prelude::AttributeWrite,
    },
};

use crate::turn::{REALM, USER};

/// The number of a client's channel.
pub const NUMBER: u16 = 0x4001;
/// UDP (RFC 8656, section 18.8).
const UDP: u8 = 17;

/// A client's requests.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    nonce: Option<String>,
}

/// A request, and what its answer is known by.
pub type Request = (TransactionId, Vec<u8>);

impl Requests {
    /// For an allocation. Without a nonce it is the one that is answered with a nonce.
    pub fn allocate(&self) -> Request {
        let transport = RequestedTransport::new(UDP);
        let attributes: &[&dyn AttributeWrite] = if self.nonce.is_some() { &[&transport] } else { &[] };
        self.request(ALLOCATE, TransactionId::generate(), attributes)
    }

    /// For [`NUMBER`] to be a channel to this peer, or to stay it.
    pub fn bind(&self, peer: SocketAddr) -> Request {
        let transaction = TransactionId::generate();
        let peer = XorPeerAddress::new(peer, transaction);
        self.request(CHANNEL_BIND, transaction, &[&ChannelNumber::new(NUMBER), &peer])
    }

    /// For the allocation to last.
    pub fn refresh(&self) -> Request {
        self.request(REFRESH, TransactionId::generate(), &[])
    }

    /// Takes the nonce from an answer, and signs with it from now on.
    ///
    /// # Panics
    /// If the answer has none.
    pub fn challenged(&mut self, answer: &Message<'_>) {
        self.nonce = Some(answer.attribute::<Nonce>().expect("a nonce").nonce().to_owned());
    }

    fn request(
        &self,
        method: Method,
        transaction: TransactionId,
        attributes: &[&dyn AttributeWrite],
    ) -> Request {
        let kind = MessageType::from_class_method(MessageClass::Request, method);
        let mut message = Message::builder(kind, transaction, MessageWriteVec::new());
        let mut add = |attribute: &dyn AttributeWrite| {
            message.add_attribute(attribute).expect("a request is small");
        };
        attributes.iter().for_each(|attribute| add(*attribute));
        if let Some(nonce) = &self.nonce {
            add(&Username::new(USER.0).expect("a short name"));
            add(&Realm::new(REALM).expect("a short realm"));
            add(&Nonce::new(nonce).expect("a short nonce"));
            let credentials = LongTermCredentials::new(USER.0.to_owned(), USER.1.to_owned());
            let credentials = credentials.to_key(REALM.to_owned()).into();
            message.add_message_integrity(&credentials, IntegrityAlgorithm::Sha1).expect("sign it");
        }
        (transaction, message.finish())
    }
}
