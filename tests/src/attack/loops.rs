//! Two relays that each say of a member that the other one relays it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use relay_user::members::PublicKey;

use super::{
    scene::SOON,
    tap::{Heard, Hears, Tap},
};
use crate::{
    bench::xdp::traffic::{Macs, frame},
    internet::{Internet, public},
    lab::Lab,
    message::initiation,
    relay::{Member, PORT, Relay},
    until,
};

/// The public numbers of the relays, and of the member that sends.
const RELAYS: [u8; 2] = [1, 6];
const MEMBER: u8 = 67;

/// Both of a node's endpoints. A relay with one would be stopped by less: nothing goes back to where it came from.
fn endpoints(number: u8) -> [SocketAddr; 2] {
    let (v4, v6) = public(number);
    [SocketAddr::new(v4.into(), PORT), SocketAddr::new(v6.into(), PORT)]
}

pub fn two_relays() -> Result<String> {
    const MANY: u64 = 5;
    let lab = Lab::new();
    let mut internet = Internet::new(&lab);
    let sender = lab.namespace("sender");
    internet.attach(&sender, "eth0", MEMBER);
    let mut relays = RELAYS.map(|number| {
        let namespace = lab.namespace(&format!("relay-{number}"));
        internet.attach_for_xdp(&namespace, "eth0", number);
        Relay::numbered(&namespace, number)
    });
    let [member, nowhere] = [(); 2].map(|()| PublicKey(std::array::from_fn(|_| fastrand::u8(1..))));
    for (relay, other) in relays.iter_mut().zip([RELAYS[1], RELAYS[0]]) {
        relay.members.push(Member {
            name: "member".to_owned(),
            public_key: member.to_string(),
            relayed: false,
            endpoints: vec![endpoints(MEMBER)[0]],
        });
        relay.control = format!(
            "\n[[member]]\nname = \"nowhere\"\npublic_key = \"{nowhere}\"\nnetworks = [\"mesh\"]\n\
             relayed_by = \"relay-{other}\"\n\n[[other_relay]]\nname = \"relay-{other}\"\nendpoints = {:?}\n",
            endpoints(other).map(|endpoint| endpoint.to_string())
        );
        // Nobody is relayed here, and they may talk nevertheless.
        relay.changes = vec![(r#"policy = "members""#.to_owned(), r#"policy = "any""#.to_owned())];
        relay.start();
    }
    let [first, second] = &relays;
    let macs = relays.each_ref().map(|relay| relay.namespace.mac_octets("eth0"));
    let (bridge, port) = internet.port(&first.namespace);
    let between = Tap::new(bridge, &port, Hears::Both);
    let tap = Tap::new(&sender, "eth0", Hears::Incoming);
    let there = Macs { source: sender.mac_octets("eth0"), destination: macs[0] };
    let [source, to] = [MEMBER, RELAYS[0]].map(|number| endpoints(number)[0]);
    for _ in 0..MANY {
        tap.send(&frame(there, source, to, 64, &initiation(fastrand::u32(1..), &nowhere, None)));
    }
    until("the second relay's verdict", SOON, || {
        let status = second.status();
        let judged: u64 = status.handshakes.iter().map(|outcome| outcome.count).sum();
        (judged >= MANY).then_some(())
    });
    // A relay that passes it on has done so by now: the other one has its answer already, or gets it in this instant.
    until("the first relay's verdict", SOON, || {
        (first.status().userspace.handshake_messages >= first.status().packets("initiation")).then_some(())
    });
    let heard = between.heard();
    let sent_by = |mac: [u8; 6]| heard.iter().filter(|h: &&Heard| h.mac == mac && h.is(1)).count();
    let (out, back) = (sent_by(macs[0]), sent_by(macs[1]));
    ensure!(back == 0, "{back} initiations came back from the second relay, of {out}");
    ensure!(out as u64 == MANY, "{out} initiations went to the second relay, of {MANY}");
    Ok(format!("{out} initiations for a member that is nowhere: {out} to the second relay, 0 back"))
}
