//! Attacks on handshakes, by somebody who sees messages and forges sources.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::{
    data::data,
    scene::{SOON, Scene, all_answered, key_of},
    tap::Heard,
};
use crate::message::{INITIATION_MAC1, cookie_reply, initiation, response, sign};

/// How often a message is sent again or forged.
const TIMES: u64 = 20;

/// Messages of a type, and to where they went.
fn sent_to(heard: &[Heard], kind: u32, to: SocketAddr) -> usize {
    heard.iter().filter(|heard| heard.is(kind) && heard.to == to).count()
}

/// Messages of a type, wherever they went.
fn of_type(heard: &[Heard], kind: u32) -> usize {
    heard.iter().filter(|heard| heard.is(kind)).count()
}

pub fn replay_from_elsewhere() -> Result<String> {
    let scene = Scene::new();
    let outsider = &scene.outsider;
    let p = key_of(&scene.world.p);
    let cookie = outsider.prove(&p);
    let held = scene.hold_answer_of_p(&scene.world.a);
    let before = scene.status();
    scene.sent_by_relay();
    let mut replayed = held.initiation.clone();
    sign(&mut replayed, INITIATION_MAC1, &p, Some(&cookie));
    (0..TIMES).for_each(|_| outsider.send(outsider.endpoint, &replayed));
    scene.await_packets(&before, TIMES, &["initiation"]);
    let source = held.source;
    let took = held.release();
    let sent = scene.sent_by_relay();
    let stolen = sent_to(&sent, 2, outsider.endpoint);
    ensure!(stolen == 0, "p's answer went to the outsider");
    let took = took?;
    let answers = sent_to(&sent, 2, source);
    Ok(format!(
        "{TIMES} replays, 0 messages to their sender; {answers} answer to a, which talked after {took} ms"
    ))
}

pub fn replay_from_its_source() -> Result<String> {
    const MANY: u64 = 400;
    let scene = Scene::new();
    let held = scene.hold_answer_of_p(&scene.world.a);
    let (source, initiation) = (held.source, held.initiation.clone());
    held.release()?;
    let before = scene.status();
    scene.sent_by_relay();
    (0..MANY).for_each(|_| scene.outsider.send(source, &initiation));
    scene.await_packets(&before, MANY, &["initiation"]);
    let forwarded = sent_to(&scene.sent_by_relay(), 1, scene.p());
    // Five at once, and five a second.
    ensure!(forwarded <= 15, "{forwarded} of {MANY} were sent on to p");
    let (after, answered) = (scene.status(), all_answered(&scene.world.a, &scene.world.p)?);
    ensure!(after.sessions == before.sessions, "{} sessions, then {}", before.sessions, after.sessions);
    Ok(format!("{forwarded} of {MANY} sent on, no new session, {answered} of {answered} pings answered"))
}

pub fn forged_initiations() -> Result<String> {
    const EACH: u64 = 100;
    let scene = Scene::new();
    let (mallory, victim) = (&scene.mallory, scene.victim.endpoint);
    let a = key_of(&scene.world.a);
    let before = scene.status();
    scene.sent_by_relay();
    mallory.tap.heard();
    for recipient in [a, key_of(&scene.world.b), mallory.key] {
        (0..EACH).for_each(|_| {
            scene.outsider.send(victim, &initiation(fastrand::u32(1..), &recipient, None));
        });
    }
    scene.await_packets(&before, 3 * EACH, &["initiation"]);
    // Mallory answers what has come to it as if a had sent it, and sends what data it can.
    let reached: Vec<u32> = mallory
        .tap
        .heard()
        .iter()
        .filter(|heard| heard.is(1))
        .map(|heard| u32::from_le_bytes(heard.message[4..8].try_into().expect("four bytes")))
        .collect();
    for &index in &reached {
        mallory.send(mallory.endpoint, &response(fastrand::u32(1..), index, &a));
    }
    if !reached.is_empty() {
        scene.await_packets(&before, reached.len() as u64, &["response"]);
    }
    for index in reached.iter().flat_map(|index| [index; 100]) {
        mallory.send(mallory.endpoint, &data(*index, 1200));
    }
    let answered = all_answered(&scene.world.a, &scene.world.b)?;
    let sent = scene.sent_by_relay();
    let (in_its_name, to_it) =
        (3 * EACH as usize * (148 + 28), sent.iter().filter(|heard| heard.to == victim));
    let bytes: usize = to_it.clone().map(Heard::bytes).sum();
    let other = to_it.clone().filter(|heard| !heard.is(3)).count();
    ensure!(bytes <= in_its_name, "the victim was sent {bytes} bytes for {in_its_name}");
    ensure!(other == 0, "the victim was sent {other} messages that are no cookie replies");
    ensure!(of_type(&sent, 1) == 0, "{} initiations were sent on", of_type(&sent, 1));
    let aimed = scene.world.relay.sessions().iter().filter(|s| s.destination == victim).count();
    ensure!(aimed == 0, "{aimed} sessions lead to the victim");
    Ok(format!(
        "{in_its_name} bytes in the victim's name, {} cookie replies ({bytes} bytes) to it, nothing sent on; \
         {answered} of {answered} pings answered",
        to_it.count()
    ))
}

