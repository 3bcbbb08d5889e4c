//! The raw sockets: UDP messages from and to the relay port beside WireGuard's own socket, and ICMP.
//!
//! WireGuard's socket owns the relay port, so a second UDP socket can't have it. A raw UDP socket can send with any
//! source port, and sees what the kernel has received and reassembled; a filter in the kernel keeps all from it that is
//! not relayed data. The kernel makes the IP header: it routes by the source address given, resolves neighbours, and
//! fragments what is larger than the path takes.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result};
use etherparse::{Ipv4HeaderSlice, UdpHeader, UdpSlice};
use nix::{
    libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, recvmsg, sendmsg, setsockopt,
        sockopt,
    },
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::handshake::Datagram;

/// The largest IP packet.
const MAX_PACKET: usize = 65_535;
/// How much the kernel may keep for us to read, in bytes: what comes faster than it is read is dropped there.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A raw socket of one family and protocol.
pub struct Raw {
    socket: Socket,
    domain: Domain,
}

impl AsFd for Raw {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for Raw {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

impl Raw {
    fn open(domain: Domain, protocol: Protocol) -> Result<Self> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            if domain == Domain::IPV6 {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            }
            Ok(socket)
        };
        Ok(Self { socket: open().context("open a raw socket (needs CAP_NET_RAW)")?, domain })
    }

    /// A socket for UDP. Without a filter it receives all UDP of the host.
    pub fn udp(domain: Domain) -> Result<Self> {
        Self::open(domain, Protocol::UDP)
    }

    /// A socket for "packet too big", in the words of either family.
    pub fn too_big(domain: Domain) -> Result<Self> {
        if domain == Domain::IPV4 {
            let this = Self::open(domain, Protocol::ICMPV4)?;
            // struct icmp_filter (include/uapi/linux/icmp.h): a bit set keeps that type out.
            const DESTINATION_UNREACHABLE: u32 = 3;
            let filter: u32 = !(1 << DESTINATION_UNREACHABLE);
            this.set_option(libc::SOL_RAW, 1, &filter)?;
            return Ok(this);
        }
        let this = Self::open(domain, Protocol::ICMPV6)?;
        // struct icmp6_filter (RFC 3542, section 3.2), as the kernel has it: a bit set keeps that type out.
        const PACKET_TOO_BIG: u32 = 2;
        let mut filter = [u32::MAX; 8];
        filter[0] &= !(1 << PACKET_TOO_BIG);
        this.set_option(libc::IPPROTO_ICMPV6, 1, &filter)?;
        Ok(this)
    }

    fn set_option<T>(&self, level: i32, name: i32, value: &T) -> Result<()> {
        // SAFETY: the pointer and the length describe `value`, which lives over the call; the kernel only reads it.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("filter ICMP messages") }
    }

    /// Packets that the kernel has dropped because the receive buffer was full.
    pub fn drops(&self) -> u32 {
        // SO_MEMINFO (include/uapi/linux/sock_diag.h): nine words, the last is SK_MEMINFO_DROPS.
        let mut words = [0_u32; 9];
        let mut len = size_of_val(&words) as libc::socklen_t;
        // SAFETY: the pointers describe `words` and `len`, which live over the call; the kernel writes at most `len` bytes.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                words.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result == 0 { words[8] } else { 0 }
    }

