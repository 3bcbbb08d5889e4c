//! Hosts with one fault each: exactly that is found.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use caps::Capability;

use super::{
    Facts, Finding, Level, examine,
    facts::{Configuration, Destination, Device, Interface, Kernel, Pins, Way, Wireguard, XdpFeatures},
    firewall::Ruleset,
};
use crate::{config::Config, ethtool::Channels, members::PublicKey};

const FILE: &str = r#"
[relay]
interface = "wgr0"
create = true
private_key_file = "/var/lib/wgrelay/private.key"
port = 51820
addresses = ["198.51.100.1"]
attach = ["eth0"]
"#;

fn card() -> Device {
    Device {
        name: "eth0".into(),
        index: 2,
        ethernet: true,
        up: true,
        mtu: 1500,
        driver: Some("mlx5_core".into()),
        channels: Some(Channels { receiving: 4, sending: 4, combined: 4, combined_max: 8 }),
        features: BTreeMap::from([("rx-lro".into(), false), ("rx-vlan-hw-parse".into(), true)]),
        xdp: Some(XdpFeatures { basic: true, redirect: true, target: true }),
        has_program: false,
        vlan_of: None,
        rp_filter: Some(0),
    }
}

/// A host without a fault.
fn host() -> Facts {
    Facts {
        configuration: Configuration::Good("relay.toml".into(), Box::new(Config::parse(FILE).unwrap())),
        kernel: Kernel {
            release: "6.12.1".into(),
            features: vec![("bpf_xdp_load_bytes", Some(true))],
            membarrier: None,
            jit: Some(true),
            confidential: false,
        },
        capabilities: HashSet::from([
            Capability::CAP_NET_ADMIN,
            Capability::CAP_NET_RAW,
            Capability::CAP_BPF,
            Capability::CAP_PERFMON,
        ]),
        cpus: 4,
        memory: Some(1 << 30),
        pins: Pins { directory: "/sys/fs/bpf/wgrelay".into(), on_bpffs: true, ..Pins::default() },
        wireguard: Wireguard { kernel: Some(true), ..Wireguard::default() },
        interface: Interface::Absent,
        port_taken: false,
        devices: vec![card()],
        addresses: BTreeSet::from(["198.51.100.1".parse().unwrap()]),
        ways: vec![Way {
            from: "198.51.100.1".parse().unwrap(),
            to: Destination::Internet,
            by: Some((2, "198.51.100.254".parse().unwrap())),
            silent: false,
        }],
        ruleset: Ruleset::Known(serde_json::json!({ "nftables": [] })),
        legacy_iptables: false,
    }
}

/// What is not well with a host that is like [`host`] but for `change`.
fn faults(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = host();
    change(&mut facts);
    examine(&facts).into_iter().filter(|finding| finding.level != Level::Ok).collect()
}

/// Exactly one fault is found; it and its remedy have these words.
#[track_caller]
fn one(level: Level, words: [&str; 2], change: impl FnOnce(&mut Facts)) {
    let found = faults(change);
    let [finding] = &found[..] else { panic!("not one fault: {found:#?}") };
    assert_eq!(finding.level, level, "{finding:?}");
    assert!(finding.what.contains(words[0]), "{finding:?}");
    assert!(finding.remedy.as_ref().is_some_and(|remedy| remedy.contains(words[1])), "{finding:?}");
}

#[test]
fn a_host_without_a_fault_has_none() {
    assert_eq!(faults(|_| {}), []);
    assert_eq!(examine(&host()).worst(), Level::Ok);
}

#[test]
fn the_configuration_is_read() {
    one(Level::Error, ["line 3", "docs/configuration.md"], |facts| {
        facts.configuration = Configuration::Bad("relay.toml, line 3: what?".into());
    });
    one(Level::Warning, ["there is no", "doctor FILE"], |facts| {
        facts.configuration = Configuration::Missing("/etc/wgrelay/relay.toml".into());
    });
}

#[test]
fn the_kernel_is_asked_for_what_it_has() {
    one(Level::Error, ["lacks bpf_xdp_load_bytes", "5.18"], |facts| facts.kernel.features[0].1 = Some(false));
    one(Level::Warning, ["does not say", "root"], |facts| facts.kernel.features[0].1 = None);
    one(Level::Error, ["membarrier", "nohz_full"], |facts| facts.kernel.membarrier = Some("EINVAL".into()));
    one(Level::Warning, ["interpreted", "bpf_jit_enable=1"], |facts| facts.kernel.jit = Some(false));
    one(Level::Error, ["locked down", "lockdown=integrity"], |facts| facts.kernel.confidential = true);
}

#[test]
fn capabilities_that_are_missing_are_named() {
    one(Level::Error, ["CAP_NET_RAW", "AmbientCapabilities"], |facts| {
        facts.capabilities.remove(&Capability::CAP_NET_RAW);
    });
    let all = faults(|facts| {
        facts.capabilities.remove(&Capability::CAP_BPF);
        facts.capabilities.remove(&Capability::CAP_PERFMON);
        facts.capabilities.insert(Capability::CAP_SYS_ADMIN);
    });
    assert_eq!(all, [], "it includes them");
}

