//! Records of the ring buffer, as bytes, through to the tracker.

#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_ebpf::event::{Event, HANDSHAKE};
use relay_fuzz::{
    message::{INITIATION_MAC1, RESPONSE_MAC1, sign},
    relay::Relay,
    world::{At, HOSTS, PORT, RELAY, key, local},
};
use relay_user::{
    handshake::Datagram,
    members::{Member, Members, OtherRelay, Place, Policy},
    path_mtu::TooBig,
};
use zerocopy::FromBytes as _;

fuzz_target!(|bytes: &[u8]| {
    let mut relay = Relay::new(members());
    for host in 0..3 {
        relay.learn(host, Some(At::Known(host).endpoint()));
    }
    for record in bytes.chunks(size_of::<Event>()).take(16) {
        let read = Event::read_from_bytes(record);
        assert_eq!(read.is_ok(), record.len() == size_of::<Event>());
        if let Ok(event) = read {
            take(&mut relay, &event);
            relay.check();
        }
    }
});

/// As the engine does.
fn take(relay: &mut Relay, event: &Event) {
    let remote = event.source.into();
    if let Some(message) = event.message() {
        assert_eq!((event.kind, message.len()), (HANDSHAKE, usize::from(event.message_len)));
        let mut message = message.to_vec();
        name_recipient(&mut message);
        // The address that a packet was sent to is one of the relay's and of the packet's family: the program's word.
        let local = local(remote, event.ifindex as u8);
        relay.receive(&Datagram { local, remote, ttl: event.ttl, message });
    } else {
        let message = event.message[..relay_ebpf::event::TOO_BIG_QUOTE].to_vec();
        let packet_len = u32::from(event.message_len) + 48;
        let too_big = TooBig { mtu: 1280, packet_len, local: event.local.into(), remote, message };
        if let Some(session) = relay.tracker.session_by_index(too_big.receiver_index()) {
            too_big.translate(session, PORT);
        }
    }
}

/// No fuzzer finds a mac: one of which only the first byte is set stands for the right one for that host.
fn name_recipient(message: &mut [u8]) {
    let at = match message.len() {
        148 => INITIATION_MAC1,
        92 => RESPONSE_MAC1,
        _ => return,
    };
    if message[at] <= RELAY && message[at + 1..at + 16].iter().all(|byte| *byte == 0) {
        let recipient = key(message[at]);
        sign(message, at, &recipient, None);
    }
}

/// Three hosts that are relayed here, one elsewhere, one static, and one that is nowhere.
fn members() -> Members {
    let relay = OtherRelay { name: "other".into(), endpoints: vec![At::Known(5).endpoint()] };
    let members = (0..HOSTS).map(|host| Member {
        name: format!("host {host}").into(),
        public_key: key(host),
        networks: vec!["net".into()],
        place: match host {
            0..3 => Place::Relayed,
            3 => Place::RelayedBy("other".into()),
            4 => Place::Static(vec![At::Known(4).endpoint()]),
            _ => Place::Static(Vec::new()),
        },
        rate_limit: None,
    });
    Members::new(key(RELAY), Policy::Members, [relay], members).expect("sound members")
}
