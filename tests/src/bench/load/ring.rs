//! Packet sockets: sending whole frames, and reading what arrives from a ring that the kernel shares (packet(7),
//! TPACKET_V3).
//!
//! Frames come in blocks of some sixty; a block is handed over when it is full, or after a few milliseconds. So whoever
//! waits is woken once for a block, not for each frame.

use std::{
    ffi::c_void,
    io::{Error, Result},
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::null_mut,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mm::{MapFlags, ProtFlags, mmap, munmap},
    net::netdevice::name_to_index,
};
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// In bytes; a multiple of a page.
const BLOCK: usize = 16 << 10;
const BLOCKS: usize = 64;
/// After how many ms a block that is not full is handed over.
const PATIENCE_MS: u32 = 1;

/// A packet socket that sends frames by a device of the network namespace that this thread is in, past its queueing
/// discipline, and receives none.
///
/// # Errors
/// If there is no such device, or without the right to.
pub fn sender(device: &str) -> Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1)?;
    // Frames that wait at the receiver count as unsent: there must be room for all that are under way.
    set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &(16 << 20))?;
    bind(&socket, device, 0)?;
    Ok(socket)
}

/// Binds a packet socket to a device, for frames with this Ethernet type.
pub(crate) fn bind(socket: &Socket, device: &str, ethertype: u16) -> Result<()> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a link-layer address fits into the storage of any address, and zeroes are a valid one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = name_to_index(socket, device)?.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds an address of that length.
    socket.bind(&unsafe { SockAddr::new(storage, length) })
}

/// Sets an option.
pub(crate) fn set<T>(socket: &Socket, level: i32, option: i32, value: &T) -> Result<()> {
    let (pointer, length) = (std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the kernel reads that many bytes of the value.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, length) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// What arrives at a device with IPv4 in it.
#[derive(Debug)]
pub struct Ring {
    socket: Socket,
    memory: *mut c_void,
    /// The block that comes next.
    next: usize,
}

// SAFETY: the memory is the ring's own, and nothing in it belongs to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Begins to receive at a device of the network namespace that this thread is in.
    ///
    /// # Errors
    /// If there is no such device, or without the right to.
    pub fn new(device: &str) -> Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &libc::tpacket_versions::TPACKET_V3)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1)?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            // The frames of a block have no fixed size, but the kernel wants these to fit.
            tp_frame_size: BLOCK as u32,
            tp_frame_nr: BLOCKS as u32,
            tp_retire_blk_tov: PATIENCE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let memory = unsafe { mmap(null_mut(), BLOCK * BLOCKS, access, flags, &socket, 0) }?;
        let this = Self { socket, memory, next: 0 };
        bind(&this.socket, device, libc::ETH_P_IP as u16)?;
        Ok(this)
    }

    /// Shows all frames that are there, each from its Ethernet header on, and gives how many there were.
    pub fn take(&mut self, mut show: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        loop {
            // SAFETY: it stays within the mapping, and the kernel has put a block's header there.
            let block = unsafe { self.memory.byte_add(self.next * BLOCK) };
            let header = block.cast::<libc::tpacket_block_desc>();
            // SAFETY: the field is in the mapping, aligned, and both sides use it atomically.
            let status = unsafe { AtomicU32::from_ptr(&raw mut (*header).hdr.bh1.block_status) };
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return count;
            }
            // SAFETY: the block is ours until its status says otherwise.
            let (frames, mut at) =
                unsafe { ((*header).hdr.bh1.num_pkts, (*header).hdr.bh1.offset_to_first_pkt as usize) };
            for _ in 0..frames {
                // SAFETY: the kernel has laid the frames into the block, and tells where and how long they are.
                let (frame, next) = unsafe {
                    let header = block.byte_add(at).cast::<libc::tpacket3_hdr>();
                    let start = header.cast::<u8>().add((*header).tp_mac.into());
                    let length = (*header).tp_snaplen as usize;
                    (std::slice::from_raw_parts(start, length), (*header).tp_next_offset as usize)
                };
                show(frame);
                at += next;
            }
            count += frames as usize;
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % BLOCKS;
        }
    }

    /// Waits for a block; whether one came in time.
    ///
    /// # Errors
    /// Those of `poll`.
    pub fn wait(&self, limit: Duration) -> Result<bool> {
        let limit = Timespec::try_from(limit).map_err(Error::other)?;
        let mut wanted = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        Ok(poll(&mut wanted, Some(&limit))? > 0)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping outside of `take`.
        let _ = unsafe { munmap(self.memory, BLOCK * BLOCKS) };
    }
}
