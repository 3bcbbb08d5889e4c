//! A relay's uplink: a link to a gateway, which is a router of the public network.
//!
//! ```text
//!            .1, .2   192.0.2.0/24    .254
//!  relay eth0 ── 2001:db8:a0::/64 ── gateway 0 ──┐
//!                                                ├── "Internet"
//!  relay eth1 ── 2001:db8:a1::/64 ── gateway 1 ──┘
//!            .1, .2  203.0.113.0/24   .254
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Ebpf;

use crate::{
    internet::{GATEWAYS, Internet},
    lab::Namespace,
    relay::Outer,
    xdp_pass,
};

/// The gateway's host number on the link.
const GATEWAY: u8 = 254;

/// One uplink of a relay.
#[derive(Debug)]
pub struct Uplink {
    /// 0 or 1.
    number: u8,
    /// The relay's device.
    pub device: String,
    /// The gateway.
    pub gateway: Namespace,
    relay: Namespace,
    _passing: Ebpf,
}

/// The address of a host on the link of an uplink.
fn address(uplink: u8, outer: Outer, host: u8) -> IpAddr {
    match outer {
        Outer::Ipv4 if uplink == 0 => Ipv4Addr::new(192, 0, 2, host).into(),
        Outer::Ipv4 => Ipv4Addr::new(203, 0, 113, host).into(),
        Outer::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0xa0 + u16::from(uplink), 0, 0, 0, 0, host.into()).into(),
    }
}

/// The prefix of the link of an uplink, as `ip` takes it.
pub(crate) fn prefix(uplink: u8, outer: Outer) -> String {
    let length = if outer == Outer::Ipv4 { 24 } else { 64 };
    format!("{}/{length}", address(uplink, outer, 0))
}

impl Uplink {
    /// A gateway in the public network, connected to the relay's `eth<number>`.
    pub fn new(internet: &Internet, relay: &Namespace, number: u8) -> Self {
        let gateway = relay.lab().namespace(&format!("gw-{number}"));
        gateway.set("net/ipv4/ip_forward", "1");
        gateway.set("net/ipv6/conf/all/forwarding", "1");
        internet.attach(&gateway, "wan", GATEWAYS[usize::from(number)]);
        let device = format!("eth{number}");
        gateway.connect("relay", relay, &device);
        let this = Self {
            number,
            _passing: xdp_pass::attach(&gateway, "relay"),
            relay: relay.clone(),
            gateway,
            device,
        };
        for outer in Outer::BOTH {
            let length = if outer == Outer::Ipv4 { "/24" } else { "/64 nodad" };
            this.gateway.ip(&format!("address add {}{length} dev relay", this.gateway_address(outer)));
            for n in [1, 2] {
                this.relay.ip(&format!("address add {}{length} dev {}", this.address(outer, n), this.device));
            }
        }
        this
    }

    /// The relay's first or second address (`n` is 1 or 2).
    pub fn address(&self, outer: Outer, n: u8) -> IpAddr {
        address(self.number, outer, n)
    }

    /// All of the relay's addresses on this uplink.
    pub fn addresses(&self) -> Vec<IpAddr> {
        Outer::BOTH.into_iter().flat_map(|outer| [1, 2].map(|n| self.address(outer, n))).collect()
    }

    /// The gateway's address on the link.
    pub fn gateway_address(&self, outer: Outer) -> IpAddr {
        address(self.number, outer, GATEWAY)
    }

    fn default_route(&self, outer: Outer, table: &str) {
        let family = if outer == Outer::Ipv4 { "-4" } else { "-6" };
        let Self { device, relay, .. } = self;
        relay.ip(&format!(
            "{family} route replace default via {} dev {device} table {table}",
            self.gateway_address(outer)
        ));
    }

    /// Makes it the way of all that has no other.
    pub fn become_default(&self) {
        for outer in Outer::BOTH {
            self.default_route(outer, "main");
        }
    }

    /// Makes it the way of all that the relay sends from its addresses.
    pub fn take_what_comes_from_its_addresses(&self) {
        let table = (100 + self.number).to_string();
        for outer in Outer::BOTH {
            self.default_route(outer, &table);
            let family = if outer == Outer::Ipv4 { "-4" } else { "-6" };
            self.relay.ip(&format!("{family} rule add from {} table {table}", prefix(self.number, outer)));
        }
    }

    /// Sets the MTU of the link at both ends.
    pub fn set_mtu(&self, mtu: u16) {
        self.relay.ip(&format!("link set {} mtu {mtu}", self.device));
        self.gateway.ip(&format!("link set relay mtu {mtu}"));
    }
}
