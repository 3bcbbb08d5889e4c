//! Data of TURN channels: every byte as it leaves, both ways, between all pairs of families; and what is left to the server.

use std::{net::SocketAddr, time::Duration};

use relay_ebpf::{
    reason::{Family, Reason},
    tables::{Channel, Counter},
};
use relay_user::clock;

use crate::{
    admission::rate,
    datagram::Datagram,
    relay::{FAMILIES, Hop, Hosts, IPV4, IPV6, MTU, Ran, Relay, TURN_PORT, channel},
};

/// The reasons that are met here and nowhere else.
pub const MET: [Reason; 4] =
    [Reason::ChannelTx, Reason::ChannelRedirect, Reason::NoChannel, Reason::ChannelExpired];

const NUMBER: u16 = 0x4abc;
const RELAYED_PORT: u16 = 50_007;
const FOR_EVER: u32 = u32::MAX;

/// A client in one family, its peer in another.
struct Pair {
    client: Hosts,
    peer: Hosts,
}

impl Pair {
    fn all() -> impl Iterator<Item = Self> {
        FAMILIES.into_iter().flat_map(|client| FAMILIES.map(|peer| Self { client, peer }))
    }

    fn name(&self) -> String {
        format!("client on {}, peer on {}", self.client.family.label(), self.peer.family.label())
    }

    fn server(&self) -> SocketAddr {
        SocketAddr::new(self.client.relay.ip(), TURN_PORT)
    }

    fn relayed(&self) -> SocketAddr {
        SocketAddr::new(self.peer.relay.ip(), RELAYED_PORT)
    }

    /// Both directions, the client's first.
    fn channels(&self, hop: Hop, until: u32) -> [Channel; 2] {
        let (client, peer) = (self.client.alice, self.peer.bob);
        [
            channel([client, self.server(), self.relayed(), peer], NUMBER, true, hop, until),
            channel([peer, self.relayed(), self.server(), client], NUMBER, false, hop, until),
        ]
    }

    fn bound(&self, hop: Hop) -> Relay {
        let mut relay = Relay::new();
        self.channels(hop, FOR_EVER).iter().for_each(|channel| relay.bind(channel));
        relay
    }

    /// What the client sends, with this after it.
    fn client_data(&self, data: &[u8], padding: &[u8]) -> Datagram {
        let header = [NUMBER.to_be_bytes(), (data.len() as u16).to_be_bytes()].concat();
        let message = [&header, data, padding].concat();
        Datagram { destination: self.server(), ..self.client.datagram(self.client.alice, message) }
    }

    /// As it leaves for the peer.
    fn to_peer(&self, came: &Datagram, data: &[u8], hop: Hop) -> Datagram {
        let left = self.client.sent_on_to(&self.peer, came, hop);
        Datagram { source: self.relayed(), destination: self.peer.bob, payload: data.to_vec(), ..left }
    }

    /// What the peer sends.
    fn peer_data(&self, data: &[u8]) -> Datagram {
        Datagram { destination: self.relayed(), ..self.peer.datagram(self.peer.bob, data.to_vec()) }
    }

    /// As it leaves for the client.
    fn to_client(&self, came: &Datagram, data: &[u8], hop: Hop) -> Datagram {
        let left = self.peer.sent_on_to(&self.client, came, hop);
        let payload = self.client_data(data, &[]).payload;
        Datagram { source: self.server(), destination: self.client.alice, payload, ..left }
    }
}

fn family(from: &Hosts, to: &Hosts) -> Family {
    match (from.family, to.family) {
        (Family::Ipv4, Family::Ipv6) => Family::Ipv4ToIpv6,
        (Family::Ipv6, Family::Ipv4) => Family::Ipv6ToIpv4,
        (family, _) => family,
    }
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 11 + 5) as u8).collect()
}

/// Nothing but this reason was counted, no session's counters moved, and nothing went up.
fn check(name: &str, ran: &Ran, reason: Reason, family: Family, frame_len: usize) {
    assert_eq!(ran.verdict, reason.verdict() as u32, "{name}: {:?}", ran.counted);
    let counter = Counter { packets: 1, bytes: frame_len as u64 };
    assert_eq!(ran.counted, [(reason, family, counter)], "{name}");
    assert!(ran.sessions.is_empty() && ran.events.is_empty(), "{name}");
}

fn reason(hop: Hop) -> Reason {
    match hop.reason() {
        Reason::ForwardedTx => Reason::ChannelTx,
        Reason::ForwardedRedirect => Reason::ChannelRedirect,
        other => other,
    }
}

