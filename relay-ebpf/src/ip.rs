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
pub trait Ip: Overlay + Copy {
    /// The header of the other family.
    type Other: Ip;
    /// What stands between this header and UDP's in the first fragment of a datagram.
    type FragmentHeader: Overlay;

    const ETHERTYPE: u16;
    const FAMILY: Family;
    /// Of a packet that comes in this family and leaves in the other.
    const FAMILY_LEAVING: Family;
    /// Whether UDP may go without a checksum (IPv4: RFC 768; not IPv6: RFC 8200, section 8.1).
    const CHECKSUM_OPTIONAL: bool;

    /// Whether an unfragmented UDP packet follows right after the header.
    fn is_plain_udp(&self) -> bool;
    /// Why not.
    fn unusual(&self) -> Reason;
    /// What begins in this fragment.
    fn fragment_of(&self, header: &Self::FragmentHeader) -> FragmentOf;
    fn source(&self) -> Address;
    fn destination(&self) -> Address;
    /// TTL or hop limit.
    fn ttl(&self) -> u8;
    /// Length of header and payload, in bytes, as the header says.
    fn packet_len(&self) -> usize;
    /// TOS byte or traffic class.
    fn traffic_class(&self) -> u8;
    /// Whether it may be fragmented on its way.
    fn may_fragment(&self) -> bool;
    /// Whether this address is of the packet's family.
    fn is_family(address: Address) -> bool;
    /// Makes it a packet from `local` to the session's destination, one hop further. Addresses of this family.
    fn rewrite(&mut self, session: &Session, local: Address);
    /// Makes it what [`Leaving`] says, one hop further. Addresses of this family.
    fn leave(&mut self, leaving: &Leaving);
}

/// What begins in a fragment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FragmentOf {
    /// A UDP datagram.
    Udp,
    /// Perhaps a UDP datagram, behind more headers.
    Unknown,
    /// Something else, or nothing: it is not the first one.
    Other,
}

/// How a packet leaves.
pub struct Leaving {
    /// Its source, an address of the relay.
    pub local: Address,
    /// Where it goes to.
    pub destination: Address,
    /// What addresses and TTL add to the IPv4 header checksum, if it is IPv4 before and after.
    pub ip_delta: u16,
    /// The length of what follows the header.
    pub payload_len: usize,
}

/// The header that a packet leaves with, one hop further.
pub trait LeaveAs<O>: Ip {
    fn leave_as(&self, leaving: &Leaving) -> O;
}

impl<I: Ip> LeaveAs<I> for I {
    #[inline(always)]
    fn leave_as(&self, leaving: &Leaving) -> I {
        let mut header = *self;
        header.leave(leaving);
        header
    }
}

impl LeaveAs<Ipv6> for Ipv4 {
    #[inline(always)]
    fn leave_as(&self, leaving: &Leaving) -> Ipv6 {
        let Leaving { local, destination, payload_len, .. } = *leaving;
        Ipv6::to(destination, local, self.traffic_class(), self.ttl - 1, payload_len)
    }
}

impl LeaveAs<Ipv4> for Ipv6 {
    #[inline(always)]
    fn leave_as(&self, leaving: &Leaving) -> Ipv4 {
        let Leaving { local, destination, payload_len, .. } = *leaving;
        Ipv4::to(destination, local, self.traffic_class(), self.hop_limit - 1, payload_len)
    }
}

/// An IPv4 header (RFC 791).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
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
    /// The fragment offset alone.
    const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();
    /// "Don't fragment".
    const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();

    /// The header of an atomic datagram (RFC 6864): never a fragment, so it needs no identification.
    #[inline(always)]
    fn to(destination: Address, source: Address, tos: u8, ttl: u8, payload_len: usize) -> Self {
        let mut header = Self {
            version_ihl: Self::PLAIN,
            tos,
            total_len_be: ((size_of::<Self>() + payload_len) as u16).to_be_bytes(),
            identification: [0; 2],
            fragment_be: Self::DONT_FRAGMENT.to_ne_bytes(),
            ttl,
            protocol: UDP,
            checksum_ne: 0,
            source_ne: source.ipv4_ne(),
            destination_ne: destination.ipv4_ne(),
        };
        header.checksum_ne = !header.sum();
        header
    }

    /// The sum of its words.
    #[inline(always)]
    fn sum(&self) -> u16 {
        let pair = |a: u8, b: u8| u32::from(u16::from_ne_bytes([a, b]));
        let halves = |word: u32| (word >> 16) + (word & 0xffff);
        let ([len_a, len_b], [id_a, id_b], [fragment_a, fragment_b]) =
            (self.total_len_be, self.identification, self.fragment_be);
        checksum::fold(
            pair(self.version_ihl, self.tos)
                + pair(len_a, len_b)
                + pair(id_a, id_b)
                + pair(fragment_a, fragment_b)
                + pair(self.ttl, self.protocol)
                + u32::from(self.checksum_ne)
                + halves(self.source_ne)
                + halves(self.destination_ne),
        )
    }
}

impl Ip for Ipv4 {
    type Other = Ipv6;
    type FragmentHeader = [u8; 0];

