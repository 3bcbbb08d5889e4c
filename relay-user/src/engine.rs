//! The engine: the one task that owns the tracker, the maps, the next hops and the raw sockets, and so the only writer.
//!
//! It takes one thing at a time from its inputs (the ring buffer, the relay's WireGuard interface, netlink, the control
//! source, questions of the API) and carries out what follows from it before it takes the next.

mod actions;
mod admission;
mod channels;
mod data;
mod notices;
mod report;
mod saving;
mod start;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use relay_ebpf::{
    event::{self, Event},
    tables::Endpoint,
};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use zerocopy::FromBytes as _;

pub use self::start::Start;
use self::{notices::Notices, saving::Saving};
use crate::{
    admission::Admission,
    clock,
    config::Config,
    forwarding::Locals,
    handshake::{Action, Datagram, Timestamp, Tracker},
    interface::{Interface, Peer},
    keep::Keep,
    maps::Maps,
    members::{Desired, Member, MemberId, Peers, Place, PublicKey},
    netlink::{Netlink, News},
    next_hops::{Flow, NextHops},
    program::Attached,
    rates::Rates,
    registrar::Registrar,
    saved::Seen,
    service,
    sockets::Sockets,
    status::{Host, SessionDirection, Status, TurnStatus, UnknownSource, Userspace},
    ticks::Ticks,
    turn::{
        allocation::BothWays,
        server::{Binding, FiveTuple},
    },
};

/// The WireGuard interface is read this long after a hint: by then WireGuard has taken in the packet that caused it.
const READ_AFTER_HINT: Duration = Duration::from_millis(30);
/// And once more, since hints are rate-limited and one may stand for several packets.
const READ_AGAIN: Duration = Duration::from_millis(250);
/// Without hints it is read this often, or every so many times the time that a read takes, whichever is longer.
const READ_INTERVAL: Duration = Duration::from_secs(5);
const READ_SHARE: u32 = 60;
/// After a read there is none for so many times the time that it took.
const READ_PAUSE: u32 = 4;
/// How often counters are looked at, unresolved neighbours are asked for and the tables are swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Every so many sweeps all neighbours in use are checked and all is compared with what it should be.
const RECONCILE_SWEEPS: u32 = 6;
/// Events taken from the ring buffer before the other inputs get their turn.
const EVENTS_AT_ONCE: usize = 64;

/// A change of the desired state.
pub struct Change {
    /// What is wanted from now on.
    pub desired: Desired,
    /// What the source says of itself.
    pub source: SourceState,
}

impl Change {
    /// Leaves out peers that the interface does not take, and says so.
    fn fit(mut self, interface: &Interface, before: &Peers) -> Self {
        let most = interface.most_peers();
        match self.desired.fit(most, before) {
            0 => {}
            beyond => {
                let remark = format!(
                    "{beyond} members can't register here: the relay's WireGuard takes {most} peers; let another relay serve \
                     some of the networks, or use the kernel's WireGuard"
                );
                warn!("{remark}");
                self.source.remarks.insert(0, remark);
            }
        }
        self
    }
}

/// What is known of the control source.
#[derive(Clone, Debug)]
pub struct SourceState {
    /// The file, or the store.
    pub name: String,
    /// When its present content was taken over.
    pub loaded: Timestamp,
    /// Why its newest content was not.
    pub error: Option<String>,
    /// What of it is not used, and what else people should know.
    pub remarks: Vec<String>,
}

