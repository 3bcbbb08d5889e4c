//! Looks at the host. Nothing is changed by it, and what can't be seen is told as unknown.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_helper_supported, is_map_supported},
};
use caps::CapSet;
use genetlink::GenetlinkHandle;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use tokio::process::Command;

use super::{
    facts::{Configuration, Destination, Device, Facts, Interface, Kernel, Pins, Way, Wireguard},
    firewall::Ruleset,
    xdp_features,
};
use crate::{
    config::Config,
    ethtool::Ethtool,
    grace,
    members::{Place, PublicKey},
    netlink::{Netlink, vlan, xdp_in_driver},
    next_hops::Flow,
    preflight,
    program::{self, Claim},
    wireguard::{Handle, userspace_program},
};

/// Where the configuration is unless another file is named.
pub const DEFAULT_CONFIG: &str = "/etc/wgrelay/relay.toml";
/// Where nothing is (RFC 5737, RFC 3849): the way there is the way to the Internet.
const ELSEWHERE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1));
/// So many endpoints of the configuration are looked for a way to.
const ENDPOINTS: usize = 16;

/// All that is to be known of this host, with the configuration in `file`, or in the default one.
pub async fn gather(file: Option<&Path>) -> Result<Facts> {
    let configuration = configuration(file);
    let config = match &configuration {
        Configuration::Good(_, config) => Some(&**config),
        _ => None,
    };
    let netlink = Netlink::for_questions()?;
    let addresses = netlink.addresses().await?.into_iter().collect();
    let (interface, port_taken) = match config {
        Some(config) => interface(config, &netlink).await,
        None => (Interface::Absent, false),
    };
    Ok(Facts {
        kernel: kernel(),
        capabilities: caps::read(None, CapSet::Effective).context("read this process's capabilities")?,
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory: memory(),
        pins: pins(config),
        wireguard: wireguard(),
        interface,
        port_taken,
        devices: devices(&netlink).await?,
        addresses,
        ways: match config {
            Some(config) => ways(config, &netlink).await?,
            None => Vec::new(),
        },
        ruleset: ruleset().await,
        legacy_iptables: ["ip_tables_names", "ip6_tables_names"].iter().any(|name| {
            fs::read_to_string(Path::new("/proc/net").join(name)).is_ok_and(|text| !text.trim().is_empty())
        }),
        configuration,
    })
}

fn configuration(file: Option<&Path>) -> Configuration {
    let path = file.unwrap_or(Path::new(DEFAULT_CONFIG)).to_owned();
    if file.is_none() && !path.exists() {
        return Configuration::Missing(path);
    }
    match Config::read(&path) {
        Ok(config) => Configuration::Good(path, Box::new(config)),
        Err(fault) => Configuration::Bad(fault.to_string()),
    }
}

