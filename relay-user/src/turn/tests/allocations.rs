//! Allocations: how they are made, how long they last, and what they may not take.

use turn_types::{
    AddressFamily,
    attribute::{
        AdditionalAddressFamily, EvenPort, RequestedAddressFamily, RequestedTransport, ReservationToken,
    },
    message::{ALLOCATE, REFRESH},
    stun::{
        attribute::{RawAttribute, XorMappedAddress},
        message::{BINDING, MessageWrite as _, MessageWriteExt as _},
        prelude::{AttributeStaticType as _, AttributeWrite},
    },
};

use super::world::{World, client, request};

#[test]
fn a_binding_request_is_told_where_it_came_from() {
    let mut world = World::new();
    for address in ["192.0.2.7:1000", "[2001:db8:7::7]:1000"] {
        let client = client("ann", address);
        let answer = world.ask(client.tuple, &request(BINDING).finish()).unwrap();
        let message = answer.message();
        let mapped = message.attribute::<XorMappedAddress>().unwrap().addr(message.transaction_id());
        assert_eq!(mapped, client.tuple.client);
    }
}

#[test]
fn an_allocation_is_of_the_family_that_was_asked_for() {
    let mut world = World::new();
    let mut ann = client("ann", "192.0.2.7:1000");
    let v6 = RequestedAddressFamily::new(AddressFamily::IPV6);
    let answer = world.allocate(&mut ann, &[&v6]);
    assert_eq!((answer.code(), answer.lifetime()), (0, 600));
    assert!(answer.relayed()[0].is_ipv6() && world.host.open.contains(&answer.relayed()[0]));

    let mut both = client("ann", "192.0.2.7:1001");
    let answer = world.allocate(&mut both, &[&AdditionalAddressFamily::new(AddressFamily::IPV6)]);
    let relayed = answer.relayed();
    assert!(relayed.len() == 2 && relayed[0].is_ipv4() && relayed[1].is_ipv6());
    // One of the two can be given back.
    let zero = turn_types::attribute::Lifetime::new(0);
    assert_eq!(world.request(&mut both, REFRESH, &[&v6, &zero]).code(), 0);
    assert!(!world.host.open.contains(&relayed[1]) && world.host.open.contains(&relayed[0]));
    assert_eq!(world.request(&mut both, REFRESH, &[&v6]).code(), 443);
    assert_eq!(world.refresh(&mut both, 600).code(), 0);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let mut world = World::new();
    let mut ann = client("ann", "192.0.2.7:1000");
    let v6 = RequestedAddressFamily::new(AddressFamily::IPV6);
    let also_v6 = AdditionalAddressFamily::new(AddressFamily::IPV6);
    let also_v4 = RawAttribute::new(AdditionalAddressFamily::TYPE, &[1, 0, 0, 0]);
    let (token, pair) = (ReservationToken::new(1), EvenPort::new(true));
    let refused: [&[&dyn AttributeWrite]; 5] =
        [&[&v6, &also_v6], &[&also_v4], &[&token, &pair], &[&token, &v6], &[&pair, &also_v6]];
    for attributes in refused {
        assert_eq!(world.allocate(&mut ann, attributes).code(), 400);
    }
    assert_eq!(world.allocate(&mut ann, &[&token]).code(), 508, "nobody has reserved anything");
    assert_eq!(world.request(&mut ann, ALLOCATE, &[&RequestedTransport::new(6)]).code(), 442);
    assert_eq!(world.request(&mut ann, ALLOCATE, &[]).code(), 400);
    assert!(world.host.open.is_empty() && world.server.allocations().len() == 0);
}

#[test]
fn a_pair_of_ports_can_be_had() {
    let mut world = World::new();
    let mut first = client("ann", "192.0.2.7:1000");
    let answer = world.allocate(&mut first, &[&EvenPort::new(true)]);
    let relayed = answer.relayed()[0];
    assert_eq!(relayed.port() % 2, 0);
    let token = answer.message().attribute::<ReservationToken>().unwrap().token();
    let mut second = client("ann", "192.0.2.7:1001");
    let answer = world.allocate(&mut second, &[&ReservationToken::new(token)]);
    assert_eq!(answer.relayed()[0].port(), relayed.port() + 1);
    let mut third = client("ann", "192.0.2.7:1002");
    assert_eq!(world.allocate(&mut third, &[&ReservationToken::new(token)]).code(), 508, "it is taken");

    // What nobody fetches is given back.
    assert_eq!(world.allocate(&mut third, &[&EvenPort::new(true)]).code(), 0);
    assert_eq!(world.host.open.len(), 4);
    world.wait(30);
    assert_eq!(world.host.open.len(), 3);
}

