//! TURN servers under the load of the others. Their clients are the load itself: each has an allocation, and a channel in
//! which it sends to its peer.

use std::{
    collections::HashMap,
    net::{SocketAddr, SocketAddrV4},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use turn_types::{
    attribute::XorRelayedAddress,
    stun::message::{Message, MessageClass},
};

use super::{
    flows::{Flow, Flows, GATEWAY_MAC, RELAY, frame, payload},
    place::{DEVICE, Place},
};
use crate::{
    Relay,
    command::Process,
    turn::{PORT, REALM, TurnWorld, USER},
    turn_requests::{Request, Requests},
    wait::now,
};

/// After how long allocations and channels are made to last longer. A permission ends after 300 s.
const RENEWAL: Duration = Duration::from_secs(120);
/// How long all clients together may take for a request each.
const PATIENCE: Duration = Duration::from_secs(30);
/// When nothing has come for so long, what has no answer is asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// How many requests are under way at most.
const AT_ONCE: usize = 64;
/// The relayed ports.
const RELAYED: RangeInclusive<u16> = 52_000..=59_999;
/// The networks of clients and peers, which are nobody's on the Internet.
const NETWORKS: &str = "198.18.0.0/15";

/// A server in a place, with its clients.
#[derive(Debug)]
pub struct TurnInPlace {
    server: Server,
    clients: Vec<Client>,
    since: Instant,
}

/// It runs as long as this lives.
#[derive(Debug)]
enum Server {
    Wgrelay(#[expect(dead_code, reason = "it is there to run")] Box<Relay>),
    Coturn(Process),
}

/// One client.
#[derive(Debug)]
struct Client {
    flow: Flow,
    requests: Requests,
    /// The address that peers see.
    relayed: SocketAddrV4,
}

/// The server's address.
fn address() -> SocketAddrV4 {
    SocketAddrV4::new(*RELAY.ip(), PORT)
}

impl TurnInPlace {
    /// wgrelay with so many clients.
    ///
    /// # Errors
    /// If one of them is not served.
    pub fn wgrelay(place: &mut Place, clients: u32) -> Result<Self> {
        let mut relay = Relay::new(&place.relay);
        relay.addresses = vec![(*RELAY.ip()).into()];
        relay.attach = vec![DEVICE.to_owned()];
        relay.changes = vec![("xdp_mode = \"auto\"".to_owned(), "xdp_mode = \"driver\"".to_owned())];
        let more = format!("allow_peers = [{NETWORKS:?}]\nallocations_per_user = {clients}");
        relay.control = TurnWorld::configuration_with(place.relay.lab(), RELAYED, &more);
        relay.start();
        Self::with_clients(Server::Wgrelay(Box::new(relay)), place, clients)
    }

    /// coturn, as it comes but for a user, and without other transports.
    ///
    /// # Errors
    /// If one of its clients is not served.
    pub fn coturn(place: &mut Place, clients: u32) -> Result<Self> {
        let (lab, ip) = (place.relay.lab().clone(), RELAY.ip().to_string());
        let [first, last] = [RELAYED.start(), RELAYED.end()].map(ToString::to_string);
        let (user, port) = (format!("{}:{}", USER.0, USER.1), PORT.to_string());
        let mut command = place.relay.command("turnserver");
        command.args(["-n", "--no-tls", "--no-dtls", "--no-tcp", "--no-cli", "--log-file", "stdout"]);
        command.args(["--lt-cred-mech", "--realm", REALM, "--user", &user]);
        command.args(["--listening-ip", &ip, "--listening-port", &port, "--relay-ip", &ip]);
        command.args(["--min-port", &first, "--max-port", &last]);
        command.arg("--pidfile").arg(lab.file("coturn.pid")).arg("--userdb").arg(lab.file("coturn.sqlite"));
        let process = Process::start(&mut command, lab.file("coturn.log"));
        Self::with_clients(Server::Coturn(process), place, clients)
    }

    fn with_clients(server: Server, place: &mut Place, count: u32) -> Result<Self> {
        let client = |number| Client { flow: Flow { number }, requests: Requests::default(), relayed: RELAY };
        let mut this = Self { server, clients: (0..count).map(client).collect(), since: now() };
        this.take_nonces(place)?;
        this.ask(
            place,
            |client| client.requests.allocate(),
            MessageClass::Success,
            |client, answer| {
                let relayed = answer.attribute::<XorRelayedAddress>().expect("a relayed address");
                if let SocketAddr::V4(relayed) = relayed.addr(answer.transaction_id()) {
                    client.relayed = relayed;
                }
            },
        )?;
        this.bind(place)?;
        Ok(this)
    }

    /// Makes all last longer, if it is time.
    ///
    /// # Errors
    /// If one of the clients is not served.
    pub fn renew(&mut self, place: &mut Place) -> Result<()> {
        if self.since.elapsed() >= RENEWAL {
            self.take_nonces(place)?;
            self.ask(place, |client| client.requests.refresh(), MessageClass::Success, |_, _| {})?;
            self.bind(place)?;
            self.since = now();
        }
        Ok(())
    }

    /// The load of the first so many clients: data of their channels.
    pub fn flows(&self, place: &Place, count: u32, size: usize) -> Flows {
        let relayed = |flow: Flow| self.clients[flow.number as usize].relayed;
        Flows::in_channels(count, size, place.relay_mac, address(), relayed)
    }

    /// The process whose time is the server's; wgrelay's does nothing.
    pub fn process(&self) -> Option<u32> {
        match &self.server {
            Server::Wgrelay(_) => None,
            Server::Coturn(process) => Some(process.id()),
        }
    }

    /// They are good for ten minutes, and a run may take longer.
    fn take_nonces(&mut self, place: &mut Place) -> Result<()> {
        // Of an Allocate coturn would say only that there is an allocation already.
        let unsigned = |_: &Client| Requests::default().refresh();
        self.ask(place, unsigned, MessageClass::Error, |client, answer| client.requests.challenged(answer))
    }

    fn bind(&mut self, place: &mut Place) -> Result<()> {
        let bind = |client: &Client| client.requests.bind(client.flow.destination().into());
        self.ask(place, bind, MessageClass::Success, |_, _| {})
    }

    /// Asks in the name of each client, and takes in the answers, which are to be of this class.
    fn ask(
        &mut self,
        place: &mut Place,
        request: impl Fn(&Client) -> Request,
        class: MessageClass,
        take: impl Fn(&mut Client, &Message<'_>),
    ) -> Result<()> {
        let clients = &mut self.clients;
        let mut waiting: HashMap<_, _> = (0..clients.len())
            .map(|at| {
                let (transaction, message) = request(&clients[at]);
                (transaction, (at, message))
            })
            .collect();
        let begin = now();
        while !waiting.is_empty() {
            let (asked, mac) = (clients.len(), place.relay_mac);
            ensure!(begin.elapsed() < PATIENCE, "{} of {asked} clients have no answer", waiting.len());
            for (at, message) in waiting.values().take(AT_ONCE) {
                let source = clients[*at].flow.source();
                place.load.send(&frame([GATEWAY_MAC, mac], source, address(), message))?;
            }
            let left = waiting.len().saturating_sub(AT_ONCE);
            loop {
                let mut answers = Vec::new();
                let came =
                    place.load.receive(AGAIN, |frame| answers.extend(payload(frame).map(<[u8]>::to_vec)))?;
                for answer in &answers {
                    let Ok(answer) = Message::from_bytes(answer) else { continue };
                    let Some((at, _)) = waiting.remove(&answer.transaction_id()) else { continue };
                    ensure!(answer.has_class(class), "a client is refused: {answer}");
                    take(&mut clients[at], &answer);
                }
                if came == 0 || waiting.len() <= left {
                    break;
                }
            }
        }
        Ok(())
    }
}
