//! The program in generic mode, where packets are the kernel's own buffers: real frames in, and real frames out.
//!
//! The devices are TAP ones. They show what was sent as it is; a packet socket would take VLAN tags out of it.

use std::{net::UdpSocket, time::Duration};

use aya::programs::XdpMode;
use relay_ebpf::{
    event::TOO_BIG,
    reason::{Family, Reason},
    tables::NextHop,
};

use crate::{
    datagram::{Datagram, initiation, transport_data},
    fixture::shown,
    namespace::{self, Tap},
    relay::{FAMILIES, Hop, Hosts, RELAY_MAC, Relay},
};

const HOPS: [Hop; 4] = [Hop::Back, Hop::Across, Hop::BackTagged, Hop::AcrossTwiceTagged];

#[test]
fn generic_mode_carries_real_frames() {
    namespace::run(|| {
        let mac = RELAY_MAC.map(|octet| format!("{octet:02x}")).join(":");
        let [ingress, across] = ["tap0", "tap1"].map(|name| {
            let tap = Tap::new(name);
            namespace::ip(&format!("link set {name} mtu 9000 up"));
            tap
        });
        namespace::ip(&format!("link set tap0 address {mac}"));
        for hosts in &FAMILIES {
            let nodad = if hosts.relay.is_ipv6() { "nodad" } else { "" };
            namespace::ip(&format!("address add {} dev tap0 {nodad}", hosts.relay.ip()));
            let family = if hosts.relay.is_ipv6() { "-6" } else { "-4" };
            namespace::ip(&format!("{family} route add default dev tap0"));
        }

        let mut relay = Relay::new();
        let any = UdpSocket::bind("[::]:0").unwrap();
        for (name, hops) in
            [("tap0", [Hop::Back, Hop::BackTagged]), ("tap1", [Hop::Across, Hop::AcrossTwiceTagged])]
        {
            let ifindex = rustix::net::netdevice::name_to_index(&any, name).unwrap();
            relay.tx_ports().insert(ifindex, ifindex, None, 0).unwrap();
            for hop in hops {
                relay.next_hop(hop, NextHop { ifindex, ..hop.entry() });
            }
        }
        relay.program_mut().attach("tap0", XdpMode::Skb).expect("attach XDP to a TAP in generic mode");

        for hosts in &FAMILIES {
            for to in &FAMILIES {
                for hop in HOPS {
                    let out = if hop.reason() == Reason::ForwardedTx { &ingress } else { &across };
                    forwarded(hosts, to, hop, &ingress, out);
                }
            }
            passed(&mut relay, hosts, &ingress);
        }
    });
}

fn forwarded(hosts: &Hosts, to: &Hosts, hop: Hop, ingress: &Tap, out: &Tap) {
    let tags = [[0x88, 0xa8, 0, 7], [0x81, 0, 0, 9]];
    for tags in [&[][..], &tags[1..], &tags] {
        for len in [32, 133, 1300] {
            let payload = transport_data(hosts.session_to(to, hop), len);
            let datagram = Datagram { tags: tags.to_vec(), ..hosts.datagram(hosts.alice, payload) };
            ingress.receive(&datagram.frame());
            let after = hosts.sent_on_to(to, &datagram, hop);
            assert_eq!(out.sent(after.source_mac), after.frame(), "{tags:x?}, {len} bytes, {hop:?}");
        }
    }
}

/// What is passed comes to the host's own socket, and what is too big does not.
fn passed(relay: &mut Relay, hosts: &Hosts, ingress: &Tap) {
    let socket = UdpSocket::bind(hosts.relay).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    relay.forget_hints();
    relay.events();

    let data = |index, len| hosts.datagram(hosts.alice, transport_data(index, len));
    // As large as several segments that a sender has left for others to cut apart.
    let too_big = data(hosts.session(Hop::Back), 4000);
    ingress.receive(&too_big.frame());
    let mut passed = vec![
        hosts.datagram(hosts.alice, initiation(1)),
        data(hosts.unknown(), 96),
        data(hosts.session(Hop::Unresolved), 1300),
        hosts.datagram(hosts.alice, vec![9; 4000]),
    ];
    if hosts.family == Family::Ipv4 {
        passed.push(Datagram { dont_fragment: false, ..too_big.clone() });
    }
    for datagram in &passed {
        ingress.receive(&datagram.frame());
        let mut received = [0; 9000];
        let (len, from) = socket.recv_from(&mut received).expect("the host gets what is passed");
        assert_eq!((&received[..len], from), (&datagram.payload[..], datagram.source));
    }
    assert_eq!(relay.counter(Reason::TooBig, hosts.family).packets, 1);
    assert_eq!(relay.counter(Reason::Initiation, hosts.family).packets, 1);
    let events = relay.events();
    let [told, copied] = events[..] else { panic!("{:?}", events.iter().map(shown).collect::<Vec<_>>()) };
    assert_eq!((told.kind, told.message_len), (TOO_BIG, 4000));
    assert_eq!(copied.message(), Some(&initiation(1)[..]));
}