/// What of the configuration can be changed while the relay runs, but the members.
pub struct Configured {
    /// What is admitted.
    pub admission: Admission,
    /// Whether all is left in place at the end.
    pub keep: Option<bool>,
    /// Settings that differ from those in force and need a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Takes the keys of peers that have completed a handshake with the relay's interface and are no members.
pub type Proofs = mpsc::Sender<Vec<PublicKey>>;

/// What the engine can be told and asked.
pub enum Request {
    /// The desired state is another.
    Change(Change),
    /// The configuration is another.
    Configured(Configured),
    /// The configuration file has content that can't be taken over.
    NotConfigured(String),
    /// `GET /v1/ready`: how long ago the relay's WireGuard interface was read.
    Ready(oneshot::Sender<Option<Duration>>),
    /// The TURN server has bound a channel: answered when the program forwards it.
    Bind(Binding, oneshot::Sender<()>),
    /// A channel has ended. The answer is what has passed by it since [`Self::ChannelTraffic`] was last answered.
    Unbind(FiveTuple, u16, oneshot::Sender<BothWays>),
    /// What has passed by channels since it was last asked.
    ChannelTraffic(oneshot::Sender<Vec<(FiveTuple, BothWays)>>),
    /// Where the TURN server says how it is.
    TurnFigures(watch::Receiver<Option<TurnStatus>>),
    /// `GET /v1/status`
    Status(oneshot::Sender<Status>),
    /// `GET /v1/hosts`
    Hosts(oneshot::Sender<Vec<Host>>),
    /// `GET /v1/sessions`
    Sessions(oneshot::Sender<Vec<SessionDirection>>),
    /// `GET /v1/sources`
    Sources(oneshot::Sender<Vec<UnknownSource>>),
}

/// The engine's state.
pub struct Engine {
    config: Config,
    tracker: Tracker,
    maps: Maps,
    locals: Locals,
    next_hops: NextHops,
    netlink: Netlink,
    sockets: Sockets,
    interface: Interface,
    registrar: Registrar,
    /// Who wants to know of peers that have shown themselves and are no members yet.
    proofs: Proofs,
    attached: Vec<Attached>,
    desired: Desired,
    source: SourceState,
    /// Settings that differ from those in force and need a restart.
    needs_restart: Vec<&'static str>,
    /// Why the newest content of the configuration file was not taken over.
    not_configured: Option<String>,
    /// What the WireGuard interface last said of the relayed members.
    handshakes: HashMap<MemberId, SystemTime>,
    /// `ENDPOINTS` as it stands in the map.
    endpoints: HashMap<Endpoint, u64>,
    /// What is admitted, as it stands in the maps and the tracker.
    admission: Admission,
    /// `RATES` as it stands in the map.
    rates: Rates,
    /// What becomes of all this at the end.
    keep: Keep,
    saving: Saving,
    /// What an earlier run has left, until its maps are out of use.
    left: Option<start::Replaced>,
    counts: Userspace,
    /// Channels of the TURN server.
    channels: channels::Channels,
    /// What they end by.
    ticks: Ticks,
    started: Timestamp,
    reads: Reads,
    notices: Notices,
    /// News of netlink was lost: the next sweep is a thorough one.
    resync: bool,
}

/// When the WireGuard interface is to be read.
#[derive(Debug)]
struct Reads {
    /// The next time.
    due: Timestamp,
    /// A second time after a hint.
    again: Option<Timestamp>,
    /// When it was last read.
    done: Option<Timestamp>,
    running: Option<JoinHandle<Result<Read>>>,
    began: Timestamp,
    /// Not before this, whatever the hints: whoever sends garbage could otherwise have it read all the time.
    earliest: Timestamp,
}

/// What a read of the interface has told.
#[derive(Debug)]
struct Read {
    /// The peers that have shown themselves, the latest last.
    shown: Vec<Peer>,
    /// Peers that the interface was given and that are not there.
    missing: Vec<PublicKey>,
}

impl Reads {
    fn new(now: Timestamp) -> Self {
        Self { due: now, again: None, done: None, running: None, began: now, earliest: now }
    }

    fn hint(&mut self, now: Timestamp) {
        self.due = self.due.min((now + READ_AFTER_HINT).max(self.earliest));
        self.again = Some(now + READ_AGAIN);
    }

    /// A read has ended: when is the next?
    fn finished(&mut self, now: Timestamp) {
        let took = now.saturating_sub(self.began);
        self.earliest = now + took * READ_PAUSE;
        let regular = now + READ_INTERVAL.max(took * READ_SHARE);
        self.due = self.again.take().map_or(regular, |again| again.max(self.earliest).min(regular));
        self.done = Some(now);
    }
}

impl Engine {
    /// Runs until `stop`.
    pub async fn run(
        &mut self,
        events: RingBuf<MapData>,
        mut news: mpsc::Receiver<News>,
        mut requests: mpsc::Receiver<Request>,
        stop: CancellationToken,
    ) -> Result<()> {
        // SAFETY: the ring buffer owns its descriptor and keeps it, the same one, until it is dropped with the `AsyncFd`.
        let mut events = unsafe { AsyncFd::register(events) }.context("watch the ring buffer")?;
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweeps = 0;
        loop {
            let now = clock::now();
            let expiry = self.tracker.next_expiry().map(|at| at.saturating_sub(now));
            let read_in = self.reads.due.saturating_sub(now);
            tokio::select! {
                ready = events.readable_mut() => {
                    let mut ready = ready.context("watch the ring buffer")?;
                    let mut more = true;
                    for _ in 0..EVENTS_AT_ONCE {
                        // The record is copied out, so its place in the ring is free before it is acted on.
                        let taken = ready.get_inner_mut().next().map(|item| Event::read_from_bytes(&item).ok());
                        match taken {
                            Some(Some(event)) => self.handle_event(&event).await,
                            Some(None) => debug!("a record of the ring buffer has a wrong size"),
                            None => {
                                more = false;
                                break;
                            }
                        }
                    }
                    if !more {
                        ready.clear_ready();
                    }
                }
                received = self.sockets.receive() => match received {
                    Ok(received) => self.handle_received(received).await,
                    Err(error) => debug!(%error, "a raw socket"),
                },
                Some(first) = news.recv() => {
                    // News comes in bursts: routes are asked for once after all of it.
                    let mut batch = vec![first];
                    while let Ok(next) = news.try_recv() {
                        batch.push(next);
                    }
                    self.handle_news(batch).await;
                }
                () = stop.cancelled() => {
                    self.save_all().await;
                    return Ok(());
                }
                Some(request) = requests.recv() => self.handle_request(request).await,
                () = tokio::time::sleep(read_in), if self.reads.running.is_none() => self.start_read(),
                read = joined(&mut self.reads.running), if self.reads.running.is_some() => {
                    self.reads.running = None;
                    self.reads.finished(clock::now());
                    match read {
                        Ok(Read { shown, missing }) => {
                            self.registrar.missing(missing);
                            self.take_in(shown).await;
                        }
                        Err(error) => warn!("{error:#}"),
                    }
                }
                () = tokio::time::sleep(expiry.unwrap_or_default()), if expiry.is_some() => {
                    let mut actions = Vec::new();
                    self.tracker.expire(clock::now(), &mut actions);
                    self.carry_out(actions).await;
                }
                _ = sweep.tick() => {
                    sweeps += 1;
                    let thorough = sweeps % RECONCILE_SWEEPS == 0;
                    self.sweep(thorough || self.resync).await;
                    self.tell_of_limits();
                    if thorough {
                        self.tell_of_absent_hosts();
                    }
                    service::alive();
                }
            }
        }
    }

