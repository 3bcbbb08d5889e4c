//! A host with stock WireGuard.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::process::Signal;

use crate::{
    cleanup::{WIREGUARD_SOCKETS, making},
    command::{Process, line, run, run_with_input},
    lab::{Lab, Namespace},
    wait::until,
};

/// A WireGuard key pair. The private key is in a file that only root reads.
#[derive(Clone, Debug)]
pub struct Keys {
    /// File with the private key.
    pub private_file: PathBuf,
    /// The public key, base64.
    pub public: String,
}

impl Keys {
    /// New ones.
    pub fn new(lab: &Lab, role: &str) -> Self {
        let private = run(&mut line("wg genkey"));
        let public = run_with_input(&mut line("wg pubkey"), &private).trim().to_owned();
        let private_file = lab.file(&format!("{role}.key"));
        let options = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&private_file);
        std::io::Write::write_all(&mut options.expect("create a key file"), private.as_bytes())
            .expect("write a key file");
        Self { private_file, public }
    }
}

/// A peer in a host's WireGuard configuration, as `wg set` takes it.
#[derive(Clone, Debug, Default)]
struct Peer {
    endpoint: Option<SocketAddr>,
    allowed_ips: Option<IpAddr>,
    keepalive_seconds: u16,
}

/// An implementation of WireGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// The kernel's.
    Kernel,
    /// wireguard-go.
    Go,
    /// boringtun, by its command line.
    BoringTun,
}

impl Implementation {
    /// What hosts run unless a test says otherwise: what WGRELAY_LAB_WIREGUARD names, else wireguard-go, which runs on any
    /// kernel.
    ///
    /// # Panics
    /// If that names none.
    pub fn usual() -> Self {
        match std::env::var("WGRELAY_LAB_WIREGUARD").as_deref() {
            Ok("kernel") => Self::Kernel,
            Ok("boringtun") => Self::BoringTun,
            Ok("wireguard-go") | Err(_) => Self::Go,
            Ok(other) => panic!("WGRELAY_LAB_WIREGUARD={other}: kernel, wireguard-go or boringtun"),
        }
    }

    /// The program that makes the interface, if one does.
    fn command(self, namespace: &Namespace, interface: &str) -> Option<Command> {
        let mut command = match self {
            Self::Kernel => return None,
            Self::Go => namespace.command("wireguard-go"),
            Self::BoringTun => {
                let mut command = namespace.command("boringtun-cli");
                // All its peers are at the relay's one address and port, and a connected socket is for one of them only.
                command.args([
                    "--disable-connected-udp",
                    "--disable-drop-privileges",
                    "--verbosity",
                    "error",
                ]);
                command
            }
        };
        command.args(["--foreground", interface]);
        Some(command)
    }
}

/// What runs a host's WireGuard.
#[derive(Debug)]
enum Running {
    Kernel,
    Process(Process),
}

/// A host: stock WireGuard in a namespace, with a configuration that outlives a restart.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// What its WireGuard is. Before it is started.
    pub implementation: Implementation,
    /// Where it is.
    pub namespace: Namespace,
    /// Its keys.
    pub keys: Keys,
    /// Its address inside the tunnel.
    pub tunnel: Ipv4Addr,
    interface: String,
    listen_port: u16,
    mtu: u16,
    peers: BTreeMap<String, Peer>,
    running: Option<Running>,
}

/// MTU of the tunnels unless a test says otherwise: what fits any access link.
const MTU: u16 = 1280;
/// The largest MTU of a tunnel over links of 1500 bytes: what `wg-quick` takes.
pub const LARGE_MTU: u16 = 1420;

impl Host {
    /// A host in this namespace with tunnel address 10.77.0.`number`. Its WireGuard is not started yet.
    pub fn new(namespace: &Namespace, number: u8) -> Self {
        let (lab, name) = (namespace.lab(), namespace.role().to_owned());
        Self {
            keys: Keys::new(lab, &name),
            implementation: Implementation::usual(),
            tunnel: Ipv4Addr::new(10, 77, 0, number),
            interface: lab.id().interface(&name),
            namespace: namespace.clone(),
            listen_port: 0,
            mtu: MTU,
            peers: BTreeMap::new(),
            running: None,
            name,
        }
    }

    /// Gives it a fixed listen port.
    pub fn listening_on(mut self, port: u16) -> Self {
        self.set_listen_port(port);
        self
    }

    /// The same, from its next start on.
    pub fn set_listen_port(&mut self, port: u16) {
        self.listen_port = port;
    }

    /// Gives its tunnel another MTU than what fits anywhere. Before it is started.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Adds or replaces another host as a peer that is reached at `endpoint`; `None` if it is to come to us.
    pub fn add_peer(&mut self, other: &Host, endpoint: Option<SocketAddr>) {
        let peer = Peer { endpoint, allowed_ips: Some(other.tunnel.into()), keepalive_seconds: 0 };
        self.set_peer(other.keys.public.clone(), peer);
    }

