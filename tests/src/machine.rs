//! A machine that looks like this one and has a systemd of its own: everything that is done to it is gone with it.
//!
//! Its root is an overlay over this machine's, in a mount namespace; it has its own processes, control groups and network.
//! So packages can be installed and services be run there as on any Debian.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use crate::{
    cleanup,
    command::{Process, program},
    lab::Namespace,
    wait::until,
};

/// Makes the root and becomes its first process. Arguments: the control group, and a directory for the root.
///
/// /proc/sys is read-only, as in any container: what is set there would be set for this machine too. Of the units that are
/// enabled on this machine none is started, and the network is left as it is. Where this machine is a container, its packages
/// are told to start nothing (policy-rc.d); there they may.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /dev dev
rm -rf etc/systemd/system/*.wants etc/machine-id usr/sbin/policy-rc.d
: > etc/machine-id
mkdir old-root
pivot_root . old-root
umount -l old-root
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=no
"#;

/// The machine. It ends with this value.
#[derive(Debug)]
pub struct Machine {
    /// Its network.
    pub namespace: Namespace,
    /// Its first process, systemd, as this machine knows it.
    first: u32,
    process: Option<Process>,
}

impl Machine {
    /// Boots a machine in a network namespace.
    pub fn boot(namespace: &Namespace) -> Self {
        let lab = namespace.lab();
        let (group, root) = (cleanup::control_group(lab.id()), lab.file("machine"));
        fs::create_dir(&group).unwrap_or_else(|error| panic!("create {}: {error}", group.display()));
        fs::create_dir(&root).expect("create the directory of the root");
        // The new control group namespace begins at the group of the process that makes it.
        let start = "echo $$ > \"$0/cgroup.procs\"; exec unshare --pid --fork --kill-child --mount --cgroup --ipc --uts \
                     sh -c \"$1\" sh \"$2\"";
        let mut command = namespace.command("sh");
        command.args(["-c", start]).arg(&group).arg(BOOT).arg(root);
        let mut process = Process::start(&mut command, lab.file("machine.log"));
        let first = until("a first process", Duration::from_secs(10), || {
            assert!(process.ended().is_none(), "the machine has ended:\n{}", process.printed());
            child_named(process.id(), "systemd")
        });
        let this = Self { namespace: namespace.clone(), first, process: Some(process) };
        until("a booted machine", Duration::from_secs(30), || {
            let output = this.command("systemctl is-system-running").output().expect("start nsenter");
            let state = String::from_utf8_lossy(&output.stdout).into_owned();
            // "degraded": some unit of Debian's that is of no use here has failed.
            ["running", "degraded"].contains(&state.trim()).then_some(())
        });
        this
    }

    /// A shell's command line on it.
    pub fn command(&self, line: &str) -> Command {
        let mut command = program("nsenter");
        command.args(["--all", "--target"]).arg(self.first.to_string());
        command.args(["--", "sh", "-c", line]);
        command
    }

    /// Runs a command line, and gives what became of it.
    pub fn try_run(&self, line: &str) -> Output {
        self.command(line).output().unwrap_or_else(|error| panic!("start nsenter: {error}"))
    }

    /// Runs a command line that must succeed, and gives what it printed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{line}: {}\n{printed}{errors}", output.status);
        printed
    }

    /// Writes a file.
    #[track_caller]
    pub fn write(&self, path: &str, bytes: &[u8]) {
        let root = PathBuf::from(format!("/proc/{}/root", self.first));
        let path = root.join(path.trim_start_matches('/'));
        let directory = path.parent().expect("a file has a directory");
        fs::create_dir_all(directory)
            .unwrap_or_else(|error| panic!("create {}: {error}", directory.display()));
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its first process all others end.
        drop(self.process.take());
        let group = cleanup::control_group(self.namespace.lab().id());
        cleanup::remove_control_group(&group);
    }
}

/// The process with this name among the descendants of another.
fn child_named(parent: u32, name: &str) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()).find_map(|pid| {
        let comm = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm")).ok()?;
        if comm.trim() == name { Some(pid) } else { child_named(pid, name) }
    })
}
