//! Where packets leave: routes, neighbours and links, folded into the `NEXT_HOPS` table. Pure: netlink's news goes in,
//! table writes come out.
//!
//! A destination address has a [`Route`]: an egress interface and the address to resolve there (a gateway, or the
//! destination itself). All destinations behind one gateway share one *hop*, which is one entry of the table: a gateway
//! whose MAC address changes costs one map write, whatever the number of sessions. Entry [`UNRESOLVED`] is never
//! resolved; sessions whose destination has no route point at it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use relay_ebpf::tables::{NEXT_HOPS_MAX, NextHop};

/// The table entry that leads nowhere.
pub const UNRESOLVED: u16 = 0;

/// A MAC address.
pub type Mac = [u8; 6];

/// A link that is up and has a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its own address.
    pub mac: Mac,
    /// The largest IP packet it takes, in bytes.
    pub mtu: u32,
}

/// How a destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The hop that it goes by.
    pub hop: HopKey,
    /// The MTU that the route or the path has, in bytes, if it is known to be smaller than the link's.
    pub mtu: Option<u32>,
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
        Self { hop: HopKey { ifindex, address, mtu: mtu.unwrap_or(0) }, mtu }
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
    neighbours: HashMap<(u32, IpAddr), Mac>,
    routes: HashMap<IpAddr, Option<Route>>,
    hops: BTreeMap<HopKey, Hop>,
    reserved: HashSet<u16>,
}

/// An entry that leads nowhere.
pub const NOWHERE: NextHop =
    NextHop { ifindex: 0, mtu: 0, vlan: 0, destination_mac: [0; 6], source_mac: [0; 6] };

impl NextHops {
    /// Nothing is known yet, and `reserved` entries are in use by sessions of an earlier run.
    pub fn new(reserved: HashSet<u16>) -> Self {
        Self { reserved, ..Self::default() }
    }

    /// The sessions of an earlier run have been rewritten: their entries are free.
    pub fn release_reserved(&mut self) -> Vec<(u16, NextHop)> {
        let used: HashSet<u16> = self.hops.values().map(|hop| hop.id).collect();
        self.reserved.drain().filter(|id| !used.contains(id)).map(|id| (id, NOWHERE)).collect()
    }

    /// News of a link: `None` if it is gone, down or without a MAC address.
    pub fn set_link(&mut self, ifindex: u32, link: Option<Link>) {
        match link {
            Some(link) => self.links.insert(ifindex, link),
            None => self.links.remove(&ifindex),
        };
    }

    /// News of a neighbour: `None` if it is gone or can't be reached.
    pub fn set_neighbour(&mut self, ifindex: u32, address: IpAddr, mac: Option<Mac>) {
        match mac {
            Some(mac) => self.neighbours.insert((ifindex, address), mac),
            None => self.neighbours.remove(&(ifindex, address)),
        };
    }

    /// All links and neighbours are about to be told anew.
    pub fn forget_links_and_neighbours(&mut self) {
        self.links.clear();
        self.neighbours.clear();
    }

    /// Whether a route to this destination was asked for.
    pub fn knows(&self, destination: IpAddr) -> bool {
        self.routes.contains_key(&destination)
    }

    /// All destinations that are known, to ask for their routes again.
    pub fn destinations(&self) -> Vec<IpAddr> {
        self.routes.keys().copied().collect()
    }

    /// The answer for a destination: `None` if there is no route to it. Returns whether its table entry is another now, so
    /// that its sessions have to be rewritten.
    pub fn set_route(&mut self, destination: IpAddr, route: Option<Route>) -> bool {
        let before = self.id(destination);
        if let Some(route) = route
            && !self.hops.contains_key(&route.hop)
        {
            let Some(id) = self.free_id() else {
                self.routes.insert(destination, None);
                return before != UNRESOLVED;
            };
            self.hops.insert(route.hop, Hop { id, written: NOWHERE });
        }
        self.routes.insert(destination, route);
        before != self.id(destination)
    }

    /// The table entry for a destination; [`UNRESOLVED`] if there is none.
    pub fn id(&self, destination: IpAddr) -> u16 {
        let route = self.routes.get(&destination).copied().flatten();
        route.and_then(|route| self.hops.get(&route.hop)).map_or(UNRESOLVED, |hop| hop.id)
    }

    /// The hop of a destination, if it has one that is not resolved.
    pub fn unresolved(&self, destination: IpAddr) -> Option<HopKey> {
        let route = self.routes.get(&destination).copied().flatten()?;
        let hop = self.hops.get(&route.hop)?;
        (hop.written.mtu == 0).then_some(route.hop)
    }

