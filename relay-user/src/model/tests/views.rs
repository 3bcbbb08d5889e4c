//! What relays and members see of the whole.

use super::*;
use crate::members::{Desired, Place, Policy};

/// Relays r and s; a and b relayed by r, c by s; p public; q roams.
fn world() -> World {
    let mut world = World::new();
    for (text, number, endpoints) in
        [("s", 4, &[][..]), ("c", 5, &[]), ("p", 6, &["203.0.113.6:6", "[2001:db8::6]:6"]), ("q", 7, &[])]
    {
        world.will(Command::CreateMember(at(member(text, number, &["net"]), endpoints)));
    }
    world.will(relay("s", &["198.51.100.2", "198.51.100.3"]));
    world.will(relay_hosts("relay", &["a", "b"]));
    world.will(relay_hosts("s", &["c"]));
    world.will(Command::Activate((4..8).map(key).collect()));
    world
}

fn endpoint(configuration: &Configuration, peer: &str) -> (String, Option<u16>) {
    let peer = configuration.peers.iter().find(|p| p.name.as_str() == peer).unwrap();
    (peer.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default(), peer.keepalive)
}

#[test]
fn each_relay_takes_its_own_part() {
    let world = world();
    let of = |relay| Part::new(key(relay), Policy::Members, &world.state).unwrap().desired().clone();
    let Desired { members, peers } = of(1);
    let mut places: Vec<_> = members.iter().map(|(_, m)| (m.name.as_ref(), m.place.clone())).collect();
    places.sort_by_key(|(name, _)| *name);
    let public = vec!["203.0.113.6:6".parse().unwrap(), "[2001:db8::6]:6".parse().unwrap()];
    assert_eq!(
        places,
        [
            ("a", Place::Relayed),
            ("b", Place::Relayed),
            ("c", Place::RelayedBy("s".into())),
            ("p", Place::Static(public)),
            ("q", Place::Static(Vec::new())),
        ]
    );
    // One address of a family is enough for relays among each other.
    assert_eq!(members.relay("s").unwrap().endpoints, ["198.51.100.2:51820".parse().unwrap()]);
    let endpoints: Vec<_> = peers.iter().map(|(key, peer)| (*key, peer.endpoint)).collect();
    let s = Some("198.51.100.2:51820".parse().unwrap());
    assert_eq!(
        endpoints,
        [(key(2), None), (key(3), None), (key(4), s), (key(5), None), (key(6), None), (key(7), None)]
    );
    assert_eq!(
        peers[&key(2)].allowed_ips,
        ["10.1.0.2/32".parse().unwrap(), "fd00:1::2/128".parse().unwrap()]
    );
    assert!(members.may_talk(key(2).id(), key(5).id()));
    // Who is no relay has no part.
    assert!(of(2).peers.is_empty() && of(2).members.iter().len() == 0);
}

#[test]
fn networks_stay_apart() {
    let mut world = world();
    world.will(Command::CreateMember(member("o", 8, &["other"])));
    world.will(Command::Activate(vec![key(8)]));
    let knows_o = |relay| {
        let part = Part::new(key(relay), Policy::Members, &world.state).unwrap();
        part.desired().peers.contains_key(&key(8)) && part.desired().members.member(key(8).id()).is_some()
    };
    assert!(knows_o(1) && !knows_o(4));
    let of_a = world.state.configuration("a", ViaRelay::Always).unwrap();
    assert!(of_a.peers.iter().all(|peer| peer.name.as_str() != "o"));
}

