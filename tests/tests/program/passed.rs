//! What isn't sent on: passed or dropped, and byte for byte as it came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use relay_ebpf::reason::{Family, Reason};

use crate::{
    datagram::{Datagram, ETHERNET, cookie_reply, initiation, response, transport_data},
    fixture::{Fixture, run},
    relay::{FAMILIES, Hop, Hosts, IPV4, IPV6, MTU, PORT},
};

#[test]
fn what_is_not_relayed_data_stays_as_it_is() {
    run(&fixtures());
}

pub fn fixtures() -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for hosts in &FAMILIES {
        fixtures.extend(frames(hosts));
        fixtures.extend(shapes(hosts));
        fixtures.extend(data(hosts));
        fixtures.extend(handshakes(hosts));
    }
    fixtures.extend(ipv4_headers());
    fixtures.extend(ipv6_headers());
    fixtures
}

/// Data that would be relayed, were nothing wrong with it.
fn relayable(hosts: &Hosts) -> Datagram {
    hosts.datagram(hosts.alice, transport_data(hosts.session(Hop::Back), 96))
}

/// The frame after a change to its bytes.
fn changed(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame);
    frame
}

fn frames(hosts: &Hosts) -> Vec<Fixture> {
    let family = hosts.family.label();
    let fixture =
        |name: &str, frame, reason| Fixture::new(format!("{name}, {family}"), hosts.family, frame, reason);
    let other =
        |name: &str, frame, reason| Fixture::new(format!("{name}, {family}"), Family::Other, frame, reason);
    let data = relayable(hosts);
    let udp_len = data.message_at() - 4;
    let protocol_at = if hosts.family == Family::Ipv4 { ETHERNET + 9 } else { ETHERNET + 6 };
    let version = if hosts.family == Family::Ipv4 { 0x65 } else { 0x4a };
    let elsewhere = Datagram { destination: hosts.elsewhere, ..data.clone() };
    let other_port = SocketAddr::new(hosts.relay.ip(), PORT + 1);
    let udp_len_plus = |by: u16| {
        changed(data.frame(), |frame| {
            let len = u16::from_be_bytes([frame[udp_len], frame[udp_len + 1]]).wrapping_add(by);
            frame[udp_len..udp_len + 2].copy_from_slice(&len.to_be_bytes());
        })
    };
    // Both lengths agree, and are smaller than a UDP header.
    let (ip_len, header) = if hosts.family == Family::Ipv4 { (ETHERNET + 2, 20) } else { (ETHERNET + 4, 0) };
    let both_short = changed(data.frame(), |frame| {
        frame[ip_len..ip_len + 2].copy_from_slice(&[0, header + 7]);
        frame[udp_len..udp_len + 2].copy_from_slice(&[0, 7]);
    });
    vec![
        other(
            "ARP",
            changed(data.frame(), |frame| frame[12..14].copy_from_slice(&[0x08, 0x06])),
            Reason::OtherProtocol,
        ),
        fixture("TCP", changed(data.frame(), |frame| frame[protocol_at] = 6), Reason::OtherProtocol),
        fixture("ESP", changed(data.frame(), |frame| frame[protocol_at] = 50), Reason::OtherProtocol),
        fixture("to another address", elsewhere.frame(), Reason::OtherDestination),
        fixture(
            "to another port",
            Datagram { destination: other_port, ..data.clone() }.frame(),
            Reason::OtherDestination,
        ),
        fixture(
            "a shape of no message, to another address",
            Datagram { payload: vec![0; 5], ..elsewhere.clone() }.frame(),
            Reason::OtherDestination,
        ),
        fixture(
            "an unknown index, to another address",
            Datagram { payload: transport_data(hosts.unknown(), 64), ..elsewhere.clone() }.frame(),
            Reason::OtherDestination,
        ),
        fixture(
            "an initiation to another address",
            Datagram { payload: initiation(1), ..elsewhere }.frame(),
            Reason::OtherDestination,
        ),
        fixture(
            "another version",
            changed(data.frame(), |frame| frame[ETHERNET] = version),
            Reason::Malformed,
        ),
        fixture("UDP and IP shorter than UDP's header", both_short, Reason::Malformed),
        fixture("UDP longer than IP", udp_len_plus(1), Reason::Malformed),
        fixture("UDP shorter than IP", udp_len_plus(1_u16.wrapping_neg()), Reason::Malformed),
        fixture(
            "UDP shorter than its header",
            changed(data.frame(), |frame| frame[udp_len..udp_len + 2].copy_from_slice(&[0, 7])),
            Reason::Malformed,
        ),
        fixture(
            "cut off by a byte",
            data.frame().split_last().map(|(_, rest)| rest.to_vec()).unwrap(),
            Reason::Malformed,
        ),
    ]
}

