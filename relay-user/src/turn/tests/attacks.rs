//! What attackers try.

use turn_types::{
    attribute::RequestedTransport,
    message::{ALLOCATE, CHANNEL_BIND, REFRESH},
    stun::message::{BINDING, MessageWrite as _, MessageWriteExt as _},
};

use super::world::{PEER, V4, World, client, request, settings};
use crate::turn::{
    guard::Rates,
    peers::Peers,
    server::{FiveTuple, Settings},
};

#[test]
fn the_server_is_no_way_into_other_networks() {
    let mut world = World::new();
    world.host.own.push("203.0.113.200".parse().unwrap());
    let (mut ann, _) = world.allocated("ann", "192.0.2.7:1000");
    for peer in [
        "127.0.0.1:22",
        "10.0.0.1:53",
        "192.168.1.1:80",
        "169.254.169.254:80",
        "100.64.0.1:80",
        "224.0.0.251:5353",
        "255.255.255.255:67",
        "0.0.0.0:80",
        "192.0.2.66:80",
        "203.0.113.200:80",
    ] {
        assert_eq!(world.permit(&mut ann, &[peer]), 403, "{peer}");
        assert_eq!(world.bind(&mut ann, 0x4000, peer), 403, "{peer}");
        // One that is refused takes the others with it.
        assert_eq!(world.permit(&mut ann, &[PEER, peer]), 403, "{peer}");
    }
    assert!(world.channel_data(&ann, 0x4000, b"x").is_empty() && world.bound.is_empty());

    let mut six = client("ann", "[2001:db8:7::7]:1000");
    let v6 = turn_types::attribute::RequestedAddressFamily::new(turn_types::AddressFamily::IPV6);
    assert_eq!(world.allocate(&mut six, &[&v6]).code(), 0);
    for peer in [
        "[::1]:22",
        "[::ffff:127.0.0.1]:22",
        "[::ffff:203.0.113.9]:22",
        "[64:ff9b::7f00:1]:22",
        "[64:ff9b::c633:6401]:22",
        "[2002:a00:1::1]:22",
        "[fd00:ec2::254]:80",
        "[fe80::1]:80",
        "[ff02::1]:80",
    ] {
        assert_eq!(world.permit(&mut six, &[peer]), 403, "{peer}");
        assert_eq!(world.bind(&mut six, 0x4000, peer), 403, "{peer}");
    }
}

#[test]
fn of_the_servers_own_addresses_only_relayed_ones_are_reached() {
    let mut world = World::new();
    let (mut ann, _) = world.allocated("ann", "192.0.2.7:1000");
    for port in [22, 3478, 51820, 50_050] {
        assert_eq!(world.bind(&mut ann, 0x4000, &format!("{V4}:{port}")), 403, "{port}");
    }
    // A permission is for an address. What it is good for is asked with every datagram.
    let (mut bob, at_bob) = world.allocated("bob", "192.0.2.8:1000");
    assert_eq!(world.bind(&mut ann, 0x4000, &at_bob.to_string()), 0);
    assert_eq!(world.channel_data(&ann, 0x4000, b"x").len(), 1);
    world.refresh(&mut bob, 0);
    assert!(world.channel_data(&ann, 0x4000, b"x").is_empty(), "whoever has that port now is no client");
}

#[test]
fn who_does_not_know_the_password_gets_nothing() {
    let mut world = World::new();
    let mut mallory = client("ann", "192.0.2.66:1000");
    "wrong".clone_into(&mut mallory.password);
    assert_eq!(world.allocate(&mut mallory, &[]).code(), 401);
    let mut nobody = client("nobody", "192.0.2.66:1001");
    assert_eq!(world.allocate(&mut nobody, &[]).code(), 401);
    let mut late = client("1000:ann", "192.0.2.66:1002");
    assert_eq!(world.allocate(&mut late, &[]).code(), 401, "time-limited credentials whose time is up");
    assert!(world.host.open.is_empty());
    assert_eq!(world.server.outcomes().unauthorized, 3);
    // Neither an answer with a signature: that would let passwords be guessed elsewhere.
    let bytes = mallory.sign(request(ALLOCATE));
    let answer = world.ask(mallory.tuple, &bytes).unwrap();
    assert!(!crate::turn::message::is_signed(&answer.message()));
}

#[test]
fn an_allocation_is_changed_by_its_own_user_alone() {
    let mut world = World::new();
    let (ann, _) = world.allocated("ann", "192.0.2.7:1000");
    // Bob knows his own password, and sends as if from ann's address.
    let mut bob = client("bob", "192.0.2.7:1000");
    bob.nonce.clone_from(&ann.nonce);
    assert_eq!(world.refresh(&mut bob, 0).code(), 441);
    assert_eq!(world.bind(&mut bob, 0x4000, PEER), 441);
    assert_eq!(world.allocate(&mut bob, &[]).code(), 441);
    assert!(world.server.allocation(&ann.tuple).is_some() && world.bound.is_empty());
}

