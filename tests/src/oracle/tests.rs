//! The oracle by itself: whole frames made by etherparse's builder, and what is to become of them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, LinkExtHeader, NetHeaders, PacketBuilder,
    PacketHeaders, SlicedPacket, TransportHeader, TransportSlice, UdpHeader,
};
use relay_ebpf::{
    event::{HANDSHAKE, NEW_SOURCE, TOO_BIG},
    reason::{Family, Reason},
    tables::{LOCALS_MAX, NEW_SOURCE_INTERVAL_NS},
};

use super::{
    fixture::{self, Fixture},
    grammar::{Case, Grammar},
    kernel::Room,
    model::{Judgement, judge},
    pace::{Demand, Pace},
    state,
    tables::{Channel, Direction, INGRESS, NextHop, PORT, RELAYED, Rate, Session, TURN_PORT, Tables},
};

const V4: [&str; 4] = ["192.0.2.1", "192.0.2.2", "198.51.100.7:4001", "203.0.113.9:4002"];
const V6: [&str; 4] = ["2001:db8::1", "2001:db8::2", "[2001:db8:7::7]:4001", "[2001:db8:9::9]:4002"];
const HEADROOM: usize = 200;
const MTU: u16 = 300;
const PAYLOAD: [u8; 48] = data(7);

const fn data(index: u8) -> [u8; 48] {
    let mut message = [0x5c; 48];
    (message[0], message[1], message[2], message[3]) = (4, 0, 0, 0);
    (message[4], message[5], message[6], message[7]) = (index, 0, 0, 0);
    message
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Session 7 goes from a host to another, each of its family.
fn tables(from: [&str; 4], to: [&str; 4]) -> Tables {
    let mut tables = Tables::default();
    for (key, local) in (0..).zip([V4[0], V4[1], V6[0], V6[1]]) {
        tables.locals.insert(key, local.parse().unwrap());
    }
    let key = |text: &str| *tables.locals.iter().find(|(_, l)| l.to_string() == text).unwrap().0;
    let session = Session {
        source: endpoint(from[2]),
        destination: endpoint(to[3]),
        local_in: key(from[0]),
        local_out: key(to[1]),
        next_hop: 5,
        sender_rate: 0,
        receiver_rate: 0,
    };
    tables.sessions.insert(7, session);
    let hop = NextHop {
        ifindex: INGRESS,
        mtu: MTU,
        tag_count: 0,
        tags: [[0x81, 0, 0x20, 3], [0x88, 0xa8, 0, 9]],
        destination_mac: [2, 0, 0, 0, 0, 1],
        source_mac: [2, 0, 0, 0, 0, 2],
    };
    tables.next_hops.insert(5, hop);
    tables
}

fn frame(from: SocketAddr, to: IpAddr, ttl: u8, payload: &[u8]) -> Vec<u8> {
    frame_to(from, SocketAddr::new(to, PORT), ttl, payload)
}

fn frame_to(from: SocketAddr, to: SocketAddr, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([6; 6], [8; 6]);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), ttl),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), ttl),
        _ => unreachable!("one family"),
    };
    let mut frame = Vec::new();
    ip.udp(from.port(), to.port()).write(&mut frame, payload).unwrap();
    frame
}

fn session_frame(from: [&str; 4], payload: &[u8]) -> Vec<u8> {
    frame(endpoint(from[2]), from[0].parse().unwrap(), 64, payload)
}

fn end(judged: &Judgement) -> (Reason, Family) {
    (judged.reason, judged.family)
}

/// What left is read by etherparse's own parser, and each field is what it has to be.
#[test]
fn every_family_pair_is_forwarded() {
    for (from, to, family) in [
        (V4, V4, Family::Ipv4),
        (V6, V6, Family::Ipv6),
        (V4, V6, Family::Ipv4ToIpv6),
        (V6, V4, Family::Ipv6ToIpv4),
    ] {
        let tables = tables(from, to);
        let frame = session_frame(from, &PAYLOAD);
        let judged = judge(&tables, &frame, HEADROOM);
        assert_eq!(end(&judged), (Reason::ForwardedTx, family));
        assert_eq!(judged.carried, Some((Direction::Session(7), PAYLOAD.len() as u64)));
        let from = SocketAddr::new(to[1].parse().unwrap(), PORT);
        assert_left(&judged.frame.unwrap(), from, endpoint(to[3]), &PAYLOAD, &[]);
    }
}