fn shapes(hosts: &Hosts) -> Vec<Fixture> {
    let session = hosts.session(Hop::Back);
    let not_wireguard = |name: &str, payload: Vec<u8>| {
        let datagram = hosts.datagram(hosts.alice, payload);
        Fixture::datagram(format!("{name}, {}", hosts.family.label()), hosts, &datagram, Reason::NotWireguard)
    };
    let with_byte = |mut message: Vec<u8>, at: usize, byte: u8| {
        message[at] = byte;
        message
    };
    let short = hosts.datagram(hosts.alice, transport_data(session, 31));
    let mut padded = short.frame();
    padded.extend([0; 20]);
    vec![
        not_wireguard("no payload", vec![]),
        not_wireguard("three bytes", vec![4, 0, 0]),
        not_wireguard("data one byte short", transport_data(session, 31)),
        Fixture::new(
            format!("data one byte short, with padding, {}", hosts.family.label()),
            hosts.family,
            padded,
            Reason::NotWireguard,
        ),
        not_wireguard("a reserved byte that is not zero", with_byte(transport_data(session, 64), 3, 1)),
        not_wireguard("type 0", with_byte(transport_data(session, 64), 0, 0)),
        not_wireguard("type 5", with_byte(transport_data(session, 64), 0, 5)),
        not_wireguard("an initiation with a byte more", [initiation(1), vec![0]].concat()),
        not_wireguard("an initiation with a byte less", initiation(1)[..147].to_vec()),
        not_wireguard("a response with a byte more", [response(1, hosts.pending()), vec![0]].concat()),
        not_wireguard("a cookie reply with a byte less", cookie_reply(session)[..63].to_vec()),
    ]
}

fn data(hosts: &Hosts) -> Vec<Fixture> {
    let fixture = |name: &str, datagram: &Datagram, reason| {
        Fixture::datagram(format!("{name}, {}", hosts.family.label()), hosts, datagram, reason)
    };
    let from = |source, index| hosts.datagram(source, transport_data(index, 96));
    let by = |hop| from(hosts.alice, hosts.session(hop));
    let back = by(Hop::Back);
    let other_port = SocketAddr::new(hosts.alice.ip(), hosts.alice.port() + 1);
    let other_address = SocketAddr::new(hosts.stranger.ip(), hosts.alice.port());
    let own = from(hosts.alice, hosts.unknown());
    let own_of_stranger = from(hosts.stranger, hosts.unknown());
    let too_big = usize::from(MTU) + 1 - back.packet_len() + back.payload.len();
    let too_big = hosts.datagram(hosts.alice, transport_data(hosts.session(Hop::Back), too_big));
    vec![
        fixture("of no session", &own, Reason::DataOwn),
        fixture("of no session, from an unknown source", &own_of_stranger, Reason::DataOwn)
            .hinted(&own_of_stranger),
        fixture(
            "from another address",
            &from(other_address, hosts.session(Hop::Back)),
            Reason::DataWrongSource,
        ),
        fixture("from another port", &from(other_port, hosts.session(Hop::Back)), Reason::DataWrongSource),
        fixture("from the destination", &from(hosts.bob, hosts.session(Hop::Back)), Reason::DataWrongSource),
        fixture(
            "to the relay's other address",
            &Datagram { destination: hosts.relay_too, ..back.clone() },
            Reason::DataWrongSource,
        ),
        fixture(
            "of a session that is not there, to the relay's other address",
            &Datagram { destination: hosts.relay_too, ..own.clone() },
            Reason::DataOwn,
        ),
        fixture("TTL 1", &Datagram { ttl: 1, ..back.clone() }, Reason::TtlExceeded),
        fixture("TTL 0", &Datagram { ttl: 0, ..back.clone() }, Reason::TtlExceeded),
        fixture("no next hop", &by(Hop::Unresolved), Reason::NextHopUnresolved),
        fixture("one byte more than the MTU", &too_big, Reason::TooBig).told_too_big(&too_big),
        fixture("out by an interface that takes no redirected frames", &by(Hop::Nowhere), Reason::NoTxPort),
    ]
}

