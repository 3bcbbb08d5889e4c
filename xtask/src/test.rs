//! The tiers of tests.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    attack, build, fuzz, fuzz_user, package,
    process::{cargo, run},
    setup::{self, Part},
    vm,
};

/// A tier of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tier {
    /// Unit tests of all crates; no privileges
    Host,
    /// What userspace reads from outside, by libFuzzer, 20 s for each target; no privileges
    Fuzz,
    /// The control plane's stores, with real etcd; no privileges
    Store,
    /// The API and the command line, also by schemathesis; no privileges
    Api,
    /// The XDP program through BPF_PROG_TEST_RUN; needs root
    Program,
    /// The XDP program against an independent model of it, 1,000,000 random frames; needs root
    Oracle,
    /// Real hosts and wgrelay in network namespaces; needs root
    Lab,
    /// Attacks on a running wgrelay; needs root
    Attack,
    /// An older kernel, with WireGuard of its own, in a virtual machine; no privileges
    Vm,
}

impl Tier {
    /// All tiers, quick ones first.
    pub const ALL: &[Self] = &[
        Self::Host,
        Self::Fuzz,
        Self::Store,
        Self::Api,
        Self::Program,
        Self::Oracle,
        Self::Lab,
        Self::Attack,
        Self::Vm,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Fuzz => "fuzz",
            Self::Store => "store",
            Self::Api => "api",
            Self::Program => "program",
            Self::Oracle => "oracle",
            Self::Lab => "lab",
            Self::Attack => "attack",
            Self::Vm => "vm",
        }
    }

    fn run(self, workspace: &Path) -> Result<()> {
        let mut tests = cargo();
        tests.args(["test", "--workspace"]);
        match self {
            Self::Host => drop(setup::setup(workspace, &[])?),
            Self::Fuzz => {
                setup::setup(workspace, &[Part::Fuzz])?;
                return fuzz_user::fuzz(workspace);
            }
            Self::Store => {
                setup::setup(workspace, &[Part::Lab])?;
                tests.args(["--features", "relay-tests/kernel", "--test", "store"]);
            }
            Self::Api => {
                setup::setup(workspace, &[Part::Lab, Part::Api])?;
                tests.env("WGRELAY_BIN", build::host("wgrelay", false)?);
                tests.args(["--features", "relay-tests/kernel", "--test", "api"]);
            }
            Self::Program => {
                let tools = setup::setup(workspace, &[Part::Bpf])?;
                build::object(workspace, &tools)?;
                tests.args(["--features", "relay-tests/kernel", "--test", "program"]);
            }
            Self::Attack => tests = attack::command(workspace, &attack::Arguments::default())?,
            Self::Vm => return vm::run(workspace, &vm::Arguments::default()),
            Self::Oracle => tests = fuzz::command(workspace, &fuzz::Arguments::default())?,
            Self::Lab => {
                setup::setup(workspace, &[Part::Bpf, Part::Lab, Part::Package])?;
                tests.env("WGRELAY_DEB", package::to_try(workspace)?);
                tests.env("WGRELAY_BIN", build::host("wgrelay", false)?);
                // Two at a time: most of a lab test is waiting for WireGuard's timers.
                tests.args(["--features", "relay-tests/kernel", "--test", "lab", "--", "--test-threads=2"]);
            }
        }
        run(&mut tests)
    }
}

/// Runs the tiers, all of them also when one fails, and then shows result and time of each.
///
/// # Errors
/// If any failed.
#[expect(clippy::disallowed_methods, reason = "times a tier; nothing is decided by it")]
pub fn run_tiers(workspace: &Path, tiers: &[Tier]) -> Result<()> {
    let mut results: Vec<(Tier, bool, Duration)> = Vec::new();
    for &tier in tiers {
        println!("==> tier {}", tier.name());
        let start = Instant::now();
        let result = tier.run(workspace);
        if let Err(error) = &result {
            eprintln!("tier {}: {error:#}", tier.name());
        }
        results.push((tier, result.is_ok(), start.elapsed()));
    }
    println!("\n{:<10} {:<8} {:>8}", "tier", "result", "time");
    for (tier, passed, time) in &results {
        let result = if *passed { "ok" } else { "FAILED" };
        println!("{:<10} {result:<8} {:>6.1} s", tier.name(), time.as_secs_f64());
    }
    match results.iter().filter(|(_, passed, _)| !passed).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} tiers failed", results.len()),
    }
}
