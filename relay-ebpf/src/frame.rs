//! The bytes of a frame, and the headers at fixed places in it.

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};
use relay_ebpf::tables::{Address, Endpoint};
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned};

use crate::ip::Ip;

/// Everything that overlays packet memory: any bytes will do, at any address.
pub trait Overlay: FromBytes + IntoBytes + Immutable + Unaligned {}
impl<T: FromBytes + IntoBytes + Immutable + Unaligned> Overlay for T {}

/// The frame that the program was called with.
pub struct Frame<'a> {
    ctx: &'a XdpContext,
    start: usize,
    end: usize,
}

impl<'a> Frame<'a> {
    #[inline(always)]
    pub fn of(ctx: &'a XdpContext) -> Self {
        Self { ctx, start: ctx.data(), end: ctx.data_end() }
    }

    /// Length in bytes, link header included.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// The `T` that the frame starts with; `None` if the frame is shorter.
    #[inline(always)]
    pub fn prefix<T: Overlay>(&self) -> Option<&T> {
        // SAFETY: the memory from `start` to `end` is the frame's as long as the program runs and its head stays where it
        // is, `T` lies in it, has no alignment and takes any bytes; the frame is borrowed for as long as the reference
        // lives.
        (self.start + size_of::<T>() <= self.end).then(|| unsafe { &*(self.start as *const T) })
    }

    /// As [`Self::prefix`], to write to.
    #[inline(always)]
    pub fn prefix_mut<T: Overlay>(&mut self) -> Option<&mut T> {
        // SAFETY: as in `prefix`; the frame is borrowed mutably, so this is the only reference into it.
        (self.start + size_of::<T>() <= self.end).then(|| unsafe { &mut *(self.start as *mut T) })
    }

    /// Makes the frame longer at its head by so many bytes (shorter, if negative). What was there stays where it is in
    /// memory. `false` if there is no room: then nothing has changed.
    #[inline(always)]
    pub fn grow_head(&mut self, by: i32) -> bool {
        // SAFETY: `ctx` is the program's context; the frame is borrowed mutably, so there are no references into it.
        let moved = unsafe { bpf_xdp_adjust_head(self.ctx.ctx, -by) } == 0;
        *self = Self::of(self.ctx);
        moved
    }
}

/// An Ethernet header (IEEE 802.3) with VLAN tags (IEEE 802.1Q, 802.1ad).
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C, packed)]
pub struct Ethernet<const TAGS: usize> {
    /// Destination address, then source address, 12 octets as two words in memory order: LLVM
    /// copies an array of six in a loop, byte by byte.
    pub addresses_head_ne: u64,
    pub addresses_tail_ne: u32,
    /// TPID and TCI of each, the outermost first, as they are in memory.
    pub tags_ne: [u32; TAGS],
    pub ethertype_be: [u8; 2],
}

/// A UDP header (RFC 768).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub struct Udp {
    pub source_port_be: [u8; 2],
    pub destination_port_be: [u8; 2],
    pub len_be: [u8; 2],
    /// As it is in memory (see [`relay_ebpf::checksum`]).
    pub checksum_ne: [u8; 2],
}

/// What all WireGuard messages begin with; none is shorter than this.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub struct Message {
    /// Type and reserved bytes.
    pub word_le: [u8; 4],
    /// Sender index of an initiation or a response, else receiver index.
    pub index_le: [u8; 4],
    /// Receiver index of a response.
    pub response_receiver_le: [u8; 4],
    pub rest: [u8; 20],
}

/// An IP packet that has room for the shortest WireGuard message.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub struct Packet<I> {
    pub ip: I,
    pub udp: Udp,
    pub message: Message,
}

impl<I: Ip> Packet<I> {
    /// Where it comes from.
    #[inline(always)]
    pub fn source(&self) -> Endpoint {
        endpoint(self.ip.source(), self.udp.source_port_be)
    }
}

/// An address and a port as it stands in a header.
#[inline(always)]
pub fn endpoint(address: Address, port_be: [u8; 2]) -> Endpoint {
    Endpoint { address, port: u16::from_be_bytes(port_be).into() }
}

/// A frame up to and with its IP header.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub struct IpFrame<const TAGS: usize, I> {
    pub ethernet: Ethernet<TAGS>,
    pub ip: I,
}

/// A frame up to and with its UDP header.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub struct UdpFrame<const TAGS: usize, I> {
    pub ethernet: Ethernet<TAGS>,
    pub ip: I,
    pub udp: Udp,
}

/// A frame up to UDP's header and so much of what follows it.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub struct HeadedFrame<const TAGS: usize, I, R> {
    pub ethernet: Ethernet<TAGS>,
    pub ip: I,
    pub udp: Udp,
    pub rest: R,
}

/// A frame with the first fragment of a UDP datagram; `F` is the [fragment header](Ip::FragmentHeader).
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub struct FragmentFrame<const TAGS: usize, I, F> {
    pub ethernet: Ethernet<TAGS>,
    pub ip: I,
    pub header: F,
    pub udp: Udp,
}

/// A frame that has room for the shortest WireGuard message.
#[derive(FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub struct MessageFrame<const TAGS: usize, I> {
    pub ethernet: Ethernet<TAGS>,
    pub packet: Packet<I>,
}

const _: () = assert!(size_of::<Message>() == relay_ebpf::wireguard::TRANSPORT_DATA_MIN_LEN);
const _: () = assert!(size_of::<Ethernet<0>>() == 14 && size_of::<Ethernet<2>>() == 22);
