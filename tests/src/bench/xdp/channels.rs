//! What a run of the program costs for data of TURN channels, both ways, without what is around it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use aya::programs::ProgramFd;
use relay_bench_ebpf::{Flow, Layout};
use relay_ebpf::tables::Channel;
use relay_user::{
    forwarding::Locals,
    members::MemberId,
    turn::{
        entries::entries,
        server::{Binding, FiveTuple, Transport},
    },
};
use serde::{Deserialize, Serialize};

use super::{
    driver::{Driver, Ran, Sending},
    relay::{NEXT_HOP, Relay},
    traffic::{Family, Macs, RELAY_V4, RELAY_V6, flow, frame, template},
};
use crate::{
    affinity::on_one,
    bench::{
        CONTROL, Effort, settle,
        stats::{Samples, interleave},
    },
    sessions::SEED,
};

const XDP_TX: u32 = 3;
/// The loopback device, by which a test run's frames come in.
const LOOPBACK: u32 = 1;
const MACS: Macs = Macs { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2] };
const TURN_PORT: u16 = 3478;
/// The relayed port of all channels, since the driver writes where frames come from and not where they go: as if one client
/// had bound them all.
const RELAYED: u16 = 50_000;
const NUMBER: u16 = 0x4001;
const TTL: u8 = 64;
/// How many channels there are; a power of two.
const CHANNELS: u16 = 1_024;
/// Bytes of data in a frame.
const DATA: usize = 128;

/// What a direction costs between two families. All times are ns for a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Whether it is the client that sends.
    pub from_client: bool,
    /// The family that packets come in.
    pub from: Family,
    /// The family that they leave in.
    pub to: Family,
    /// Median of all batches, without the harness.
    pub net: f64,
    /// 10th percentile of all batches, without the harness.
    pub net_fast: f64,
    /// The same of `reflect`.
    pub reflect: f64,
    /// `reflect` over itself, with the harness: what of a difference is chance.
    pub control: f64,
    /// Whether that is near enough to 1: a figure counts only then.
    pub held: bool,
}

/// A direction of all channels.
#[derive(Clone, Copy)]
struct Way {
    from_client: bool,
    from: Family,
    to: Family,
}

fn relay(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => (RELAY_V4, port).into(),
        Family::V6 => (RELAY_V6, port).into(),
    }
}

fn host(family: Family, net: u8, number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    let port = 20_000 + number.wrapping_mul(7) % 20_000;
    match family {
        Family::V4 => ([192, net, high, low], port).into(),
        Family::V6 => ([0x2001, 0xdb8, net.into(), 0, 0, 0, 0, number], port).into(),
    }
}

impl Way {
    fn binding(self, number: u16) -> Binding {
        let (client, peer) = if self.from_client { (self.from, self.to) } else { (self.to, self.from) };
        Binding {
            tuple: FiveTuple {
                transport: Transport::Udp,
                client: host(client, 10, number),
                server: relay(client, TURN_PORT),
            },
            number: NUMBER,
            relayed: relay(peer, RELAYED),
            peer: host(peer, 20, number),
            until: Duration::MAX,
            user: MemberId(1),
            limit: None,
        }
    }

    fn entry(self, number: u16, locals: &Locals) -> Channel {
        let both = entries(&self.binding(number), locals, SEED, u32::MAX, 0, |_| NEXT_HOP);
        both.expect("the addresses are the relay's")[usize::from(!self.from_client)]
    }

    fn sent(self, channel: u16, number: u32) -> Vec<u8> {
        let Binding { tuple, relayed, peer, .. } = self.binding(channel);
        let (from, to) = if self.from_client { (tuple.client, tuple.server) } else { (peer, relayed) };
        frame(MACS, from, to, TTL, &self.numbered(number, self.from_client))
    }

    fn returned(self, channel: u16, number: u32) -> Vec<u8> {
        let Binding { tuple, relayed, peer, .. } = self.binding(channel);
        let (from, to) = if self.from_client { (relayed, peer) } else { (tuple.server, tuple.client) };
        frame(MACS.swapped(), from, to, TTL - 1, &self.numbered(number, !self.from_client))
    }

