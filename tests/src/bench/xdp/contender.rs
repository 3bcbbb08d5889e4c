//! What stands at the far end of a wire.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};

use super::{
    relay::{Relay, lines},
    traffic::{Fate, Scenario},
    wire::{DEVICE, Eye, RelaySide, Sent, Wire, index},
};
use crate::lab::Lab;

/// The share of frames that may be lost.
const LOSS: f64 = 1e-4;

/// One of the benchmark's own programs at the relay's end.
pub struct Own {
    _ebpf: Ebpf,
}

impl Own {
    /// Loads and attaches it.
    pub fn attach(wire: &Wire, object: &[u8], name: &str) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let lines = lines(wire.traffic.scenario.sessions);
        loader.map_max_entries(relay_bench_ebpf::LINES, lines);
        let mut ebpf = loader.load(object).context("load the benchmark's programs")?;
        tell_lines(&mut ebpf, lines)?;
        let program: &mut Xdp =
            ebpf.program_mut(name).with_context(|| format!("no program `{name}`"))?.try_into()?;
        program.load()?;
        wire.relay.enter(|| program.attach(DEVICE, XdpMode::Driver))?;
        Ok(Self { _ebpf: ebpf })
    }
}

/// Tells the programs how many lines there are.
fn tell_lines(ebpf: &mut Ebpf, lines: u32) -> Result<()> {
    use relay_bench_ebpf::State;
    let map = ebpf.map_mut(relay_bench_ebpf::STATE).context("no map STATE")?;
    let mut state: aya::maps::Array<_, State> = map.try_into()?;
    let before = state.get(&0, 0)?;
    Ok(state.set(0, State { lines: lines.into(), ..before }, 0)?)
}

impl RelaySide for Own {
    fn forwarded(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }
}

impl RelaySide for Relay {
    fn forwarded(&mut self) -> Result<Option<u64>> {
        Self::forwarded(self).map(Some)
    }
}

/// Loads the relay's program with its tables, and attaches it to the relay's end.
pub fn attach_relay(wire: &Wire, mode: XdpMode) -> Result<Relay> {
    let ifindex = index(&wire.relay)?;
    wire.relay.enter(|| {
        let mut relay = Relay::load(&wire.traffic, ifindex)?;
        relay.program()?.attach(DEVICE, mode).context("attach the relay's program")?;
        Ok(relay)
    })
}

/// A wire and what is at its end, with what was measured so far.
pub struct Contender {
    /// What it is called.
    pub name: &'static str,
    /// The wire.
    pub wire: Wire,
    side: Box<dyn RelaySide>,
}

impl Contender {
    /// Lays a wire and sets up the relay's side by a function.
    pub fn new(
        lab: &Lab,
        name: &'static str,
        object: &[u8],
        (scenario, fate, eye): (Scenario, Fate, Eye),
        side: impl FnOnce(&Wire) -> Result<Box<dyn RelaySide>>,
    ) -> Result<Self> {
        // Names of namespaces may not hold everything that a contender's name may.
        let short: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let wire = Wire::new(lab, &short, object, scenario, fate, eye)?;
        let side = side(&wire).with_context(|| format!("set up {name}"))?;
        Ok(Self { name, wire, side })
    }

    /// Checks that all frames come back right: a contender that loses or spoils them would be fast.
    pub fn check(&mut self) -> Result<()> {
        let Sent { sent, right, wrong, .. } = self.wire.totals()?;
        let lost = sent.saturating_sub(right + wrong);
        ensure!(
            wrong == 0 && lost as f64 <= LOSS * sent as f64,
            "{} ({}): of {sent} frames {right} came back right, {wrong} wrong",
            self.name,
            self.wire.traffic.scenario
        );
        if let Some(forwarded) = self.side.forwarded()? {
            ensure!(forwarded >= right, "{}: {forwarded} forwarded, but {right} came back", self.name);
        }
        Ok(())
    }
}

/// Contenders that are XDP programs of the benchmark and of the relay, each at a wire of its own. `reflect` is among them
/// twice: first, and last as the A/A control. `generic` asks for the relay in generic mode too.
pub fn xdp(lab: &Lab, object: &[u8], scenario: Scenario, eye: Eye, generic: bool) -> Result<Vec<Contender>> {
    let own = |name, program: &'static str| {
        Contender::new(lab, name, object, (scenario, Fate::Reflected, eye), |wire| {
            Ok(Box::new(Own::attach(wire, object, program)?))
        })
    };
    let relay = |name, mode| {
        Contender::new(lab, name, object, (scenario, Fate::Relayed, eye), |wire| {
            Ok(Box::new(attach_relay(wire, mode)?))
        })
    };
    let mut all =
        vec![own("reflect", "reflect")?, own("reflmiss", "reflmiss")?, relay("wgrelay", XdpMode::Driver)?];
    if generic {
        all.push(relay("wgrelay, generic", XdpMode::Skb)?);
    }
    all.push(own("reflect again", "reflect")?);
    Ok(all)
}
