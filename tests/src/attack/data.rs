//! Attacks with data: on sessions that live, and on sessions that may.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use super::{
    packets::fragments,
    scene::{SOON, Scene, all_answered, go_on},
    tap::Heard,
};
use crate::{internet::public, relay::SessionStatus, traffic::Pinging, until};

/// What forged data is filled with.
const MARK: u8 = 0xa7;

/// Transport data with this receiver index, so many bytes of it.
pub fn data(index: u32, len: usize) -> Vec<u8> {
    let mut message = vec![MARK; len];
    message[..4].copy_from_slice(&4_u32.to_le_bytes());
    message[4..8].copy_from_slice(&index.to_le_bytes());
    message
}

/// How much of what the relay has sent is such data.
pub fn forged(sent: &[Heard]) -> usize {
    sent.iter().filter(|heard| heard.is(4) && heard.message.ends_with(&[MARK; 8])).count()
}

/// Both directions of the session of a and b.
fn directions(scene: &Scene) -> [SessionStatus; 2] {
    let (a, b) = (&scene.world.a, &scene.world.b);
    [scene.session(a, b), scene.session(b, a)]
}

/// Sends forged data, whole and in fragments, from where it should come from, and waits until the relay has sent it on: so
/// nothing but its source is wrong about the rest, and all that was sent before has had its turn.
fn assert_forwarded_from_its_source(scene: &Scene, session: &SessionStatus) {
    let whole = scene.outsider.frame(session.source, &data(session.index(), 200));
    let large = scene.outsider.frame(session.source, &data(session.index(), 1000));
    scene.outsider.tap.send(&whole);
    fragments(&large).iter().for_each(|fragment| scene.outsider.tap.send(fragment));
    let mut seen = 0;
    until("data from the right source, sent on", SOON, || {
        seen += forged(&scene.sent_by_relay());
        (seen >= 2).then_some(())
    });
}

pub fn live_index_from_elsewhere() -> Result<String> {
    const EACH: usize = 200;
    let scene = Scene::new();
    let mut sent = 0;
    scene.sent_by_relay();
    let before = directions(&scene);
    for session in &before {
        let other_port = SocketAddr::new(session.source.ip(), session.source.port() ^ 1);
        let other_host = SocketAddr::new(public(66).0.into(), session.source.port());
        // The other side's own index, from the other side: a member that sends to itself.
        let other_side = session.destination;
        for source in [other_port, other_host, other_side, scene.mallory.endpoint] {
            let whole = scene.outsider.frame(source, &data(session.index(), 200));
            let parts = fragments(&scene.outsider.frame(source, &data(session.index(), 1000)));
            for _ in 0..EACH {
                scene.outsider.tap.send(&whole);
                parts.iter().for_each(|part| scene.outsider.tap.send(part));
            }
            sent += 2 * EACH;
        }
    }
    let pings = all_answered(&scene.world.a, &scene.world.b)?;
    let forwarded = forged(&scene.sent_by_relay());
    ensure!(forwarded == 0, "{forwarded} of {sent} were sent on");
    for (was, is) in before.iter().zip(directions(&scene)) {
        ensure!(was.source == is.source && was.destination == is.destination, "{was:?} is now {is:?}");
    }
    assert_forwarded_from_its_source(&scene, &before[0]);
    Ok(format!("{sent} packets, half of them in fragments: 0 sent on; {pings} of {pings} pings answered"))
}

pub fn index_guessing() -> Result<String> {
    const GUESSES: u32 = 100_000;
    let scene = Scene::new();
    let session = scene.session(&scene.world.a, &scene.world.b);
    let pings = Pinging::start(&scene.world.a, &scene.world.b, Duration::from_millis(10));
    pings.more(10, SOON);
    scene.sent_by_relay();
    let before = scene.status();
    let own: Vec<u32> = scene.world.relay.sessions().iter().map(SessionStatus::index).collect();
    for source in [session.source, scene.outsider.endpoint] {
        for _ in 0..GUESSES {
            let index = fastrand::u32(1..);
            if !own.contains(&index) {
                scene.outsider.send(source, &data(index, 64));
            }
        }
    }
    let guessed =
        ["data_own", "data_wrong_source", "known_over_budget", "source_over_budget", "unknown_over_budget"];
    let forwarded_too = [&guessed[..], &["forwarded_tx"]].concat();
    scene.await_packets(&before, u64::from(2 * GUESSES) - 100, &forwarded_too);
    let forwarded = forged(&scene.sent_by_relay());
    ensure!(forwarded == 0, "{forwarded} of {} guesses were sent on", 2 * GUESSES);
    go_on(&pings, 10)?;
    let lost = pings.lost();
    ensure!(lost.is_empty(), "pings of the live session were lost: {lost:?}");
    assert_forwarded_from_its_source(&scene, &session);
    Ok(format!("{GUESSES} from a's endpoint and {GUESSES} from elsewhere: 0 sent on, no ping lost"))
}
