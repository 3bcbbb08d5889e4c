//! How long a handshake of known hosts waits behind a burst of initiations from unknown sources: the whole daemon in
//! driver mode, every message by the ring buffer, through the tracker and out by raw sockets.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::Result;

use super::{
    flows::{GATEWAY_MAC, RELAY, frame},
    place::Place,
    wgrelay::WgrelayInPlace,
};
use crate::{
    bench::{
        Effort,
        stats::{Samples, Spread, interleave},
    },
    lab::Lab,
};

/// Members beside the two hosts: whom an unknown source wants is searched among all.
const OTHERS: usize = 1_000;
/// Initiations in a burst. The ring buffer holds some 5,000.
const BURSTS: [usize; 4] = [0, 100, 1_000, 4_000];

/// What was measured with bursts of one size.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// How many members there are.
    pub members: usize,
    /// How many initiations came right before, each from another unknown source and for nobody.
    pub burst: usize,
    /// From a known host's initiation until it has the other's response, in milliseconds.
    pub milliseconds: Spread,
}

/// Measures.
///
/// # Errors
/// If a handshake does not come about.
pub fn run(effort: Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let rounds = if effort == Effort::Short { 3 } else { 20 };
    let lab = Lab::new();
    let mut place = Place::new(&lab, "flood")?;
    let mut relay = WgrelayInPlace::start_with(&mut place, "driver", OTHERS)?;
    let mut random = fastrand::Rng::with_seed(1);
    let samples = interleave(
        &mut BURSTS.clone(),
        rounds,
        |&mut burst| {
            let burst: Vec<_> = (0..burst).map(|_| bogus(&mut random, place.relay_mac)).collect();
            let waited = relay.handshake_behind(&mut place, &burst)?;
            // What is still queued is before this one.
            relay.handshake_behind(&mut place, &[])?;
            Ok(waited.as_secs_f64() * 1e3)
        },
        |round| progress(&format!("flood: round {} of {rounds}", round + 1)),
    )?;
    let row = |(&burst, samples): (&usize, &Samples)| Row {
        members: OTHERS + 2,
        burst,
        milliseconds: Spread::from(samples),
    };
    Ok(BURSTS.iter().zip(&samples).map(row).collect())
}

/// An initiation for nobody, from anywhere behind the gateway.
fn bogus(random: &mut fastrand::Rng, relay_mac: [u8; 6]) -> Vec<u8> {
    let mut message = [0; 148];
    random.fill(&mut message);
    message[..4].copy_from_slice(&1_u32.to_le_bytes());
    let source =
        SocketAddrV4::new([100, random.u8(..), random.u8(..), random.u8(..)].into(), random.u16(1024..));
    frame([GATEWAY_MAC, relay_mac], source, RELAY, &message)
}

impl WgrelayInPlace {
    /// Sends frames as fast as can be, then has the two peers make a handshake, and tells how long that took.
    fn handshake_behind(&mut self, place: &mut Place, frames: &[Vec<u8>]) -> Result<Duration> {
        for frame in frames {
            place.load.send(frame)?;
        }
        self.meet(place)
    }
}
