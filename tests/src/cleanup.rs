//! Removing what a lab has made, by nothing but its names.
//!
//! All that a lab makes outside of its namespaces carries its [`LabId`]: the namespaces' names, its directory, and the
//! WireGuard interfaces (whose control sockets are all in one directory). So removing works the same from a destructor,
//! on a signal, and for a process that is dead.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Once, RwLock, RwLockReadGuard, TryLockError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    command::{program, run},
    wait::now,
};

/// Where `ip netns` keeps namespaces.
pub const NETNS: &str = "/var/run/netns";
/// Where wireguard-go keeps its control sockets.
pub const WIREGUARD_SOCKETS: &str = "/var/run/wireguard";

/// Held for reading while something is made, and for writing from a signal to the end of the process.
static MAKING: RwLock<()> = RwLock::new(());

/// Held by whoever makes something, so that nothing is made any more once a signal has begun the removal.
pub fn making() -> RwLockReadGuard<'static, ()> {
    MAKING.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A lab: its process and its number within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabId {
    /// The process.
    pub process: u32,
    /// The number.
    pub number: u32,
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wgr-{}-{}", self.process, self.number)
    }
}

impl LabId {
    /// The lab that a namespace or directory belongs to.
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("wgr-")?.split('-');
        Some(Self { process: parts.next()?.parse().ok()?, number: parts.next()?.parse().ok()? })
    }

    /// The lab that a WireGuard interface belongs to.
    fn of_interface(name: &str) -> Option<Self> {
        let (process, rest) = name.strip_prefix('w')?.split_once('-')?;
        let (number, _) = rest.split_once('-')?;
        Some(Self { process: u32::from_str_radix(process, 16).ok()?, number: number.parse().ok()? })
    }

    /// Name of a namespace.
    pub fn namespace(&self, role: &str) -> String {
        format!("{self}-{role}")
    }

    /// Name of a WireGuard interface, at most 15 bytes.
    ///
    /// # Panics
    /// If the role makes it longer.
    pub fn interface(&self, role: &str) -> String {
        let name = format!("w{:x}-{}-{role}", self.process, self.number);
        assert!(name.len() <= 15, "{name}: an interface name has at most 15 bytes");
        name
    }

    /// The lab's directory.
    pub fn directory(&self) -> PathBuf {
        std::env::temp_dir().join(self.to_string())
    }

    /// Where the lab mounts its own bpffs.
    pub fn bpffs(&self) -> PathBuf {
        self.directory().join("bpffs")
    }
}

/// Removes a lab: the processes in its namespaces, these, its mount, its directory and its WireGuard control sockets.
/// Does what it can and does not fail.
pub fn remove(lab: LabId) {
    let namespaces: Vec<_> = names(NETNS).into_iter().filter(|name| LabId::of(name) == Some(lab)).collect();
    for signal in [Signal::TERM, Signal::KILL] {
        let start = now();
        while signal_all(&namespaces, signal) && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    for namespace in namespaces {
        let _ = program("ip").args(["netns", "delete", &namespace]).output();
    }
    if control_group(lab).exists() {
        remove_control_group(&control_group(lab));
    }
    if lab.bpffs().exists() {
        let _ = program("umount").arg(lab.bpffs()).output();
    }
    for name in names(WIREGUARD_SOCKETS) {
        if LabId::of_interface(&name) == Some(lab) {
            let _ = fs::remove_file(Path::new(WIREGUARD_SOCKETS).join(name));
        }
    }
    // Not if the mount is still there: its files would be pinned maps of a program that runs.
    if !fs::read_to_string("/proc/self/mounts").is_ok_and(|m| m.contains(&*lab.bpffs().to_string_lossy())) {
        let _ = fs::remove_dir_all(lab.directory());
    }
}

/// The control group of a lab's machine: `/sys/fs/cgroup`, or where else the second version is mounted.
pub fn control_group(lab: LabId) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let unified = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (path, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    unified.unwrap_or_else(|| "/sys/fs/cgroup".into()).join(lab.to_string())
}

/// Removes a control group whose processes have ended or are about to, with those below it.
pub fn remove_control_group(group: &Path) {
    for below in names(group) {
        let below = group.join(below);
        if below.is_dir() {
            remove_control_group(&below);
        }
    }
    let start = now();
    while fs::remove_dir(group).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
        && start.elapsed() < Duration::from_secs(2)
    {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Signals every process in these namespaces; whether there was one.
fn signal_all(namespaces: &[String], signal: Signal) -> bool {
    let mut any = false;
    for namespace in namespaces {
        let Ok(output) = program("ip").args(["netns", "pids", namespace]).output() else { continue };
        let pids = String::from_utf8_lossy(&output.stdout).into_owned();
        for pid in pids.lines().filter_map(|pid| Pid::from_raw(pid.trim().parse().ok()?)) {
            // A thread of this process may be in a namespace for a moment (`Namespace::enter`).
            any |= pid != rustix::process::getpid() && kill_process(pid, signal).is_ok();
        }
    }
    any
}

/// Removes the labs of processes that are dead, and sees to it that this process' labs go when it is told to end. Does it
/// once.
pub fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        existing()
            .into_iter()
            .filter(|lab| !Path::new(&format!("/proc/{}", lab.process)).exists())
            .for_each(remove);
        // What fails because its lab is being removed is no news: it waits for the end instead of telling.
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            while matches!(MAKING.try_read(), Err(TryLockError::WouldBlock)) {
                std::thread::park();
            }
            tell(panic);
        }));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).expect("handle signals");
        std::thread::spawn(move || {
            let Some(signal) = signals.forever().next() else { return };
            let _nothing_is_made_any_more = MAKING.write();
            eprintln!("\nsignal {signal}: removing the lab");
            existing().into_iter().filter(|lab| lab.process == std::process::id()).for_each(remove);
            std::process::exit(128 + signal);
        });
    });
}

/// All labs of which something is there.
pub fn existing() -> BTreeSet<LabId> {
    let by_name = [NETNS.into(), std::env::temp_dir()].into_iter().flat_map(names);
    let of_names = by_name.filter_map(|name| LabId::of(&name));
    of_names.chain(names(WIREGUARD_SOCKETS).iter().filter_map(|name| LabId::of_interface(name))).collect()
}

fn names(directory: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Mounts a bpffs for a lab.
pub fn mount_bpffs(lab: LabId) {
    fs::create_dir(lab.bpffs()).expect("create the bpffs mount point");
    run(program("mount").args(["-t", "bpf", "bpf"]).arg(lab.bpffs()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_lab() {
        let lab = LabId { process: 4_194_304, number: 12 };
        assert_eq!(LabId::of(&lab.namespace("nat-a")), Some(lab));
        assert_eq!(LabId::of(lab.directory().file_name().unwrap().to_str().unwrap()), Some(lab));
        assert_eq!(LabId::of_interface(&lab.interface("rly")), Some(lab));
        assert_eq!(LabId::of_interface(&format!("{}.sock", lab.interface("rly"))), Some(lab));
        for foreign in ["wgr-x-1", "wg0.sock", "wgr-1", "other"] {
            assert_eq!((LabId::of(foreign), LabId::of_interface(foreign)), (None, None), "{foreign}");
        }
    }
}