#[test]
fn a_request_is_good_for_one_client_and_a_short_time() {
    let mut world = World::new();
    let mut ann = client("ann", "192.0.2.7:1000");
    world.learn_nonce(&mut ann);
    let mut message = request(ALLOCATE);
    message.add_attribute(&RequestedTransport::new(17)).unwrap();
    let bytes = ann.sign(message);
    // Overheard, and sent again from elsewhere, or to another address of the server.
    let elsewhere = client("ann", "192.0.2.66:1000").tuple;
    assert_eq!(world.ask(elsewhere, &bytes).unwrap().code(), 438);
    let other_port = client("ann", "192.0.2.7:1001").tuple;
    assert_eq!(world.ask(other_port, &bytes).unwrap().code(), 438);
    assert_eq!(world.ask(ann.tuple, &bytes).unwrap().code(), 0);
    // And much later.
    world.wait(600);
    assert_eq!(world.ask(ann.tuple, &bytes).unwrap().code(), 438);
    assert!(world.server.allocations().len() == 0);
}

#[test]
fn a_channel_is_its_clients_alone() {
    let mut world = World::new();
    let (mut ann, relayed) = world.allocated("ann", "192.0.2.7:1000");
    world.bind(&mut ann, 0x4000, PEER);
    let data = b"\x40\x00\x00\x04data";
    for thief in ["192.0.2.7:1001", "192.0.2.66:1000", "[2001:db8:7::7]:1000"] {
        assert!(world.client_sends(client("bob", thief).tuple, data).is_empty(), "{thief}");
    }
    let other_server = FiveTuple { server: "198.51.100.2:3478".parse().unwrap(), ..ann.tuple };
    assert!(world.client_sends(other_server, data).is_empty());
    assert!(world.peer_sends(relayed, "203.0.113.10:7000", b"forged").is_empty(), "not a permitted peer");
    let (_, at_bob) = world.allocated("bob", "192.0.2.8:1000");
    assert!(world.peer_sends(at_bob, PEER, b"x").is_empty(), "ann's permission is not bob's");
}

#[test]
fn a_flood_of_requests_is_answered_no_more_than_so_often() {
    let mut world = World::new();
    let (mut ann, _) = world.allocated("ann", "192.0.2.7:1000");
    let rates = Rates { source: 10, all: 40 };
    let mut actions = Vec::new();
    world.server.configure(Settings { rates, ..settings() }, &mut actions);
    assert!(actions.is_empty());
    let answered = |world: &mut World, address: String, method| {
        let tuple = client("x", &address).tuple;
        (0..20).filter(|_| world.ask(tuple, &request(method).finish()).is_some()).count()
    };
    assert!((10..=11).contains(&answered(&mut world, "192.0.2.66:1".to_owned(), ALLOCATE)));
    let others: usize = (1..200)
        .map(|n| answered(&mut world, format!("203.0.113.{n}:1"), if n % 2 == 0 { BINDING } else { REFRESH }))
        .sum();
    assert!((28..=32).contains(&others), "{others}");
    assert!(world.server.outcomes().over_budget > 3000);
    // Whoever has an allocation does not notice.
    assert_eq!(world.refresh(&mut ann, 600).code(), 0);
    assert_eq!(world.bind(&mut ann, 0x4000, PEER), 0);
    // But a flood in the name of one is limited, too.
    let mut forged = ann.clone();
    "wrong".clone_into(&mut forged.password);
    let bytes = forged.sign(request(CHANNEL_BIND));
    assert!((0..50).filter(|_| world.ask(ann.tuple, &bytes).is_some()).count() <= 11);
}

#[test]
fn whoever_is_removed_ends_at_once() {
    let mut world = World::new();
    let (ann, _) = world.allocated("ann", "192.0.2.7:1000");
    let (mut bob, _) = world.allocated("bob", "192.0.2.8:1000");
    world.bind(&mut bob, 0x4000, PEER);
    let mut without_ann = settings();
    without_ann.credentials.users.remove("ann");
    let mut actions = Vec::new();
    world.server.configure(without_ann.clone(), &mut actions);
    world.carry_out(actions);
    assert!(world.server.allocation(&ann.tuple).is_none() && world.server.allocation(&bob.tuple).is_some());
    // A peer that is denied from now on.
    let peers = Peers::new(&[], &["203.0.113.0/24".parse().unwrap()]);
    let mut actions = Vec::new();
    world.server.configure(Settings { peers, ..without_ann }, &mut actions);
    world.carry_out(actions);
    assert!(
        world.server.allocation(&bob.tuple).is_none() && world.bound.is_empty() && world.host.open.is_empty()
    );
}

#[test]
fn garbage_is_counted_and_nothing_else() {
    let mut world = World::new();
    let tuple = client("x", "192.0.2.66:1000").tuple;
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(3);
    for n in 0..20_000_usize {
        let mut bytes: Vec<u8> = (0..n % 64).map(|_| rand::Rng::random(&mut rng)).collect();
        if n % 3 == 0 && bytes.len() >= 20 {
            let len = bytes.len() as u8 - 20;
            bytes[..8].copy_from_slice(&[0, 3, 0, len, 0x21, 0x12, 0xa4, 0x42]);
        }
        world.client_sends(tuple, &bytes);
    }
    assert!(world.host.open.is_empty() && world.server.allocations().len() == 0);
    assert!(world.server.outcomes().not_turn > 1000);
}
