//! Fuzzing of what userspace reads from outside, by libFuzzer: the targets in `tests/fuzz`.
//!
//! cargo-fuzz would only pass flags to cargo, so that is done here and nothing has to be installed but a C++ compiler for
//! libFuzzer itself. The coverage instrumentation is stable rustc's; AddressSanitizer (dependencies read packets by
//! unsafe code) needs an unstable flag, and its runtime comes with every toolchain.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{ask, cargo, run},
    target_directory,
};

/// The targets: the binaries of `tests/fuzz`.
const TARGETS: [&str; 5] = ["configuration", "events", "handshakes", "netlink", "packets"];
/// How long each runs.
const SECONDS: u32 = 20;
/// A target that gets through fewer inputs than this in its time fuzzes nothing.
const LEAST_EXECUTIONS: u64 = 1_000;

/// What cargo-fuzz passes, too: edges with counters, and the operands of comparisons.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "--cfg=fuzzing",
];

/// Builds the targets and runs each for [`SECONDS`], from the seeds in `tests/fuzz/corpus` and what earlier runs have
/// found. Inputs that fail are kept under the target directory.
///
/// # Errors
/// If a target can't be built, or any input fails.
pub fn fuzz(workspace: &Path) -> Result<()> {
    let programs = build(workspace)?;
    let mut failed = Vec::new();
    for target in TARGETS {
        if let Err(error) = fuzz_one(workspace, &programs.join(target), target) {
            eprintln!("{target}: {error:#}");
            failed.push(target);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("fuzzing failed: {}", failed.join(", ")) }
}

fn directory() -> Result<PathBuf> {
    Ok(target_directory()?.join("fuzz"))
}

/// Builds all targets, and gives the directory that they are in.
fn build(workspace: &Path) -> Result<PathBuf> {
    let about = ask(cargo().arg("-vV")).context("ask cargo for its version")?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("cargo does not say what host it is for")?;
    // A target is named, though it is the host: so flags don't reach build scripts and procedural macros.
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--release", "--bins", "--target", host, "--manifest-path"])
        .arg(workspace.join("tests/fuzz/Cargo.toml"))
        .env("CARGO_TARGET_DIR", directory()?)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .env("RUSTC_BOOTSTRAP", "1");
    run(&mut command).context("build the fuzz targets")?;
    Ok(directory()?.join(host).join("release"))
}

fn fuzz_one(workspace: &Path, program: &Path, target: &str) -> Result<()> {
    let room = workspace.join("tests/fuzz");
    let found = directory()?.join("corpus").join(target);
    let crashes = directory()?.join("crashes").join(target);
    let log = directory()?.join(format!("{target}.log"));
    for directory in [&found, &crashes] {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new(program);
    // libFuzzer writes new inputs into the first directory only.
    command.arg(&found).arg(room.join("corpus").join(target));
    command.arg(format!("-max_total_time={SECONDS}")).args(["-timeout=10", "-print_final_stats=1"]);
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    let dictionary = room.join(format!("{target}.dict"));
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    let status = command
        .stdout(output.try_clone().context("duplicate the log's descriptor")?)
        .stderr(output)
        .status()
        .with_context(|| format!("start {}", program.display()))?;
    let text = String::from_utf8_lossy(&fs::read(&log).with_context(|| format!("read {}", log.display()))?)
        .into_owned();
    if !status.success() {
        eprintln!("{}", told(&text));
        bail!(
            "an input fails; it is in {}; again with: {} FILE; all that was said: {}",
            crashes.display(),
            program.display(),
            log.display()
        );
    }
    let executed = executions(&text).with_context(|| format!("{} tells no executions", log.display()))?;
    println!("{target:<14} {executed:>9} inputs in {SECONDS} s, none fails");
    if executed < LEAST_EXECUTIONS {
        bail!("that is fewer than {LEAST_EXECUTIONS}: see {}", log.display());
    }
    Ok(())
}

/// How many inputs libFuzzer's final statistics say were executed.
fn executions(log: &str) -> Option<u64> {
    log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok())
}

/// The part of the log that says what is wrong: from the panic or the sanitizer's report on.
fn told(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let begins = |line: &&str| line.contains("panicked at") || line.contains("ERROR: ");
    let from = lines.iter().position(begins).unwrap_or(lines.len().saturating_sub(20));
    lines[from..].iter().take(40).copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary_of_the_room_is_a_target() {
        let room = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/src/bin");
        let files = fs::read_dir(room).unwrap();
        let mut names: Vec<_> = files
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, TARGETS);
    }

    #[test]
    fn the_log_is_understood() {
        let log = "INFO: Seed: 1\nstat::number_of_executed_units: 123\nstat::average_exec_per_sec: 4\n";
        assert_eq!(executions(log), Some(123));
        assert_eq!(executions("INFO: Seed: 1\n"), None);
        let crash = "INFO: Seed: 1\n#2 INITED\nthread '<unnamed>' panicked at src/a.rs:1:1:\na loop\n";
        assert_eq!(told(crash), "thread '<unnamed>' panicked at src/a.rs:1:1:\na loop");
    }
}
