//! What is to be done so that an interface has the peers that the control plane names: pure.
//!
//! WireGuard follows peers by itself: the endpoint of a peer is where its last authenticated packet came from. So an
//! endpoint is written when the control plane says another than before, and never because WireGuard has another.
//!
//! A peer that is to be reached elsewhere is taken away and given back. Its session is known to the relay that the way led
//! over so far, and to no other; without one WireGuard makes a new one at once, and does not first wait for 15 s until it
//! believes that the old one is dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use ipnet::IpNet;

use crate::members::PublicKey;

/// What a peer is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its key.
    pub public_key: PublicKey,
    /// Where it is to be reached at first; `None` if it comes to us.
    pub endpoint: Option<SocketAddr>,
    /// What may come from it and is sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// How often to send keepalives, in seconds; 0 for never.
    pub keepalive: u16,
}

/// What a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its key.
    pub public_key: PublicKey,
    /// Where it was last heard from, or is to be reached.
    pub endpoint: Option<SocketAddr>,
    /// What may come from it and is sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// How often keepalives are sent, in seconds; 0 for never.
    pub keepalive: u16,
    /// How long ago the last handshake was, if there was one.
    pub handshake: Option<Duration>,
}

/// Something to be done, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Takes a peer away, with its session.
    Remove(PublicKey),
    /// Makes or changes a peer.
    Set {
        /// Which.
        public_key: PublicKey,
        /// Its endpoint, if that is to be another.
        endpoint: Option<SocketAddr>,
        /// Its ranges, if they are to be others.
        allowed_ips: Option<BTreeSet<IpNet>>,
        /// Its keepalives, if they are to be others.
        keepalive: Option<u16>,
    },
}

/// A session is good for so long.
const SESSION: Duration = Duration::from_secs(180);
/// Whatever it is: that keepalives are switched on makes WireGuard send one at once, and for that a handshake.
const WAKE: u16 = 25;

/// Finds what is to be done. `before` is what was wanted when the interface was last configured, as far as that is known.
pub fn plan(before: &BTreeMap<PublicKey, Wanted>, wanted: &[Wanted], present: &[Present]) -> Vec<Op> {
    let present: BTreeMap<PublicKey, &Present> = present.iter().map(|peer| (peer.public_key, peer)).collect();
    let keep: BTreeSet<PublicKey> = wanted.iter().map(|peer| peer.public_key).collect();
    let mut ops: Vec<Op> =
        present.keys().filter(|key| !keep.contains(key)).map(|key| Op::Remove(*key)).collect();
    let mut set = Vec::new();
    let mut calm = Vec::new();
    for peer in wanted {
        let key = peer.public_key;
        match present.get(&key) {
            Some(there) if moved(before.get(&key), peer, there) => {
                ops.push(Op::Remove(key));
                let wake = peer.keepalive == 0 && there.handshake.is_some_and(|ago| ago < SESSION);
                set.push(peer.as_new(wake));
                if wake {
                    let (endpoint, allowed_ips) = (None, None);
                    calm.push(Op::Set { public_key: key, endpoint, allowed_ips, keepalive: Some(0) });
                }
            }
            Some(there) => {
                let op = Op::Set {
                    public_key: key,
                    endpoint: peer.endpoint.filter(|_| there.endpoint.is_none()),
                    allowed_ips: (peer.allowed_ips != there.allowed_ips).then(|| peer.allowed_ips.clone()),
                    keepalive: (peer.keepalive != there.keepalive).then_some(peer.keepalive),
                };
                let nothing = Op::Set { public_key: key, endpoint: None, allowed_ips: None, keepalive: None };
                set.extend((op != nothing).then_some(op));
            }
            None => set.push(peer.as_new(false)),
        }
    }
    ops.append(&mut set);
    ops.append(&mut calm);
    ops
}

/// Whether the control plane wants a peer to be reached elsewhere than before, and that is not where it is already.
fn moved(before: Option<&Wanted>, wanted: &Wanted, present: &Present) -> bool {
    let said_before = before.is_some_and(|before| before.endpoint == wanted.endpoint);
    !said_before
        && wanted.endpoint.is_some()
        && present.endpoint.is_some()
        && wanted.endpoint != present.endpoint
}

