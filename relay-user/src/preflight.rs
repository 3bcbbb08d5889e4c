//! What must hold before anything is started: told in one line, with the remedy.

use anyhow::{Context as _, Result, bail};
use caps::{CapSet, Capability};

/// The oldest kernel that has all that the XDP program uses (`bpf_xdp_load_bytes`, Linux 5.18).
const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// What wgrelay needs, and for what.
const CAPABILITIES: [(Capability, &str); 4] = [
    (Capability::CAP_NET_ADMIN, "to attach XDP and to manage the WireGuard interface"),
    (Capability::CAP_NET_RAW, "to send handshake messages from the relay port"),
    (Capability::CAP_BPF, "to load BPF maps and programs"),
    (Capability::CAP_PERFMON, "to load a BPF program that compares packet pointers"),
];

/// Checks the kernel and the capabilities of this process.
pub fn check() -> Result<()> {
    let release = nix::sys::utsname::uname().context("ask for the kernel's version")?;
    check_kernel(&release.release().to_string_lossy())?;
    let held = caps::read(None, CapSet::Effective).context("read this process's capabilities")?;
    for (capability, why) in CAPABILITIES {
        // CAP_SYS_ADMIN includes what was split off from it in Linux 5.8.
        let split = matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
        let covered = split && held.contains(&Capability::CAP_SYS_ADMIN);
        if !held.contains(&capability) && !covered {
            bail!("{capability} is missing ({why}): run wgrelay as root, or give it the capability");
        }
    }
    Ok(())
}

fn check_kernel(release: &str) -> Result<()> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        // A version that can't be read is no reason to refuse: the verifier has the last word.
        return Ok(());
    };
    let (old_major, old_minor) = OLDEST_KERNEL;
    if (major, minor) < OLDEST_KERNEL {
        bail!("Linux {release} is too old: wgrelay needs {old_major}.{old_minor} or later");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_kernel;

    #[test]
    fn kernels_are_told_apart_by_major_and_minor() {
        for good in ["5.18.0", "6.1.0-44-cloud-amd64", "6.18.44", "10.0", "custom"] {
            check_kernel(good).unwrap();
        }
        for old in ["5.17.15", "4.19.0-27-amd64", "5.4"] {
            let error = check_kernel(old).unwrap_err().to_string();
            assert!(error.contains("needs 5.18"), "{error}");
        }
    }
}
