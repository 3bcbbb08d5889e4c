//! What commands change, and what they say beforehand.

use super::*;

fn addresses(world: &World, host: &str) -> Vec<String> {
    world.host(host).networks.iter().flat_map(|place| place.addresses()).map(|a| a.to_string()).collect()
}

#[test]
fn addresses_are_the_next_free_or_the_wished() {
    let mut world = World::new();
    assert_eq!(addresses(&world, "a"), ["10.1.0.2", "fd00:1::2"]);
    let mut wished = member("w", 9, &["net"]);
    wished.networks[0].ipv4 = Some("10.1.0.4".parse().unwrap());
    world.will(Command::CreateMember(wished));
    assert_eq!(addresses(&world, "w"), ["10.1.0.4", "fd00:1::4"]);
    world.will(Command::CreateMember(member("x", 10, &["net"])));
    assert_eq!(addresses(&world, "x"), ["10.1.0.5", "fd00:1::5"]);
    world.will(Command::DeleteMember(name("a")));
    world.will(Command::CreateMember(member("y", 11, &["net"])));
    assert_eq!(addresses(&world, "y"), ["10.1.0.2", "fd00:1::2"]);
    world.will(Command::CreateMember(member("z", 12, &["net"])));
    assert_eq!(addresses(&world, "z"), ["10.1.0.6", "fd00:1::6"]);
    // A change that does not name them keeps them.
    let both = MemberChange { networks: Some(places(&["other", "net"])), ..MemberChange::default() };
    world.will(Command::ChangeMember(name("z"), both));
    assert_eq!(addresses(&world, "z"), ["10.1.0.6", "fd00:1::6", "10.2.0.2"]);
}

#[test]
fn a_second_family_reaches_all_members() {
    let mut world = World::new();
    world.will(Command::ChangeNetwork(network("other", Some("10.2.0.0/29"), Some("fd00:2::/64"))));
    assert_eq!(addresses(&world, "relay"), ["10.1.0.1", "fd00:1::1", "10.2.0.1", "fd00:2::1"]);
}

#[test]
fn what_is_the_same_already_is_no_change() {
    let mut world = World::new();
    world.will(relay_hosts("relay", &["a"]));
    for command in [
        relay_hosts("relay", &["a", "a"]),
        Command::ChangeMember(name("a"), MemberChange::default()),
        Command::ChangeRelay(relay_record("relay", &["198.51.100.1", "2001:db8::1"])),
        Command::ChangeNetwork(network("other", Some("10.2.0.0/29"), None)),
        Command::Sweep,
    ] {
        assert!(world.plan(command.clone()).unwrap().ops.is_empty(), "{command:?}");
    }
}

#[test]
fn a_relay_takes_its_members_endpoints_and_its_hosts_at_once() {
    let mut world = World::new();
    let p = at(member("p", 9, &["net"]), &["203.0.113.9:4000", "[2001:db8::9]:4000"]);
    world.will(Command::CreateMember(p));
    let relay = Relay { port: 0, ..relay_record("p", &[]) };
    world.will(Command::CreateRelay(NewRelay { relay, hosts: hosts(&["a"]) }));
    let relay = world.state.relay("p").unwrap();
    assert_eq!((relay.addresses.len(), relay.port), (2, 4000));
    assert!(world.state.hosts("p").eq([&name("a")]));
    // Named, a host moves; with all the others it stays where it is.
    world.will(Command::RelayHosts { relay: name("relay"), hosts: Hosts::All, address: None });
    assert!(world.state.hosts("relay").eq([&name("b")]));
    world.will(relay_hosts("relay", &["a"]));
    assert_eq!((world.state.hosts("relay").len(), world.state.hosts("p").len()), (2, 0));
    world.will(Command::ReleaseHosts { relay: name("relay"), hosts: Hosts::All });
    assert_eq!(world.state.hosts("relay").len(), 0);
}

#[test]
fn deleting_a_relay_says_what_becomes_of_its_hosts() {
    let mut world = World::new();
    world.will(Command::CreateMember(member("c", 4, &["net"])));
    world.will(relay("c", &["198.51.100.3"]));
    world.will(relay_hosts("relay", &["a", "b"]));
    world.will(Command::CreateKey(enrolment_key("k", "net", Some("relay"))));
    let relayed = |host, to: Option<&str>| Consequence::Relayed {
        host: name(host),
        from: Some(name("relay")),
        to: to.map(name),
    };
    for to in [None, Some("c")] {
        let mut world = world.clone();
        let delete = Command::DeleteRelay { name: name("relay"), move_to: to.map(name) };
        let key = Consequence::Changed(Key::EnrolmentKey(name("k")));
        let said = world.state.consequences(world.now, &delete).unwrap();
        assert_eq!(said, [relayed("a", to), relayed("b", to), key]);
        world.will(delete);
        assert!(world.state.relay("relay").is_none() && world.state.member("relay").is_some());
        assert_eq!(world.host("a").relayed.as_ref().map(|relayed| relayed.by.as_str()), to);
        assert_eq!(world.state.key("k").unwrap().relay.as_ref().map(Name::as_str), to);
    }
    world.will(Command::CreateNetwork(network("empty", Some("10.3.0.0/24"), None)));
    world.will(Command::CreateKey(enrolment_key("e", "empty", None)));
    let delete = Command::DeleteNetwork(name("empty"));
    let key = Consequence::Deleted(Key::EnrolmentKey(name("e")));
    assert_eq!(world.state.consequences(world.now, &delete).unwrap(), [key]);
    world.will(delete);
}

#[test]
fn what_is_too_much_at_once_is_done_in_sound_steps() {
    let mut world = World { now: 1, ..World::default() };
    world.will(Command::CreateNetwork(network("big", Some("10.0.0.0/16"), None)));
    let number = STEP as u32 * 2 + 10;
    let mut ops = Vec::new();
    for n in 0..number {
        let mut plan = world.plan(Command::CreateMember(member(&format!("m{n}"), n + 1, &["big"]))).unwrap();
        world.state.apply(Revision(2), plan.ops.clone());
        ops.append(&mut plan.ops);
    }
    let create = NewRelay { relay: relay_record("m0", &["198.51.100.1"]), hosts: Hosts::All };
    let first = world.plan(Command::CreateRelay(create.clone())).unwrap();
    assert_eq!((first.ops.len(), first.rest.is_some()), (STEP, true));
    world.will(Command::CreateRelay(create));
    assert_eq!(world.state.hosts("m0").len(), number as usize - 1);
    let delete = Command::DeleteRelay { name: name("m0"), move_to: None };
    assert_eq!(world.state.consequences(1, &delete).unwrap().len(), number as usize - 1);
    let first = world.plan(delete.clone()).unwrap();
    assert!(first.rest.is_some() && !first.ops.contains(&Op::Delete(Key::Relay(name("m0")))));
    world.will(delete);
    assert!(world.state.relay("m0").is_none() && world.state.members().all(|m| m.relayed.is_none()));
    world.will(Command::ChangeNetwork(network("big", Some("10.0.0.0/16"), Some("fd00::/64"))));
    assert!(world.state.members().all(|m| m.networks[0].ipv6.is_some()));
    world.will(Command::Activate((0..number).map(|n| key(n + 1)).collect()));
    assert!(world.state.members().all(|m| m.active));
}
