//! Relays that are no XDP programs, side by side under one load.

use std::{any::Any, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{
        cpu::{Spinners, pinned},
        flows::{Flows, Way},
        nft::{self, Rules},
        place::{Place, reflect},
        row::{Measured, Row},
        stats::interleave,
        userspace::UserspaceRelay,
    },
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
    flows: Vec<Flows>,
    measured: Vec<Measured>,
    _relay: Box<dyn Any>,
}

impl Contender {
    fn new(
        lab: &Lab,
        name: &'static str,
        way: Way,
        relay: impl FnOnce(&Place) -> Result<Box<dyn Any>>,
    ) -> Result<Self> {
        let place = Place::new(lab, name)?;
        let relay = relay(&place).with_context(|| format!("set up {name}"))?;
        let flows = SESSIONS.map(|count| place.flows(count, PAYLOAD)).into();
        Ok(Self { name, place, way, flows, measured: vec![Measured::default(); SESSIONS.len()], _relay: relay })
    }

    /// Loads it for a while.
    fn measure(&mut self, at: usize, duration: Duration, spinners: &Spinners) -> Result<f64> {
        let (flows, way, load) = (&self.flows[at], self.way, &mut self.place.load);
        let right = |frame: &[u8]| flows.is_right(way, frame);
        // Once round: the first packet of a flow may cost more, and that it is relayed at all is to be known before.
        let first = load.run(Duration::MAX, flows.frames.iter().map(Vec::as_slice), right)?;
        ensure!(first.lost() == 0, "{}: {first:?} before the measurement", self.name);
        let endless = flows.frames.iter().map(Vec::as_slice).cycle();
        let (outcome, usage) = spinners.measure(&[], || load.run(duration, endless, right));
        self.measured[at].add(outcome?, usage).context(self.name)
    }
}

fn contenders(lab: &Lab) -> Result<Vec<Contender>> {
    let most = SESSIONS[SESSIONS.len() - 1];
    let reflector = |place: &Place| Ok(Box::new(reflect(place)) as Box<dyn Any>);
    let by_rules = |rules| {
        move |place: &Place| {
            nft::relay(place, rules, most);
            Ok(Box::new(()) as Box<dyn Any>)
        }
    };
    Ok(vec![
        Contender::new(lab, "reflect", Way::Reflected, reflector)?,
        Contender::new(lab, "nft-ingress", Way::Relayed, by_rules(Rules::Ingress))?,
        Contender::new(lab, "nft-stateless", Way::Relayed, by_rules(Rules::Stateless))?,
        Contender::new(lab, "nft-conntrack", Way::Relayed, by_rules(Rules::Conntrack))?,
        Contender::new(lab, "userspace", Way::Relayed, |place| {
            Ok(Box::new(UserspaceRelay::start(place, most, CPUS[1])?))
        })?,
        Contender::new(lab, "reflect-again", Way::Reflected, reflector)?,
    ])
}

/// Measures all of them. `reflect` is there twice: its two rows say how much of a difference is chance.
///
/// # Errors
/// If a contender can't be set up or does not relay.
pub fn run(short: bool, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let (rounds, duration) =
        if short { (3, Duration::from_millis(100)) } else { (40, Duration::from_millis(250)) };
    let lab = Lab::new();
    let mut contenders = contenders(&lab)?;
    let spinners = Spinners::start()?;
    let mut rows = Vec::new();
    for (at, sessions) in SESSIONS.into_iter().enumerate() {
        pinned(CPUS[0], || {
            interleave(
                &mut contenders,
                rounds,
                |contender| contender.measure(at, duration, &spinners),
                |round| progress(&format!("relays, {sessions} sessions: round {} of {rounds}", round + 1)),
            )
        })??;
        let reflect = &contenders[0].measured[at];
        let row = |c: &Contender| Row::new(c.name, sessions, PAYLOAD, &c.measured[at], reflect);
        rows.extend(contenders.iter().map(row));
    }
    Ok(rows)
}
