//! Where packets leave: routes, neighbours and links, folded into the `NEXT_HOPS` table. Pure: netlink's news goes in,
//! table writes come out.
//!
//! A [`Flow`], what goes from one of the relay's addresses to a destination, has a [`Route`]: an egress interface and the
//! address to resolve there (a gateway, or the destination itself). All flows by one gateway share one *hop*, which is one
//! entry of the table: a gateway whose MAC address changes costs one map write, whatever the number of sessions. Entry
//! [`UNRESOLVED`] is never resolved; sessions whose flow has no route point at it.
//!
//! The source counts, since a relay with two uplinks has a routing rule for each of its addresses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use relay_ebpf::tables::{NEXT_HOPS_MAX, NextHop, TAGS_MAX};

/// The table entry that leads nowhere.
pub const UNRESOLVED: u16 = 0;

/// A MAC address.
pub type Mac = [u8; 6];

/// What is sent from one of the relay's addresses to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The relay's address.
    pub local: IpAddr,
    /// The destination.
    pub remote: IpAddr,
}

/// A link that is up and has a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its own address.
    pub mac: Mac,
    /// The largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// If it is a VLAN on another link: frames leave there, tagged.
    pub vlan: Option<Vlan>,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub mac: Mac,
    /// Somebody has fixed it: an administrator, or a routing daemon. Then the kernel must not be asked to check it.
    pub fixed: bool,
}

/// A VLAN on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The index of the link that it is on.
    pub parent: u32,
    /// The tag: TPID and TCI as they stand in the frame.
    pub tag: [u8; 4],
}

/// How a flow leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The hop that it goes by.
    pub hop: HopKey,
    /// The MTU that the route or the path has, in bytes, if it is known to be smaller than the link's.
    pub mtu: Option<u32>,
    /// Whether the kernel has that MTU from a router's word, not from its configuration.
    learned: bool,
}

/// What is resolved to a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopKey {
    /// The egress interface.
    pub ifindex: u32,
    /// The gateway, or the destination itself on a link that it shares with us.
    pub address: IpAddr,
    /// The MTU that is written for it, if a route's is smaller than the link's; 0 for the link's own. A hop of its own
    /// for each, since the table has one MTU per entry.
    mtu: u32,
}

impl Route {
    /// A route by `ifindex` to `address`, with a path MTU if one is known.
    pub fn new(ifindex: u32, address: IpAddr, mtu: Option<u32>) -> Self {
        Self { hop: HopKey { ifindex, address, mtu: mtu.unwrap_or(0) }, mtu, learned: false }
    }

    /// The same with an MTU that the kernel has from a router's word.
    pub fn learned(self) -> Self {
        Self { learned: true, ..self }
    }
}

#[derive(Debug)]
struct Hop {
    id: u16,
    written: NextHop,
}

/// The state of all that.
#[derive(Debug, Default)]
pub struct NextHops {
    links: HashMap<u32, Link>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// The interfaces that frames may leave by: those that have the XDP program.
    egress: HashSet<u32>,
    routes: HashMap<Flow, Option<Route>>,
    /// What routers have said of the paths of flows, as far as it answered a relayed packet: MTUs in bytes.
    attested: HashMap<Flow, u32>,
    hops: BTreeMap<HopKey, Hop>,
    reserved: HashSet<u16>,
    /// The id that was given last.
    newest: u16,
}

/// An entry that leads nowhere.
pub const NOWHERE: NextHop = NextHop {
    ifindex: 0,
    mtu: 0,
    tag_count: 0,
    destination_mac: [0; 6],
    source_mac: [0; 6],
    tags: [[0; 4]; TAGS_MAX],
    reserved: 0,
};

impl NextHops {
    /// Nothing is known yet. Frames may leave by the `egress` interfaces; what would leave by another is never resolved, so
    /// that userspace forwards it. `reserved` entries are in use by sessions of an earlier run.
    pub fn new(egress: impl IntoIterator<Item = u32>, reserved: HashSet<u16>) -> Self {
        Self { egress: egress.into_iter().collect(), reserved, ..Self::default() }
    }

    /// The sessions of an earlier run have been rewritten: their entries are free.
    pub fn release_reserved(&mut self) -> Vec<(u16, NextHop)> {
        let used: HashSet<u16> = self.hops.values().map(|hop| hop.id).collect();
        self.reserved.drain().filter(|id| !used.contains(id)).map(|id| (id, NOWHERE)).collect()
    }

