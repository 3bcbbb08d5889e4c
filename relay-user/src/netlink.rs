//! The kernel's routes, neighbours and links, by rtnetlink.
//!
//! Questions and news have a socket each. When the kernel has more news than a socket's buffer holds it drops what comes
//! next, answers included, and a question on that socket would never be answered.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressAttribute,
    link::{
        InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
        VlanProtocol, XdpAttached,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType},
};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection};

use crate::next_hops::{Flow, Link, Mac, Neighbour, Route, Vlan};

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A link: `None` if it can't be used (gone, down, not Ethernet).
    Link(u32, Option<Link>),
    /// A neighbour: `None` if it is gone or can't be reached.
    Neighbour(u32, IpAddr, Option<Neighbour>),
    /// Routes, rules or addresses: every route may be another now.
    Routes,
    /// News was lost: all has to be read again.
    Lost,
}

/// How long the kernel may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The buffer for news, in bytes: a burst while the engine is busy should fit.
const NEWS_BUFFER: usize = 4 << 20;

/// A connection to the kernel's routing tables.
#[derive(Clone)]
pub struct Netlink {
    pub(crate) handle: Handle,
}

/// What the kernel tells by itself.
pub struct Subscription {
    messages: Box<dyn stream::Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Unpin>,
}

impl Netlink {
    /// Connects and subscribes. Must be called within a tokio runtime.
    pub fn connect() -> Result<(Self, Subscription)> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (mut news, _, messages) =
            new_multicast_connection(&groups).context("open a netlink socket for routes and neighbours")?;
        // Where that takes more rights than we have, the default has to do.
        let socket = news.socket_mut().as_raw_fd();
        // SAFETY: the connection owns the descriptor and lives until after the borrow.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &NEWS_BUFFER);
        tokio::spawn(news);
        let messages = Box::new(messages.map(|(message, _)| message));
        Ok((Self::for_questions()?, Subscription { messages }))
    }

    /// Connects for questions and changes alone. Must be called within a tokio runtime.
    pub fn for_questions() -> Result<Self> {
        let (questions, handle, _) = new_connection().context("open a netlink socket for questions")?;
        tokio::spawn(questions);
        Ok(Self { handle })
    }

    /// All links and neighbours as they are now.
    pub async fn links_and_neighbours(&self) -> Result<Vec<News>> {
        let links = self.link_messages().await?;
        let neighbours: Vec<_> = answered(self.handle.neighbours().get().execute().try_collect())
            .await
            .context("list the neighbours")?;
        let links = links.iter().map(|message| News::Link(message.header.index, link(message)));
        Ok(links.chain(neighbours.iter().filter_map(|message| neighbour(message, false))).collect())
    }

    /// How the kernel would send a flow now; `Ok(None)` if it would not, or to itself.
    pub async fn route(&self, flow: Flow) -> Result<Option<Route>> {
        let message = match (flow.local, flow.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .source_prefix(local, 32)
                .destination_prefix(remote, 32)
                .build(),
            (IpAddr::V6(local), IpAddr::V6(remote)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .source_prefix(local, 128)
                .destination_prefix(remote, 128)
                .build(),
            _ => return Ok(None),
        };
        let answers = self.handle.route().get(message).execute();
        match answered(async { std::pin::pin!(answers).try_next().await }).await {
            Ok(answer) => Ok(answer.and_then(|answer| route(&answer, flow.remote))),
            // That is how the kernel says "unreachable".
            Err(error) if matches!(error.downcast_ref(), Some(rtnetlink::Error::NetlinkError(_))) => Ok(None),
            Err(error) => Err(error.context(format!("ask for the route to {}", flow.remote))),
        }
    }

    /// Asks the kernel to resolve a neighbour, or to check again one that is stale, as if it had to send to it. Not for one
    /// that an administrator has fixed: the kernel would take that for its own, and forget it if it does not answer.
    pub async fn resolve(&self, ifindex: u32, address: IpAddr) {
        let request = self
            .handle
            .neighbours()
            .add(ifindex, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute();
        if let Err(error) = answered(request).await {
            tracing::debug!(%address, ifindex, %error, "the kernel would not resolve a neighbour");
        }
    }

    /// The messages that describe all interfaces.
    pub(crate) async fn link_messages(&self) -> Result<Vec<LinkMessage>> {
        answered(self.handle.link().get().execute().try_collect())
            .await
            .context("list the network interfaces")
    }

    /// The addresses of this host.
    pub async fn addresses(&self) -> Result<Vec<IpAddr>> {
        let messages: Vec<_> = answered(self.handle.address().get().execute().try_collect())
            .await
            .context("list this host's addresses")?;
        let address = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(*address),
            _ => None,
        };
        Ok(messages.iter().flat_map(|message| message.attributes.iter().filter_map(address)).collect())
    }

    /// The neighbours that have failed to answer: interface and address.
    pub async fn silent_neighbours(&self) -> Result<Vec<(u32, IpAddr)>> {
        let messages: Vec<NeighbourMessage> =
            answered(self.handle.neighbours().get().execute().try_collect())
                .await
                .context("list the neighbours")?;
        let failed = messages.iter().filter(|message| message.header.state == NeighbourState::Failed);
        Ok(failed
            .filter_map(|message| match neighbour(message, true)? {
                News::Neighbour(ifindex, address, _) => Some((ifindex, address)),
                _ => None,
            })
            .collect())
    }

    /// The message that describes an interface.
    async fn link_message(&self, name: &str) -> Result<LinkMessage> {
        let answers = self.handle.link().get().match_name(name.to_owned()).execute();
        answered(async { std::pin::pin!(answers).try_next().await })
            .await
            .ok()
            .flatten()
            .with_context(|| format!("there is no interface {name}: `ip link` lists those that there are"))
    }

    /// The index of an interface.
    pub async fn ifindex(&self, name: &str) -> Result<u32> {
        Ok(self.link_message(name).await?.header.index)
    }

    /// Whether an XDP program sits in the driver of an interface (`Some(true)`) or in the network stack before it
    /// (`Some(false)`).
    pub async fn xdp_in_driver(&self, name: &str) -> Result<Option<bool>> {
        Ok(xdp_in_driver(&self.link_message(name).await?))
    }

    /// Takes an interface up.
    pub async fn set_up(&self, name: &str) -> Result<()> {
        let index = self.ifindex(name).await?;
        let up = rtnetlink::LinkMessageBuilder::<rtnetlink::LinkUnspec>::new().index(index).up().build();
        answered(self.handle.link().set(up).execute()).await.with_context(|| format!("take {name} up"))
    }

    /// Removes an interface.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let index = self.ifindex(name).await?;
        answered(self.handle.link().del(index).execute())
            .await
            .with_context(|| format!("remove interface {name}"))
    }

    /// Gives an interface an alias, by which it can be found.
    pub async fn set_alias(&self, name: &str, alias: &str) -> Result<()> {
        let index = self.ifindex(name).await?;
        let alias = LinkAttribute::IfAlias(alias.to_owned());
        let named = rtnetlink::LinkMessageBuilder::<rtnetlink::LinkUnspec>::new().index(index);
        answered(self.handle.link().set(named.append_extra_attribute(alias).build()).execute())
            .await
            .with_context(|| format!("give {name} an alias"))
    }

    /// The names of the interfaces that have an alias.
    pub async fn with_alias(&self, alias: &str) -> Result<Vec<String>> {
        let links: Vec<_> = answered(self.handle.link().get().execute().try_collect())
            .await
            .context("list the network interfaces")?;
        let named = |message: &LinkMessage| {
            let has =
                |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfAlias(a) if a == alias);
            let name = |attribute: &LinkAttribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            };
            message.attributes.iter().any(has).then(|| message.attributes.iter().find_map(name)).flatten()
        };
        Ok(links.iter().filter_map(named).collect())
    }
}

