//! Hosts that join by themselves.

use super::*;
use crate::members::{Place, Policy};

fn world(key: EnrolmentKey) -> World {
    let mut world = World::new();
    world.will(Command::CreateKey(key));
    world
}

fn proof(host: &str, number: u8) -> Option<Credential> {
    Some(Credential { id: name(host), secret: secret(number) })
}

#[test]
fn a_host_joins_and_is_relayed_once_its_key_is_proven() {
    let mut world = world(enrolment_key("k", "net", Some("relay")));
    world.will(Command::Enrol(enrol("k", "x", 50)));
    let host = world.host("x");
    assert_eq!(host.relayed.as_ref().unwrap().by, name("relay"));
    assert_eq!((host.tags.clone(), host.active), (vec![name("joined")], false));
    assert_eq!(host.networks[0].ipv4, Some("10.1.0.4".parse().unwrap()), "relay, a and b came before");
    assert!(world.state.owns("x", &secret(2)) && !world.state.owns("x", &secret(1)));
    // A peer of the relay's interface at once, relayed only when the key is proven.
    let mut part = Part::new(key(1), Policy::Members, &world.state).unwrap();
    assert!(part.desired().peers.contains_key(&key(50)));
    assert_eq!(part.desired().members.member(key(50).id()), None);
    world.will(Command::Activate(vec![key(50), key(51)]));
    part.follow(&world.state).unwrap();
    assert_eq!(part.desired().members.member(key(50).id()).unwrap().place, Place::Relayed);
    // Seen again, nothing changes.
    assert!(world.plan(Command::Activate(vec![key(50)])).unwrap().ops.is_empty());
}

#[test]
fn keys_expire_and_are_used_up() {
    let mut world = world(EnrolmentKey {
        uses_left: Some(2),
        expires: Some(1_000_100),
        ..enrolment_key("k", "net", None)
    });
    let unknown = Enrol { key: Credential { id: name("x"), secret: secret(1) }, ..enrol("k", "x", 50) };
    assert_eq!(world.refuses(Command::Enrol(unknown)), "wrong_key");
    let guessed = Enrol { key: Credential { id: name("k"), secret: secret(9) }, ..enrol("k", "x", 50) };
    assert_eq!(world.refuses(Command::Enrol(guessed)), "wrong_key");
    world.will(Command::Enrol(enrol("k", "x", 50)));
    world.will(Command::Enrol(enrol("k", "y", 51)));
    assert_eq!(world.refuses(Command::Enrol(enrol("k", "z", 52))), "key_used_up");
    // Who has joined may ask again.
    let again = Enrol { proof: proof("y", 2), ..enrol("k", "y", 51) };
    assert!(world.plan(Command::Enrol(again)).unwrap().ops.is_empty());
    world.now = 1_000_100;
    assert_eq!(world.refuses(Command::Enrol(enrol("k", "z", 52))), "key_expired");
    assert_eq!(world.refuses(Command::CreateKey(enrolment_key("k", "net", None))), "exists");
    world.will(Command::DeleteKey(name("k")));
    assert_eq!(world.refuses(Command::Enrol(enrol("k", "z", 52))), "wrong_key");
}

#[test]
fn a_second_network_needs_the_owner() {
    let mut world = world(enrolment_key("k", "net", Some("relay")));
    world.will(Command::CreateKey(enrolment_key("l", "other", None)));
    world.will(Command::Enrol(enrol("k", "x", 50)));
    world.will(Command::Activate(vec![key(50)]));
    assert_eq!(world.refuses(Command::Enrol(enrol("l", "x", 50))), "owner_needed");
    let wrong = Enrol { proof: proof("x", 9), ..enrol("l", "x", 50) };
    assert_eq!(world.refuses(Command::Enrol(wrong)), "owner_needed");
    let others = Enrol { proof: proof("a", 2), ..enrol("l", "x", 50) };
    assert_eq!(world.refuses(Command::Enrol(others)), "owner_needed");
    world.will(Command::Enrol(Enrol { proof: proof("x", 2), ..enrol("l", "elsewhere", 50) }));
    let host = world.host("x");
    assert_eq!(host.networks.len(), 2);
    assert!(host.active && host.relayed.is_some(), "all else stays");
    assert_eq!(world.refuses(Command::Enrol(enrol("k", "x", 51))), "exists");
}

#[test]
fn the_relay_of_a_host_must_serve_the_second_network_too() {
    let mut world = world(enrolment_key("k", "net", None));
    world.will(relay("b", &["198.51.100.2"]));
    world.will(Command::CreateKey(enrolment_key("kb", "net", Some("b"))));
    world.will(Command::CreateKey(enrolment_key("l", "other", Some("relay"))));
    world.will(Command::Enrol(enrol("kb", "x", 50)));
    let second = Enrol { proof: proof("x", 2), ..enrol("l", "x", 50) };
    assert_eq!(world.refuses(Command::Enrol(second)), "relay_not_in_network");
}

#[test]
fn nobody_can_squat_on_a_key() {
    let mut world = world(enrolment_key("k", "net", None));
    world.will(Command::Enrol(enrol("k", "squatter", 50)));
    assert_eq!(world.refuses(Command::Enrol(enrol("k", "rightful", 50))), "owner_needed");
    world.now += RESERVED_SECONDS - 1;
    assert!(world.plan(Command::Sweep).unwrap().ops.is_empty());
    assert_eq!(world.refuses(Command::Enrol(enrol("k", "rightful", 50))), "owner_needed");
    world.now += 1;
    let mut swept = world.clone();
    swept.will(Command::Sweep);
    assert!(swept.state.member("squatter").is_none() && swept.state.member("a").is_some());
    world.will(Command::Enrol(enrol("k", "rightful", 50)));
    assert!(world.state.member("squatter").is_none());
    assert_eq!(world.state.by_public_key(key(50)).unwrap().name, name("rightful"));
    // Proven, it stays.
    world.will(Command::Activate(vec![key(50)]));
    world.now += 10 * RESERVED_SECONDS;
    assert!(world.plan(Command::Sweep).unwrap().ops.is_empty());
    assert_eq!(world.refuses(Command::Enrol(enrol("k", "late", 50))), "owner_needed");
    // A lapsed one can come again under its own name, too.
    world.will(Command::Enrol(enrol("k", "slow", 60)));
    world.now += RESERVED_SECONDS;
    world.will(Command::Enrol(enrol("k", "slow", 60)));
    assert_eq!(world.host("slow").enrolled.as_ref().unwrap().at, world.now);
}

#[test]
fn secrets_are_shown_and_kept_as_they_should() {
    let shown = Credential { id: name("k.1"), secret: secret(200) };
    assert_eq!(shown.reveal().parse(), Ok(shown.clone()));
    for bad in ["", "k", "k.", ".x", "k.AAAA", &format!("k.{}=", secret(1).reveal())] {
        assert!(bad.parse::<Credential>().is_err(), "{bad:?}");
    }
    assert!(!format!("{shown:?} {:?}", shown.secret.hash()).contains(&shown.secret.reveal()[..8]));
    let hash: String = shown.secret.hash().into();
    assert_ne!(hash, shown.secret.reveal());
    assert!(SecretHash::try_from(hash).unwrap().is_of(&shown.secret));
}
