//! The interfaces that get the XDP program: drivers, queues, offloads.

use super::{Facts, Findings, Level, facts::Device};
use crate::config::{Config, XdpMode};

/// The largest MTU at which a frame, with its headroom, stays in one page: what drivers take that do not handle more.
const MTU_MAX: u32 = 3498;
/// What the outer packets of a tunnel with an MTU of 1280 need over IPv6.
const MTU_MIN: u32 = 1360;
/// ena keeps as many queues free for XDP as it uses.
const ENA_SHARE: u32 = 2;

pub(super) fn check(facts: &Facts, findings: &mut Findings) {
    let Some(config) = facts.config() else { return };
    for name in &config.relay.attach {
        let mut of = Of { name, facts, config, findings };
        match facts.device(name) {
            Some(device) => of.device(device),
            None => of.error(format!("there is no interface {name}"), "`ip link` lists those that there are"),
        }
    }
}

/// What is found of one interface.
struct Of<'a> {
    name: &'a str,
    facts: &'a Facts,
    config: &'a Config,
    findings: &'a mut Findings,
}

impl Of<'_> {
    fn check(&self) -> String {
        format!("interface {}", self.name)
    }

    fn ok(&mut self, what: impl Into<String>) {
        self.findings.ok(self.check(), what);
    }

    fn warn(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.add(self.check(), Level::Warning, what, remedy);
    }

    fn error(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.add(self.check(), Level::Error, what, remedy);
    }

    fn device(&mut self, device: &Device) {
        let name = self.name;
        if !device.ethernet {
            self.error(
                "is no Ethernet interface, and the XDP program reads Ethernet frames",
                "name another in `attach`",
            );
            return;
        }
        if !device.up {
            self.error(
                "is down, or has no carrier",
                format!("ip link set dev {name} up, and look at the cable"),
            );
        }
        self.support(device);
        self.program(device);
        self.queues(device);
        self.mtu(device);
        self.offloads(device);
        self.source_check(device);
        match device.driver.as_deref() {
            Some("veth") => self.warn(
                "is a veth, which drops what it can't take without a word",
                format!(
                    "its peer needs an XDP program, if only one that passes, and every veth of a sender `ethtool -K DEV tx off`; \
                     docs/kernels.md#veth says why, and {name} may be no place for a fast relay"
                ),
            ),
            Some("gve") => self.ok(
                "gve leaves little headroom: what needs a longer header (IPv4 to IPv6, VLANs) may go through userspace",
            ),
            _ => {}
        }
    }

    /// Does XDP run in the driver?
    fn support(&mut self, device: &Device) {
        let driver = device.driver.as_deref().unwrap_or("its driver");
        let (mode, several) = (self.config.relay.xdp_mode, self.config.relay.attach.len() > 1);
        let slow = "generic mode is many times slower";
        if device.vlan_of.is_some() {
            self.warn(
                "is a VLAN, which has no XDP of its own",
                "attach to the interface below it: tagged frames are relayed there",
            );
            return;
        }
        match (device.xdp, mode) {
            (_, XdpMode::Generic) => self.warn(
                format!("xdp_mode is \"generic\": {slow}"),
                "set xdp_mode = \"auto\" where the driver can do better",
            ),
            (None, _) => self.warn(
                format!("the kernel (before 6.3) does not say whether {driver} runs XDP"),
                "`wgrelay status` shows the mode once it runs; with xdp_mode = \"driver\" the start fails if it does not",
            ),
            (Some(xdp), _) if xdp.basic && xdp.redirect => self.ok(format!("{driver} runs XDP programs")),
            (Some(xdp), _) if xdp.basic && several => self.warn(
                format!("{driver} runs XDP programs, but not those that redirect to another interface"),
                "attach to this one alone: what leaves by another is forwarded in userspace",
            ),
            (Some(xdp), _) if xdp.basic => self.ok(format!("{driver} runs XDP programs, but none that redirect")),
            (Some(_), XdpMode::Driver) => self.error(
                format!("{driver} does not run XDP programs, and xdp_mode is \"driver\""),
                format!("set xdp_mode = \"auto\" ({slow}), or use another network card"),
            ),
            (Some(_), XdpMode::Auto) => self.warn(
                format!("{driver} does not run XDP programs: {slow}"),
                "use a network card whose driver does (docs/kernels.md)",
            ),
        }
        if several && device.has_program && device.xdp.is_some_and(|xdp| !xdp.target) {
            self.warn(
                format!("{driver} takes no redirected frames as it is: what leaves by it is lost"),
                format!(
                    "give it a queue for each CPU (`ethtool -L {}`), or more memory for its rings",
                    self.name
                ),
            );
        }
    }

    fn program(&mut self, device: &Device) {
        let ours = self.facts.pins.running || self.facts.pins.left;
        if device.has_program && !ours {
            self.error(
                "has an XDP program already, which is not wgrelay's",
                format!("ip link set dev {} xdp off, or stop whatever attached it", self.name),
            );
        }
    }

    fn queues(&mut self, device: &Device) {
        let (Some(channels), cpus) = (device.channels, self.facts.cpus as u32) else { return };
        let (name, max) = (self.name, channels.combined_max);
        match device.driver.as_deref() {
            Some("virtio_net") if max < 2 * cpus => self.warn(
                format!(
                    "{max} queues for {cpus} CPUs: XDP wants one more to send by for each CPU, else they share one under a lock"
                ),
                format!("give the virtual machine {} queues (`queues=` of the host's network device)", 2 * cpus),
            ),
            Some("ena") if channels.combined > max / ENA_SHARE => self.error(
                format!("{} of {max} channels are in use, but ena needs half of them for XDP", channels.combined),
                format!("ethtool -L {name} combined {}", (max / ENA_SHARE).max(1)),
            ),
            _ if channels.receiving == 1 && cpus > 1 && max > 1 => self.warn(
                format!("one queue for {cpus} CPUs: one of them does all the work"),
                format!("ethtool -L {name} combined {}", max.min(cpus)),
            ),
            _ => self.ok(format!(
                "{} queues to receive by and {} to send by, for {cpus} CPUs",
                channels.receiving, channels.sending
            )),
        }
    }

    fn mtu(&mut self, device: &Device) {
        let (name, mtu, limit) = (self.name, device.mtu, MTU_MAX);
        let down = format!("ip link set dev {name} mtu {limit}");
        match device.driver.as_deref() {
            Some("ena") if mtu > limit => self.error(format!("MTU {mtu}, but ena runs XDP only up to {limit}"), down),
            _ if mtu > limit => self.warn(format!("MTU {mtu}: many drivers run XDP only up to {limit} or so"), down),
            _ if mtu < MTU_MIN => self.warn(
                format!("MTU {mtu} is less than the packets of a tunnel with MTU 1280 need ({MTU_MIN}): they are fragmented"),
                format!("ip link set dev {name} mtu 1500, if the network takes it; else a smaller MTU at the hosts"),
            ),
            _ => self.ok(format!("MTU {mtu}")),
        }
    }

    fn offloads(&mut self, device: &Device) {
        let name = self.name;
        let on = |feature: &str| device.features.get(feature) == Some(&true);
        // Merged packets are no WireGuard messages. What has a program already has switched it off by itself.
        if (on("rx-lro") || on("rx-gro-hw")) && !device.has_program {
            self.warn(
                "the card or the host merges packets (LRO, hardware GRO): some drivers refuse XDP then",
                format!("ethtool -K {name} lro off rx-gro-hw off"),
            );
        }
        let has_vlans = self.facts.devices.iter().any(|other| other.vlan_of == Some(device.index));
        if has_vlans && (on("rx-vlan-hw-parse") || on("tx-vlan-hw-insert")) && device.vlan_of.is_none() {
            self.warn(
                "has VLANs, and takes tags off and puts them on by itself, where XDP can't see them",
                format!("ethtool -K {name} rxvlan off txvlan off"),
            );
        }
    }

    /// With several uplinks an answer may come by another than the kernel would send by.
    fn source_check(&mut self, device: &Device) {
        if self.config.relay.attach.len() > 1 && device.rp_filter == Some(1) {
            let name = self.name;
            self.warn(
                "the kernel drops what comes by another interface than it would answer by (rp_filter 1): registrations too",
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2, and in /etc/sysctl.d"),
            );
        }
    }
}
