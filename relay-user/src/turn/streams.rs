//! Clients that come by TCP, with TLS or without: many networks let nothing else out. What they send is told as it comes, a
//! message at a time; what is for them waits in a queue of their own.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;
use relay_ebpf::tables::{Address, source_key};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, split},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::codec::FramedRead;
use tracing::{debug, error};

use super::{
    framing::{Ended, Framing, padded},
    server::{FiveTuple, Transport},
};
use crate::{handshake::Timestamp, tls::Certificate};

/// Events that wait to be looked at. What is more waits in the connections.
const WAITING: usize = 256;
/// Messages that wait for one client.
const QUEUE: usize = 64;
/// So many of these are for answers alone: where data does not get away fast enough it is lost, as it would be by UDP.
const FOR_ANSWERS: usize = 8;
/// Connections of one source, an IPv4 address or an IPv6 /64, and of all together.
const PER_SOURCE: usize = 256;
const IN_ALL: usize = 4_096;
/// How long a TLS handshake may take, and the client to take in a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection lasts that has no allocation.
const IDLE: Duration = Duration::from_secs(30);
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

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// A client has connected; what is to go to it goes here.
    Opened(FiveTuple, mpsc::Sender<Vec<u8>>),
    /// It has sent a message.
    Message(FiveTuple, Bytes),
    /// It has sent something else.
    NotTurn,
    /// Its connection has ended.
    Closed(FiveTuple),
    /// Somebody has more connections than there may be: this one was closed at once.
    Refused,
}

/// Accepts connections as long as the value lives.
pub struct Doors {
    /// What has happened, in its order.
    pub events: mpsc::Receiver<Event>,
    _tasks: JoinSet<()>,
}

impl Doors {
    /// Begins to accept.
    ///
    /// # Errors
    /// If tokio does not take one of them.
    pub fn accept(doors: Vec<Door>) -> Result<Self> {
        let (sender, events) = mpsc::channel(WAITING);
        let seats = Arc::new(Seats::default());
        let mut tasks = JoinSet::new();
        // All doors with TLS have the same.
        if let Some(certificate) = doors.iter().find_map(|door| door.certificate.clone()) {
            tasks.spawn(async move {
                if let Err(error) = certificate.follow("the TURN server").await {
                    error!("{error:#}");
                }
            });
        }
        for Door { listener, address, certificate } in doors {
            let listener = TcpListener::from_std(listener).with_context(|| format!("listen at {address}"))?;
            tasks.spawn(accept(listener, certificate, Arc::clone(&seats), sender.clone()));
        }
        Ok(Self { events, _tasks: tasks })
    }
}

/// How many connections there are.
#[derive(Debug, Default)]
struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    by_source: HashMap<Address, usize>,
    all: usize,
}

/// The right to one. It ends with the value.
struct Seat {
    seats: Arc<Seats>,
    source: Address,
}

impl Seats {
    fn take(self: &Arc<Self>, source: IpAddr) -> Option<Seat> {
        let source = source_key(source.into());
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.by_source.get(&source).copied().unwrap_or(0);
        if count >= PER_SOURCE || taken.all >= IN_ALL {
            return None;
        }
        taken.by_source.insert(source, count + 1);
        taken.all += 1;
        Some(Seat { seats: Arc::clone(self), source })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => match seats.take(client.ip()) {
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
    _seat: Seat,
    events: mpsc::Sender<Event>,
) {
    // What is asked for is to go out at once.
    let _ = stream.set_nodelay(true);
    let Ok(server) = stream.local_addr() else { return };
    let tuple = FiveTuple { transport: Transport::Tcp, client, server };
    match certificate {
        None => exchange(stream, tuple, &events).await,
        Some(certificate) => {
            let acceptor = TlsAcceptor::from(certificate.config().get_inner());
            match timeout(PATIENCE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => exchange(stream, tuple, &events).await,
                Ok(Err(error)) => debug!(%client, %error, "a TLS handshake of a TURN client"),
                Err(_) => debug!(%client, "a TLS handshake of a TURN client takes too long"),
            }
        }
    }
}

/// Carries messages both ways until one of them ends.
async fn exchange<S: AsyncRead + AsyncWrite>(stream: S, tuple: FiveTuple, events: &mpsc::Sender<Event>) {
    let (queue, mut queued) = mpsc::channel::<Vec<u8>>(QUEUE);
    if events.send(Event::Opened(tuple, queue)).await.is_err() {
        return;
    }
    let (reader, mut writer) = split(stream);
    let mut messages = FramedRead::new(reader, Framing);
    let read = async {
        while let Some(next) = messages.next().await {
            let event = match next {
                Ok(message) => Event::Message(tuple, message),
                Err(Ended::NotTurn) => Event::NotTurn,
                Err(Ended::Broken(error)) => {
                    debug!(client = %tuple.client, %error, "the connection of a TURN client");
                    return;
                }
            };
            let is_last = matches!(event, Event::NotTurn);
            if events.send(event).await.is_err() || is_last {
                return;
            }
        }
    };
    let write = async {
        while let Some(message) = queued.recv().await {
            let sent = async {
                writer.write_all(&message).await?;
                writer.flush().await
            };
            if !matches!(timeout(PATIENCE, sent).await, Ok(Ok(()))) {
                return;
            }
        }
        let _ = timeout(PATIENCE, writer.shutdown()).await;
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
    let _ = events.send(Event::Closed(tuple)).await;
}

/// The connections that there are.
#[derive(Debug, Default)]
pub struct Streams {
    open: HashMap<FiveTuple, Stream>,
}

#[derive(Debug)]
struct Stream {
    queue: mpsc::Sender<Vec<u8>>,
    /// When it was opened, or last had an allocation.
    used: Timestamp,
}

impl Streams {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// One more.
    pub fn insert(&mut self, now: Timestamp, tuple: FiveTuple, queue: mpsc::Sender<Vec<u8>>) {
        self.open.insert(tuple, Stream { queue, used: now });
    }

    /// One less.
    pub fn remove(&mut self, tuple: &FiveTuple) {
        self.open.remove(tuple);
    }

    /// Sends a message to a client. `is_data` says that it may be lost.
    pub fn send(&self, tuple: &FiveTuple, mut message: Vec<u8>, is_data: bool) {
        let Some(Stream { queue, .. }) = self.open.get(tuple) else { return };
        if is_data && queue.capacity() <= FOR_ANSWERS {
            debug!(client = %tuple.client, "a TURN client is too slow for its data");
            return;
        }
        message.resize(padded(message.len()), 0);
        let _ = queue.try_send(message);
    }

    /// Ends those that have had no allocation for too long.
    pub fn sweep(&mut self, now: Timestamp, has_allocation: impl Fn(&FiveTuple) -> bool) {
        self.open.retain(|tuple, stream| {
            if has_allocation(tuple) {
                stream.used = now;
            }
            now.saturating_sub(stream.used) < IDLE
        });
    }
}
