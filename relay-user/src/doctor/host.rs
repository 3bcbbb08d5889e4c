//! The host itself: configuration, kernel, capabilities, pins, memory.

use relay_ebpf::tables;

use super::{
    Facts, Findings, Level,
    facts::{Configuration, Kernel, Pins},
};
use crate::{config::Config, preflight};

pub(super) fn check(facts: &Facts, findings: &mut Findings) {
    configuration(&facts.configuration, findings);
    kernel(&facts.kernel, findings);
    capabilities(facts, findings);
    pins(&facts.pins, findings);
    if let Some(config) = facts.config() {
        memory(config, facts, findings);
    }
}

fn configuration(configuration: &Configuration, findings: &mut Findings) {
    let check = "configuration";
    match configuration {
        Configuration::Good(path, _) => findings.ok(check, format!("{} is in order", path.display())),
        Configuration::Bad(fault) => findings.add(
            check,
            Level::Error,
            fault.as_str(),
            "correct the file; docs/configuration.md lists every key",
        ),
        Configuration::Missing(path) => findings.add(
            check,
            Level::Warning,
            format!("there is no {}: only what does not depend on it is looked at", path.display()),
            "write it (README.md has the least that is needed), or name another: `wgrelay doctor FILE`",
        ),
    }
}

fn kernel(kernel: &Kernel, findings: &mut Findings) {
    let Kernel { release, features, membarrier, jit, confidential } = kernel;
    let check = "kernel";
    let missing: Vec<&str> =
        features.iter().filter(|(_, there)| *there == Some(false)).map(|(name, _)| *name).collect();
    let unknown: Vec<&str> =
        features.iter().filter(|(_, there)| there.is_none()).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        findings.add(
            check,
            Level::Error,
            format!("Linux {release} lacks {}", missing.join(", ")),
            "run Linux 5.18 or later, or a vendor's kernel that has it",
        );
    } else if !unknown.is_empty() {
        findings.add(
            check,
            Level::Warning,
            format!("Linux {release} does not say whether it has {}", unknown.join(", ")),
            "run this as root",
        );
    } else {
        findings.ok(check, format!("Linux {release} has what the XDP program needs"));
    }
    if let Some(reason) = membarrier {
        findings.add(
            check,
            Level::Error,
            format!("membarrier(2) is refused: {reason}"),
            "boot without `nohz_full`, with CONFIG_MEMBARRIER, and lift a seccomp filter against it",
        );
    }
    match jit {
        Some(true) => findings.ok(check, "BPF programs are compiled"),
        Some(false) => findings.add(
            check,
            Level::Warning,
            "BPF programs are interpreted, many times slower than compiled",
            "sysctl -w net.core.bpf_jit_enable=1, and in /etc/sysctl.d",
        ),
        None => {}
    }
    if *confidential {
        findings.add(
            check,
            Level::Error,
            "the kernel is locked down (confidentiality): BPF may not be used",
            "boot with `lockdown=integrity`, or without",
        );
    }
}

fn capabilities(facts: &Facts, findings: &mut Findings) {
    let missing = preflight::missing(|capability| facts.capabilities.contains(&capability));
    if missing.is_empty() {
        findings.ok("capabilities", "all that wgrelay needs are held");
    }
    for (capability, why) in missing {
        findings.add(
            "capabilities",
            Level::Error,
            format!("{capability} is missing ({why})"),
            "run wgrelay as root, or give it the capability (`AmbientCapabilities=` of a systemd unit)",
        );
    }
}

fn pins(pins: &Pins, findings: &mut Findings) {
    let Pins { directory, on_bpffs, running, other_versions, .. } = pins;
    let (check, shown) = ("pins", directory.display());
    if !on_bpffs {
        findings.add(
            check,
            Level::Error,
            format!("{shown} is not on a BPF file system"),
            "mount -t bpf bpf /sys/fs/bpf, and in /etc/fstab where systemd does not do it; or set relay.pin_dir to a directory \
             on one",
        );
        return;
    }
    match running {
        true => findings.ok(check, format!("a wgrelay runs with {shown}")),
        false => findings.ok(check, format!("{shown} is on a BPF file system")),
    }
    for other in other_versions {
        findings.add(
            check,
            Level::Error,
            format!("another version of wgrelay has left its maps in {}", other.display()),
            format!("wgrelay unload --pin-dir {shown} (its sessions end)"),
        );
    }
}

/// Of memory, more than the tables should be left.
fn memory(config: &Config, facts: &Facts, findings: &mut Findings) {
    let Some(free) = facts.memory else { return };
    let need = table_bytes(config);
    let (needs, has) = (need >> 20, free >> 20);
    let check = "memory";
    if facts.pins.running {
        // They are allocated already.
    } else if need > free {
        findings.add(
            check,
            Level::Error,
            format!("the tables need {needs} MiB, but {has} MiB can be had"),
            "lower `sessions` and `endpoints` in [limits]",
        );
    } else if need > free / 2 {
        findings.add(
            check,
            Level::Warning,
            format!("the tables take {needs} MiB of the {has} MiB that can be had"),
            "lower `sessions` and `endpoints` in [limits] unless so many are needed",
        );
    } else {
        findings.ok(check, format!("the tables take {needs} MiB of the {has} MiB that can be had"));
    }
}

/// What the maps take, roughly: an entry of a hash has a head of some 64 bytes.
fn table_bytes(config: &Config) -> u64 {
    let limits = &config.limits;
    let of = |entries: u32, bytes: usize| u64::from(entries) * bytes as u64;
    let hash = |entries: u32, key: usize, value: usize| of(entries, 64 + key + value);
    of(tables::slots(limits.sessions), size_of::<tables::Session>())
        + of(tables::ledger_entries(limits.sessions), size_of::<tables::Ledger>())
        + hash(limits.pending, 4, size_of::<tables::Endpoint>())
        + hash(limits.endpoints, size_of::<tables::Endpoint>(), size_of::<tables::Known>())
        + hash(tables::SOURCES_MAX, size_of::<tables::Address>(), size_of::<tables::Source>())
        + of(tables::RATES_MAX, size_of::<tables::Rate>())
        + of(tables::NEXT_HOPS_MAX, size_of::<tables::NextHop>())
        + u64::from(tables::EVENTS_BYTES)
}
