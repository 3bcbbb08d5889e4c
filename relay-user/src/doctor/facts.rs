//! What is known of a host.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    path::PathBuf,
};

use caps::Capability;

use super::firewall::Ruleset;
use crate::{config::Config, ethtool::Channels, members::PublicKey};

/// What is known of a host. `None` stands for what could not be found out.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The configuration.
    pub configuration: Configuration,
    /// Its kernel.
    pub kernel: Kernel,
    /// What this process may do.
    pub capabilities: HashSet<Capability>,
    /// CPUs that are online.
    pub cpus: usize,
    /// Memory that can be had, in bytes.
    pub memory: Option<u64>,
    /// The directory of the pins.
    pub pins: Pins,
    /// What can make a WireGuard interface.
    pub wireguard: Wireguard,
    /// The relay's own interface.
    pub interface: Interface,
    /// Whether another program has the relay port, and the interface is not there yet.
    pub port_taken: bool,
    /// All network interfaces.
    pub devices: Vec<Device>,
    /// This host's addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Where packets go from the relay's addresses.
    pub ways: Vec<Way>,
    /// nftables' rules.
    pub ruleset: Ruleset,
    /// Whether iptables-legacy has tables.
    pub legacy_iptables: bool,
}

/// The configuration file.
#[derive(Clone, Debug)]
pub enum Configuration {
    /// It is good.
    Good(PathBuf, Box<Config>),
    /// It is not, and why.
    Bad(String),
    /// There is none, and none was named.
    Missing(PathBuf),
}

impl Facts {
    /// The configuration, if it is good.
    pub fn config(&self) -> Option<&Config> {
        match &self.configuration {
            Configuration::Good(_, config) => Some(config),
            _ => None,
        }
    }

    /// The interface with this name.
    pub fn device(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.name == name)
    }
}

/// A kernel.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// What the XDP program needs of it, by name, and whether it has that.
    pub features: Vec<(&'static str, Option<bool>)>,
    /// Why membarrier(2) is refused, if it is.
    pub membarrier: Option<String>,
    /// Whether BPF programs are compiled.
    pub jit: Option<bool>,
    /// Whether it is locked down so far that BPF may not read memory.
    pub confidential: bool,
}

/// The directory of the pins.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    /// The directory.
    pub directory: PathBuf,
    /// Whether it is, or would be, on a BPF file system.
    pub on_bpffs: bool,
    /// Whether a wgrelay runs that has them.
    pub running: bool,
    /// Whether maps of this version are in it: of one that runs, or of one that was killed.
    pub left: bool,
    /// What another version has left in it.
    pub other_versions: Vec<PathBuf>,
}

/// What can make a WireGuard interface.
#[derive(Clone, Debug, Default)]
pub struct Wireguard {
    /// The kernel can.
    pub kernel: Option<bool>,
    /// The program that can, by its name, and whether it is installed.
    pub program: (String, bool),
    /// Whether there is `/dev/net/tun`, which that program needs.
    pub tun: bool,
}

/// The relay's own interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// There is none of that name.
    Absent,
    /// There is, but it does not answer as WireGuard does, and why.
    Mute(String),
    /// It answers.
    Found {
        /// Its UDP port.
        port: Option<u16>,
        /// Its public key.
        public_key: Option<PublicKey>,
    },
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Whether it is Ethernet.
    pub ethernet: bool,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// The largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// The name of its driver.
    pub driver: Option<String>,
    /// Its queues, if the driver tells.
    pub channels: Option<Channels>,
    /// Features of its driver that are on or off.
    pub features: BTreeMap<String, bool>,
    /// What its driver can do with XDP; known since Linux 6.3.
    pub xdp: Option<XdpFeatures>,
    /// Whether there is an XDP program on it.
    pub has_program: bool,
    /// The index of the interface that this one is a VLAN on.
    pub vlan_of: Option<u32>,
    /// How strictly the source of what it receives is checked (`rp_filter`).
    pub rp_filter: Option<u8>,
}

/// What a driver can do with XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Run programs that pass, drop and send back.
    pub basic: bool,
    /// Run programs that redirect.
    pub redirect: bool,
    /// Be redirected to, as it is now.
    pub target: bool,
}

/// How packets go from one of the relay's addresses to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The relay's address.
    pub from: IpAddr,
    /// Where to.
    pub to: Destination,
    /// By which interface, and to whom there; `None` if there is no way.
    pub by: Option<(u32, IpAddr)>,
    /// Whether that neighbour has failed to answer.
    pub silent: bool,
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Anywhere.
    Internet,
    /// Somebody whom the configuration names.
    Endpoint(String),
}
