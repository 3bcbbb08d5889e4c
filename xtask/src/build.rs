//! Building the XDP program and the host programs.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{cargo, run, without_outer_cargo},
    setup::Tools,
};

const TARGET: &str = "bpfel-unknown-none";

/// Builds the relay's XDP program and puts it at `target/bpf/relay-ebpf.o` of the workspace: there `relay-user/build.rs`
/// looks for it.
pub fn object(workspace: &Path, tools: &Tools) -> Result<PathBuf> {
    bpf(workspace, tools, "relay-ebpf", "relay-ebpf")
}

/// Builds the benchmark's XDP programs and puts them at `target/bpf/bench-ebpf.o` of the workspace.
pub fn bench_object(workspace: &Path, tools: &Tools) -> Result<PathBuf> {
    bpf(workspace, tools, "relay-bench-ebpf", "bench-ebpf")
}

/// Builds a BPF binary of a package of the workspace, and puts it into `target/bpf` there, wherever cargo builds the rest.
/// A file with the same bytes is left alone, so that nothing is built again.
fn bpf(workspace: &Path, tools: &Tools, package: &str, binary: &str) -> Result<PathBuf> {
    // A directory of its own, else this build and the host's would throw away each other's artifacts.
    let directory = workspace.join("target/bpf-build");
    let mut command = Command::new(&tools.toolchain.cargo);
    without_outer_cargo(&mut command)
        .current_dir(workspace)
        .env("RUSTC", &tools.toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&tools.linker))
        .env("CARGO_TARGET_DIR", &directory)
        .args(["build", "--quiet", "--release", "--package", package, "--bin", binary])
        .args(["-Z", "build-std=core", "--target", TARGET]);
    run(&mut command).with_context(|| format!("build the XDP program {binary}"))?;
    let built = directory.join(TARGET).join("release").join(binary);
    let object = workspace.join("target/bpf").join(binary).with_extension("o");
    update(&built, &object).with_context(|| format!("copy {} to {}", built.display(), object.display()))?;
    Ok(object)
}

fn rustflags(linker: &Path) -> OsString {
    let mut flags = OsString::new();
    for flag in [
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Ctarget-cpu=v3",
        // Halves the program's time: without it LLVM reads packets byte by byte.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
    ] {
        flags.push(flag);
        flags.push("\x1f");
    }
    flags.push("-Clinker=");
    flags.push(linker);
    flags
}

/// Makes `to` a copy of `from`, in one step and only if its bytes differ.
fn update(from: &Path, to: &Path) -> std::io::Result<()> {
    let bytes = fs::read(from)?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::create_dir_all(to.parent().expect("a file has a directory"))?;
    let new = to.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, bytes)?;
    fs::rename(new, to)
}

/// Builds one of the workspace's programs and gives its path. The whole workspace is named, so that the dependencies'
/// features, and with them their artifacts, are the same for every build and test.
pub fn host(program: &str, release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--workspace", "--bin", program]).args(release.then_some("--release"));
    run(&mut command)?;
    Ok(crate::target_directory()?.join(if release { "release" } else { "debug" }).join(program))
}

/// Builds test programs of the package `relay-tests`, and gives the name and the path of each.
pub fn tests(names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut command = cargo();
    command.args(["test", "--quiet", "--workspace", "--features", "relay-tests/kernel", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    for name in names {
        command.args(["--test", name]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("start cargo")?;
    if !output.status.success() {
        bail!("build the tests {}: {}", names.join(", "), output.status);
    }
    let built = executables(&String::from_utf8_lossy(&output.stdout));
    if let Some(missing) = names.iter().find(|name| built.iter().all(|(built, _)| built != *name)) {
        bail!("cargo does not say where the test {missing} is");
    }
    Ok(built)
}

/// Names and paths of the test programs in what cargo tells as JSON, one message a line.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let tests = messages.filter(|message| message["target"]["kind"][0] == "test");
    tests
        .filter_map(|message| {
            Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_in_what_cargo_tells() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"demo"},"executable":"/t/debug/demo"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"lab"},"executable":"/t/debug/deps/lab-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages), [("lab".to_owned(), PathBuf::from("/t/debug/deps/lab-1"))]);
    }

    #[test]
    fn a_file_is_rewritten_only_when_its_bytes_changed() {
        let directory = std::env::temp_dir().join(format!("xtask-update-{}", std::process::id()));
        let (from, to) = (directory.join("from"), directory.join("sub/to"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(&from, "one").unwrap();
        update(&from, &to).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
        let first = inode(&to);
        update(&from, &to).unwrap();
        assert_eq!(inode(&to), first, "an equal file stays");
        fs::write(&from, "two").unwrap();
        update(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
        fs::remove_dir_all(&directory).unwrap();
    }
}
