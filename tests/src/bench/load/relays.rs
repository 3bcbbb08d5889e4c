//! Relays that are no XDP programs, side by side under one load.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;

use super::{
    flows::{Flows, Way},
    nft::{self, Rules},
    place::{Place, reflect},
    row::{Measured, Row},
    turn::TurnInPlace,
    userspace::UserspaceRelay,
    wgrelay::WgrelayInPlace,
};
use crate::{
    affinity::pinned,
    bench::{Effort, cpu::Spinners, settle, stats::interleave},
    lab::Lab,
};

/// Bytes of UDP payload.
pub const PAYLOAD: usize = 128;
/// How many sessions a load has.
const SESSIONS: [u32; 2] = [1, 1_000];
/// The CPUs of the load, and of a relay that has a thread.
pub const CPUS: [usize; 2] = [0, 1];

struct Contender {
    name: &'static str,
    place: Place,
    way: Way,
    /// One for each number of sessions that it is measured with.
    flows: Vec<Flows>,
    measured: [Measured; SESSIONS.len()],
    relay: Relay,
}

/// What relays, as long as it lives.
enum Relay {
    Program(#[expect(dead_code, reason = "it is there to be attached")] Ebpf),
    Rules,
    Thread(#[expect(dead_code, reason = "it is there to run")] UserspaceRelay),
    Wgrelay(Box<WgrelayInPlace>),
    Turn(TurnInPlace),
}

impl Contender {
    fn new(lab: &Lab, name: &'static str, relay: impl FnOnce(&mut Place) -> Result<Relay>) -> Result<Self> {
        let mut place = Place::new(lab, name)?;
        let relay = relay(&mut place).with_context(|| format!("set up {name}"))?;
        let way = if matches!(relay, Relay::Program(_)) { Way::Reflected } else { Way::Relayed };
        let flows = match &relay {
            Relay::Wgrelay(relay) => vec![relay.flow(&place, PAYLOAD)],
            Relay::Turn(server) => SESSIONS.map(|count| server.flows(&place, count, PAYLOAD)).into(),
            _ => SESSIONS.map(|count| place.flows(count, PAYLOAD)).into(),
        };
        Ok(Self { name, place, way, flows, measured: Default::default(), relay })
    }

    /// Loads it for a while.
    fn measure(&mut self, at: usize, duration: Duration, spinners: &Spinners) -> Result<f64> {
        let mut process = None;
        match &mut self.relay {
            Relay::Wgrelay(relay) => {
                let renewed = relay.renew(&mut self.place)?;
                if renewed {
                    self.flows = vec![relay.flow(&self.place, PAYLOAD)];
                }
            }
            Relay::Turn(server) => {
                server.renew(&mut self.place)?;
                process = server.process();
            }
            _ => {}
        }
        let (flows, way, load) = (&self.flows[at], self.way, &mut self.place.load);
        let right = |frame: &[u8]| flows.is_right(way, frame);
        // Once round: the first packet of a flow may cost more, and that it is relayed at all is to be known before.
        let first = load.run(Duration::MAX, flows.frames.iter().map(Vec::as_slice), right)?;
        ensure!(first.lost() == 0, "{}: {first:?} before the measurement", self.name);
        let endless = flows.frames.iter().map(Vec::as_slice).cycle();
        let (outcome, usage) = spinners.measure(process.as_slice(), || load.run(duration, endless, right));
        self.measured[at].add(outcome?, usage).context(self.name)
    }
}

fn contenders(lab: &Lab) -> Result<Vec<Contender>> {
    let most = SESSIONS[SESSIONS.len() - 1];
    let reflector = |place: &mut Place| Ok(Relay::Program(reflect(place)));
    let by_rules = |rules| {
        move |place: &mut Place| {
            nft::relay(place, rules, most);
            Ok(Relay::Rules)
        }
    };
    // Two on one machine: each has its files, so it needs a lab of its own.
    let wgrelay = |mode: &'static str| {
        move |place: &mut Place| Ok(Relay::Wgrelay(Box::new(WgrelayInPlace::start(place, mode)?)))
    };
    Ok(vec![
        Contender::new(lab, "reflect", reflector)?,
        Contender::new(&Lab::new(), "wgrelay-driver", wgrelay("driver"))?,
        Contender::new(&Lab::new(), "wgrelay-generic", wgrelay("generic"))?,
        Contender::new(lab, "nft-ingress", by_rules(Rules::Ingress))?,
        Contender::new(lab, "nft-stateless", by_rules(Rules::Stateless))?,
        Contender::new(lab, "nft-conntrack", by_rules(Rules::Conntrack))?,
        Contender::new(lab, "userspace", |place| {
            Ok(Relay::Thread(UserspaceRelay::start(place, most, CPUS[1])?))
        })?,
        Contender::new(&Lab::new(), "wgrelay-turn", |place| {
            Ok(Relay::Turn(TurnInPlace::wgrelay(place, most)?))
        })?,
        Contender::new(lab, "coturn", |place| Ok(Relay::Turn(TurnInPlace::coturn(place, most)?)))?,
        Contender::new(lab, "reflect-again", reflector)?,
    ])
}

/// Measures all of them. `reflect` is there twice: its two rows say how much of a difference is chance.
///
/// # Errors
/// If a contender can't be set up or does not relay.
pub fn run(effort: Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let (all_rounds, duration) = match effort {
        Effort::Short => ([3, 3], Duration::from_millis(100)),
        Effort::Full => ([20, 40], Duration::from_millis(250)),
    };
    let lab = Lab::new();
    let mut contenders = contenders(&lab)?;
    let spinners = Spinners::start()?;
    let mut rows = Vec::new();
    for (at, (sessions, rounds)) in SESSIONS.into_iter().zip(all_rounds).enumerate() {
        let mut some: Vec<_> = contenders.iter_mut().filter(|c| c.flows.len() > at).collect();
        pinned(CPUS[0], || {
            settle(effort, || {
                let measure = |contender: &mut &mut Contender| contender.measure(at, duration, &spinners);
                interleave(&mut some, rounds, measure, |round| {
                    progress(&format!("relays, {sessions} sessions: round {} of {rounds}", round + 1));
                })?;
                let [reflect, .., again] = &some[..] else { unreachable!("`reflect` is among them twice") };
                Ok(again.measured[at].tasks.ratio(&reflect.measured[at].tasks).median)
            })
        })??;
        let reflect = &contenders[0].measured[at];
        let row = |c: &Contender| Row::new(c.name, sessions, PAYLOAD, &c.measured[at], reflect);
        rows.extend(contenders.iter().filter(|c| c.flows.len() > at).map(row));
    }
    Ok(rows)
}
