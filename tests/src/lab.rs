//! A lab and its namespaces.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    cards,
    cleanup::{self, LabId, NETNS},
    command::{line, program, run, run_with_input},
};

/// Everything that is made for one experiment. Cloning gives another handle; it is removed when the last one goes.
#[derive(Clone, Debug)]
pub struct Lab(Arc<Owner>);

#[derive(Debug)]
struct Owner(LabId);

impl Drop for Owner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        cleanup::remove(self.0);
    }
}

impl Owner {
    /// Shows the ends of what the lab's programs printed, for whoever reads about the failure.
    fn show_logs(&self) {
        let Ok(entries) = fs::read_dir(self.0.directory()) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                // wireguard-go begins with a framed advertisement of the kernel's WireGuard.
                let lines: Vec<_> = text.lines().filter(|line| !line.starts_with(['┌', '│', '└'])).collect();
                if lines.is_empty() {
                    continue;
                }
                let end = lines[lines.len().saturating_sub(30)..].join("\n");
                eprintln!("--- the end of {} ---\n{end}", path.display());
            }
        }
    }
}

impl Lab {
    /// An empty lab, with a directory and a bpffs of its own.
    #[expect(clippy::new_without_default, reason = "it needs root and changes the system")]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "the lab makes network namespaces, which needs root");
        cleanup::prepare();
        let _making = cleanup::making();
        let id = LabId { process: std::process::id(), number: NUMBER.fetch_add(1, Ordering::Relaxed) };
        let this = Self(Arc::new(Owner(id)));
        fs::create_dir(id.directory()).unwrap_or_else(|e| panic!("create {}: {e}", id.directory().display()));
        cleanup::mount_bpffs(id);
        this
    }

    /// Its names.
    pub fn id(&self) -> LabId {
        self.0.0
    }

    /// A path in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.id().directory().join(name)
    }

    /// A new network namespace, with loopback up.
    pub fn namespace(&self, role: &str) -> Namespace {
        let namespace =
            Namespace { name: self.id().namespace(role), role: role.to_owned(), lab: self.clone() };
        let _making = cleanup::making();
        run(program("ip").args(["netns", "add", &namespace.name]));
        // Addresses are usable at once: nobody else can have them.
        namespace.set("net/ipv6/conf/all/accept_dad", "0");
        namespace.set("net/ipv6/conf/default/accept_dad", "0");
        namespace.set("net/ipv6/conf/default/accept_ra", "0");
        namespace.ip("link set lo up");
        namespace
    }
}

/// A network namespace of a lab.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    role: String,
    lab: Lab,
}

impl Namespace {
    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// What it is in the lab.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command for a program that is to run in it. By `nsenter`, not `ip netns exec`, which would hide bpffs.
    pub fn command(&self, name: &str) -> Command {
        let mut command = program("nsenter");
        command.arg(format!("--net={NETNS}/{}", self.name)).arg("--").arg(name);
        command
    }

    /// `ip ARGUMENTS` in it.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        run(line("ip -n").arg(&self.name).args(arguments.split_whitespace()))
    }

    /// Loads an nftables script in it.
    #[track_caller]
    pub fn nft(&self, script: &str) {
        run_with_input(self.command("nft").args(["-f", "-"]), script);
    }

    /// Sets a sysctl by its path under /proc/sys.
    #[track_caller]
    pub fn set(&self, path: &str, value: &str) {
        self.enter({
            let (path, value) = (format!("/proc/sys/{path}"), value.to_owned());
            move || fs::write(&path, value).unwrap_or_else(|error| panic!("write {path}: {error}"))
        });
    }

    /// Runs a function on a thread in it. Sockets that it makes stay there.
    #[track_caller]
    pub fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let path = format!("{NETNS}/{}", self.name);
        let file = fs::File::open(&path).unwrap_or_else(|error| panic!("open {path}: {error}"));
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                use std::os::fd::AsFd as _;
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("enter a namespace");
                function()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A cable from `device` here to `peer_device` there, both up, with all transmit offloads off: a packet with a
    /// partial checksum, which only local senders make, would be spoilt by an incremental update.
    pub fn connect(&self, device: &str, peer: &Namespace, peer_device: &str) {
        if let Some(driver) = cards::driver().filter(|_| peer.role == "relay") {
            return cards::connect(&driver, peer, peer_device, self, device);
        }
        let _making = cleanup::making();
        self.ip(&format!("link add {device} type veth peer name {peer_device} netns {}", peer.name));
        for (namespace, device) in [(self, device), (peer, peer_device)] {
            run(namespace.command("ethtool").args(["-K", device, "tx", "off"]));
            namespace.ip(&format!("link set {device} up"));
        }
    }

    /// How many datagrams with a wrong UDP checksum it has received, both families together.
    pub fn udp_checksum_errors(&self) -> u64 {
        self.udp_errors("InCsumErrors")
    }

    /// How many datagrams found the buffer of their socket full, both families together.
    pub fn udp_buffer_errors(&self) -> u64 {
        self.udp_errors("RcvbufErrors")
    }

    fn udp_errors(&self, name: &str) -> u64 {
        let name6 = format!("Udp6{name}");
        let snmp = run(self.command("cat").arg("/proc/net/snmp"));
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(str::split_whitespace);
        let (names, values) = lines.next().zip(lines.next()).expect("/proc/net/snmp has two lines for UDP");
        let pairs = names.zip(values).map(|(name, value)| (name.to_owned(), value.to_owned()));
        let snmp6 = run(self.command("cat").arg("/proc/net/snmp6"));
        let pairs6 = snmp6.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        });
        let errors = pairs.chain(pairs6).filter(|(found, _)| *found == name || *found == name6);
        errors.map(|(_, value)| value.parse::<u64>().expect("a counter is a number")).sum()
    }
}
