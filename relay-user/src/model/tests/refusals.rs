//! Every rule, by what it refuses.

use super::*;

#[test]
fn names_are_plain_and_unique() {
    for bad in ["", "-a", ".a", "a b", "a/b", "ä", &"a".repeat(64)] {
        assert_eq!(bad.parse::<Name>().unwrap_err().code(), "bad_name", "{bad:?}");
    }
    assert_eq!(name(&"a".repeat(63)).as_str().len(), 63);
    let world = World::new();
    assert_eq!(world.refuses(Command::CreateNetwork(network("net", Some("10.9.0.0/24"), None))), "exists");
    assert_eq!(world.refuses(Command::CreateMember(member("a", 9, &["net"]))), "exists");
    assert_eq!(world.refuses(relay("relay", &["198.51.100.9"])), "exists");
}

#[test]
fn what_is_not_there_can_not_be_meant() {
    let world = World::new();
    for command in [
        Command::ChangeNetwork(network("x", Some("10.9.0.0/24"), None)),
        Command::DeleteNetwork(name("x")),
        Command::CreateMember(member("x", 9, &["y"])),
        Command::ChangeMember(name("x"), MemberChange::default()),
        Command::DeleteMember(name("x")),
        relay("x", &["198.51.100.9"]),
        Command::ChangeRelay(relay_record("a", &["198.51.100.9"])),
        Command::DeleteRelay { name: name("a"), move_to: None },
        Command::DeleteRelay { name: name("relay"), move_to: Some(name("x")) },
        relay_hosts("x", &["a"]),
        relay_hosts("relay", &["x"]),
        Command::ReleaseHosts { relay: name("x"), hosts: hosts(&[]) },
        Command::CreateKey(enrolment_key("k", "x", None)),
        Command::CreateKey(enrolment_key("k", "net", Some("x"))),
        Command::DeleteKey(name("x")),
        Command::DeleteToken(name("x")),
        Command::ChangeTurnUser(turn_user("x", "example.org")),
        Command::DeleteTurnUser(name("x")),
    ] {
        assert_eq!(world.refuses(command.clone()), "not_found", "{command:?}");
    }
}

#[test]
fn a_write_on_top_of_another_is_stale() {
    let world = World::new();
    let delete = |expected| Request { command: Command::DeleteMember(name("a")), expected: Some(expected) };
    let revision = world.state.member("a").unwrap().revision;
    assert!(world.plan(delete(revision)).is_ok());
    assert_eq!(world.plan(delete(Revision(1))).unwrap_err().code(), "stale");
    let gone = Request { command: Command::DeleteMember(name("x")), expected: Some(revision) };
    assert_eq!(world.plan(gone).unwrap_err().code(), "not_found");
}

#[test]
fn networks_have_room_for_their_members() {
    let mut world = World::new();
    let new = |ipv4, ipv6| Command::CreateNetwork(network("n", ipv4, ipv6));
    assert_eq!(world.refuses(new(None, None)), "no_prefix");
    assert_eq!(world.refuses(new(Some("10.9.0.1/24"), None)), "bad_prefix");
    assert_eq!(world.refuses(new(Some("10.9.0.0/31"), None)), "prefix_too_small");
    assert_eq!(world.refuses(new(None, Some("fd00:9::/127"))), "prefix_too_small");
    assert_eq!(world.refuses(Command::DeleteNetwork(name("net"))), "network_in_use");
    // The other network is a /29, with six addresses, one of which the relay has.
    for number in 0..5 {
        world.will(Command::CreateMember(member(&format!("m{number}"), 100 + number, &["other"])));
    }
    assert_eq!(world.refuses(Command::CreateMember(member("m6", 106, &["other"]))), "network_full");
    let shrunk = network("other", Some("10.2.0.0/30"), None);
    assert_eq!(world.refuses(Command::ChangeNetwork(shrunk)), "addresses_outside");
    let gone = network("net", Some("10.1.0.0/24"), None);
    assert_eq!(world.refuses(Command::ChangeNetwork(gone)), "addresses_outside");
    // The relay is in both.
    let grown = network("other", Some("10.0.0.0/8"), None);
    assert_eq!(world.refuses(Command::ChangeNetwork(grown)), "networks_overlap");
    world.will(Command::ChangeNetwork(network("other", Some("10.2.0.0/28"), None)));
    world.will(Command::CreateMember(member("m6", 106, &["other"])));
}

