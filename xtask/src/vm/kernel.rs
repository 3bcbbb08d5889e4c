//! Debian's kernels: which of them there are, and one of them unpacked.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process::{ask, run};

/// A kernel that Debian has a package of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    /// Major and minor version.
    pub series: (u32, u32),
    /// Whether it is the variant for virtual machines, which has few drivers.
    pub cloud: bool,
    /// All numbers of its version.
    version: Vec<u32>,
    /// As `uname -r` prints it.
    pub release: String,
}

/// As it is called on the command line: `6.1` or `6.1-cloud`.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((major, minor), variant) = (self.series, if self.cloud { "-cloud" } else { "" });
        f.pad(&format!("{major}.{minor}{variant}"))
    }
}

impl Kernel {
    /// The kernel that a package holds, if it does: for 64-bit PCs, and not the real-time variant.
    fn of_package(name: &str) -> Option<Self> {
        let release = name.strip_prefix("linux-image-")?;
        let numbers = release.strip_suffix("-amd64")?;
        if numbers.ends_with("-rt") {
            return None;
        }
        let (numbers, cloud) = numbers.strip_suffix("-cloud").map_or((numbers, false), |rest| (rest, true));
        let numbers = numbers.split_once('+').map_or(numbers, |(numbers, _)| numbers);
        let version: Vec<u32> = numbers.split(['.', '-']).map(str::parse).collect::<Result<_, _>>().ok()?;
        // Fewer numbers has a package that only names the newest of a series.
        let [major, minor, _, ..] = version[..] else { return None };
        Some(Self { series: (major, minor), cloud, version, release: release.to_owned() })
    }
}

/// The newest kernel of each series and variant among these packages, old ones first.
pub fn newest(packages: &str) -> Vec<Kernel> {
    let mut newest = BTreeMap::new();
    for kernel in packages.lines().filter_map(Kernel::of_package) {
        let best = newest.entry((kernel.series, !kernel.cloud)).or_insert_with(|| kernel.clone());
        *best = kernel.max(best.clone());
    }
    newest.into_values().collect()
}

/// Series that are maintained for years (kernel.org, "longterm").
const LONG_TERM: [(u32, u32); 6] = [(5, 10), (5, 15), (6, 1), (6, 6), (6, 12), (6, 18)];

/// Those that people run, and the newest: emulation takes minutes for each.
pub fn lasting(mut kernels: Vec<Kernel>) -> Vec<Kernel> {
    let newest = kernels.iter().map(|kernel| kernel.series).max();
    kernels.retain(|kernel| Some(kernel.series) == newest || LONG_TERM.contains(&kernel.series));
    kernels
}

/// Releases of Debian, and what is prepared for the next: each has kernels that the others have not.
const SUITES: [&str; 6] = ["bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid"];

/// A view of Debian's packages.
#[derive(Clone, Debug)]
pub struct Apt(Vec<String>);

impl Apt {
    /// This machine's own.
    ///
    /// # Errors
    /// If it names no kernel at all.
    pub fn of_this_machine() -> Result<Self> {
        let this = Self(Vec::new());
        if this.kernels().is_empty() {
            run(this.command("apt-get").args(["--quiet", "update"]))
                .context("look for kernels, which needs Debian")?;
        }
        Ok(this)
    }

    /// All of [`SUITES`], at the mirror that this machine uses. What it knows of them is kept below `directory`, which
    /// changes nothing of the machine.
    pub fn of_all_suites(directory: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part))
                .with_context(|| format!("create {}", directory.display()))?;
        }
        let targets =
            ["indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(COMPONENT)", "Created-By: Packages"];
        let targets = ask(Command::new("apt-get").args(targets)).unwrap_or_default();
        let mut main = targets.lines().filter_map(|line| line.strip_suffix(" Debian main"));
        // That of security updates has other suites.
        let mirror = main.find(|uri| !uri.contains("security"));
        let mirror =
            mirror.context("apt has no mirror of Debian: this needs Debian, and `apt-get update`")?;
        let sources = SUITES.map(|suite| format!("deb {mirror} {suite} main\n")).concat();
        let list = directory.join("sources.list");
        fs::write(&list, sources).with_context(|| format!("write {}", list.display()))?;
        let option = |name: &str, value: &Path| format!("-oDir::{name}={}", value.display());
        let this = Self(vec![
            option("Etc::SourceList", &list),
            option("Etc::SourceParts", Path::new("/dev/null")),
            option("State::Lists", &directory.join("lists")),
            option("Cache", &directory.join("cache")),
        ]);
        // A suite that a mirror has no more is no reason to give up.
        if let Err(error) = run(this.command("apt-get").args(["--quiet=2", "update"])) {
            eprintln!("{error:#}");
        }
        Ok(this)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.0).args(["-oAPT::Sandbox::User=root", "-oAcquire::Languages=none"]);
        command
    }

    fn packages(&self, prefix: &str) -> String {
        ask(self.command("apt-cache").args(["pkgnames", prefix])).unwrap_or_default()
    }

    /// The newest kernel of each series and variant, old ones first.
    pub fn kernels(&self) -> Vec<Kernel> {
        newest(&self.packages("linux-image-"))
    }
}

