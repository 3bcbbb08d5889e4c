//! The socket filters: what a raw socket gets that wears one.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use relay_user::raw::Raw;

use crate::{
    datagram::{cookie_reply, initiation, response, transport_data},
    namespace,
    relay::{FAMILIES, Hop, Hosts, PORT, Relay},
};

/// A UDP header and what follows it, without a checksum: nobody looks at it on the loopback device before a raw socket.
fn packet(port: u16, udp_len: usize, message: &[u8]) -> Vec<u8> {
    let words = [40_000, port, udp_len as u16, 0];
    words.into_iter().flat_map(u16::to_be_bytes).chain(message.iter().copied()).collect()
}

#[test]
fn a_socket_gets_data_of_sessions_and_nothing_else() {
    namespace::run(|| {
        namespace::ip("link set lo up");
        // What is larger comes in fragments, which the kernel puts together.
        namespace::ip("link set lo mtu 1500");
        let mut relay = Relay::new();
        for hosts in &FAMILIES {
            check(&mut relay, hosts);
        }
    });
}

fn check(relay: &mut Relay, hosts: &Hosts) {
    let (local, filter) = match hosts.relay.ip() {
        IpAddr::V4(_) => (IpAddr::from([127, 0, 0, 1]), "slow_path_ipv4"),
        IpAddr::V6(_) => (std::net::Ipv6Addr::LOCALHOST.into(), "slow_path_ipv6"),
    };
    let socket =
        if local.is_ipv4() { Raw::udp(socket2::Domain::IPV4) } else { Raw::udp(socket2::Domain::IPV6) };
    let socket = socket.unwrap();
    relay.filter(filter, &socket);
    let sender = UdpSocket::bind(SocketAddr::new(local, 0)).unwrap();
    // Else the kernel would answer that the port is closed.
    let _receiver = UdpSocket::bind(SocketAddr::new(local, PORT)).unwrap();

    let data = |len| transport_data(hosts.session(Hop::Back), len);
    let to_port = |port| SocketAddr::new(local, port);
    let with_byte = |mut message: Vec<u8>, at: usize, byte: u8| {
        message[at] = byte;
        message
    };
    for kept_out in [
        vec![],
        vec![4, 0, 0, 0],
        data(32)[..31].to_vec(),
        transport_data(hosts.unknown(), 64),
        transport_data(hosts.unknown(), 4000),
        with_byte(data(64), 0, 5),
        with_byte(data(64), 3, 1),
        initiation(hosts.session(Hop::Back)),
        response(1, hosts.session(Hop::Back)),
        cookie_reply(hosts.session(Hop::Back)),
    ] {
        sender.send_to(&kept_out, to_port(PORT)).unwrap();
    }
    sender.send_to(&data(64), to_port(PORT + 1)).unwrap();
    let raw = |packet: &[u8]| socket.send(local, local, 64, packet).unwrap();
    raw(&packet(PORT, 7, &data(64)));
    raw(&packet(PORT, 39, &data(64)));
    raw(&packet(PORT, 73, &data(64)));
    raw(&packet(PORT, 72, &data(64))[..15]);

    let taken = [data(32), data(33), data(1400), data(4000), data(40_000)];
    for message in &taken {
        sender.send_to(message, to_port(PORT)).unwrap();
    }
    raw(&packet(PORT, 72, &data(80)));

    let mut buffer = Vec::new();
    for message in taken.iter().chain([&data(64)]) {
        namespace::until_readable(&socket);
        let received = socket.receive(&mut buffer).unwrap().unwrap();
        assert_eq!(received.local, local);
        // In order: nothing else has come before it. (A checksum is left undone on the loopback device.)
        let payload = &received.payload[8..];
        assert!(payload.starts_with(message), "{} bytes instead of {}", payload.len(), message.len());
    }
    assert!(socket.receive(&mut buffer).is_err(), "nothing more");
}
