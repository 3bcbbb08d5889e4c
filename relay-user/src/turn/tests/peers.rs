//! Peers: permissions, channels, and what goes to and from them.

use turn_types::{
    attribute::{Data, XorPeerAddress},
    message::{DATA, SEND},
    stun::message::{
        Message, MessageClass, MessageType, MessageWrite as _, MessageWriteExt as _, MessageWriteVec,
        TransactionId,
    },
};

use super::world::{Client, PEER, PEER_V6, World, settings};
use crate::{members::RateLimit, turn::server::Action};

fn send(client: &Client, world: &mut World, peer: &str, data: &[u8]) -> usize {
    let transaction = TransactionId::generate();
    let kind = MessageType::from_class_method(MessageClass::Indication, SEND);
    let mut message = Message::builder(kind, transaction, MessageWriteVec::new());
    message.add_attribute(&XorPeerAddress::new(peer.parse().unwrap(), transaction)).unwrap();
    message.add_attribute(&Data::new(data)).unwrap();
    let sent = world.client_sends(client.tuple, &message.finish());
    for (_, to, bytes) in &sent {
        assert_eq!((to.to_string().as_str(), bytes.as_slice()), (peer, data));
    }
    sent.len()
}

#[test]
fn data_passes_as_indications_with_a_permission_alone() {
    let mut world = World::new();
    let (mut ann, relayed) = world.allocated("ann", "192.0.2.7:1000");
    assert_eq!(send(&ann, &mut world, PEER, b"out"), 0, "no permission yet");
    assert!(world.peer_sends(relayed, PEER, b"in").is_empty(), "nor for what comes");
    assert_eq!(world.permit(&mut ann, &[PEER]), 0);
    assert_eq!(send(&ann, &mut world, PEER, b"out"), 1);
    assert_eq!(send(&ann, &mut world, "203.0.113.9:1", b"out"), 1, "a permission is for an address");
    assert_eq!(send(&ann, &mut world, "203.0.113.10:7000", b"out"), 0);

    let sent = world.peer_sends(relayed, PEER, b"in");
    let [(from, to, bytes)] = sent.as_slice() else { panic!("one indication") };
    assert_eq!((*from, *to), (ann.tuple.server, ann.tuple.client));
    let message = Message::from_bytes(bytes).unwrap();
    assert!(message.has_method(DATA) && message.has_class(MessageClass::Indication));
    let peer = message.attribute::<XorPeerAddress>().unwrap().addr(message.transaction_id());
    assert_eq!((peer.to_string().as_str(), message.attribute::<Data>().unwrap().data()), (PEER, &b"in"[..]));
    assert!(world.peer_sends(relayed, "203.0.113.10:7000", b"in").is_empty());

    world.wait(300);
    assert_eq!(send(&ann, &mut world, PEER, b"out"), 0, "the permission has ended");
    assert!(world.peer_sends(relayed, PEER, b"in").is_empty());
}

