//! Seeing what is missing and installing it.
//!
//! Looking ([`Found`]) and deciding ([`Found::plan`]) are apart, so that the decisions are tested without a machine to
//! change.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    linker,
    process::{ask, cargo, executable, find, run, without_outer_cargo},
    toolchain::{self, Toolchain},
};

/// What something may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The toolchain for the XDP program.
    Bpf,
    /// The programs that the lab runs.
    Lab,
    /// What the benchmark compares with.
    Bench,
    /// What makes the Debian package, and tries it.
    Package,
    /// The compiler for libFuzzer.
    Fuzz,
    /// What tests the API.
    Api,
    /// The virtual machine, and what makes a guest for it.
    Vm,
}

/// What the build of the XDP program uses.
#[derive(Debug)]
pub struct Tools {
    /// The Rust toolchain.
    pub toolchain: Toolchain,
    /// bpf-linker.
    pub linker: PathBuf,
}

/// Programs of the lab and the Debian packages that they come in.
const LAB: [(&str, &str); 10] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("wireguard-go", "wireguard-go"),
    ("wg", "wireguard-tools"),
    ("ping", "iputils-ping"),
    ("curl", "curl"),
    ("iperf3", "iperf3"),
    ("ethtool", "ethtool"),
    ("conntrack", "conntrack"),
    ("nsenter", "util-linux"),
];

/// The same for the Debian package, which is installed in an overlay over this machine and started by a systemd there.
const PACKAGE: [(&str, &str); 4] = [
    ("systemctl", "systemd"),
    ("dpkg-shlibdeps", "dpkg-dev"),
    ("deb-systemd-helper", "init-system-helpers"),
    ("unshare", "util-linux"),
];

/// The same for every build: the client of etcd is generated from etcd's interface definitions.
const BUILD: [(&str, &str); 1] = [("protoc", "protobuf-compiler")];

/// The definitions that those refer to, which come in a package of their own.
const PROTO: (&str, &str) = ("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev");

/// Programs of the lab that are unpacked into target/tools, and the packages that they are in. Installed as packages,
/// these would start servers.
const UNPACKED: [(&str, &str); 5] = [
    ("promtool", "prometheus"),
    ("etcd", "etcd-server"),
    ("turnutils_uclient", COTURN),
    ("turnutils_peer", COTURN),
    ("turnutils_stunclient", COTURN),
];

/// The TURN server whose clients the lab uses, and the libraries of those.
const COTURN: &str = "coturn";
const COTURN_LIBRARIES: [&str; 2] = ["libevent-core-2.1-7", "libevent-extra-2.1-7"];

/// The server itself, which the benchmark compares with, likewise, and its further libraries.
const TURNSERVER: (&str, &str) = ("turnserver", COTURN);
const TURNSERVER_LIBRARIES: [&str; 4] =
    ["libevent-openssl-2.1-7", "libevent-pthreads-2.1-7", "libhiredis0.14", "libmariadb3"];

/// The same for fuzzing: libFuzzer is C++, which the crate libfuzzer-sys compiles.
const FUZZ: [(&str, &str); 1] = [("c++", "g++")];

/// What tests the API by its OpenAPI document. It is written in Python, and gets an environment of its own in target/tools.
const SCHEMATHESIS: (&str, &str) = ("schemathesis", "4.32.5");

/// The package that makes such environments.
const VENV: &str = "python3-venv";

/// The same for the virtual machine. Emulated x86-64 will do, so no more of QEMU is needed.
const VM: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("strip", "binutils"),
];

/// The programs of this machine that the guest gets. Its busybox has the small ones.
pub fn guest_programs() -> Vec<&'static str> {
    LAB.iter().map(|&(program, _)| program).chain(["modprobe", "setpriv"]).collect()
}

/// The other userspace implementation of WireGuard, which no package has, and its version.
const BORINGTUN: (&str, &str) = ("boringtun-cli", "0.7.1");

/// What makes the Debian package.
const CARGO_DEB: (&str, &str) = ("cargo-deb", "3.8.0");

/// Debian's toolchain with library source, and its LLVM.
const DEBIAN_RUST: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_LLVM: u32 = 22;

