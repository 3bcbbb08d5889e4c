//! The server's sockets: those that clients talk to, and one for each relayed address.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    ifaddrs::getifaddrs,
    libc,
    sys::socket::{setsockopt, sockopt},
};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tracing::debug;

use super::server::Host;
use crate::{clock, handshake::Timestamp};

/// Datagrams that wait to be looked at. What is more waits in the sockets.
const WAITING: usize = 256;
/// The buffer of a socket that clients talk to, in bytes.
const BUFFER: usize = 4 << 20;
/// For so long the host's addresses are taken to be the same.
const ADDRESSES_FOR: Duration = Duration::from_secs(2);

/// A datagram that has come.
pub struct Received {
    /// To which of the addresses here.
    pub local: SocketAddr,
    /// From where.
    pub remote: SocketAddr,
    /// It.
    pub bytes: Vec<u8>,
}

struct Socket {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
}

/// See the module.
pub struct Sockets {
    sockets: HashMap<SocketAddr, Socket>,
    readers: JoinSet<()>,
    sender: mpsc::Sender<Received>,
    /// The host's addresses, and when they were asked for.
    own: Option<(Timestamp, Vec<IpAddr>)>,
}

impl Sockets {
    /// None yet. What they receive comes by the other end.
    pub fn new() -> (Self, mpsc::Receiver<Received>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sockets: HashMap::new(), readers: JoinSet::new(), sender, own: None }, receiver)
    }

    /// Opens one that clients talk to.
    pub fn listen(&mut self, address: SocketAddr) -> Result<()> {
        let socket = self.bind(address).with_context(|| format!("listen for TURN clients at {address}"))?;
        // More than the usual limit needs rights that are not always there, and is not needed to work.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
        Ok(())
    }

    fn bind(&mut self, address: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let reader = self.readers.spawn(read(Arc::clone(&socket), address, self.sender.clone()));
        self.sockets.insert(address, Socket { socket: Arc::clone(&socket), reader });
        Ok(socket)
    }

    /// Sends a datagram from one of the addresses, `whole` or not at all. What can't be sent now is lost, as datagrams are.
    pub fn send(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8], whole: bool) {
        let Some(Socket { socket, .. }) = self.sockets.get(&from) else { return };
        if whole {
            set_may_fragment(socket, from.is_ipv4(), false);
        }
        if let Err(error) = socket.try_send_to(bytes, to) {
            debug!(%from, %to, %error, "a TURN datagram could not be sent");
        }
        if whole {
            set_may_fragment(socket, from.is_ipv4(), true);
        }
    }

    /// Closes the socket of an address.
    pub fn close(&mut self, address: SocketAddr) {
        if let Some(Socket { reader, .. }) = self.sockets.remove(&address) {
            reader.abort();
        }
        while self.readers.try_join_next().is_some() {}
    }
}

impl Host for Sockets {
    fn open(&mut self, relayed: SocketAddr) -> bool {
        let opened = self.bind(relayed);
        if let Err(error) = &opened {
            debug!(%relayed, %error, "a relayed address could not be opened");
        }
        opened.is_ok()
    }

    fn is_own(&mut self, address: IpAddr) -> bool {
        let now = clock::now();
        let own = match self.own.take().filter(|(asked, _)| now.saturating_sub(*asked) < ADDRESSES_FOR) {
            Some(own) => own,
            None => (now, own_addresses()),
        };
        let (_, own) = self.own.insert(own);
        // Where the host can't be asked, nobody is let in by that.
        own.is_empty() || own.contains(&address)
    }
}

fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let addresses = interfaces.filter_map(|interface| interface.address);
    addresses
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect()
}

/// Passes on what a socket receives, until nobody takes it any more.
async fn read(socket: Arc<UdpSocket>, local: SocketAddr, received: mpsc::Sender<Received>) {
    thread_local! {
        // One for all sockets: it is in use for no longer than a call takes.
        static SPACE: RefCell<Vec<u8>> = RefCell::new(vec![0; 65_536]);
    }
    while socket.readable().await.is_ok() {
        let datagram = SPACE.with_borrow_mut(|space| {
            socket.try_recv_from(space).map(|(len, remote)| (space[..len].to_vec(), remote))
        });
        match datagram {
            Ok((bytes, remote)) => {
                if received.send(Received { local, remote, bytes }).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                debug!(%local, %error, "a TURN socket");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Whether what the socket sends may be fragmented. By default it is where the way is known to be narrower.
fn set_may_fragment(socket: &UdpSocket, is_ipv4: bool, may: bool) {
    let (level, name, never, wanted) = if is_ipv4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO, libc::IP_PMTUDISC_WANT)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO, libc::IPV6_PMTUDISC_WANT)
    };
    let value: libc::c_int = if may { wanted } else { never };
    // SAFETY: the descriptor is the socket's, and the kernel reads an integer of the length given.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if failed != 0 {
        debug!(error = %io::Error::last_os_error(), "set whether datagrams may be fragmented");
    }
}
