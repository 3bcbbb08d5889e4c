//! Which peers may be sent to. A TURN server stands in front of networks that its clients can't reach otherwise: it must not
//! become their way in. So all that is not on the public Internet is refused, unless an allow list names it.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Refused unless allowed (IANA's special-purpose address registries, RFC 6890): what is not one host on the Internet.
/// Documentation addresses are not in it: nothing is there.
const SPECIAL: [&str; 23] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
    // Azure's metadata and wire server, which only its virtual machines reach.
    "168.63.129.16/32",
    "::/96",
    "64:ff9b:1::/48",
    "100::/64",
    // Teredo and other protocol assignments.
    "2001::/23",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "5f00::/16",
    "::ffff:0:0:0/96",
];

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    special: Vec<IpNet>,
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl Peers {
    /// Peers in `deny` are refused, and those that are not on the public Internet, but for the ones in `allow`.
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Self {
        let special = SPECIAL.iter().map(|net| net.parse().expect("they are prefixes")).collect();
        Self { special, allow: allow.to_vec(), deny: deny.to_vec() }
    }

    /// Whether this peer may be sent to, as far as the lists go.
    pub fn permit(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        let among = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&peer));
        if among(&self.deny) {
            return false;
        }
        // A broadcast or multicast address is no peer, whatever a list says.
        let one_host = !peer.is_multicast() && !peer.is_unspecified() && peer != Ipv4Addr::BROADCAST;
        one_host
            && (among(&self.allow)
                || !among(&self.special) && embedded(peer).is_none_or(|peer| self.permit(peer)))
    }
}

/// The IPv4 address that a translator or a tunnel on the way would send to, if this is the address of one.
fn embedded(peer: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(peer) = peer else { return None };
    let [a, b, c, d, e, f, g, h, i, j, k, l, tail @ ..] = peer.octets();
    match [a, b, c, d] {
        // NAT64 (RFC 6052).
        [0x00, 0x64, 0xff, 0x9b] if [e, f, g, h, i, j, k, l] == [0; 8] => Some(tail.into()),
        // 6to4 (RFC 3056).
        [0x20, 0x02, ..] => Some([c, d, e, f].into()),
        _ => None,
    }
}

/// Whether an address stands for the same host as one of these.
pub fn is_among(own: &[IpAddr], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    own.contains(&peer) || embedded(peer).is_some_and(|peer| own.contains(&peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_on_the_internet_are_peers() {
        let peers = Peers::new(&[], &["203.0.113.0/24".parse().unwrap()]);
        for fine in
            ["8.8.8.8", "192.0.2.1", "2a00:1450::1", "2001:db8::1", "64:ff9b::8.8.8.8", "2002:808:808::1"]
        {
            assert!(peers.permit(fine.parse().unwrap()), "{fine}");
        }
        for refused in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "100.100.100.200",
            "169.254.169.254",
            "168.63.129.16",
            "192.0.0.192",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "203.0.113.7",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:203.0.113.7",
            "64:ff9b::10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a00:1",
            "2002:a00:1::1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!peers.permit(refused.parse().unwrap()), "{refused}");
        }
    }

    #[test]
    fn what_is_allowed_is_not_special_but_what_is_denied_is_denied() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let peers = Peers::new(&[net("10.0.0.0/8"), net("224.0.0.0/4")], &[net("10.9.0.0/16")]);
        let permit = |peer: &str| peers.permit(peer.parse().unwrap());
        assert!(permit("10.1.0.1") && permit("::ffff:10.1.0.1"));
        assert!(!permit("10.9.0.1") && !permit("::ffff:10.9.0.1") && !permit("192.168.0.1"));
        assert!(!permit("224.0.0.1"), "a group is no peer");
    }

    #[test]
    fn an_own_address_is_known_in_any_disguise() {
        let own = ["198.51.100.1".parse().unwrap()];
        for peer in ["198.51.100.1", "::ffff:198.51.100.1", "64:ff9b::198.51.100.1", "2002:c633:6401::1"] {
            assert!(is_among(&own, peer.parse().unwrap()), "{peer}");
        }
        assert!(!is_among(&own, "198.51.100.2".parse().unwrap()));
    }
}
