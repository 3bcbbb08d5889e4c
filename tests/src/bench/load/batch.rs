//! Many messages in one system call: `sendmmsg` and `recvmmsg`.

use std::{
    io,
    mem::zeroed,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::null_mut,
};

/// How many messages go into one call.
pub const MESSAGES: usize = 64;

/// An IPv4 endpoint as the kernel takes it.
pub type Address = libc::sockaddr_in;

/// Room for the headers of [`MESSAGES`] messages. The messages themselves stay where they are.
pub struct Batch {
    headers: Box<[libc::mmsghdr]>,
    slices: Box<[libc::iovec]>,
    addresses: Box<[Address]>,
}

// SAFETY: its pointers lead into its own boxes, or to messages that are borrowed during a call only.
unsafe impl Send for Batch {}

impl Batch {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "it is no value but room")]
    pub fn new() -> Self {
        // SAFETY: all of these are plain C structures for which zeroes are valid.
        let (header, slice, address) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            headers: vec![header; MESSAGES].into(),
            slices: vec![slice; MESSAGES].into(),
            addresses: vec![address; MESSAGES].into(),
        }
    }

    fn prepare(&mut self, at: usize, message: *mut u8, length: usize, addressed: bool) {
        self.slices[at] = libc::iovec { iov_base: message.cast(), iov_len: length };
        let header = &mut self.headers[at].msg_hdr;
        header.msg_iov = &raw mut self.slices[at];
        header.msg_iovlen = 1;
        header.msg_name = if addressed { (&raw mut self.addresses[at]).cast() } else { null_mut() };
        header.msg_namelen = if addressed { size_of::<Address>() as libc::socklen_t } else { 0 };
    }

    /// Sends messages, at most [`MESSAGES`], by a socket that knows where to. How many were sent: at least one.
    ///
    /// # Errors
    /// That of the first message, if it could not be sent.
    pub fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for message in messages.take(MESSAGES) {
            self.prepare(count, message.as_ptr().cast_mut(), message.len(), false);
            count += 1;
        }
        self.submit(socket, count)
    }

    /// The same with an address for each message.
    ///
    /// # Errors
    /// That of the first message, if it could not be sent.
    pub fn send_to<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: impl Iterator<Item = (&'a [u8], Address)>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for (message, address) in messages.take(MESSAGES) {
            self.addresses[count] = address;
            self.prepare(count, message.as_ptr().cast_mut(), message.len(), true);
            count += 1;
        }
        self.submit(socket, count)
    }

    fn submit(&mut self, socket: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        let headers = self.headers.as_mut_ptr();
        // SAFETY: `count` headers were prepared with messages that the caller borrows; the kernel only reads those.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count as libc::c_uint, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Waits for a message and takes what else is there. Where each comes from, and its length in its buffer.
    ///
    /// # Errors
    /// Of the system call: `WouldBlock` when the socket's time-out has passed.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffers: &mut [Vec<u8>],
    ) -> io::Result<impl Iterator<Item = (Address, usize)>> {
        let count = buffers.len().min(MESSAGES);
        for (at, buffer) in buffers.iter_mut().take(count).enumerate() {
            self.prepare(at, buffer.as_mut_ptr(), buffer.len(), true);
        }
        let (headers, flags) = (self.headers.as_mut_ptr(), libc::MSG_WAITFORONE);
        // SAFETY: `count` headers were prepared with buffers that are borrowed mutably, and with room for addresses.
        let received =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count as libc::c_uint, flags, null_mut()) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.headers.iter().zip(&self.addresses).take(received).map(|(h, a)| (*a, h.msg_len as usize)))
    }
}
