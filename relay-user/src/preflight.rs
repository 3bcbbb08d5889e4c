//! What must hold before anything is started: told in one line, with the remedy.

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The youngest thing that the XDP program uses, and the Linux that brought it. A kernel is asked for the thing itself and
/// not for its version: vendors carry such things back to kernels with old numbers.
pub const YOUNGEST: (BpfHelper, &str, &str) =
    (BpfHelper::BPF_FUNC_xdp_load_bytes, "bpf_xdp_load_bytes", "5.18");

/// What wgrelay needs, and for what.
const CAPABILITIES: [(Capability, &str); 4] = [
    (Capability::CAP_NET_ADMIN, "to attach XDP and to manage the WireGuard interface"),
    (Capability::CAP_NET_RAW, "to send handshake messages from the relay port"),
    (Capability::CAP_BPF, "to load BPF maps and programs"),
    (Capability::CAP_PERFMON, "to load a BPF program that compares packet pointers"),
];

/// Checks the capabilities of this process and the kernel.
pub fn check() -> Result<()> {
    let held = caps::read(None, CapSet::Effective).context("read this process's capabilities")?;
    if let Some((capability, why)) = missing(|capability| held.contains(&capability)).first() {
        bail!("{capability} is missing ({why}): run wgrelay as root, or give it the capability");
    }
    check_kernel()
}

/// Enough for all clients of the TURN server that there may be, and their relayed addresses.
const OPEN_FILES: u64 = 65_536;

/// Lets this process have as many files open as it may: 1,024 are usual for those that have not asked for more.
pub fn raise_open_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("ask how many files may be open")?;
    let wanted = hard.min(OPEN_FILES);
    if wanted > soft {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).context("ask for more open files")?;
    }
    Ok(())
}

/// What is needed and not held, and for what.
pub fn missing(held: impl Fn(Capability) -> bool) -> Vec<(Capability, &'static str)> {
    let covered = |capability| {
        // CAP_SYS_ADMIN includes what was split off from it in Linux 5.8.
        let split = matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
        held(capability) || split && held(Capability::CAP_SYS_ADMIN)
    };
    CAPABILITIES.into_iter().filter(|(capability, _)| !covered(*capability)).collect()
}

fn check_kernel() -> Result<()> {
    let (helper, name, since) = YOUNGEST;
    // A question that can't be answered is no reason to refuse: the verifier has the last word.
    if let Ok(false) = is_helper_supported(ProgramType::Xdp, helper) {
        let system = nix::sys::utsname::uname().context("ask for the kernel's version")?;
        bail!(
            "Linux {} is too old for wgrelay: its XDP programs can't call {name}; run Linux {since} or later, or a vendor's \
             kernel that has it",
            system.release().to_string_lossy()
        );
    }
    Ok(())
}
