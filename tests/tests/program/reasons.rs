//! No reason without a packet that meets it.

use std::collections::BTreeSet;

use relay_ebpf::reason::Reason;

use crate::{admission, between_families, forwarded, passed, turn, vlan};

/// It is there for the verifier, which wants to see a check after the head has moved: frames don't get shorter than what
/// has just been put before them.
const UNREACHABLE: Reason = Reason::RewriteFailed;

#[test]
fn every_reason_is_met_by_a_fixture() {
    let met: BTreeSet<_> = forwarded::fixtures()
        .iter()
        .chain(&passed::fixtures())
        .chain(&between_families::fixtures())
        .chain(&vlan::fixtures())
        .chain(&admission::fixtures())
        .map(|fixture| fixture.reason())
        .chain(turn::MET)
        .map(|reason| reason as u32)
        .collect();
    let missing: Vec<_> = Reason::ALL
        .iter()
        .filter(|&&reason| reason != UNREACHABLE && !met.contains(&(reason as u32)))
        .collect();
    assert!(missing.is_empty(), "no fixture meets {missing:?}");
}
