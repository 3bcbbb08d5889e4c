//! Commands at random: whatever is accepted leaves a sound state.

use rand::{Rng, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::*;
use crate::members::Policy;

const NETWORKS: [&str; 3] = ["net", "other", "third"];
const HOSTS: [&str; 7] = ["a", "b", "c", "d", "e", "relay", "s"];

fn any(rng: &mut StdRng, of: &[&str]) -> Name {
    name(of.choose(rng).unwrap())
}

fn some(rng: &mut StdRng, of: &[&str]) -> Vec<Name> {
    of.iter().filter(|_| rng.random_bool(0.5)).map(|text| name(text)).collect()
}

fn endpoints(rng: &mut StdRng) -> Vec<std::net::SocketAddr> {
    let port = rng.random_range(1..4);
    let all =
        [format!("203.0.113.1:{port}"), format!("[2001:db8::9]:{port}"), format!("198.51.100.{port}:51820")];
    all.iter().filter(|_| rng.random_bool(0.3)).map(|text| text.parse().unwrap()).collect()
}

fn memberships(rng: &mut StdRng) -> Vec<Membership> {
    let mut all: Vec<_> = some(rng, &NETWORKS).into_iter().map(Membership::of).collect();
    for place in &mut all {
        if rng.random_bool(0.2) {
            place.ipv4 = Some(std::net::Ipv4Addr::new(10, rng.random_range(1..4), 0, rng.random_range(0..9)));
        }
        if rng.random_bool(0.2) {
            place.routes = vec![format!("192.168.{}.0/24", rng.random_range(0..3)).parse().unwrap()];
        }
    }
    all
}

fn command(rng: &mut StdRng) -> Command {
    let (host, relay) = (any(rng, &HOSTS), any(rng, &["relay", "s", "a"]));
    let hosts = if rng.random_bool(0.2) { Hosts::All } else { Hosts::Named(some(rng, &HOSTS[..5])) };
    let public_key = key(rng.random_range(1..9));
    let addresses = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];
    let addresses = some(rng, &addresses).iter().map(|text| text.as_str().parse().unwrap()).collect();
    let record = Relay { name: relay.clone(), addresses, port: 51820, private: false };
    match rng.random_range(0..15) {
        0 => Command::CreateNetwork(network("third", Some("10.3.0.0/29"), None)),
        1 => Command::ChangeNetwork(network("third", Some("10.3.0.0/28"), Some("fd00:3::/64"))),
        2 => Command::DeleteNetwork(any(rng, &NETWORKS)),
        3 => Command::CreateMember(NewMember {
            name: host,
            public_key,
            networks: memberships(rng),
            endpoints: endpoints(rng),
            rate_limit: RateLimit::default(),
            tags: Vec::new(),
            owner: None,
        }),
        4 | 5 => Command::ChangeMember(
            host,
            MemberChange {
                networks: rng.random_bool(0.7).then(|| memberships(rng)),
                endpoints: rng.random_bool(0.7).then(|| endpoints(rng)),
                ..MemberChange::default()
            },
        ),
        6 => Command::DeleteMember(host),
        7 => Command::CreateRelay(NewRelay { relay: record, hosts }),
        8 => Command::ChangeRelay(record),
        9 => Command::DeleteRelay { name: relay, move_to: rng.random_bool(0.5).then_some(host) },
        10 | 11 => Command::RelayHosts { relay, hosts, address: None },
        12 => Command::ReleaseHosts { relay, hosts },
        13 => Command::Enrol(Enrol {
            proof: rng.random_bool(0.5).then(|| Credential { id: host.clone(), secret: secret(2) }),
            public_key,
            endpoints: endpoints(rng),
            ..enrol(["k", "l"].choose(rng).unwrap(), host.as_str(), 0)
        }),
        _ => Command::Activate(vec![public_key]),
    }
}

#[track_caller]
fn is_sound(state: &State) {
    for kept in state.members() {
        if let Some(relayed) = &kept.relayed {
            let relay = state.member(relayed.by.as_str()).expect("its relay is a member");
            assert!(state.relay(relayed.by.as_str()).is_some() && state.relay(kept.name.as_str()).is_none());
            assert!(kept.networks.iter().all(|place| relay.membership(&place.network).is_some()));
            assert!(state.home(kept).is_some());
        }
        for place in &kept.networks {
            let network = state.network(place.network.as_str()).expect("its network is there");
            assert_eq!(place.addresses().count(), network.prefixes().count(), "an address of each family");
        }
        state.configuration(kept.name.as_str(), ViaRelay::Needed).unwrap().wg_quick(None).to_string();
    }
    for relay in state.relays() {
        let own = state.member(relay.name.as_str()).expect("a relay is a member");
        Part::new(own.public_key, Policy::Members, state).expect("a relay can take its part");
    }
}

#[test]
fn what_is_accepted_is_sound() {
    let (mut accepted, mut refused) = (0, std::collections::BTreeMap::<_, u32>::new());
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        world.will(Command::CreateKey(enrolment_key("k", "net", Some("relay"))));
        world.will(Command::CreateKey(enrolment_key("l", "other", None)));
        let part = |state: &State, relay| Part::new(key(relay), Policy::Members, state).unwrap();
        let mut parts = [1, 2, 3].map(|relay| (relay, part(&world.state, relay)));
        for _ in 0..150 {
            world.now += 60;
            let command = command(&mut rng);
            match world.does(command.clone()) {
                Ok(()) => accepted += 1,
                Err(refusal) => *refused.entry(refusal.code()).or_default() += 1,
            }
            is_sound(&world.state);
            for (relay, followed) in &mut parts {
                followed.follow(&world.state).unwrap();
                assert_eq!(followed.desired(), part(&world.state, *relay).desired());
            }
        }
    }
    assert!(accepted > 1500 && refused.len() > 20, "{accepted} accepted, refused: {refused:?}");
}
