//! A flood: frames for the relay port that nobody asked for, from one or from very many made-up sources, as fast as the
//! kernel makes them. The benchmark's generator sends them over a wire of its own to the relay.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    EbpfLoader,
    maps::Array,
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};
use relay_bench_ebpf::{self as contract, Flow, Frame, Layout, State};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::{
    bench::xdp::traffic::{Macs, flow, frame, template},
    lab::Namespace,
    wait::now,
};

/// The device at either end of the wire.
pub const DEVICE: &str = "flood0";
/// Frames in one call: it has a fixed cost.
const CALL: u32 = 1 << 20;
const BURST: u32 = 64;

/// What a flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// Handshake initiations for nobody.
    Initiations,
    /// Transport data of no session.
    Data,
}

/// The benchmark's BPF object file, as `cargo xtask` has built it.
///
/// # Panics
/// If it has not.
pub fn object() -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../target/bpf/bench-ebpf.o"].iter().collect();
    fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}: `cargo xtask attack` builds it", path.display()))
}

/// Ends the flood also when what goes on meanwhile panics.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Where it comes from.
#[derive(Debug)]
pub struct Flood {
    source: Namespace,
    object: Vec<u8>,
    ifindex: u32,
    macs: Macs,
}

impl Flood {
    /// Lays a wire to the relay, whose end of it is [`DEVICE`] as well. `object` is the benchmark's BPF object file.
    pub fn new(relay: &Namespace, object: Vec<u8>) -> Self {
        let source = relay.lab().namespace("flood");
        source.connect(DEVICE, relay, DEVICE);
        for namespace in [&source, relay] {
            namespace.set(&format!("net/ipv6/conf/{DEVICE}/disable_ipv6"), "1");
            // Whatever a source is, the kernel takes it: nothing but the relay itself is to stem the flood.
            for device in ["all", DEVICE] {
                namespace.set(&format!("net/ipv4/conf/{device}/rp_filter"), "0");
            }
        }
        let ifindex = crate::bench::xdp::wire::index_of(&source, DEVICE).expect("the device is there");
        let macs = Macs { source: source.mac_octets(DEVICE), destination: relay.mac_octets(DEVICE) };
        Self { source, object, ifindex, macs }
    }

    /// Floods `relay` from so many sources (a power of two) while `meanwhile` runs. Tells how many frames that were,
    /// how long they took, and what came of the other.
    pub fn during<T>(
        &self,
        garbage: Garbage,
        sources: u32,
        relay: SocketAddr,
        meanwhile: impl FnOnce() -> T,
    ) -> (u64, Duration, T) {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (stop, (begun, wait)) = (&stop, std::sync::mpsc::channel());
            let flooding = scope.spawn(move || self.run(garbage, sources, relay, begun, stop));
            let stopping = Stopping(stop);
            let result = wait.recv().map(|()| meanwhile());
            drop(stopping);
            let (sent, time) = flooding.join().expect("the flood does not panic").expect("the flood runs");
            (sent, time, result.expect("the flood has begun"))
        })
    }

    fn run(
        &self,
        garbage: Garbage,
        sources: u32,
        relay: SocketAddr,
        begun: std::sync::mpsc::Sender<()>,
        stop: &AtomicBool,
    ) -> Result<(u64, Duration)> {
        let layout = Layout::of(true, true);
        let frame = |number: u32| self.frame(garbage, number, relay);
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(contract::FLOWS, sources)
            .load(&self.object)
            .context("load the benchmark's programs (root is needed)")?;
        let mut map = |name: &str| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let mut frames: Array<_, Frame> = map(contract::FRAMES)?.try_into()?;
        frames.set(contract::SENT, template(&frame(0), layout), 0)?;
        let mut flows: Array<_, Flow> = map(contract::FLOWS)?.try_into()?;
        (0..sources).try_for_each(|number| flows.set(number, flow(&frame(number), layout), 0))?;
        let mut state: Array<_, State> = map(contract::STATE)?.try_into()?;
        state.set(0, State { flows_mask: u64::from(sources) - 1, ..State::new_zeroed() }, 0)?;
        let program: &mut Xdp = ebpf.program_mut("generator").context("no generator")?.try_into()?;
        program.load().context("verify the generator")?;
        let data = frame(0);
        // `struct xdp_md`: where the frame begins and ends, no metadata, the device, its first queue, no egress.
        let context: [u32; 6] = [0, data.len() as u32, 0, self.ifindex, 0, 0];
        let _ = begun.send(());
        let start = now();
        self.source.enter(|| {
            while !stop.load(Ordering::Relaxed) {
                program.test_run(TestRunOptions {
                    data_in: Some(&data),
                    ctx_in: Some(context.as_bytes()),
                    repeat: CALL,
                    attrs: TestRunAttrs::new().xdp_live_frames(BURST),
                    ..TestRunOptions::default()
                })?;
            }
            anyhow::Ok(())
        })?;
        Ok((state.get(&0, 0)?.runs, start.elapsed()))
    }

    /// What source `number` sends. Index and counter are the generator's to fill in.
    fn frame(&self, garbage: Garbage, number: u32, relay: SocketAddr) -> Vec<u8> {
        let (kind, len) = match garbage {
            Garbage::Initiations => (1, 148),
            Garbage::Data => (4, 96),
        };
        // Spread over addresses and ports.
        let mixed = number.wrapping_mul(0x9e37_79b1);
        let source = Ipv4Addr::from(11 << 24 | mixed >> 8);
        let mut message: Vec<u8> = (0..len).map(|at: u32| (at * 7 + number) as u8).collect();
        message[..4].copy_from_slice(&[kind, 0, 0, 0]);
        message[4..8].copy_from_slice(&(mixed | 1).to_le_bytes());
        message[8..16].copy_from_slice(&(u64::from(u32::MAX) << 32).to_le_bytes());
        frame(self.macs, SocketAddr::new(source.into(), 1024 + (number % 60_000) as u16), relay, 64, &message)
    }
}
