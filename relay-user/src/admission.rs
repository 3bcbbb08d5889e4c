//! What is admitted: which sources, and how much of what they send. From the configuration to what the XDP program and the
//! tracker go by. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use relay_ebpf::{
    bucket::cost,
    tables::{self, ALLOWED, Costs, DENIED, NOT_ALLOWED},
};

/// Whose packets are taken, and how many of them. All of it may change while the relay runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Which sources.
    pub filter: Filter,
    /// How many packets pass the XDP program.
    pub packets: Packets,
    /// How much the tracker does.
    pub work: Work,
}

/// Which sources are taken: none that the deny list names, and, if there is an allow list, no new one that it does not. Of
/// an endpoint that is known the allow list does not ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl Filter {
    /// No prefix in `allow`: all are allowed.
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Self {
        let truncated = |nets: &[IpNet]| nets.iter().map(IpNet::trunc).collect();
        Self { allow: truncated(allow), deny: truncated(deny) }
    }

    /// Whether nothing is taken from there, nor sent there.
    pub fn denies(&self, address: IpAddr) -> bool {
        self.deny.iter().any(|net| net.contains(&address))
    }

    /// Whether a source that is not known may be there.
    pub fn admits_new(&self, address: IpAddr) -> bool {
        !self.denies(address)
            && (self.allow.is_empty() || self.allow.iter().any(|net| net.contains(&address)))
    }

    /// What `PREFIXES` is to hold. There the longest prefix decides; so what is denied as a whole has no allowed parts.
    pub fn entries(&self) -> BTreeMap<PrefixKey, u64> {
        let otherwise = if self.allow.is_empty() { ALLOWED } else { NOT_ALLOWED };
        // One for each family: IPv4 addresses stand within those of IPv6.
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
            .map(|address| IpNet::new(address, 0).expect("a length of 0 is one"));
        let denied = |net: &IpNet| self.deny.iter().any(|deny| deny.contains(net));
        let allowed = self.allow.iter().filter(|net| !denied(net)).map(|&net| (net, ALLOWED));
        let entries = all.into_iter().map(|net| (net, otherwise)).chain(allowed);
        entries
            .chain(self.deny.iter().map(|&net| (net, DENIED)))
            .map(|(net, verdict)| (key(net), verdict))
            .collect()
    }
}

/// A key of `PREFIXES` (see [`tables::prefix_key`]).
pub type PrefixKey = [u64; 3];

fn key(net: IpNet) -> PrefixKey {
    let of_family = if net.addr().is_ipv4() { 96 } else { 0 };
    tables::prefix_key(net.network().into(), of_family + u32::from(net.prefix_len()))
}

/// How many packets a second may get to the relay port beside the data of live sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// Handshake messages and keepalives from a member's endpoint.
    pub member: u32,
    /// The same from another relay's.
    pub relay: u32,
    /// Anything else from a known endpoint.
    pub data: u32,
    /// From an unknown source: handshake messages and keepalives; so many of anything else as well.
    pub source: u32,
    /// From all unknown sources together: as above.
    pub unknown: u32,
}

impl Default for Packets {
    fn default() -> Self {
        Self { member: 1_000, relay: 20_000, data: 20_000, source: 500, unknown: 2_000 }
    }
}

impl Packets {
    /// What `BUDGETS` is to hold.
    pub fn budgets(&self) -> tables::Budgets {
        let costs = |signal, bulk| Costs { signal: cost(signal), bulk: cost(bulk) };
        tables::Budgets {
            member: costs(self.member, self.data),
            relay: costs(self.relay, self.data),
            source: costs(self.source, self.source),
            unknown: costs(self.unknown, self.unknown),
            ..tables::Budgets::default()
        }
    }
}

/// How much the tracker does in a second; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Keys tried in searches among all members for unknown sources, and as many for each other relay. A member may cause
    /// a twentieth of it.
    pub searched_keys: u32,
    /// Initiations of known sources sent on to one member. One other member may cause a tenth of it.
    pub initiations: u32,
    /// Initiations of unknown sources sent on to one member.
    pub unknown_initiations: u32,
}

impl Default for Work {
    fn default() -> Self {
        Self { searched_keys: 20_000_000, initiations: 50, unknown_initiations: 5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// The longest prefix in the table decides, as in the kernel.
    fn verdict(entries: &BTreeMap<PrefixKey, u64>, address: IpAddr) -> u64 {
        let octets = tables::Address::from(address).octets();
        let bits = u128::from_be_bytes(octets);
        let fits = |key: &PrefixKey| {
            let len = u32::from_ne_bytes(key[0].to_ne_bytes()[..4].try_into().unwrap()) - 32;
            let prefix = u128::from_be_bytes(tables::Address([key[1], key[2]]).octets());
            let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
            (bits & mask == prefix).then_some(len)
        };
        entries.iter().filter_map(|(key, verdict)| Some((fits(key)?, *verdict))).max().unwrap().1
    }

    #[test]
    fn the_table_says_what_the_filter_says() {
        let lists: [(&[&str], &[&str]); 8] = [
            (&[], &[]),
            (&[], &["198.51.100.0/24", "2001:db8:bad::/48"]),
            (&["198.51.0.0/16"], &["198.51.100.0/24"]),
            (&["198.51.100.7/32", "2001:db8::/32"], &["198.51.100.0/24"]),
            (&["0.0.0.0/0"], &["::/0"]),
            (&["::/0"], &["0.0.0.0/0"]),
            (&["198.51.100.0/24"], &["198.51.100.0/24"]),
            (&["198.51.100.99/24", "198.51.100.0/25"], &["198.51.100.64/26", "198.51.100.64/30"]),
        ];
        let addresses = [
            "198.51.100.7",
            "198.51.100.64",
            "198.51.100.68",
            "198.51.100.200",
            "198.51.1.1",
            "203.0.113.9",
            "2001:db8::1",
            "2001:db8:bad::1",
            "2001:db9::1",
            "::1",
        ];
        for (allow, deny) in lists {
            let filter = Filter::new(&nets(allow), &nets(deny));
            let entries = filter.entries();
            for address in addresses.map(|address| address.parse::<IpAddr>().unwrap()) {
                let wanted = match (filter.denies(address), filter.admits_new(address)) {
                    (true, _) => DENIED,
                    (false, true) => ALLOWED,
                    (false, false) => NOT_ALLOWED,
                };
                assert_eq!(verdict(&entries, address), wanted, "{address}: allow {allow:?}, deny {deny:?}");
            }
        }
    }

    #[test]
    fn every_default_limits_something() {
        let tables::Budgets { member, relay, source, unknown, buckets } = Packets::default().budgets();
        for Costs { signal, bulk } in [member, relay, source, unknown] {
            assert!(signal > 0 && bulk > 0);
        }
        assert_eq!(member, Costs { signal: 1_000_000, bulk: 50_000 });
        assert_eq!(buckets, tables::Buckets::default(), "full");
    }
}