/// A frame as it leaves: one hop further, between these endpoints, with this payload and right checksums, and with this
/// behind the packet.
fn assert_left(left: &[u8], from: SocketAddr, to: SocketAddr, payload: &[u8], behind: &[u8]) {
    let packet = SlicedPacket::from_ethernet(left).unwrap();
    let headers = PacketHeaders::from_ethernet_slice(left).unwrap();
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("UDP leaves") };
    assert_eq!(udp.payload(), payload);
    assert_eq!((udp.source_port(), udp.destination_port()), (from.port(), to.port()));
    let (source, destination, ttl, packet_len) = match headers.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            (ip.source.into(), ip.destination.into(), ip.time_to_live, ip.total_len.into())
        }
        NetHeaders::Ipv6(ip, _) => {
            let packet_len = 40 + usize::from(ip.payload_length);
            (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.hop_limit, packet_len)
        }
        NetHeaders::Arp(_) => panic!("IP leaves"),
    };
    assert_eq!((source, destination, ttl), (from.ip(), to.ip(), 63));
    assert_eq!(&left[14 + packet_len..], behind);
    let Some(TransportHeader::Udp(header)) = headers.transport else { panic!("UDP leaves") };
    assert_eq!(usize::from(header.length), 8 + payload.len());
    let udp = UdpHeader { checksum: 0, ..header.clone() };
    let right = super::forward::udp_checksum(&udp, (source, destination), payload);
    assert_eq!(header.checksum, right, "a right checksum leaves right");
}

const RELAYED_PORT: u16 = 50_042;
const NUMBER: u16 = 0x4abc;

/// The tables with a channel from a host to another, each of its family. The client talks to the relay's first address, its
/// peer to the second.
fn tables_with_channel(client: [&str; 4], peer: [&str; 4]) -> (Tables, Channel) {
    let mut tables = tables(client, peer);
    let Session { local_in, local_out, next_hop, .. } = tables.sessions[&7];
    let channel = Channel {
        client: endpoint(client[2]),
        server: local_in,
        number: NUMBER,
        peer: endpoint(peer[3]),
        relayed: local_out,
        relayed_port: RELAYED_PORT,
        expired: false,
        to_peer: next_hop,
        to_client: next_hop,
        rate: 0,
    };
    tables.channels.insert(channel);
    assert!(tables.is_possible());
    (tables, channel)
}

fn pairs() -> [([&'static str; 4], [&'static str; 4]); 4] {
    [(V4, V4), (V6, V6), (V4, V6), (V6, V4)]
}

fn server(client: [&str; 4]) -> SocketAddr {
    SocketAddr::new(client[0].parse().unwrap(), TURN_PORT)
}

fn relayed(peer: [&str; 4]) -> SocketAddr {
    SocketAddr::new(peer[1].parse().unwrap(), RELAYED_PORT)
}

/// What a client sends: number, length, data and padding.
fn channel_data(data: &[u8], padding: &[u8]) -> Vec<u8> {
    [&NUMBER.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data, padding].concat()
}