/// Makes sure that the given parts are there, and gives what the build uses.
///
/// # Errors
/// If something is missing and can't be installed here; the commands that would do it have been printed then.
pub fn setup(workspace: &Path, parts: &[Part]) -> Result<Tools> {
    // An installation can show what is missing next (Debian's rustc may bring another LLVM), hence the rounds.
    for _ in 0..3 {
        let found = Found::look(workspace, parts)?;
        let plan = found.plan();
        if plan.is_empty() {
            let (toolchain, linker) = found.toolchain.zip(found.linker).expect("nothing is missing");
            return Ok(Tools { toolchain, linker });
        }
        plan.install(workspace)?;
    }
    bail!("something is still missing after it was installed: see above")
}

/// What is unpacked for the tests goes here; the lab looks here too.
fn tools_directory(workspace: &Path) -> PathBuf {
    workspace.join("target/tools/bin")
}

/// A program that is in target/tools and not in PATH.
pub fn unpacked(workspace: &Path, program: &str) -> Option<PathBuf> {
    Some(tools_directory(workspace).join(program)).filter(|path| executable(path))
}

/// Makes sure that boringtun's command line is there: builds it from crates.io into target/tools.
///
/// # Errors
/// If it can't be built.
pub fn boringtun(workspace: &Path) -> Result<PathBuf> {
    from_crates_io(workspace, BORINGTUN)
}

/// The same with cargo-deb.
///
/// # Errors
/// If it can't be built.
pub fn cargo_deb(workspace: &Path) -> Result<PathBuf> {
    from_crates_io(workspace, CARGO_DEB)
}

fn from_crates_io(workspace: &Path, (program, version): (&str, &str)) -> Result<PathBuf> {
    if let Some(there) = find(program).or_else(|| unpacked(workspace, program)) {
        return Ok(there);
    }
    let mut command = cargo();
    without_outer_cargo(&mut command).args(["install", program, "--version", version, "--locked", "--root"]);
    // Outside the workspace, or its .cargo/config.toml would apply.
    run(command.arg(workspace.join("target/tools")).current_dir("/"))
        .with_context(|| format!("build {program} from crates.io"))?;
    Ok(tools_directory(workspace).join(program))
}

/// What is there and what is not.
#[derive(Debug)]
struct Found {
    toolchain: Option<Toolchain>,
    linker: Option<PathBuf>,
    /// Packages of the missing programs of the lab, of fuzzing and of the virtual machine.
    programs: Vec<&'static str>,
    /// Programs to be unpacked that are missing, with their packages.
    unpacked: Vec<(&'static str, &'static str)>,
    /// Whether schemathesis is needed and missing.
    schemathesis: bool,
    /// Debian packages that are installed; only asked for those that matter.
    packages: BTreeSet<String>,
}

impl Found {
    fn look(workspace: &Path, parts: &[Part]) -> Result<Self> {
        let toolchain = toolchain::find()?;
        let linker = toolchain.as_ref().and_then(|t| linker::find(workspace, t.release.llvm));
        let of = |part, list: &'static [(&str, &str)]| list.iter().filter(move |_| parts.contains(&part));
        let wanted = of(Part::Lab, &LAB).chain(of(Part::Fuzz, &FUZZ)).chain(of(Part::Vm, &VM));
        let wanted = wanted.chain(of(Part::Package, &PACKAGE));
        let missing = BUILD.iter().chain(wanted).filter(|(program, _)| find(program).is_none());
        // Where protoc is not Debian's, it has these definitions beside it.
        let proto = find("protoc").is_none_or(|protoc| protoc.starts_with("/usr/bin"))
            && !Path::new(PROTO.0).exists();
        let there =
            |program| find(program).is_some() || executable(&tools_directory(workspace).join(program));
        let llvm = toolchain.as_ref().map_or(DEBIAN_LLVM, |t| t.release.llvm);
        let schemathesis = parts.contains(&Part::Api) && !there(SCHEMATHESIS.0);
        let venv =
            schemathesis && ask(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_none();
        let packages = missing.map(|&(_, package)| package);
        Ok(Self {
            programs: packages.chain(proto.then_some(PROTO.1)).chain(venv.then_some(VENV)).collect(),
            schemathesis,
            unpacked: of(Part::Lab, &UNPACKED)
                .chain(of(Part::Bench, &[TURNSERVER]))
                .copied()
                .filter(|(program, _)| !there(program))
                .collect(),
            packages: if linker.is_none() {
                installed(&linker::build_packages(llvm))
            } else {
                BTreeSet::new()
            },
            toolchain,
            linker,
        })
    }

    fn plan(&self) -> Plan {
        let mut packages: Vec<String> = Vec::new();
        let llvm = self.toolchain.as_ref().map_or(DEBIAN_LLVM, |t| t.release.llvm);
        if self.toolchain.is_none() {
            packages.extend(DEBIAN_RUST.map(String::from));
        }
        let linker = self.linker.is_none().then_some(llvm);
        if linker.is_some() {
            packages.extend(linker::build_packages(llvm).into_iter().filter(|p| !self.packages.contains(p)));
        }
        packages.extend(self.programs.iter().map(|&package| package.to_owned()));
        if self.unpacked.iter().any(|(_, package)| *package == COTURN) {
            packages.extend(COTURN_LIBRARIES.map(String::from));
        }
        if self.unpacked.contains(&TURNSERVER) {
            packages.extend(TURNSERVER_LIBRARIES.map(String::from));
        }
        Plan { packages, linker, unpacked: self.unpacked.clone(), schemathesis: self.schemathesis }
    }
}

/// Which of these Debian packages are installed.
fn installed(packages: &[String]) -> BTreeSet<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status} ${Package}\\n"]).args(packages);
    // It fails if it knows not all of them, and still tells the others.
    let Ok(output) = query.output() else { return BTreeSet::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.strip_prefix("installed ")).map(String::from).collect()
}

