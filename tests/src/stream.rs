//! Datagrams at a constant rate from one host to another, each of which is missed if it does not come.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde::Serialize;

use crate::{host::Host, wait::now};

/// Bytes of a datagram: a number, and what makes it as long as that of a call.
const DATAGRAM: usize = 160;
/// How long the last ones may take.
const LAST: Duration = Duration::from_secs(2);
/// The receiver may be kept from running for a while.
const BUFFER: usize = 16 << 20;

/// A stream that goes on while other things happen.
#[derive(Debug)]
pub struct Stream {
    stop: Stop,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Received>,
}

/// What ends both threads, also when the stream is dropped with its lab.
#[derive(Debug)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[derive(Debug, Default)]
struct Received {
    /// By their numbers: how often each came.
    times: Vec<u8>,
    longest_gap: Duration,
}

/// What came of a stream, or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Streamed {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Those of them that came.
    pub received: u64,
    /// Those that came more than once.
    pub repeated: u64,
    /// The numbers of the first that did not come.
    pub lost: Vec<u64>,
    /// The longest time between two that came, in ms.
    pub longest_gap_ms: u64,
}

impl Stream {
    /// Starts one with so many datagrams a second.
    pub fn start(from: &Host, to: &Host, rate: u32) -> Self {
        let bind = |host: &Host| {
            let address = SocketAddr::new(host.tunnel.into(), 0);
            host.namespace.enter(|| UdpSocket::bind(address)).expect("bind a socket in a tunnel")
        };
        let (source, destination) = (bind(from), bind(to));
        force_receive_buffer(&destination);
        destination.set_read_timeout(Some(Duration::from_millis(50))).expect("set a time-out");
        let address = destination.local_addr().expect("a bound socket has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_sender, stop_receiver) = (Arc::clone(&stop), Arc::clone(&stop));
        let sender = std::thread::spawn(move || send(&source, address, rate, &stop_sender));
        let receiver = std::thread::spawn(move || receive(&destination, &stop_receiver));
        Self { stop: Stop(stop), sender, receiver }
    }

    /// Stops it, and waits for what is still on its way.
    pub fn stop(self) -> Streamed {
        drop(self.stop);
        let sent = self.sender.join().expect("the sender does not panic");
        let Received { times, longest_gap } = self.receiver.join().expect("the receiver does not panic");
        let times = |number: u64| times.get(number as usize).copied().unwrap_or(0);
        Streamed {
            sent,
            received: (0..sent).filter(|number| times(*number) > 0).count() as u64,
            repeated: (0..sent).filter(|number| times(*number) > 1).count() as u64,
            lost: (0..sent).filter(|number| times(*number) == 0).take(20).collect(),
            longest_gap_ms: longest_gap.as_millis() as u64,
        }
    }
}

impl std::iter::Sum for Streamed {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            sent: sum.sent + one.sent,
            received: sum.received + one.received,
            repeated: sum.repeated + one.repeated,
            lost: [sum.lost, one.lost].concat(),
            longest_gap_ms: sum.longest_gap_ms.max(one.longest_gap_ms),
        })
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, rate: u32, stop: &AtomicBool) -> u64 {
    let (start, mut datagram) = (now(), [0; DATAGRAM]);
    let mut number = 0_u64;
    while !stop.load(Relaxed) {
        let due = Duration::from_secs(1) * number as u32 / rate;
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        datagram[..8].copy_from_slice(&number.to_le_bytes());
        socket.send_to(&datagram, to).expect("send into a tunnel");
        number += 1;
    }
    number
}

fn receive(socket: &UdpSocket, stop: &AtomicBool) -> Received {
    let (mut received, mut datagram) = (Received::default(), [0; DATAGRAM]);
    let (mut last, mut stopped) = (None, None);
    loop {
        if stop.load(Relaxed) && stopped.get_or_insert_with(now).elapsed() > LAST {
            return received;
        }
        if socket.recv(&mut datagram).is_err() {
            continue;
        }
        let number = u64::from_le_bytes(datagram[..8].try_into().expect("eight bytes")) as usize;
        if received.times.len() <= number {
            received.times.resize(number + 1, 0);
        }
        received.times[number] = received.times[number].saturating_add(1);
        let at = now();
        let gap = last.replace(at).map_or(Duration::ZERO, |last| at - last);
        received.longest_gap = received.longest_gap.max(gap);
    }
}

/// More than the system lets others have: we are root.
fn force_receive_buffer(socket: &UdpSocket) {
    rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, BUFFER)
        .expect("enlarge a receive buffer");
}
