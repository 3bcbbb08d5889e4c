//! VLAN tags: any packet may come in up to two, and leaves in those of its next hop.

use relay_ebpf::reason::{Family, Reason};

use crate::{
    datagram::{Datagram, ETHERNET, cookie_reply, initiation, response, transport_data},
    fixture::{Fixture, NO_HEADROOM, run},
    relay::{FAMILIES, Hop, Hosts, IPV4},
};

/// 802.1Q tags with priority, "drop eligible" and an id, and 802.1ad ones.
const C_TAG: [u8; 4] = [0x81, 0, 0x30, 42];
const S_TAG: [u8; 4] = [0x88, 0xa8, 0xbf, 0xfe];

#[test]
fn frames_in_tags_are_treated_like_others() {
    run(&fixtures());
}

pub fn fixtures() -> Vec<Fixture> {
    let mut fixtures: Vec<_> = FAMILIES.iter().flat_map(passed).chain(other_tags()).collect();
    for hosts in &FAMILIES {
        for to in &FAMILIES {
            fixtures.extend(sent_on(hosts, to));
        }
    }
    fixtures
}

/// All that a frame may come in.
fn received() -> [Vec<[u8; 4]>; 7] {
    [
        vec![],
        vec![C_TAG],
        vec![S_TAG],
        vec![S_TAG, C_TAG],
        vec![C_TAG, C_TAG],
        vec![C_TAG, S_TAG],
        vec![S_TAG, S_TAG],
    ]
}

/// Tags as they come times tags as they leave.
fn sent_on(hosts: &Hosts, to: &Hosts) -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for tags in received() {
        for hop in [Hop::Back, Hop::Across, Hop::BackTagged, Hop::AcrossTwiceTagged] {
            let name =
                format!("{} in tags {tags:x?} to {}, by {hop:?}", hosts.family.label(), to.family.label());
            let data = |len| {
                let payload = transport_data(hosts.session_to(to, hop), len);
                Datagram { tags: tags.clone(), ..hosts.datagram(hosts.alice, payload) }
            };
            fixtures.push(Fixture::relayed_to(to, &name, hosts, &data(32), hop));
            fixtures.push(Fixture::relayed_to(to, &name, hosts, &data(1301), hop));

            let padded = |datagram: &Datagram| [datagram.frame(), vec![0x5a; 11]].concat();
            let after = padded(&hosts.sent_on_to(to, &data(40), hop));
            fixtures.push(
                Fixture::relayed_to(to, format!("{name}, padded"), hosts, &data(40), hop)
                    .received_as(padded(&data(40)))
                    .sent_on(&data(40), hosts.session_to(to, hop), after),
            );

            let late = Datagram { ttl: 1, ..data(64) };
            fixtures.push(Fixture::datagram(format!("{name}, TTL 1"), hosts, &late, Reason::TtlExceeded));
        }
    }
    fixtures
}

/// What is not sent on, in tags.
fn passed(hosts: &Hosts) -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for tags in received() {
        let name = |name: &str| format!("{name}, {} in tags {tags:x?}", hosts.family.label());
        let from = |source, payload| Datagram { tags: tags.clone(), ..hosts.datagram(source, payload) };
        let fixture =
            |what: &str, datagram: &Datagram, reason| Fixture::datagram(name(what), hosts, datagram, reason);
        let initiation = from(hosts.stranger, initiation(1));
        let response = from(hosts.bob, response(2, hosts.pending()));
        let cookie = from(hosts.bob, cookie_reply(hosts.pending()));
        let own = from(hosts.stranger, transport_data(hosts.unknown(), 64));
        let data = from(hosts.alice, transport_data(hosts.session(Hop::Back), 64));
        let too_many = from(hosts.alice, transport_data(hosts.session(Hop::TooManyTags), 64));
        let mut cut = data.frame();
        cut.pop();
        fixtures.extend([
            fixture("an initiation", &initiation, Reason::Initiation).copied_up(&initiation),
            fixture("a response", &response, Reason::Response).copied_up(&response),
            fixture("a cookie reply", &cookie, Reason::CookieReply).copied_up(&cookie),
            fixture("data of no session", &own, Reason::DataOwn).hinted(&own),
            fixture(
                "data from another address",
                &Datagram { source: hosts.stranger, ..data.clone() },
                Reason::DataWrongSource,
            ),
            fixture(
                "data to another address",
                &Datagram { destination: hosts.elsewhere, payload: vec![0; 64], ..data.clone() },
                Reason::OtherDestination,
            ),
            fixture("no WireGuard", &Datagram { payload: vec![0; 64], ..data.clone() }, Reason::NotWireguard),
            fixture("a next hop with too many tags", &too_many, Reason::NextHopUnresolved),
            Fixture::new(name("cut off by a byte"), hosts.family, cut, Reason::Malformed),
        ]);
        let hop = Hop::AcrossTwiceTagged;
        let data = from(hosts.alice, transport_data(hosts.session(hop), 64));
        fixtures.push(
            if tags.len() < hop.tags().len() {
                fixture("no headroom", &data, Reason::NoHeadroom)
            } else {
                Fixture::relayed(name("no headroom is needed"), hosts, &data, hop)
            }
            .behind(NO_HEADROOM),
        );
    }
    fixtures
}

/// Tags that hide what is in them.
fn other_tags() -> Vec<Fixture> {
    let data = |tags: Vec<[u8; 4]>| Datagram {
        tags,
        ..IPV4.datagram(IPV4.alice, transport_data(IPV4.session(Hop::Back), 64))
    };
    let other = |name: &str, frame, reason| Fixture::new(name, Family::Other, frame, reason);
    let cut = |tags, len| data(tags).frame()[..len].to_vec();
    let arp = |tags: Vec<[u8; 4]>| {
        let at = ETHERNET - 2 + 4 * tags.len();
        let mut frame = data(tags).frame();
        frame[at..at + 2].copy_from_slice(&[8, 6]);
        frame
    };
    vec![
        other("three tags", data(vec![S_TAG, C_TAG, C_TAG]).frame(), Reason::VlanTagged),
        other("three 802.1ad tags", data(vec![S_TAG; 3]).frame(), Reason::VlanTagged),
        other("five tags", data(vec![C_TAG; 5]).frame(), Reason::VlanTagged),
        other("two tags and nothing behind a third's ethertype", cut(vec![C_TAG; 3], 22), Reason::VlanTagged),
        other("an old QinQ tag", data(vec![[0x91, 0, 0, 1], C_TAG]).frame(), Reason::OtherProtocol),
        other(
            "an old QinQ tag in another",
            data(vec![C_TAG, [0x91, 0, 0, 1]]).frame(),
            Reason::OtherProtocol,
        ),
        other("ARP in a tag", arp(vec![C_TAG]), Reason::OtherProtocol),
        other("ARP in two tags", arp(vec![S_TAG, C_TAG]), Reason::OtherProtocol),
        other("a tag, cut off", cut(vec![C_TAG], 17), Reason::Malformed),
        other("a second tag, cut off", cut(vec![S_TAG, C_TAG], 21), Reason::Malformed),
        Fixture::new("a tag and nothing in it", Family::Ipv4, cut(vec![C_TAG], 18), Reason::Malformed),
        Fixture::new(
            "two tags and nothing in them",
            Family::Ipv4,
            cut(vec![C_TAG; 2], 22),
            Reason::Malformed,
        ),
    ]
}
