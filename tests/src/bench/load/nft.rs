//! Relaying with nftables, as far as it goes: by source address and port, not by session.

use std::fmt::Write as _;

use super::{
    flows::{Flow, GATEWAY_MAC, RELAY},
    place::{DEVICE, Place, mac},
};

/// How it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Destination NAT and masquerading, with conntrack: what one would write by hand.
    Conntrack,
    /// Addresses and ports set in the forwarding path, without conntrack.
    Stateless,
    /// Addresses and ports set where frames come in, and the frame sent straight out again: no routing, no conntrack.
    Ingress,
}

/// Makes a place's relay one by rules, for flows 0 to `count`.
pub fn relay(place: &Place, rules: Rules, count: u32) {
    let flows = || (0..count).map(|number| Flow { number });
    let sources = "ipv4_addr . inet_service";
    let elements = |value: &dyn Fn(Flow) -> String| {
        let mut text = String::new();
        for flow in flows() {
            let source = flow.source();
            write!(text, "{} . {} : {},", source.ip(), source.port(), value(flow))
                .expect("write to a string");
        }
        text
    };
    let address = elements(&|flow| flow.destination().ip().to_string());
    let port = elements(&|flow| flow.destination().port().to_string());
    let both = elements(&|flow| format!("{} . {}", flow.destination().ip(), flow.destination().port()));
    let maps = format!(
        "map address {{ type {sources} : ipv4_addr; elements = {{ {address} }} }}
         map port {{ type {sources} : inet_service; elements = {{ {port} }} }}"
    );
    let (to, by) = (format!("ip daddr {} udp dport {}", RELAY.ip(), RELAY.port()), RELAY.port());
    // The destination's port goes last: with the source's, it is the key of both maps.
    let set_destination = "ip daddr set ip saddr . udp sport map @address
                           udp dport set ip saddr . udp sport map @port";
    let set_source = format!("ip saddr set {} udp sport set {by}", RELAY.ip());
    place.relay.nft(&match rules {
        Rules::Conntrack => format!(
            "table ip relay {{
                map next {{ type {sources} : {sources}; elements = {{ {both} }} }}
                chain prerouting {{
                    type nat hook prerouting priority dstnat
                    {to} dnat to ip saddr . udp sport map @next
                }}
                chain postrouting {{
                    type nat hook postrouting priority srcnat
                    ip protocol udp masquerade to :{by}
                }}
            }}"
        ),
        Rules::Stateless => format!(
            "table ip relay {{
                {maps}
                chain prerouting {{
                    type filter hook prerouting priority raw
                    {to} notrack meta mark set 1 {set_destination}
                }}
                chain postrouting {{
                    type filter hook postrouting priority srcnat
                    meta mark 1 {set_source}
                }}
            }}"
        ),
        Rules::Ingress => format!(
            "table netdev relay {{
                {maps}
                chain ingress {{
                    type filter hook ingress device {DEVICE} priority 0
                    {to} {set_destination} {set_source} ether saddr set {} ether daddr set {} fwd to {DEVICE}
                }}
            }}",
            mac(place.relay_mac),
            mac(GATEWAY_MAC),
        ),
    });
    if rules == Rules::Conntrack {
        // A flow rests while the other contenders have their turn.
        for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            place.relay.set(&format!("net/netfilter/{timeout}"), "3600");
        }
    }
}
