//! Addresses, routes and MTU of the interface.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage, AddressScope},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::peers::Wanted;
use crate::netlink::{Netlink, answered};

/// What the kernel is to know of the interface, or knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its addresses, with the lengths of their prefixes.
    pub addresses: BTreeSet<IpNet>,
    /// What is sent to it besides these prefixes.
    pub routes: BTreeSet<IpNet>,
}

impl Link {
    /// What goes with these addresses and peers, and ranges that can't be routed: the way to a peer would lead into the
    /// tunnel.
    pub fn wanted(addresses: &[IpNet], peers: &[Wanted]) -> (Self, BTreeSet<IpNet>) {
        let ranges = peers.iter().flat_map(|peer| &peer.allowed_ips);
        let beyond = ranges.filter(|range| !addresses.iter().any(|address| address.trunc().contains(*range)));
        let endpoints: Vec<IpAddr> = peers.iter().filter_map(|peer| Some(peer.endpoint?.ip())).collect();
        let (loops, routes) = beyond
            .copied()
            .partition(|range: &IpNet| endpoints.iter().any(|endpoint| range.contains(endpoint)));
        (Self { addresses: addresses.iter().copied().collect(), routes }, loops)
    }
}

impl Netlink {
    /// Makes an interface what it is to be: addresses and routes that are too much go, those of the kernel's own stay. Gives
    /// what could not be routed, and why.
    pub(super) async fn set_link(&self, interface: &str, mtu: u16, wanted: &Link) -> Result<Vec<String>> {
        let index = self.ifindex(interface).await?;
        let present = self.link_of(index).await.with_context(|| format!("read what {interface} has"))?;
        let up = LinkMessageBuilder::<LinkUnspec>::new().index(index).mtu(mtu.into()).up().build();
        answered(self.handle.link().set(up).execute())
            .await
            .with_context(|| format!("take {interface} up with an MTU of {mtu}"))?;
        for (address, message) in &present.addresses {
            if !wanted.addresses.contains(address) {
                answered(self.handle.address().del(message.clone()).execute())
                    .await
                    .with_context(|| format!("take {address} from {interface}"))?;
            }
        }
        let there: BTreeSet<IpNet> = present.addresses.into_iter().map(|(address, _)| address).collect();
        for address in wanted.addresses.difference(&there) {
            answered(self.handle.address().add(index, address.addr(), address.prefix_len()).execute())
                .await
                .with_context(|| format!("give {address} to {interface}"))?;
        }
        // Addresses that went may have taken routes with them.
        let present = self.link_of(index).await.with_context(|| format!("read what {interface} has"))?;
        let mut complaints = Vec::new();
        for (range, message) in &present.routes {
            if !wanted.routes.contains(range) {
                answered(self.handle.route().del(message.clone()).execute())
                    .await
                    .with_context(|| format!("remove the route to {range} by {interface}"))?;
            }
        }
        let there: BTreeSet<IpNet> = present.routes.into_iter().map(|(range, _)| range).collect();
        for range in wanted.routes.difference(&there) {
            // One that is there by another interface is not ours to replace.
            if let Err(error) = answered(self.handle.route().add(route(index, *range)).execute()).await {
                complaints.push(format!("{range} can't be routed to {interface}: {error:#}"));
            }
        }
        Ok(complaints)
    }

    async fn link_of(&self, index: u32) -> Result<Present> {
        let messages = self.handle.address().get().set_link_index_filter(index).execute();
        let messages: Vec<_> = answered(messages.try_collect()).await?;
        let addresses = messages.into_iter().filter_map(|message| Some((address(&message, index)?, message)));
        let addresses = addresses.collect();
        let mut routes = Vec::new();
        let every =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for family in every {
            let messages: Vec<_> = answered(self.handle.route().get(family).execute().try_collect()).await?;
            routes
                .extend(messages.into_iter().filter_map(|message| Some((range(&message, index)?, message))));
        }
        Ok(Present { addresses, routes })
    }
}

/// What the kernel has, with the messages that say so.
struct Present {
    addresses: Vec<(IpNet, AddressMessage)>,
    routes: Vec<(IpNet, RouteMessage)>,
}

fn route(index: u32, range: IpNet) -> RouteMessage {
    RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(range.addr(), range.prefix_len())
        .expect("the length is that of its family")
        .output_interface(index)
        .build()
}

/// The address that a message is about, if somebody gave it to the interface.
fn address(message: &AddressMessage, index: u32) -> Option<IpNet> {
    // IPv6 has link-local ones of the kernel's.
    if message.header.index != index || message.header.scope != AddressScope::Universe {
        return None;
    }
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    });
    IpNet::new(address?, message.header.prefix_len).ok()
}

/// The range that a message routes to the interface, if somebody wanted that.
fn range(message: &RouteMessage, index: u32) -> Option<IpNet> {
    let header = &message.header;
    let wanted = header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && header.protocol != RouteProtocol::Kernel;
    let by_it = message.attributes.contains(&RouteAttribute::Oif(index));
    if !(wanted && by_it) {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    let default = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    IpNet::new(destination.unwrap_or(default), header.destination_prefix_length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::PublicKey;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn peer(endpoint: &str, ranges: &[&str]) -> Wanted {
        Wanted {
            public_key: PublicKey([1; 32]),
            endpoint: endpoint.parse().ok(),
            allowed_ips: nets(ranges).into_iter().collect(),
            keepalive: 0,
        }
    }

    #[test]
    fn only_what_lies_beyond_the_networks_needs_a_route() {
        let addresses = nets(&["10.1.0.2/16", "fd00:1::2/64"]);
        let peers = [
            peer("198.51.100.1:1", &["10.1.0.3/32", "fd00:1::3/128", "192.168.7.0/24"]),
            peer("198.51.100.1:1", &["10.2.0.3/32", "192.168.0.0/16", "fd00:7::/64"]),
        ];
        let (link, loops) = Link::wanted(&addresses, &peers);
        let routes = ["10.2.0.3/32", "192.168.0.0/16", "192.168.7.0/24", "fd00:7::/64"];
        assert_eq!(link.routes, nets(&routes).into_iter().collect());
        assert_eq!(link.addresses, addresses.into_iter().collect());
        assert!(loops.is_empty());
    }

    #[test]
    fn the_way_to_a_peer_never_leads_into_the_tunnel() {
        let peers = [
            peer("198.51.100.1:1", &["10.1.0.3/32", "0.0.0.0/0", "198.51.100.0/24"]),
            peer("", &["203.0.113.0/24", "::/0"]),
        ];
        let (link, loops) = Link::wanted(&nets(&["10.1.0.2/16"]), &peers);
        assert_eq!(loops, nets(&["0.0.0.0/0", "198.51.100.0/24"]).into_iter().collect());
        assert_eq!(link.routes, nets(&["203.0.113.0/24", "::/0"]).into_iter().collect());
    }
}
