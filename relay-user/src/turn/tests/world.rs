//! A server, a host that it runs on, and clients.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use turn_types::{
    attribute::{ChannelNumber, Lifetime, RequestedTransport, XorPeerAddress, XorRelayedAddress},
    message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH},
    stun::{
        attribute::{ErrorCode, Nonce, Realm, Username},
        message::{
            IntegrityAlgorithm, LongTermCredentials, Message, MessageClass, MessageType, MessageWrite as _,
            MessageWriteExt as _, MessageWriteVec, Method, TransactionId,
        },
        prelude::AttributeWrite,
    },
};

use crate::{
    handshake::Timestamp,
    turn::{
        credentials::{Credentials, Key},
        guard::Rates,
        peers::Peers,
        server::{Action, Binding, FiveTuple, Host, Now, Quotas, Server, Settings, Transport},
    },
};

pub const REALM: &str = "turn.example.org";
/// The server's addresses.
pub const V4: &str = "198.51.100.1";
pub const V6: &str = "2001:db8:1::1";
pub const PORT: u16 = 3478;
pub const PEER: &str = "203.0.113.9:7000";
pub const PEER_V6: &str = "[2001:db8:9::9]:7000";

/// The host: what sockets are open on it.
#[derive(Default)]
pub struct Sockets {
    pub open: HashSet<SocketAddr>,
    pub own: Vec<IpAddr>,
}

impl Host for Sockets {
    fn open(&mut self, relayed: SocketAddr) -> bool {
        self.open.insert(relayed)
    }

    fn is_own(&mut self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }
}

pub struct World {
    pub server: Server,
    pub host: Sockets,
    pub at: Timestamp,
    /// Channels, as the program would have them.
    pub bound: Vec<Binding>,
}

/// A client and what it knows.
#[derive(Clone)]
pub struct Client {
    pub tuple: FiveTuple,
    pub name: String,
    pub password: String,
    pub nonce: String,
}

pub fn settings() -> Settings {
    let users = ["ann", "bob"].map(|name| (name.to_owned(), Key::of(name, REALM, &format!("{name}'s"))));
    Settings {
        addresses: vec![V4.parse().unwrap(), V6.parse().unwrap()],
        ports: 50_000..=50_099,
        credentials: Credentials {
            realm: REALM.parse().unwrap(),
            users: users.into(),
            secret: Some("a shared secret".to_owned()),
        },
        peers: Peers::new(&[], &["192.0.2.66/32".parse().unwrap()]),
        quotas: Quotas { allocations: 8, per_user: 4, peers: 5, rate: None },
        rates: Rates { source: 1_000, all: 10_000 },
    }
}

pub fn client(name: &str, address: &str) -> Client {
    let client: SocketAddr = address.parse().unwrap();
    let server = if client.is_ipv4() { V4 } else { V6 };
    let server = SocketAddr::new(server.parse().unwrap(), PORT);
    let (name, password) = (name.to_owned(), format!("{name}'s"));
    let tuple = FiveTuple { transport: Transport::Udp, client, server };
    Client { tuple, name, password, nonce: String::new() }
}

pub fn request(method: Method) -> MessageWriteVec {
    Message::builder_request(method, MessageWriteVec::new())
}

impl Client {
    /// Signs a request.
    pub fn sign(&self, mut message: MessageWriteVec) -> Vec<u8> {
        message.add_attribute(&Username::new(&self.name).unwrap()).unwrap();
        message.add_attribute(&Realm::new(REALM).unwrap()).unwrap();
        message.add_attribute(&Nonce::new(&self.nonce).unwrap()).unwrap();
        let credentials = LongTermCredentials::new(self.name.clone(), self.password.clone());
        let credentials = credentials.to_key(REALM.to_owned()).into();
        message.add_message_integrity(&credentials, IntegrityAlgorithm::Sha1).unwrap();
        message.finish()
    }
}

/// An answer: its class, its code if it is an error, and its bytes.
pub struct Answer(pub Vec<u8>);

impl Answer {
    pub fn message(&self) -> Message<'_> {
        Message::from_bytes(&self.0).unwrap()
    }

    /// 0 if it is a success.
    pub fn code(&self) -> u16 {
        let message = self.message();
        if message.has_class(MessageClass::Success) {
            0
        } else {
            message.attribute::<ErrorCode>().unwrap().code()
        }
    }

    pub fn relayed(&self) -> Vec<SocketAddr> {
        let message = self.message();
        (0..2)
            .filter_map(|n| message.nth_attribute::<XorRelayedAddress>(n).ok())
            .map(|relayed| relayed.addr(message.transaction_id()))
            .collect()
    }

    pub fn lifetime(&self) -> u32 {
        self.message().attribute::<Lifetime>().unwrap().seconds()
    }
}

impl World {
    pub fn new() -> Self {
        let server = Server::new(settings(), StdRng::seed_from_u64(7));
        Self { server, host: Sockets::default(), at: Duration::from_secs(1000), bound: Vec::new() }
    }

    pub fn now(&self) -> Now {
        Now { at: self.at, unix: 1_700_000_000 + self.at.as_secs() }
    }

