//! The relay itself: its WireGuard interface, its port, its addresses, and the ways from there.

use super::{
    Facts, Findings, Level,
    facts::{Destination, Interface, Wireguard},
};
use crate::config::Config;

pub(super) fn check(facts: &Facts, findings: &mut Findings) {
    match facts.config() {
        Some(config) => {
            interface(config, facts, findings);
            addresses(config, facts, findings);
            ways(config, facts, findings);
        }
        None => maker(&facts.wireguard, findings),
    }
}

const WIREGUARD: &str = "wireguard";

fn interface(config: &Config, facts: &Facts, findings: &mut Findings) {
    let (name, port) = (&config.relay.interface, config.relay.port);
    match &facts.interface {
        Interface::Absent if !config.relay.create => findings.add(
            WIREGUARD,
            Level::Error,
            format!("there is no interface {name}"),
            format!("wg-quick up {name}, or set create = true in [relay]"),
        ),
        Interface::Absent => {
            maker(&facts.wireguard, findings);
            if facts.port_taken {
                findings.add(
                    "port",
                    Level::Error,
                    format!("another program has UDP port {port}"),
                    format!(
                        "stop it (`ss -lunp sport = {port}` shows which it is), or choose another relay port"
                    ),
                );
            } else {
                findings.ok("port", format!("UDP port {port} is free"));
            }
        }
        Interface::Mute(why) => findings.add(
            WIREGUARD,
            Level::Error,
            format!("{name} does not answer as a WireGuard interface: {why}"),
            format!("run this as root; else `ip link del {name}`, or name another interface"),
        ),
        Interface::Found { public_key: None, .. } => findings.add(
            WIREGUARD,
            Level::Error,
            format!("{name} has no private key"),
            format!("wg genkey > FILE, then wg set {name} private-key FILE"),
        ),
        Interface::Found { port: found, .. } if *found != Some(port) => findings.add(
            "port",
            Level::Error,
            format!("{name} listens at port {}, but the relay port is {port}", found.unwrap_or(0)),
            format!("wg set {name} listen-port {port}, or correct `port` in [relay]"),
        ),
        Interface::Found { .. } => findings.ok(WIREGUARD, format!("{name} answers, at UDP port {port}")),
    }
}

/// Who can make a WireGuard interface?
fn maker(Wireguard { kernel, program: (program, installed), tun }: &Wireguard, findings: &mut Findings) {
    if *kernel == Some(true) {
        findings.ok(WIREGUARD, "the kernel has WireGuard");
    } else if *installed && *tun {
        findings.ok(WIREGUARD, format!("the kernel has no WireGuard, but {program} is there"));
    } else if *installed {
        findings.add(
            WIREGUARD,
            Level::Error,
            format!("the kernel has no WireGuard, and {program} needs /dev/net/tun, which is not there"),
            "modprobe tun; in a container, hand /dev/net/tun in",
        );
    } else {
        findings.add(
            WIREGUARD,
            Level::Error,
            format!("the kernel has no WireGuard, and {program} is not installed"),
            "modprobe wireguard, or apt-get install wireguard-go",
        );
    }
}

fn addresses(config: &Config, facts: &Facts, findings: &mut Findings) {
    for address in &config.relay.addresses {
        if facts.addresses.contains(address) {
            findings.ok("addresses", format!("{address} is this host's"));
        } else {
            findings.add(
                "addresses",
                Level::Error,
                format!("{address} is not an address of this host: what comes for it is not relayed"),
                "name in `addresses` those that packets carry here, behind any NAT (`ip address`)",
            );
        }
    }
}

fn ways(config: &Config, facts: &Facts, findings: &mut Findings) {
    for way in &facts.ways {
        let to = match &way.to {
            Destination::Internet => "the Internet".to_owned(),
            Destination::Endpoint(name) => name.clone(),
        };
        let level = if way.to == Destination::Internet { Level::Warning } else { Level::Error };
        let (check, from) = ("routes", way.from);
        let Some((index, gateway)) = way.by else {
            findings.add(
                check,
                level,
                format!("there is no route from {from} to {to}"),
                format!("ip route get ADDRESS from {from}, and add what is missing; several uplinks need a rule for each address"),
            );
            continue;
        };
        let device = facts.devices.iter().find(|device| device.index == index);
        // A VLAN's frames leave by the interface below it.
        let below = device.and_then(|device| device.vlan_of).unwrap_or(index);
        let below = facts.devices.iter().find(|device| device.index == below);
        let name = device.map_or_else(|| format!("interface {index}"), |device| device.name.clone());
        let attached = below.is_some_and(|device| config.relay.attach.contains(&device.name));
        if !attached {
            findings.add(
                check,
                Level::Warning,
                format!("from {from} to {to} packets leave by {name}, which gets no XDP program: userspace forwards them"),
                format!("add {:?} to `attach`", below.map_or(&*name, |device| &device.name)),
            );
        } else if way.silent {
            findings.add(
                check,
                Level::Warning,
                format!("from {from} to {to} packets go to {gateway} by {name}, which does not answer"),
                format!("`ip neigh show {gateway}`; look at the cable, the VLAN and the gateway"),
            );
        } else {
            findings.ok(check, format!("from {from} to {to} by {gateway}, {name}"));
        }
    }
}
