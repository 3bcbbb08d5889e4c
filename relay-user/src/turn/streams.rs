//! The connections of clients by TCP, as the server knows them: what is for a client waits in a queue of its own.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use super::{
    doors::{Connection, Line},
    framing::padded,
    server::FiveTuple,
};
use crate::handshake::Timestamp;

/// So many bytes wait for one client, and for all of them; data is lost, as it would be by UDP, where they don't get away fast
/// enough.
const WAITING: usize = 256 << 10;
const WAITING_IN_ALL: usize = 64 << 20;
/// So many of these are for answers alone.
const FOR_ANSWERS: usize = 16 << 10;
const FOR_ANSWERS_IN_ALL: usize = 8 << 20;
/// What a message takes beside its bytes.
const OVERHEAD: usize = 128;
/// How long a connection lasts that has no allocation.
const IDLE: Duration = Duration::from_secs(30);

/// What is to go to a client.
#[derive(Debug)]
pub struct Queued {
    /// It, with its padding.
    pub bytes: Vec<u8>,
    /// The room that it takes until it is gone.
    _room: [OwnedSemaphorePermit; 2],
}

/// The connections that there are.
#[derive(Debug)]
pub struct Streams {
    open: HashMap<FiveTuple, Stream>,
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    line: Line,
    room: Arc<Semaphore>,
    /// When it was opened, or last had an allocation.
    used: Timestamp,
}

impl Default for Streams {
    fn default() -> Self {
        Self { open: HashMap::new(), room: Arc::new(Semaphore::new(WAITING_IN_ALL)) }
    }
}

impl Streams {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// One more; `true` if it takes the place of one whose end nobody has told of yet.
    pub fn insert(&mut self, now: Timestamp, Connection { tuple, number }: Connection, line: Line) -> bool {
        let room = Arc::new(Semaphore::new(WAITING));
        self.open.insert(tuple, Stream { number, line, room, used: now }).is_some()
    }

    /// Whether it is one of them: of one that has ended messages may still come.
    pub fn contains(&self, connection: &Connection) -> bool {
        self.open.get(&connection.tuple).is_some_and(|stream| stream.number == connection.number)
    }

    /// Ends the one with this client.
    pub fn remove(&mut self, tuple: &FiveTuple) {
        self.open.remove(tuple);
    }

    /// The client has an allocation: from now on it may send whatever fits a message.
    pub fn proven(&self, tuple: &FiveTuple) {
        if let Some(stream) = self.open.get(tuple) {
            stream.line.is_proven.store(true, Relaxed);
        }
    }

    /// Sends a message to a client. `is_data` says that it may be lost.
    pub fn send(&self, tuple: &FiveTuple, mut bytes: Vec<u8>, is_data: bool) {
        let Some(Stream { line, room, .. }) = self.open.get(tuple) else { return };
        bytes.resize(padded(bytes.len()), 0);
        let take = |room: &Arc<Semaphore>, for_answers: usize| {
            let len = bytes.len() + OVERHEAD;
            let kept = if is_data { for_answers } else { 0 };
            let fits = len + kept <= room.available_permits();
            Arc::clone(room).try_acquire_many_owned(u32::try_from(len).ok()?).ok().filter(|_| fits)
        };
        match take(room, FOR_ANSWERS).zip(take(&self.room, FOR_ANSWERS_IN_ALL)) {
            Some((own, of_all)) => {
                let _ = line.queue.send(Queued { bytes, _room: [own, of_all] });
            }
            None => debug!(client = %tuple.client, is_data, "a TURN client is too slow for what is for it"),
        }
    }

    /// Ends those that have had no allocation for too long.
    pub fn sweep(&mut self, now: Timestamp, has_allocation: impl Fn(&FiveTuple) -> bool) {
        self.open.retain(|tuple, stream| {
            if has_allocation(tuple) {
                stream.used = now;
            }
            now.saturating_sub(stream.used) < IDLE
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::sync::mpsc::{self, UnboundedReceiver};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::turn::server::Transport;

    const NOW: Timestamp = Duration::from_secs(1);

    fn client(port: u16) -> FiveTuple {
        let [client, server] = [("192.0.2.7", port), ("198.51.100.1", 3478)]
            .map(|(ip, port)| (ip.parse::<std::net::IpAddr>().unwrap(), port).into());
        FiveTuple { transport: Transport::Tcp, client, server }
    }

    fn connect(streams: &mut Streams, port: u16, number: u64) -> UnboundedReceiver<Queued> {
        let (queue, queued) = mpsc::unbounded_channel();
        let line = Line::new(queue, Arc::new(AtomicBool::new(false)), CancellationToken::new());
        streams.insert(NOW, Connection { tuple: client(port), number }, line);
        queued
    }

    fn drained(queued: &mut UnboundedReceiver<Queued>) -> usize {
        std::iter::from_fn(|| queued.try_recv().ok()).map(|queued| queued.bytes.len()).sum()
    }

    #[test]
    fn a_client_that_takes_nothing_in_loses_data_and_gets_its_answers() {
        let mut streams = Streams::default();
        let mut queued = connect(&mut streams, 1, 1);
        for _ in 0..2 {
            (0..1_000).for_each(|_| streams.send(&client(1), vec![0; 65_001], true));
            (0..100).for_each(|_| streams.send(&client(1), vec![0; 32], false));
            assert_eq!(drained(&mut queued), 3 * 65_004 + 100 * 32);
        }
    }

    #[test]
    fn all_of_them_together_have_a_limit() {
        let mut streams = Streams::default();
        let mut queued: Vec<_> = (1..=1_000).map(|port| connect(&mut streams, port, 1)).collect();
        for port in 1..=1_000 {
            (0..10).for_each(|_| streams.send(&client(port), vec![0; 60_000], true));
        }
        streams.send(&client(1_000), vec![0; 32], false);
        let (last, others) = queued.split_last_mut().unwrap();
        let data: usize = others.iter_mut().map(drained).sum();
        assert_eq!(data, (WAITING_IN_ALL - FOR_ANSWERS_IN_ALL) / (60_000 + OVERHEAD) * 60_000);
        assert_eq!(drained(last), 32);
    }

    #[test]
    fn the_end_of_an_earlier_connection_is_not_that_of_a_later_one() {
        let mut streams = Streams::default();
        let _first = connect(&mut streams, 1, 1);
        let _second = connect(&mut streams, 1, 2);
        assert_eq!(streams.len(), 1);
        assert!(!streams.contains(&Connection { tuple: client(1), number: 1 }));
        assert!(streams.contains(&Connection { tuple: client(1), number: 2 }));
    }

    #[test]
    fn who_does_nothing_goes() {
        let mut streams = Streams::default();
        let _queued = [connect(&mut streams, 1, 1), connect(&mut streams, 2, 2)];
        streams.sweep(NOW + IDLE - Duration::from_nanos(1), |tuple| *tuple == client(2));
        assert_eq!(streams.len(), 2);
        streams.sweep(NOW + IDLE, |_| false);
        assert!(streams.open.contains_key(&client(2)) && streams.len() == 1);
    }
}
