//! Clients that come by TCP, with TLS or without: many networks let nothing else out. Their connections have a thread of
//! their own, without any rights: whoever may connect can make it busy, and nothing else. What they send is told as it
//! comes, a message at a time.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;
use nix::sys::resource::{Resource, getrlimit};
use relay_ebpf::tables::{Address, source_key};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, split},
    net::{TcpListener, TcpStream},
    runtime, select,
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{
    codec::FramedRead,
    sync::{CancellationToken, DropGuard},
};
use tracing::{debug, error};

use super::{
    framing::{Ended, Framing},
    guard::{Guard, Rates},
    server::{FiveTuple, Transport},
    streams::Queued,
};
use crate::{clock, handshake::Timestamp, privileges, tls::Certificate};

/// Events that wait to be looked at. What is more waits in the connections.
const WAITING: usize = 256;
/// Connections of one source, an IPv4 address or an IPv6 /64, and of all together.
const PER_SOURCE: usize = 256;
const IN_ALL: usize = 4_096;
/// Of the files that the process may have open, so many for each that may be a connection.
const FILES_PER_CONNECTION: u64 = 4;
/// New ones a second: a TLS handshake costs some milliseconds at the worst.
const RATES: Rates = Rates { source: 256, all: 1_000 };
/// How long a TLS handshake may take, and the client to take in what is left for it at the end.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an error of the listening socket (too many open files, say).
const PAUSE: Duration = Duration::from_millis(100);

/// Where clients can connect to.
#[derive(Debug)]
pub struct Door {
    listener: std::net::TcpListener,
    address: SocketAddr,
    certificate: Option<Certificate>,
}

impl Door {
    /// Listens there, with TLS if there is a certificate.
    ///
    /// # Errors
    /// If the system does not let us.
    pub fn open(address: SocketAddr, certificate: Option<Certificate>) -> Result<Self> {
        let listen = || -> std::io::Result<_> {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let what = if certificate.is_some() { "TLS" } else { "TCP" };
        let listener = listen().with_context(|| {
            let remedy =
                if address.port() < 1024 { "; ports below 1024 need CAP_NET_BIND_SERVICE" } else { "" };
            format!("listen for TURN clients at {address} ({what}{remedy})")
        })?;
        Ok(Self { listener, address, certificate })
    }
}

/// A connection. Another one between the same addresses has another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Between whom it is.
    pub tuple: FiveTuple,
    /// See above.
    pub number: u64,
}

/// The server's end of a connection, which ends with the value.
#[derive(Debug)]
pub struct Line {
    /// What is to go to the client.
    pub queue: mpsc::UnboundedSender<Queued>,
    /// Whether the client may send messages of any length. Until then what it may make us keep is bounded more tightly.
    pub is_proven: Arc<AtomicBool>,
    _open: DropGuard,
}

impl Line {
    /// `open` is cancelled with the value.
    pub fn new(
        queue: mpsc::UnboundedSender<Queued>,
        is_proven: Arc<AtomicBool>,
        open: CancellationToken,
    ) -> Self {
        Self { queue, is_proven, _open: open.drop_guard() }
    }
}

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// A client has connected.
    Opened(Connection, Line),
    /// It has sent a message.
    Message(Connection, Bytes),
    /// It has sent something else.
    NotTurn,
    /// Its connection has ended.
    Closed(Connection),
    /// Somebody connects too often, or has too many connections: this one was closed at once.
    Refused,
}

/// Accepts connections as long as the value lives.
pub struct Doors {
    /// What has happened, in its order.
    pub events: mpsc::Receiver<Event>,
    _certificate: JoinSet<()>,
    _open: DropGuard,
}

impl Doors {
    /// Begins to accept.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn accept(doors: Vec<Door>) -> Result<Self> {
        let (sender, events) = mpsc::channel(WAITING);
        let stop = CancellationToken::new();
        let mut following = JoinSet::new();
        // All doors with TLS have the same. It is read by who may.
        if let Some(certificate) = doors.iter().find_map(|door| door.certificate.clone()) {
            following.spawn(async move {
                if let Err(error) = certificate.follow("the TURN server").await {
                    error!("{error:#}");
                }
            });
        }
        if !doors.is_empty() {
            let seats = Arc::new(Seats::new(room()?));
            let stopped = stop.clone();
            thread::Builder::new()
                .name("turn-doors".to_owned())
                .spawn(move || {
                    privileges::give_up_all();
                    if let Err(error) = serve(doors, &seats, &sender, &stopped) {
                        error!("the TURN server has no clients by TCP: {error:#}");
                    }
                })
                .context("start a thread")?;
        }
        Ok(Self { events, _certificate: following, _open: stop.drop_guard() })
    }
}

/// How many connections there may be, with the files that the process may have open.
fn room() -> Result<usize> {
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE).context("ask how many files may be open")?;
    Ok(IN_ALL.min((files / FILES_PER_CONNECTION) as usize))
}

/// The thread.
fn serve(
    doors: Vec<Door>,
    seats: &Arc<Seats>,
    events: &mpsc::Sender<Event>,
    stop: &CancellationToken,
) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for Door { listener, address, certificate } in doors {
            let listener = TcpListener::from_std(listener).with_context(|| format!("listen at {address}"))?;
            tasks.spawn(accept(listener, certificate, Arc::clone(seats), events.clone()));
        }
        stop.cancelled().await;
        Ok(())
    })
}