#[test]
fn pins_need_a_bpf_file_system_of_their_own_version() {
    one(Level::Error, ["not on a BPF file system", "mount -t bpf"], |facts| facts.pins.on_bpffs = false);
    one(Level::Error, ["abi-1", "wgrelay unload --pin-dir /sys/fs/bpf/wgrelay"], |facts| {
        facts.pins.other_versions = vec!["/sys/fs/bpf/wgrelay/abi-1".into()];
    });
}

#[test]
fn tables_that_do_not_fit_into_memory_are_told() {
    one(Level::Error, ["tables need", "[limits]"], |facts| facts.memory = Some(1 << 20));
    one(Level::Warning, ["tables take", "[limits]"], |facts| facts.memory = Some(32 << 20));
    assert_eq!(
        faults(|facts| (facts.memory, facts.pins.running) = (Some(1 << 20), true)),
        [],
        "those of one that runs have it already"
    );
}

#[test]
fn an_interface_must_be_there_and_be_ethernet() {
    let all = faults(|facts| {
        facts.devices.clear();
        facts.ways.clear();
    });
    assert_eq!(all.len(), 1);
    assert!(all[0].what.contains("no interface eth0"), "{all:?}");
    one(Level::Error, ["no Ethernet", "attach"], |facts| facts.devices[0].ethernet = false);
    one(Level::Error, ["is down", "ip link set dev eth0 up"], |facts| facts.devices[0].up = false);
}

#[test]
fn a_driver_without_xdp_is_slow_or_refused() {
    let without = |facts: &mut Facts| facts.devices[0].xdp = Some(XdpFeatures::default());
    one(Level::Warning, ["many times slower", "network card"], without);
    one(Level::Error, ["xdp_mode is \"driver\"", "\"auto\""], |facts| {
        without(facts);
        configure(facts, "attach = ", "xdp_mode = \"driver\"\nattach = ");
    });
    one(Level::Warning, ["\"generic\"", "\"auto\""], |facts| {
        configure(facts, "attach = ", "xdp_mode = \"generic\"\nattach = ");
    });
    one(Level::Warning, ["does not say", "wgrelay status"], |facts| facts.devices[0].xdp = None);
}

/// Changes the configuration's text.
fn configure(facts: &mut Facts, from: &str, to: &str) {
    assert!(FILE.contains(from));
    let config = Config::parse(&FILE.replace(from, to)).unwrap();
    facts.configuration = Configuration::Good("relay.toml".into(), Box::new(config));
}

#[test]
fn another_xdp_program_is_in_the_way_but_not_our_own() {
    one(Level::Error, ["has an XDP program already", "xdp off"], |facts| facts.devices[0].has_program = true);
    assert_eq!(
        faults(
            |facts| (facts.devices[0].has_program, facts.pins.running, facts.pins.left) = (true, true, true)
        ),
        []
    );
    assert_eq!(faults(|facts| (facts.devices[0].has_program, facts.pins.left) = (true, true)), []);
}

#[test]
fn drivers_of_virtual_machines_have_limits_of_their_own() {
    let virtio = |facts: &mut Facts, max| {
        facts.devices[0].driver = Some("virtio_net".into());
        facts.devices[0].channels =
            Some(Channels { receiving: 4, sending: 4, combined: 4, combined_max: max });
    };
    one(Level::Warning, ["4 queues for 4 CPUs", "8 queues"], |facts| virtio(facts, 4));
    assert_eq!(faults(|facts| virtio(facts, 8)), []);
    one(Level::Warning, ["merges packets", "ethtool -K eth0 lro off rx-gro-hw off"], |facts| {
        virtio(facts, 8);
        facts.devices[0].features.insert("rx-gro-hw".into(), true);
    });
    one(Level::Error, ["ena needs half", "ethtool -L eth0 combined 4"], |facts| {
        facts.devices[0].driver = Some("ena".into());
        facts.devices[0].channels = Some(Channels { receiving: 8, sending: 8, combined: 8, combined_max: 8 });
    });
    one(Level::Error, ["MTU 9001", "ip link set dev eth0 mtu 3498"], |facts| {
        facts.devices[0].driver = Some("ena".into());
        facts.devices[0].mtu = 9001;
    });
    one(Level::Warning, ["is a veth", "ethtool -K DEV tx off"], |facts| {
        facts.devices[0].driver = Some("veth".into());
    });
}

#[test]
fn queues_and_mtu_are_looked_at() {
    one(Level::Warning, ["one queue for 4 CPUs", "ethtool -L eth0 combined 4"], |facts| {
        facts.devices[0].channels = Some(Channels { receiving: 1, sending: 1, combined: 1, combined_max: 8 });
    });
    one(Level::Warning, ["MTU 9000", "mtu 3498"], |facts| facts.devices[0].mtu = 9000);
    one(Level::Warning, ["MTU 1300", "smaller MTU at the hosts"], |facts| facts.devices[0].mtu = 1300);
}