    /// Adds or replaces its relay as a peer: no addresses are routed to it, it only keeps the way open.
    pub fn register_at(&mut self, relay_key: &str, endpoint: SocketAddr, keepalive_seconds: u16) {
        let peer = Peer { endpoint: Some(endpoint), allowed_ips: None, keepalive_seconds };
        self.set_peer(relay_key.to_owned(), peer);
    }

    /// Routes an address to a peer that it has already.
    pub fn allow(&mut self, key: &str, address: IpAddr) {
        let mut peer = self.peers[key].clone();
        peer.allowed_ips = Some(address);
        self.set_peer(key.to_owned(), peer);
    }

    fn set_peer(&mut self, key: String, peer: Peer) {
        if self.is_running() {
            self.apply_peer(&key, &peer);
        }
        self.peers.insert(key, peer);
    }

    fn apply_peer(&self, key: &str, peer: &Peer) {
        let mut set = self.namespace.command("wg");
        set.args(["set", &self.interface, "peer", key]);
        set.args(["persistent-keepalive", &peer.keepalive_seconds.to_string()]);
        set.args(["allowed-ips", &peer.allowed_ips.map(|ip| ip.to_string()).unwrap_or_default()]);
        if let Some(endpoint) = peer.endpoint {
            set.args(["endpoint", &endpoint.to_string()]);
        }
        run(&mut set);
        if let Some(address) = peer.allowed_ips {
            self.namespace.ip(&format!("route replace {address} dev {}", self.interface));
        }
    }

    /// Starts its WireGuard.
    pub fn start(&mut self) {
        assert!(!self.is_running(), "{} runs already", self.name);
        self.running = Some(match self.implementation.command(&self.namespace, &self.interface) {
            None => {
                self.namespace.ip(&format!("link add {} type wireguard", self.interface));
                Running::Kernel
            }
            Some(mut command) => Running::Process(self.start_process(&mut command)),
        });
        let mut set = self.namespace.command("wg");
        set.args(["set", &self.interface, "listen-port", &self.listen_port.to_string(), "private-key"]);
        run(set.arg(&self.keys.private_file));
        self.namespace.ip(&format!("address replace {}/32 dev {}", self.tunnel, self.interface));
        self.namespace.ip(&format!("link set {} mtu {} up", self.interface, self.mtu));
        for (key, peer) in &self.peers {
            self.apply_peer(key, peer);
        }
    }

    fn start_process(&self, command: &mut Command) -> Process {
        let log = self.namespace.lab().file(&format!("{}-wireguard.log", self.name));
        let _ = fs::remove_file(self.socket());
        let mut process = Process::start(command, log);
        until(&format!("control socket of {}", self.interface), Duration::from_secs(10), || {
            assert!(process.ended().is_none(), "WireGuard of {}: {}", self.name, process.printed());
            self.socket().exists().then_some(())
        });
        process
    }

    /// Its WireGuard interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    fn socket(&self) -> PathBuf {
        Path::new(WIREGUARD_SOCKETS).join(format!("{}.sock", self.interface))
    }

    /// Whether its WireGuard was started.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The id of its WireGuard's process.
    ///
    /// # Panics
    /// If it was not started, or is the kernel's.
    pub fn process(&self) -> u32 {
        match self.running.as_ref().expect("WireGuard runs") {
            Running::Process(process) => process.id(),
            Running::Kernel => panic!("the kernel's WireGuard is no process"),
        }
    }

    /// Kills its WireGuard, without a chance to say good-bye.
    pub fn kill(&mut self) {
        let _making = making();
        match self.running.take().expect("WireGuard runs") {
            Running::Kernel => _ = self.namespace.ip(&format!("link del {}", self.interface)),
            Running::Process(process) => {
                process.stop(Signal::KILL);
                let _ = fs::remove_file(self.socket());
            }
        }
    }

    /// Kills its WireGuard and starts it anew: no sessions, and (unless fixed) another port.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// How long ago the last handshake with a peer was completed, or `None` if never.
    pub fn last_handshake(&self, key: &str) -> Option<Duration> {
        let text = run(self.namespace.command("wg").args(["show", &self.interface, "latest-handshakes"]));
        let (_, seconds) =
            text.lines().filter_map(|line| line.split_once('\t')).find(|(peer, _)| *peer == key)?;
        let seconds: u64 = seconds.parse().expect("wg shows seconds");
        (seconds != 0).then(|| unix_time().saturating_sub(Duration::from_secs(seconds)))
    }
}

#[expect(clippy::disallowed_methods, reason = "wg shows the wall clock's time")]
fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set")
}
