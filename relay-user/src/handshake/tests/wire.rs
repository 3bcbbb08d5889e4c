//! Reading messages, mac1, mac2 and cookie replies, against what a real implementation makes.

use boringtun::{
    noise::{Tunn, TunnResult},
    x25519,
};
use proptest::prelude::*;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use relay_search::{Kernel, Keys};

use super::crafted::{at, seconds};
use crate::{
    handshake::{
        cookie::{self, Cookies, SECRET_LIFETIME},
        mac::mac1,
        message::{Macs, Message},
    },
    members::PublicKey,
};

fn tunnels() -> (Tunn, Tunn, PublicKey, PublicKey) {
    let mut rng = StdRng::seed_from_u64(3);
    let (a, b) = (
        x25519::StaticSecret::from(rng.random::<[u8; 32]>()),
        x25519::StaticSecret::from(rng.random::<[u8; 32]>()),
    );
    let (pa, pb) = (x25519::PublicKey::from(&a), x25519::PublicKey::from(&b));
    let keys = (PublicKey(*pa.as_bytes()), PublicKey(*pb.as_bytes()));
    (Tunn::new(a, pb, None, None, 0x1234, None), Tunn::new(b, pa, None, None, 0x5678, None), keys.0, keys.1)
}

fn written(result: TunnResult) -> Vec<u8> {
    match result {
        TunnResult::WriteToNetwork(message) => message.to_vec(),
        other => panic!("nothing to send: {other:?}"),
    }
}

fn macs(message: &[u8]) -> Macs<'_> {
    match Message::parse(message).unwrap() {
        Message::Initiation(initiation) => initiation.macs,
        Message::Response(response) => response.macs,
        Message::CookieReply(reply) => panic!("{reply:?} has no macs"),
    }
}

#[test]
fn a_real_handshake_is_read_and_its_recipients_are_found() {
    let (mut a, mut b, key_a, key_b) = tunnels();
    let initiation = written(a.format_handshake_initiation(&mut [0; 256], false));
    let response = written(b.decapsulate(None, &initiation, &mut [0; 256]));
    let Some(Message::Initiation(read)) = Message::parse(&initiation) else { panic!("no initiation") };
    assert_eq!(read.sender >> 8, 0x1234);
    assert_eq!(read.macs.mac2, [0; 16]);
    let Some(Message::Response(answer)) = Message::parse(&response) else { panic!("no response") };
    assert_eq!((answer.sender >> 8, answer.receiver), (0x5678, read.sender));
    for (macs, recipient, sender) in [(read.macs, key_b, key_a), (answer.macs, key_a, key_b)] {
        assert_eq!(mac1(&recipient, macs.body), macs.mac1);
        assert_ne!(mac1(&sender, macs.body), macs.mac1);
        for kernel in Kernel::all() {
            let keys = Keys::of(kernel, [&sender.0, &recipient.0].into_iter());
            assert_eq!(keys.find(macs.body, macs.mac1), Some(1), "{}", kernel.name());
        }
    }
}

#[test]
fn a_real_client_opens_our_cookie_reply_and_obeys() {
    let (mut a, _, _, key_b) = tunnels();
    let initiation = written(a.format_handshake_initiation(&mut [0; 256], false));
    let Some(Message::Initiation(read)) = Message::parse(&initiation) else { panic!("no initiation") };
    let (mut rng, source, now) = (StdRng::seed_from_u64(4), at("198.51.100.1:5"), seconds(5));
    let mut cookies = Cookies::default();
    assert!(!cookies.verify(now, &mut rng, source, &read.macs), "no cookie yet");

    let reply = cookies.reply(now, &mut rng, source, &read, &key_b);
    assert!(matches!(a.decapsulate(None, &reply, &mut [0; 256]), TunnResult::Done), "the client refused it");
    let again = written(a.format_handshake_initiation(&mut [0; 256], true));
    assert!(cookies.verify(now, &mut rng, source, &macs(&again)));
    for other in ["198.51.100.2:5", "198.51.100.1:6", "[2001:db8::5]:5"] {
        assert!(!cookies.verify(now, &mut rng, at(other), &macs(&again)), "{other} is another source");
    }
}