#[test]
fn a_channels_header_goes_and_comes_and_padding_is_no_data() {
    for (client, peer) in pairs() {
        let (tables, channel) = tables_with_channel(client, peer);
        for (len, padding) in [(0, 0), (48, 0), (47, 1), (46, 3), (1, 2)] {
            let data = &PAYLOAD[..len];
            let message = channel_data(data, &[0xee; 3][..padding]);
            let mut frame = frame_to(channel.client, server(client), 64, &message);
            frame.push(0x77);
            let judged = judge(&tables, &frame, HEADROOM);
            assert_eq!(judged.reason, Reason::ChannelTx);
            assert_eq!(judged.carried, Some((Direction::ToPeer(channel), len as u64)));
            let behind = [&[0xee; 3][..padding], &[0x77]].concat();
            assert_left(&judged.frame.unwrap(), relayed(peer), channel.peer, data, &behind);

            let frame = frame_to(channel.peer, relayed(peer), 64, data);
            let judged = judge(&tables, &frame, HEADROOM);
            assert_eq!(judged.reason, Reason::ChannelTx);
            assert_eq!(judged.carried, Some((Direction::ToClient(channel), len as u64)));
            let message = channel_data(data, &[]);
            assert_left(&judged.frame.unwrap(), server(client), channel.client, &message, &[]);
        }
    }
}

#[test]
fn what_is_nearly_a_channels_is_the_servers() {
    for (client, peer) in pairs() {
        let (tables, channel) = tables_with_channel(client, peer);
        let message = channel_data(&PAYLOAD, &[]);
        let reason = |from, to, payload: &[u8]| {
            let frame = frame_to(from, to, 64, payload);
            let judged = judge(&tables, &frame, HEADROOM);
            assert!(judged.reason == Reason::ChannelTx || judged.frame.is_none());
            judged.reason
        };
        let (server, relayed) = (server(client), relayed(peer));
        let of_client = |payload: &[u8]| reason(channel.client, server, payload);
        assert_eq!(of_client(&message), Reason::ChannelTx);
        assert_eq!(of_client(&message[..51]), Reason::NoChannel, "shorter than it says");
        assert_eq!(of_client(&[&message[..], &[0; 4]].concat()), Reason::NoChannel, "that is no padding");
        assert_eq!(of_client(&message[..3]), Reason::NoChannel, "less than a header");
        let mut other = message.clone();
        other[1] ^= 1;
        assert_eq!(of_client(&other), Reason::NoChannel, "another number");
        let port = |address: SocketAddr, port| SocketAddr::new(address.ip(), port);
        assert_eq!(reason(port(channel.client, 9), server, &message), Reason::NoChannel);
        assert_eq!(reason(channel.client, port(server, RELAYED_PORT), &message), Reason::NoChannel);
        assert_eq!(reason(channel.peer, relayed, &PAYLOAD), Reason::ChannelTx);
        assert_eq!(reason(channel.peer, port(relayed, RELAYED_PORT + 1), &PAYLOAD), Reason::NoChannel);
        assert_eq!(reason(channel.peer, port(relayed, TURN_PORT), &PAYLOAD), Reason::NoChannel);
        for elsewhere in [RELAYED.start() - 1, RELAYED.end() + 1, TURN_PORT + 1] {
            assert_eq!(reason(channel.peer, port(relayed, elsewhere), &PAYLOAD), Reason::OtherDestination);
        }
        // The second address of the client's family is the relay's too, but not the one that the client talks to.
        let second = SocketAddr::new(client[1].parse().unwrap(), TURN_PORT);
        assert_eq!(reason(channel.client, second, &message), Reason::NoChannel);
        let not_ours = SocketAddr::new(channel.client.ip(), TURN_PORT);
        assert_eq!(reason(channel.client, not_ours, &message), Reason::OtherDestination);
    }
}

#[test]
fn a_channels_client_pays_for_both_ways_each_by_itself() {
    let (mut tables, mut channel) = tables_with_channel(V4, V6);
    channel.rate = 3;
    tables.channels = [channel].into();
    let out = frame_to(channel.client, server(V4), 64, &channel_data(&PAYLOAD, &[]));
    let back = frame_to(channel.peer, relayed(V6), 64, &PAYLOAD);
    for (sent, received) in [(false, false), (true, false), (false, true), (true, true)] {
        tables.rates = [(3, Rate { sent, received }), (2, Rate { sent: true, received: true })].into();
        for (frame, used_up) in [(&out, sent), (&back, received)] {
            let expected = if used_up { Reason::OverRateLimit } else { Reason::ChannelTx };
            assert_eq!(judge(&tables, frame, HEADROOM).reason, expected);
        }
    }
}

