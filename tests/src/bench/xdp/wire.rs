//! A relay at the end of a wire: a veth pair between two namespaces. At the source a generator program makes frames in one
//! live-frames BPF_PROG_TEST_RUN, and a sink program looks at every frame that comes back.
//!
//! What relays is none of this module's business: a [`RelaySide`] is set up in the namespace `relay`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};
use relay_bench_ebpf as contract;
use relay_bench_ebpf::{Arrived, BUCKETS, Flow, Frame, Pace, State, bucket_start};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::traffic::{Fate, Macs, Scenario, Traffic};
use crate::{
    command::run,
    lab::{Lab, Namespace},
    wait,
};

/// The device at either end.
pub const DEVICE: &str = "eth0";
/// Frames that the kernel sends in one go.
const BURST: u32 = 64;

/// What relays at the far end of a wire, as long as the value lives.
pub trait RelaySide {
    /// How many packets it says it has sent on so far, if it counts them.
    fn forwarded(&mut self) -> Result<Option<u64>>;
}

/// What the sink does beside comparing frames with what they have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eye {
    /// It counts them. For [`Wire::send`].
    Counting,
    /// It counts how long each was on its way, too. For [`Wire::send_paced`].
    Timing,
}

/// The wire, with the traffic that it carries.
pub struct Wire {
    /// Where frames come from and go back to.
    pub source: Namespace,
    /// Where the relay is.
    pub relay: Namespace,
    /// The frames.
    pub traffic: Traffic,
    ebpf: Ebpf,
    state: Array<MapData, State>,
    arrived: PerCpuArray<MapData, Arrived>,
    frame: Vec<u8>,
    ifindex: u32,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    /// Frames sent.
    pub sent: u64,
    /// Frames that came back as they had to be.
    pub right: u64,
    /// Frames that came back otherwise.
    pub wrong: u64,
    /// How long it took.
    pub time: Duration,
}

impl Wire {
    /// Lays a wire. `name` tells it from others of the lab, `object` is the benchmark's BPF object file.
    pub fn new(
        lab: &Lab,
        name: &str,
        object: &[u8],
        scenario: Scenario,
        fate: Fate,
        eye: Eye,
    ) -> Result<Self> {
        let source = lab.namespace(&format!("{name}s"));
        let relay = lab.namespace(&format!("{name}r"));
        source.connect(DEVICE, &relay, DEVICE);
        for namespace in [&source, &relay] {
            // Without it the device does not take what its peer's XDP program transmits or redirects.
            run(namespace.command("ethtool").args(["-K", DEVICE, "gro", "on"]));
            // Nothing of the kernel's own comes in between.
            namespace.set(&format!("net/ipv6/conf/{DEVICE}/disable_ipv6"), "1");
        }
        let macs = Macs { source: source.mac_octets(DEVICE), destination: relay.mac_octets(DEVICE) };
        let traffic = Traffic { scenario, macs };
        let order = traffic.order();
        let mut loader = EbpfLoader::new();
        for map in [contract::FLOWS, contract::EXPECTED] {
            loader.map_max_entries(map, order.len() as u32);
        }
        let mut ebpf = loader.load(object).context("load the benchmark's programs (root is needed)")?;
        let (generator, sink) = match eye {
            Eye::Counting => ("generator", "sink"),
            Eye::Timing => ("paced", "timed_sink"),
        };
        program(&mut ebpf, generator)?.load().with_context(|| format!("verify the program `{generator}`"))?;
        let sink = program(&mut ebpf, sink)?;
        sink.load().context("verify the sink")?;
        source.enter(|| sink.attach(DEVICE, XdpMode::Driver)).context("attach the sink")?;
        let ((sent, sent_flow), (returned, returned_flow)) =
            (traffic.sent_template(), traffic.returned_template(fate));
        let mut frames: Array<_, Frame> = take(&mut ebpf, contract::FRAMES)?.try_into()?;
        frames.set(contract::SENT, sent, 0)?;
        frames.set(contract::RETURNED, returned, 0)?;
        let mut flows: Array<_, Flow> = take(&mut ebpf, contract::FLOWS)?.try_into()?;
        (0..).zip(&order).try_for_each(|(at, &session)| flows.set(at, sent_flow(session), 0))?;
        let mut expected: Array<_, Flow> = take(&mut ebpf, contract::EXPECTED)?.try_into()?;
        (0..).zip(&order).try_for_each(|(at, &session)| expected.set(at, returned_flow(session), 0))?;
        let mut state: Array<_, State> = take(&mut ebpf, contract::STATE)?.try_into()?;
        state.set(0, State { flows_mask: order.len() as u64 - 1, ..State::new_zeroed() }, 0)?;
        let ifindex = index(&source)?;
        let arrived = take(&mut ebpf, contract::ARRIVED)?.try_into()?;
        Ok(Self { ifindex, frame: traffic.sent(0, 0), state, arrived, ebpf, traffic, source, relay })
    }

