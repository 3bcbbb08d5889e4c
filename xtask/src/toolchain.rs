//! Finding a Rust toolchain that can build for BPF.
//!
//! `core` has to be built from source (`-Z build-std`), so a toolchain must have its own library source, which rustup
//! calls the component rust-src. RUSTC_BOOTSTRAP=1 lets a stable one use the unstable flag.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::process::{ask, executable, without_outer_cargo};

/// The versions of LLVM that bpf-linker can be built for and that know the CPU feature which the program is built with.
pub const LLVM: std::ops::RangeInclusive<u32> = 22..=23;

/// A toolchain with the source of `core`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Its rustc.
    pub rustc: PathBuf,
    /// Its cargo.
    pub cargo: PathBuf,
    /// What its rustc is.
    pub release: Release,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Release { version: (major, minor), nightly, llvm } = self.release;
        let channel = if nightly { "-nightly" } else { "" };
        write!(f, "{} ({major}.{minor}{channel}, LLVM {llvm})", self.rustc.display())
    }
}

/// What `rustc -vV` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Major and minor version.
    pub version: (u32, u32),
    /// Whether it is a nightly or a development version.
    pub nightly: bool,
    /// Major version of its LLVM.
    pub llvm: u32,
}

impl Release {
    /// Reads the output of `rustc -vV`.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let release = field("release: ")?;
        let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
        Some(Self { version: version(release)?, nightly: release.contains('-'), llvm })
    }

    /// Why it can't build this workspace for BPF, if so.
    fn unfit(&self) -> Option<String> {
        let needed = version(env!("CARGO_PKG_RUST_VERSION")).expect("the workspace names a rust-version");
        if self.version < needed {
            return Some(format!("it is older than Rust {}", env!("CARGO_PKG_RUST_VERSION")));
        }
        (!LLVM.contains(&self.llvm)).then(|| {
            format!(
                "its LLVM {} is not one of {} to {}, which bpf-linker is for",
                self.llvm,
                LLVM.start(),
                LLVM.end()
            )
        })
    }
}

/// The first two numbers of a dotted version.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Finds the toolchain to build with: what the environment names, else rustup's, else the system's. `None` if there is
/// none.
///
/// # Errors
/// If the environment names one that won't do: then another must not be taken silently.
pub fn find() -> Result<Option<Toolchain>> {
    if let Some(rustc) = std::env::var_os("WGRELAY_BPF_RUSTC").map(PathBuf::from) {
        let cargo = std::env::var_os("WGRELAY_BPF_CARGO")
            .map_or_else(|| rustc.with_file_name("cargo"), PathBuf::from);
        let toolchain = inspect(rustc.clone(), cargo)
            .with_context(|| format!("use WGRELAY_BPF_RUSTC={} for the BPF build", rustc.display()))?;
        return Ok(Some(toolchain));
    }
    let mut found: Vec<_> = rustup_toolchains()
        .into_iter()
        .filter_map(|root| inspect(root.join("bin/rustc"), root.join("bin/cargo")).ok())
        .collect();
    found.sort_by_key(|toolchain| preference(&toolchain.release));
    Ok(found.into_iter().next().or_else(|| inspect("/usr/bin/rustc".into(), "/usr/bin/cargo".into()).ok()))
}

/// Stable before nightly, then the newest: smallest first.
fn preference(release: &Release) -> impl Ord + use<> {
    (release.nightly, std::cmp::Reverse(release.version))
}

/// The roots of rustup's toolchains, each once.
fn rustup_toolchains() -> Vec<PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")));
    let Some(Ok(entries)) = home.map(|home| home.join("toolchains").read_dir()) else { return Vec::new() };
    let mut roots: Vec<_> = entries.filter_map(|entry| entry.ok()?.path().canonicalize().ok()).collect();
    roots.sort();
    roots.dedup();
    roots
}

fn inspect(rustc: PathBuf, cargo: PathBuf) -> Result<Toolchain> {
    for program in [&rustc, &cargo] {
        if !executable(program) {
            bail!("there is no program {}", program.display());
        }
    }
    let rustc_says = |arguments: &[&str]| {
        ask(without_outer_cargo(Command::new(&rustc).args(arguments)))
            .with_context(|| format!("{} {} fails", rustc.display(), arguments.join(" ")))
    };
    let sysroot = rustc_says(&["--print", "sysroot"])?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !source.exists() {
        bail!("it has no library source ({} is missing; rustup calls it rust-src)", source.display());
    }
    let release =
        Release::parse(&rustc_says(&["-vV"])?).context("rustc -vV says nothing that we understand")?;
    if let Some(why) = release.unfit() {
        bail!("{why}");
    }
    Ok(Toolchain { rustc, cargo, release })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: Release = Release { version: (1, 96), nightly: false, llvm: 22 };

    #[test]
    fn releases_are_read() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                    host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(Release::parse(text), Some(STABLE));
        let nightly = text.replace("release: 1.96.0", "release: 1.97.0-nightly");
        assert_eq!(Release::parse(&nightly), Some(Release { version: (1, 97), nightly: true, ..STABLE }));
        assert_eq!(Release::parse("rustc 1.96.0"), None);
    }

    #[test]
    fn what_is_too_old_or_of_another_llvm_is_unfit() {
        assert_eq!(STABLE.unfit(), None);
        assert!(Release { version: (1, 94), ..STABLE }.unfit().unwrap().contains("older than Rust"));
        assert!(Release { llvm: 21, ..STABLE }.unfit().unwrap().contains("LLVM 21"));
        assert!(Release { llvm: 24, ..STABLE }.unfit().is_some());
    }

    #[test]
    fn the_newest_stable_goes_first() {
        let nightly = Release { nightly: true, version: (1, 98), ..STABLE };
        let newer = Release { version: (1, 97), ..STABLE };
        let mut all = [nightly, STABLE, newer];
        all.sort_by_key(preference);
        assert_eq!(all, [newer, STABLE, nightly]);
    }
}
