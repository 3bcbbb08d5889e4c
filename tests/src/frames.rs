//! What arrives at a device, counted before the network stack sees it.

use crate::{command::run, lab::Namespace};

/// Counts the frames that come in by a device for one MAC address, whether the device has it or not.
#[derive(Debug)]
pub struct FrameCounter<'a> {
    namespace: &'a Namespace,
}

impl<'a> FrameCounter<'a> {
    /// Counts from now on. One for each namespace.
    pub fn new(namespace: &'a Namespace, device: &str, mac: &str) -> Self {
        namespace.nft(&format!(
            "table netdev frames {{
                counter seen {{ }}
                chain ingress {{
                    type filter hook ingress device {device} priority 0
                    ether daddr {mac} counter name seen
                }}
            }}"
        ));
        Self { namespace }
    }

    /// How many so far.
    pub fn count(&self) -> u64 {
        let list = ["-j", "list", "counter", "netdev", "frames", "seen"];
        let text = run(self.namespace.command("nft").args(list));
        let json: serde_json::Value = serde_json::from_str(&text).expect("nft prints JSON");
        let counters = json["nftables"].as_array().into_iter().flatten();
        let mut packets = counters.filter_map(|entry| entry["counter"]["packets"].as_u64());
        packets.next().unwrap_or_else(|| panic!("no counter in {text}"))
    }
}

impl Namespace {
    /// The MAC address of a device.
    pub fn mac(&self, device: &str) -> String {
        let text = self.ip(&format!("-j link show dev {device}"));
        let json: serde_json::Value = serde_json::from_str(&text).expect("ip prints JSON");
        json[0]["address"].as_str().unwrap_or_else(|| panic!("no address in {text}")).to_owned()
    }

    /// The octets of that address.
    pub fn mac_octets(&self, device: &str) -> [u8; 6] {
        let text = self.mac(device);
        let octets: Result<Vec<u8>, _> = text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
        let octets = octets.ok().and_then(|octets| octets.try_into().ok());
        octets.unwrap_or_else(|| panic!("{text} is no MAC address"))
    }

    /// Gives a device another MAC address and tells the neighbours, as the successor of a failed router does.
    pub fn change_mac(&self, device: &str, mac: &str) {
        self.set(&format!("net/ipv4/conf/{device}/arp_notify"), "1");
        self.set(&format!("net/ipv6/conf/{device}/ndisc_notify"), "1");
        self.ip(&format!("link set {device} address {mac}"));
    }
}
