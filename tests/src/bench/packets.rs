//! Packets end to end: what a packet costs on its way over a wire, through a relay and back.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use serde::Serialize;

use super::{
    Effort,
    relay::{Relay, lines},
    stats::{Ratio, Samples, interleave},
    traffic::{Family, Fate, Scenario, Visits},
    wire::{DEVICE, RelaySide, Sent, Wire, index},
};
use crate::lab::Lab;

/// Frames of a call that shows what any call costs.
const FEW: u32 = 64;
/// The share of frames that may be lost.
const LOSS: f64 = 1e-4;

/// What a contender reached in one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The contender. `reflect again` is the A/A control.
    pub contender: &'static str,
    /// What was sent.
    pub scenario: Scenario,
    /// ns for a packet from source to source, median of rounds.
    pub ns: f64,
    /// Smallest and largest.
    pub range: (f64, f64),
    /// Packets per second.
    pub per_second: f64,
    /// Packets per second over those of `reflect`.
    pub to_reflect: Ratio,
    /// Packets per second over those of `reflmiss`.
    pub to_reflmiss: Ratio,
    /// Frames sent in all, and how many came back right.
    pub frames: (u64, u64),
}

/// One of the benchmark's own programs at the relay's end.
struct Own {
    _ebpf: Ebpf,
}

impl Own {
    fn attach(wire: &Wire, object: &[u8], name: &str) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let lines = lines(wire.traffic.scenario.sessions);
        loader.map_max_entries(relay_bench_ebpf::LINES, lines);
        let mut ebpf = loader.load(object).context("load the benchmark's programs")?;
        relay_bench_ebpf_state(&mut ebpf, lines)?;
        let program: &mut Xdp =
            ebpf.program_mut(name).with_context(|| format!("no program `{name}`"))?.try_into()?;
        program.load()?;
        wire.relay.enter(|| program.attach(DEVICE, XdpMode::Driver))?;
        Ok(Self { _ebpf: ebpf })
    }
}