    /// Forgets the destinations that are not in use, and the hops that nothing leads to any more.
    pub fn retain(&mut self, in_use: impl Fn(IpAddr) -> bool) -> Vec<(u16, NextHop)> {
        self.routes.retain(|&destination, _| in_use(destination));
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
        let (links, neighbours) = (&self.links, &self.neighbours);
        let resolve = |key: &HopKey| {
            let link = links.get(&key.ifindex)?;
            let destination_mac = *neighbours.get(&(key.ifindex, key.address))?;
            let mtu = if key.mtu == 0 { link.mtu } else { link.mtu.min(key.mtu) };
            Some(NextHop {
                ifindex: key.ifindex,
                mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
                vlan: 0,
                destination_mac,
                source_mac: link.mac,
            })
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

    /// The hops by their table entry and whether each is resolved.
    pub fn hops(&self) -> impl Iterator<Item = (HopKey, bool)> {
        self.hops.iter().map(|(&key, hop)| (key, hop.written.mtu != 0))
    }

    fn free_id(&self) -> Option<u16> {
        let used: HashSet<u16> = self.hops.values().map(|hop| hop.id).collect();
        (UNRESOLVED + 1..NEXT_HOPS_MAX as u16).find(|id| !used.contains(id) && !self.reserved.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));
    const FAR_TOO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 8));
    const ETH0: Link = Link { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 };

    fn via_gateway() -> Route {
        Route::new(2, GATEWAY, None)
    }

    #[test]
    fn a_hop_is_resolved_by_link_and_neighbour_together() {
        let mut hops = NextHops::default();
        assert!(hops.set_route(FAR, Some(via_gateway())));
        assert_eq!(hops.changes(), []);
        hops.set_link(2, Some(ETH0));
        assert_eq!(hops.changes(), []);
        hops.set_neighbour(2, GATEWAY, Some([9; 6]));
        let resolved =
            NextHop { ifindex: 2, mtu: 1500, vlan: 0, destination_mac: [9; 6], source_mac: ETH0.mac };
        assert_eq!(hops.changes(), [(1, resolved)]);
        assert_eq!(hops.changes(), [], "once");
        hops.set_neighbour(2, GATEWAY, None);
        assert_eq!(hops.changes(), [(1, NOWHERE)]);
    }

    #[test]
    fn a_gateway_that_changes_its_mac_is_one_write() {
        let mut hops = NextHops::default();
        hops.set_link(2, Some(ETH0));
        hops.set_neighbour(2, GATEWAY, Some([9; 6]));
        hops.set_route(FAR, Some(via_gateway()));
        hops.set_route(FAR_TOO, Some(via_gateway()));
        assert_eq!(hops.id(FAR), hops.id(FAR_TOO));
        assert_eq!(hops.changes().len(), 1);
        hops.set_neighbour(2, GATEWAY, Some([8; 6]));
        assert_eq!(hops.changes().len(), 1);
    }

    #[test]
    fn a_moved_route_moves_the_destination_to_another_entry() {
        let mut hops = NextHops::default();
        assert!(hops.set_route(FAR, Some(via_gateway())));
        assert!(!hops.set_route(FAR, Some(via_gateway())), "the same again is no change");
        let other = Route::new(3, GATEWAY, None);
        assert!(hops.set_route(FAR, Some(other)));
        assert_eq!(hops.id(FAR), 2);
        assert_eq!(hops.retain(|d| d == FAR), [(1, NOWHERE)], "the old entry is freed");
        assert!(hops.set_route(FAR, None));
        assert_eq!(hops.id(FAR), UNRESOLVED);
    }

    #[test]
    fn a_path_mtu_below_the_links_is_honoured() {
        let mut hops = NextHops::default();
        hops.set_link(2, Some(ETH0));
        hops.set_neighbour(2, GATEWAY, Some([9; 6]));
        hops.set_route(FAR, Some(Route::new(2, GATEWAY, Some(1400))));
        hops.set_route(FAR_TOO, Some(via_gateway()));
        let mtus: Vec<_> = hops.changes().into_iter().map(|(_, hop)| hop.mtu).collect();
        assert_eq!(mtus, [1500, 1400]);
        assert_ne!(hops.id(FAR), hops.id(FAR_TOO));
    }

    #[test]
    fn entries_of_an_earlier_run_are_left_alone_until_released() {
        let mut hops = NextHops::new(HashSet::from([1, 2]));
        hops.set_route(FAR, Some(via_gateway()));
        assert_eq!(hops.id(FAR), 3);
        let mut freed = hops.release_reserved();
        freed.sort_by_key(|(id, _)| *id);
        assert_eq!(freed, [(1, NOWHERE), (2, NOWHERE)]);
        hops.set_route(FAR_TOO, Some(Route::new(4, GATEWAY, None)));
        assert_eq!(hops.id(FAR_TOO), 1);
    }

    #[test]
    fn a_full_table_leaves_the_rest_unresolved() {
        let mut hops = NextHops::default();
        for n in 0..NEXT_HOPS_MAX {
            let address = IpAddr::from(n.to_be_bytes());
            hops.set_route(address, Some(Route::new(2, address, None)));
        }
        let last = IpAddr::from((NEXT_HOPS_MAX - 1).to_be_bytes());
        assert_eq!(hops.id(last), UNRESOLVED);
        assert_eq!(hops.hops().count(), NEXT_HOPS_MAX as usize - 1);
    }
}
