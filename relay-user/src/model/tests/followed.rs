//! Following a store.

use super::*;
use crate::members::Policy;

#[test]
fn records_are_read_as_they_are_written() {
    let mut world = World::new();
    world.will(Command::CreateKey(EnrolmentKey {
        uses_left: Some(3),
        ..enrolment_key("k", "net", Some("relay"))
    }));
    world.will(Command::Enrol(enrol("k", "x", 50)));
    let host = Record::Member(world.host("x").clone());
    let json = String::from_utf8(host.encode()).unwrap();
    assert!(json.len() < 450 && json.contains("\"active\":false"), "{json}");
    assert_eq!(Record::decode(&host.key(), json.as_bytes()).unwrap(), host);
    assert_eq!((host.key().to_string().as_str(), "member/x".parse()), ("member/x", Ok(host.key())));
}

#[test]
fn a_rate_limit_is_kept_and_the_relay_knows_it_until_it_is_taken_away() {
    let mut world = World::new();
    let limit = RateLimit { bits_per_second: Some(1_000_000), packets_per_second: Some(100) };
    let set = |limit| Command::ChangeMember(name("a"), change(|c| c.rate_limit = Some(limit)));
    let known = |world: &World| {
        let part = Part::new(key(1), Policy::Members, &world.state).unwrap();
        part.desired().members.member(world.host("a").public_key.id()).and_then(|member| member.rate_limit)
    };
    world.will(set(limit));
    world.agrees_with_a_reload();
    assert_eq!((world.host("a").rate_limit, known(&world)), (Some(limit), Some(limit)));
    world.will(Command::ChangeMember(name("a"), change(|c| c.tags = Some(Vec::new()))));
    assert_eq!(known(&world), Some(limit), "what is not named stays");
    world.will(set(RateLimit::default()));
    assert_eq!((world.host("a").rate_limit, known(&world)), (None, None));
}

#[test]
fn what_can_not_be_read_is_told_and_not_left_out() {
    let load = |key: &str, value: &str| {
        State::load(Revision(1), [(key, value.as_bytes(), Revision(1))]).unwrap_err().to_string()
    };
    assert!(load("network/n", "{").contains("network/n can't be read: EOF"));
    assert!(load("network/n", r#"{"name":"m","ipv4":"10.0.0.0/8"}"#).contains("it calls itself network/m"));
    assert!(load("network/n", r#"{"name":"n","ipv4":"10.0.0.0/8","x":1}"#).contains("unknown field `x`"));
    assert!(load("member/n", r#"{"name":"n","public_key":"short","networks":[]}"#).contains("44 characters"));
    assert!(load("planet/n", "{}").contains("no key of a record"));
}

#[test]
fn a_state_tells_what_is_different_from_another() {
    let mut world = World::new();
    let old = world.state.clone();
    assert_eq!(world.state.changes_since(&old), []);
    world.will(relay_hosts("relay", &["a"]));
    world.will(Command::DeleteMember(name("b")));
    world.will(Command::CreateNetwork(network("new", Some("10.3.0.0/24"), None)));
    let changed = [Key::Network(name("new")), Key::Member(name("a")), Key::Member(name("b"))];
    assert_eq!(world.state.changes_since(&old), changed);
    assert_eq!(old.changes_since(&world.state), changed);
}

#[test]
fn of_several_changes_in_one_commit_the_last_is_enough() {
    let endpoint = |member: &Member, port: u16| {
        let endpoints = vec![std::net::SocketAddr::from(([203, 0, 113, 1], port))];
        Op::Put(Record::Member(Member { endpoints, ..member.clone() }))
    };
    let mut world = World::new();
    let (a, b) = (world.host("a").clone(), world.host("b").clone());
    world.state.apply(Revision(20), [endpoint(&a, 1)]);
    // In one commit: a goes from 1 to 2, b takes 1, a goes to 3. A store keeps the last of a's.
    let all = [endpoint(&a, 2), endpoint(&b, 1), endpoint(&a, 3)];
    let mut follower = world.clone();
    follower.state.apply(Revision(21), all[1..].to_vec());
    world.state.apply(Revision(21), all);
    world.agrees_with_a_reload();
    follower.agrees_with_a_reload();
    assert_eq!(format!("{:?}", world.state.endpoints), format!("{:?}", follower.state.endpoints));
}
