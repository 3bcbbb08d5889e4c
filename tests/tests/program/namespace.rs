//! A network namespace for a test, and frames on a device in it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::AsFd,
    process::Command,
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    ioctl::{Setter, ioctl},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Runs it in a network namespace of its own, which goes when it ends, with all that is in it.
pub fn run(test: impl FnOnce() + Send + 'static) {
    let inside = move || {
        // SAFETY: only the network namespace is left; the rules of `unshare` are about file descriptor tables.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .expect("a network namespace of our own: root is needed");
        test();
    };
    if let Err(panic) = thread::spawn(inside).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in this thread's namespace.
pub fn ip(arguments: &str) {
    command(&format!("ip {arguments}"));
}

/// Runs a command in this thread's namespace.
pub fn command(line: &str) {
    let mut words = line.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{line}: {status}");
}

/// Waits until there is something to read.
pub fn until_readable(file: &impl AsFd) {
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&timeout)).unwrap();
    assert_eq!(ready, 1, "nothing has come within {} s", timeout.tv_sec);
}

/// A TAP device: what is written is a frame that it receives, what it sends can be read, both byte for byte.
pub struct Tap(File);

impl Tap {
    /// Makes one in this thread's namespace. It goes with the value.
    pub fn new(name: &str) -> Self {
        /// include/uapi/linux/if_tun.h
        const TUNSETIFF: u32 = 0x4004_54ca;
        const IFF_TAP: u16 = 2;
        const IFF_NO_PI: u16 = 0x1000;

        let file = File::options().read(true).write(true).open("/dev/net/tun").expect("open /dev/net/tun");
        // struct ifreq: the name in 16 bytes, then the flags.
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI).to_ne_bytes());
        // SAFETY: the kernel reads and writes a struct ifreq, which is 40 bytes long.
        unsafe { ioctl(&file, Setter::<TUNSETIFF, _>::new(request)) }.expect("make a TAP device");
        Self(file)
    }

    /// The device receives a frame.
    pub fn receive(&self, frame: &[u8]) {
        assert_eq!((&self.0).write(frame).unwrap(), frame.len());
    }

    /// The next frame that it sends with this source address. (The kernel's own are left out.)
    pub fn sent(&self, source_mac: [u8; 6]) -> Vec<u8> {
        loop {
            until_readable(&self.0);
            let mut frame = vec![0; 70_000];
            let len = (&self.0).read(&mut frame).unwrap();
            frame.truncate(len);
            if frame[6..12] == source_mac {
                return frame;
            }
        }
    }
}