#[test]
fn vlans_and_offloads_of_tags_do_not_go_together() {
    let vlan = || Device {
        name: "eth0.7".into(),
        index: 9,
        vlan_of: Some(2),
        driver: Some("802.1Q VLAN Support".into()),
        xdp: Some(XdpFeatures::default()),
        ..card()
    };
    one(Level::Warning, ["takes tags off", "ethtool -K eth0 rxvlan off txvlan off"], |facts| {
        facts.devices.push(vlan());
    });
    let all = faults(|facts| {
        facts.devices.push(vlan());
        facts.devices[0].features.clear();
        facts.ways[0].by = Some((9, "198.51.100.254".parse().unwrap()));
    });
    assert_eq!(all, [], "a VLAN's frames leave by the interface below, which has the program");
    one(Level::Warning, ["is a VLAN", "below"], |facts| {
        facts.devices.push(vlan());
        facts.devices[0].features.clear();
        facts.devices[1].features.clear();
        configure(facts, r#"attach = ["eth0"]"#, r#"attach = ["eth0.7"]"#);
        facts.ways.clear();
    });
}

#[test]
fn several_uplinks_are_not_checked_by_source() {
    let two = |facts: &mut Facts| {
        configure(facts, r#"attach = ["eth0"]"#, r#"attach = ["eth0", "eth1"]"#);
        facts.devices.push(Device { name: "eth1".into(), index: 3, ..card() });
    };
    assert_eq!(faults(two), []);
    one(Level::Warning, ["rp_filter", "net.ipv4.conf.eth1.rp_filter=2"], |facts| {
        two(facts);
        facts.devices[1].rp_filter = Some(1);
    });
    one(Level::Warning, ["not those that redirect", "attach to this one alone"], |facts| {
        two(facts);
        facts.devices[1].xdp = Some(XdpFeatures { basic: true, redirect: false, target: true });
    });
    one(Level::Warning, ["takes no redirected frames", "queue for each CPU"], |facts| {
        two(facts);
        facts.pins.running = true;
        facts.devices[1].has_program = true;
        facts.devices[1].xdp = Some(XdpFeatures { basic: true, redirect: true, target: false });
    });
}

#[test]
fn the_wireguard_interface_is_there_or_can_be_made() {
    one(Level::Error, ["there is no interface wgr0", "wg-quick up wgr0"], |facts| {
        configure(facts, "create = true\nprivate_key_file = \"/var/lib/wgrelay/private.key\"", "");
    });
    one(Level::Error, ["wireguard-go is not installed", "modprobe wireguard"], |facts| {
        facts.wireguard =
            Wireguard { kernel: Some(false), program: ("wireguard-go".into(), false), tun: true };
    });
    one(Level::Error, ["/dev/net/tun", "modprobe tun"], |facts| {
        facts.wireguard =
            Wireguard { kernel: Some(false), program: ("wireguard-go".into(), true), tun: false };
    });
    one(Level::Error, ["another program has UDP port 51820", "ss -lunp"], |facts| facts.port_taken = true);
    let found = |port, key: Option<u8>| Interface::Found {
        port: Some(port),
        public_key: key.map(|byte| PublicKey([byte; 32])),
    };
    assert_eq!(faults(|facts| facts.interface = found(51820, Some(1))), []);
    one(Level::Error, ["listens at port 4", "wg set wgr0 listen-port 51820"], |facts| {
        facts.interface = found(4, Some(1));
    });
    one(Level::Error, ["no private key", "wg genkey"], |facts| facts.interface = found(51820, None));
    one(Level::Error, ["does not answer", "ip link del wgr0"], |facts| {
        facts.interface = Interface::Mute("not supported".into());
    });
}

#[test]
fn addresses_and_ways_are_this_hosts() {
    one(Level::Error, ["198.51.100.1 is not an address of this host", "behind any NAT"], |facts| {
        facts.addresses.clear();
    });
    one(Level::Warning, ["no route from 198.51.100.1 to the Internet", "ip route get"], |facts| {
        facts.ways[0].by = None;
    });
    one(Level::Error, ["to relay \"two\"", "ip route get"], |facts| {
        facts.ways[0].by = None;
        facts.ways[0].to = Destination::Endpoint("relay \"two\"".into());
    });
    one(Level::Warning, ["leave by eth1", "add \"eth1\" to `attach`"], |facts| {
        facts.devices.push(Device { name: "eth1".into(), index: 3, ..card() });
        facts.ways[0].by = Some((3, "198.51.100.254".parse().unwrap()));
    });
    one(Level::Warning, ["does not answer", "ip neigh show 198.51.100.254"], |facts| {
        facts.ways[0].silent = true;
    });
}

#[test]
fn the_firewall_is_looked_at_last() {
    one(Level::Warning, ["could not be looked at", "install nftables"], |facts| {
        facts.ruleset = Ruleset::Unknown("nft is not installed".into());
    });
    let all = faults(|facts| facts.legacy_iptables = true);
    assert!(all[0].what.contains("iptables-legacy"), "{all:?}");
}