    /// Sends what follows the IP header. `local` is the source address; the kernel makes the header.
    pub fn send(&self, local: IpAddr, remote: IpAddr, ttl: u8, payload: &[u8]) -> io::Result<()> {
        let data = [IoSlice::new(payload)];
        let ttl = i32::from(ttl);
        match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info), ControlMessage::Ipv4Ttl(&ttl)];
                let to = SockaddrIn::from(std::net::SocketAddrV4::new(remote, 0));
                sendmsg(self.as_raw_fd(), &data, &control, MsgFlags::empty(), Some(&to))?;
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: local.octets() },
                    ipi6_ifindex: 0,
                };
                let control = [ControlMessage::Ipv6PacketInfo(&info), ControlMessage::Ipv6HopLimit(&ttl)];
                let to = SockaddrIn6::from(SocketAddrV6::new(remote, 0, 0, 0));
                sendmsg(self.as_raw_fd(), &data, &control, MsgFlags::empty(), Some(&to))?;
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    /// Receives one packet: its addresses, and what follows the IP header. `WouldBlock` if there is none; `Ok(None)` for
    /// one that makes no sense.
    pub fn receive<'a>(&self, buffer: &'a mut Vec<u8>) -> io::Result<Option<Packet<'a>>> {
        buffer.resize(MAX_PACKET, 0);
        let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
        let fd = self.as_raw_fd();
        let (len, source, local, ttl) = {
            let mut data = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            if self.domain == Domain::IPV4 {
                let message = recvmsg::<SockaddrIn>(fd, &mut data, None, flags)?;
                (message.bytes, None, None, None)
            } else {
                let message = recvmsg::<SockaddrIn6>(fd, &mut data, Some(&mut control), flags)?;
                let (mut local, mut ttl) = (None, None);
                for control in message.cmsgs()? {
                    match control {
                        ControlMessageOwned::Ipv6PacketInfo(info) => {
                            local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
                        }
                        ControlMessageOwned::Ipv6HopLimit(limit) => ttl = u8::try_from(limit).ok(),
                        _ => {}
                    }
                }
                (message.bytes, message.address.map(|address| address.ip()), local, ttl)
            }
        };
        if self.domain == Domain::IPV4 {
            return Ok(Packet::from_ipv4(&buffer[..len]));
        }
        let (Some(source), Some(local), Some(ttl)) = (source, local, ttl) else { return Ok(None) };
        Ok(Some(Packet { source: source.into(), local: local.into(), ttl, payload: &buffer[..len] }))
    }
}

/// A received packet without its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its source.
    pub source: IpAddr,
    /// The address of ours that it was sent to.
    pub local: IpAddr,
    /// TTL or hop limit as received.
    pub ttl: u8,
    /// What follows the IP header.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A raw IPv4 socket gives the whole packet. `None` if its header makes no sense.
    pub fn from_ipv4(bytes: &'a [u8]) -> Option<Self> {
        let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
        Some(Self {
            source: Ipv4Addr::from(header.source()).into(),
            local: Ipv4Addr::from(header.destination()).into(),
            ttl: header.ttl(),
            payload: bytes.get(header.slice().len()..)?,
        })
    }

    /// The UDP message in it, if it is one to `port`; an error if its checksum is wrong: raw sockets are given packets before
    /// the kernel checks that.
    pub fn datagram(&self, port: u16) -> Option<Result<Datagram, BadChecksum>> {
        let udp = UdpSlice::from_slice(self.payload).ok().filter(|udp| udp.destination_port() == port)?;
        let header = udp.to_header();
        let checksum = match (self.source, self.local) {
            // Only IPv4 may go without.
            (IpAddr::V4(_), _) if header.checksum == 0 => Ok(0),
            (IpAddr::V4(source), IpAddr::V4(local)) => {
                header.calc_checksum_ipv4_raw(source.octets(), local.octets(), udp.payload())
            }
            (IpAddr::V6(source), IpAddr::V6(local)) => {
                header.calc_checksum_ipv6_raw(source.octets(), local.octets(), udp.payload())
            }
            _ => return None,
        };
        Some(if checksum.is_ok_and(|checksum| checksum == header.checksum) {
            Ok(Datagram {
                local: self.local,
                remote: SocketAddr::new(self.source, header.source_port),
                ttl: self.ttl,
                message: udp.payload().to_vec(),
            })
        } else {
            Err(BadChecksum)
        })
    }
}

/// A UDP checksum that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChecksum;

/// The UDP packet (header and payload) from `port` of the relay that carries the message.
pub fn udp_packet(port: u16, datagram: &Datagram) -> io::Result<Vec<u8>> {
    let Datagram { local, remote, message, .. } = datagram;
    let length = u16::try_from(UdpHeader::LEN + message.len()).map_err(io::Error::other)?;
    let mut header = UdpHeader { source_port: port, destination_port: remote.port(), length, checksum: 0 };
    let checksum = match (local, remote.ip()) {
        (IpAddr::V4(local), IpAddr::V4(to)) => {
            header.calc_checksum_ipv4_raw(local.octets(), to.octets(), message)
        }
        (IpAddr::V6(local), IpAddr::V6(to)) => {
            header.calc_checksum_ipv6_raw(local.octets(), to.octets(), message)
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    header.checksum = checksum.map_err(io::Error::other)?;
    let mut packet = header.to_bytes().to_vec();
    packet.extend_from_slice(message);
    Ok(packet)
}
