//! A batched relay in userspace: what is reasonably fast without a kernel of one's own. One thread, 64 messages a call,
//! a hash map by receiver index, the same check of the source as the XDP program makes.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::SocketAddrV4,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    batch::{Address, Batch, MESSAGES},
    flows::{Flow, RELAY},
    place::Place,
};
use crate::{affinity::pin, lab::Namespace};

/// A session: who may send, and to whom it goes.
struct Session {
    source: SocketAddrV4,
    destination: Address,
}

/// The relay, on a thread.
#[derive(Debug)]
pub struct UserspaceRelay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UserspaceRelay {
    /// Starts it for flows 0 to `count`, on one CPU.
    ///
    /// # Errors
    /// If the system refuses the socket or the CPU.
    pub fn start(place: &Place, count: u32, cpu: usize) -> Result<Self> {
        let socket = open(&place.relay)?;
        let sessions: HashMap<u32, Session> = (0..count)
            .map(|number| Flow { number })
            .map(|flow| {
                (flow.index(), Session { source: flow.source(), destination: address(flow.destination()) })
            })
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (until, (ready, is_ready)) = (stop.clone(), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            let pinned = pin(cpu).map(drop);
            let failed = pinned.is_err();
            let _ = ready.send(pinned);
            if !failed {
                relay(&socket, &sessions, &until);
            }
        });
        let this = Self { stop, thread: Some(thread) };
        is_ready.recv().context("the userspace relay ended")??;
        Ok(this)
    }
}

impl Drop for UserspaceRelay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(namespace: &Namespace) -> Result<Socket> {
    let socket = namespace.enter(|| Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)))?;
    // Room for all that may be under way.
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_send_buffer_size(4 << 20)?;
    // How long it takes to notice that it is to stop.
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.bind(&RELAY.into()).with_context(|| format!("bind to {RELAY}"))?;
    Ok(socket)
}

/// Relays until told to stop.
fn relay(socket: &Socket, sessions: &HashMap<u32, Session>, stop: &AtomicBool) {
    let mut buffers = vec![vec![0; 2048]; MESSAGES];
    let (mut receiving, mut sending) = (Batch::new(), Batch::new());
    while !stop.load(Ordering::Relaxed) {
        let received: Vec<(Address, usize)> = match receiving.receive(socket.as_fd(), &mut buffers) {
            Ok(received) => received.collect(),
            // The time-out, or an ICMP error that an earlier message met.
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => continue,
        };
        let mut out = received.iter().zip(&buffers).filter_map(|((from, length), buffer)| {
            let message = &buffer[..*length];
            let [4, 0, 0, 0, index @ ..] = *message.first_chunk::<8>()? else { return None };
            let session = sessions.get(&u32::from_le_bytes(index))?;
            let from_there = from.sin_addr.s_addr == u32::from_ne_bytes(session.source.ip().octets())
                && u16::from_be(from.sin_port) == session.source.port();
            from_there.then_some((message, session.destination))
        });
        let mut ready: Vec<(&[u8], Address)> = out.by_ref().collect();
        while !ready.is_empty() {
            // The first one that can't be sent is lost, as with any router.
            let sent = sending.send_to(socket.as_fd(), ready.iter().copied()).unwrap_or(1);
            ready.drain(..sent);
        }
    }
}

fn address(of: SocketAddrV4) -> Address {
    Address {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(of.ip().octets()) },
        sin_zero: [0; 8],
    }
}