impl Subscription {
    /// The next news; `None` once the connection is gone. Safe to drop and call again.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            let news = match self.messages.next().await?.payload {
                NetlinkPayload::InnerMessage(message) => news(&message),
                NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => Some(News::Lost),
                _ => None,
            };
            if news.is_some() {
                return news;
            }
        }
    }
}

/// Whether an XDP program sits in the driver of a link (`Some(true)`) or in the network stack before it (`Some(false)`).
pub(crate) fn xdp_in_driver(message: &LinkMessage) -> Option<bool> {
    let attached = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => xdp.iter().find_map(|x| match x {
            LinkXdp::Attached(attached) => Some(*attached),
            _ => None,
        }),
        _ => None,
    });
    match attached {
        Some(XdpAttached::Driver | XdpAttached::Hardware) => Some(true),
        Some(XdpAttached::SocketBuffer) => Some(false),
        _ => None,
    }
}

/// Waits for the kernel's answer, but not for ever.
pub(crate) async fn answered<T>(answer: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T> {
    Ok(tokio::time::timeout(ANSWER_TIMEOUT, answer).await.context("the kernel did not answer")??)
}

/// What a message of the kernel's means; `None` if nothing to us.
pub fn news(message: &RouteNetlinkMessage) -> Option<News> {
    use RouteNetlinkMessage as M;
    match message {
        // A bridge tells of its ports in the words of links that come and go.
        M::NewLink(message) | M::DelLink(message)
            if message.header.interface_family == AddressFamily::Bridge =>
        {
            None
        }
        M::NewLink(message) => Some(News::Link(message.header.index, link(message))),
        M::DelLink(message) => Some(News::Link(message.header.index, None)),
        M::NewNeighbour(message) => neighbour(message, false),
        M::DelNeighbour(message) => neighbour(message, true),
        M::NewRoute(_)
        | M::DelRoute(_)
        | M::NewRule(_)
        | M::DelRule(_)
        | M::NewAddress(_)
        | M::DelAddress(_) => Some(News::Routes),
        _ => None,
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let usable = message.header.link_layer_type == LinkLayerType::Ether
        && message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => Mac::try_from(address.as_slice()).ok(),
        _ => None,
    });
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        // 0 would stand for "unresolved" in the table of next hops.
        LinkAttribute::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    });
    usable.then_some(Link { mac: mac?, mtu: mtu?, vlan: vlan(message) })
}

