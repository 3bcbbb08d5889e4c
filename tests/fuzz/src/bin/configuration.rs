//! The text of a configuration file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_user::{
    config::Config,
    members::{Place, PublicKey, unusable},
};

fuzz_target!(|text: &str| {
    let config = match Config::parse(text) {
        Ok(config) => config,
        Err((span, reason)) => {
            assert!(!reason.is_empty());
            // It is told with its line, so it must be a place in the text.
            if let Some(span) = span {
                let _line = text[..span.start.min(text.len())].matches('\n').count();
            }
            return;
        }
    };
    assert!(config.relay.port != 0 && !config.relay.addresses.is_empty() && !config.relay.attach.is_empty());
    assert!(config.relay.addresses.is_sorted_by_key(|address| address.is_ipv6()));
    assert_eq!(config.needs_restart(&config), [""; 0]);
    let members = config.members(PublicKey([0; 32])).expect("it was checked");
    for (id, member) in members.iter() {
        assert_eq!(member.public_key.id(), id);
        assert!(!member.networks.is_empty());
        match &member.place {
            Place::Relayed => {}
            Place::RelayedBy(relay) => assert!(members.relay(relay).is_some(), "an unknown relay"),
            Place::Static(endpoints) => assert!(endpoints.iter().all(|e| unusable(*e).is_none())),
        }
        // The relay itself is no member: the entry is named.
        let (span, _) = config.members(member.public_key).expect_err("the relay is a member of its own");
        assert!(!span.is_empty() && text.get(span).is_some(), "no entry is named");
    }
});
