//! Addresses inside a network.

use std::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;

use crate::model::{Name, Network, Refusal};

/// Whether a network can be as it is written.
pub(super) fn check_network(network: &Network) -> Result<(), Refusal> {
    if network.prefixes().next().is_none() {
        return Err(Refusal::NoPrefix(network.name.clone()));
    }
    for prefix in network.prefixes() {
        if prefix != prefix.trunc() {
            return Err(Refusal::BadPrefix(prefix, prefix.trunc()));
        }
        if prefix.max_prefix_len() - prefix.prefix_len() < 2 {
            return Err(Refusal::PrefixTooSmall(prefix));
        }
    }
    Ok(())
}

/// The first and the last address for hosts.
pub(in crate::model) fn hosts(prefix: IpNet) -> (IpAddr, IpAddr) {
    match prefix {
        IpNet::V4(net) => {
            let (network, broadcast) = (u32::from(net.network()), u32::from(net.broadcast()));
            (IpAddr::V4((network + 1).into()), IpAddr::V4((broadcast - 1).into()))
        }
        IpNet::V6(net) => (IpAddr::V6((u128::from(net.network()) + 1).into()), IpAddr::V6(net.broadcast())),
    }
}

/// Whether it is an address for a host.
pub(super) fn is_host(prefix: IpNet, address: IpAddr) -> bool {
    let (first, last) = hosts(prefix);
    first.is_ipv4() == address.is_ipv4() && (first..=last).contains(&address)
}

/// The first address from `from` on that nobody has; it may be outside of the prefix.
pub(in crate::model) fn next_free(used: &OrdMap<IpAddr, Name>, from: IpAddr) -> IpAddr {
    let mut free = from;
    for (&address, _) in used.range(from..) {
        if address != free {
            break;
        }
        free = match address {
            IpAddr::V4(ip) => IpAddr::V4(u32::from(ip).saturating_add(1).into()),
            IpAddr::V6(ip) => IpAddr::V6(u128::from(ip).saturating_add(1).into()),
        };
    }
    free
}
