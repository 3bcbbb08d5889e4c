//! Clients by TCP.

use turn_types::stun::message::{BINDING, MessageWrite as _};

use super::world::{Client, PEER, World, client, request, settings};
use crate::turn::{
    guard::Rates,
    server::{Action, FiveTuple, Settings, Transport},
};

/// A client by TCP with a channel to [`PEER`].
fn connected(world: &mut World, address: &str) -> Client {
    let mut ann = client("ann", address);
    ann.tuple.transport = Transport::Tcp;
    assert_eq!(world.allocate(&mut ann, &[]).code(), 0);
    assert_eq!(world.bind(&mut ann, 0x4000, PEER), 0);
    ann
}

fn relayed(world: &World, tuple: &FiveTuple) -> std::net::SocketAddr {
    world.server.allocation(tuple).expect("an allocation").relayed[0].address
}

#[test]
fn its_channels_are_the_servers_and_not_the_programs() {
    let mut world = World::new();
    let mut ann = connected(&mut world, "192.0.2.7:1000");
    let relayed = relayed(&world, &ann.tuple);
    assert!(world.bound.is_empty(), "the program knows of clients by UDP alone");
    let sent = world.channel_data(&ann, 0x4000, b"out");
    assert_eq!(sent, [(relayed, PEER.parse().unwrap(), b"out".to_vec())]);
    let mut actions = Vec::new();
    world.server.handle_peer(world.at, relayed, PEER.parse().unwrap(), b"back", &mut actions);
    let bytes = [&[0x40, 0, 0, 4][..], b"back"].concat();
    assert_eq!(actions, [Action::Answer { to: ann.tuple, bytes, is_data: true }]);
    assert_eq!(world.refresh(&mut ann, 0).code(), 0);
    assert!(world.host.open.is_empty());
}

#[test]
fn with_its_connection_its_allocation_ends() {
    let mut world = World::new();
    let ann = connected(&mut world, "192.0.2.7:1000");
    // Another client at the same address, by UDP.
    let (other, _) = world.allocated("ann", "192.0.2.7:1000");
    assert_eq!(world.host.open.len(), 2);
    let mut actions = Vec::new();
    world.server.disconnected(&ann.tuple, &mut actions);
    assert!(actions.iter().all(|action| matches!(action, Action::Close(_))), "{actions:?}");
    world.carry_out(actions);
    assert!(world.server.allocation(&ann.tuple).is_none() && world.server.allocation(&other.tuple).is_some());
    assert_eq!(world.host.open.len(), 1);
    // One that had none.
    world.server.disconnected(&ann.tuple, &mut Vec::new());
    assert_eq!(world.server.outcomes().disconnected, 1);
    let accounts = world.server.accounts();
    assert_eq!(accounts["ann"].allocations, 1);
}

#[test]
fn who_asks_too_often_is_not_left_waiting() {
    let mut world = World::new();
    let settings = Settings { rates: Rates { source: 1, all: 1 }, ..settings() };
    world.server.configure(settings, &mut Vec::new());
    let mut ask = |transport| {
        let (mut actions, tuple) =
            (Vec::new(), FiveTuple { transport, ..client("ann", "192.0.2.7:1000").tuple });
        world.server.handle(world.now(), tuple, &request(BINDING).finish(), &mut world.host, &mut actions);
        actions
    };
    // What comes by UDP may be anybody's, and takes nothing from those who have connected.
    for transport in [Transport::Udp, Transport::Tcp] {
        assert!(matches!(ask(transport)[..], [Action::Answer { .. }]));
    }
    assert_eq!(ask(Transport::Udp), []);
    assert!(matches!(ask(Transport::Tcp)[..], [Action::Disconnect(_)]));
    assert_eq!(world.server.outcomes().over_budget, 2);
}