fn kernel() -> Kernel {
    let (helper, name, _) = preflight::YOUNGEST;
    let map = |kind| is_map_supported(kind).ok();
    let read = |path: &str| fs::read_to_string(path).ok();
    Kernel {
        release: nix::sys::utsname::uname()
            .map(|system| system.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        features: vec![
            (name, is_helper_supported(ProgramType::Xdp, helper).ok()),
            ("BPF ring buffers", map(MapType::RingBuf)),
            ("BPF device maps", map(MapType::DevMapHash)),
            ("BPF prefix tries", map(MapType::LpmTrie)),
        ],
        membarrier: grace::wait().err().map(|error| error.to_string()),
        jit: read("/proc/sys/net/core/bpf_jit_enable").map(|text| text.trim() != "0"),
        confidential: read("/sys/kernel/security/lockdown")
            .is_some_and(|text| text.contains("[confidentiality]")),
    }
}

/// What the kernel says can be had without swapping, in bytes.
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

fn pins(config: Option<&Config>) -> Pins {
    let directory = config.map_or_else(crate::config::default_pin_dir, |config| config.relay.pin_dir.clone());
    Pins {
        on_bpffs: program::is_on_bpffs(&directory).unwrap_or(false),
        running: Claim::is_held(&directory),
        left: program::is_pinned(&directory),
        other_versions: program::other_versions(&directory).unwrap_or_default(),
        directory,
    }
}

fn wireguard() -> Wireguard {
    let program = userspace_program();
    let installed = find(&program).is_some();
    Wireguard {
        kernel: kernel_wireguard(),
        program: (program, installed),
        tun: Path::new("/dev/net/tun").exists(),
    }
}

/// Whether the kernel has WireGuard, or a module of it.
fn kernel_wireguard() -> Option<bool> {
    if Path::new("/sys/module/wireguard").exists() {
        return Some(true);
    }
    let release = nix::sys::utsname::uname().ok()?.release().to_str()?.to_owned();
    let modules = Path::new("/lib/modules").join(release);
    let listed =
        |name: &str| fs::read_to_string(modules.join(name)).is_ok_and(|text| text.contains("/wireguard.ko"));
    Some(listed("modules.dep") || listed("modules.builtin"))
}

/// A program in PATH, or where only the administrator's PATH leads.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// The relay's interface, and whether, if there is none yet, its port is taken by somebody else.
async fn interface(config: &Config, netlink: &Netlink) -> (Interface, bool) {
    let (name, port) = (&config.relay.interface, config.relay.port);
    if netlink.ifindex(name).await.is_err() {
        let taken = |any: IpAddr| {
            UdpSocket::bind((any, port)).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
        };
        return (
            Interface::Absent,
            taken(Ipv4Addr::UNSPECIFIED.into()) || taken(Ipv6Addr::UNSPECIFIED.into()),
        );
    }
    let read = async { Handle::of(name)?.read().await };
    let interface = match read.await {
        Ok(device) => Interface::Found {
            port: device.listen_port,
            public_key: device.public_key.map(|key| PublicKey(key.0)),
        },
        Err(error) => Interface::Mute(format!("{error:#}")),
    };
    (interface, false)
}

async fn devices(netlink: &Netlink) -> Result<Vec<Device>> {
    let mut features = match genetlink::new_connection() {
        Ok((connection, handle, _)) => {
            tokio::spawn(connection);
            Some(handle)
        }
        Err(_) => None,
    };
    let mut devices = Vec::new();
    for message in netlink.link_messages().await? {
        devices.push(device(&message, features.as_mut()).await);
    }
    Ok(devices)
}

async fn device(message: &LinkMessage, features: Option<&mut GenetlinkHandle>) -> Device {
    let (mut name, mut mtu) = (String::new(), 0);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            _ => {}
        }
    }
    let index = message.header.index;
    let ethtool = Ethtool::new(&name).ok();
    let xdp = match features {
        // A kernel before 6.3 has no such family.
        Some(handle) => xdp_features::of(handle, index).await.ok().flatten(),
        None => None,
    };
    let rp_filter = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    Device {
        index,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        mtu,
        driver: ethtool.as_ref().and_then(|ethtool| ethtool.driver().ok()),
        channels: ethtool.as_ref().and_then(|ethtool| ethtool.channels().ok().flatten()),
        features: ethtool.and_then(|ethtool| ethtool.features().ok()).unwrap_or_default(),
        xdp,
        has_program: xdp_in_driver(message).is_some(),
        vlan_of: vlan(message).map(|vlan| vlan.parent),
        // The kernel takes the stricter of the two, by their numbers (Documentation/networking/ip-sysctl.rst).
        rp_filter: rp_filter("all").max(rp_filter(&name)),
        name,
    }
}

/// The ways from each of the relay's addresses to the Internet and to those endpoints that the configuration names.
async fn ways(config: &Config, netlink: &Netlink) -> Result<Vec<Way>> {
    let mut endpoints = BTreeMap::new();
    if let Ok(members) = config.members(PublicKey([0; 32])) {
        for (_, member) in members.iter() {
            if let Place::Static(all) = &member.place {
                endpoints.extend(all.iter().map(|at| (at.ip(), format!("member {:?} at {at}", member.name))));
            }
        }
        for relay in members.relays() {
            endpoints.extend(
                relay.endpoints.iter().map(|at| (at.ip(), format!("relay {:?} at {at}", relay.name))),
            );
        }
    }
    let silent = netlink.silent_neighbours().await?;
    let mut ways = Vec::new();
    for &from in &config.relay.addresses {
        let elsewhere: IpAddr = if from.is_ipv4() { ELSEWHERE.0.into() } else { ELSEWHERE.1.into() };
        let named = endpoints.iter().filter(|(to, _)| to.is_ipv4() == from.is_ipv4()).take(ENDPOINTS);
        let named = named.map(|(to, name)| (*to, Destination::Endpoint(name.clone())));
        for (remote, to) in std::iter::once((elsewhere, Destination::Internet)).chain(named) {
            let route = netlink.route(Flow { local: from, remote }).await?;
            let by = route.map(|route| (route.hop.ifindex, route.hop.address));
            let silent = by.is_some_and(|by| silent.contains(&by));
            ways.push(Way { from, to, by, silent });
        }
    }
    Ok(ways)
}

async fn ruleset() -> Ruleset {
    let Some(program) = find("nft") else { return Ruleset::Unknown("nft is not installed".to_owned()) };
    let output = Command::new(program)
        .args(["--json", "list", "ruleset"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    match output {
        Ok(output) if output.status.success() => serde_json::from_slice(&output.stdout).map_or_else(
            |error| Ruleset::Unknown(format!("what nft prints is no JSON: {error}")),
            Ruleset::Known,
        ),
        Ok(output) => Ruleset::Unknown(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Ruleset::Unknown(error.to_string()),
    }
}