    /// News of a link: `None` if it is gone, down or without a MAC address. Returns whether it is news.
    pub fn set_link(&mut self, ifindex: u32, link: Option<Link>) -> bool {
        let before = match link {
            Some(link) => self.links.insert(ifindex, link),
            None => self.links.remove(&ifindex),
        };
        before != link
    }

    /// News of a neighbour: `None` if it is gone or can't be reached.
    pub fn set_neighbour(&mut self, ifindex: u32, address: IpAddr, neighbour: Option<Neighbour>) {
        match neighbour {
            Some(neighbour) => self.neighbours.insert((ifindex, address), neighbour),
            None => self.neighbours.remove(&(ifindex, address)),
        };
    }

    /// All links and neighbours are about to be told anew.
    pub fn forget_links_and_neighbours(&mut self) {
        self.links.clear();
        self.neighbours.clear();
    }

    /// Whether this flow's route was asked for.
    pub fn knows(&self, flow: Flow) -> bool {
        self.routes.contains_key(&flow)
    }

    /// All flows that are known, to ask for their routes again.
    pub fn flows(&self) -> Vec<Flow> {
        self.routes.keys().copied().collect()
    }

    /// The flows to ask for again without news: those whose path is known to take less than the link, since the kernel
    /// forgets that after a while and says nothing; and those without a route, should an answer have been lost.
    pub fn doubtful_flows(&self) -> Vec<Flow> {
        let doubtful = |route: &Option<Route>| route.is_none_or(|route| route.mtu.is_some());
        self.routes.iter().filter(|(_, route)| doubtful(route)).map(|(&flow, _)| flow).collect()
    }

    /// A router has answered a relayed packet of this flow: its path takes no more than `mtu` bytes.
    pub fn attest(&mut self, flow: Flow, mtu: u32) {
        self.attested.insert(flow, mtu);
    }

    /// The route with an MTU that is believed. Whoever knows a host's endpoint can make the kernel learn a narrow path to
    /// it, by an ICMP message that quotes addresses and ports; for relayed packets only what answered one of them counts.
    fn believed(&self, flow: Flow, route: Route) -> Route {
        if !route.learned {
            return route;
        }
        let mtu = self.attested.get(&flow).zip(route.mtu).map(|(attested, learned)| learned.max(*attested));
        Route::new(route.hop.ifindex, route.hop.address, mtu)
    }

    /// The answer for a flow: `None` if there is no route for it. Returns whether its table entry is another now, so that
    /// its sessions have to be rewritten.
    pub fn set_route(&mut self, flow: Flow, route: Option<Route>) -> bool {
        let before = self.id(flow);
        let route = route.map(|route| self.believed(flow, route));
        if let Some(route) = route
            && !self.hops.contains_key(&route.hop)
        {
            let Some(id) = self.free_id() else {
                self.routes.insert(flow, None);
                return before != UNRESOLVED;
            };
            self.hops.insert(route.hop, Hop { id, written: NOWHERE });
        }
        self.routes.insert(flow, route);
        before != self.id(flow)
    }

    fn hop(&self, flow: Flow) -> Option<(HopKey, &Hop)> {
        let route = self.routes.get(&flow).copied().flatten()?;
        Some((route.hop, self.hops.get(&route.hop)?))
    }

    /// The table entry for a flow; [`UNRESOLVED`] if there is none.
    pub fn id(&self, flow: Flow) -> u16 {
        self.hop(flow).map_or(UNRESOLVED, |(_, hop)| hop.id)
    }

    /// The hop of a flow, if it has one that is not resolved.
    pub fn unresolved(&self, flow: Flow) -> Option<HopKey> {
        let (key, hop) = self.hop(flow)?;
        (hop.written.mtu == 0 && !self.is_fixed(&key)).then_some(key)
    }

    fn is_fixed(&self, key: &HopKey) -> bool {
        self.neighbours.get(&(key.ifindex, key.address)).is_some_and(|neighbour| neighbour.fixed)
    }

    /// The largest packet that a flow's next hop takes, in bytes, if it is resolved.
    pub fn mtu(&self, flow: Flow) -> Option<u32> {
        self.hop(flow).map(|(_, hop)| u32::from(hop.written.mtu)).filter(|mtu| *mtu != 0)
    }

