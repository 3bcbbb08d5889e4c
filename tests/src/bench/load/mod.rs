//! Relays of all kinds under one load, which any of them can carry: frames go out only while few are under way, so what
//! is not delivered was lost by the relay, not by a queue that nobody could have emptied in time.

pub mod batch;
pub mod flood;
pub mod flows;
pub mod hub;
pub mod nft;
pub mod peer;
pub mod place;
pub mod relays;
pub mod ring;
pub mod row;
pub mod turn;
pub mod userspace;
pub mod wgrelay;

use std::{io::ErrorKind, os::fd::AsFd as _, time::Duration};

use anyhow::{Context as _, Result};
use socket2::Socket;

use self::{
    batch::{Batch, MESSAGES},
    ring::{Ring, sender},
};
use crate::{lab::Namespace, wait::now};

/// How many frames may be under way.
pub const WINDOW: usize = 256;
/// What has not come back by then is lost.
const PATIENCE: Duration = Duration::from_millis(100);

/// Sends frames and takes what comes back, at one device.
pub struct Load {
    socket: Socket,
    ring: Ring,
    batch: Batch,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Frames sent.
    pub sent: u64,
    /// Frames that came back and were right.
    pub delivered: u64,
    /// Frames that came and were not right.
    pub wrong: u64,
}

impl Outcome {
    /// Frames that did not come back as they should.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.delivered)
    }
}

impl Load {
    /// At a device of a namespace.
    ///
    /// # Errors
    /// If the system refuses packet sockets there.
    pub fn new(namespace: &Namespace, device: &str) -> Result<Self> {
        namespace.enter(|| {
            let socket = sender(device).context("open a packet socket to send by")?;
            let ring = Ring::new(device).context("open a packet socket with a ring")?;
            Ok(Self { socket, ring, batch: Batch::new() })
        })
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// Of the system call.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.socket.send(frame).context("send a frame").map(drop)
    }

    /// Shows what has come, waiting for it up to `limit`; how many frames.
    ///
    /// # Errors
    /// Of the system call.
    pub fn receive(&mut self, limit: Duration, show: impl FnMut(&[u8])) -> Result<usize> {
        self.ring.wait(limit).context("wait for frames")?;
        Ok(self.ring.take(show))
    }

    /// Sends frames for that long, or until there are no more, and waits for what is under way. `right` judges each frame
    /// that comes back.
    ///
    /// # Errors
    /// Of a system call.
    pub fn run<'a>(
        &mut self,
        duration: Duration,
        frames: impl Iterator<Item = &'a [u8]>,
        mut right: impl FnMut(&[u8]) -> bool,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let (mut frames, mut under_way) = (frames.peekable(), 0);
        let start = now();
        loop {
            let mut good = 0;
            let taken = self.ring.take(|frame| good += usize::from(right(frame)));
            outcome.delivered += good as u64;
            outcome.wrong += (taken - good) as u64;
            under_way -= usize::min(good, under_way);
            let more = frames.peek().is_some() && start.elapsed() < duration;
            if more && under_way + MESSAGES <= WINDOW {
                let sent = self.send_some(frames.by_ref())?;
                outcome.sent += sent as u64;
                under_way += sent;
            } else if under_way == 0 && !more {
                return Ok(outcome);
            } else if taken == 0 && !self.ring.wait(PATIENCE).context("wait for frames")? {
                under_way = 0;
            }
        }
    }

    fn send_some<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) -> Result<usize> {
        let some: Vec<&[u8]> = frames.take(MESSAGES).collect();
        let mut sent = 0;
        while sent < some.len() {
            match self.batch.send(self.socket.as_fd(), some[sent..].iter().copied()) {
                Ok(count) => sent += count,
                // The device's queue is full for a moment.
                Err(e) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&e.kind()) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(e) => return Err(e).context("send frames"),
            }
        }
        Ok(sent)
    }
}
