//! The kernel modules that the guest needs, and those that these need.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process::run;

/// Whole directories below `kernel/`: the guest loads what it needs of them by itself.
const DIRECTORIES: [&str; 6] =
    ["net/bridge/", "net/ipv4/", "net/ipv6/", "net/netfilter/", "drivers/net/wireguard/", "drivers/virtio/"];
/// Single modules: devices.
const MODULES: [&str; 4] = ["veth", "tun", "virtio_net", "e1000e"];

/// A module's dependencies, by the path that `modules.dep` has for it.
type Dependencies<'a> = BTreeMap<&'a str, Vec<&'a str>>;

fn parse(modules_dep: &str) -> Dependencies<'_> {
    modules_dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module, needs.split_whitespace().collect()))
        .collect()
}

fn wanted(path: &str) -> bool {
    let Some((_, below)) = path.split_once("kernel/") else { return false };
    let file = below.rsplit('/').next().unwrap_or(below);
    let name = file.split('.').next().unwrap_or(file);
    DIRECTORIES.iter().any(|directory| below.starts_with(directory)) || MODULES.contains(&name)
}

/// What is wanted, and all that it needs.
fn closure<'a>(dependencies: &Dependencies<'a>) -> BTreeSet<&'a str> {
    let mut all = BTreeSet::new();
    let mut todo: Vec<&str> = dependencies.keys().copied().filter(|path| wanted(path)).collect();
    while let Some(path) = todo.pop() {
        if all.insert(path) {
            todo.extend(dependencies.get(path).into_iter().flatten());
        }
    }
    all
}

/// Copies the modules from a kernel's directory to the same place in the guest's tree.
pub fn copy(from: &Path, release: &str, tree: &Path) -> Result<()> {
    let to = tree.join("lib/modules").join(release);
    let text = fs::read_to_string(from.join("modules.dep")).context("read modules.dep")?;
    let built_in = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];
    for path in closure(&parse(&text)).into_iter().chain(built_in) {
        let (from, to) = (from.join(path), to.join(path));
        fs::create_dir_all(to.parent().expect("a module is in a directory"))?;
        fs::copy(&from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    let mut depmod = Command::new(crate::process::find("depmod").context("depmod is not installed")?);
    run(depmod.arg("--basedir").arg(tree).arg(release)).context("make modprobe's tables for the guest")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES_DEP: &str = "\
kernel/drivers/net/wireguard/wireguard.ko: kernel/lib/crypto/chacha.ko kernel/net/ipv4/udp_tunnel.ko
kernel/lib/crypto/chacha.ko: kernel/arch/x86/crypto/chacha-x86.ko
kernel/arch/x86/crypto/chacha-x86.ko:
kernel/net/ipv4/udp_tunnel.ko:
kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko.xz:
kernel/drivers/net/ethernet/intel/e1000/e1000.ko: kernel/lib/unused.ko
kernel/lib/unused.ko:
";

    #[test]
    fn what_is_wanted_comes_with_all_that_it_needs_and_nothing_else() {
        let all: Vec<_> = closure(&parse(MODULES_DEP)).into_iter().collect();
        let expected = [
            "kernel/arch/x86/crypto/chacha-x86.ko",
            "kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko.xz",
            "kernel/drivers/net/wireguard/wireguard.ko",
            "kernel/lib/crypto/chacha.ko",
            "kernel/net/ipv4/udp_tunnel.ko",
        ];
        assert_eq!(all, expected);
    }
}
