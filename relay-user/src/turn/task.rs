//! The server's task: sockets and the engine on one side, what decides on the other.

use std::{
    collections::HashMap,
    future::pending,
    mem,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    allocation::Allocation,
    credentials::Credentials,
    doors::{Door, Doors, Event},
    netmaker::Hosts,
    server::{Action, FiveTuple, Now, Server, Settings, Transport},
    sockets::{Received, Sockets},
    streams::Streams,
};
use crate::{
    api::Engine,
    clock,
    engine::Request,
    model::{self, Records},
    status::{TurnOutcome, TurnStatus, TurnUsage},
};

/// How often the figures are brought up to date.
const FIGURES: Duration = Duration::from_secs(1);
/// Datagrams that are looked at before anything else gets its turn.
const AT_ONCE: usize = 64;
/// Users that the figures name: those with the most bytes.
const USERS: usize = 100;

/// Where the server is.
#[derive(Debug)]
pub struct Place {
    /// The relay's addresses.
    pub addresses: Vec<IpAddr>,
    /// The port that clients talk to by UDP.
    pub port: u16,
    /// Where they connect to by TCP. Open as long as the server may be switched on.
    pub doors: Vec<Door>,
}

/// What the server goes by, as it changes.
pub struct Wanted {
    /// What the configuration says; `None` while it is switched off.
    pub settings: watch::Receiver<Option<Settings>>,
    /// Users that stand in the control plane's store.
    pub users: watch::Receiver<Records<model::TurnUser>>,
    /// Hosts that Netmaker has registered.
    pub hosts: watch::Receiver<Hosts>,
}

impl Wanted {
    /// What it is now.
    fn current(&mut self) -> Option<Settings> {
        let mut settings = self.settings.borrow_and_update().clone()?;
        let Credentials { realm, users, .. } = &mut settings.credentials;
        // Who stands in the file is who stands there.
        for user in self.users.borrow_and_update().values().filter(|user| user.realm == *realm) {
            users.entry(user.name.to_string()).or_insert(user.key);
        }
        for (host, key) in self.hosts.borrow_and_update().iter() {
            users.entry(host.clone()).or_insert(*key);
        }
        Some(settings)
    }

    /// Waits until it is something else.
    async fn changed(&mut self) {
        // Where nobody changes anything any more the other one counts.
        tokio::select! {
            Ok(()) = self.settings.changed() => {}
            Ok(()) = self.users.changed() => {}
            Ok(()) = self.hosts.changed() => {}
            else => pending().await,
        }
    }
}

/// Runs the server until `stop`, whenever it is switched on.
pub async fn run(
    mut place: Place,
    mut wanted: Wanted,
    engine: Engine,
    stop: CancellationToken,
) -> Result<()> {
    let (figures, shown) = watch::channel(None);
    let mut doors = Doors::accept(mem::take(&mut place.doors))?;
    engine.tell(Request::TurnFigures(shown)).await;
    let mut first = true;
    loop {
        if let Some(settings) = wanted.current() {
            match Running::start(&place, settings, engine.clone()) {
                Ok(mut running) => {
                    let ended = running.run(&mut wanted, &mut doors, &figures, &stop).await;
                    running.close().await;
                    figures.send_replace(None);
                    if ended {
                        return Ok(());
                    }
                }
                // Nobody waits for it yet: so it is known at once.
                Err(error) if first => return Err(error),
                Err(error) => error!("the TURN server stays off: {error:#}"),
            }
        }
        first = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = wanted.changed() => break,
                // Nobody is served: with its queue a connection ends.
                Some(_) = doors.events.recv() => {}
            }
        }
    }
}

/// The server while it is switched on.
struct Running<'a> {
    place: &'a Place,
    server: Server,
    sockets: Sockets,
    streams: Streams,
    received: mpsc::Receiver<Received>,
    engine: Engine,
    /// Whose allocations they are that have channels in the program: the allocation may end first.
    users: HashMap<FiveTuple, String>,
}

impl<'a> Running<'a> {
    fn start(place: &'a Place, settings: Settings, engine: Engine) -> Result<Self> {
        let (mut sockets, received) = Sockets::new();
        for &address in &place.addresses {
            sockets.listen(SocketAddr::new(address, place.port))?;
        }
        let (first, last) = (settings.ports.start(), settings.ports.end());
        info!(port = place.port, realm = &*settings.credentials.realm, first, last, "the TURN server is on");
        let server = Server::new(settings, StdRng::from_os_rng());
        let (streams, users) = (Streams::default(), HashMap::new());
        Ok(Self { place, server, sockets, streams, received, engine, users })
    }

