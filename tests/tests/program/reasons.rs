//! No reason without a packet that meets it.

use std::collections::BTreeSet;

use relay_ebpf::reason::Reason;

use crate::{forwarded, passed};

#[test]
fn every_reason_is_met_by_a_fixture() {
    let met: BTreeSet<_> = forwarded::fixtures()
        .iter()
        .chain(&passed::fixtures())
        .map(|fixture| fixture.reason() as u32)
        .collect();
    let missing: Vec<_> = Reason::ALL.iter().filter(|&&reason| !met.contains(&(reason as u32))).collect();
    assert!(missing.is_empty(), "no fixture meets {missing:?}");
}