#[test]
fn data_of_a_channel_has_its_time_its_size_and_its_checksum() {
    for (client, peer) in pairs() {
        let (mut tables, channel) = tables_with_channel(client, peer);
        let header = |host: [&str; 4]| if host == V4 { 28 } else { 48 };
        let data = vec![3; usize::from(MTU)];
        let out = |len: usize| frame_to(channel.client, server(client), 64, &channel_data(&data[..len], &[]));
        let back = |len: usize| frame_to(channel.peer, relayed(peer), 64, &data[..len]);
        let (room_out, room_back) = (data.len() - header(peer), data.len() - header(client) - 4);
        for (fits, not) in [(out(room_out), out(room_out + 1)), (back(room_back), back(room_back + 1))] {
            assert_eq!(judge(&tables, &fits, HEADROOM).reason, Reason::ChannelTx);
            let judged = judge(&tables, &not, HEADROOM);
            assert!(judged.reason == Reason::ToFragment && judged.event.is_none(), "DF or not");
        }
        for (mut frame, from, to) in [(out(9), client, peer), (back(9), peer, client)] {
            let expected = match (from == V4, to == V4) {
                (true, true) => Reason::ChannelTx,
                (true, false) => Reason::ToChecksum,
                (false, _) => Reason::NoChannel,
            };
            let at = if from == V4 { 40 } else { 60 };
            frame[at..at + 2].fill(0);
            assert_eq!(judge(&tables, &frame, HEADROOM).reason, expected);
        }
        tables.channels = [Channel { expired: true, ..channel }].into();
        for frame in [out(9), back(9)] {
            assert_eq!(judge(&tables, &frame, HEADROOM).reason, Reason::ChannelExpired);
        }
    }
}

#[test]
fn tables_that_the_program_can_not_hold_are_not_possible() {
    let (mut tables, channel) = tables_with_channel(V4, V6);
    let mut with = |other: Channel| {
        tables.channels = [channel, other].into();
        tables.is_possible()
    };
    let other = endpoint(V4[3]);
    assert!(with(Channel { client: other, peer: endpoint(V6[2]), ..channel }));
    assert!(with(Channel { number: NUMBER + 1, relayed_port: RELAYED_PORT + 1, ..channel }));
    assert!(!with(Channel { relayed_port: RELAYED_PORT + 1, ..channel }), "its number is another's");
    assert!(!with(Channel { client: other, ..channel }), "its relayed port is another's");
    assert!(!with(Channel { client: other, peer: other, ..channel }), "its peer is of another family");
}

#[test]
fn between_families_the_header_says_what_it_can() {
    let mut frame = session_frame(V4, &PAYLOAD);
    frame[15] = 0xb9;
    let judged = judge(&tables(V4, V6), &frame, HEADROOM);
    let (ip, _) = Ipv6Header::from_slice(&judged.frame.unwrap()[14..]).unwrap();
    assert_eq!((ip.traffic_class, ip.flow_label.value(), ip.next_header), (0xb9, 0, IpNumber::UDP));

    let mut frame = session_frame(V6, &PAYLOAD);
    (frame[14], frame[15]) = (0x6b, 0x95);
    let judged = judge(&tables(V6, V4), &frame, HEADROOM);
    let (ip, _) = Ipv4Header::from_slice(&judged.frame.unwrap()[14..]).unwrap();
    assert_eq!((ip.dscp.value() << 2 | ip.ecn.value(), ip.identification), (0xb9, 0));
    assert!(ip.dont_fragment && !ip.is_fragmenting_payload());
}

#[test]
fn a_wrong_checksum_leaves_as_wrong_as_it_came() {
    let (from, to) = (V4, V4);
    let right = session_frame(from, &PAYLOAD);
    let mut wrong = right.clone();
    // The header's by 0x0100, UDP's by 1, in one's complement.
    for (at, by) in [(24, 0x0100), (40, 1)] {
        let old = u16::from_be_bytes([wrong[at], wrong[at + 1]]);
        let (sum, carry) = old.overflowing_add(by);
        wrong[at..at + 2].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    }
    let tables = tables(from, to);
    let [right, wrong] = [right, wrong].map(|frame| judge(&tables, &frame, HEADROOM).frame.unwrap());
    for (at, by) in [(24, 0x0100), (40, 1)] {
        let field = |frame: &[u8]| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        assert_eq!((field(&right) + by) % 0xffff, field(&wrong) % 0xffff);
    }
}

