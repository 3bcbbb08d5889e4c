//! Everything at once, at random, with indices that collide all the time. The model of the maps checks every action; here
//! it is compared with the tracker, and the tracker's tables with each other.

use std::collections::{BTreeSet, HashMap};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::crafted::{RELAY, RELAY_6, Relay, UNLIMITED, at, id, ip, members, settings};
use crate::{
    admission::Work,
    handshake::{Datagram, Limits, Outcome, Quotas, Settings},
    members::Policy,
};

const NAMES: [&str; 5] = ["alice", "bob", "carol", "remote", "p"];
const ENDPOINTS: [&str; 7] = [
    "198.51.100.1:1",
    "198.51.100.2:2",
    "198.51.100.3:3",
    "[2001:db8:a::1]:1",
    "192.0.2.77:51820",
    "198.51.100.50:5",
    "127.0.0.1:6",
];

fn random_members(rng: &mut StdRng) -> std::sync::Arc<crate::members::Members> {
    let words = [
        "alice",
        "bob",
        "carol/other",
        "carol",
        "remote@@other",
        "p@198.51.100.50:5",
        "p",
        "bob@198.51.100.2:2",
    ];
    let mut taken = BTreeSet::new();
    let mut chosen: Vec<&str> = words.into_iter().filter(|_| rng.random_bool(0.7)).collect();
    chosen.retain(|word| taken.insert(word.split(['@', '/']).next().unwrap()));
    let policy = if rng.random_bool(0.8) { Policy::Members } else { Policy::Any };
    members(policy, &[("other", "192.0.2.77:51820")], &chosen)
}

