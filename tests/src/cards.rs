//! Network cards as cables of the relay's, where a machine has some to spare: a virtual machine that `cargo xtask vm` has
//! made.
//!
//! The cards are connected in pairs, outside of that machine. Their MAC addresses say which belong together:
//! 52:54:00:77:PAIR:01 is for the relay, and 52:54:00:77:PAIR:02 is the other end.

use std::{fs, time::Duration};

use crate::{cleanup, command::run, lab::Namespace, wait::until};

/// Of the relay's cards, if it is to have cards and not veth.
pub fn driver() -> Option<String> {
    std::env::var("WGRELAY_LAB_CARDS").ok()
}

/// Most pairs that there may be.
const PAIRS: u8 = 16;

/// Takes a free pair whose first card has this driver, and makes it the cable between `far_device` there and `device` of
/// the relay. When their namespaces go, the kernel gives the cards back.
pub fn connect(driver: &str, relay: &Namespace, device: &str, far: &Namespace, far_device: &str) {
    let _making = cleanup::making();
    let [near_card, far_card] = until(&format!("free pair of {driver}"), Duration::from_secs(10), || {
        (0..PAIRS).find_map(|pair| free(pair, driver))
    });
    for (card, namespace, device) in [(near_card, relay, device), (far_card, far, far_device)] {
        run(crate::command::program("ip").args(["link", "set", &card, "down"]));
        run(crate::command::program("ip").args([
            "link",
            "set",
            &card,
            "netns",
            namespace.name(),
            "name",
            device,
        ]));
        namespace.ip(&format!("link set {device} up"));
    }
    run(far.command("ethtool").args(["-K", far_device, "tx", "off"]));
}

/// The names of a pair's cards, if both are where they were at first.
fn free(pair: u8, driver: &str) -> Option<[String; 2]> {
    let [near, far] = [1, 2].map(|end| card(&format!("52:54:00:77:{pair:02x}:{end:02x}")));
    let (near, far) = (near?, far?);
    let link = fs::read_link(format!("/sys/class/net/{near}/device/driver")).ok()?;
    (link.file_name()?.to_str() == Some(driver)).then_some([near, far])
}

fn card(mac: &str) -> Option<String> {
    let names =
        fs::read_dir("/sys/class/net").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let has = |name: &String| {
        fs::read_to_string(format!("/sys/class/net/{name}/address"))
            .is_ok_and(|address| address.trim() == mac)
    };
    names.into_iter().find(has)
}
