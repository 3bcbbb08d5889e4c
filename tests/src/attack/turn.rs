//! Attacks on the TURN server, by somebody without an allocation and by somebody with one.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};

use super::{
    scene::SOON,
    tap::{Hears, Tap},
};
use crate::{
    bench::xdp::traffic::{Macs, frame},
    internet::public,
    relay::Outer,
    turn::{ECHO, PORT, TurnWorld},
    turn_client::TurnClient,
    turn_requests::NUMBER,
    until,
};

const OUTSIDER: u8 = 66;
/// What data is filled with.
const MARK: [u8; 100] = [0xa7; 100];

fn server() -> SocketAddr {
    SocketAddr::new(TurnWorld::server(Outer::Ipv4), PORT)
}

pub fn stolen_channel() -> Result<String> {
    const EACH: usize = 200;
    let world = TurnWorld::running("");
    let outsider = world.lab.namespace("outsider");
    world.internet.attach(&outsider, "eth0", OUTSIDER);
    let client = TurnClient::allocate(&world.client, server());
    let (inside, peer) = (client.outside(), SocketAddr::new(TurnWorld::peer_address(Outer::Ipv4), ECHO));
    assert!(client.bind(peer), "the client may have a channel to the peer");
    let [at_client, at_peer, tap] =
        [&world.client, &world.peer, &outsider].map(|node| Tap::new(node, "eth0", Hears::Incoming));
    let macs =
        Macs { source: outsider.mac_octets("eth0"), destination: world.relay.namespace.mac_octets("eth0") };
    let data = [&NUMBER.to_be_bytes()[..], &(MARK.len() as u16).to_be_bytes(), &MARK].concat();
    let own = SocketAddr::new(public(OUTSIDER).0.into(), inside.port());
    let other_port = SocketAddr::new(inside.ip(), inside.port() ^ 1);
    let before = world.relay.status().packets("no_channel");
    for _ in 0..EACH {
        // As the client, and as the peer. (At another port of its address the peer is permitted: RFC 8656, section 9.)
        for source in [own, other_port] {
            tap.send(&frame(macs, source, server(), 64, &data));
        }
        for source in [own, SocketAddr::new(own.ip(), peer.port())] {
            tap.send(&frame(macs, source, client.relayed, 64, &MARK));
        }
    }
    let carried = || {
        let status = world.relay.status();
        status.packets("channel_tx") + status.packets("channel_redirect")
    };
    until("all of it at the relay", SOON, || {
        (world.relay.status().packets("no_channel") + carried() >= before + 4 * EACH as u64).then_some(())
    });
    let marked = |tap: &Tap| tap.heard().iter().filter(|heard| heard.message.ends_with(&MARK)).count();
    let (to_peer, to_client) = (marked(&at_peer), marked(&at_client));
    ensure!(to_peer == 0, "{to_peer} of {} went to the peer", 2 * EACH);
    ensure!(to_client == 0, "{to_client} of {} went to the client", 2 * EACH);
    tap.send(&frame(macs, inside, server(), 64, &data));
    tap.send(&frame(macs, peer, client.relayed, 64, &MARK));
    until("data from the right sources, carried", SOON, || (carried() >= 2).then_some(()));
    Ok(format!("{} packets to the channel from wrong sources, 0 carried", 4 * EACH))
}

pub fn private_peers() -> Result<String> {
    const FORBIDDEN: [&str; 8] = [
        "127.0.0.1",
        "10.77.0.9",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "0.0.0.0",
    ];
    let world = TurnWorld::running("");
    let client = TurnClient::allocate(&world.client, server());
    let own = [TurnWorld::server(Outer::Ipv4)];
    let forbidden = FORBIDDEN.iter().map(|ip| ip.parse::<IpAddr>().expect("an address")).chain(own);
    let refused: Vec<bool> = forbidden.clone().map(|peer| !client.bind(SocketAddr::new(peer, 22))).collect();
    let let_in: Vec<_> =
        forbidden.zip(&refused).filter(|(_, refused)| !**refused).map(|(peer, _)| peer).collect();
    ensure!(let_in.is_empty(), "a client was given a channel to {let_in:?}");
    let peer = SocketAddr::new(TurnWorld::peer_address(Outer::Ipv4), ECHO);
    assert!(client.bind(peer), "the client may have a channel to the peer");
    Ok(format!("{} forbidden peers, all refused", refused.len()))
}
