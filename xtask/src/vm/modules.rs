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

/// Paths of modules by their names.
fn names<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeMap<String, &'a str> {
    paths.map(|path| (name(path), path)).collect()
}

/// A module's name as modprobe takes it: a file's has dashes at times.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// What each module needs, by the paths that `modules.dep` has for them.
type Dependencies<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// Reads modprobe's tables. Some modules don't name what they need but what it must be able to do: `modules.softdep` has
/// that, and `modules.alias` which modules can.
fn parse<'a>(modules_dep: &'a str, softdep: &str, alias: &str) -> Dependencies<'a> {
    let mut all: Dependencies = modules_dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module, needs.split_whitespace().collect()))
        .collect();
    let names = names(all.keys().copied());
    let able = |what: &str| {
        let aliased = alias.lines().filter_map(|line| line.strip_prefix("alias ")?.split_once(' '));
        let aliased = aliased.filter(|(alias, _)| *alias == what).map(|(_, module)| module.to_owned());
        aliased
            .chain([what.to_owned()])
            .filter_map(|module| names.get(&name(&module)).copied())
            .collect::<Vec<_>>()
    };
    for line in softdep.lines().filter_map(|line| line.strip_prefix("softdep ")) {
        let (module, needs) = line.split_once(' ').unwrap_or((line, ""));
        let needs = needs.split_whitespace().filter(|word| !word.ends_with(':'));
        if let Some(all) = names.get(&name(module)).and_then(|path| all.get_mut(path)) {
            all.extend(needs.flat_map(able));
        }
    }
    all
}

fn wanted(path: &str) -> bool {
    let Some((_, below)) = path.split_once("kernel/") else { return false };
    DIRECTORIES.iter().any(|directory| below.starts_with(directory)) || MODULES.contains(&&*name(path))
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
    let read = |name: &str| fs::read_to_string(from.join(name)).with_context(|| format!("read {name}"));
    let [text, softdep, alias] = [read("modules.dep")?, read("modules.softdep")?, read("modules.alias")?];
    let built_in = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];
    for path in closure(&parse(&text, &softdep, &alias)).into_iter().chain(built_in) {
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
kernel/net/netfilter/nf_conntrack.ko: kernel/lib/libcrc32c.ko
kernel/lib/libcrc32c.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
";
    const SOFTDEP: &str =
        "# comment\nsoftdep libcrc32c pre: crc32c\nsoftdep e1000 pre: crc32c post: unused\n";
    const ALIAS: &str = "alias crc32c crc32c_intel\nalias crc32c crc32c_generic\nalias crc32 unused\n";

    #[test]
    fn what_is_wanted_comes_with_all_that_it_needs_and_nothing_else() {
        let all: Vec<_> = closure(&parse(MODULES_DEP, SOFTDEP, ALIAS)).into_iter().collect();
        let expected = [
            "kernel/arch/x86/crypto/chacha-x86.ko",
            "kernel/arch/x86/crypto/crc32c-intel.ko",
            "kernel/crypto/crc32c_generic.ko",
            "kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko.xz",
            "kernel/drivers/net/wireguard/wireguard.ko",
            "kernel/lib/crypto/chacha.ko",
            "kernel/lib/libcrc32c.ko",
            "kernel/net/ipv4/udp_tunnel.ko",
            "kernel/net/netfilter/nf_conntrack.ko",
        ];
        assert_eq!(all, expected);
    }
}