    /// Serves until it is switched off, or until `stop`; then it is true.
    async fn run(
        &mut self,
        wanted: &mut Wanted,
        doors: &mut Doors,
        figures: &watch::Sender<Option<TurnStatus>>,
        stop: &CancellationToken,
    ) -> bool {
        let mut tick = interval(FIGURES);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let end = self.server.next_end().map(|end| end.saturating_sub(clock::now()));
            let mut actions = Vec::new();
            tokio::select! {
                () = stop.cancelled() => return true,
                () = wanted.changed() => {
                    let Some(settings) = wanted.current() else { return false };
                    self.server.configure(settings, &mut actions);
                }
                Some(first) = self.received.recv() => {
                    self.take(first, &mut actions);
                    for _ in 1..AT_ONCE {
                        let Ok(next) = self.received.try_recv() else { break };
                        self.take(next, &mut actions);
                    }
                }
                Some(first) = doors.events.recv() => {
                    self.take_event(first, &mut actions);
                    for _ in 1..AT_ONCE {
                        let Ok(next) = doors.events.try_recv() else { break };
                        self.take_event(next, &mut actions);
                    }
                }
                () = sleep(end.unwrap_or_default()), if end.is_some() => {
                    self.server.expire(clock::now(), &mut actions);
                }
                _ = tick.tick() => {
                    self.streams.sweep(clock::now(), |tuple| self.server.allocation(tuple).is_some());
                    self.count_channels().await;
                    figures.send_replace(Some(self.figures()));
                }
            }
            self.carry_out(actions).await;
        }
    }

    fn take(&mut self, Received { local, remote, bytes }: Received, actions: &mut Vec<Action>) {
        if local.port() == self.place.port {
            let tuple = FiveTuple { transport: Transport::Udp, client: remote, server: local };
            self.server.handle(now(), tuple, &bytes, &mut self.sockets, actions);
        } else {
            self.server.handle_peer(clock::now(), local, remote, &bytes, actions);
        }
    }

    fn take_event(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Opened(connection, line) => {
                if self.streams.insert(clock::now(), connection, line) {
                    self.server.disconnected(&connection.tuple, actions);
                }
            }
            Event::Message(connection, bytes) if self.streams.contains(&connection) => {
                let tuple = connection.tuple;
                self.server.handle(now(), tuple, &bytes, &mut self.sockets, actions);
                if self.server.allocation(&tuple).is_some() {
                    self.streams.proven(&tuple);
                }
            }
            Event::Closed(connection) if self.streams.contains(&connection) => {
                self.streams.remove(&connection.tuple);
                self.server.disconnected(&connection.tuple, actions);
            }
            Event::Message(..) | Event::Closed(_) => {}
            Event::NotTurn => self.server.not_turn(),
            Event::Refused => self.server.refused(),
        }
    }

    /// In their order: a channel is in the program's table before its client is told that it is bound.
    async fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Answer { to, bytes, is_data } => match to.transport {
                    Transport::Udp => self.sockets.send(to.server, to.client, &bytes, false),
                    Transport::Tcp => self.streams.send(&to, bytes, is_data),
                },
                Action::Send { from, to, bytes, whole } => self.sockets.send(from, to, &bytes, whole),
                Action::Disconnect(tuple) => self.streams.remove(&tuple),
                Action::Close(address) => self.sockets.close(address),
                Action::Bind(binding) => {
                    if let Some(allocation) = self.server.allocation(&binding.tuple) {
                        self.users.insert(binding.tuple, allocation.account.clone());
                    }
                    self.engine.ask(|answer| Request::Bind(binding, answer)).await;
                }
                Action::Unbind(tuple, number) => {
                    let passed = self.engine.ask(|answer| Request::Unbind(tuple, number, answer)).await;
                    let user = self.users.get(&tuple).map(String::as_str);
                    self.server.account(&tuple, user, passed.unwrap_or_default());
                }
            }
        }
    }

    /// Takes over what the program has forwarded since the last time.
    async fn count_channels(&mut self) {
        if self.users.is_empty() {
            return;
        }
        let passed = self.engine.ask(Request::ChannelTraffic).await.unwrap_or_default();
        for (tuple, traffic) in &passed {
            self.server.account(tuple, self.users.get(tuple).map(String::as_str), *traffic);
        }
        // What ended has been counted to its end by now.
        self.users.retain(|tuple, _| self.server.allocation(tuple).is_some());
    }

    fn figures(&self) -> TurnStatus {
        let mut users: Vec<TurnUsage> = self
            .server
            .accounts()
            .into_iter()
            .map(|(name, account)| TurnUsage {
                name: name.to_owned(),
                allocations: account.allocations,
                sent_packets: account.traffic.sent.packets,
                sent_bytes: account.traffic.sent.bytes,
                received_packets: account.traffic.received.packets,
                received_bytes: account.traffic.received.bytes,
            })
            .collect();
        users.sort_by(|a, b| {
            let bytes = |user: &TurnUsage| user.sent_bytes + user.received_bytes;
            bytes(b).cmp(&bytes(a)).then_with(|| a.name.cmp(&b.name))
        });
        users.truncate(USERS);
        TurnStatus {
            port: self.place.port,
            allocations: self.server.allocations().len(),
            channels: self.server.allocations().map(Allocation::channels_len).sum(),
            connections: self.streams.len(),
            users,
            outcomes: self
                .server
                .outcomes()
                .iter()
                .map(|(outcome, count)| TurnOutcome { outcome: outcome.to_owned(), count })
                .collect(),
        }
    }

    /// Ends all allocations, and closes the sockets.
    async fn close(&mut self) {
        let mut actions = Vec::new();
        self.server.close(&mut actions);
        self.carry_out(actions).await;
        for &address in &self.place.addresses {
            self.sockets.close(SocketAddr::new(address, self.place.port));
        }
        info!("the TURN server is off");
    }
}

fn now() -> Now {
    Now { at: clock::now(), unix: clock::unix() }
}
