//! A packet socket at a device: sends any frame, with whatever source, and hears all that passes.

use std::{
    io::{ErrorKind, Read as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use etherparse::{LinkSlice, NetSlice, SlicedPacket, TransportSlice};
use socket2::{Domain, Socket, Type};

use crate::{
    bench::load::ring::{bind, set},
    lab::Namespace,
    wait::within,
};

/// How much may wait to be heard, in bytes; that is more than any attack makes pass.
const BUFFER: usize = 256 << 20;
/// More than the longest frame.
const FRAME: usize = 9216;

/// A UDP datagram that has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The Ethernet address of who has put it on the wire.
    pub mac: [u8; 6],
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// Its payload.
    pub message: Vec<u8>,
}

impl Heard {
    /// Whether it is a WireGuard message of this type.
    pub fn is(&self, kind: u32) -> bool {
        self.message.get(..4) == Some(&kind.to_le_bytes())
    }

    /// The bytes that it takes on the wire, from the IP header on.
    pub fn bytes(&self) -> usize {
        self.message.len() + if self.from.is_ipv4() { 28 } else { 48 }
    }
}

/// What of the frames at a device is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hears {
    /// Those that come in by it.
    Incoming,
    /// Those that leave by it as well.
    Both,
}

/// See the module.
#[derive(Debug)]
pub struct Tap(Socket);

impl Tap {
    /// One at a device of a namespace. What passes from now on waits to be heard.
    pub fn new(namespace: &Namespace, device: &str, hears: Hears) -> Self {
        let open = || -> std::io::Result<Socket> {
            let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
            set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &i32::try_from(BUFFER).expect("it fits"))?;
            set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &(16 << 20))?;
            let ignores: i32 = (hears == Hears::Incoming).into();
            set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &ignores)?;
            bind(&socket, device, libc::ETH_P_ALL as u16)?;
            Ok(socket)
        };
        Self(namespace.enter(|| open().expect("open a packet socket")))
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        loop {
            match self.0.send(frame) {
                Ok(_) => return,
                // The device's queue is full.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => std::thread::yield_now(),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => std::thread::yield_now(),
                Err(error) => panic!("send a frame: {error}"),
            }
        }
    }

    /// All datagrams that have passed since this was last asked.
    ///
    /// # Panics
    /// If something was not heard, for want of memory.
    pub fn heard(&self) -> Vec<Heard> {
        let (mut heard, mut buffer) = (Vec::new(), [0; FRAME]);
        loop {
            match (&self.0).read(&mut buffer) {
                Ok(len) => heard.extend(datagram(&buffer[..len])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("hear a frame: {error}"),
            }
        }
        assert_eq!(self.lost(), 0, "frames were not heard");
        heard
    }

    /// Waits for a datagram for which `find` has an answer.
    pub fn wait_for<T>(&self, limit: Duration, mut find: impl FnMut(&Heard) -> Option<T>) -> Option<T> {
        within(limit, || self.heard().iter().find_map(&mut find))
    }

    /// How many frames found no room since this was last asked.
    fn lost(&self) -> u32 {
        use std::os::fd::AsRawFd as _;
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the kernel writes at most that many bytes, and both values live over the call.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0, "ask how many frames were lost: {}", std::io::Error::last_os_error());
        statistics.tp_drops
    }
}

/// The UDP datagram in a frame, if it is whole.
fn datagram(frame: &[u8]) -> Option<Heard> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (Some(LinkSlice::Ethernet2(link)), Some(net), Some(TransportSlice::Udp(udp))) =
        (packet.link, packet.net, packet.transport)
    else {
        return None;
    };
    let (from, to): (IpAddr, IpAddr) = match net {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    Some(Heard {
        mac: link.source(),
        from: SocketAddr::new(from, udp.source_port()),
        to: SocketAddr::new(to, udp.destination_port()),
        message: udp.payload().to_vec(),
    })
}
