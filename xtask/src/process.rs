//! Running other programs.

use std::{
    ffi::OsStr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Runs a command with our standard streams.
///
/// # Errors
/// If it can't be started or does not end with success.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command and gives what it printed on standard output, or `None` if it could not be started or failed: for
/// asking what is there.
pub fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Becomes another program, so that signals and the exit status are its own.
pub fn replace(command: &mut Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("start {}", shown(command)))
}

/// Finds a program in PATH or in the directories for the administrator's programs, which a user's PATH may lack.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| executable(candidate))
}

/// Whether this is a file that may be executed.
pub fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Takes out of a command's environment what the outer cargo and rustup put there or the user meant for host builds.
/// `LD_LIBRARY_PATH` is among it: it points into the outer toolchain.
pub fn without_outer_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if is_outer_cargo(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn is_outer_cargo(name: &OsStr) -> bool {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_"];
    let Some(name) = name.to_str() else { return false };
    (name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept)))
        || name.starts_with("RUSTC")
        || ["RUSTFLAGS", "RUSTDOC", "RUSTDOCFLAGS", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"].contains(&name)
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_settings_do_not_leak_but_network_settings_stay() {
        for name in
            ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"]
                .into_iter()
                .chain([
                    "CARGO_TARGET_DIR",
                    "CARGO_BUILD_TARGET",
                    "CARGO_PROFILE_RELEASE_LTO",
                    "CARGO_PKG_NAME",
                ])
        {
            assert!(is_outer_cargo(OsStr::new(name)), "{name} must not leak");
        }
        for name in
            ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "CARGO_NET_OFFLINE", "RUST_BACKTRACE", "RUSTY"]
        {
            assert!(!is_outer_cargo(OsStr::new(name)), "{name} must stay");
        }
    }
}