    async fn handle_event(&mut self, event: &Event) {
        let now = clock::now();
        match event.kind {
            event::NEW_SOURCE => {
                self.counts.new_source_hints += 1;
                self.reads.hint(now);
            }
            event::TOO_BIG => self.program_said(event),
            event::HANDSHAKE => {
                let Some(message) = event.message() else { return };
                self.counts.handshake_messages += 1;
                let datagram = Datagram {
                    local: event.local.into(),
                    remote: event.source.into(),
                    ttl: event.ttl,
                    message: message.to_vec(),
                };
                let mut actions = Vec::new();
                self.tracker.handle(now, &datagram, &mut actions);
                if actions.iter().any(|action| matches!(action, Action::Expect { .. })) {
                    // By the time the answer comes, the ways to both sides are resolved.
                    self.ensure_route(Flow { local: datagram.local, remote: datagram.remote.ip() }).await;
                    for action in &actions {
                        if let Action::Send(Datagram { local, remote, .. }) = action {
                            self.ensure_route(Flow { local: *local, remote: remote.ip() }).await;
                        }
                    }
                }
                self.carry_out(actions).await;
            }
            other => debug!(kind = other, "an unknown kind of record in the ring buffer"),
        }
    }

    async fn handle_news(&mut self, batch: Vec<News>) {
        let mut routes = false;
        for news in batch {
            match news {
                News::Link(ifindex, link) => routes |= self.next_hops.set_link(ifindex, link),
                News::Neighbour(ifindex, address, neighbour) => {
                    self.next_hops.set_neighbour(ifindex, address, neighbour);
                }
                News::Routes => routes = true,
                News::Lost => {
                    // Older news may still be on its way and would undo what is read now: so it is read again soon.
                    self.resync = true;
                    routes = true;
                    if let Err(error) = self.read_neighbours().await {
                        warn!("{error:#}");
                    }
                }
            }
        }
        // Before anything is asked: a link that is down must not be sent to meanwhile.
        self.write_next_hops();
        if routes {
            self.refresh_routes(&self.next_hops.flows()).await;
        }
    }

    async fn handle_request(&mut self, request: Request) {
        // Whoever asked may have gone: then nobody misses the answer.
        match request {
            Request::Change(change) => self.change(change).await,
            Request::Configured(Configured { admission, keep, needs_restart }) => {
                self.keep.configure(keep);
                (self.needs_restart, self.not_configured) = (needs_restart, None);
                self.apply_admission(admission).await;
            }
            Request::NotConfigured(error) => self.not_configured = Some(error),
            Request::Ready(answer) => {
                let age = self.reads.done.map(|done| clock::now().saturating_sub(done));
                let _ = answer.send(age);
            }
            Request::Bind(binding, answer) => {
                self.bind(binding).await;
                let _ = answer.send(());
            }
            Request::Unbind(tuple, number, answer) => drop(answer.send(self.unbind(tuple, number))),
            Request::ChannelTraffic(answer) => drop(answer.send(self.channel_traffic())),
            Request::TurnFigures(figures) => self.channels.figures = Some(figures),
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Hosts(answer) => drop(answer.send(self.hosts())),
            Request::Sessions(answer) => drop(answer.send(self.session_directions())),
            Request::Sources(answer) => drop(answer.send(self.unknown_sources())),
        }
    }

