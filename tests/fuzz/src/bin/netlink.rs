//! What the kernel says over rtnetlink, as bytes, through to the table of next hops.

#![no_main]

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use libfuzzer_sys::fuzz_target;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use relay_ebpf::tables::{NEXT_HOPS_MAX, TAGS_MAX};
use relay_user::{
    netlink::{News, news, route},
    next_hops::{Flow, NOWHERE, NextHops, UNRESOLVED},
};

const FLOWS: [Flow; 3] = [
    flow(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9))),
    flow(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))),
    flow(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    ),
];

/// The interfaces that have the XDP program.
const ATTACHED: [u32; 3] = [1, 2, 3];

const fn flow(local: IpAddr, remote: IpAddr) -> Flow {
    Flow { local, remote }
}

fuzz_target!(|bytes: &[u8]| {
    let mut hops = NextHops::new(ATTACHED, HashSet::new());
    let mut rest = bytes;
    // Messages follow each other as in a netlink datagram: each begins with its length.
    while rest.len() >= 16 {
        if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
            && let NetlinkPayload::InnerMessage(message) = message.payload
        {
            take(&mut hops, &message);
        }
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    hops.retain(|_| false);
    assert_eq!(
        (hops.hops().count(), hops.changes()),
        (0, vec![]),
        "nothing is left of flows that are not in use"
    );
});

/// As the engine does, for which a route is the answer to a question.
fn take(hops: &mut NextHops, message: &RouteNetlinkMessage) {
    if let RouteNetlinkMessage::NewRoute(answer) = message {
        for flow in FLOWS {
            let before = hops.id(flow);
            let changed = hops.set_route(flow, route(answer, flow.remote));
            assert_eq!(changed, before != hops.id(flow));
        }
    }
    match news(message) {
        Some(News::Link(ifindex, link)) => _ = hops.set_link(ifindex, link),
        Some(News::Neighbour(ifindex, address, neighbour)) => hops.set_neighbour(ifindex, address, neighbour),
        Some(News::Routes | News::Lost) | None => {}
    }
    for (id, written) in hops.changes() {
        assert!(id != UNRESOLVED && u32::from(id) < NEXT_HOPS_MAX);
        assert!(usize::from(written.tag_count) <= TAGS_MAX);
        assert!(
            written == NOWHERE || ATTACHED.contains(&written.ifindex),
            "it leaves by an interface of others"
        );
        // The program takes an entry with an MTU for one that it can use.
        assert!(written == NOWHERE || written.mtu > 0, "a next hop that takes nothing: {written:?}");
    }
    assert_eq!(hops.changes(), [], "once");
    for flow in FLOWS {
        let (unresolved, mtu) = (hops.unresolved(flow), hops.mtu(flow));
        assert!(unresolved.is_none() || mtu.is_none());
        assert!(hops.id(flow) != UNRESOLVED || (unresolved.is_none() && mtu.is_none()));
    }
}
