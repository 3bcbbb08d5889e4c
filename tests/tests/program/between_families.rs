//! Relayed data between IPv4 and IPv6, and what may not fit: every byte as it leaves, and the checks in their order.

use relay_ebpf::reason::{Family, Reason};

use crate::{
    datagram::{Datagram, transport_data},
    fixture::{Fixture, NO_HEADROOM, run},
    relay::{FAMILIES, Hop, Hosts, IPV4, IPV6, MTU},
};

#[test]
fn data_leaves_in_the_family_of_its_destination() {
    run(&fixtures());
}

pub fn fixtures() -> Vec<Fixture> {
    FAMILIES
        .iter()
        .flat_map(|hosts| sent_on(hosts).into_iter().chain(not_sent_on(hosts)).chain(behind_metadata(hosts)))
        .chain(FAMILIES.iter().flat_map(|hosts| FAMILIES.map(|to| sizes(hosts, &to))).flatten())
        .chain(without_checksum())
        .collect()
}

fn data(hosts: &Hosts, to: &Hosts, hop: Hop, len: usize) -> Datagram {
    hosts.datagram(hosts.alice, transport_data(hosts.session_to(to, hop), len))
}

fn named(name: &str, hosts: &Hosts, to: &Hosts) -> String {
    format!("{name}, {} to {}", hosts.family.label(), to.family.label())
}

fn sent_on(hosts: &Hosts) -> Vec<Fixture> {
    let to = &hosts.other();
    let data = |hop, len| data(hosts, to, hop, len);
    let relayed = |name: &str, datagram: &Datagram, hop| {
        Fixture::relayed_to(to, named(name, hosts, to), hosts, datagram, hop)
    };
    let back = data(Hop::Back, 96);
    let mut fixtures = vec![
        relayed("a keepalive, back", &data(Hop::Back, 32), Hop::Back),
        relayed("a keepalive, across", &data(Hop::Across, 32), Hop::Across),
        relayed("an odd length", &data(Hop::Back, 133), Hop::Back),
        relayed("TTL 2 leaves as 1", &Datagram { ttl: 2, ..back.clone() }, Hop::Back),
        relayed("TTL 255", &Datagram { ttl: 255, ..back.clone() }, Hop::Back),
        relayed(
            "a fragmentable packet that fits",
            &Datagram { dont_fragment: false, ..back.clone() },
            Hop::Back,
        ),
        relayed("no flow label", &Datagram { flow_label: 0, ..back.clone() }, Hop::Back),
        relayed("the largest flow label", &Datagram { flow_label: 0xf_ffff, ..back.clone() }, Hop::Back),
    ];
    for traffic_class in [0, 0x0f, 0xf0, 0xff] {
        let datagram = Datagram { traffic_class, ..back.clone() };
        fixtures.push(relayed(&format!("traffic class {traffic_class:#x}"), &datagram, Hop::Back));
    }

    let altered = |name: &str, alter: &dyn Fn(&Datagram) -> Vec<u8>| {
        let family = if hosts.family == Family::Ipv4 { Family::Ipv4ToIpv6 } else { Family::Ipv6ToIpv4 };
        let after = hosts.sent_on_to(to, &back, Hop::Back);
        Fixture::new(named(name, hosts, to), family, alter(&back), Reason::ForwardedTx).sent_on(
            &back,
            hosts.session_to(to, Hop::Back),
            alter(&after),
        )
    };
    fixtures.push(altered("padding behind the packet stays", &|datagram| {
        [datagram.frame(), vec![0xa5; 18]].concat()
    }));
    fixtures.push(altered("a wrong UDP checksum stays wrong", &|datagram| {
        assert!((1..0xfffe).contains(&datagram.checksum()), "pick a payload whose checksum does not wrap");
        datagram.frame_with_checksum(datagram.checksum() + 1)
    }));

    // A computed checksum of zero is sent as all ones. Two payloads that make it so, before and after the rewrite.
    let with_tail = |tail: u16| {
        let mut datagram = back.clone();
        datagram.payload[94..].copy_from_slice(&tail.to_be_bytes());
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
        &tail(&|datagram| hosts.sent_on_to(to, datagram, Hop::Back).checksum()),
        Hop::Back,
    ));
    fixtures
}

fn not_sent_on(hosts: &Hosts) -> Vec<Fixture> {
    let to = &hosts.other();
    let by = |hop| data(hosts, to, hop, 96);
    let fixture = |name: &str, datagram: &Datagram, reason| {
        Fixture::datagram(named(name, hosts, to), hosts, datagram, reason)
    };
    let back = by(Hop::Back);
    vec![
        fixture("TTL 1", &Datagram { ttl: 1, ..back.clone() }, Reason::TtlExceeded),
        fixture("TTL 0", &Datagram { ttl: 0, ..back.clone() }, Reason::TtlExceeded),
        fixture(
            "from another address",
            &Datagram { source: hosts.stranger, ..back.clone() },
            Reason::DataWrongSource,
        ),
        fixture("no next hop", &by(Hop::Unresolved), Reason::NextHopUnresolved),
        fixture("a next hop with too many tags", &by(Hop::TooManyTags), Reason::NextHopUnresolved),
        fixture("out by an interface that takes no redirected frames", &by(Hop::Nowhere), Reason::NoTxPort),
    ]
}

