//! Where a relay that is no XDP program is measured: a namespace for the load, one for the relay, a cable between.

use anyhow::Result;
use aya::{Ebpf, programs::XdpMode};

use super::{
    Load,
    flows::{Flows, GATEWAY, GATEWAY_MAC, RELAY},
};
use crate::{
    lab::{Lab, Namespace},
    xdp_pass,
};

/// The device at both ends of the cable.
pub const DEVICE: &str = "eth0";

/// A place, with the load in it.
pub struct Place {
    /// The relay's namespace.
    pub relay: Namespace,
    /// The load.
    pub load: Load,
    /// The MAC address of the relay's device.
    pub relay_mac: [u8; 6],
    _passing: Ebpf,
}

impl Place {
    /// Makes it. The relay's host would forward whatever it is told to, and believes all flows behind one gateway.
    ///
    /// # Errors
    /// If the load can't be set up.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let [source, relay] = ["s", "r"].map(|role| lab.namespace(&format!("{role}-{name}")));
        for namespace in [&source, &relay] {
            // No router solicitations between the frames.
            namespace.set("net/ipv6/conf/all/disable_ipv6", "1");
            namespace.set("net/ipv6/conf/default/disable_ipv6", "1");
        }
        relay.set("net/ipv4/ip_forward", "1");
        // Packets leave by the device that they came by, which is what redirects warn of.
        for path in ["all", "default"] {
            relay.set(&format!("net/ipv4/conf/{path}/send_redirects"), "0");
            relay.set(&format!("net/ipv4/conf/{path}/rp_filter"), "0");
        }
        source.connect(DEVICE, &relay, DEVICE);
        relay.ip(&format!("address add {}/30 dev {DEVICE}", RELAY.ip()));
        relay.ip(&format!("neigh replace {GATEWAY} lladdr {} nud permanent dev {DEVICE}", mac(GATEWAY_MAC)));
        relay.ip(&format!("route replace default via {GATEWAY}"));
        // For what a relay's XDP program transmits. All contenders have it, so that all frames come the same way.
        let passing = xdp_pass::attach(&source, DEVICE);
        let load = Load::new(&source, DEVICE)?;
        let relay_mac = relay.mac_octets(DEVICE);
        Ok(Self { relay, load, relay_mac, _passing: passing })
    }

    /// Flows to this relay.
    pub fn flows(&self, count: u32, size: usize) -> Flows {
        Flows::new(count, size, self.relay_mac)
    }
}

/// As `ip` and `nft` take it.
pub fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// `reflect`: an XDP program that swaps the MAC addresses and transmits. What it costs is the load's cost and the cable's.
pub fn reflect(place: &Place) -> Ebpf {
    xdp_pass::attach_instructions(&place.relay, DEVICE, &REFLECT, XdpMode::Driver)
}

/// The opcodes are those of Documentation/bpf/standardization/instruction-set.rst.
const REFLECT: [[u8; 8]; 16] = {
    const LOAD_U32: u8 = 0x61;
    const LOAD_U16: u8 = 0x69;
    const STORE_U32: u8 = 0x63;
    const STORE_U16: u8 = 0x6b;
    const MOVE: u8 = 0xbf;
    const MOVE_NUMBER: u8 = 0xb7;
    const ADD_NUMBER: u8 = 0x07;
    const JUMP_IF_GREATER: u8 = 0x2d;
    const EXIT: u8 = 0x95;
    const XDP_PASS: i32 = 2;
    const XDP_TX: i32 = 3;
    [
        // r2, r3 = the frame's begin and end; r0 = the verdict on one without addresses
        instruction(LOAD_U32, 2, 1, 0, 0),
        instruction(LOAD_U32, 3, 1, 4, 0),
        instruction(MOVE_NUMBER, 0, 0, 0, XDP_PASS),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_NUMBER, 4, 0, 0, 14),
        instruction(JUMP_IF_GREATER, 4, 3, 9, 0),
        instruction(LOAD_U32, 4, 2, 0, 0),
        instruction(LOAD_U16, 5, 2, 4, 0),
        instruction(LOAD_U32, 6, 2, 6, 0),
        instruction(LOAD_U16, 7, 2, 10, 0),
        instruction(STORE_U32, 2, 6, 0, 0),
        instruction(STORE_U16, 2, 7, 4, 0),
        instruction(STORE_U32, 2, 4, 6, 0),
        instruction(STORE_U16, 2, 5, 10, 0),
        instruction(MOVE_NUMBER, 0, 0, 0, XDP_TX),
        instruction(EXIT, 0, 0, 0, 0),
    ]
};

const fn instruction(opcode: u8, to: u8, from: u8, offset: i16, number: i32) -> [u8; 8] {
    let registers = if cfg!(target_endian = "big") { to << 4 | from } else { from << 4 | to };
    let ([o0, o1], [n0, n1, n2, n3]) = (offset.to_ne_bytes(), number.to_ne_bytes());
    [opcode, registers, o0, o1, n0, n1, n2, n3]
}