    /// Takes note of actions as the task would; what is sent comes back.
    pub fn carry_out(&mut self, actions: Vec<Action>) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Answer { to, bytes, .. } => sent.push((to.server, to.client, bytes)),
                Action::Send { from, to, bytes, .. } => {
                    assert!(self.host.open.contains(&from), "sent from {from}, which is not open");
                    sent.push((from, to, bytes));
                }
                Action::Bind(binding) => {
                    assert!(sent.is_empty(), "a channel is bound before anyone is told");
                    self.bound.retain(|b| (b.tuple, b.number) != (binding.tuple, binding.number));
                    self.bound.push(binding);
                }
                Action::Unbind(tuple, number) => {
                    self.bound.retain(|b| (b.tuple, b.number) != (tuple, number))
                }
                Action::Disconnect(tuple) => panic!("{tuple:?} is disconnected"),
                Action::Close(address) => assert!(self.host.open.remove(&address), "{address} was not open"),
            }
        }
        sent
    }

    /// A datagram from a client.
    pub fn client_sends(&mut self, tuple: FiveTuple, bytes: &[u8]) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let mut actions = Vec::new();
        self.server.handle(self.now(), tuple, bytes, &mut self.host, &mut actions);
        self.carry_out(actions)
    }

    /// A datagram from a peer to a relayed address.
    pub fn peer_sends(
        &mut self,
        relayed: SocketAddr,
        peer: &str,
        bytes: &[u8],
    ) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let mut actions = Vec::new();
        self.server.handle_peer(self.at, relayed, peer.parse().unwrap(), bytes, &mut actions);
        self.carry_out(actions)
    }

    /// The answer to a request as it stands.
    pub fn ask(&mut self, tuple: FiveTuple, bytes: &[u8]) -> Option<Answer> {
        let mut sent = self.client_sends(tuple, bytes);
        assert!(sent.len() <= 1, "one answer at most");
        let (from, to, bytes) = sent.pop()?;
        assert_eq!((from, to), (tuple.server, tuple.client));
        Some(Answer(bytes))
    }

    /// The answer to a request of a client that proves who it is.
    pub fn request(
        &mut self,
        client: &mut Client,
        method: Method,
        attributes: &[&dyn AttributeWrite],
    ) -> Answer {
        let mut message = request(method);
        attributes.iter().for_each(|attribute| message.add_attribute(*attribute).unwrap());
        self.signed(client, message)
    }

    /// Likewise, for attributes that depend on the transaction.
    pub fn with_peers(
        &mut self,
        client: &mut Client,
        method: Method,
        number: Option<u16>,
        peers: &[&str],
    ) -> Answer {
        let transaction = TransactionId::generate();
        let kind = MessageType::from_class_method(MessageClass::Request, method);
        let mut message = Message::builder(kind, transaction, MessageWriteVec::new());
        for peer in peers {
            message.add_attribute(&XorPeerAddress::new(peer.parse().unwrap(), transaction)).unwrap();
        }
        if let Some(number) = number {
            message.add_attribute(&ChannelNumber::new(number)).unwrap();
        }
        self.signed(client, message)
    }

    fn signed(&mut self, client: &mut Client, message: MessageWriteVec) -> Answer {
        if client.nonce.is_empty() {
            self.learn_nonce(client);
        }
        let bytes = client.sign(message);
        self.ask(client.tuple, &bytes).expect("an answer")
    }

    pub fn learn_nonce(&mut self, client: &mut Client) {
        let challenge = self.ask(client.tuple, &request(ALLOCATE).finish()).expect("a challenge");
        assert_eq!(challenge.code(), 401);
        client.nonce = challenge.message().attribute::<Nonce>().unwrap().nonce().to_owned();
    }

    pub fn allocate(&mut self, client: &mut Client, attributes: &[&dyn AttributeWrite]) -> Answer {
        let transport = RequestedTransport::new(17);
        let all: Vec<&dyn AttributeWrite> =
            [&transport as &dyn AttributeWrite].into_iter().chain(attributes.iter().copied()).collect();
        self.request(client, ALLOCATE, &all)
    }

    pub fn permit(&mut self, client: &mut Client, peers: &[&str]) -> u16 {
        self.with_peers(client, CREATE_PERMISSION, None, peers).code()
    }

    pub fn bind(&mut self, client: &mut Client, number: u16, peer: &str) -> u16 {
        self.with_peers(client, CHANNEL_BIND, Some(number), &[peer]).code()
    }

    pub fn refresh(&mut self, client: &mut Client, seconds: u32) -> Answer {
        self.request(client, REFRESH, &[&Lifetime::new(seconds)])
    }

    /// A client with an allocation, and its relayed address.
    pub fn allocated(&mut self, name: &str, address: &str) -> (Client, SocketAddr) {
        let mut client = client(name, address);
        let answer = self.allocate(&mut client, &[]);
        assert_eq!(answer.code(), 0);
        (client, answer.relayed()[0])
    }

    /// Time goes by.
    pub fn wait(&mut self, seconds: u64) {
        self.at += Duration::from_secs(seconds);
        let mut actions = Vec::new();
        self.server.expire(self.at, &mut actions);
        assert!(self.carry_out(actions).is_empty());
    }

    /// Data of a client by a channel.
    pub fn channel_data(
        &mut self,
        client: &Client,
        number: u16,
        data: &[u8],
    ) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let bytes = [&number.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat();
        self.client_sends(client.tuple, &bytes)
    }
}
