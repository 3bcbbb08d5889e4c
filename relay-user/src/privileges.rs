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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left to a thread after `f`, and what it had before. Capabilities are a thread's own, so the others keep theirs.
    fn left_after(f: impl FnOnce() + Send + 'static) -> (CapsHashSet, CapsHashSet) {
        let before = caps::read(None, CapSet::Effective).unwrap();
        let left = std::thread::spawn(|| {
            f();
            let left = caps::read(None, CapSet::Effective).unwrap();
            assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), left);
            assert!(caps::read(None, CapSet::Inheritable).unwrap().is_empty());
            left
        });
        let left = left.join().unwrap();
        assert_eq!(caps::read(None, CapSet::Effective).unwrap(), before);
        (before, left)
    }

    #[test]
    fn what_is_not_needed_is_given_up() {
        let (before, left) = left_after(|| drop(|| true).unwrap());
        assert_eq!(left, before.into_iter().filter(|capability| *capability == KEPT).collect());
        let (before, left) = left_after(|| drop(|| false).unwrap());
        let bpf = before.contains(&Capability::CAP_BPF);
        assert_eq!(left.contains(&Capability::CAP_BPF), bpf, "an old kernel wants it for maps");
        let (_, left) = left_after(give_up_all);
        assert!(left.is_empty());
    }

    #[test]
    fn maps_are_tried_without_the_right_to_them() {
        let held = || caps::read(None, CapSet::Effective).unwrap();
        let (_, left) = left_after(move || {
            drop(|| !BPF.iter().any(|capability| held().contains(capability))).unwrap();
        });
        assert!(!BPF.iter().any(|capability| left.contains(capability)));
    }
}