#[test]
fn data_of_a_channel_leaves_as_if_it_had_been_built_that_way() {
    for pair in Pair::all() {
        for hop in [Hop::Back, Hop::Across, Hop::BackTagged, Hop::AcrossTwiceTagged] {
            let mut relay = pair.bound(hop);
            let mut expected = [Counter::default(); 2];
            let (lens, paddings) = match hop {
                Hop::Back => (&[0, 1, 2, 3, 4, 31, 32, 33, 148, 1200][..], 0..=3),
                _ => (&[0, 33, 148][..], 0..=0),
            };
            for &len in lens {
                let data = data(len);
                for padding in paddings.clone() {
                    let came = pair.client_data(&data, &[0xff, 0x01, 0x80][..padding]);
                    let left = pair.to_peer(&came, &data, hop);
                    let name = format!("{}, {hop:?}, {len} bytes and {padding} of padding", pair.name());
                    let ran = relay.run(&came.frame());
                    check(&name, &ran, reason(hop), family(&pair.client, &pair.peer), came.frame().len());
                    // The padding stays behind the packet, where Ethernet's may be.
                    let frame = left.frame();
                    assert_eq!(ran.frame[..frame.len()], frame, "{name}");
                    assert_eq!(ran.frame.len(), frame.len() + padding, "{name}");
                    expected[0].packets += 1;
                    expected[0].bytes += len as u64;
                }
                let came = pair.peer_data(&data);
                let left = pair.to_client(&came, &data, hop);
                let name = format!("{}, {hop:?}, {len} bytes to the client", pair.name());
                let ran = relay.run(&came.frame());
                check(&name, &ran, reason(hop), family(&pair.peer, &pair.client), came.frame().len());
                assert_eq!(ran.frame, left.frame(), "{name}");
                expected[1].packets += 1;
                expected[1].bytes += len as u64;
            }
            let carried = pair.channels(hop, 0).map(|channel| relay.carried(channel.key));
            assert_eq!(carried, expected, "{}", pair.name());
        }
    }
}

#[test]
fn tagged_frames_and_frames_with_padding_are_channel_data_too() {
    let pair = Pair { client: IPV4, peer: IPV4 };
    let mut relay = pair.bound(Hop::Back);
    let data = data(40);
    for tags in [vec![[0x81, 0, 0, 7]], vec![[0x88, 0xa8, 0, 5], [0x81, 0, 0, 7]]] {
        let came = Datagram { tags, ..pair.client_data(&data, &[]) };
        let ran = relay.run(&came.frame());
        check("tagged", &ran, Reason::ChannelTx, Family::Ipv4, came.frame().len());
        assert_eq!(ran.frame, pair.to_peer(&came, &data, Hop::Back).frame());
        let came = Datagram { tags: came.tags, ..pair.peer_data(&data) };
        let ran = relay.run(&came.frame());
        assert_eq!(ran.frame, pair.to_client(&came, &data, Hop::Back).frame());
    }
    let came = pair.peer_data(b"x");
    let padded = [came.frame(), vec![0xa5; 18]].concat();
    let ran = relay.run(&padded);
    assert_eq!(ran.frame, [pair.to_client(&came, b"x", Hop::Back).frame(), vec![0xa5; 18]].concat());
}

#[test]
fn checksums_that_are_none_or_wrong_or_all_ones_stay_what_they_are() {
    for pair in Pair::all() {
        let mut relay = pair.bound(Hop::Back);
        let content = data(64);
        let datagrams = |content: &[u8]| {
            let (out, back) = (pair.client_data(content, &[]), pair.peer_data(content));
            let (out_left, back_left) =
                (pair.to_peer(&out, content, Hop::Back), pair.to_client(&back, content, Hop::Back));
            [(out, out_left), (back, back_left)]
        };
        for (came, left) in datagrams(&content) {
            let name = format!("{}: {} to {}", pair.name(), came.source, came.destination);
            let wrong = |datagram: &Datagram| datagram.frame_with_checksum(datagram.checksum() ^ 0x0100);
            // What is off by so much before is so after, whichever way the sum has carried: only the sum is kept.
            let off = |datagram: &Datagram| {
                assert!(
                    (1..0xfffe).contains(&datagram.checksum()),
                    "{name}: pick a payload that does not wrap"
                );
                datagram.frame_with_checksum(datagram.checksum() + 1)
            };
            assert_ne!(relay.run(&wrong(&came)).frame, left.frame(), "{name}: it was made whole");
            assert_eq!(relay.run(&off(&came)).frame, off(&left), "{name}");
            let ran = relay.run(&came.frame_with_checksum(0));
            match (came.source.is_ipv4(), left.source.is_ipv4()) {
                (true, true) => assert_eq!(ran.frame, left.frame_with_checksum(0), "{name}"),
                (true, false) => check(&name, &ran, Reason::ToChecksum, Family::Ipv4, came.frame().len()),
                // As userspace's socket would drop it.
                (false, _) => check(&name, &ran, Reason::NoChannel, Family::Ipv6, came.frame().len()),
            }
        }
        // Contents that make the checksum zero, which is sent as all ones, before or after.
        for way in 0..2 {
            for after in [false, true] {
                let pick = |content: &[u8]| {
                    let [out, back] = datagrams(content);
                    let (came, left) = if way == 0 { out } else { back };
                    if after { left } else { came }
                };
                let mut content = content.clone();
                content[62..].fill(0);
                let tail = pick(&content).checksum();
                content[62..].copy_from_slice(&tail.to_be_bytes());
                assert_eq!(pick(&content).checksum(), 0xffff);
                let [out, back] = datagrams(&content);
                let (came, left) = if way == 0 { out } else { back };
                assert_eq!(relay.run(&came.frame()).frame, left.frame(), "{}", pair.name());
            }
        }
    }
}