    const ETHERTYPE: u16 = 0x0800;
    const FAMILY: Family = Family::Ipv4;
    const FAMILY_LEAVING: Family = Family::Ipv4ToIpv6;
    const CHECKSUM_OPTIONAL: bool = true;

    #[inline(always)]
    fn is_plain_udp(&self) -> bool {
        self.version_ihl == Self::PLAIN
            && u16::from_ne_bytes(self.fragment_be) & Self::FRAGMENT == 0
            && self.protocol == UDP
    }

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

    #[inline(always)]
    fn fragment_of(&self, _: &[u8; 0]) -> FragmentOf {
        // That it is UDP stands in every fragment.
        if u16::from_ne_bytes(self.fragment_be) & Self::FRAGMENT_OFFSET == 0 {
            FragmentOf::Udp
        } else {
            FragmentOf::Other
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
    fn traffic_class(&self) -> u8 {
        self.tos
    }

    #[inline(always)]
    fn may_fragment(&self) -> bool {
        u16::from_ne_bytes(self.fragment_be) & Self::DONT_FRAGMENT == 0
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

    #[inline(always)]
    fn leave(&mut self, leaving: &Leaving) {
        let total_len_be = ((size_of::<Self>() + leaving.payload_len) as u16).to_be_bytes();
        let longer = checksum::replace(self.total_len_be, total_len_be);
        self.ttl -= 1;
        self.checksum_ne = checksum::apply(self.checksum_ne, checksum::add(leaving.ip_delta, longer));
        self.total_len_be = total_len_be;
        self.source_ne = leaving.local.ipv4_ne();
        self.destination_ne = leaving.destination.ipv4_ne();
    }
}

/// An IPv6 header (RFC 8200).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
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

/// An IPv6 fragment header (RFC 8200, section 4.5).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C, packed)]
pub struct FragmentHeader {
    next_header: u8,
    reserved: u8,
    offset_be: [u8; 2],
    identification: [u8; 4],
}

impl FragmentHeader {
    /// The fragment offset alone.
    const OFFSET: u16 = 0xfff8_u16.to_be();
}

impl Ipv6 {
    const FRAGMENT: u8 = 44;

    #[inline(always)]
    fn to(destination: Address, source: Address, class: u8, hop_limit: u8, payload_len: usize) -> Self {
        Self {
            version: 0x60 | class >> 4,
            class_flow: [class << 4, 0, 0],
            payload_len_be: (payload_len as u16).to_be_bytes(),
            next_header: UDP,
            hop_limit,
            source,
            destination,
        }
    }

    /// Whether it has an address that no packet should have. The tables hold IPv4 addresses as IPv4-mapped ones, and an
    /// unused one of the relay's as `::`. The kernel drops such packets too (ip6_rcv_core in net/ipv6/ip6_input.c).
    #[inline(always)]
    fn is_stray(&self) -> bool {
        let (source, destination) = (self.source, self.destination);
        source.is_ipv4() || destination.is_ipv4() || destination == Address::UNSPECIFIED
    }

    /// Whether what follows is a header that may stand between IPv6 and UDP (IANA, "IPv6 Extension Header Types").
    const fn is_extension(next_header: u8) -> bool {
        matches!(next_header, 0 | 43 | 51 | 60 | 135 | 139 | 140)
    }
}

impl Ip for Ipv6 {
    type Other = Ipv4;
    type FragmentHeader = FragmentHeader;

    const ETHERTYPE: u16 = 0x86dd;
    const FAMILY: Family = Family::Ipv6;
    const FAMILY_LEAVING: Family = Family::Ipv6ToIpv4;
    const CHECKSUM_OPTIONAL: bool = false;

    #[inline(always)]
    fn is_plain_udp(&self) -> bool {
        self.version & 0xf0 == 0x60 && self.next_header == UDP && !self.is_stray()
    }

    #[inline(always)]
    fn unusual(&self) -> Reason {
        if self.version & 0xf0 != 0x60 || self.is_stray() {
            Reason::Malformed
        } else if self.next_header == Self::FRAGMENT && is_relay(self.destination) {
            Reason::Fragment
        } else if Self::is_extension(self.next_header) && is_relay(self.destination) {
            Reason::IpOptions
        } else {
            Reason::OtherProtocol
        }
    }

    #[inline(always)]
    fn fragment_of(&self, header: &FragmentHeader) -> FragmentOf {
        if u16::from_ne_bytes(header.offset_be) & FragmentHeader::OFFSET != 0 {
            FragmentOf::Other
        } else if header.next_header == UDP {
            FragmentOf::Udp
        } else if header.next_header == Self::FRAGMENT || Self::is_extension(header.next_header) {
            FragmentOf::Unknown
        } else {
            FragmentOf::Other
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
    fn traffic_class(&self) -> u8 {
        self.version << 4 | self.class_flow[0] >> 4
    }

    #[inline(always)]
    fn may_fragment(&self) -> bool {
        false
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

    #[inline(always)]
    fn leave(&mut self, leaving: &Leaving) {
        self.payload_len_be = (leaving.payload_len as u16).to_be_bytes();
        self.hop_limit -= 1;
        self.source = leaving.local;
        self.destination = leaving.destination;
    }
}