    /// Forgets the flows that are not in use, and the hops that nothing leads to any more.
    pub fn retain(&mut self, in_use: impl Fn(Flow) -> bool) -> Vec<(u16, NextHop)> {
        self.routes.retain(|&flow, _| in_use(flow));
        self.attested.retain(|&flow, _| in_use(flow));
        let live: BTreeSet<HopKey> = self.routes.values().flatten().map(|route| route.hop).collect();
        let mut writes = Vec::new();
        self.hops.retain(|key, hop| {
            let keep = live.contains(key);
            if !keep {
                writes.push((hop.id, NOWHERE));
            }
            keep
        });
        writes
    }

    /// What has to be written to the table, so that it says what is known now.
    pub fn changes(&mut self) -> Vec<(u16, NextHop)> {
        let (links, neighbours, egress) = (&self.links, &self.neighbours, &self.egress);
        let resolve = |key: &HopKey| {
            let link = links.get(&key.ifindex)?;
            let destination_mac = neighbours.get(&(key.ifindex, key.address))?.mac;
            let mtu = if key.mtu == 0 { link.mtu } else { link.mtu.min(key.mtu) };
            let (ifindex, tags) =
                tagged(links, key.ifindex).filter(|(ifindex, _)| egress.contains(ifindex))?;
            let mut next_hop = NextHop {
                ifindex,
                mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
                tag_count: tags.len() as u16,
                destination_mac,
                source_mac: link.mac,
                ..NOWHERE
            };
            next_hop.tags.iter_mut().zip(tags).for_each(|(slot, tag)| *slot = tag);
            Some(next_hop)
        };
        let mut writes = Vec::new();
        for (key, hop) in &mut self.hops {
            let now = resolve(key).unwrap_or(NOWHERE);
            if now != hop.written {
                hop.written = now;
                writes.push((hop.id, now));
            }
        }
        writes
    }

    /// The hops, and whether each is resolved.
    pub fn hops(&self) -> impl Iterator<Item = (HopKey, bool)> {
        self.hops.iter().map(|(&key, hop)| (key, hop.written.mtu != 0))
    }

    /// The hops whose neighbour the kernel may be asked for: those that are not resolved or, if `all`, every one.
    pub fn to_resolve(&self, all: bool) -> Vec<HopKey> {
        self.hops()
            .filter(|(key, resolved)| (all || !resolved) && !self.is_fixed(key))
            .map(|(key, _)| key)
            .collect()
    }

    /// Ids go round, so that one that was just freed is not written anew while a packet may be on its way by it.
    fn free_id(&mut self) -> Option<u16> {
        let used: HashSet<u16> = self.hops.values().map(|hop| hop.id).collect();
        let free = |id: &u16| !used.contains(id) && !self.reserved.contains(id);
        let all = || UNRESOLVED + 1..NEXT_HOPS_MAX as u16;
        let id = all().skip(self.newest.into()).chain(all()).find(free)?;
        self.newest = id;
        Some(id)
    }
}