#[test]
fn what_is_beyond_a_users_limit_is_dropped_each_way_by_itself() {
    for pair in Pair::all() {
        for [sent, received] in [[true, false], [false, true]] {
            let mut relay = Relay::new();
            relay.rates().set(3, rate(sent, received), 0).unwrap();
            for channel in pair.channels(Hop::Back, FOR_EVER) {
                relay.bind(&Channel { rate: 3, ..channel });
            }
            let data = data(40);
            let (out, back) = (pair.client_data(&data, &[]), pair.peer_data(&data));
            for (came, used_up, from, to) in
                [(out, sent, &pair.client, &pair.peer), (back, received, &pair.peer, &pair.client)]
            {
                let (reason, family) = match used_up {
                    true => (Reason::OverRateLimit, from.family),
                    false => (Reason::ChannelTx, family(from, to)),
                };
                let ran = relay.run(&came.frame());
                check(&pair.name(), &ran, reason, family, came.frame().len());
            }
        }
    }
}

#[test]
fn what_is_no_data_of_a_channel_is_left_to_the_server() {
    for pair in Pair::all() {
        let mut relay = pair.bound(Hop::Back);
        let data = data(64);
        let came = pair.client_data(&data, &[]);
        let back = pair.peer_data(&data);
        let with = |payload: &[u8]| Datagram { payload: payload.to_vec(), ..came.clone() };
        let mut other_number = came.payload.clone();
        other_number[1] ^= 1;
        let mut longer = came.payload.clone();
        longer[3] += 1;
        let mut shorter = came.payload.clone();
        shorter[3] -= 4;
        let elsewhere = |address: SocketAddr, port| SocketAddr::new(address.ip(), port);
        for (name, datagram) in [
            ("a STUN message", with(&[&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat())),
            ("another channel", with(&other_number)),
            ("shorter than its header says", with(&longer)),
            ("more than padding behind it", with(&shorter)),
            ("shorter than a header", with(&[0x4a, 0xbc, 0])),
            ("nothing", with(&[])),
            ("another client", Datagram { source: pair.client.stranger, ..came.clone() }),
            ("another port of the client", Datagram { source: elsewhere(came.source, 9), ..came.clone() }),
            ("another peer", Datagram { source: pair.peer.stranger, ..back.clone() }),
            ("another port of the peer", Datagram { source: elsewhere(back.source, 9), ..back.clone() }),
            (
                "another relayed address",
                Datagram { destination: elsewhere(back.destination, RELAYED_PORT + 1), ..back.clone() },
            ),
            (
                "another address of the server",
                Datagram {
                    destination: SocketAddr::new(pair.client.relay_too.ip(), TURN_PORT),
                    ..came.clone()
                },
            ),
            (
                "another address with the relayed port",
                Datagram {
                    destination: SocketAddr::new(pair.peer.relay_too.ip(), RELAYED_PORT),
                    ..back.clone()
                },
            ),
        ] {
            let name = format!("{name}, {}", pair.name());
            let received = if datagram.source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
            let ran = relay.run(&datagram.frame());
            check(&name, &ran, Reason::NoChannel, received, datagram.frame().len());
            assert_eq!(ran.frame, datagram.frame(), "{name}: passed as it came");
            // Nor is it the program's to drop: the server is where it ends.
            let last_hop = Datagram { ttl: 1, ..datagram };
            let ran = relay.run(&last_hop.frame());
            check(&name, &ran, Reason::NoChannel, received, last_hop.frame().len());
        }
        // A header that ends behind the packet is none.
        let short = Datagram { ttl: 1, ..with(&came.payload[..2]) };
        let padded = [short.frame(), came.payload[2..].to_vec()].concat();
        let ran = relay.run(&padded);
        check(
            "a header that ends behind the packet",
            &ran,
            Reason::NoChannel,
            pair.client.family,
            padded.len(),
        );
        let not_ours =
            Datagram { destination: SocketAddr::new(pair.client.elsewhere.ip(), TURN_PORT), ..came.clone() };
        let ran = relay.run(&not_ours.frame());
        check("not ours", &ran, Reason::OtherDestination, pair.client.family, not_ours.frame().len());
        let nothing = pair.channels(Hop::Back, 0).map(|channel| relay.carried(channel.key));
        assert_eq!(nothing, [Counter::default(); 2], "{}", pair.name());
    }
}

#[test]
fn what_can_not_leave_is_passed_or_dropped_as_it_came() {
    for pair in Pair::all() {
        let (client, peer) = (pair.client.family, pair.peer.family);
        let data = data(64);
        let (came, back) = (pair.client_data(&data, &[]), pair.peer_data(&data));
        let run = |relay: &mut Relay, datagram: &Datagram, reason, family| {
            let ran = relay.run(&datagram.frame());
            check(&format!("{reason:?}, {}", pair.name()), &ran, reason, family, datagram.frame().len());
            assert_eq!(ran.frame, datagram.frame());
        };
        for (hop, reason) in [
            (Hop::Unresolved, Reason::NextHopUnresolved),
            (Hop::TooManyTags, Reason::NextHopUnresolved),
            (Hop::Nowhere, Reason::NoTxPort),
        ] {
            let mut relay = pair.bound(hop);
            run(&mut relay, &came, reason, client);
            run(&mut relay, &back, reason, peer);
        }
        let mut relay = pair.bound(Hop::Back);
        for ttl in [0, 1] {
            run(&mut relay, &Datagram { ttl, ..came.clone() }, Reason::TtlExceeded, client);
            run(&mut relay, &Datagram { ttl, ..back.clone() }, Reason::TtlExceeded, peer);
        }
        // One that fits exactly, and one that does not.
        let headers = |family| if family == Family::Ipv4 { 28 } else { 48 };
        let out_len = usize::from(MTU) - headers(peer);
        let back_len = usize::from(MTU) - headers(client) - 4;
        let content = vec![7; out_len + 1];
        let fits = pair.client_data(&content[..out_len], &[]);
        assert_eq!(
            relay.run(&fits.frame()).frame,
            pair.to_peer(&fits, &content[..out_len], Hop::Back).frame()
        );
        run(&mut relay, &pair.client_data(&content, &[]), Reason::ToFragment, client);
        let content = vec![7; back_len + 1];
        let fits = pair.peer_data(&content[..back_len]);
        assert_eq!(
            relay.run(&fits.frame()).frame,
            pair.to_client(&fits, &content[..back_len], Hop::Back).frame()
        );
        run(&mut relay, &pair.peer_data(&content), Reason::ToFragment, peer);
        // One whose time is up.
        let mut relay = Relay::new();
        pair.channels(Hop::Back, 0).iter().for_each(|channel| relay.bind(channel));
        run(&mut relay, &came, Reason::ChannelExpired, client);
        run(&mut relay, &back, Reason::ChannelExpired, peer);
    }
}

#[test]
fn a_channel_forwards_to_its_end_and_no_longer() {
    // The program counts in units of 640 ms at most, and the channel may end two of them early; a busy machine may take its
    // time for a tick.
    const EARLY: Duration = Duration::from_millis(1_280);
    const LATE: Duration = Duration::from_millis(100);
    let pair = Pair { client: IPV4, peer: IPV4 };
    let mut relay = Relay::new();
    let end = clock::monotonic() + Duration::from_secs(2);
    let until = relay.ticks().by(end);
    pair.channels(Hop::Back, until).iter().for_each(|channel| relay.bind(channel));
    let came = pair.client_data(b"data", &[]).frame();
    let mut forwarded = None;
    loop {
        let now = clock::monotonic();
        match relay.run(&came).counted[..] {
            [(Reason::ChannelTx, ..)] => forwarded = Some(now),
            [(Reason::ChannelExpired, ..)] => break,
            ref other => panic!("{other:?}"),
        }
    }
    assert!(clock::monotonic() + EARLY > end, "it has ended long before {end:?}");
    assert!(forwarded.is_some_and(|last| last < end + LATE), "{forwarded:?}, until {end:?}");
    let came = pair.peer_data(b"data").frame();
    check("the peer's", &relay.run(&came), Reason::ChannelExpired, Family::Ipv4, came.len());
}

#[test]
fn data_to_the_relay_port_is_no_channels() {
    let pair = Pair { client: IPV6, peer: IPV6 };
    let mut relay = pair.bound(Hop::Back);
    let datagram = Datagram { destination: pair.client.relay, ..pair.client_data(&data(64), &[]) };
    let ran = relay.run(&datagram.frame());
    check("relay port", &ran, Reason::NotWireguard, Family::Ipv6, datagram.frame().len());
}
