//! Traffic between hosts, through their tunnels.

use std::{collections::BTreeSet, fs, time::Duration};

use crate::{
    command::{Process, run},
    host::Host,
    wait::until,
};

/// What a series of pings found.
#[derive(Clone, Debug, PartialEq)]
pub struct Pings {
    /// Echo requests sent.
    pub sent: u32,
    /// Replies that came.
    pub received: u32,
    /// Round trips in ms, sorted.
    pub round_trips: Vec<f64>,
}

impl Pings {
    /// The share that was lost, 0 to 1.
    pub fn loss(&self) -> f64 {
        1.0 - f64::from(self.received) / f64::from(self.sent.max(1))
    }

    /// The median round trip in ms.
    pub fn median(&self) -> Option<f64> {
        self.round_trips.get(self.round_trips.len() / 2).copied()
    }

    /// Reads what iputils' ping prints.
    fn parse(text: &str) -> Option<Self> {
        let summary = text.lines().find(|line| line.contains(" packets transmitted, "))?;
        let number = |word: &str| {
            summary.split(", ").find(|part| part.contains(word))?.split(' ').next()?.parse().ok()
        };
        let mut round_trips: Vec<f64> = text
            .lines()
            .filter_map(|line| line.split_once(" time=")?.1.split(' ').next()?.parse().ok())
            .collect();
        round_trips.sort_by(f64::total_cmp);
        Some(Self { sent: number("transmitted")?, received: number("received")?, round_trips })
    }
}

/// Pings `count` times from one host to another, every `interval`.
pub fn ping(from: &Host, to: &Host, count: u32, interval: Duration) -> Pings {
    ping_large(from, to, count, interval, 56)
}

/// The same with `payload` bytes in each packet, which are 28 bytes more in the tunnel.
pub fn ping_large(from: &Host, to: &Host, count: u32, interval: Duration, payload: u16) -> Pings {
    let mut ping = from.namespace.command("ping");
    ping.args(["-n", "-W", "1", "-c", &count.to_string(), "-i", &interval.as_secs_f64().to_string()]);
    ping.args(["-s", &payload.to_string()]);
    // It fails when nothing comes back, which is an answer too.
    let output = ping.arg(to.tunnel.to_string()).output().expect("start ping");
    let text = String::from_utf8_lossy(&output.stdout);
    Pings::parse(&text)
        .unwrap_or_else(|| panic!("ping printed {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Pings `count` times at once and waits for the replies, at most `patience`; `meanwhile` is called between.
pub fn ping_patiently(
    from: &Host,
    to: &Host,
    count: u32,
    patience: Duration,
    meanwhile: impl FnOnce(),
) -> Pings {
    let log = from.namespace.lab().file(&format!("ping-{}-{}.log", from.name, to.name));
    let mut ping = from.namespace.command("ping");
    ping.args(["-n", "-c", &count.to_string(), "-i", "0.002", "-W", &patience.as_secs().to_string()]);
    let mut process = Process::start(ping.arg(to.tunnel.to_string()), log);
    meanwhile();
    until("end of ping", 2 * patience, || process.ended());
    Pings::parse(&process.printed()).unwrap_or_else(|| panic!("ping printed {}", process.printed()))
}

/// Pings until a reply comes.
///
/// # Panics
/// If none does within `limit`.
#[track_caller]
pub fn connect(from: &Host, to: &Host, limit: Duration) {
    until(&format!("reply from {} to {}", to.name, from.name), limit, || {
        (ping(from, to, 1, Duration::from_secs(1)).received > 0).then_some(())
    });
}

/// Pings that go on while other things happen.
#[derive(Debug)]
pub struct Pinging {
    process: Process,
}

impl Pinging {
    /// Starts pinging every `interval`.
    pub fn start(from: &Host, to: &Host, interval: Duration) -> Self {
        let log = from.namespace.lab().file(&format!("ping-{}-{}.log", from.name, to.name));
        let mut ping = from.namespace.command("ping");
        ping.args(["-n", "-i", &interval.as_secs_f64().to_string(), &to.tunnel.to_string()]);
        Self { process: Process::start(&mut ping, log) }
    }

    /// How many replies have come so far.
    pub fn received(&self) -> usize {
        self.process.printed().matches(" time=").count()
    }

    /// Waits until `count` more replies have come.
    #[track_caller]
    pub fn more(&self, count: usize, limit: Duration) {
        let before = self.received();
        until(&format!("{count} more replies to pings"), limit, || {
            (self.received() >= before + count).then_some(())
        });
    }

    /// The number of the newest echo request that was answered.
    pub fn newest(&self) -> u32 {
        self.replies().last().copied().unwrap_or(0)
    }

    fn replies(&self) -> BTreeSet<u32> {
        let printed = self.process.printed();
        let number = |line: &str| line.split_once("icmp_seq=")?.1.split_once(" ttl=")?.0.parse().ok();
        printed.lines().filter_map(number).collect()
    }

    /// Stops, and gives the numbers of the echo requests that were lost: those without a reply although a later one has
    /// one. What was still under way does not count.
    pub fn lost(self) -> Vec<u32> {
        let replies = self.replies();
        let last = replies.last().copied().unwrap_or(0);
        (1..last).filter(|sequence| !replies.contains(sequence)).collect()
    }
}

/// Throughput of TCP from one host to another over `seconds`, in Mbit/s as received.
pub fn throughput(from: &Host, to: &Host, seconds: u32) -> f64 {
    let log = from.namespace.lab().file(&format!("iperf3-{}-{}.log", from.name, to.name));
    let mut command = to.namespace.command("iperf3");
    let server =
        Process::start(command.args(["--server", "--one-off", "--bind", &to.tunnel.to_string()]), log);
    until("listening iperf3", Duration::from_secs(10), || {
        const LISTENING_ON_5201: &str = ":1451 00000000:0000 0A";
        let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", server.id())).ok()?;
        sockets.contains(LISTENING_ON_5201).then_some(())
    });
    let mut client = from.namespace.command("iperf3");
    client.args(["--json", "--time", &seconds.to_string(), "--client", &to.tunnel.to_string()]);
    let report: serde_json::Value = serde_json::from_str(&run(&mut client)).expect("iperf3 prints JSON");
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.unwrap_or_else(|| panic!("no throughput in {report}")) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_read() {
        let text = "PING 10.77.0.2 (10.77.0.2) 56(84) bytes of data.\n\
                    64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=0.410 ms\n\
                    64 bytes from 10.77.0.2: icmp_seq=3 ttl=64 time=0.2 ms\n\
                    64 bytes from 10.77.0.2: icmp_seq=4 ttl=64 time=12 ms\n\n\
                    --- 10.77.0.2 ping statistics ---\n\
                    4 packets transmitted, 3 received, 25% packet loss, time 3053ms\n\
                    rtt min/avg/max/mdev = 0.2/4.2/12/5 ms\n";
        let pings = Pings::parse(text).unwrap();
        assert_eq!(pings, Pings { sent: 4, received: 3, round_trips: vec![0.2, 0.41, 12.0] });
        assert_eq!((pings.loss(), pings.median()), (0.25, Some(0.41)));
    }

    #[test]
    fn silence_and_errors_count_as_loss() {
        let text = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\n--- 10.0.0.1 ping statistics ---\n\
                    2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 10ms\n";
        let pings = Pings::parse(text).unwrap();
        assert_eq!((pings.loss(), pings.median()), (1.0, None));
    }
}