/// How many connections there are, and may be.
struct Seats {
    in_all: usize,
    taken: Mutex<Taken>,
}

struct Taken {
    by_source: HashMap<Address, usize>,
    all: usize,
    new: Guard,
    /// So many there have been.
    count: u64,
}

/// The right to one. It ends with the value.
struct Seat {
    seats: Arc<Seats>,
    source: Address,
    number: u64,
}

impl Seats {
    fn new(in_all: usize) -> Self {
        let taken = Taken { by_source: HashMap::new(), all: 0, new: Guard::new(RATES), count: 0 };
        Self { in_all, taken: Mutex::new(taken) }
    }

    fn take(self: &Arc<Self>, now: Timestamp, client: IpAddr) -> Option<Seat> {
        let source = source_key(client.into());
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.by_source.get(&source).copied().unwrap_or(0);
        if count >= PER_SOURCE || taken.all >= self.in_all || !taken.new.admits(now, client) {
            return None;
        }
        taken.by_source.insert(source, count + 1);
        taken.all += 1;
        taken.count += 1;
        Some(Seat { seats: Arc::clone(self), source, number: taken.count })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Entry::Occupied(mut count) = taken.by_source.entry(self.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    certificate: Option<Certificate>,
    seats: Arc<Seats>,
    events: mpsc::Sender<Event>,
) {
    let mut connections = JoinSet::new();
    loop {
        select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => match seats.take(clock::now(), client.ip()) {
                    Some(seat) => {
                        connections.spawn(connection(stream, client, certificate.clone(), seat, events.clone()));
                    }
                    None => {
                        let _ = events.send(Event::Refused).await;
                    }
                },
                Err(error) => {
                    debug!(%error, "a connection of a TURN client could not be accepted");
                    sleep(PAUSE).await;
                }
            },
        }
    }
}

async fn connection(
    stream: TcpStream,
    client: SocketAddr,
    certificate: Option<Certificate>,
    seat: Seat,
    events: mpsc::Sender<Event>,
) {
    // What is asked for is to go out at once.
    let _ = stream.set_nodelay(true);
    let Ok(server) = stream.local_addr() else { return };
    let tuple = FiveTuple { transport: Transport::Tcp, client, server };
    let connection = Connection { tuple, number: seat.number };
    match certificate {
        None => exchange(stream, connection, &events).await,
        Some(certificate) => {
            let acceptor = TlsAcceptor::from(certificate.config().get_inner());
            match timeout(PATIENCE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => exchange(stream, connection, &events).await,
                Ok(Err(error)) => debug!(%client, %error, "a TLS handshake of a TURN client"),
                Err(_) => debug!(%client, "a TLS handshake of a TURN client takes too long"),
            }
        }
    }
}

/// Carries messages both ways until one of them ends.
async fn exchange<S: AsyncRead + AsyncWrite>(
    stream: S,
    connection: Connection,
    events: &mpsc::Sender<Event>,
) {
    let (queue, mut queued) = mpsc::unbounded_channel();
    let (open, is_proven) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let line = Line::new(queue, Arc::clone(&is_proven), open.clone());
    if events.send(Event::Opened(connection, line)).await.is_err() {
        return;
    }
    let (reader, mut writer) = split(stream);
    let mut messages = FramedRead::new(reader, Framing::new(is_proven));
    let read = async {
        while let Some(next) = messages.next().await {
            let event = match next {
                Ok(message) => Event::Message(connection, message),
                Err(Ended::NotTurn) => Event::NotTurn,
                Err(Ended::Broken(error)) => {
                    debug!(client = %connection.tuple.client, %error, "the connection of a TURN client");
                    return;
                }
            };
            let is_last = matches!(event, Event::NotTurn);
            if events.send(event).await.is_err() || is_last {
                return;
            }
        }
    };
    // A client that takes nothing in for a while finds its connection as it was: TCP is for that.
    let write = async {
        while let Some(Queued { bytes, .. }) = queued.recv().await {
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let over = async {
        open.cancelled().await;
        sleep(PATIENCE).await;
    };
    select! {
        () = read => {}
        () = write => {}
        () = over => {}
    }
    let _ = events.send(Event::Closed(connection)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Duration::from_secs(1);

    /// What one source gets that wants very many.
    fn seats(all: &Arc<Seats>, source: u8) -> Vec<Seat> {
        (0..1_000).filter_map(|_| all.take(NOW, [192, 0, 2, source].into())).collect()
    }

    #[test]
    fn nobody_has_more_than_there_are() {
        let all = Arc::new(Seats::new(600));
        let held = [1, 2, 3].map(|source| seats(&all, source));
        assert_eq!(held.each_ref().map(Vec::len), [PER_SOURCE, PER_SOURCE, 600 - 2 * PER_SOURCE]);
        drop(held);
        assert!(all.taken.lock().unwrap().by_source.is_empty());
    }

    #[test]
    fn nobody_connects_too_often() {
        let all = Arc::new(Seats::new(IN_ALL));
        // They end at once.
        assert!(seats(&all, 1).len() <= RATES.source as usize + 1);
        assert!(seats(&all, 1).is_empty());
        assert!(all.take(NOW + Duration::from_secs(1), [192, 0, 2, 1].into()).is_some());
    }
}