impl Wanted {
    fn as_new(&self, wake: bool) -> Op {
        Op::Set {
            public_key: self.public_key,
            endpoint: self.endpoint,
            allowed_ips: Some(self.allowed_ips.clone()),
            keepalive: Some(if wake { WAKE } else { self.keepalive }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An interface, as WireGuard keeps it.
    #[derive(Clone, Debug, Default)]
    struct Device(BTreeMap<PublicKey, Present>);

    impl Device {
        fn apply(&mut self, ops: &[Op]) {
            for op in ops {
                match op {
                    Op::Remove(key) => drop(self.0.remove(key).expect("it is there")),
                    Op::Set { public_key, endpoint, allowed_ips, keepalive } => {
                        // What goes to one peer goes to no other.
                        for other in self.0.values_mut().filter(|other| other.public_key != *public_key) {
                            other
                                .allowed_ips
                                .retain(|range| !allowed_ips.iter().flatten().any(|new| new == range));
                        }
                        let peer = self.0.entry(*public_key).or_insert_with(|| Present {
                            public_key: *public_key,
                            endpoint: None,
                            allowed_ips: BTreeSet::new(),
                            keepalive: 0,
                            handshake: None,
                        });
                        peer.endpoint = endpoint.or(peer.endpoint);
                        peer.allowed_ips = allowed_ips.clone().unwrap_or_else(|| peer.allowed_ips.clone());
                        peer.keepalive = keepalive.unwrap_or(peer.keepalive);
                    }
                }
            }
        }

        fn peers(&self) -> Vec<Present> {
            self.0.values().cloned().collect()
        }

        fn peer(&mut self, number: u8) -> &mut Present {
            self.0.get_mut(&key(number)).unwrap()
        }
    }

    /// A host that follows its configuration.
    #[derive(Clone, Debug, Default)]
    struct Host {
        before: BTreeMap<PublicKey, Wanted>,
        device: Device,
    }

    impl Host {
        fn follow(&mut self, wanted: &[Wanted]) -> Vec<Op> {
            let ops = plan(&self.before, wanted, &self.device.peers());
            self.device.apply(&ops);
            self.before = wanted.iter().map(|peer| (peer.public_key, peer.clone())).collect();
            ops
        }
    }

    fn key(number: u8) -> PublicKey {
        PublicKey([number; 32])
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const RELAY: &str = "198.51.100.1:51820";
    const OTHER: &str = "198.51.100.2:51820";

    fn wanted(number: u8, endpoint: &str, keepalive: u16) -> Wanted {
        let allowed_ips = [format!("10.0.0.{number}/32").parse().unwrap()].into();
        Wanted { public_key: key(number), endpoint: Some(at(endpoint)), allowed_ips, keepalive }
    }

    /// Its relay and two more peers, all over that relay.
    fn over(relay: &str) -> [Wanted; 3] {
        [wanted(1, relay, 25), wanted(2, relay, 0), wanted(3, relay, 0)]
    }

    #[test]
    fn an_interface_gets_its_peers_and_keeps_them() {
        let mut host = Host::default();
        assert_eq!(host.follow(&over(RELAY)).len(), 3);
        assert_eq!(host.follow(&over(RELAY)), []);
        // Without its memory, as when the state was lost.
        host.before.clear();
        assert_eq!(host.follow(&over(RELAY)), []);
    }

    #[test]
    fn where_wireguard_itself_has_followed_a_peer_is_not_fought() {
        let mut host = Host::default();
        host.follow(&over(RELAY));
        host.device.peer(2).endpoint = Some(at("203.0.113.9:1024"));
        assert_eq!(host.follow(&over(RELAY)), []);
        assert_eq!(host.device.peer(2).endpoint, Some(at("203.0.113.9:1024")));
    }

    #[test]
    fn peers_with_another_relay_are_taken_away_and_given_back_and_shake_hands_at_once() {
        let mut host = Host::default();
        host.follow(&over(RELAY));
        host.device.peer(1).handshake = Some(Duration::from_secs(100));
        host.device.peer(2).handshake = Some(Duration::from_secs(100));
        host.device.peer(3).handshake = Some(Duration::from_secs(200));
        let ops = host.follow(&over(OTHER));
        let set = |number: u8, keepalive: u16| Op::Set {
            public_key: key(number),
            endpoint: Some(at(OTHER)),
            allowed_ips: Some(wanted(number, OTHER, 0).allowed_ips),
            keepalive: Some(keepalive),
        };
        let calm = Op::Set { public_key: key(2), endpoint: None, allowed_ips: None, keepalive: Some(0) };
        let expected = [
            Op::Remove(key(1)),
            Op::Remove(key(2)),
            Op::Remove(key(3)),
            set(1, 25),
            set(2, WAKE),
            set(3, 0),
            calm,
        ];
        assert_eq!(ops, expected);
        assert_eq!(host.follow(&over(OTHER)), []);
    }

    #[test]
    fn a_peer_that_is_where_it_shall_be_keeps_its_session() {
        let mut host = Host::default();
        host.follow(&over(RELAY));
        // It has come over from there by itself, or we were killed after we had set it.
        host.device.peer(2).endpoint = Some(at(OTHER));
        let ops = host.follow(&over(OTHER));
        assert!(!ops.contains(&Op::Remove(key(2))), "{ops:?}");
    }

    #[test]
    fn a_peer_without_an_endpoint_gets_one_and_one_that_comes_to_us_keeps_its_own() {
        let mut host = Host::default();
        let silent = Wanted { endpoint: None, ..wanted(2, RELAY, 0) };
        host.follow(std::slice::from_ref(&silent));
        let ops = host.follow(&[wanted(2, RELAY, 0)]);
        assert_eq!(ops.len(), 1, "nothing to take away: {ops:?}");
        assert_eq!(host.device.peer(2).endpoint, Some(at(RELAY)));
        host.device.peer(2).endpoint = Some(at("203.0.113.9:1024"));
        assert_eq!(host.follow(&[silent]), []);
    }

    #[test]
    fn peers_that_nobody_wants_go_first() {
        let mut host = Host::default();
        host.follow(&over(RELAY));
        // Another host has the address now.
        let heir = Wanted { allowed_ips: wanted(3, RELAY, 0).allowed_ips, ..wanted(4, RELAY, 0) };
        let ops = host.follow(&[wanted(1, RELAY, 25), wanted(2, RELAY, 7), heir]);
        assert_eq!(ops[0], Op::Remove(key(3)));
        assert_eq!(ops.len(), 3);
        assert_eq!(host.device.peer(2).keepalive, 7);
    }

    fn any_peers() -> impl Strategy<Value = Vec<Wanted>> {
        // Each range belongs to one peer, as in a configuration.
        let peer = (0..2u8, 0..3u8, prop::bool::ANY);
        prop::collection::vec(prop::option::of(peer), 5).prop_map(|peers| {
            let numbered = (1u8..).zip(peers);
            numbered
                .filter_map(|(number, peer)| {
                    let (ranges, endpoint, keepalive) = peer?;
                    let ranges =
                        (0..=ranges).map(|range| format!("10.0.{range}.{number}/32").parse().unwrap());
                    Some(Wanted {
                        public_key: key(number),
                        endpoint: [None, Some(at(RELAY)), Some(at(OTHER))][usize::from(endpoint)],
                        allowed_ips: ranges.collect(),
                        keepalive: u16::from(keepalive) * 25,
                    })
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn whatever_it_was_an_interface_becomes_what_is_wanted(
            first in any_peers(),
            roamed in prop::collection::vec(prop::bool::ANY, 5),
            forgotten in prop::bool::ANY,
            second in any_peers(),
        ) {
            let mut host = Host::default();
            host.follow(&first);
            for (peer, roamed) in host.device.0.values_mut().zip(roamed) {
                if roamed {
                    peer.endpoint = Some(at("203.0.113.9:1024"));
                    peer.handshake = Some(Duration::from_secs(1));
                }
            }
            if forgotten {
                host.before.clear();
            }
            host.follow(&second);
            prop_assert_eq!(host.device.0.len(), second.len());
            for peer in &second {
                let there = host.device.0[&peer.public_key].clone();
                prop_assert_eq!(&there.allowed_ips, &peer.allowed_ips);
                prop_assert_eq!(there.keepalive, peer.keepalive);
                let said = first.iter().any(|old| old.public_key == peer.public_key && old.endpoint == peer.endpoint);
                if peer.endpoint.is_some() && !said {
                    prop_assert_eq!(there.endpoint, peer.endpoint);
                }
            }
            prop_assert_eq!(host.follow(&second), []);
        }
    }
}