#[test]
fn no_checksum_stays_none_or_goes_the_slow_way() {
    let mut frame = session_frame(V4, &PAYLOAD);
    frame[40..42].fill(0);
    let judged = judge(&tables(V4, V4), &frame, HEADROOM);
    assert_eq!(judged.frame.unwrap()[40..42], [0, 0]);
    assert_eq!(end(&judge(&tables(V4, V6), &frame, HEADROOM)), (Reason::ToChecksum, Family::Ipv4));
    let mut frame = session_frame(V6, &PAYLOAD);
    frame[60..62].fill(0);
    assert_eq!(end(&judge(&tables(V6, V4), &frame, HEADROOM)), (Reason::NoUdpChecksum, Family::Ipv6));
}

#[test]
fn tags_come_from_the_next_hop_and_padding_stays() {
    let mut tables = tables(V4, V6);
    let mut frame = session_frame(V4, &PAYLOAD);
    frame.extend([0xee; 6]);
    frame.splice(12..12, [0x88, 0xa8, 0x0f, 0xff, 0x81, 0x00, 0x00, 0x01]);
    tables.next_hops.get_mut(&5).unwrap().tag_count = 1;
    let judged = judge(&tables, &frame, HEADROOM);
    let left = judged.frame.unwrap();
    let (ethernet, _) = Ethernet2Header::from_slice(&left).unwrap();
    assert_eq!((ethernet.destination, ethernet.source), ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]));
    let headers = PacketHeaders::from_ethernet_slice(&left).unwrap();
    let [LinkExtHeader::Vlan(tag)] = headers.link_exts.as_slice() else { panic!("one tag leaves") };
    assert_eq!((tag.vlan_id.value(), tag.pcp.value()), (3, 1));
    assert_eq!(left[left.len() - 6..], [0xee; 6]);
    assert_eq!(left.len(), 14 + 4 + 40 + 8 + PAYLOAD.len() + 6);
    // One tag less, 20 bytes of header more: 16 bytes of growth.
    assert_eq!(judge(&tables, &frame, 16).reason, Reason::ForwardedTx);
    assert_eq!(end(&judge(&tables, &frame, 15)), (Reason::NoHeadroom, Family::Ipv4));
    frame.splice(12..12, [0x81, 0x00, 0, 1]);
    assert_eq!(end(&judge(&tables, &frame, HEADROOM)), (Reason::VlanTagged, Family::Other));
}

#[test]
fn what_is_too_big_is_so_as_it_leaves() {
    for (from, to, room) in [(V4, V4, 272), (V6, V6, 252), (V4, V6, 252), (V6, V4, 272)] {
        let tables = tables(from, to);
        let message = |len: usize| {
            let mut message = PAYLOAD.to_vec();
            message.resize(len, 0);
            message
        };
        let mut frame = session_frame(from, &message(room));
        assert_eq!(judge(&tables, &frame, HEADROOM).reason, Reason::ForwardedTx);
        frame = session_frame(from, &message(room + 1));
        let judged = judge(&tables, &frame, HEADROOM);
        assert_eq!(judged.reason, Reason::TooBig, "etherparse sets DF");
        let event = judged.event.unwrap();
        assert_eq!((event.kind, event.message_len, event.message), (TOO_BIG, room + 1, &PAYLOAD[..16]));
        if from == V4 {
            frame[20] &= !0x40;
            assert_eq!(end(&judge(&tables, &frame, HEADROOM)), (Reason::ToFragment, Family::Ipv4));
        }
    }
}