fn handshakes(hosts: &Hosts) -> Vec<Fixture> {
    let family = hosts.family.label();
    let fixture = |name: &str, datagram: &Datagram, reason| {
        Fixture::datagram(format!("{name}, {family}"), hosts, datagram, reason)
    };
    let full = |name: &str, datagram: &Datagram, reason| {
        fixture(&format!("{name} finds the ring buffer full"), datagram, reason).with_full_ring_buffer()
    };
    let at_other_port = |host: SocketAddr| SocketAddr::new(host.ip(), host.port() + 1);
    let other_address = SocketAddr::new(hosts.stranger.ip(), hosts.bob.port());
    let initiation = hosts.datagram(hosts.stranger, initiation(hosts.unknown()));
    let initiation_too = Datagram { destination: hosts.relay_too, ttl: 1, ..initiation.clone() };
    let answer = |source, receiver| hosts.datagram(source, response(0xbb, receiver));
    let answered = answer(hosts.bob, hosts.pending());
    let own_answer = answer(hosts.stranger, hosts.unknown());
    let cookie = |source, receiver| hosts.datagram(source, cookie_reply(receiver));
    let for_initiation = cookie(hosts.bob, hosts.pending());
    let for_response = cookie(hosts.alice, hosts.session(Hop::Unresolved));
    let own_cookie = cookie(hosts.stranger, hosts.unknown());
    vec![
        fixture("an initiation", &initiation, Reason::Initiation).copied_up(&initiation),
        fixture("an initiation to the other address, with TTL 1", &initiation_too, Reason::Initiation)
            .copied_up(&initiation_too),
        full("an initiation", &initiation, Reason::InitiationNotCopied),
        fixture("a response", &answered, Reason::Response).copied_up(&answered),
        full("a response", &answered, Reason::ResponseNotCopied),
        fixture(
            "a response from another address",
            &answer(other_address, hosts.pending()),
            Reason::ResponseWrongSource,
        ),
        fixture(
            "a response from another port",
            &answer(at_other_port(hosts.bob), hosts.pending()),
            Reason::ResponseWrongSource,
        ),
        fixture("a response to the relay's own", &answer(hosts.alice, hosts.unknown()), Reason::ResponseOwn),
        fixture("a response to the relay's own, from an unknown source", &own_answer, Reason::ResponseOwn)
            .hinted(&own_answer),
        full("a response to the relay's own, from an unknown source,", &own_answer, Reason::ResponseOwn),
        fixture("a cookie for an initiation", &for_initiation, Reason::CookieReply)
            .copied_up(&for_initiation),
        fixture("a cookie for a response", &for_response, Reason::CookieReply).copied_up(&for_response),
        full("a cookie for an initiation", &for_initiation, Reason::CookieReplyNotCopied),
        full("a cookie for a response", &for_response, Reason::CookieReplyNotCopied),
        fixture(
            "a cookie for an initiation from another address",
            &cookie(other_address, hosts.pending()),
            Reason::CookieReplyWrongSource,
        ),
        fixture(
            "a cookie for an initiation from another port",
            &cookie(at_other_port(hosts.bob), hosts.pending()),
            Reason::CookieReplyWrongSource,
        ),
        fixture(
            "a cookie for a response from the wrong side",
            &cookie(hosts.bob, hosts.session(Hop::Back)),
            Reason::CookieReplyWrongSource,
        ),
        fixture(
            "a cookie for a response at the wrong address",
            &Datagram { destination: hosts.relay_too, ..for_response.clone() },
            Reason::CookieReplyWrongSource,
        ),
        fixture(
            "a cookie for the relay's own",
            &cookie(hosts.alice, hosts.unknown()),
            Reason::CookieReplyOwn,
        ),
        fixture("a cookie for the relay's own, from an unknown source", &own_cookie, Reason::CookieReplyOwn)
            .hinted(&own_cookie),
    ]
}

fn ipv4_headers() -> Vec<Fixture> {
    let fixture =
        |name: &str, frame, reason| Fixture::new(format!("{name}, ipv4"), Family::Ipv4, frame, reason);
    let data = relayable(&IPV4);
    let elsewhere = Datagram { destination: IPV4.elsewhere, ..data.clone() };
    let nops = |count: usize| vec![1; count].as_slice().try_into().unwrap();
    let total_len = |len: u16| {
        changed(data.frame(), |f| f[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&len.to_be_bytes()))
    };
    let len = data.packet_len() as u16;
    vec![
        fixture("options", data.frame_with_options(nops(4)), Reason::IpOptions),
        fixture("as many options as there can be", data.frame_with_options(nops(40)), Reason::IpOptions),
        fixture(
            "options, to another address",
            elsewhere.frame_with_options(nops(4)),
            Reason::OtherDestination,
        ),
        fixture(
            "options, TCP",
            changed(data.frame_with_options(nops(4)), |f| f[ETHERNET + 9] = 6),
            Reason::OtherProtocol,
        ),
        fixture("the first fragment", data.fragment(0, true), Reason::Fragment),
        fixture("a fragment from the middle", data.fragment(100, true), Reason::Fragment),
        fixture("the last fragment", data.fragment(200, false), Reason::Fragment),
        fixture("the last fragment, far out", data.fragment(0x1fff, false), Reason::Fragment),
        fixture("a fragment to another address", elsewhere.fragment(100, true), Reason::OtherDestination),
        fixture(
            "a fragment of TCP",
            changed(data.fragment(100, true), |f| f[ETHERNET + 9] = 6),
            Reason::OtherProtocol,
        ),
        fixture("a header of four words", changed(data.frame(), |f| f[ETHERNET] = 0x44), Reason::Malformed),
        fixture("a total length of zero", total_len(0), Reason::Malformed),
        fixture("a total length below the header's", total_len(19), Reason::Malformed),
        fixture("a total length below UDP's", total_len(27), Reason::Malformed),
        fixture("a total length a byte too small", total_len(len - 1), Reason::Malformed),
        fixture("a total length a byte too large", total_len(len + 1), Reason::Malformed),
        fixture("the largest total length", total_len(0xffff), Reason::Malformed),
    ]
}