#[test]
fn a_member_is_sound_in_itself() {
    let mut world = World::new();
    assert_eq!(world.refuses(Command::CreateMember(member("x", 9, &[]))), "no_network");
    assert_eq!(world.refuses(Command::CreateMember(member("x", 9, &["net", "net"]))), "network_twice");
    let zero = NewMember { public_key: PublicKey([0; 32]), ..member("x", 9, &["net"]) };
    assert_eq!(world.refuses(Command::CreateMember(zero)), "bad_public_key");
    assert_eq!(world.refuses(Command::CreateMember(member("x", 2, &["net"]))), "public_key_taken");
    let mut like_a = key(2);
    like_a.0[31] = 0;
    let alike = NewMember { public_key: like_a, ..member("x", 9, &["net"]) };
    assert_eq!(world.refuses(Command::CreateMember(alike)), "public_key_collision");
    let many = (0..65).map(|n| name(&format!("t{n}"))).collect();
    assert_eq!(world.refuses(Command::ChangeMember(name("a"), change(|c| c.tags = Some(many)))), "too_many");
    world.will(Command::CreateNetwork(network("inside", Some("10.1.0.128/25"), None)));
    let both = change(|c| c.networks = Some(places(&["net", "inside"])));
    assert_eq!(world.refuses(Command::ChangeMember(name("a"), both)), "networks_overlap");
}

#[test]
fn endpoints_are_public_and_nobody_elses() {
    let mut world = World::new();
    world.will(Command::CreateMember(at(member("p", 9, &["net"]), &["203.0.113.9:51820"])));
    let with = |endpoints: &[&str]| Command::CreateMember(at(member("x", 10, &["net"]), endpoints));
    assert_eq!(world.refuses(with(&["127.0.0.1:1"])), "bad_endpoint");
    assert_eq!(world.refuses(with(&["203.0.113.8:0"])), "bad_endpoint");
    assert_eq!(world.refuses(with(&["203.0.113.7:1", "203.0.113.8:1"])), "two_endpoints");
    assert_eq!(world.refuses(with(&["203.0.113.9:51820"])), "endpoint_taken");
    assert_eq!(world.refuses(with(&["198.51.100.1:51820"])), "endpoint_taken");
    // Given up, it is free.
    world.will(Command::ChangeMember(name("p"), change(|c| c.endpoints = Some(Vec::new()))));
    world.will(with(&["203.0.113.9:51820"]));
}

#[test]
fn addresses_and_routes_are_unique_in_a_network() {
    let mut world = World::new();
    let at = |ipv4: &str, routes: &[&str]| {
        let mut new = member("x", 9, &["net"]);
        new.networks[0].ipv4 = Some(ipv4.parse().unwrap());
        new.networks[0].routes = routes.iter().map(|route| route.parse().unwrap()).collect();
        Command::CreateMember(new)
    };
    assert_eq!(world.refuses(at("10.3.0.1", &[])), "address_outside");
    assert_eq!(world.refuses(at("10.1.0.0", &[])), "address_reserved");
    assert_eq!(world.refuses(at("10.1.0.255", &[])), "address_reserved");
    assert_eq!(world.refuses(at("10.1.0.1", &[])), "address_taken");
    assert_eq!(world.refuses(at("10.1.0.9", &["192.168.0.1/24"])), "bad_prefix");
    assert_eq!(world.refuses(at("10.1.0.9", &["10.1.0.64/26"])), "bad_route");
    world.will(at("10.1.0.9", &["192.168.0.0/24", "0.0.0.0/0"]));
    let mut new = member("y", 10, &["net"]);
    new.networks[0].routes = vec!["192.168.0.0/24".parse().unwrap()];
    assert_eq!(world.refuses(Command::CreateMember(new)), "route_taken");
}

#[test]
fn a_relay_is_public_and_not_relayed() {
    let mut world = World::new();
    assert_eq!(world.refuses(relay("a", &[])), "relay_not_public");
    let no_port = Relay { port: 0, ..relay_record("a", &["198.51.100.9"]) };
    let create = |relay| Command::CreateRelay(NewRelay { relay, hosts: Hosts::All });
    assert_eq!(world.refuses(create(no_port)), "relay_not_public");
    for private in ["10.0.0.1", "192.168.1.1", "100.64.0.1", "fd00::1"] {
        assert_eq!(world.refuses(relay("a", &[private])), "relay_private", "{private}");
    }
    assert_eq!(world.refuses(relay("a", &["127.0.0.1"])), "bad_endpoint");
    assert_eq!(world.refuses(relay("a", &["198.51.100.9", "198.51.100.9"])), "relay_address_twice");
    assert_eq!(world.refuses(relay("a", &["198.51.100.1"])), "endpoint_taken");
    world.will(Command::CreateMember(at(member("p", 9, &["net"]), &["203.0.113.9:1", "[2001:db8::9]:2"])));
    assert_eq!(world.refuses(create(Relay { port: 0, ..relay_record("p", &[]) })), "relay_port");

    assert_eq!(world.refuses(relay_hosts("relay", &["relay"])), "relay_itself");
    world.will(relay("b", &["198.51.100.2"]));
    assert_eq!(world.refuses(relay_hosts("relay", &["b"])), "relay_relayed");
    world.will(relay_hosts("b", &["a"]));
    assert_eq!(world.refuses(relay("a", &["198.51.100.3"])), "relayed_relay");
    assert_eq!(world.refuses(Command::DeleteMember(name("b"))), "member_is_relay");
    let itself = Command::DeleteRelay { name: name("b"), move_to: Some(name("b")) };
    assert_eq!(world.refuses(itself), "relay_itself");
}

