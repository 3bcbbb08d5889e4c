//! Frames that no honest host sends: all that can be wrong with data of a live session, and messages of no known shape.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};

use super::{
    data::{data, forged},
    packets::{ETHERNET, fragment, ip_len, is_ipv4, sum_ipv4},
    scene::{SOON, Scene, all_answered, go_on},
};
use crate::{
    relay::{Outer, Status},
    traffic::Pinging,
    until,
    wait::within,
};

/// How often each frame is sent.
const TIMES: usize = 3;

/// A frame with some bytes of it replaced, and its IPv4 header checksum made right.
fn with(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = frame.to_vec();
    changed[at..at + bytes.len()].copy_from_slice(bytes);
    if is_ipv4(frame) {
        sum_ipv4(&mut changed);
    }
    changed
}

/// A frame with bytes put in.
fn with_more(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    [&frame[..at], bytes, &frame[at..]].concat()
}

/// Frames that end too early, or whose lengths lie.
fn lengths(good: &[u8]) -> Vec<Vec<u8>> {
    let (ip, udp) = (ETHERNET, ETHERNET + ip_len(good));
    let ip_at = if is_ipv4(good) { ip + 2 } else { ip + 4 };
    let right = |at: usize| u16::from_be_bytes([good[at], good[at + 1]]);
    let lies = |right: u16| {
        [0, 1, 7, 8, 19, 20, 27, 28, 39, 40, right - 8, right - 1, right + 1, right + 8, 0x7fff, 0xffff]
    };
    let mut frames: Vec<_> = (ETHERNET + 1..good.len()).map(|len| good[..len].to_vec()).collect();
    frames.extend(lies(right(ip_at)).map(|lie| with(good, ip_at, &lie.to_be_bytes())));
    frames.extend(lies(right(udp + 4)).map(|lie| with(good, udp + 4, &lie.to_be_bytes())));
    // Both agree, but there is not so much.
    let longer = with(good, ip_at, &(right(ip_at) + 100).to_be_bytes());
    frames.push(with(&longer, udp + 4, &(right(udp + 4) + 100).to_be_bytes()));
    frames
}

/// Headers as there are none, or as they may be but with nothing behind them that fits.
fn headers(good: &[u8]) -> Vec<Vec<u8>> {
    let ip = ETHERNET;
    let tags = with_more(good, 12, &[0x81, 0, 0, 1].repeat(5));
    let mut frames = vec![tags];
    if is_ipv4(good) {
        frames.extend((0..=0xff).filter(|version_ihl| *version_ihl != 0x45).map(|v| with(good, ip, &[v])));
        // Options whose length is 0, too long, or is not there.
        for options in [[7, 0, 4, 0], [7, 40, 4, 0], [0x44, 255, 5, 0], [1, 1, 1, 7]] {
            frames.push(with(&with_more(good, ip + 20, &options), ip, &[0x46]));
        }
        frames.extend((0..=0xff).filter(|protocol| *protocol != 17).map(|p| with(good, ip + 9, &[p])));
    } else {
        frames.extend((0..16).filter(|version| *version != 6).map(|v| with(good, ip, &[v << 4])));
        frames.extend((0..=0xff).filter(|next| *next != 17).map(|next| with(good, ip + 6, &[next])));
        // UDP without a checksum.
        frames.push(with(good, ip + 46, &[0; 2]));
        // From an IPv4-mapped address, and from and to none.
        frames.push(with(good, ip + 8, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 9]));
        frames.push(with(good, ip + 8, &[0; 16]));
        frames.push(with(good, ip + 24, &[0; 16]));
        let behind = |next: u8, header: &[u8], payload_len: u16| {
            let longer = with(&with_more(good, ip + 40, header), ip + 6, &[next]);
            with(&longer, ip + 4, &payload_len.to_be_bytes())
        };
        let len = |header: &[u8]| (good.len() - ip - 40 + header.len()) as u16;
        // A jumbogram, whose length is not in the header; a chain of headers that ends nowhere; routing of type 0.
        frames.push(behind(0, &[17, 0, 0xc2, 4, 0, 1, 0, 0], 0));
        let chain = [60, 0, 1, 4, 0, 0, 0, 0].repeat(20);
        frames.push(behind(60, &chain, len(&chain)));
        let routing = [17, 0, 0, 9, 0, 0, 0, 0];
        frames.push(behind(43, &routing, len(&routing)));
    }
    frames
}