/// The link that frames for `ifindex` really leave by, and the VLAN tags that they have there, the outermost first. `None`
/// if there are more than the program can write, or a link on the way is down.
fn tagged(links: &HashMap<u32, Link>, mut ifindex: u32) -> Option<(u32, Vec<[u8; 4]>)> {
    let mut tags = Vec::new();
    while let Some(vlan) = links.get(&ifindex)?.vlan {
        if tags.len() == TAGS_MAX {
            return None;
        }
        tags.insert(0, vlan.tag);
        ifindex = vlan.parent;
    }
    Some((ifindex, tags))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 100));
    const FAR: Flow = Flow { local: LOCAL, remote: IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7)) };
    const FAR_TOO: Flow = Flow { local: LOCAL, remote: IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 8)) };
    const ETH0: Link = Link { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, vlan: None };

    fn empty() -> NextHops {
        NextHops::new([2, 3], HashSet::new())
    }

    fn learned(byte: u8) -> Option<Neighbour> {
        Some(Neighbour { mac: [byte; 6], fixed: false })
    }

    fn via_gateway() -> Route {
        Route::new(2, GATEWAY, None)
    }

    #[test]
    fn a_hop_is_resolved_by_link_and_neighbour_together() {
        let mut hops = empty();
        assert!(hops.set_route(FAR, Some(via_gateway())));
        assert_eq!(hops.changes(), []);
        hops.set_link(2, Some(ETH0));
        assert_eq!(hops.changes(), []);
        hops.set_neighbour(2, GATEWAY, learned(9));
        let resolved =
            NextHop { ifindex: 2, mtu: 1500, destination_mac: [9; 6], source_mac: ETH0.mac, ..NOWHERE };
        assert_eq!(hops.changes(), [(1, resolved)]);
        assert_eq!(hops.changes(), [], "once");
        hops.set_neighbour(2, GATEWAY, None);
        assert_eq!(hops.changes(), [(1, NOWHERE)]);
    }

    #[test]
    fn a_gateway_that_changes_its_mac_is_one_write() {
        let mut hops = empty();
        hops.set_link(2, Some(ETH0));
        hops.set_neighbour(2, GATEWAY, learned(9));
        hops.set_route(FAR, Some(via_gateway()));
        hops.set_route(FAR_TOO, Some(via_gateway()));
        assert_eq!(hops.id(FAR), hops.id(FAR_TOO));
        assert_eq!(hops.changes().len(), 1);
        hops.set_neighbour(2, GATEWAY, learned(8));
        assert_eq!(hops.changes().len(), 1);
    }

    #[test]
    fn a_moved_route_moves_the_destination_to_another_entry() {
        let mut hops = empty();
        assert!(hops.set_route(FAR, Some(via_gateway())));
        assert!(!hops.set_route(FAR, Some(via_gateway())), "the same again is no change");
        let other = Route::new(3, GATEWAY, None);
        assert!(hops.set_route(FAR, Some(other)));
        assert_eq!(hops.id(FAR), 2);
        assert_eq!(hops.retain(|flow| flow == FAR), [(1, NOWHERE)], "the old entry is freed");
        assert!(hops.set_route(FAR, None));
        assert_eq!(hops.id(FAR), UNRESOLVED);
    }

    #[test]
    fn a_path_mtu_below_the_links_is_honoured() {
        let mut hops = empty();
        hops.set_link(2, Some(ETH0));
        hops.set_neighbour(2, GATEWAY, learned(9));
        hops.set_route(FAR, Some(Route::new(2, GATEWAY, Some(1400))));
        hops.set_route(FAR_TOO, Some(via_gateway()));
        let mtus: Vec<_> = hops.changes().into_iter().map(|(_, hop)| hop.mtu).collect();
        assert_eq!(mtus, [1500, 1400]);
        assert_ne!(hops.id(FAR), hops.id(FAR_TOO));
    }

    #[test]
    fn a_learned_path_counts_as_far_as_it_is_attested() {
        let mut hops = NextHops::new([2], HashSet::new());
        hops.set_link(2, Some(ETH0));
        hops.set_neighbour(2, GATEWAY, learned(9));
        let mut mtu = |attested: Option<u32>, learned| {
            attested.into_iter().for_each(|mtu| hops.attest(FAR, mtu));
            hops.set_route(FAR, Some(Route::new(2, GATEWAY, Some(learned)).learned()));
            hops.changes();
            hops.mtu(FAR)
        };
        assert_eq!(mtu(None, 600), Some(1500), "anybody can have said so");
        assert_eq!(mtu(Some(1400), 1400), Some(1400));
        assert_eq!(mtu(None, 600), Some(1400), "no narrower than was attested");
        hops.set_route(FAR, Some(Route::new(2, GATEWAY, Some(600))));
        hops.changes();
        assert_eq!(hops.mtu(FAR), Some(600), "an administrator is believed");
    }

    #[test]
    fn entries_of_an_earlier_run_are_left_alone_until_released() {
        let mut hops = NextHops::new([2, 3, 4], HashSet::from([1, 2]));
        hops.set_route(FAR, Some(via_gateway()));
        assert_eq!(hops.id(FAR), 3);
        let mut freed = hops.release_reserved();
        freed.sort_by_key(|(id, _)| *id);
        assert_eq!(freed, [(1, NOWHERE), (2, NOWHERE)]);
        hops.set_route(FAR_TOO, Some(Route::new(4, GATEWAY, None)));
        assert_eq!(hops.id(FAR_TOO), 4, "those wait for their turn");
    }

    #[test]
    fn a_full_table_leaves_the_rest_unresolved() {
        let mut hops = empty();
        for n in 0..NEXT_HOPS_MAX {
            let address = IpAddr::from(n.to_be_bytes());
            hops.set_route(Flow { local: LOCAL, remote: address }, Some(Route::new(2, address, None)));
        }
        let last = Flow { local: LOCAL, remote: IpAddr::from((NEXT_HOPS_MAX - 1).to_be_bytes()) };
        assert_eq!(hops.id(last), UNRESOLVED);
        assert_eq!(hops.hops().count(), NEXT_HOPS_MAX as usize - 1);
    }

    #[test]
    fn a_vlan_leaves_by_its_parent_with_its_tags() {
        let mut hops = empty();
        let (outer, inner) = ([0x88, 0xa8, 0, 100], [0x81, 0, 0, 200]);
        hops.set_link(2, Some(ETH0));
        hops.set_link(3, Some(Link { vlan: Some(Vlan { parent: 2, tag: outer }), ..ETH0 }));
        hops.set_link(4, Some(Link { vlan: Some(Vlan { parent: 3, tag: inner }), mtu: 1400, ..ETH0 }));
        hops.set_neighbour(4, GATEWAY, learned(9));
        hops.set_route(FAR, Some(Route::new(4, GATEWAY, None)));
        let [(_, hop)] = hops.changes()[..] else { panic!("one hop") };
        assert_eq!((hop.ifindex, hop.mtu, hop.tag_count, hop.tags), (2, 1400, 2, [outer, inner]));
        hops.set_link(3, None);
        assert_eq!(hops.changes(), [(1, NOWHERE)], "a link on the way is down");
        hops.set_link(3, Some(Link { vlan: Some(Vlan { parent: 2, tag: outer }), ..ETH0 }));
        assert_eq!(hops.changes().len(), 1, "and up again");
        hops.set_link(5, Some(Link { vlan: Some(Vlan { parent: 4, tag: inner }), ..ETH0 }));
        hops.set_neighbour(5, GATEWAY, learned(9));
        hops.set_route(FAR, Some(Route::new(5, GATEWAY, None)));
        assert_eq!(hops.changes(), [], "three tags are more than the program writes");
    }

    #[test]
    fn each_of_the_relays_addresses_has_its_own_way() {
        let mut hops = empty();
        let other_uplink = Flow { local: IpAddr::from([198, 51, 100, 1]), ..FAR };
        hops.set_route(FAR, Some(via_gateway()));
        hops.set_route(other_uplink, Some(Route::new(3, GATEWAY, None)));
        assert_ne!(hops.id(FAR), hops.id(other_uplink));
    }

    #[test]
    fn only_attached_interfaces_are_used() {
        let mut hops = empty();
        hops.set_link(7, Some(ETH0));
        hops.set_neighbour(7, GATEWAY, learned(9));
        hops.set_route(FAR, Some(Route::new(7, GATEWAY, None)));
        assert_eq!(hops.changes(), [], "interface 7 has no XDP program");
    }

    #[test]
    fn a_neighbour_that_somebody_has_fixed_is_never_asked_for() {
        let mut hops = empty();
        hops.set_neighbour(2, GATEWAY, Some(Neighbour { mac: [9; 6], fixed: true }));
        hops.set_route(FAR, Some(via_gateway()));
        assert_eq!((hops.unresolved(FAR), hops.to_resolve(true)), (None, vec![]), "though its link is down");
        hops.set_neighbour(2, GATEWAY, None);
        assert_eq!(hops.to_resolve(false), [via_gateway().hop]);
        hops.set_link(2, Some(ETH0));
        hops.set_neighbour(2, GATEWAY, learned(9));
        assert_eq!(hops.changes().len(), 1);
        assert_eq!((hops.to_resolve(false), hops.to_resolve(true)), (vec![], vec![via_gateway().hop]));
    }

    #[test]
    fn what_is_in_doubt_is_asked_for_again() {
        let mut hops = empty();
        hops.set_route(FAR, None);
        hops.set_route(FAR_TOO, Some(Route::new(2, GATEWAY, Some(1400))));
        hops.set_route(Flow { remote: GATEWAY, ..FAR }, Some(via_gateway()));
        let mut flows = hops.doubtful_flows();
        flows.sort();
        assert_eq!(flows, [FAR, FAR_TOO]);
    }
}