    /// The message: the frame's number and its complement stand where the driver writes them, eight bytes into what is sent.
    fn numbered(self, number: u32, header: bool) -> Vec<u8> {
        let mut message = Vec::new();
        if header {
            message.extend(NUMBER.to_be_bytes());
            message.extend((DATA as u16).to_be_bytes());
        }
        // What is sent has a header if the client sends it.
        let at = 8 + message.len() - if self.from_client { 4 } else { 0 };
        message.extend((0..DATA).map(|at| at as u8));
        message[at..at + 4].copy_from_slice(&number.to_le_bytes());
        message[at + 4..at + 8].copy_from_slice(&(!number).to_le_bytes());
        message
    }

    fn sending(self) -> Sending {
        let layout = Layout::of(self.from == Family::V4, true);
        let flows: Vec<Flow> =
            (0..CHANNELS).map(|channel| flow(&self.sent(shuffled(channel), 0), layout)).collect();
        let first = self.sent(shuffled(0), 0);
        Sending { frame: template(&first, layout), first, flows, lines: 1 << 16 }
    }
}

/// Channels are visited in an order that no prefetcher guesses.
fn shuffled(n: u16) -> u16 {
    n.wrapping_mul(397) % CHANNELS
}

struct Contender {
    program: ProgramFd,
    all: Samples,
    fast: Samples,
    batches: u64,
}

/// Measures all pairs of families, both ways. `object` is the benchmark's BPF object file.
pub fn run(object: &[u8], effort: Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    use Family::{V4, V6};
    let mut rows = Vec::new();
    for (from, to) in [(V4, V4), (V6, V6), (V4, V6), (V6, V4)] {
        for from_client in [true, false] {
            let side = if from_client { "client" } else { "peer" };
            progress(&format!("channels: from the {side}, {from:?} to {to:?}"));
            rows.push(on_one(|| measure(object, Way { from_client, from, to }, effort))?);
        }
    }
    Ok(rows)
}

fn measure(object: &[u8], way: Way, effort: Effort) -> Result<Row> {
    let mut driver = Driver::sending(object, way.sending())?;
    let relayed = RELAYED..=RELAYED;
    let mut relay = Relay::with_channels(MACS, LOOPBACK, (TURN_PORT, relayed), |locals| {
        (0..CHANNELS).map(|number| way.entry(number, locals)).collect()
    })?;
    let program = relay.program()?.fd()?.try_clone()?;
    check(&mut driver, &program, way)?;
    let mut contenders = Vec::new();
    for program in [driver.own("empty")?, driver.own("reflect")?, program, driver.own("reflect")?] {
        driver.call(&program)?;
        let call_ns = if effort == Effort::Short { 25e6 } else { 60e6 };
        let batches = (call_ns / driver.time(50)?.median() / relay_bench_ebpf::BATCH as f64) as u64;
        contenders.push(Contender { program, all: Samples::default(), fast: Samples::default(), batches });
    }
    let rounds = if effort == Effort::Short { 10 } else { 20 };
    let control = settle(effort, || {
        let measure = |contender: &mut Contender| {
            driver.call(&contender.program)?;
            let batches = driver.time(contender.batches)?;
            contender.fast.values.push(batches.quantile(0.1));
            contender.all.values.extend(&batches.values);
            Ok(batches.median())
        };
        interleave(&mut contenders, rounds, measure, |_| {})?;
        Ok(contenders[3].fast.ratio(&contenders[1].fast).median)
    })?;
    let [empty, reflect, wgrelay, again] = &contenders[..] else { unreachable!("there are four") };
    let fast = |contender: &Contender| contender.all.quantile(0.1) - empty.all.quantile(0.1);
    let again = again.fast.ratio(&reflect.fast).median;
    let Way { from_client, from, to } = way;
    Ok(Row {
        from_client,
        from,
        to,
        net: wgrelay.all.median() - empty.all.median(),
        net_fast: fast(wgrelay),
        reflect: fast(reflect),
        control: again,
        held: control && (again - 1.0).abs() <= CONTROL,
    })
}

/// Looks at what comes of the first frames: what does nothing would be fast.
fn check(driver: &mut Driver, program: &ProgramFd, way: Way) -> Result<()> {
    driver.call(program)?;
    for number in 0..100_u16 {
        let expected = way.returned(shuffled(number), number.into());
        let Ran { verdict, frame } = driver.once()?;
        ensure!(
            verdict == XDP_TX && frame == expected,
            "it does not do its work (frame {number}): verdict {verdict}, {frame:02x?} instead of {expected:02x?}"
        );
    }
    Ok(())
}