/// Fragments of which no datagram comes about.
fn torn(good: &[u8]) -> Vec<Vec<u8>> {
    let id = || fastrand::u32(..);
    let (first, overlapping) = (id(), id());
    vec![
        fragment(good, 0..8, true, id()),
        fragment(good, 0..0, true, id()),
        fragment(good, 0..13, true, id()),
        fragment(good, 64..128, true, id()),
        // There is a hole between them.
        fragment(good, 0..64, true, first),
        fragment(good, 128..200, false, first),
        // They overlap.
        fragment(good, 0..64, true, overlapping),
        fragment(good, 32..96, true, overlapping),
        fragment(good, 96..200, false, overlapping),
        // A datagram that would be longer than there may be.
        fragment(good, 65_528..65_628, false, id()),
    ]
}

/// Datagrams that are no WireGuard messages.
fn messages(index: u32) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..32).map(|len| data(index, 32)[..len].to_vec()).collect();
    let of_kind = |word: u32, len: usize| {
        let mut message = data(index, len);
        message[..4].copy_from_slice(&word.to_le_bytes());
        message
    };
    for (kind, len) in [(1, 148), (2, 92), (3, 64)] {
        all.extend([32, len - 1, len + 1, 1400].map(|len| of_kind(kind, len)));
    }
    all.extend([0, 5, 6, 255, 0x0100_0004, 0x0400_0000, u32::MAX].map(|word| of_kind(word, 200)));
    all.push(data(0, 200));
    all
}

/// What was not forwarded, whatever the reason.
fn counted(status: &Status) -> u64 {
    status.counters.iter().filter(|c| !c.reason.starts_with("forwarded")).map(|c| c.packets).sum()
}

/// Lets the bridge pass what makes no sense. Where its packets go through netfilter, that looks into them.
fn let_all_through(scene: &Scene) {
    let (bridge, _) = scene.world.internet.port(&scene.world.relay.namespace);
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        let path = format!("net/bridge/{name}");
        if Path::new("/proc/sys").join(&path).exists() {
            bridge.set(&path, "0");
        }
    }
}

fn corpus(outer: Outer) -> Result<String> {
    let scene = Scene::over(outer);
    let_all_through(&scene);
    let session = scene.session(&scene.world.a, &scene.world.b);
    let good = scene.outsider.frame(session.source, &data(session.index(), 200));
    let mut frames = [lengths(&good), headers(&good), torn(&good)].concat();
    let messages = messages(session.index());
    frames.extend(messages.iter().map(|message| scene.outsider.frame(session.source, message)));
    frames.extend(messages.iter().map(|message| scene.outsider.frame(scene.outsider.endpoint, message)));
    let pings = Pinging::start(&scene.world.a, &scene.world.b, Duration::from_millis(10));
    pings.more(10, SOON);
    scene.sent_by_relay();
    let before = scene.status();
    for _ in 0..TIMES {
        frames.iter().for_each(|frame| scene.outsider.tap.send(frame));
    }
    let sent = (TIMES * frames.len()) as u64;
    let all_counted = within(SOON, || (counted(&scene.status()) >= counted(&before) + sent).then_some(()));
    go_on(&pings, 20)?;
    let lost = pings.lost();
    ensure!(lost.is_empty(), "pings of the live session were lost: {lost:?}");
    let forwarded = forged(&scene.sent_by_relay());
    ensure!(forwarded == 0, "{forwarded} of {sent} were sent on");
    ensure!(all_counted.is_some(), "{} of {sent} were counted", counted(&scene.status()) - counted(&before));
    all_answered(&scene.world.a, &scene.world.b)?;
    // With nothing wrong about it.
    scene.outsider.tap.send(&good);
    until("data that is right, sent on", SOON, || (forged(&scene.sent_by_relay()) == 1).then_some(()));
    Ok(format!("{} frames, {sent} in all: all counted, 0 sent on, no ping lost", frames.len()))
}

pub fn over_ipv4() -> Result<String> {
    corpus(Outer::Ipv4)
}

pub fn over_ipv6() -> Result<String> {
    corpus(Outer::Ipv6)
}