    /// Makes the tracker and the WireGuard interface follow what is wanted. First the tracker: what is not allowed any
    /// more ends at once.
    async fn change(&mut self, change: Change) {
        let Change { desired, source } = change.fit(&self.interface, &self.desired.peers);
        self.source = source;
        let before = std::mem::replace(&mut self.desired, desired);
        let mut actions = Vec::new();
        self.tracker.set_members(clock::now(), Arc::clone(&self.desired.members), &mut actions);
        self.carry_out(actions).await;
        let (mut rates, mut registers) = (false, false);
        let mut moved = Vec::new();
        let here = |member: Option<&Arc<Member>>| {
            member.filter(|member| member.place == Place::Relayed).map(|member| member.public_key)
        };
        for (id, was, after) in self.desired.members.changes_since(&before.members) {
            rates |= was.and_then(|was| was.rate_limit) != after.and_then(|after| after.rate_limit);
            registers |= here(after).is_some_and(|key| here(was) != Some(key));
            moved.extend(was.zip(after).filter(|(was, after)| was.place != after.place));
            if after.is_none() {
                self.maps.totals.remove(id);
                self.handshakes.remove(&id);
                self.saving.seen.remove(&id);
            }
        }
        notices::tell_of_places(&moved);
        if rates {
            self.apply_rates();
        }
        self.registrar.want(&self.desired.peers);
        if registers {
            // The interface may know already where it is.
            self.reads.hint(clock::now());
        }
    }

    fn start_read(&mut self) {
        let (interface, applied) = (self.interface.clone(), self.registrar.applied());
        self.reads.began = clock::now();
        let read = move |peers: Vec<Peer>| {
            let present: HashSet<PublicKey> = peers.iter().map(|peer| peer.public_key).collect();
            let missing = applied.keys().filter(|key| !present.contains(*key)).copied().collect();
            Read { shown: shown(peers), missing }
        };
        self.reads.running = Some(tokio::spawn(async move { interface.peers_as(read).await }));
    }

    /// Takes in what the WireGuard interface has learned, the latest last: of two members that were seen at one endpoint, the
    /// later told is taken to be there.
    async fn take_in(&mut self, shown: Vec<Peer>) {
        let mut actions = Vec::new();
        let mut strangers = Vec::new();
        for peer in shown {
            let id = peer.public_key.id();
            let Some(handshake) = peer.last_handshake else { continue };
            let known = self.desired.members.member(id).is_some_and(|m| m.public_key == peer.public_key);
            if !known {
                strangers.push(peer.public_key);
                continue;
            }
            self.handshakes.insert(id, handshake);
            if let Some(endpoint) = peer.endpoint {
                self.saving.seen.insert(id, Seen { endpoint, at: clock::since_epoch(handshake) });
            }
            let before = self.tracker.endpoint_of(id);
            self.tracker.set_endpoint(clock::now(), id, peer.endpoint, &mut actions);
            self.log_endpoint(id, before, peer.endpoint);
        }
        self.carry_out(actions).await;
        if !strangers.is_empty() {
            // They are told again with the next read.
            let _ = self.proofs.try_send(strangers);
        }
    }

    fn log_endpoint(&self, id: MemberId, before: Option<SocketAddr>, told: Option<SocketAddr>) {
        let now = self.tracker.endpoint_of(id);
        if before == now {
            return;
        }
        let host = self.desired.members.member(id).map_or("?", |member| &*member.name);
        match (before, now) {
            (None, Some(endpoint)) => info!(host, %endpoint, "host registered"),
            (Some(from), Some(endpoint)) => info!(host, %from, %endpoint, "host moved"),
            _ => info!(host, ?told, "host's endpoint is not known any more"),
        }
    }

    async fn read_neighbours(&mut self) -> Result<()> {
        let all = self.netlink.links_and_neighbours().await?;
        self.next_hops.forget_links_and_neighbours();
        for news in all {
            match news {
                News::Link(ifindex, link) => _ = self.next_hops.set_link(ifindex, link),
                News::Neighbour(ifindex, address, neighbour) => {
                    self.next_hops.set_neighbour(ifindex, address, neighbour);
                }
                News::Routes | News::Lost => {}
            }
        }
        self.write_next_hops();
        Ok(())
    }
}

/// The peers that have shown themselves, the latest last.
fn shown(mut peers: Vec<Peer>) -> Vec<Peer> {
    peers.retain(|peer| peer.last_handshake.is_some());
    peers.sort_by_key(|peer| peer.last_handshake);
    peers
}

/// What a running read found. Waits for ever if none is running, so that it can stand in a `select!`.
async fn joined(running: &mut Option<JoinHandle<Result<Read>>>) -> Result<Read> {
    match running {
        Some(running) => running.await.context("read the WireGuard interface")?,
        None => std::future::pending().await,
    }
}