#[test]
fn maps_and_tables_agree_whatever_happens() {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for seed in 0..30 {
        let mut rng = StdRng::seed_from_u64(seed);
        // Each limit is the tightest in some rounds.
        let limits = Limits {
            sessions: [12, 4][seed as usize % 2],
            sessions_per_responder: [8, 3][seed as usize / 2 % 2],
            sessions_per_pair: 2,
            pending: 6,
            pending_quotas: Quotas { source: 5, unknown: 4 },
            proven: 3,
        };
        let first = random_members(&mut rng);
        let little = Work { searched_keys: 20, initiations: 10, unknown_initiations: 1 };
        let work = [UNLIMITED, UNLIMITED, little][seed as usize % 3];
        let mut relay = Relay::new(Settings { limits, work, ..settings() }, first);
        let (mut opened, mut endpoints) = (0, HashMap::new());
        for _ in 0..3_000 {
            let endpoint = *ENDPOINTS.choose(&mut rng).unwrap();
            let name = *NAMES.choose(&mut rng).unwrap();
            let (index, other) = (rng.random_range(1..33), rng.random_range(1..33));
            match rng.random_range(0..100) {
                0..30 => {
                    let message = relay.initiation(index, name);
                    for answer in relay.hear(endpoint, message.clone()) {
                        // Obey a challenge, else answer as the recipient would.
                        let reply = if answer.message[0] == 3 {
                            let cookie = super::crafted::opened(&answer.message, &message, name);
                            Some((at(endpoint), relay.initiation_with(other, name, &cookie)))
                        } else {
                            let named = NAMES.choose(&mut rng).unwrap();
                            Some((answer.remote, relay.response(other, index, named)))
                        };
                        if let Some((remote, message)) = reply {
                            let local = ip(if remote.is_ipv4() { RELAY } else { RELAY_6 });
                            let reply = Datagram { local, remote, ttl: 9, message };
                            for _ in 0..rng.random_range(1..5) {
                                relay.receive(&reply);
                            }
                        }
                    }
                }
                30..55 => {
                    // From where it is expected, mostly, in anybody's name.
                    let expected = relay.kernel.pending.get(&other).filter(|_| rng.random_bool(0.9));
                    let expected = expected.copied().unwrap_or(at(endpoint));
                    let message = relay.response(index, other, name);
                    let local = ip(if expected.is_ipv4() { RELAY } else { RELAY_6 });
                    relay.receive(&Datagram {
                        local,
                        remote: expected,
                        ttl: rng.random_range(0..9),
                        message,
                    });
                }
                55..65 => {
                    let message = relay.cookie_reply(index);
                    relay.hear(endpoint, message);
                }
                65..80 => relay.learn(name, endpoint),
                80..83 => {
                    let mut out = Vec::new();
                    relay.tracker.set_endpoint(relay.now, id(name), None, &mut out);
                    assert!(relay.kernel.apply(out).is_empty());
                }
                83..87 => _ = relay.tracker.confirm(index),
                87 => {
                    // The session table had no room for it after all.
                    if let Some(session) = relay.tracker.session_by_index(index).copied() {
                        relay.tracker.refuse(session.responder.index);
                        let indices = [session.initiator.index, session.responder.index];
                        indices.iter().for_each(|index| _ = relay.kernel.sessions.remove(index));
                    }
                }
                88..97 => relay.wait(std::time::Duration::from_secs(rng.random_range(0..12))),
                _ => {
                    let next = random_members(&mut rng);
                    relay.set_members(next);
                }
            }
            opened = opened.max(relay.tracker.sessions_len());

            let changes = relay.tracker.endpoint_changes();
            endpoints.extend(changes.held);
            changes.gone.iter().for_each(|endpoint| _ = endpoints.remove(endpoint));

            let tracker = &relay.tracker;
            assert_eq!(endpoints, tracker.endpoints().collect());
            assert!(tracker.sessions_len() <= limits.sessions && tracker.pending_len() <= limits.pending);
            assert_eq!(relay.kernel.sessions.len(), 2 * tracker.sessions_len());
            assert_eq!(relay.kernel.pending.len(), tracker.pending_len());
            for session in tracker.sessions() {
                for index in [session.initiator.index, session.responder.index] {
                    assert_eq!(relay.kernel.sessions.get(&index), Some(session));
                    assert_eq!(tracker.session_by_index(index), Some(session));
                }
                for side in [session.initiator, session.responder] {
                    assert_eq!(side.endpoint.is_ipv4(), side.local.is_ipv4(), "one packet has one family");
                }
                assert_ne!(session.initiator.endpoint, session.responder.endpoint);
                let (a, b) = (session.initiator.member, session.responder.member);
                assert!(tracker.directory.permits(a, b), "seed {seed}: {session:?} is not permitted");
            }
            for (endpoint, member) in tracker.endpoints() {
                assert!(member.is_none_or(|id| tracker.directory.locations(id).contains(&endpoint)));
            }
        }
        assert!(opened >= 2, "seed {seed} opened next to nothing: the test tests nothing");
        seen.extend(
            relay.tracker.outcomes().iter().filter(|(_, n)| *n > 0).map(|(outcome, _)| outcome.label()),
        );
        relay.set_members(members(Policy::Members, &[], &[]));
        assert!(relay.kernel.sessions.is_empty() && relay.kernel.pending.is_empty());
        assert_eq!((relay.tracker.endpoints().count(), relay.tracker.sessions.members().count()), (0, 0));
    }
    let all: BTreeSet<&str> = Outcome::ALL.iter().map(|outcome| outcome.label()).collect();
    let never: Vec<_> = all.difference(&seen).collect();
    assert_eq!(
        never,
        [&"family_mismatch", &"initiation_for_relay", &"not_handshake"],
        "what this test does not do"
    );
}

#[test]
fn every_outcome_has_its_own_label_and_says_what_it_means() {
    let labels: BTreeSet<_> = Outcome::ALL.iter().map(|outcome| outcome.label()).collect();
    assert_eq!(labels.len(), Outcome::ALL.len());
    for (n, outcome) in Outcome::ALL.iter().enumerate() {
        assert_eq!(*outcome as usize, n);
        assert!(outcome.description().ends_with('.') && !outcome.description().starts_with(' '));
    }
}
