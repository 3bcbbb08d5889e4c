//! The relay's raw sockets together: everything that userspace sends, and the relayed packets that it has to forward
//! itself.

use std::{io, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};
use aya::{Ebpf, programs::SocketFilter};
use socket2::Domain;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use crate::{
    handshake::Datagram,
    path_mtu::{self, Notice, TooBig},
    raw::{Packet, Raw, udp_packet},
};

/// The programs that keep all from the UDP sockets that is not transport data of a live session.
const FILTERS: [(&str, Domain); 2] = [("slow_path_ipv4", Domain::IPV4), ("slow_path_ipv6", Domain::IPV6)];

/// UDP and ICMP of one family.
struct Family {
    udp: AsyncFd<Raw>,
    icmp: AsyncFd<Raw>,
}

/// All of them. A host without IPv6 has those of IPv4 alone.
pub struct Sockets {
    port: u16,
    ipv4: Family,
    ipv6: Option<Family>,
    buffer: Vec<u8>,
}

/// What has come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Transport data of a live session by its index, which the XDP program has passed on: a reassembled one, say.
    Data(Datagram),
    /// The same, but its checksum is wrong.
    Spoilt,
    /// A router could not take a packet of ours.
    TooBig(TooBig),
}

impl Sockets {
    /// Opens the sockets; `port` is the relay port, and `ebpf` holds the filters. Must be called within a tokio runtime.
    pub fn open(port: u16, ebpf: &mut Ebpf) -> Result<Self> {
        let mut family = |(filter, domain): (&str, Domain)| -> Result<Family> {
            let udp = Raw::udp(domain)?;
            let program: &mut SocketFilter = ebpf
                .program_mut(filter)
                .with_context(|| format!("the BPF object has no program {filter}"))?
                .try_into()?;
            program.load().with_context(|| format!("load the socket filter {filter}"))?;
            program.attach(&udp).with_context(|| format!("attach the socket filter {filter}"))?;
            // What came before the filter.
            let mut buffer = Vec::new();
            while udp.receive(&mut buffer).is_ok() {}
            Ok(Family { udp: watch(udp)?, icmp: watch(Raw::too_big(domain)?)? })
        };
        let ipv4 = family(FILTERS[0])?;
        let has_ipv6 = Path::new("/proc/net/if_inet6").exists();
        let ipv6 = if has_ipv6 { Some(family(FILTERS[1])?) } else { None };
        Ok(Self { port, ipv4, ipv6, buffer: Vec::new() })
    }

    fn family(&self, address: IpAddr) -> io::Result<&Family> {
        match address {
            IpAddr::V4(_) => Ok(&self.ipv4),
            IpAddr::V6(_) => self.ipv6.as_ref().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Sends a WireGuard message from the relay port.
    pub fn send(&self, datagram: &Datagram) -> io::Result<()> {
        let Datagram { local, remote, ttl, .. } = datagram;
        let packet = udp_packet(self.port, datagram)?;
        self.family(remote.ip())?.udp.get_ref().send(*local, remote.ip(), *ttl, &packet)
    }

    /// Sends an ICMP message.
    pub fn notify(&self, notice: &Notice) -> io::Result<()> {
        let Notice { local, remote, icmp } = notice;
        self.family(*remote)?.icmp.get_ref().send(*local, *remote, 64, icmp)
    }

    /// Waits for the next packet. Safe to drop and call again.
    pub async fn receive(&mut self) -> io::Result<Received> {
        let Self { port, ipv4, ipv6, buffer } = self;
        loop {
            let received = tokio::select! {
                ready = ipv4.udp.readable() => take(ready?, buffer, |p| data(p, *port)),
                ready = ipv4.icmp.readable() => take(ready?, buffer, |p| path_mtu::read(p, *port).map(Received::TooBig)),
                ready = readable(ipv6, |f| &f.udp) => take(ready?, buffer, |p| data(p, *port)),
                ready = readable(ipv6, |f| &f.icmp) => {
                    take(ready?, buffer, |p| path_mtu::read(p, *port).map(Received::TooBig))
                }
            };
            if let Some(received) = received {
                return Ok(received);
            }
        }
    }

    /// Packets that the kernel dropped because they came faster than they were read.
    pub fn overruns(&self) -> u64 {
        let families = [Some(&self.ipv4), self.ipv6.as_ref()];
        families.into_iter().flatten().map(|family| u64::from(family.udp.get_ref().drops())).sum()
    }
}

fn watch(socket: Raw) -> Result<AsyncFd<Raw>> {
    // SAFETY: a `Raw` owns its descriptor and keeps it, the same one, until it is dropped with the `AsyncFd`.
    unsafe { AsyncFd::register(socket) }.context("watch a raw socket")
}

fn data(packet: &Packet<'_>, port: u16) -> Option<Received> {
    packet.datagram(port).map(|datagram| datagram.map_or(Received::Spoilt, Received::Data))
}

/// Waits for ever if the family is missing, so that it can stand in a `select!`.
async fn readable<'a>(
    family: &'a Option<Family>,
    socket: fn(&'a Family) -> &'a AsyncFd<Raw>,
) -> io::Result<AsyncFdReadyGuard<'a, Raw>> {
    match family {
        Some(family) => socket(family).readable().await,
        None => std::future::pending().await,
    }
}

/// Takes one packet and makes something of it, if that can be.
fn take<T>(
    mut ready: AsyncFdReadyGuard<'_, Raw>,
    buffer: &mut Vec<u8>,
    read: impl Fn(&Packet<'_>) -> Option<T>,
) -> Option<T> {
    let taken = ready.try_io(|socket| Ok(socket.get_ref().receive(buffer)?.and_then(|packet| read(&packet))));
    match taken {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => {
            // Such as an error that ICMP has reported to the socket: it is taken with that.
            tracing::debug!(%error, "a raw socket");
            None
        }
        Err(_would_block) => None,
    }
}