#[test]
fn a_real_client_refuses_a_reply_in_another_name_or_to_another_message() {
    let (mut a, _, key_a, key_b) = tunnels();
    let initiation = written(a.format_handshake_initiation(&mut [0; 256], false));
    let Some(Message::Initiation(read)) = Message::parse(&initiation) else { panic!("no initiation") };
    let good = (read.sender, read.macs.mac1, key_b);
    let bad = [
        (read.sender, read.macs.mac1, key_a),
        (read.sender, [7; 16], key_b),
        (read.sender ^ 1, read.macs.mac1, key_b),
    ];
    for (receiver, mac1, member) in bad {
        let reply = cookie::seal(&[9; 16], &[1; 24], receiver, &mac1, &member);
        assert!(matches!(a.decapsulate(None, &reply, &mut [0; 256]), TunnResult::Err(_)));
    }
    let reply = cookie::seal(&[9; 16], &[1; 24], good.0, &good.1, &good.2);
    assert!(matches!(a.decapsulate(None, &reply, &mut [0; 256]), TunnResult::Done));
    let again = written(a.format_handshake_initiation(&mut [0; 256], true));
    assert_eq!(cookie::mac2(&[9; 16], &macs(&again)), macs(&again).mac2);
}

#[test]
fn a_cookie_outlives_the_rotation_of_its_secret_once() {
    let (mut rng, source) = (StdRng::seed_from_u64(5), at("198.51.100.1:5"));
    let start = seconds(100);
    // Made at the very end of the secret's time, so that 120 s of validity is the least that there is.
    let made = start + SECRET_LIFETIME - seconds(1);
    for (later, valid) in [(0, true), (1, true), (60, true), (120, true), (121, false), (400, false)] {
        let (mut a, _, _, key_b) = tunnels();
        let mut cookies = Cookies::default();
        let initiation = written(a.format_handshake_initiation(&mut [0; 256], false));
        let Some(Message::Initiation(read)) = Message::parse(&initiation) else { panic!("no initiation") };
        cookies.reply(start, &mut rng, source, &read, &key_b);
        let reply = cookies.reply(made, &mut rng, source, &read, &key_b);
        assert!(matches!(a.decapsulate(None, &reply, &mut [0; 256]), TunnResult::Done));
        let again = written(a.format_handshake_initiation(&mut [0; 256], true));
        assert_eq!(
            cookies.verify(made + seconds(later), &mut rng, source, &macs(&again)),
            valid,
            "{later} s later"
        );
    }
}

#[test]
fn nonces_and_secrets_are_fresh() {
    let (mut a, _, _, key_b) = tunnels();
    let initiation = written(a.format_handshake_initiation(&mut [0; 256], false));
    let Some(Message::Initiation(read)) = Message::parse(&initiation) else { panic!("no initiation") };
    let mut rng = StdRng::seed_from_u64(6);
    let mut cookies = Cookies::default();
    let mut reply = || cookies.reply(seconds(1), &mut rng, at("198.51.100.1:5"), &read, &key_b);
    assert_ne!(reply()[8..32], reply()[8..32]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(&bytes);
    }

    #[test]
    fn only_the_right_length_is_a_message(kind in 0_u8..6, len in 0_usize..200, reserved in 0_u8..2, seed: u64) {
        let mut bytes = vec![0; len];
        StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
        let header = [kind, 0, reserved, 0];
        let shown = header.len().min(len);
        bytes[..shown].copy_from_slice(&header[..shown]);
        let expected = reserved == 0 && matches!((kind, len), (1, 148) | (2, 92) | (3, 64));
        prop_assert_eq!(Message::parse(&bytes).is_some(), expected);
    }
}
