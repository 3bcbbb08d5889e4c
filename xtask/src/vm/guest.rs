//! What is in the guest: an initramfs of programs, the libraries that these need, and a kernel's modules.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{kernel::Unpacked, modules, steps::Step};
use crate::process::{ask, run};

/// Where our own programs are.
const OURS: &str = "tests";

/// A directory that becomes the root of the guest, or a part of it.
pub struct Tree(PathBuf);

impl Tree {
    /// An empty one.
    pub fn new(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Puts a file, or what it may point to, where it is here.
    fn file(&self, file: &Path) -> Result<()> {
        self.file_as(file, file.strip_prefix("/").unwrap_or(file))
    }

    fn file_as(&self, file: &Path, name: &Path) -> Result<()> {
        let to = self.0.join(name);
        if !to.exists() {
            fs::create_dir_all(to.parent().expect("a file is in a directory"))?;
            fs::copy(file, &to).with_context(|| format!("copy {} to {}", file.display(), to.display()))?;
        }
        Ok(())
    }

    /// Puts a directory's files, not those below, where they are here.
    pub fn files_in(&self, directory: &Path) -> Result<()> {
        let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_file() {
                self.file(&path)?;
            }
        }
        Ok(())
    }

    /// Puts a program where it is here, and its libraries.
    pub fn program(&self, program: &Path) -> Result<()> {
        self.file(program)?;
        self.libraries(program)
    }

    /// Puts busybox where the first process expects it, and its libraries if it has any.
    pub fn busybox(&self, program: &Path) -> Result<()> {
        self.file_as(program, Path::new("bin/busybox"))?;
        self.libraries(program)
    }

    /// Puts one of our own programs, without what is for debuggers, where the steps find it, and its libraries.
    pub fn ours(&self, program: &Path, name: &str) -> Result<()> {
        let to = self.0.join(OURS).join(name);
        fs::create_dir_all(self.0.join(OURS))?;
        run(Command::new("strip").args(["--strip-debug", "-o"]).arg(&to).arg(program))?;
        self.libraries(program)
    }

    fn libraries(&self, program: &Path) -> Result<()> {
        // It fails if the program needs none.
        let text = ask(Command::new("ldd").arg(program)).unwrap_or_default();
        let libraries =
            libraries(&text).map_err(|missing| anyhow::anyhow!("{} needs {missing}", program.display()))?;
        libraries.iter().try_for_each(|library| self.file(library))
    }

    fn text(&self, name: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.0.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// What differs between guests: the first process and its steps, and a kernel's modules.
    pub fn for_kernel(&self, kernel: &Unpacked, release: &str, steps: &[Step]) -> Result<()> {
        modules::copy(&kernel.modules, release, &self.0)?;
        self.text("init", include_str!("init.sh"), 0o755)?;
        self.text("steps", &steps.iter().map(Step::line).collect::<String>(), 0o644)
    }

    /// Appends it to an archive: an initramfs may be several, one after the other.
    pub fn pack(&self, archive: &File) -> Result<()> {
        let mut shell = Command::new("sh");
        shell.args(["-c", "find . -print0 | cpio --quiet --null --create --format=newc --owner=+0:+0"]);
        shell.current_dir(&self.0).stdout(archive.try_clone().context("duplicate a descriptor")?);
        run(&mut shell).with_context(|| format!("pack {}", self.0.display()))
    }
}

/// The files that ldd names; an error with the name of one that is missing.
fn libraries(ldd: &str) -> Result<BTreeSet<PathBuf>, String> {
    let mut all = BTreeSet::new();
    for line in ldd.lines().map(str::trim) {
        let (name, path) = line.split_once(" => ").unwrap_or((line, line));
        if path.starts_with("not found") {
            return Err(name.to_owned());
        }
        // Without a path it is the kernel's own.
        if let Some((path, _)) = path.split_once(" (0x").filter(|(path, _)| path.starts_with('/')) {
            all.insert(path.into());
        }
    }
    Ok(all)
}

/// Whether the programs that make a guest can be run here.
pub fn check() -> Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the virtual machine is for x86-64 alone: its programs are this machine's own");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_understood() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f1)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        let expected = ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(text), Ok(expected.map(PathBuf::from).into()));
        assert_eq!(libraries("\tlibx.so.1 => not found\n"), Err("libx.so.1".to_owned()));
        assert_eq!(libraries("\tstatically linked\n"), Ok(BTreeSet::new()));
    }
}
