//! What answers come to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    super::{Host, LeftOut, Mesh, Node, Reason, Relayed, Us},
    server::key_of,
};
use crate::members::{OtherRelay, Place, Policy, PublicKey, RateLimit};

const RELAY: &str = "198.51.100.1:51820";
const OTHER_RELAY: &str = "198.51.100.2:51820";

fn us() -> Us {
    let endpoints = vec![OTHER_RELAY.parse().unwrap()];
    Us {
        relay_key: PublicKey([b'r'; 32]),
        policy: Policy::Members,
        relays: vec![OtherRelay { name: "relay-2".into(), endpoints }],
        endpoints: vec![RELAY.parse().unwrap()],
    }
}

fn relayed(hosts: &[&str], tags: &[&str], by: Option<&str>) -> Relayed {
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Relayed { hosts: set(hosts), tags: set(tags), by: by.map(str::to_owned), ..Relayed::default() }
}

fn host(letter: char, endpoint: &str, port: u16) -> Value {
    let key = key_of(u8::try_from(letter).unwrap());
    json!({"id": format!("h-{letter}"), "name": letter, "publickey": key, "endpointip": endpoint, "listenport": port})
}

fn node(letter: char, network: &str) -> Value {
    json!({"id": format!("n-{letter}-{network}"), "hostid": format!("h-{letter}"), "network": network})
}

fn mesh_for(hosts: &[Value], nodes: &[Value], wanted: &Relayed) -> Mesh {
    let hosts: Vec<Host> = hosts.iter().map(|host| serde_json::from_value(host.clone()).unwrap()).collect();
    let nodes: Vec<Node> = nodes.iter().map(|node| serde_json::from_value(node.clone()).unwrap()).collect();
    Mesh::new(&hosts, &nodes, wanted, &us()).unwrap()
}

fn mesh(hosts: &[Value], nodes: &[Value]) -> Mesh {
    mesh_for(hosts, nodes, &relayed(&["a"], &[], None))
}

fn place(mesh: &Mesh, name: &str) -> Option<Place> {
    mesh.members.iter().find(|(_, member)| &*member.name == name).map(|(_, member)| member.place.clone())
}

fn fixed(endpoints: &[&str]) -> Option<Place> {
    Some(Place::Static(endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect()))
}

fn with(mut entry: Value, key: &str, value: Value) -> Value {
    entry[key] = value;
    entry
}

fn left_out(what: &str, reason: Reason) -> LeftOut {
    LeftOut { what: what.to_owned(), reason }
}

#[test]
fn a_rate_limit_is_that_of_each_host_that_is_relayed() {
    let limit = RateLimit { bits_per_second: Some(1_000_000), packets_per_second: None };
    let wanted = Relayed { rate_limit: limit, ..relayed(&["a"], &[], None) };
    let hosts = [host('a', "203.0.113.1", 1), host('b', "203.0.113.2", 2)];
    let mesh = mesh_for(&hosts, &[node('a', "net"), node('b', "net")], &wanted);
    let limits = mesh.members.iter().map(|(_, member)| (&*member.name, member.rate_limit));
    assert_eq!(limits.collect::<BTreeMap<_, _>>(), BTreeMap::from([("a", Some(limit)), ("b", None)]));
}

#[test]
fn a_host_is_one_member_in_all_its_networks_and_in_no_other() {
    let hosts = [host('a', "203.0.113.7", 1), host('b', "203.0.113.8", 2), host('c', "203.0.113.9", 3)];
    let nodes = [node('a', "mesh"), node('a', "lab"), node('a', "lab"), node('b', "mesh"), node('c', "lab")];
    let mesh = mesh(&hosts, &nodes);
    assert_eq!(mesh.members.iter().len(), 3);
    assert_eq!(mesh.left_out, []);
    let id = |letter: u8| PublicKey([letter; 32]).id();
    let networks: Vec<_> =
        mesh.members.member(id(b'a')).unwrap().networks.iter().map(|name| &**name).collect();
    assert_eq!(networks, ["lab", "mesh"]);
    assert_eq!(place(&mesh, "a"), Some(Place::Relayed));
    assert_eq!(place(&mesh, "b"), fixed(&["203.0.113.8:2"]));
    assert!(mesh.members.may_talk(id(b'a'), id(b'b')) && mesh.members.may_talk(id(b'a'), id(b'c')));
    assert!(!mesh.members.may_talk(id(b'b'), id(b'c')), "they share no network");
}

#[test]
fn who_is_relayed_is_said_by_name_id_tag_or_the_servers_own_relay() {
    let hosts = [host('a', "203.0.113.7", 1), host('b', "203.0.113.8", 2), host('g', "203.0.113.9", 3)];
    let tags = json!({"mesh.remote": {}});
    let nodes = [
        with(node('a', "mesh"), "tags", tags),
        with(node('b', "mesh"), "relayedby", json!("n-g-lab")),
        node('g', "mesh"),
        node('g', "lab"),
    ];
    for (wanted, expected) in [
        (relayed(&["b"], &[], None), "h-b"),
        (relayed(&["h-a"], &[], None), "h-a"),
        (relayed(&[], &["remote"], None), "h-a"),
        (relayed(&[], &["mesh.remote"], None), "h-a"),
        (relayed(&[], &[], Some("g")), "h-b"),
        (relayed(&[], &[], Some("h-g")), "h-b"),
    ] {
        let mesh = mesh_for(&hosts, &nodes, &wanted);
        assert_eq!(mesh.relayed, BTreeSet::from([expected.to_owned()]), "{wanted:?}");
    }
    let nobody = relayed(&["x"], &["lab.remote", "mesh"], Some("b"));
    assert!(mesh_for(&hosts, &nodes, &nobody).relayed.is_empty());
}