    /// Sends so many frames, in one call, and waits for the end of the call. What is on its way back then is counted by
    /// the next call, so this does not ask for all of them; [`Self::totals`] does.
    pub fn send(&mut self, frames: u32) -> Result<Sent> {
        self.call("generator", frames, BURST)
    }

    /// Sends frames one by one, so many ns apart, and gives how many took how long: by the buckets of
    /// [`relay_bench_ebpf::bucket`].
    pub fn send_paced(&mut self, frames: u32, interval: u64) -> Result<(Sent, Vec<u64>)> {
        let mut pace: Array<_, Pace> =
            self.ebpf.map_mut(contract::PACE).context("no map PACE")?.try_into()?;
        pace.set(0, Pace { interval, due: 0 }, 0)?;
        let before = self.latencies()?;
        let sent = self.call("paced", frames, 1)?;
        let after = self.latencies()?;
        Ok((sent, after.iter().zip(before).map(|(after, before)| after - before).collect()))
    }

    fn latencies(&self) -> Result<Vec<u64>> {
        let map = self.ebpf.map(contract::LATENCIES).context("no map LATENCIES")?;
        let map: PerCpuArray<_, u64> = map.try_into()?;
        (0..BUCKETS).map(|at| Ok(map.get(&at, 0)?.iter().sum())).collect()
    }

    fn call(&mut self, program: &str, frames: u32, burst: u32) -> Result<Sent> {
        let (sent, arrived) = (self.state.get(&0, 0)?.runs, self.arrived()?);
        // `struct xdp_md`: where the frame begins and ends, no metadata, the device, its first queue, no egress.
        let context: [u32; 6] = [0, self.frame.len() as u32, 0, self.ifindex, 0, 0];
        let program: &Xdp = self.ebpf.program(program).context("no such program")?.try_into()?;
        let frame = &self.frame;
        let time = self.source.enter(|| {
            let start = wait::now();
            program.test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(context.as_bytes()),
                repeat: frames,
                attrs: TestRunAttrs::new().xdp_live_frames(burst),
                ..TestRunOptions::default()
            })?;
            anyhow::Ok(start.elapsed())
        })?;
        let state = self.state.get(&0, 0)?;
        let (sent, now) = (state.runs - sent, self.arrived()?);
        ensure!(sent == u64::from(frames) && state.failed == 0, "{sent} of {frames} frames were made");
        Ok(Sent { sent, right: now.right - arrived.right, wrong: now.wrong - arrived.wrong, time })
    }

    /// Frames sent and arrived since the beginning, once all that are on their way have arrived (or 200 ms are over).
    pub fn totals(&self) -> Result<Sent> {
        let start = wait::now();
        loop {
            let (state, arrived) = (self.state.get(&0, 0)?, self.arrived()?);
            let time = start.elapsed();
            if arrived.right + arrived.wrong >= state.runs || time > Duration::from_millis(200) {
                return Ok(Sent { sent: state.runs, right: arrived.right, wrong: arrived.wrong, time });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn arrived(&self) -> Result<Arrived> {
        let cpus = self.arrived.get(&0, 0)?;
        Ok(cpus.iter().fold(Arrived::default(), |sum, cpu| Arrived {
            right: sum.right + cpu.right,
            wrong: sum.wrong + cpu.wrong,
        }))
    }
}

/// The value below which this share of what is counted in buckets lies, interpolated in its bucket. NaN of none.
pub fn quantile(buckets: &[u64], share: f64) -> f64 {
    let mut rest = share * buckets.iter().sum::<u64>() as f64;
    for (at, &count) in (0..).zip(buckets) {
        if rest <= count as f64 && count > 0 {
            let (from, to) = (bucket_start(at) as f64, bucket_start(at + 1) as f64);
            return from + (to - from) * rest / count as f64;
        }
        rest -= count as f64;
    }
    f64::NAN
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program `{name}`"))?.try_into()?)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).with_context(|| format!("no map {name}"))
}

/// The index of the device.
pub fn index(namespace: &Namespace) -> Result<u32> {
    index_of(namespace, DEVICE)
}

/// The index of a device with another name.
pub(crate) fn index_of(namespace: &Namespace, device: &str) -> Result<u32> {
    let text = namespace.ip(&format!("-j link show dev {device}"));
    let json: serde_json::Value = serde_json::from_str(&text).context("read what ip prints")?;
    json[0]["ifindex"].as_u64().and_then(|index| index.try_into().ok()).context("a device has an index")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_in_its_bucket() {
        let mut buckets = vec![0; BUCKETS as usize];
        assert!(quantile(&buckets, 0.5).is_nan());
        for value in 1..=1_000 {
            buckets[relay_bench_ebpf::bucket(value) as usize] += 1;
        }
        for (share, value) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            assert!((quantile(&buckets, share) - value).abs() < value / 32.0, "{share}");
        }
    }
}
