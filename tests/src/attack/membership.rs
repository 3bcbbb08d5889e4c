//! Attacks by a member, whose messages have right macs and come from where it is known to be.

use std::time::Duration;

use anyhow::{Result, ensure};
use relay_user::members::PublicKey;

use super::{
    data::{data, forged},
    handshakes::open_to_mallory,
    scene::{FIRST_TRY, SOON, Scene, all_answered, go_on, key_of},
    tap::Heard,
};
use crate::{
    message::{initiation, response},
    relay::SessionStatus,
    traffic::{Pinging, ping},
    wait::within,
};

/// Mallory plays a: it answers an initiation of an accomplice as if it had come from a. That is a session like any other.
fn play_a(scene: &Scene, index: u32, answer: u32) {
    let before = scene.status();
    scene.mallory.send(scene.mallory.endpoint, &response(answer, index, &key_of(&scene.world.a)));
    scene.await_packets(&before, 1, &["response"]);
}

pub fn spoofed_move() -> Result<String> {
    let scene = Scene::new();
    let (outsider, mallory) = (&scene.outsider, &scene.mallory);
    let (a, b) = (&scene.world.a, &scene.world.b);
    let where_is_a = || scene.world.relay.host("a").endpoint.unwrap_or_default();
    let endpoint = where_is_a();
    let session = scene.session(a, b);
    let stays = || {
        let is = where_is_a();
        ensure!(is == endpoint, "a was at {endpoint}, and is now at {is}");
        let now = scene.session(a, b);
        ensure!(now.source == session.source, "the session of a and b has moved to {}", now.source);
        Ok(())
    };
    let of_a: Vec<Heard> = scene.at_relay.heard();
    let of_a = of_a.iter().filter(|heard| heard.from.to_string() == endpoint);
    // The accomplice is taken for a in its session with mallory, and in that one alone.
    outsider.prove(&mallory.key);
    let index = open_to_mallory(&scene);
    outsider.tap.heard();
    play_a(&scene, index, fastrand::u32(1..));
    let answered = outsider.tap.wait_for(SOON, |heard| heard.is(2).then_some(()));
    answered.expect("mallory can answer as it likes");
    stays()?;
    // Data of a live session, initiations for the relay itself, and what a has said to the relay, all from elsewhere.
    let relay_key = PublicKey::from_base64(&scene.world.relay.keys.public).expect("wg prints keys in base64");
    let before = scene.status();
    for _ in 0..20 {
        outsider.send(outsider.endpoint, &data(session.index(), 200));
        outsider.send(outsider.endpoint, &initiation(fastrand::u32(1..), &relay_key, None));
        mallory.send(mallory.endpoint, &initiation(fastrand::u32(1..), &relay_key, None));
    }
    of_a.take(50).for_each(|heard| outsider.send(outsider.endpoint, &heard.message));
    scene.await_packets(&before, 40, &["initiation"]);
    stays()?;
    outsider.tap.heard();
    scene.world.p.forget_peer(a);
    let answered =
        within(FIRST_TRY, || (ping(&scene.world.p, a, 1, Duration::from_secs(1)).received > 0).then_some(()));
    let stolen = outsider.tap.heard().iter().filter(|heard| heard.is(1)).count();
    ensure!(stolen == 0, "{stolen} initiations for a went to the outsider");
    ensure!(answered.is_some(), "p does not reach a with its first try");
    Ok("a stays where it was; a new handshake of p reached it at the first try".to_owned())
}

pub fn chosen_indices() -> Result<String> {
    let scene = Scene::new();
    let (a, b) = (&scene.world.a, &scene.world.b);
    let key_b = key_of(b);
    let live: Vec<SessionStatus> = [(a, b), (b, a)].map(|(from, to)| scene.session(from, to)).into();
    let pings = Pinging::start(a, b, Duration::from_millis(10));
    pings.more(10, SOON);
    scene.sent_by_relay();
    scene.outsider.prove(&scene.mallory.key);
    for session in &live {
        // In an initiation of its own, and in an answer.
        scene.mallory.send(scene.mallory.endpoint, &initiation(session.index(), &key_b, None));
        let index = open_to_mallory(&scene);
        play_a(&scene, index, session.index());
    }
    for session in &live {
        for attacker in [&scene.mallory, &scene.outsider] {
            (0..20).for_each(|_| attacker.send(attacker.endpoint, &data(session.index(), 200)));
        }
    }
    go_on(&pings, 20)?;
    let lost = pings.lost();
    ensure!(lost.is_empty(), "pings of the live session were lost: {lost:?}");
    for was in &live {
        let sessions = scene.world.relay.sessions();
        let is = sessions.iter().find(|session| session.index() == was.index());
        let same = is.is_some_and(|is| (is.source, is.destination) == (was.source, was.destination));
        ensure!(same, "{was:?} is now {is:?}");
    }
    let forwarded = forged(&scene.sent_by_relay());
    ensure!(forwarded == 0, "{forwarded} packets of mallory's were sent on by a's or b's index");
    all_answered(a, b)?;
    Ok("4 messages with live indices: the session is what it was, no ping lost".to_owned())
}
