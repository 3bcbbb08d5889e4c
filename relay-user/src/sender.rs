//! Sends handshake messages from the relay port.
//!
//! WireGuard's socket owns that port, so a second UDP socket can't have it; raw sockets that take whole IP packets can
//! say any source. The kernel routes them and resolves their neighbours as for any other packet.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::handshake::Datagram;

/// IPPROTO_RAW: packets come with their IP header, and nothing is ever received.
const RAW: i32 = nix::libc::IPPROTO_RAW;

/// The two raw sockets.
pub struct Sender {
    port: u16,
    ipv4: Socket,
    ipv6: Option<Socket>,
}

impl Sender {
    /// Opens the sockets; `port` is the relay port. A host without IPv6 does without.
    pub fn open(port: u16) -> Result<Self> {
        let open = |domain| -> io::Result<Socket> {
            Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(RAW)))
        };
        let ipv4 = open(Domain::IPV4).context("open a raw IPv4 socket (needs CAP_NET_RAW)")?;
        Ok(Self { port, ipv4, ipv6: open(Domain::IPV6).ok() })
    }

    /// Sends one message: `local` and the relay port are its source, `remote` is its destination.
    pub fn send(&self, datagram: &Datagram) -> io::Result<()> {
        let Datagram { local, remote, ttl, message } = datagram;
        let (builder, socket) = match (local, remote.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (PacketBuilder::ipv4(source.octets(), destination.octets(), *ttl), &self.ipv4)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let socket = self.ipv6.as_ref().ok_or(io::ErrorKind::AddrNotAvailable)?;
                (PacketBuilder::ipv6(source.octets(), destination.octets(), *ttl), socket)
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let builder = builder.udp(self.port, remote.port());
        let mut packet = Vec::with_capacity(builder.size(message.len()));
        builder.write(&mut packet, message).map_err(io::Error::other)?;
        // A raw socket's address has no port.
        let to = SockAddr::from(SocketAddr::new(remote.ip(), 0));
        socket.send_to(&packet, &to).map(|_| ())
    }
}