/// A kernel's files.
#[derive(Debug)]
pub struct Unpacked {
    /// What is booted.
    pub image: PathBuf,
    /// The directory with its modules, and modprobe's tables of them.
    pub modules: PathBuf,
}

/// Downloads and unpacks a kernel below `directory`, if that was not done before.
pub fn unpack(kernel: &Kernel, apt: &Apt, directory: &Path) -> Result<Unpacked> {
    let release = &kernel.release;
    let root = directory.join(release);
    if !root.exists() {
        let new = directory.join(format!("{release}.new-{}", std::process::id()));
        fs::create_dir_all(&new).with_context(|| format!("create {}", new.display()))?;
        let unpacked = unpack_into(&new, release, apt).with_context(|| format!("unpack Linux {release}"));
        let result = unpacked.and_then(|()| fs::rename(&new, &root).context("keep it"));
        if result.is_err() {
            let _ = fs::remove_dir_all(&new);
        }
        result?;
    }
    let modules = root.join("lib/modules").join(release);
    let places = [root.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = places.into_iter().find(|place| place.exists());
    let image = image
        .with_context(|| format!("the packages of Linux {release} have no image: {}", root.display()))?;
    Ok(Unpacked { image, modules })
}

fn unpack_into(directory: &Path, release: &str, apt: &Apt) -> Result<()> {
    // Lately the image, the modules and what tells of those built in are packages of their own.
    let parts = ["image", "binary", "base", "modules"].map(|part| format!("linux-{part}-{release}"));
    let there = parts.iter().filter(|part| apt.packages(part).lines().any(|name| name == *part));
    run(apt.command("apt-get").args(["--quiet=2", "download"]).args(there).current_dir(directory))?;
    let script = "for package in ./*.deb; do dpkg-deb --extract \"$package\" .; rm \"$package\"; done; \
                  [ -e lib ] || ln -s usr/lib lib; depmod --basedir . \"$1\"";
    let mut shell = Command::new("sh");
    // depmod may be where only the administrator's PATH leads.
    let path = std::env::var("PATH").unwrap_or_default();
    shell.env("PATH", format!("{path}:/usr/sbin:/sbin")).current_dir(directory);
    run(shell.args(["-euc", script, "sh", release]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGES: &str = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-50-cloud-amd64\n\
        linux-image-6.1.0-50-amd64\nlinux-image-6.1.0-50-rt-amd64\nlinux-image-6.1.0-50-amd64-dbg\n\
        linux-image-amd64\nlinux-image-6.12-cloud-amd64\nlinux-image-cloud-amd64\n\
        linux-image-6.12.9+deb12-amd64\nlinux-image-6.12.118+deb12-rt-amd64\nlinux-image-6.12.117+deb12-amd64\nlinux-image-6.12.117+deb12-amd64-unsigned\n";

    #[test]
    fn the_newest_of_each_series_and_variant_is_offered() {
        let kernels = newest(PACKAGES);
        let names: Vec<_> = kernels.iter().map(|k| (k.to_string(), k.release.as_str())).collect();
        let expected = [
            ("6.1-cloud", "6.1.0-50-cloud-amd64"),
            ("6.1", "6.1.0-50-amd64"),
            ("6.12", "6.12.117+deb12-amd64"),
        ];
        assert_eq!(names, expected.map(|(name, release)| (name.to_owned(), release)));
    }

    #[test]
    fn long_term_series_and_the_newest_are_worth_the_time() {
        let all = ["5.10", "6.1", "6.9", "6.12", "6.19", "7.0"]
            .map(|series| format!("linux-image-{series}.1-1-amd64\n"));
        let names: Vec<_> = lasting(newest(&all.concat())).iter().map(Kernel::to_string).collect();
        assert_eq!(names, ["5.10", "6.1", "6.12", "7.0"]);
    }
}
