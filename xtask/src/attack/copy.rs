//! A copy of the workspace, in which a defence is switched off. It is built apart, so that nothing of it ever gets among what
//! the workspace itself builds: cargo could not tell the two from each other.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::defences::Defence;
use crate::{
    build,
    process::{ask, cargo},
    setup::Tools,
};

/// See the module.
pub struct Copy {
    root: PathBuf,
    target: PathBuf,
    /// The files that a defence has changed, as they were.
    changed: HashMap<PathBuf, String>,
}

impl Copy {
    /// Copies all that is, or may become, part of the repository. What was built of an earlier copy stays.
    pub fn of(workspace: &Path) -> Result<Self> {
        let directory = workspace.join("target/attack");
        let (root, target) = (directory.join("source"), directory.join("build"));
        let mut list = Command::new("git");
        list.current_dir(workspace).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let names = ask(&mut list).with_context(|| {
            format!("`git ls-files` fails in {}: the copy is made of what it lists", workspace.display())
        })?;
        fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                // The XDP program is built there.
                true if entry.file_name() == "target" => {}
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        for name in names.split_terminator('\0') {
            let (from, to) = (workspace.join(name), root.join(name));
            // What is listed may have been removed.
            if from.is_file() {
                fs::create_dir_all(to.parent().expect("a file has a directory"))?;
                fs::copy(&from, &to).with_context(|| format!("copy {name}"))?;
            }
        }
        Ok(Self { root, target, changed: HashMap::new() })
    }

    /// Builds wgrelay without a defence.
    pub fn build_without(&mut self, defence: &Defence, tools: &Tools) -> Result<PathBuf> {
        for (file, text) in self.changed.drain() {
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        }
        for edit in defence.edits {
            let file = self.root.join(edit.file);
            let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let changed = edit.apply(&text).map_err(anyhow::Error::msg)?;
            fs::write(&file, changed).with_context(|| format!("write {}", file.display()))?;
            self.changed.entry(file).or_insert(text);
        }
        build::object(&self.root, tools)?;
        let mut command = cargo();
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        // Its warnings tell of what the change has left without use.
        let output = command.args(["build", "--quiet", "--workspace", "--bin", "wgrelay"]).output();
        let output = output.context("start cargo")?;
        if !output.status.success() {
            bail!("build wgrelay without {}:\n{}", defence.name, String::from_utf8_lossy(&output.stderr));
        }
        let wgrelay = self.target.join("debug/wgrelay");
        ensure!(wgrelay.exists(), "cargo has not built {}", wgrelay.display());
        Ok(wgrelay)
    }
}
