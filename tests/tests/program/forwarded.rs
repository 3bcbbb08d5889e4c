//! Relayed data: every byte as it leaves.

use relay_ebpf::reason::Reason;

use crate::{
    datagram::{Datagram, transport_data},
    fixture::{Fixture, run},
    relay::{FAMILIES, Hop, Hosts, IPV4, MTU},
};

#[test]
fn relayed_data_leaves_as_if_it_had_been_built_that_way() {
    run(&fixtures());
}

pub fn fixtures() -> Vec<Fixture> {
    FAMILIES.iter().flat_map(of_family).chain([without_checksum(), with_wrong_checksum()]).collect()
}

fn of_family(hosts: &Hosts) -> Vec<Fixture> {
    let family = hosts.family.label();
    let data = |hop, len| hosts.datagram(hosts.alice, transport_data(hosts.session(hop), len));
    let relayed = |name: &str, datagram: &Datagram, hop| {
        Fixture::relayed(format!("{name}, {family}"), hosts, datagram, hop)
    };
    let largest = usize::from(MTU) - data(Hop::Back, 32).packet_len() + 32;
    let mut fixtures = vec![
        relayed("a keepalive, back", &data(Hop::Back, 32), Hop::Back),
        relayed("a keepalive, across", &data(Hop::Across, 32), Hop::Across),
        relayed("an odd length", &data(Hop::Back, 133), Hop::Back),
        relayed("a packet as large as the MTU", &data(Hop::Across, largest), Hop::Across),
        relayed("TTL 2 leaves as 1", &Datagram { ttl: 2, ..data(Hop::Back, 96) }, Hop::Back),
        relayed("TTL 255", &Datagram { ttl: 255, ..data(Hop::Back, 96) }, Hop::Back),
    ];

    let datagram = data(Hop::Back, 32);
    let padded = |mut frame: Vec<u8>| {
        frame.extend([0xa5; 18]);
        frame
    };
    fixtures.push(
        Fixture::new(
            format!("padding behind the packet stays, {family}"),
            hosts.family,
            padded(datagram.frame()),
            Reason::ForwardedTx,
        )
        .sent_on(
            &datagram,
            hosts.session(Hop::Back),
            padded(hosts.sent_on(&datagram, Hop::Back).frame()),
        ),
    );

    let index = hosts.session_by_relay_too();
    let datagram = hosts.datagram(hosts.alice, transport_data(index, 64));
    let after = Datagram { source: hosts.relay_too, ..hosts.sent_on(&datagram, Hop::Back) };
    fixtures.push(
        Fixture::datagram(
            format!("it leaves from the address that the session names, {family}"),
            hosts,
            &datagram,
            Reason::ForwardedTx,
        )
        .sent_on(&datagram, index, after.frame()),
    );

    // A computed checksum of zero is sent as all ones. Two payloads that make it so, before and after the rewrite.
    let with_tail = |tail: u16| {
        let mut datagram = data(Hop::Back, 64);
        datagram.payload[62..].copy_from_slice(&tail.to_be_bytes());
        datagram
    };
    let tail = |checksum: &dyn Fn(&Datagram) -> u16| {
        // What is added to the sum is taken from its complement.
        let datagram = with_tail(checksum(&with_tail(0)));
        assert_eq!(checksum(&datagram), 0xffff);
        datagram
    };
    fixtures.push(relayed("checksum all ones before", &tail(&Datagram::checksum), Hop::Back));
    fixtures.push(relayed(
        "checksum all ones after",
        &tail(&|datagram| hosts.sent_on(datagram, Hop::Back).checksum()),
        Hop::Back,
    ));
    fixtures
}

fn without_checksum() -> Fixture {
    let datagram = IPV4.datagram(IPV4.alice, transport_data(IPV4.session(Hop::Back), 64));
    Fixture::new(
        "no UDP checksum stays none, ipv4",
        IPV4.family,
        datagram.frame_with_checksum(0),
        Reason::ForwardedTx,
    )
    .sent_on(
        &datagram,
        IPV4.session(Hop::Back),
        IPV4.sent_on(&datagram, Hop::Back).frame_with_checksum(0),
    )
}

/// What was damaged on its way is not made whole: the receiver must see it.
fn with_wrong_checksum() -> Fixture {
    let datagram = IPV4.datagram(IPV4.alice, transport_data(IPV4.session(Hop::Back), 64));
    let after = IPV4.sent_on(&datagram, Hop::Back);
    let off_by_one = |datagram: &Datagram| {
        assert!((1..0xfffe).contains(&datagram.checksum()), "pick a payload whose checksum does not wrap");
        datagram.frame_with_checksum(datagram.checksum() + 1)
    };
    Fixture::new("a wrong UDP checksum stays wrong", IPV4.family, off_by_one(&datagram), Reason::ForwardedTx)
        .sent_on(&datagram, IPV4.session(Hop::Back), off_by_one(&after))
}
