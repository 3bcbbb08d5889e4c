//! A TURN client before a stock WireGuard: what WireGuard sends to it goes to a peer by a channel of an allocation, and
//! back.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use turn_types::{
    attribute::XorRelayedAddress,
    channel::ChannelData,
    stun::message::{Message, MessageClass},
};

use crate::{
    lab::Namespace,
    turn_requests::{NUMBER, Request, Requests},
};

/// How often a request is repeated, and how long its answer is waited for.
const TRIES: usize = 20;
const PATIENCE: Duration = Duration::from_millis(500);

/// A client with an allocation. It ends with the value.
pub struct TurnClient {
    server: UdpSocket,
    /// WireGuard's side.
    inside: UdpSocket,
    requests: Requests,
    /// The address that peers see.
    pub relayed: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl TurnClient {
    /// Gets an allocation from the server, in a namespace.
    ///
    /// # Panics
    /// If it gets none.
    pub fn allocate(namespace: &Namespace, server: SocketAddr) -> Self {
        let bind = |address: SocketAddr| UdpSocket::bind(address).expect("bind a socket");
        let (outside, inside) = namespace.enter(|| {
            let outside = bind((Ipv4Addr::UNSPECIFIED, 0).into());
            outside.connect(server).expect("name the server");
            (outside, bind((Ipv4Addr::LOCALHOST, 0).into()))
        });
        outside.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
        inside.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
        let mut this = Self {
            server: outside,
            inside,
            requests: Requests::default(),
            relayed: server,
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let challenge = this.ask(this.requests.allocate());
        this.requests.challenged(&Message::from_bytes(&challenge).expect("an answer is a message"));
        let answer = this.ask(this.requests.allocate());
        let answer = Message::from_bytes(&answer).expect("an answer is a message");
        assert!(answer.has_class(MessageClass::Success), "no allocation: {answer}");
        let relayed = answer.attribute::<XorRelayedAddress>().expect("a relayed address");
        this.relayed = relayed.addr(answer.transaction_id());
        this
    }

    /// Where WireGuard is to send what is for the peer.
    pub fn endpoint(&self) -> SocketAddr {
        self.inside.local_addr().expect("a socket has an address")
    }

    /// Where the server sees the client.
    pub fn outside(&self) -> SocketAddr {
        self.server.local_addr().expect("a socket has an address")
    }

    /// Binds a channel to the peer: whether the server lets it.
    pub fn bind(&self, peer: SocketAddr) -> bool {
        let answer = self.ask(self.requests.bind(peer));
        let answer = Message::from_bytes(&answer).expect("an answer is a message");
        answer.has_class(MessageClass::Success)
    }

    /// Binds a channel to the peer, and carries data from now on between it and the WireGuard that listens at this port.
    ///
    /// # Panics
    /// If the server does not let it.
    pub fn carry_to(&mut self, peer: SocketAddr, port: u16) {
        assert!(self.bind(peer), "no channel to {peer}");
        let clone = |socket: &UdpSocket| socket.try_clone().expect("duplicate a socket");
        let (server, inside, stop) = (clone(&self.server), clone(&self.inside), Arc::clone(&self.stop));
        self.threads.push(thread::spawn(move || {
            let wireguard = (Ipv4Addr::LOCALHOST, port);
            let mut buffer = [0; 2048];
            server.set_nonblocking(true).expect("set it non-blocking");
            inside.set_read_timeout(Some(Duration::from_millis(1))).expect("set a time-out");
            while !stop.load(Ordering::Relaxed) {
                if let Ok(len) = inside.recv(&mut buffer) {
                    let mut message = vec![0; 4 + len];
                    ChannelData::new(NUMBER, &buffer[..len]).write_into_unchecked(&mut message);
                    let _ = server.send(&message);
                }
                while let Ok(len) = server.recv(&mut buffer) {
                    if let Ok(data) = ChannelData::parse(&buffer[..len]) {
                        let _ = inside.send_to(data.data(), wireguard);
                    }
                }
            }
        }));
    }

    /// Sends a request until there is an answer to it.
    fn ask(&self, (transaction, bytes): Request) -> Vec<u8> {
        let mut buffer = [0; 2048];
        for _ in 0..TRIES {
            self.server.send(&bytes).expect("send to the server");
            match self.server.recv(&mut buffer) {
                Ok(len) => {
                    let message = Message::from_bytes(&buffer[..len]);
                    if message.is_ok_and(|message| message.transaction_id() == transaction) {
                        return buffer[..len].to_vec();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("receive from the server: {error}"),
            }
        }
        panic!("the server does not answer")
    }
}

impl Drop for TurnClient {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