#[test]
fn a_relay_is_in_every_network_of_its_hosts() {
    let mut world = World::new();
    world.will(relay("b", &["198.51.100.2"]));
    world.will(Command::CreateMember(member("c", 4, &["net", "other"])));
    assert_eq!(world.refuses(relay_hosts("b", &["c"])), "relay_not_in_network");
    world.will(relay_hosts("relay", &["c"]));
    let less = change(|c| c.networks = Some(places(&["net"])));
    assert_eq!(world.refuses(Command::ChangeMember(name("relay"), less)), "relay_not_in_network");
    let to_b = Command::DeleteRelay { name: name("relay"), move_to: Some(name("b")) };
    assert_eq!(world.refuses(to_b), "relay_not_in_network");
    assert_eq!(
        world.refuses(Command::CreateKey(enrolment_key("k", "other", Some("b")))),
        "relay_not_in_network"
    );
    world.will(relay_hosts("b", &["a"]));
    let more = change(|c| c.networks = Some(places(&["net", "other"])));
    assert_eq!(world.refuses(Command::ChangeMember(name("a"), more)), "relay_not_in_network");
}

#[test]
fn hosts_are_named_rightly() {
    let world = World::new();
    let release = Command::ReleaseHosts { relay: name("relay"), hosts: hosts(&["a"]) };
    assert_eq!(world.refuses(release), "not_relayed_here");
    let address = Some("198.51.100.7".parse().unwrap());
    let elsewhere = Command::RelayHosts { relay: name("relay"), hosts: hosts(&["a"]), address };
    assert_eq!(world.refuses(elsewhere), "unknown_relay_address");
    let crowd = Hosts::Named((0..=STEP).map(|n| name(&format!("m{n}"))).collect());
    let crowd = Command::RelayHosts { relay: name("relay"), hosts: crowd, address: None };
    assert_eq!(world.refuses(crowd), "too_many");
}

#[test]
fn keys_and_tokens_are_of_use_when_made() {
    let mut world = World::new();
    let none = EnrolmentKey { uses_left: Some(0), ..enrolment_key("k", "net", None) };
    assert_eq!(world.refuses(Command::CreateKey(none)), "key_without_uses");
    let past = EnrolmentKey { expires: Some(world.now), ..enrolment_key("k", "net", None) };
    assert_eq!(world.refuses(Command::CreateKey(past)), "key_expires_in_past");
    let token = |expires| Token { id: name("t"), secret: secret(3).hash(), role: Role::Read, expires };
    assert_eq!(world.refuses(Command::CreateToken(token(Some(1)))), "key_expires_in_past");
    world.will(Command::CreateToken(token(Some(world.now + 1))));
    assert_eq!(world.refuses(Command::CreateToken(token(None))), "exists");
    assert_eq!(world.state.token("t", &secret(3), world.now).unwrap().role, Role::Read);
    assert!(world.state.token("t", &secret(4), world.now).is_none(), "a wrong secret");
    assert!(world.state.token("t", &secret(3), world.now + 1).is_none(), "expired");
}

#[test]
fn a_turn_user_has_a_name_of_its_own() {
    let mut world = World::new();
    world.will(Command::CreateTurnUser(turn_user("ann", "example.org")));
    assert_eq!(world.refuses(Command::CreateTurnUser(turn_user("ann", "example.org"))), "exists");
    let before = world.state.clone();
    world.will(Command::ChangeTurnUser(turn_user("ann", "example.net")));
    assert_eq!(world.state.changes_since(&before), [Key::TurnUser(name("ann"))]);
    world.agrees_with_a_reload();
    world.will(Command::DeleteTurnUser(name("ann")));
    assert!(world.state.turn_users().is_empty());
}
