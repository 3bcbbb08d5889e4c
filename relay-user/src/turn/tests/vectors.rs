//! RFC 5769: test vectors of STUN.

use turn_types::stun::{
    attribute::Username,
    message::{BINDING, Message},
};

use crate::turn::{
    credentials::Key,
    message::{Response, is_signed, is_signed_with},
};

/// Section 2.4: a request with long-term credentials.
const LONG_TERM: &str = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c\
                         662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f726700\
                         00080014f67024656dd64a3e02b8e0712e85c9a28ca89666";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn the_request_with_long_term_credentials_is_signed_as_the_standard_says() {
    let bytes = bytes(LONG_TERM);
    let message = Message::from_bytes(&bytes).unwrap();
    let name = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";
    assert_eq!(message.attribute::<Username>().unwrap().username(), name);
    assert!(message.has_method(BINDING) && is_signed(&message));
    let key = Key::of(name, "example.org", "TheMatrIX");
    assert!(is_signed_with(&message, &key));
    assert!(!is_signed_with(&message, &Key::of(name, "example.org", "TheMatrix")));
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        if let Ok(message) = Message::from_bytes(&wrong) {
            assert!(!is_signed_with(&message, &key), "byte {at} is not signed");
        }
    }
}

#[test]
fn what_is_signed_here_is_signed_as_the_standard_says() {
    let request = bytes(LONG_TERM);
    let request = Message::from_bytes(&request).unwrap();
    let key = Key::of("user", "realm", "pass");
    let response = Response::error(&request, 437).finish(Some(&key));
    let response = Message::from_bytes(&response).unwrap();
    assert!(is_signed_with(&response, &key));
    // Another's implementation says so, too.
    use turn_types::stun::message::LongTermCredentials;
    let credentials =
        LongTermCredentials::new("user".to_owned(), "pass".to_owned()).to_key("realm".to_owned());
    assert!(response.validate_integrity(&credentials.into()).is_ok());
}
