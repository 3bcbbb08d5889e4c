//! The search for keys, by every kernel that this CPU can run, against another implementation of BLAKE2s (`mac` is of
//! blake2s_simd).

use proptest::prelude::*;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use relay_search::{Kernel, Keys, LANES};

use super::crafted::{id, key, members};
use crate::{
    handshake::{
        directory::{Directory, Recipient},
        mac::mac1,
        message::Macs,
    },
    members::{Policy, PublicKey},
};

/// What mac1 covers in an initiation and in a response, in bytes.
const BODIES: [usize; 2] = [116, 60];

fn owners(count: usize) -> Vec<PublicKey> {
    (0..count).map(|n| key(&format!("owner {n}"))).collect()
}

fn macs<'a>(body: &'a [u8], recipient: &PublicKey) -> Macs<'a> {
    Macs { body, mac1: mac1(recipient, body), body_and_mac1: &[], mac2: [0; 16] }
}

fn find(keys: &Keys, macs: &Macs) -> Option<usize> {
    keys.find(macs.body, macs.mac1)
}

#[test]
fn a_key_is_found_at_every_place_and_nobody_elses() {
    let body: [u8; 116] = std::array::from_fn(|n| n as u8);
    // Blocks that are full, that hold one key, that lack one.
    for count in [0, 1, LANES - 1, LANES, LANES + 1, 3 * LANES] {
        let owners = owners(count);
        for (kernel, length) in Kernel::all().into_iter().flat_map(|k| BODIES.map(|length| (k, length))) {
            let body = &body[..length];
            let keys = Keys::of(kernel, owners.iter().map(|owner| &owner.0));
            let some = Keys::some(kernel, (0..count).map(|place| keys.key(place)));
            for keys in [&keys, &some] {
                for (place, owner) in owners.iter().enumerate() {
                    let found = find(&keys, &macs(body, owner));
                    assert_eq!(found, Some(place), "{}, {length} bytes, {count} keys", kernel.name());
                }
                assert_eq!(find(&keys, &macs(body, &key("a stranger"))), None);
            }
        }
    }
}

#[test]
fn members_are_found_whoever_came_and_went() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut directory = Directory::new(&key("relay"), Kernel::default());
    let names: Vec<String> = (0..3 * LANES).map(|n| format!("host-{n}")).collect();
    for _ in 0..100 {
        let share = rng.random_range(0.0..1.0);
        let here: Vec<&str> = names.iter().map(String::as_str).filter(|_| rng.random_bool(share)).collect();
        directory.replace(members(Policy::Members, &[], &here), |_| true);
        for name in &names {
            let found = directory.any_recipient(&macs(&[7; 116], &key(name)));
            let expected = here.contains(&name.as_str()).then(|| Recipient::Member(id(name)));
            assert_eq!(found, expected, "{name}");
        }
    }
}

#[test]
fn of_a_key_that_is_there_twice_the_first_place_is_told() {
    let owners = [key("a"), key("b"), key("b")];
    let keys = Keys::of(Kernel::default(), owners.iter().map(|owner| &owner.0));
    assert_eq!(find(&keys, &macs(&[7; 60], &key("b"))), Some(1));
}

#[test]
fn every_bit_of_a_mac_counts() {
    let (owner, body) = (key("owner"), [9; 116]);
    let good = macs(&body, &owner);
    for kernel in Kernel::all() {
        let keys = Keys::of(kernel, [&owner.0].into_iter());
        for bit in 0..128 {
            let mut bad = good;
            bad.mac1[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(find(&keys, &bad), None, "{}, bit {bit}", kernel.name());
        }
        assert_eq!(find(&keys, &good), Some(0));
    }
}

proptest! {
    #[test]
    fn any_message_is_found_for_any_keys(seed: u64, count in 1_usize..70, place: prop::sample::Index) {
        let mut rng = StdRng::seed_from_u64(seed);
        let owners: Vec<_> = (0..count).map(|_| PublicKey(rng.random())).collect();
        let place = place.index(count);
        for (kernel, length) in Kernel::all().into_iter().flat_map(|k| BODIES.map(|length| (k, length))) {
            let mut body = vec![0; length];
            rng.fill_bytes(&mut body);
            let keys = Keys::of(kernel, owners.iter().map(|owner| &owner.0));
            prop_assert_eq!(find(&keys, &macs(&body, &owners[place])), Some(place), "{}", kernel.name());
            prop_assert_eq!(find(&keys, &macs(&body, &PublicKey(rng.random()))), None, "{}", kernel.name());
        }
    }
}
