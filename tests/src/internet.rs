//! The public network, and the boxes that stand between it and hosts.
//!
//! The public node number `n` is 198.51.100.n and 2001:db8:1::n. If it is a router, 2001:db8:n00::/40 is behind it; every
//! public node knows that, and which gateways ([`crate::uplink`]) the relay's uplinks are behind.

use std::net::{Ipv4Addr, Ipv6Addr};

use aya::Ebpf;

use crate::{
    command::run,
    lab::{Lab, Namespace},
    relay::Outer,
    uplink::prefix,
    xdp_pass,
};

/// Numbers of public nodes that may be routers.
const ROUTERS: std::ops::RangeInclusive<u8> = 2..=5;

/// Numbers of the public nodes that are gateways of a relay's uplinks.
pub const GATEWAYS: [u8; 2] = [21, 22];

/// The addresses of a public node.
pub fn public(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(198, 51, 100, number), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, number.into()))
}

/// What `ip` is to do on a public node, besides bringing the device up.
fn public_setup(device: &str, number: u8) -> Vec<String> {
    let (v4, v6) = public(number);
    let addresses = [
        format!("address replace {v4}/24 dev {device}"),
        format!("address replace {v6}/64 dev {device} nodad"),
    ];
    let routers = ROUTERS.filter(|&router| router != number);
    let routes =
        routers.map(|router| format!("-6 route replace 2001:db8:{router}00::/40 via {}", public(router).1));
    let uplinks =
        (0..).zip(GATEWAYS).filter(|&(_, gateway)| gateway != number).flat_map(|(uplink, gateway)| {
            let (v4, v6) = public(gateway);
            [
                format!("route replace {} via {v4}", prefix(uplink, Outer::Ipv4)),
                format!("-6 route replace {} via {v6}", prefix(uplink, Outer::Ipv6)),
            ]
        });
    addresses.into_iter().chain(routes).chain(uplinks).collect()
}

/// A bridge, with 198.51.100.0/24 and 2001:db8:1::/64 on it.
#[derive(Debug)]
pub struct Internet {
    namespace: Namespace,
    passing: Vec<Ebpf>,
}

/// The bridge port that faces a node.
fn port_of(namespace: &Namespace) -> String {
    format!("p-{}", namespace.role())
}

impl Internet {
    /// An empty one.
    pub fn new(lab: &Lab) -> Self {
        let namespace = lab.namespace("internet");
        namespace.ip("link add br0 type bridge mcast_snooping 0");
        namespace.ip("link set br0 up");
        Self { namespace, passing: Vec::new() }
    }

    /// Connects `device` of a namespace as the public node with this number.
    pub fn attach(&self, namespace: &Namespace, device: &str, number: u8) {
        self.cable(namespace, device);
        for line in public_setup(device, number) {
            namespace.ip(&line);
        }
    }

    /// Like [`Self::attach`], for a node that will have a native XDP program on the device.
    pub fn attach_for_xdp(&mut self, namespace: &Namespace, device: &str, number: u8) {
        self.attach(namespace, device, number);
        self.passing.push(xdp_pass::attach(&self.namespace, &port_of(namespace)));
    }

    /// Pulls the cable of a node, or plugs it in again.
    pub fn set_cable(&self, namespace: &Namespace, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        self.namespace.ip(&format!("link set {} {state}", port_of(namespace)));
    }

    /// Where the cable of a node ends: the bridge's namespace, and the device there.
    pub fn port(&self, node: &Namespace) -> (&Namespace, String) {
        (&self.namespace, port_of(node))
    }

    fn cable(&self, namespace: &Namespace, device: &str) {
        let port = port_of(namespace);
        self.namespace.connect(&port, namespace, device);
        self.namespace.ip(&format!("link set {port} master br0"));
    }
}

/// The one network behind a [`Nat`]: 192.168.n.0/24 and 2001:db8:r0n::/64, where `r` is the public router that it lies
/// behind. The NAT has host number 1 and what is plugged into it 2.
#[derive(Clone, Copy, Debug)]
struct Lan {
    router: u8,
    number: u8,
}

impl Lan {
    fn v4(self, host: u8) -> String {
        format!("192.168.{}.{host}", self.number)
    }

    fn v6(self, host: u8) -> String {
        format!("2001:db8:{}0{}::{host}", self.router, self.number)
    }

