//! The program as it is attached: in driver mode on a veth, with packets that the kernel's own stack sends and receives.

use std::{net::UdpSocket, time::Duration};

use aya::programs::XdpMode;
use relay_ebpf::{
    reason::Reason,
    tables::{NextHop, TAGS_MAX},
};

use crate::{
    datagram::{initiation, transport_data},
    namespace::{self, command},
    relay::{FAMILIES, Hop, MTU, RELAY_MAC, Relay, SENDER_MAC},
};

#[test]
fn driver_mode_carries_real_packets() {
    namespace::run(relay_between_two_addresses_of_a_host);
}

fn relay_between_two_addresses_of_a_host() {
    let mac = |octets: [u8; 6]| octets.map(|octet| format!("{octet:02x}")).join(":");
    let (host, relay) = (mac(SENDER_MAC), mac(RELAY_MAC));
    command(&format!("ip link add host0 address {host} type veth peer name relay0 address {relay}"));
    // With checksum offload the host would leave checksums undone.
    command("ethtool -K host0 tx off");
    command("ip link set relay0 up");
    command("ip link set host0 up");
    for hosts in &FAMILIES {
        let (alice, bob, to) = (hosts.alice.ip(), hosts.bob.ip(), hosts.relay.ip());
        let nodad = if to.is_ipv6() { "nodad" } else { "" };
        command(&format!("ip address add {alice} dev host0 {nodad}"));
        command(&format!("ip address add {bob} dev host0 {nodad}"));
        command(&format!("ip route add {to} dev host0"));
        command(&format!("ip neighbour add {to} lladdr {relay} dev host0 nud permanent"));
    }
    let any = UdpSocket::bind("[::]:0").unwrap();
    let ifindex = rustix::net::netdevice::name_to_index(&any, "relay0").unwrap();

    let mut relay = Relay::new();
    relay.next_hop(
        Hop::Back,
        NextHop {
            ifindex,
            mtu: MTU,
            tag_count: 0,
            destination_mac: SENDER_MAC,
            source_mac: RELAY_MAC,
            tags: [[0; 4]; TAGS_MAX],
            reserved: 0,
        },
    );
    relay.program_mut().attach("relay0", XdpMode::Driver).expect("attach XDP to a veth in driver mode");
    // A veth takes frames from its peer's XDP_TX only if it has an XDP program too (veth_xdp_flush in
    // drivers/net/veth.c). A second relay passes what comes to the host: none of it is to the relay's address.
    let mut bystander = Relay::new();
    bystander.program_mut().attach("host0", XdpMode::Driver).expect("attach XDP to a veth in driver mode");

    for hosts in &FAMILIES {
        let [alice, bob] = [hosts.alice, hosts.bob].map(|host| UdpSocket::bind(host).unwrap());
        bob.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        alice.send_to(&initiation(1), hosts.relay).unwrap();
        for len in [32, 133, 1300] {
            let sent = transport_data(hosts.session(Hop::Back), len);
            alice.send_to(&sent, hosts.relay).unwrap();
            let mut received = [0; 2000];
            let (len, from) = bob.recv_from(&mut received).expect("bob gets what alice sends");
            assert_eq!((&received[..len], from), (&sent[..], hosts.relay));
        }
        assert_eq!(relay.counter(Reason::ForwardedTx, hosts.family).packets, 3);
        assert_eq!(bystander.counter(Reason::OtherDestination, hosts.family).packets, 3);
        // One queue, in order: the initiation was through before the data.
        let [event] = relay.events()[..] else { panic!("one event") };
        assert_eq!((event.ifindex, event.message()), (ifindex, Some(&initiation(1)[..])));
    }
}