#[test]
fn handshakes_go_up_and_strangers_are_hinted() {
    let mut tables = tables(V4, V4);
    let stranger = endpoint(V4[2]);
    let to = V4[0].parse().unwrap();
    let mut initiation = [0; 148];
    initiation[0] = 1;
    let frame = frame(stranger, to, 64, &initiation);
    let judged = judge(&tables, &frame, HEADROOM);
    assert_eq!(judged.reason, Reason::Initiation);
    assert_eq!(judged.event.map(|event| (event.kind, event.message)), Some((HANDSHAKE, &initiation[..])));

    let own = session_frame(V4, &data(9));
    let judged = judge(&tables, &own, HEADROOM);
    assert_eq!((judged.reason, judged.event.map(|event| event.kind)), (Reason::DataOwn, Some(NEW_SOURCE)));
    tables.endpoints.insert(stranger);
    assert!(judge(&tables, &own, HEADROOM).event.is_none(), "it is known");
    tables.ring_full = true;
    assert_eq!(judge(&tables, &frame, HEADROOM).reason, Reason::InitiationNotCopied);
}

#[test]
fn an_event_is_asked_for_only_when_its_time_has_surely_come() {
    let interval = NEW_SOURCE_INTERVAL_NS;
    let mut pace = Pace::default();
    assert_eq!(pace.demand(NEW_SOURCE, (10, 20)), Demand::Must);
    pace.note(NEW_SOURCE, (100, 200));
    assert_eq!(pace.demand(NEW_SOURCE, (300, interval + 99)), Demand::MustNot);
    assert_eq!(pace.demand(NEW_SOURCE, (interval + 150, interval + 160)), Demand::May);
    assert_eq!(pace.demand(NEW_SOURCE, (interval + 201, interval + 300)), Demand::Must);
    assert_eq!(pace.demand(TOO_BIG, (300, 400)), Demand::Must, "limits are independent");
}

#[test]
fn tables_and_frames_come_from_the_seed_alone() {
    for seed in 0..20 {
        let make = || {
            let mut rng = fastrand::Rng::with_seed(seed);
            let tables = state::random(&mut rng);
            let mut grammar = Grammar::new(rng, Room { headroom: HEADROOM, metadata: HEADROOM });
            let frames: Vec<_> = (0..200).map(|_| grammar.case(&tables).frame).collect();
            (serde_json::to_string(&tables).unwrap(), frames)
        };
        let (tables, frames) = make();
        assert_eq!((&tables, &frames), (&make().0, &make().1));
        assert!(serde_json::from_str::<Tables>(&tables).unwrap().is_possible());
        assert!(frames.iter().all(|frame| frame.len() >= 14));
    }
}

#[test]
fn a_full_table_of_addresses_makes_entries_too() {
    let mut tables = tables(V4, V6);
    for key in 4..LOCALS_MAX as u8 {
        tables.locals.insert(key, IpAddr::V4([10, 0, 0, key].into()));
    }
    let session = Session { local_in: 200, ..tables.sessions[&7] };
    let entry = tables.session_entry(7, &session);
    assert_eq!((entry.local_in, entry.local_out, entry.next_hop), (200, 3, 5));
    let (_, channel) = tables_with_channel(V4, V6);
    let channel = Channel { server: 200, to_client: 6, ..channel };
    let entries = tables.channel_entries(&channel, 9);
    let ids = entries.map(|entry| (entry.local_in, entry.local_out, entry.next_hop, entry.until));
    assert_eq!(ids, [(200, 3, 5, 9), (3, 200, 6, 9)]);
}

#[test]
fn fixtures_can_be_read() {
    let case = Case { frame: session_frame(V6, &PAYLOAD), metadata: 8 };
    let fixture = Fixture::new("a test".to_owned(), &tables(V6, V4), &case);
    let text = serde_json::to_string(&fixture).unwrap();
    let read: Fixture = serde_json::from_str(&text).unwrap();
    assert_eq!(read.case().unwrap().frame, case.frame);
    for (name, fixture) in fixture::all().unwrap() {
        assert!(fixture.case().is_ok(), "{name}");
        assert!(fixture.tables.is_possible(), "{name}");
    }
}