/// Metadata before the frame takes the room that a longer header needs; a shorter one needs none.
fn behind_metadata(hosts: &Hosts) -> Vec<Fixture> {
    let to = &hosts.other();
    [Hop::Back, Hop::Across, Hop::BackTagged, Hop::AcrossTwiceTagged]
        .into_iter()
        .map(|hop| {
            let (name, data) = (named(&format!("no headroom, {hop:?}"), hosts, to), data(hosts, to, hop, 96));
            match hosts.family {
                Family::Ipv4 => Fixture::datagram(name, hosts, &data, Reason::NoHeadroom),
                _ => Fixture::relayed_to(to, name, hosts, &data, hop),
            }
            .behind(NO_HEADROOM)
        })
        .collect()
}

/// Packets as large as the MTU when they leave, and a byte larger, for all pairs of families.
fn sizes(hosts: &Hosts, to: &Hosts) -> Vec<Fixture> {
    let leaving = |len| hosts.sent_on_to(to, &data(hosts, to, Hop::Back, len), Hop::Back).packet_len();
    let fits = usize::from(MTU) - leaving(32) + 32;
    let exact = |hop| data(hosts, to, hop, fits);
    let over = |hop| data(hosts, to, hop, fits + 1);
    let relayed = |name: &str, datagram: &Datagram, hop| {
        Fixture::relayed_to(to, named(name, hosts, to), hosts, datagram, hop)
    };
    let fixture = |name: &str, datagram: &Datagram, reason| {
        Fixture::datagram(named(name, hosts, to), hosts, datagram, reason)
    };
    let fragmentable = |datagram: Datagram| Datagram { dont_fragment: false, ..datagram };
    let mut fixtures = vec![
        relayed("as large as the MTU", &exact(Hop::Back), Hop::Back),
        relayed("as large as the MTU, tagged", &exact(Hop::AcrossTwiceTagged), Hop::AcrossTwiceTagged),
        relayed("as large as the MTU, fragmentable", &fragmentable(exact(Hop::Across)), Hop::Across),
        // Checked before the interface it would leave by.
        fixture("too big, nowhere", &over(Hop::Nowhere), Reason::TooBig).told_too_big(&over(Hop::Nowhere)),
        fixture("too big and TTL 1", &Datagram { ttl: 1, ..over(Hop::Back) }, Reason::TtlExceeded),
        fixture("too big, unresolved", &over(Hop::Unresolved), Reason::NextHopUnresolved),
        fixture("too big, ring buffer full", &over(Hop::Back), Reason::TooBig).with_full_ring_buffer(),
    ];
    for hop in [Hop::Back, Hop::Across, Hop::BackTagged, Hop::AcrossTwiceTagged] {
        let over = Datagram { ttl: 7, ..over(hop) };
        let name = format!("a byte more than the MTU, {hop:?}");
        fixtures.push(fixture(&name, &over, Reason::TooBig).told_too_big(&over));
        let over = fragmentable(over);
        let name = format!("{name}, fragmentable");
        fixtures.push(match hosts.family {
            Family::Ipv4 => fixture(&name, &over, Reason::ToFragment),
            _ => fixture(&name, &over, Reason::TooBig).told_too_big(&over),
        });
    }
    fixtures
}

/// Only IPv4 may go without a UDP checksum.
fn without_checksum() -> Vec<Fixture> {
    let fixture = |name: &str, hosts: &Hosts, datagram: &Datagram, reason| {
        let name = named(&format!("no UDP checksum, {name}"), hosts, &hosts.other());
        Fixture::new(name, hosts.family, datagram.frame_with_checksum(0), reason)
    };
    let to_ipv6 = |hop, len| data(&IPV4, &IPV6, hop, len);
    let back = to_ipv6(Hop::Back, 96);
    vec![
        fixture("untagged", &IPV4, &back, Reason::ToChecksum),
        fixture("tagged", &IPV4, &to_ipv6(Hop::BackTagged, 96), Reason::ToChecksum),
        fixture("too big", &IPV4, &to_ipv6(Hop::Back, 1400), Reason::ToChecksum),
        fixture("nowhere", &IPV4, &to_ipv6(Hop::Nowhere, 96), Reason::ToChecksum),
        fixture("unresolved", &IPV4, &to_ipv6(Hop::Unresolved, 96), Reason::NextHopUnresolved),
        fixture("TTL 1", &IPV4, &Datagram { ttl: 1, ..back }, Reason::TtlExceeded),
        fixture("untagged", &IPV6, &data(&IPV6, &IPV4, Hop::Back, 96), Reason::NoUdpChecksum),
    ]
}