pub fn forged_responses() -> Result<String> {
    let scene = Scene::new();
    let a = key_of(&scene.world.a);
    let held = scene.hold_answer_of_p(&scene.world.a);
    let before = scene.status();
    scene.sent_by_relay();
    let elsewhere = SocketAddr::new(scene.p().ip(), scene.p().port() ^ 1);
    for source in [scene.outsider.endpoint, elsewhere, scene.mallory.endpoint] {
        (0..TIMES).for_each(|_| {
            scene.outsider.send(source, &response(fastrand::u32(1..), held.index(), &a));
        });
    }
    scene.await_packets(&before, 3 * TIMES, &["response", "response_wrong_source"]);
    let forwarded = of_type(&scene.sent_by_relay(), 2);
    ensure!(forwarded == 0, "{forwarded} forged responses were sent on");
    let opened = scene.status().handshakes("session_opened") - before.handshakes("session_opened");
    ensure!(opened == 0, "{opened} sessions were opened by forged responses");
    let took = held.release()?;
    Ok(format!(
        "{} forged, 0 sent on, no session; p's answer came through, a talked after {took} ms",
        3 * TIMES
    ))
}

pub fn forged_response_first() -> Result<String> {
    let scene = Scene::new();
    let a = key_of(&scene.world.a);
    let held = scene.hold_answer_of_p(&scene.world.a);
    let source = held.source;
    scene.sent_by_relay();
    // From the very endpoint of p.
    scene.outsider.send(scene.p(), &response(fastrand::u32(1..), held.index(), &a));
    let is_sent_on = |heard: &Heard| (heard.is(2) && heard.to == source).then_some(());
    scene.at_relay.wait_for(SOON, is_sent_on).expect("nobody can tell it from a genuine one");
    let took = held.release()?;
    let answered = all_answered(&scene.world.a, &scene.world.p)?;
    Ok(format!(
        "the genuine one, second, took its place: a talked after {took} ms, {answered} of {answered} pings answered"
    ))
}

pub fn forged_cookies() -> Result<String> {
    let scene = Scene::new();
    let live = [
        scene.session(&scene.world.a, &scene.world.b).index(),
        scene.session(&scene.world.b, &scene.world.a).index(),
    ];
    let held = scene.hold_answer_of_p(&scene.world.a);
    let before = scene.status();
    scene.sent_by_relay();
    let indices = [live[0], live[1], held.index()];
    for index in indices {
        for source in [scene.outsider.endpoint, scene.mallory.endpoint] {
            (0..TIMES).for_each(|_| scene.outsider.send(source, &cookie_reply(index)));
        }
    }
    let all = TIMES * 2 * indices.len() as u64;
    scene.await_packets(&before, all, &["cookie_reply", "cookie_reply_wrong_source"]);
    let forwarded = of_type(&scene.sent_by_relay(), 3);
    ensure!(forwarded == 0, "{forwarded} forged cookie replies were sent on");
    let took = held.release()?;
    Ok(format!("{all} forged, 0 sent on; a talked after {took} ms"))
}

pub fn initiations_by_a_stranger() -> Result<String> {
    const MANY: u64 = 300;
    let scene = Scene::new();
    let (outsider, b) = (&scene.outsider, key_of(&scene.world.b));
    let cookie = outsider.prove(&b);
    let before = scene.status();
    let to_b = scene.session(&scene.world.a, &scene.world.b).destination.ip();
    scene.sent_by_relay();
    (0..MANY)
        .for_each(|_| outsider.send(outsider.endpoint, &initiation(fastrand::u32(1..), &b, Some(&cookie))));
    scene.await_packets(&before, MANY, &["initiation"]);
    let sent = scene.sent_by_relay();
    let reached = sent.iter().filter(|heard| heard.is(1) && heard.to.ip() == to_b).count();
    // Five at once, and five a second.
    ensure!(reached <= 15, "{reached} of {MANY} were sent on to b");
    let answered = all_answered(&scene.world.a, &scene.world.b)?;
    Ok(format!("{reached} of {MANY} sent on to b; {answered} of {answered} pings answered"))
}

pub fn many_answers() -> Result<String> {
    const MANY: u64 = 100;
    let scene = Scene::new();
    let (outsider, mallory, a) = (&scene.outsider, &scene.mallory, key_of(&scene.world.a));
    outsider.prove(&mallory.key);
    let index = open_to_mallory(&scene);
    let before = scene.status();
    outsider.tap.heard();
    (0..MANY).for_each(|_| mallory.send(mallory.endpoint, &response(fastrand::u32(1..), index, &a)));
    scene.await_packets(&before, MANY, &["response"]);
    let answers = outsider.tap.heard().iter().filter(|heard| heard.is(2)).count();
    ensure!(answers <= 3, "{answers} of {MANY} answers to one initiation were sent back");
    Ok(format!("{answers} of {MANY} answers to one initiation sent back"))
}

/// The outsider, which has proven its address, has an initiation sent on to mallory, who says nothing yet: its index.
pub fn open_to_mallory(scene: &Scene) -> u32 {
    let (outsider, mallory) = (&scene.outsider, &scene.mallory);
    let index = fastrand::u32(1..);
    mallory.tap.heard();
    outsider.send(outsider.endpoint, &initiation(index, &mallory.key, None));
    let is = |heard: &Heard| (heard.is(1) && heard.message[4..8] == index.to_le_bytes()).then_some(());
    mallory.tap.wait_for(SOON, is).expect("the initiation is sent on to mallory");
    index
}
