//! Frames of every length.

use std::net::SocketAddr;

use relay_ebpf::{
    event::{HANDSHAKE, NEW_SOURCE},
    reason::Reason,
    tables::Counter,
};

use crate::{
    datagram::{ETHERNET, cookie_reply, initiation, response, transport_data},
    relay::{FAMILIES, Hop, Hosts, Relay},
};

/// Messages that each do something when they come whole, and who sends them.
fn messages(hosts: &Hosts) -> [(SocketAddr, Vec<u8>); 6] {
    [
        (hosts.alice, transport_data(hosts.session(Hop::Back), 96)),
        (hosts.alice, transport_data(hosts.session(Hop::Across), 64)),
        (hosts.alice, transport_data(hosts.unknown(), 64)),
        (hosts.alice, initiation(hosts.unknown())),
        (hosts.bob, response(1, hosts.pending())),
        (hosts.alice, cookie_reply(hosts.session(Hop::Back))),
    ]
}

#[test]
fn a_frame_cut_off_anywhere_is_malformed_and_untouched() {
    let mut relay = Relay::new();
    for hosts in &FAMILIES {
        for (source, message) in messages(hosts) {
            let frame = hosts.datagram(source, message).frame();
            // The kernel takes no test frame below an Ethernet header.
            for len in ETHERNET..frame.len() {
                let ran = relay.run(&frame[..len]);
                let counted = Counter { packets: 1, bytes: len as u64 };
                assert_eq!(ran.counted, [(Reason::Malformed, hosts.family, counted)], "{len} bytes");
                assert_eq!(ran.verdict, Reason::Malformed.verdict() as u32, "{len} bytes");
                assert_eq!(ran.frame, frame[..len], "{len} bytes");
                assert_eq!((ran.sessions.len(), ran.events.len()), (0, 0), "{len} bytes");
            }
        }
    }
}

/// As above, but with headers that say so: only the whole message does what its kind does.
#[test]
fn a_message_of_another_length_is_no_wireguard() {
    let mut relay = Relay::new();
    for hosts in &FAMILIES {
        for (source, message) in messages(hosts) {
            let is_data = message[0] == 4;
            for len in 0..=message.len() + 8 {
                let mut payload = message.clone();
                payload.resize(len, 0xcc);
                let datagram = hosts.datagram(source, payload);
                let ran = relay.run(&datagram.frame());
                let [(reason, _, counter)] = ran.counted[..] else { panic!("{:?}", ran.counted) };
                let shaped = if is_data { len >= 32 } else { len == message.len() };
                assert_eq!(
                    reason != Reason::NotWireguard,
                    shaped,
                    "{reason:?} for {len} bytes of {message:?}"
                );
                assert_eq!(counter.bytes, datagram.frame().len() as u64);
                let sent_on = matches!(reason, Reason::ForwardedTx | Reason::ForwardedRedirect);
                assert_eq!(ran.frame != datagram.frame(), sent_on, "{reason:?} for {len} bytes");
                assert_eq!(ran.frame.len(), datagram.frame().len());
                assert_eq!(ran.sessions.len(), usize::from(sent_on));
                assert!(ran.events.iter().all(|event| event.kind != NEW_SOURCE));
                let copied = ran.events.iter().filter(|event| event.kind == HANDSHAKE).count();
                assert_eq!(copied, usize::from(!is_data && shaped), "{len} bytes of {message:?}");
            }
        }
    }
}