fn ipv6_headers() -> Vec<Fixture> {
    let fixture =
        |name: &str, frame, reason| Fixture::new(format!("{name}, ipv6"), Family::Ipv6, frame, reason);
    let data = relayable(&IPV6);
    let elsewhere = Datagram { destination: IPV6.elsewhere, ..data.clone() };
    let mapped = |host: SocketAddr| match host.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), host.port()),
        IpAddr::V6(_) => unreachable!("only IPv4 is mapped"),
    };
    let unspecified = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT);
    let solicitation = Datagram { source: unspecified, ..data.clone() };
    let mut fixtures: Vec<_> =
        [(0, "hop-by-hop"), (43, "routing"), (51, "authentication"), (60, "destination")]
            .into_iter()
            .chain([(135, "mobility"), (139, "host identity"), (140, "shim6")])
            .flat_map(|(kind, header)| {
                [
                    fixture(&format!("{header} header"), data.frame_with_extension(kind), Reason::IpOptions),
                    fixture(
                        &format!("{header} header, to another address"),
                        elsewhere.frame_with_extension(kind),
                        Reason::OtherProtocol,
                    ),
                ]
            })
            .collect();
    fixtures.extend([
        fixture("a fragment", data.frame_with_extension(44), Reason::Fragment),
        fixture("a fragment to another address", elsewhere.frame_with_extension(44), Reason::OtherProtocol),
        fixture("no next header", data.frame_with_extension(59), Reason::OtherProtocol),
        fixture(
            "a neighbour solicitation from ::",
            changed(solicitation.frame(), |f| f[ETHERNET + 6] = 58),
            Reason::OtherProtocol,
        ),
        fixture("no UDP checksum", data.frame_with_checksum(0), Reason::NoUdpChecksum),
        fixture(
            "no UDP checksum, to another address",
            elsewhere.frame_with_checksum(0),
            Reason::OtherDestination,
        ),
        fixture(
            "a payload length of zero",
            changed(data.frame(), |f| f[ETHERNET + 4..ETHERNET + 6].fill(0)),
            Reason::Malformed,
        ),
        fixture(
            "the largest payload length",
            changed(data.frame(), |f| f[ETHERNET + 4..ETHERNET + 6].fill(0xff)),
            Reason::Malformed,
        ),
        // The tables hold IPv4 as IPv4-mapped addresses: nobody may speak for them over IPv6.
        fixture(
            "data of an IPv4 session with mapped addresses",
            Datagram {
                source: mapped(IPV4.alice),
                destination: mapped(IPV4.relay),
                payload: transport_data(IPV4.session(Hop::Back), 96),
                ..data.clone()
            }
            .frame(),
            Reason::Malformed,
        ),
        fixture(
            "a response from the mapped address of the expected responder",
            Datagram { source: mapped(IPV4.bob), payload: response(1, IPV4.pending()), ..data.clone() }
                .frame(),
            Reason::Malformed,
        ),
        fixture(
            "an initiation to the mapped address of the relay",
            Datagram { destination: mapped(IPV4.relay), payload: initiation(1), ..data.clone() }.frame(),
            Reason::Malformed,
        ),
        // An unused entry of `LOCALS` is `::`.
        fixture(
            "to ::",
            Datagram { destination: unspecified, payload: initiation(1), ..data.clone() }.frame(),
            Reason::Malformed,
        ),
    ]);
    fixtures.push(Fixture::new(
        "to 0.0.0.0, ipv4",
        Family::Ipv4,
        Datagram {
            destination: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT),
            ..relayable(&IPV4)
        }
        .frame(),
        Reason::OtherDestination,
    ));
    fixtures
}