#[test]
fn a_user_has_so_much_each_way_and_no_more() {
    let mut world = World::new();
    let (mut ann, relayed) = world.allocated("ann", "192.0.2.7:1000");
    let (mut other, _) = world.allocated("ann", "192.0.2.7:1001");
    for client in [&mut ann, &mut other] {
        assert_eq!(world.bind(client, 0x4000, PEER), 0);
    }
    // 8,000 bytes a second, of which a tenth may come at once.
    let limit = Some(RateLimit { bits_per_second: Some(64_000), packets_per_second: None });
    let mut limited = settings();
    limited.quotas.rate = limit;
    let mut actions = Vec::new();
    world.server.configure(limited, &mut actions);
    let told: Vec<_> = actions
        .iter()
        .map(|action| match action {
            Action::Bind(binding) => (binding.limit, binding.user),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((told.len(), told[0].0, told[0]), (2, limit, told[1]), "the program is told, of one user");
    world.carry_out(actions);

    let data = [7; 800];
    assert_eq!(world.channel_data(&ann, 0x4000, &data).len(), 1);
    assert!(world.channel_data(&other, 0x4000, &data).is_empty(), "both are the same user's");
    assert_eq!(world.peer_sends(relayed, PEER, &data).len(), 1, "the other way counts by itself");
    assert!(world.peer_sends(relayed, PEER, &data).is_empty());
    assert_eq!(world.server.outcomes().over_rate_limit, 2);
    world.wait(1);
    assert_eq!(world.channel_data(&other, 0x4000, &data).len(), 1);
}

#[test]
fn data_passes_by_channels() {
    let mut world = World::new();
    let (mut ann, relayed) = world.allocated("ann", "192.0.2.7:1000");
    assert!(world.channel_data(&ann, 0x4000, b"out").is_empty(), "not bound yet");
    assert_eq!(world.bind(&mut ann, 0x4000, PEER), 0);
    let [binding] = world.bound[..] else { panic!("one channel") };
    assert_eq!((binding.number, binding.relayed, binding.peer), (0x4000, relayed, PEER.parse().unwrap()));
    // Its permission ends before it does.
    assert_eq!(binding.until, world.at + std::time::Duration::from_secs(300));
    let sent = world.channel_data(&ann, 0x4000, b"out");
    assert_eq!(sent, [(relayed, PEER.parse().unwrap(), b"out".to_vec())]);
    assert_eq!(world.peer_sends(relayed, PEER, b"in!")[0].2, *b"\x40\x00\x00\x03in!");
    assert!(world.peer_sends(relayed, "203.0.113.9:1", b"in")[0].2[0] < 4, "another port: an indication");

    // Padding is not needed, and does not matter.
    for padding in 0..=3 {
        let bytes = [&b"\x40\x00\x00\x01x"[..], &vec![0xff; padding]].concat();
        assert_eq!(world.client_sends(ann.tuple, &bytes)[0].2, b"x", "{padding} bytes of padding");
    }
    assert!(world.client_sends(ann.tuple, b"\x40\x00\x00\x05shor").is_empty(), "shorter than it says");
    assert_eq!(world.channel_data(&ann, 0x4000, b"")[0].2, b"");
}

#[test]
fn a_channel_ends_and_so_does_what_it_needs() {
    let mut world = World::new();
    let (mut ann, relayed) = world.allocated("ann", "192.0.2.7:1000");
    world.bind(&mut ann, 0x4000, PEER);
    world.wait(299);
    assert_eq!(world.permit(&mut ann, &[PEER]), 0);
    let until = |world: &World| (world.bound[0].until - world.at).as_secs();
    assert_eq!(until(&world), 300, "a permission makes it last longer");
    assert_eq!(world.refresh(&mut ann, 600).code(), 0);
    world.wait(300);
    assert!(world.channel_data(&ann, 0x4000, b"x").is_empty(), "without the permission there is nothing");
    assert!(world.peer_sends(relayed, PEER, b"x").is_empty());
    assert_eq!(world.permit(&mut ann, &[PEER]), 0);
    assert_eq!(until(&world), 1, "the channel itself");
    world.wait(1);
    assert!(world.channel_data(&ann, 0x4000, b"x").is_empty() && world.bound.is_empty());
    assert!(world.peer_sends(relayed, PEER, b"x")[0].2[0] < 4, "the permission is still there");
}

#[test]
fn a_number_is_one_peers_and_a_peer_has_one_number() {
    let mut world = World::new();
    let (mut ann, _) = world.allocated("ann", "192.0.2.7:1000");
    assert_eq!(world.bind(&mut ann, 0x4000, PEER), 0);
    assert_eq!(world.bind(&mut ann, 0x4000, PEER), 0, "once more: refreshed");
    assert_eq!(world.bind(&mut ann, 0x4000, "203.0.113.9:7001"), 400);
    assert_eq!(world.bind(&mut ann, 0x4001, PEER), 400);
    for number in [0, 0x3fff, 0x8000, 0xffff] {
        assert_eq!(world.bind(&mut ann, number, "203.0.113.9:7001"), 400, "{number:#x}");
    }
    assert_eq!(world.bind(&mut ann, 0x7fff, "203.0.113.9:7001"), 0);
    assert_eq!(world.bind(&mut ann, 0x4002, "203.0.113.9:0"), 403, "no port");
    assert_eq!(world.bound.len(), 2);
}

#[test]
fn families_do_not_mix_within_an_allocation() {
    let mut world = World::new();
    let (mut ann, _) = world.allocated("ann", "[2001:db8:7::7]:1000");
    assert_eq!(world.bind(&mut ann, 0x4000, PEER_V6), 443, "the relayed address is IPv4");
    assert_eq!(world.permit(&mut ann, &[PEER, PEER_V6]), 443);
    assert_eq!(world.bind(&mut ann, 0x4000, PEER), 0, "but the client itself may be on IPv6");
    assert_eq!(send(&ann, &mut world, PEER, b"out"), 1);
    assert_eq!(send(&ann, &mut world, PEER_V6, b"out"), 0);
}

#[test]
fn peers_are_no_more_than_there_may_be() {
    let mut world = World::new();
    let (mut ann, _) = world.allocated("ann", "192.0.2.7:1000");
    let peers: Vec<String> = (1..=6).map(|n| format!("203.0.113.{n}:7000")).collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    assert_eq!(world.permit(&mut ann, &peers), 508, "all or none");
    assert_eq!(send(&ann, &mut world, peers[0], b"x"), 0);
    assert_eq!(world.permit(&mut ann, &peers[..5]), 0);
    assert_eq!(world.permit(&mut ann, &peers[..5]), 0, "again");
    assert_eq!(world.bind(&mut ann, 0x4000, peers[5]), 508);
    assert_eq!(world.permit(&mut ann, &[]), 400);
}

#[test]
fn clients_of_the_server_reach_each_other_by_their_relayed_addresses() {
    let mut world = World::new();
    let (mut ann, at_ann) = world.allocated("ann", "192.0.2.7:1000");
    let (mut bob, at_bob) = world.allocated("bob", "192.0.2.8:1000");
    let (to_ann, to_bob) = (at_ann.to_string(), at_bob.to_string());
    assert_eq!((world.permit(&mut ann, &[&to_bob]), world.permit(&mut bob, &[&to_ann])), (0, 0));
    assert_eq!(send(&ann, &mut world, &to_bob, b"hi"), 1);
    assert_eq!(world.peer_sends(at_bob, &to_ann, b"hi").len(), 1);
    assert_eq!(world.bind(&mut ann, 0x4000, &to_bob), 0);
    assert_eq!(world.channel_data(&ann, 0x4000, b"hi").len(), 1);
}

#[test]
fn traffic_is_counted_by_user() {
    let mut world = World::new();
    let (mut ann, relayed) = world.allocated("ann", "192.0.2.7:1000");
    world.bind(&mut ann, 0x4000, PEER);
    world.channel_data(&ann, 0x4000, b"seven b");
    world.peer_sends(relayed, PEER, b"one");
    world.peer_sends(relayed, PEER, b"two");
    let figures = |world: &World| {
        let traffic = world.server.accounts()["ann"].traffic;
        [traffic.sent.packets, traffic.sent.bytes, traffic.received.packets, traffic.received.bytes]
    };
    assert_eq!(figures(&world), [1, 7, 2, 6]);
    world.refresh(&mut ann, 0);
    assert_eq!(figures(&world), [1, 7, 2, 6], "also when the allocation has ended");
}