#[test]
fn nodes_that_do_not_take_part_are_left_out_with_a_reason() {
    let hosts = [host('a', "203.0.113.7", 1), host('b', "203.0.113.8", 2)];
    let yes = json!(true);
    let nodes = [
        node('a', "mesh"),
        with(node('a', "deleted"), "pendingdelete", yes.clone()),
        with(node('a', "unconnected"), "connected", json!(false)),
        with(node('a', "connected"), "connected", yes.clone()),
        with(node('b', "client"), "is_static", yes),
        node('x', "mesh"),
        json!({"id": "n", "hostid": "h-a"}),
    ];
    let mesh = mesh(&hosts, &nodes);
    let expected = [
        left_out("node n-a-deleted of network deleted", Reason::Deleting),
        left_out("node n-a-unconnected of network unconnected", Reason::Disconnected),
        left_out("node n-b-client of network client", Reason::NotAHost),
        left_out("node n-x-mesh of network mesh", Reason::NoHost),
        left_out("node n of network ", Reason::NoId),
        left_out("host b", Reason::NoNetwork),
    ];
    assert_eq!(mesh.left_out, expected);
    assert_eq!(mesh.members.iter().len(), 1);
    assert_eq!(mesh.members.iter().next().unwrap().1.networks.len(), 2);
}

#[test]
fn a_key_that_is_none_or_anothers_costs_that_host_alone() {
    let named = |letter, key: String| with(host(letter, "203.0.113.1", 1), "publickey", json!(key));
    let mut near_a = [b'a'; 32];
    near_a[31] = 0;
    let hosts = [
        host('a', "203.0.113.7", 1),
        named('b', key_of(b'a')),
        named('c', PublicKey(near_a).to_string()),
        named('d', key_of(0)),
        named('e', "short".to_owned()),
        named('f', String::new()),
        named('g', key_of(b'r')),
        with(host('h', "203.0.113.8", 1), "id", Value::Null),
    ];
    let later = with(node('a', "mesh"), "lastcheckin", json!(9));
    let nodes: Vec<_> = "bcdefgh".chars().map(|letter| node(letter, "mesh")).chain([later]).collect();
    let mesh = mesh(&hosts, &nodes);
    assert_eq!(mesh.members.iter().len(), 1);
    assert_eq!(place(&mesh, "a"), Some(Place::Relayed));
    let mut expected = [
        left_out("host b", Reason::SameKey),
        left_out("host c", Reason::KeyCollision),
        left_out("host d", Reason::KeyCollision),
        left_out("host e", Reason::NoKey),
        left_out("host f", Reason::NoKey),
        left_out("host g", Reason::ThisRelay),
        left_out("host h", Reason::NoId),
        left_out("node n-h-mesh of network mesh", Reason::NoHost),
    ];
    let mut found = mesh.left_out;
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn of_two_hosts_with_one_key_the_one_counts_that_was_heard_of_last() {
    let hosts =
        [host('a', "203.0.113.7", 1), with(host('b', "203.0.113.8", 2), "publickey", json!(key_of(b'a')))];
    let at = |node: Value, time: u64| with(node, "lastcheckin", json!(time));
    for (a, b, expected) in [(2, 1, "a"), (1, 2, "b")] {
        let mesh = mesh(&hosts, &[at(node('a', "mesh"), a), at(node('b', "mesh"), b)]);
        let names: Vec<_> = mesh.members.iter().map(|(_, member)| &*member.name).collect();
        assert_eq!(names, [expected]);
    }
}

#[test]
fn names_are_made_unique() {
    let called = |letter, name: &str| with(host(letter, "203.0.113.7", 1), "name", json!(name));
    let hosts =
        [called('a', "x"), called('b', "x"), called('c', "x h-b"), called('d', ""), called('e', "h-d")];
    let nodes: Vec<_> = "abcde".chars().map(|letter| node(letter, "mesh")).collect();
    let mesh = mesh(&hosts, &nodes);
    let names: BTreeSet<_> = mesh.members.iter().map(|(_, member)| &*member.name).collect();
    assert_eq!(names, BTreeSet::from(["x", "x h-b", "x h-b h-c", "h-d", "h-d h-e"]));
}

#[test]
fn endpoints_that_lead_nowhere_are_left_out_and_their_hosts_stay() {
    let hosts = [
        host('b', "127.0.0.1", 1),
        host('c', "198.51.100.1", 51820),
        host('d', "198.51.100.2", 51820),
        host('e', "203.0.113.5", 7),
        host('f', "203.0.113.5", 7),
        host('g', "203.0.113.6", 0),
        with(host('h', "<nil>", 4), "endpointipv6", json!("2001:db8::4")),
        with(host('i', "203.0.113.9", 5), "endpointipv6", json!("2001:db8::9")),
    ];
    let nodes: Vec<_> = "bcdefghi".chars().map(|letter| node(letter, "mesh")).collect();
    let mesh = mesh(&hosts, &nodes);
    assert_eq!(mesh.members.iter().len(), hosts.len());
    for lost in ["b", "c", "e", "f", "g"] {
        assert_eq!(place(&mesh, lost), fixed(&[]), "{lost}");
    }
    assert_eq!(place(&mesh, "d"), Some(Place::RelayedBy("relay-2".into())));
    assert_eq!(place(&mesh, "h"), fixed(&["[2001:db8::4]:4"]));
    assert_eq!(place(&mesh, "i"), fixed(&["203.0.113.9:5", "[2001:db8::9]:5"]));
    let expected = [
        left_out("host b", Reason::BadEndpoint),
        left_out("host c", Reason::OurEndpoint),
        left_out("host e", Reason::SharedEndpoint),
        left_out("host f", Reason::SharedEndpoint),
    ];
    assert_eq!(mesh.left_out, expected);
}
