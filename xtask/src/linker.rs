//! Finding or building bpf-linker.
//!
//! It must be built for the LLVM of the rustc whose bitcode it links.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    process::{ask, cargo, executable, run, without_outer_cargo},
    toolchain::version,
};

/// The version that is built.
const VERSION: &str = "0.13.0";

/// Where the one for this LLVM is built into.
fn root(workspace: &Path, llvm: u32) -> PathBuf {
    workspace.join(format!("target/tools/bpf-linker-llvm-{llvm}"))
}

/// Finds a bpf-linker for this LLVM: in PATH, else the one that was built before.
pub fn find(workspace: &Path, llvm: u32) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([root(workspace, llvm).join("bin")])
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| executable(candidate) && fits(candidate, llvm))
}

fn fits(linker: &Path, llvm: u32) -> bool {
    let Some(says) = ask(Command::new(linker).arg("--version")) else { return false };
    if !new_enough(&says) {
        return false;
    }
    // It does not tell its LLVM, but LLVM itself does when asked; that ends the program before it reads or writes.
    let llvm_says =
        ask(Command::new(linker).args(["--llvm-args=--version", "--output=/dev/null", "/dev/null"]));
    llvm_says.is_some_and(|text| llvm_major(&text) == Some(llvm))
}

fn new_enough(says: &str) -> bool {
    says.split_whitespace().last().and_then(version) >= version(VERSION)
}

fn llvm_major(text: &str) -> Option<u32> {
    version(text.split_once("LLVM version ")?.1).map(|(major, _)| major)
}

/// Where Debian keeps this LLVM.
fn llvm_prefix(llvm: u32) -> PathBuf {
    format!("/usr/lib/llvm-{llvm}").into()
}

/// The Debian packages that it is built from.
pub fn build_packages(llvm: u32) -> Vec<String> {
    let llvm = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    llvm.into_iter().chain(["libzstd-dev", "zlib1g-dev", "g++"].map(String::from)).collect()
}

fn arguments(workspace: &Path, llvm: u32) -> Vec<String> {
    let root = root(workspace, llvm).display().to_string();
    let feature = format!("llvm-{llvm}");
    ["install", "bpf-linker", "--version", VERSION, "--locked"]
        .into_iter()
        .chain(["--no-default-features", "--features", &feature, "--root", &root])
        .map(String::from)
        .collect()
}

/// The build as one would type it.
pub fn build_command(workspace: &Path, llvm: u32) -> String {
    format!("LLVM_PREFIX={} cargo {}", llvm_prefix(llvm).display(), arguments(workspace, llvm).join(" "))
}

/// Builds it from crates.io; takes about a minute.
pub fn build(workspace: &Path, llvm: u32) -> Result<()> {
    let mut command = cargo();
    without_outer_cargo(&mut command);
    if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN") {
        command.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    command.env("LLVM_PREFIX", llvm_prefix(llvm)).args(arguments(workspace, llvm));
    // Outside the workspace, or its .cargo/config.toml and rust-toolchain would apply.
    run(command.current_dir("/")).with_context(|| format!("build bpf-linker for LLVM {llvm}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(
            new_enough("bpf-linker 0.13.0\n")
                && new_enough("bpf-linker 0.14.1")
                && new_enough("bpf-linker 1.0.0")
        );
        assert!(!new_enough("bpf-linker 0.9.15") && !new_enough("bpf-linker") && !new_enough(""));
    }

    #[test]
    fn llvm_tells_its_version() {
        assert_eq!(llvm_major("Debian LLVM version 22.1.8\n  Optimized build.\n"), Some(22));
        assert_eq!(
            llvm_major("LLVM (http://llvm.org/):\n  LLVM version 23.1.0-rust-1.98.0-nightly\n"),
            Some(23)
        );
        assert_eq!(llvm_major("something else"), None);
    }
}