    /// What `ip` is to do for `device` of host number `host`.
    fn addresses(self, device: &str, host: u8) -> Vec<String> {
        vec![
            format!("address replace {}/24 dev {device}", self.v4(host)),
            format!("address replace {}/64 dev {device} nodad", self.v6(host)),
        ]
    }

    /// The same for what is plugged in: the NAT is its way out.
    fn inside(self, device: &str) -> Vec<String> {
        let routes = [
            format!("route replace default via {}", self.v4(1)),
            format!("-6 route replace default via {}", self.v6(1)),
        ];
        self.addresses(device, 2).into_iter().chain(routes).collect()
    }
}

/// A box with a host or another box behind it: for IPv4 a port-restricted NAT that gives every flow a random port, for
/// IPv6 a stateful firewall. Nothing comes in that was not asked for.
#[derive(Debug)]
pub struct Nat {
    namespace: Namespace,
    lan: Lan,
    /// What `ip` did to set it up, in order: done again when it starts anew.
    setup: Vec<String>,
}

/// The rules. A mapping depends on the destination (masquerading with random ports), and the forward chain lets in only
/// what belongs to a flow from inside.
const RULES: &str = "
    flush ruleset
    table ip nat {
        chain postrouting {
            type nat hook postrouting priority srcnat
            oifname wan masquerade fully-random
        }
    }
    table inet filter {
        chain forward {
            type filter hook forward priority filter; policy drop
            ct state established,related accept
            iifname lan oifname wan accept
        }
        chain input {
            type filter hook input priority filter; policy drop
            iifname { lo, lan } accept
            ct state established,related accept
            icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        }
    }
";

impl Nat {
    /// A NAT at the public node with this number, which must be a router's.
    pub fn at_internet(internet: &Internet, role: &str, number: u8) -> Self {
        assert!(ROUTERS.contains(&number), "the public node {number} is no router");
        let namespace = internet.namespace.lab().namespace(role);
        internet.cable(&namespace, "wan");
        Self::new(namespace, Lan { router: number, number: 1 }, public_setup("wan", number))
    }

    /// A NAT that is plugged into another one.
    pub fn behind(outer: &mut Nat, role: &str) -> Self {
        let namespace = outer.namespace.lab().namespace(role);
        outer.cable(&namespace, "wan");
        outer.also(format!("-6 route replace 2001:db8:{}00::/40 via {}", outer.lan.router, outer.lan.v6(2)));
        let lan = Lan { number: outer.lan.number + 1, ..outer.lan };
        Self::new(namespace, lan, outer.lan.inside("wan"))
    }

    fn new(namespace: Namespace, lan: Lan, setup: Vec<String>) -> Self {
        namespace.set("net/ipv4/ip_forward", "1");
        namespace.set("net/ipv6/conf/all/forwarding", "1");
        // Before there is any way: what passed untranslated once would do so as long as it goes on.
        namespace.nft(RULES);
        let this = Self { namespace, lan, setup };
        this.configure();
        this
    }

    /// Plugs a host in.
    pub fn plug(&mut self, host: &Namespace) {
        self.cable(host, "eth0");
        for line in self.lan.inside("eth0") {
            host.ip(&line);
        }
    }

    fn cable(&mut self, inside: &Namespace, device: &str) {
        self.namespace.connect("lan", inside, device);
        for line in self.lan.addresses("lan", 1) {
            self.also(line);
        }
    }

    fn also(&mut self, line: String) {
        self.namespace.ip(&line);
        self.setup.push(line);
    }

    fn configure(&self) {
        for line in &self.setup {
            self.namespace.ip(line);
        }
    }

    /// Where it is.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Makes the link to what is plugged in, `device` of `inside`, one of this MTU.
    pub fn set_inside_mtu(&self, inside: &Namespace, device: &str, mtu: u16) {
        self.namespace.ip(&format!("link set lan mtu {mtu}"));
        inside.ip(&format!("link set {device} mtu {mtu}"));
    }

    /// Forgets all flows: the next packet of each gets a new port.
    pub fn forget(&self) {
        run(self.namespace.command("conntrack").arg("--flush"));
    }

    /// Switches it off: nothing passes, and everything that it knew of flows is gone.
    pub fn switch_off(&self) {
        for device in ["lan", "wan"] {
            self.namespace.ip(&format!("link set {device} down"));
        }
        self.forget();
    }

    /// Switches it on again.
    pub fn switch_on(&self) {
        for device in ["lan", "wan"] {
            self.namespace.ip(&format!("link set {device} up"));
        }
        self.configure();
    }
}