/// Which VLAN a link is, and of which other.
pub(crate) fn vlan(message: &LinkMessage) -> Option<Vlan> {
    let parent = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(parent) => Some(*parent),
        _ => None,
    })?;
    let info = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vlan(vlan)) => Some(vlan),
            _ => None,
        }),
        _ => None,
    })?;
    let id = info.iter().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let double = info.iter().any(|info| matches!(info, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)));
    let tpid: u16 = if double { 0x88a8 } else { 0x8100 };
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), id.to_be_bytes());
    Some(Vlan { parent, tag: [a, b, c, d] })
}

fn neighbour(message: &NeighbourMessage, gone: bool) -> Option<News> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    // A stale entry, and one that is being checked, still holds the last good address.
    let valid = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => Mac::try_from(mac.as_slice()).ok(),
        _ => None,
    });
    let fixed = matches!(message.header.state, NeighbourState::Permanent | NeighbourState::Noarp)
        || message.header.flags.contains(NeighbourFlags::ExtLearned);
    let neighbour = mac.filter(|_| valid && !gone).map(|mac| Neighbour { mac, fixed });
    Some(News::Neighbour(message.header.ifindex, address, neighbour))
}

/// How the kernel would send to `destination`, by its answer; `None` if it would not, or to itself.
pub fn route(message: &RouteMessage, destination: IpAddr) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut ifindex, mut gateway, mut mtu, mut expires) = (None, destination, None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = IpAddr::V4(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => gateway = IpAddr::V6(*ip),
            RouteAttribute::Via(via) => gateway = via_address(via)?,
            RouteAttribute::CacheInfo(info) => expires = info.expires != 0,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let route = Route::new(ifindex?, gateway, mtu);
    // What the kernel learns of a path is an exception that it adds to the route, for a while. (An IPv6 route from a router
    // advertisement expires too, but the answer is no copy of it.)
    let learned = expires && message.header.flags.contains(RouteFlags::Cloned);
    Some(if learned { route.learned() } else { route })
}

/// An IPv4 route by an IPv6 gateway (RFC 5549).
fn via_address(via: &netlink_packet_route::route::RouteVia) -> Option<IpAddr> {
    use netlink_packet_route::route::RouteVia;
    match via {
        RouteVia::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteVia::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
