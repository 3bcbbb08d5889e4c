//! Forged words of routers: "packet too big".

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, PacketBuilder, icmpv4::DestUnreachableHeader,
};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use super::scene::{SOON, Scene, all_answered};
use crate::{lab::Namespace, relay::Userspace, until};

/// What a router would say of a packet of the relay's: MTU, and the packet's source, destination and receiver index.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// What it says would pass, in bytes.
    pub mtu: u16,
    /// The packet's source.
    pub from: SocketAddr,
    /// The packet's destination.
    pub to: SocketAddr,
    /// The packet's receiver index.
    pub index: u32,
}

impl Claim {
    /// Sends it to the packet's source.
    pub fn send(&self, from: &Namespace) {
        let Self { mtu, from: source, to, index } = self;
        let mut message = vec![0; 1300];
        message[0] = 4;
        message[4..8].copy_from_slice(&index.to_le_bytes());
        let builder = match (source.ip(), to.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => PacketBuilder::ipv4(s.octets(), d.octets(), 60),
            (IpAddr::V6(s), IpAddr::V6(d)) => PacketBuilder::ipv6(s.octets(), d.octets(), 60),
            _ => unreachable!("one packet has one family"),
        };
        let mut quoted = Vec::new();
        builder.udp(source.port(), to.port()).write(&mut quoted, &message).expect("write to a vector");
        quoted.truncate(100);
        let (family, protocol, header) = if source.is_ipv4() {
            let kind = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: *mtu };
            let header = Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(kind), &quoted);
            (AddressFamily::INET, ipproto::ICMP, header.to_bytes().to_vec())
        } else {
            // The kernel computes the checksum.
            let header = Icmpv6Header::new(Icmpv6Type::PacketTooBig { mtu: (*mtu).into() });
            (AddressFamily::INET6, ipproto::ICMPV6, header.to_bytes().to_vec())
        };
        let socket =
            from.enter(|| socket(family, SocketType::RAW, Some(protocol))).expect("open a raw socket");
        let packet = [header, quoted].concat();
        sendto(&socket, &packet, SendFlags::empty(), &SocketAddr::new(source.ip(), 0)).expect("send ICMP");
    }
}

pub(super) fn forged_words() -> Result<String> {
    const EACH: u64 = 20;
    let scene = Scene::new();
    let session = scene.session(&scene.world.a, &scene.world.b);
    let right = Claim { mtu: 600, from: scene.relay(), to: session.destination, index: session.index() };
    let elsewhere = SocketAddr::new(session.destination.ip(), session.destination.port() ^ 1);
    let forged = [
        Claim { index: session.index() ^ 1, ..right },
        Claim { to: elsewhere, ..right },
        Claim { to: scene.victim.endpoint, ..right },
        Claim { mtu: 100, ..right },
        Claim { mtu: 9000, ..right },
    ];
    let heard = |scene: &Scene| {
        let Userspace { too_big_sent, too_big_ignored, .. } = scene.status().userspace;
        (too_big_sent, too_big_sent + too_big_ignored)
    };
    for claim in &forged {
        (0..EACH).for_each(|_| claim.send(&scene.outsider.namespace));
    }
    let all = EACH * forged.len() as u64;
    until("all claims in userspace", SOON, || (heard(&scene).1 >= all).then_some(()));
    let told = heard(&scene).0;
    ensure!(told == 0, "{told} of {all} forged words were passed on to a host");
    let pings = all_answered(&scene.world.a, &scene.world.b)?;
    right.send(&scene.outsider.namespace);
    until("a host that is told what is true", SOON, || (heard(&scene).0 == 1).then_some(()));
    Ok(format!("{all} forged, 0 passed on to a host; {pings} of {pings} pings answered"))
}
