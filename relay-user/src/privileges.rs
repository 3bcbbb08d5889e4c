//! What this process may do. At start it takes rights that it does not need any more once the program is attached: who
//! takes the process over then is to find none of them.
//!
//! Capabilities are a thread's own. The drop is the main thread's; threads that are started later inherit it, and those
//! that were started before end by themselves or call [`give_up_all`].

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability, CapsHashSet};
use tracing::{debug, info};

/// Needed as long as it runs: to set the WireGuard interface's peers, to ask for neighbours, to remove the interface.
const KEPT: Capability = Capability::CAP_NET_ADMIN;

/// Either includes the right to use maps.
const BPF: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN];

/// Gives up all that is not needed any more. `maps_can_be_used` tells whether BPF maps can be used as it is: kernels before
/// 5.19 take CAP_BPF for that too, where it is not everybody's.
pub fn drop(maps_can_be_used: impl FnOnce() -> bool) -> Result<()> {
    let held = caps::read(None, CapSet::Effective).context("read this process's capabilities")?;
    let mut kept: CapsHashSet = held.iter().copied().filter(|&capability| capability == KEPT).collect();
    caps::set(None, CapSet::Effective, &kept).context("drop effective capabilities")?;
    if !maps_can_be_used() {
        kept.extend(BPF.into_iter().find(|capability| held.contains(capability)));
    }
    caps::set(None, CapSet::Effective, &held).context("take capabilities back for a moment")?;
    limit(&kept)?;
    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort();
    info!(kept = names.join(" "), "privileges dropped");
    Ok(())
}

/// Gives up everything: for threads that need nothing.
pub fn give_up_all() {
    if let Err(error) = limit(&CapsHashSet::new()) {
        debug!("{error:#}");
    }
}

fn limit(kept: &CapsHashSet) -> Result<()> {
    // What is not in the bounding set can't be had again, not even by root that starts a program. It takes CAP_SETPCAP to
    // leave it; a service without has the bounding set that its unit gave it.
    for capability in caps::all() {
        if !kept.contains(&capability) && caps::drop(None, CapSet::Bounding, capability).is_err() {
            break;
        }
    }
    caps::clear(None, CapSet::Ambient).context("drop ambient capabilities")?;
    caps::clear(None, CapSet::Inheritable).context("drop inheritable capabilities")?;
    caps::set(None, CapSet::Effective, kept).context("drop effective capabilities")?;
    caps::set(None, CapSet::Permitted, kept).context("drop permitted capabilities")
}