/// What is to be installed.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    packages: Vec<String>,
    /// Build bpf-linker for this LLVM.
    linker: Option<u32>,
    /// Unpack these into target/tools.
    unpacked: Vec<(&'static str, &'static str)>,
    /// Install schemathesis into target/tools.
    schemathesis: bool,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.linker.is_none() && self.unpacked.is_empty() && !self.schemathesis
    }

    /// The exact commands, for a Debian system.
    fn commands(&self, workspace: &Path) -> Vec<String> {
        let mut commands = Vec::new();
        if !self.packages.is_empty() || !self.unpacked.is_empty() {
            commands.push("apt-get update".to_owned());
        }
        if !self.packages.is_empty() {
            commands
                .push(format!("apt-get install --yes --no-install-recommends {}", self.packages.join(" ")));
        }
        if let Some(llvm) = self.linker {
            commands.push(linker::build_command(workspace, llvm));
        }
        commands.extend(self.tool_commands(workspace));
        commands
    }

    /// What puts programs into target/tools.
    fn tool_commands(&self, workspace: &Path) -> Vec<String> {
        let mut commands = self.unpack_commands(workspace);
        if self.schemathesis {
            let ((name, version), bin) = (SCHEMATHESIS, tools_directory(workspace));
            let (bin, home) = (bin.display(), bin.with_file_name(name));
            let home = home.display();
            commands.push(format!(
                "python3 -m venv --clear {home} && {home}/bin/pip install --quiet {name}=={version} && mkdir -p {bin} && \
                 ln -sf {home}/bin/{name} {bin}/{name}"
            ));
        }
        commands
    }

    fn unpack_commands(&self, workspace: &Path) -> Vec<String> {
        let directory = tools_directory(workspace);
        let directory = directory.display();
        let command = |(program, package): &(&str, &str)| {
            format!(
                "mkdir -p {directory} && cd {directory} && apt-get -o APT::Sandbox::User=root \
                 download {package} && dpkg-deb --fsys-tarfile \
                 {package}_*.deb | tar --extract --strip-components=3 ./usr/bin/{program} && rm {package}_*.deb"
            )
        };
        self.unpacked.iter().map(command).collect()
    }

    fn install(&self, workspace: &Path) -> Result<()> {
        let debian = find("apt-get").is_some();
        let root = ask(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
        let needs_root = !self.packages.is_empty();
        if (needs_root && !(debian && root)) || (!self.unpacked.is_empty() && !debian) {
            eprintln!(
                "Something is missing, and it can be installed automatically only on Debian and as root."
            );
            eprintln!("On Debian 12, as root:\n");
            for command in self.commands(workspace) {
                eprintln!("    {command}");
            }
            if self.packages.iter().any(|package| DEBIAN_RUST.contains(&package.as_str())) {
                eprintln!("\nInstead of {}, a toolchain of rustup will do:", DEBIAN_RUST.join(", "));
                eprintln!("\n    rustup toolchain install nightly --component rust-src");
            }
            eprintln!();
            bail!("run these commands, then try again");
        }
        self.announce(workspace);
        if root && (needs_root || !self.unpacked.is_empty()) {
            run(apt().arg("update"))?;
        }
        if needs_root {
            run(apt().args(["install", "--yes", "--no-install-recommends"]).args(&self.packages))?;
        }
        if let Some(llvm) = self.linker {
            linker::build(workspace, llvm)?;
        }
        for command in self.tool_commands(workspace) {
            run(Command::new("bash").args(["-euo", "pipefail", "-c", &command]))
                .with_context(|| format!("put into target/tools: {command}"))?;
        }
        Ok(())
    }

    fn announce(&self, workspace: &Path) {
        eprintln!("Going to install what is missing:");
        if !self.packages.is_empty() {
            eprintln!("  packages, with apt-get: {}", self.packages.join(" "));
        }
        if let Some(llvm) = self.linker {
            eprintln!(
                "  bpf-linker for LLVM {llvm}, built from crates.io into {}",
                workspace.join("target/tools").display()
            );
        }
        for (program, _) in &self.unpacked {
            eprintln!("  {program}, unpacked into {}", tools_directory(workspace).display());
        }
        if self.schemathesis {
            let (name, version) = SCHEMATHESIS;
            eprintln!("  {name} {version}, from PyPI into {}", workspace.join("target/tools").display());
        }
    }
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    // Another apt-get may be at work on a machine that has just booted.
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["--quiet", "-o", "DPkg::Lock::Timeout=300"]);
    apt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::Release;

    fn complete() -> Found {
        Found {
            toolchain: Some(Toolchain {
                rustc: "/usr/bin/rustc".into(),
                cargo: "/usr/bin/cargo".into(),
                release: Release { version: (1, 97), nightly: false, llvm: 23 },
            }),
            linker: Some("/usr/bin/bpf-linker".into()),
            programs: Vec::new(),
            unpacked: Vec::new(),
            schemathesis: false,
            packages: BTreeSet::new(),
        }
    }

    #[test]
    fn nothing_is_done_when_all_is_there() {
        assert!(complete().plan().is_empty());
        assert!(complete().plan().commands(Path::new("/w")).is_empty());
    }

    #[test]
    fn a_fresh_machine_gets_everything_in_one_plan() {
        let fresh = Found {
            toolchain: None,
            linker: None,
            programs: vec!["nftables"],
            unpacked: UNPACKED.to_vec(),
            schemathesis: true,
            ..complete()
        };
        let plan = fresh.plan();
        assert_eq!(
            plan.packages.join(" "),
            "rustc-web cargo-web rust-web-src llvm-22-dev libpolly-22-dev libzstd-dev zlib1g-dev g++ nftables \
             libevent-core-2.1-7 libevent-extra-2.1-7"
        );
        assert_eq!((plan.linker, plan.unpacked.len()), (Some(22), 5));
        let commands = plan.commands(Path::new("/w"));
        assert_eq!(commands[0], "apt-get update");
        assert!(commands[1].starts_with("apt-get install --yes --no-install-recommends rustc-web cargo-web"));
        assert_eq!(
            commands[2],
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked --no-default-features \
             --features llvm-22 --root /w/target/tools/bpf-linker-llvm-22"
        );
        assert!(commands[3].contains("download prometheus"));
        assert!(commands[4].contains("download etcd-server"));
        assert!(commands[5].contains("download coturn") && commands[5].contains("turnutils_uclient"));
        assert!(commands[8].starts_with("python3 -m venv --clear /w/target/tools/schemathesis && "));
        assert_eq!(commands.len(), 9);
    }

    #[test]
    fn the_linker_is_built_for_the_llvm_of_the_toolchain_that_is_there() {
        let there =
            linker::build_packages(23).into_iter().filter(|package| package != "zlib1g-dev").collect();
        let plan = Found { linker: None, packages: there, ..complete() }.plan();
        assert_eq!(
            plan,
            Plan {
                packages: vec!["zlib1g-dev".into()],
                linker: Some(23),
                unpacked: Vec::new(),
                schemathesis: false
            }
        );
        // Only the linker is built then: no apt-get.
        let all = linker::build_packages(23).into_iter().collect();
        let plan = Found { linker: None, packages: all, ..complete() }.plan();
        assert_eq!(plan.commands(Path::new("/w")).len(), 1);
    }
}