#[test]
fn an_answer_that_was_lost_is_given_again_and_a_second_allocation_refused() {
    let mut world = World::new();
    let mut ann = client("ann", "192.0.2.7:1000");
    world.learn_nonce(&mut ann);
    let mut message = request(ALLOCATE);
    message.add_attribute(&RequestedTransport::new(17)).unwrap();
    let bytes = ann.sign(message);
    let first = world.ask(ann.tuple, &bytes).unwrap().relayed();
    assert_eq!(world.ask(ann.tuple, &bytes).unwrap().relayed(), first);
    assert_eq!(world.allocate(&mut ann, &[]).code(), 437);
    assert_eq!(world.server.allocations().len(), 1);
}

#[test]
fn an_allocation_lasts_as_long_as_it_is_refreshed() {
    let mut world = World::new();
    let (mut ann, relayed) = world.allocated("ann", "192.0.2.7:1000");
    assert_eq!(world.refresh(&mut ann, 1).lifetime(), 600, "the least");
    assert_eq!(world.refresh(&mut ann, 100_000).lifetime(), 3600, "the most");
    world.wait(599);
    assert_eq!(world.refresh(&mut ann, 600).code(), 0);
    world.wait(300);
    // By now the nonce is too old.
    let stale = world.refresh(&mut ann, 600);
    assert_eq!(stale.code(), 438);
    ann.nonce = stale.message().attribute::<turn_types::stun::attribute::Nonce>().unwrap().nonce().to_owned();
    assert_eq!(world.refresh(&mut ann, 600).code(), 0);
    world.wait(600);
    assert!(world.server.allocations().len() == 0 && !world.host.open.contains(&relayed));
    ann.nonce.clear();
    assert_eq!(world.refresh(&mut ann, 600).code(), 437);
    assert_eq!(world.server.outcomes().expired, 1);
}

#[test]
fn an_allocation_that_is_given_back_leaves_nothing() {
    let mut world = World::new();
    let (mut ann, _) = world.allocated("ann", "192.0.2.7:1000");
    assert_eq!(world.bind(&mut ann, 0x4000, "203.0.113.9:7000"), 0);
    assert_eq!(world.bound.len(), 1);
    let answer = world.refresh(&mut ann, 0);
    assert_eq!((answer.code(), answer.lifetime()), (0, 0));
    assert!(world.host.open.is_empty() && world.bound.is_empty() && world.server.next_end().is_none());
    assert_eq!(world.server.outcomes().released, 1);
    assert_eq!(world.refresh(&mut ann, 0).code(), 437);
    assert_eq!(world.allocate(&mut ann, &[]).code(), 0, "and another can be had");
}

#[test]
fn nobody_takes_more_than_there_is_for_him() {
    let mut world = World::new();
    for port in 0..4 {
        world.allocated("ann", &format!("192.0.2.7:{}", 1000 + port));
    }
    let mut fifth = client("ann", "192.0.2.8:1000");
    assert_eq!(world.allocate(&mut fifth, &[]).code(), 486);
    for port in 0..4 {
        world.allocated("bob", &format!("192.0.2.9:{}", 1000 + port));
    }
    // Time-limited credentials of one user count together.
    let mut other = client("ann", "192.0.2.10:1000");
    assert_eq!(world.allocate(&mut other, &[]).code(), 486, "eight in all");
    assert_eq!(world.server.accounts()["ann"].allocations, 4);
    world.wait(600);
    assert_eq!(world.server.accounts()["ann"].allocations, 0);
    other.nonce.clear();
    assert_eq!(world.allocate(&mut other, &[]).code(), 0);
}

#[test]
fn what_must_be_understood_and_is_not_is_named() {
    let mut world = World::new();
    let (mut ann, _) = world.allocated("ann", "192.0.2.7:1000");
    // MOBILITY-TICKET (RFC 8016) is optional, CONNECTION-ID (RFC 6062) is not.
    let answer = world.request(&mut ann, REFRESH, &[&turn_types::attribute::ConnectionId::new(1)]);
    assert_eq!(answer.code(), 420);
}

#[test]
fn all_is_given_back_when_the_server_is_switched_off() {
    let mut world = World::new();
    let (mut ann, _) = world.allocated("ann", "192.0.2.7:1000");
    world.bind(&mut ann, 0x4001, "203.0.113.9:7000");
    let mut pair = client("bob", "192.0.2.8:1000");
    world.allocate(&mut pair, &[&EvenPort::new(true)]);
    let mut actions = Vec::new();
    world.server.close(&mut actions);
    assert!(world.carry_out(actions).is_empty());
    assert!(world.host.open.is_empty() && world.bound.is_empty());
}