/// Tells the programs how many lines there are.
fn relay_bench_ebpf_state(ebpf: &mut Ebpf, lines: u32) -> Result<()> {
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

/// The relay's program at the relay's end.
fn attach_relay(wire: &Wire, mode: XdpMode) -> Result<Relay> {
    let ifindex = index(&wire.relay)?;
    wire.relay.enter(|| {
        let mut relay = Relay::load(&wire.traffic, ifindex)?;
        relay.program()?.attach(DEVICE, mode).context("attach the relay's program")?;
        Ok(relay)
    })
}

/// A wire and what is at its end, with what was measured so far.
pub struct Contender {
    name: &'static str,
    wire: Wire,
    side: Box<dyn RelaySide>,
}

impl Contender {
    /// Lays a wire and sets up the relay's side by a function.
    pub fn new(
        lab: &Lab,
        name: &'static str,
        object: &[u8],
        (scenario, fate): (Scenario, Fate),
        side: impl FnOnce(&Wire) -> Result<Box<dyn RelaySide>>,
    ) -> Result<Self> {
        // Names of namespaces may not hold everything that a contender's name may.
        let short: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let wire = Wire::new(lab, &short, object, scenario, fate)?;
        let side = side(&wire).with_context(|| format!("set up {name}"))?;
        Ok(Self { name, wire, side })
    }

    /// Checks that all frames come back right: a contender that loses or spoils them would be fast.
    fn check(&mut self) -> Result<()> {
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

    /// ns for a packet in a call of so many, without what every call costs.
    fn time(&mut self, frames: u32) -> Result<f64> {
        let few = self.wire.send(FEW)?.time;
        let many = self.wire.send(frames)?.time;
        self.check()?;
        Ok((many.as_secs_f64() - few.as_secs_f64()) * 1e9 / f64::from(frames - FEW))
    }
}

/// The scenarios: one factor at a time.
fn scenarios(effort: Effort) -> Vec<Scenario> {
    use Family::{V4, V6};
    let centre = Scenario::CENTRE;
    let many = Scenario { sessions: 1_000_000, ..centre };
    if effort == Effort::Short {
        return vec![centre, many];
    }
    let mut all = vec![centre];
    all.extend([64, 512, 1_420].map(|payload| Scenario { payload, ..centre }));
    all.extend([1, 100_000].map(|sessions| Scenario { sessions, ..centre }));
    all.push(many);
    all.push(Scenario { visits: Visits::Zipf, ..many });
    all.extend([(V6, V6), (V4, V6), (V6, V4)].map(|(from, to)| Scenario { from, to, ..centre }));
    all
}

/// Measures all scenarios. `object` is the benchmark's BPF object file.
pub fn run(object: &[u8], effort: Effort, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for scenario in scenarios(effort) {
        progress(&format!("packets: {scenario}"));
        rows.extend(measure(object, scenario, effort)?);
    }
    Ok(rows)
}

fn measure(object: &[u8], scenario: Scenario, effort: Effort) -> Result<Vec<Row>> {
    let lab = Lab::new();
    let own = |name, program: &'static str| {
        Contender::new(&lab, name, object, (scenario, Fate::Reflected), |wire| {
            Ok(Box::new(Own::attach(wire, object, program)?))
        })
    };
    let relay = |name, mode| {
        Contender::new(&lab, name, object, (scenario, Fate::Relayed), |wire| {
            Ok(Box::new(attach_relay(wire, mode)?))
        })
    };
    let mut contenders = vec![
        own("reflect", "reflect")?,
        own("reflmiss", "reflmiss")?,
        relay("wgrelay", XdpMode::Driver)?,
        relay("wgrelay, generic", XdpMode::Skb)?,
        own("reflect again", "reflect")?,
    ];
    let (rounds, frames) = match (effort, scenario == Scenario::CENTRE || scenario.sessions == 1_000_000) {
        (Effort::Short, _) => (4, 1 << 20),
        (Effort::Full, true) => (40, 1 << 21),
        (Effort::Full, false) => (20, 1 << 20),
    };
    for contender in &mut contenders {
        contender.time(1 << 14)?;
    }
    let samples = interleave(&mut contenders, rounds, |contender| contender.time(frames), |_| {})?;
    let per_second =
        |samples: &Samples| Samples { values: samples.values.iter().map(|ns| 1e9 / ns).collect() };
    let (reflect, reflmiss) = (per_second(&samples[0]), per_second(&samples[1]));
    let rows = contenders.iter().zip(&samples).map(|(contender, samples)| {
        let all = contender.wire.totals()?;
        let speed = per_second(samples);
        Ok(Row {
            contender: contender.name,
            scenario,
            ns: samples.median(),
            range: (samples.min(), samples.max()),
            per_second: speed.median(),
            to_reflect: speed.ratio(&reflect),
            to_reflmiss: speed.ratio(&reflmiss),
            frames: (all.sent, all.right),
        })
    });
    rows.collect()
}

/// The rows as text.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut before = None;
    for row in rows {
        if before.replace(row.scenario) != Some(row.scenario) {
            text += &format!(
                "\n{:<34} {:>8} {:>17} {:>8} {:>19} {:>19}\n",
                row.scenario.to_string(),
                "ns",
                "min … max",
                "Mpps",
                "× reflect",
                "× reflmiss"
            );
        }
        let ratio = |Ratio { median, low, high }| format!("{median:.2} ({low:.2}–{high:.2})");
        text += &format!(
            "  {:<32} {:>8.1} {:>17} {:>8.2} {:>19} {:>19}\n",
            row.contender,
            row.ns,
            format!("{:.1} … {:.1}", row.range.0, row.range.1),
            row.per_second / 1e6,
            ratio(row.to_reflect),
            ratio(row.to_reflmiss)
        );
    }
    text
}
