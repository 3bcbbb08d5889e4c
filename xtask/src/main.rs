//! `cargo xtask`: everything that is done with this repository and is not `cargo` itself.

mod attack;
mod bench;
mod build;
mod fuzz;
mod fuzz_user;
mod linker;
mod package;
mod process;
mod setup;
mod test;
mod toolchain;
mod vm;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Sets up, builds, runs, demonstrates and tests wgrelay.
///
/// Every command first checks that what it needs is there and installs what is missing (on Debian, as root); where it
/// can't, it prints the commands to run.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing: the BPF toolchain, and the programs that the lab uses
    ///
    /// The BPF program needs a Rust toolchain with the source of `core`: the one that WGRELAY_BPF_RUSTC (and
    /// WGRELAY_BPF_CARGO) name, else a rustup toolchain with the component rust-src, else Debian's rustc-web with
    /// rust-web-src. It is linked by bpf-linker 0.13 or later built for the same LLVM: the one in PATH, else one that
    /// is built into target/tools. The lab (`demo`, `test`) also needs wireguard-go, nftables and a few more.
    ///
    /// The other commands do this by themselves. It is quick when nothing is missing, and says what it is going to
    /// install before it does. Packages are installed with apt-get, which needs Debian and root; elsewhere the commands
    /// are printed.
    Setup {
        /// Only what `build` and `run` need: the BPF toolchain
        #[arg(long)]
        build_only: bool,
    },
    /// Build the XDP program and then wgrelay, which carries it inside
    Build {
        /// Build with optimisations (the XDP program always is)
        #[arg(long)]
        release: bool,
    },
    /// Build the XDP program alone, into target/bpf/relay-ebpf.o
    BuildEbpf,
    /// Build, then run `wgrelay run ARGS`
    ///
    /// Example: cargo xtask run --release -- --config relay.toml
    Run {
        /// Build with optimisations (the XDP program always is)
        #[arg(long)]
        release: bool,
        /// Arguments for `wgrelay run`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Show the relay at work between hosts in network namespaces, then remove them
    ///
    /// Host A is behind a NAT, host B behind a double NAT, host P is public; all run plain wireguard-go. Each pair talks
    /// over the relay by IPv4 and by IPv6. Needs root, and touches nothing outside of its own namespaces.
    Demo {
        /// Print the result as one JSON object, as the last line
        #[arg(long)]
        json: bool,
        /// Show instead that hosts that talk lose nothing while the relay is stopped, killed, upgraded and reloaded
        #[arg(long, conflicts_with = "fleet")]
        restart: bool,
        /// Show instead two relays that share etcd: hosts join by key, one relay is lost, its hosts move to the other
        #[arg(long)]
        fleet: bool,
        /// Show instead the TURN server: coturn's client between all families, and WireGuard through it
        #[arg(long, conflicts_with = "fleet")]
        turn: bool,
    },
    /// Run random frames through the XDP program and through an independent model of it, and compare
    ///
    /// Prints the seed, every disagreement as a fixture to keep, how often each reason was reached, and the speed. Fails
    /// on a disagreement, and (from 100,000 frames) on a reason that was not reached. Needs root, attaches nothing.
    Fuzz(fuzz::Arguments),
    /// Attack a running wgrelay with real packets, from outside and as a member, and show how each attack ended
    ///
    /// docs/security.md says what must hold and what sees to that; --without shows that it would not hold otherwise. Needs
    /// root, and touches nothing outside of its own namespaces.
    Attack(attack::Arguments),
    /// Measure the relay and what it is compared with, side by side in one run
    ///
    /// docs/benchmarks.md says what is measured and how. Needs root, and touches nothing outside of its own namespaces.
    Bench(bench::Arguments),
    /// Run tests on other kernels than this machine's, in virtual machines, and show how each step ended
    ///
    /// The kernels are Debian's packages; QEMU runs them on an emulated CPU. By default one kernel
    /// (6.1-cloud): the verifier, the fixtures, 20,000 frames of the oracle, and hosts and relay on the kernel's WireGuard.
    /// docs/kernels.md says what --full adds, and holds its last result.
    Vm(vm::Arguments),
    /// Make a Debian package and a tarball, in target/package
    ///
    /// Builds wgrelay with optimisations, its manual pages and its completions. cargo-deb is taken from PATH, or built
    /// into target/tools.
    Package,
    /// Run every tier of tests and show how long each took
    ///
    /// host: unit tests of all crates, no privileges; fuzz: what userspace reads from outside, by libFuzzer, no
    /// privileges; store: the control plane's stores, with real etcd; api: its API and the command line, also by
    /// schemathesis; program: the XDP program through BPF_PROG_TEST_RUN (root); oracle: the command `fuzz` with 1,000,000
    /// frames (root); lab: real WireGuard hosts, NATs and wgrelay in network namespaces (root); attack: the command
    /// `attack` (root); vm: the command `vm`.
    Test {
        /// Run this tier only
        #[arg(long)]
        tier: Option<test::Tier>,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    use setup::Part::{Api, Bench, Bpf, Fuzz, Lab, Package, Vm};
    let workspace = workspace();
    match task {
        Task::Setup { build_only } => {
            let parts: &[_] = if build_only { &[Bpf] } else { &[Bpf, Lab, Bench, Package, Fuzz, Api, Vm] };
            let tools = setup::setup(&workspace, parts)?;
            println!("BPF toolchain: {}", tools.toolchain);
            println!("bpf-linker:    {}", tools.linker.display());
            if !build_only {
                println!("lab programs:  all there");
            }
            Ok(())
        }
        Task::Build { release } => {
            let tools = setup::setup(&workspace, &[Bpf])?;
            build::object(&workspace, &tools)?;
            println!("{}", build::host("wgrelay", release)?.display());
            Ok(())
        }
        Task::BuildEbpf => {
            let tools = setup::setup(&workspace, &[Bpf])?;
            println!("{}", build::object(&workspace, &tools)?.display());
            Ok(())
        }
        Task::Run { release, arguments } => {
            let tools = setup::setup(&workspace, &[Bpf])?;
            build::object(&workspace, &tools)?;
            let program = build::host("wgrelay", release)?;
            process::replace(Command::new(program).arg("run").args(arguments))
        }
        Task::Demo { json, restart, fleet, turn } => {
            let tools = setup::setup(&workspace, &[Bpf, Lab])?;
            build::object(&workspace, &tools)?;
            let wgrelay = build::host("wgrelay", false)?;
            let mut demo = Command::new(build::host("demo", false)?);
            demo.env("WGRELAY_BIN", wgrelay);
            let flags = [(json, "--json"), (restart, "--restart"), (fleet, "--fleet"), (turn, "--turn")];
            process::replace(demo.args(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag)))
        }
        Task::Fuzz(arguments) => process::replace(&mut fuzz::command(&workspace, &arguments)?),
        Task::Attack(arguments) => attack::run(&workspace, &arguments),
        Task::Bench(arguments) => process::replace(&mut bench::command(&workspace, &arguments)?),
        Task::Vm(arguments) => vm::run(&workspace, &arguments),
        Task::Package => {
            for file in package::package(&workspace)? {
                println!("{}", file.display());
            }
            Ok(())
        }
        Task::Test { tier } => {
            let tiers = tier.map_or(test::Tier::ALL.to_vec(), |tier| vec![tier]);
            test::run_tiers(&workspace, &tiers)
        }
    }
}

/// The root of the workspace that this xtask was built in.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the workspace").to_owned()
}

/// The directory that cargo builds into, whatever told it so (CARGO_TARGET_DIR, a config file): this program is in it.
fn target_directory() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("find this program's own path")?;
    let directory = exe.parent().and_then(Path::parent);
    Ok(directory.with_context(|| format!("{} is in no target directory", exe.display()))?.to_owned())
}
