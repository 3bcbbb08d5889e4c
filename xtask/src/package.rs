//! What is handed to others: a Debian package and a tarball, with manual pages and completions.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    build,
    process::{cargo, run},
    setup::{self, Part},
};

/// The shells, and what the file for each is called where it looks.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "wgrelay"), ("zsh", "_wgrelay"), ("fish", "wgrelay.fish")];

/// Makes both from an optimised build, in `target/package`, and gives their paths.
///
/// # Errors
/// If something can't be built.
pub fn package(workspace: &Path) -> Result<[PathBuf; 2]> {
    let (wgrelay, directory) = built(workspace, true)?;
    Ok([debian(workspace, &directory, true)?, tarball(workspace, &wgrelay, &directory)?])
}

/// Makes a Debian package from a build without optimisations, to try how it installs.
///
/// # Errors
/// If something can't be built.
pub fn to_try(workspace: &Path) -> Result<PathBuf> {
    let (_, directory) = built(workspace, false)?;
    debian(workspace, &directory, false)
}

/// wgrelay, and the directory with what comes with it.
fn built(workspace: &Path, release: bool) -> Result<(PathBuf, PathBuf)> {
    let tools = setup::setup(workspace, &[Part::Bpf])?;
    build::object(workspace, &tools)?;
    let (wgrelay, directory) = (build::host("wgrelay", release)?, workspace.join("target/package"));
    pages(&wgrelay, &directory)?;
    Ok((wgrelay, directory))
}

/// Manual pages and completions, which the binary itself writes.
fn pages(wgrelay: &Path, directory: &Path) -> Result<()> {
    let (manual, completions) = (directory.join("man"), directory.join("completions"));
    for old in [&manual, &completions] {
        let _ = fs::remove_dir_all(old);
    }
    run(Command::new(wgrelay).arg("manual").arg(&manual))?;
    fs::create_dir_all(&completions).context("create the directory of completions")?;
    for (shell, name) in COMPLETIONS {
        let output = Command::new(wgrelay).args(["completions", shell]).output().context("start wgrelay")?;
        fs::write(completions.join(name), output.stdout).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}

fn debian(workspace: &Path, directory: &Path, release: bool) -> Result<PathBuf> {
    let file = directory.join("wgrelay.deb");
    let mut deb = Command::new(setup::cargo_deb(workspace)?);
    deb.args(["--package", "relay-user", "--no-build", "--output"]).arg(&file).current_dir(workspace);
    // One to try is packed quickly.
    deb.args(if release { &["--profile", "release"][..] } else { &["--profile", "dev", "--fast"] });
    deb.env("CARGO", cargo().get_program()).env("CARGO_TARGET_DIR", crate::target_directory()?);
    run(&mut deb)?;
    Ok(file)
}

fn tarball(workspace: &Path, wgrelay: &Path, directory: &Path) -> Result<PathBuf> {
    let name = format!("wgrelay-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let root = directory.join(&name);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    let packaging = workspace.join("relay-user/packaging");
    let mut copy = Command::new("cp");
    copy.arg("--recursive").arg(wgrelay).args([directory.join("man"), directory.join("completions")]);
    copy.args(["wgrelay.service", "relay.toml.example"].map(|name| packaging.join(name)));
    copy.args(["README.md", "LICENSE-APACHE", "LICENSE-MIT", "docs"].map(|name| workspace.join(name)));
    run(copy.arg(&root))?;
    let file = directory.join(format!("{name}.tar.gz"));
    run(Command::new("tar").arg("-czf").arg(&file).arg("-C").arg(directory).arg(&name))?;
    fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    Ok(file)
}