#[test]
fn a_relayed_host_meets_all_at_its_relay() {
    let mut world = world();
    let of_a = world.state.configuration("a", ViaRelay::Always).unwrap();
    let home = "198.51.100.1:51820".to_owned();
    assert_eq!(endpoint(&of_a, "relay"), (home.clone(), Some(25)));
    for peer in ["b", "c", "p", "q"] {
        assert_eq!(endpoint(&of_a, peer), (home.clone(), None), "{peer}");
    }
    assert_eq!(endpoint(&of_a, "s"), ("198.51.100.2:51820".into(), None));
    let needed = world.state.configuration("a", ViaRelay::Needed).unwrap();
    assert_eq!(endpoint(&needed, "p"), ("203.0.113.6:6".into(), Some(25)));
    assert_eq!(endpoint(&needed, "q"), (home, None));
    // Another address of its relay, if it was promised that.
    let address = Some("198.51.100.3".parse().unwrap());
    world.will(Command::RelayHosts { relay: name("s"), hosts: hosts(&["c"]), address });
    let of_c = |world: &World| endpoint(&world.state.configuration("c", ViaRelay::Always).unwrap(), "a").0;
    assert_eq!(of_c(&world), "198.51.100.3:51820");
    world.will(Command::ChangeRelay(relay_record("s", &["198.51.100.2"])));
    assert_eq!(of_c(&world), "198.51.100.2:51820");
}

#[test]
fn a_host_without_relay_meets_the_relayed_at_theirs() {
    let mut world = world();
    let of_q = world.state.configuration("q", ViaRelay::Always).unwrap();
    assert_eq!(endpoint(&of_q, "a"), ("198.51.100.1:51820".into(), Some(25)));
    assert_eq!(endpoint(&of_q, "c"), ("198.51.100.2:51820".into(), Some(25)));
    assert_eq!(endpoint(&of_q, "p"), ("203.0.113.6:6".into(), Some(25)));
    assert_eq!(endpoint(&of_q, "s"), ("198.51.100.2:51820".into(), Some(25)));
    let of_p = world.state.configuration("p", ViaRelay::Always).unwrap();
    assert_eq!(endpoint(&of_p, "a"), ("198.51.100.1:51820".into(), None));
    assert_eq!(endpoint(&of_p, "q"), (String::new(), None), "it comes by itself");
    assert_eq!(of_p.listen_port, Some(6));
    // Who has IPv6 alone is sent there.
    world.will(Command::CreateMember(at(member("v6", 8, &["net"]), &["[2001:db8::8]:8"])));
    let of_v6 = world.state.configuration("v6", ViaRelay::Always).unwrap();
    assert_eq!(endpoint(&of_v6, "a").0, "[2001:db8::1]:51820");
    // Whose key is not proven is nobody's peer yet, but has a configuration, to prove it with.
    assert_eq!(of_v6.peers.len(), 7);
    let of_q = world.state.configuration("q", ViaRelay::Always).unwrap();
    assert!(of_q.peers.iter().all(|peer| peer.name.as_str() != "v6"));
    assert_eq!(world.state.configuration("x", ViaRelay::Always).unwrap_err().code(), "not_found");
}

#[test]
fn the_text_is_what_wg_quick_reads() {
    let mut world = World::new();
    world.will(relay_hosts("relay", &["a"]));
    let mut b = places(&["net"]);
    b[0].routes = vec!["192.168.7.0/24".parse().unwrap()];
    world.will(Command::ChangeMember(name("b"), MemberChange { networks: Some(b), ..Default::default() }));
    let text = world.state.configuration("a", ViaRelay::Always).unwrap().wg_quick(Some("SECRET")).to_string();
    let expected = format!(
        "[Interface]\nPrivateKey = SECRET\nAddress = 10.1.0.2/24, fd00:1::2/64\nMTU = 1280\n\
         \n# b\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.1.0.3/32, fd00:1::3/128, 192.168.7.0/24\n\
         Endpoint = 198.51.100.1:51820\n\
         \n# relay\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.1.0.1/32, fd00:1::1/128\n\
         Endpoint = 198.51.100.1:51820\nPersistentKeepalive = 25\n",
        key(3),
        key(1)
    );
    assert_eq!(text, expected);
    let text = world.state.configuration("a", ViaRelay::Always).unwrap().wg_quick(None).to_string();
    assert!(text.contains("# PrivateKey = \n"), "{text}");
}
