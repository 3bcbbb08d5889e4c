//! IPv4 and IPv6 headers, and the little that sets them apart here.

use relay_ebpf::{
    checksum,
    reason::{Family, Reason},
    tables::{Address, Session},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned};

use crate::{frame::Overlay, maps::is_relay};

const UDP: u8 = 17;

/// An IP header without options or extension headers.
pub trait Ip: Overlay {
    const FAMILY: Family;
    /// Whether UDP may go without a checksum (IPv4: RFC 768; not IPv6: RFC 8200, section 8.1).
    const CHECKSUM_OPTIONAL: bool;

    /// `Ok` if an unfragmented UDP packet follows right after the header, else why not.
    fn plain_udp(&self) -> Result<(), Reason>;
    fn source(&self) -> Address;
    fn destination(&self) -> Address;
    /// TTL or hop limit.
    fn ttl(&self) -> u8;
    /// Length of header and payload, in bytes, as the header says.
    fn packet_len(&self) -> usize;
    /// Whether this address is of the packet's family.
    fn is_family(address: Address) -> bool;
    /// Makes it a packet from `local` to the session's destination, one hop further. Addresses of this family.
    fn rewrite(&mut self, session: &Session, local: Address);
}

/// An IPv4 header (RFC 791).
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C, packed)]
pub struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total_len_be: [u8; 2],
    identification: [u8; 2],
    fragment_be: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum_ne: u16,
    /// As they are in memory.
    source_ne: u32,
    destination_ne: u32,
}

impl Ipv4 {
    /// Version 4, a header of five words.
    const PLAIN: u8 = 0x45;
    /// "More fragments" and the fragment offset.
    const FRAGMENT: u16 = 0x3fff_u16.to_be();

    /// Why a header that is not [`Self::PLAIN`], or a fragment, is not for us.
    #[inline(always)]
    fn unusual(&self) -> Reason {
        if self.version_ihl & 0xf0 != 0x40 || self.version_ihl < Self::PLAIN {
            Reason::Malformed
        } else if self.protocol != UDP {
            Reason::OtherProtocol
        } else if !is_relay(self.destination()) {
            Reason::OtherDestination
        } else if self.version_ihl != Self::PLAIN {
            Reason::IpOptions
        } else {
            Reason::Fragment
        }
    }
}

impl Ip for Ipv4 {
    const FAMILY: Family = Family::Ipv4;
    const CHECKSUM_OPTIONAL: bool = true;

    #[inline(always)]
    fn plain_udp(&self) -> Result<(), Reason> {
        if self.version_ihl != Self::PLAIN || u16::from_ne_bytes(self.fragment_be) & Self::FRAGMENT != 0 {
            Err(self.unusual())
        } else if self.protocol != UDP {
            Err(Reason::OtherProtocol)
        } else {
            Ok(())
        }
    }

    #[inline(always)]
    fn source(&self) -> Address {
        Address::from_ipv4_ne(self.source_ne)
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        Address::from_ipv4_ne(self.destination_ne)
    }

    #[inline(always)]
    fn ttl(&self) -> u8 {
        self.ttl
    }

    #[inline(always)]
    fn packet_len(&self) -> usize {
        u16::from_be_bytes(self.total_len_be).into()
    }

    #[inline(always)]
    fn is_family(address: Address) -> bool {
        address.is_ipv4()
    }

    #[inline(always)]
    fn rewrite(&mut self, session: &Session, local: Address) {
        self.ttl -= 1;
        self.checksum_ne = checksum::apply(self.checksum_ne, session.ip_delta);
        self.source_ne = local.ipv4_ne();
        self.destination_ne = session.destination.ipv4_ne();
    }
}

/// An IPv6 header (RFC 8200).
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C, packed)]
pub struct Ipv6 {
    version: u8,
    class_flow: [u8; 3],
    payload_len_be: [u8; 2],
    next_header: u8,
    hop_limit: u8,
    source: Address,
    destination: Address,
}

impl Ipv6 {
    const FRAGMENT: u8 = 44;

    /// Whether what follows is a header that may stand between IPv6 and UDP (IANA, "IPv6 Extension Header Types").
    const fn is_extension(next_header: u8) -> bool {
        matches!(next_header, 0 | 43 | 51 | 60 | 135 | 139 | 140)
    }
}

impl Ip for Ipv6 {
    const FAMILY: Family = Family::Ipv6;
    const CHECKSUM_OPTIONAL: bool = false;

    #[inline(always)]
    fn plain_udp(&self) -> Result<(), Reason> {
        // The tables hold IPv4 addresses as IPv4-mapped ones, and an unused `LOCALS` entry as `::`. The kernel drops such
        // packets too (ip6_rcv_core in net/ipv6/ip6_input.c).
        let (source, destination) = (self.source(), self.destination());
        let stray = source.is_ipv4() || destination.is_ipv4() || destination == Address::UNSPECIFIED;
        if self.version & 0xf0 != 0x60 || stray {
            Err(Reason::Malformed)
        } else if self.next_header == UDP {
            Ok(())
        } else if self.next_header == Self::FRAGMENT && is_relay(destination) {
            Err(Reason::Fragment)
        } else if Self::is_extension(self.next_header) && is_relay(destination) {
            Err(Reason::IpOptions)
        } else {
            Err(Reason::OtherProtocol)
        }
    }

    #[inline(always)]
    fn source(&self) -> Address {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        self.destination
    }

    #[inline(always)]
    fn ttl(&self) -> u8 {
        self.hop_limit
    }

    #[inline(always)]
    fn packet_len(&self) -> usize {
        size_of::<Self>() + usize::from(u16::from_be_bytes(self.payload_len_be))
    }

    #[inline(always)]
    fn is_family(address: Address) -> bool {
        !address.is_ipv4()
    }

    #[inline(always)]
    fn rewrite(&mut self, session: &Session, local: Address) {
        self.hop_limit -= 1;
        // By words: LLVM makes a loop over bytes of a copy from map to packet.
        let [head, tail] = session.destination.0;
        self.source = local;
        self.destination = Address([head, tail]);
    }
}
