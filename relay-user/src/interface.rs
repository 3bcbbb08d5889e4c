//! The relay's own WireGuard interface, which is the registrar: relayed hosts are its peers, and WireGuard itself learns
//! and follows their addresses.
//!
//! `wireguard-control` blocks, has no time-outs, and starts a userspace implementation whenever its socket does not answer;
//! so every call runs on a thread of its own, bounded in time, and only after the socket was seen to be there.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::Semaphore;
use tracing::{info, warn};
use wireguard_control::{Backend, Device, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder};

use crate::{
    config::Relay,
    members::{self, Peers, PublicKey},
    netlink::Netlink,
};

/// How long a call to WireGuard may take before it is given up.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long wireguard-go may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// How many peers are configured by one call.
const PEERS_AT_ONCE: usize = 5000;

/// What WireGuard knows of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its public key.
    pub public_key: PublicKey,
    /// The address that its last authenticated packet came from.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was completed.
    pub last_handshake: Option<SystemTime>,
}

/// The interface.
#[derive(Clone)]
pub struct Interface {
    name: InterfaceName,
    backend: Backend,
    /// wgrelay removes it at the end.
    owned: bool,
    /// This process has made it.
    created: bool,
    public_key: PublicKey,
}

impl Interface {
    /// Finds the interface or, if the configuration says so, creates it.
    pub async fn open(relay: &Relay, netlink: &Netlink) -> Result<Self> {
        let name: InterfaceName =
            relay.interface.parse().map_err(|e| anyhow!("interface name {:?}: {e}", relay.interface))?;
        let exists = netlink.ifindex(&relay.interface).await.is_ok();
        if exists {
            return Self::find(relay, name).await;
        }
        if !relay.create {
            bail!(
                "there is no WireGuard interface {}: create it (`wg-quick up {0}`), or set `create = true` under [relay]",
                relay.interface
            );
        }
        Self::create(relay, name, netlink).await
    }

    async fn find(relay: &Relay, name: InterfaceName) -> Result<Self> {
        let socket = userspace_socket(&relay.interface);
        let backend = if UnixStream::connect(&socket).is_ok() { Backend::Userspace } else { Backend::Kernel };
        let device = call("read", move || Device::get(&name, backend)).await.with_context(|| {
            format!(
                "{} is no WireGuard interface that answers ({} is not there, and the kernel does not know it): remove it \
                 (`ip link del {0}`) or name another",
                relay.interface,
                socket.display()
            )
        })?;
        let Some(key) = device.public_key else {
            bail!("{} has no private key: set one (`wg set {0} private-key FILE`)", relay.interface);
        };
        let public_key = PublicKey(key.0);
        if let Some(file) = &relay.private_key_file
            && file.exists()
            && read_key(file)?.get_public().0 != public_key.0
        {
            bail!(
                "{} has another key than {}: remove the interface (`ip link del {0}`) or correct private_key_file",
                relay.interface,
                file.display()
            );
        }
        if device.listen_port != Some(relay.port) {
            bail!(
                "{} listens on port {}, but the relay port is {}: they must be the same (`wg set {0} listen-port {2}`)",
                relay.interface,
                device.listen_port.unwrap_or(0),
                relay.port
            );
        }
        Ok(Self { name, backend, owned: relay.create, created: false, public_key })
    }

    async fn create(relay: &Relay, name: InterfaceName, netlink: &Netlink) -> Result<Self> {
        let file = relay.private_key_file.as_deref().expect("the configuration was checked");
        let key = if file.exists() { read_key(file)? } else { generate_key(file)? };
        check_port(relay.port)?;
        let backend = start_backend(&relay.interface, name, netlink).await?;
        let this =
            Self { name, backend, owned: true, created: true, public_key: PublicKey(key.get_public().0) };
        let result = this.set_up(relay, key, netlink).await;
        if result.is_err() {
            this.remove(netlink).await;
        }
        result.map(|()| this)
    }

    async fn set_up(&self, relay: &Relay, key: Key, netlink: &Netlink) -> Result<()> {
        let port = relay.port;
        self.apply(DeviceUpdate::new().set_private_key(key).set_listen_port(port)).await?;
        netlink.set_up(&relay.interface).await?;
        // wireguard-go binds its port when the interface comes up, and only logs it if that fails.
        let (name, backend) = (self.name, self.backend);
        let device = call("read", move || Device::get(&name, backend)).await?;
        if device.listen_port != Some(port) {
            bail!("UDP port {port} can't be had for {}: another program has it", relay.interface);
        }
        info!(interface = relay.interface, ?backend, public_key = %self.public_key, "WireGuard interface created");
        Ok(())
    }

    /// The relay's public key.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// All peers as they are now.
    pub async fn peers(&self) -> Result<Vec<Peer>> {
        let (name, backend) = (self.name, self.backend);
        let device = call("read", move || {
            if backend == Backend::Userspace {
                UnixStream::connect(userspace_socket(&name.as_str_lossy()))?;
            }
            Device::get(&name, backend)
        })
        .await?;
        let peer = |peer: wireguard_control::PeerInfo| Peer {
            public_key: PublicKey(peer.config.public_key.0),
            endpoint: peer.config.endpoint.map(canonical),
            last_handshake: peer.stats.last_handshake_time,
        };
        Ok(device.peers.into_iter().map(peer).collect())
    }

    /// Makes `wanted` the peers, however it was before. Of an interface that is not wgrelay's own no peers are removed:
    /// they are somebody else's.
    pub async fn set_peers(&self, wanted: &Peers) -> Result<()> {
        let present: BTreeSet<PublicKey> =
            self.peers().await?.into_iter().map(|peer| peer.public_key).collect();
        let missing = wanted.iter().filter(|(key, _)| !present.contains(key)).map(|(key, peer)| (*key, peer));
        self.change_peers(missing, self.unwanted(&present, wanted)).await
    }

    /// Those of the present peers that are to go.
    pub fn unwanted(&self, present: &BTreeSet<PublicKey>, wanted: &Peers) -> Vec<PublicKey> {
        let unwanted = present.iter().filter(|key| self.owned && !wanted.contains_key(*key));
        unwanted.copied().collect()
    }

    /// Adds or changes some peers, and removes others. What peers of an interface that is not wgrelay's own may send is
    /// left to its owner.
    pub async fn change_peers(
        &self,
        set: impl IntoIterator<Item = (PublicKey, &members::Peer)>,
        remove: impl IntoIterator<Item = PublicKey>,
    ) -> Result<()> {
        let set = set.into_iter().map(|(key, peer)| {
            let mut builder = PeerConfigBuilder::new(&Key(key.0));
            if self.owned {
                builder = builder.replace_allowed_ips();
                for range in &peer.allowed_ips {
                    builder = builder.add_allowed_ip(range.addr(), range.prefix_len());
                }
            }
            peer.endpoint.into_iter().fold(builder, PeerConfigBuilder::set_endpoint)
        });
        let remove = remove.into_iter().map(|key| PeerConfigBuilder::new(&Key(key.0)).remove());
        let all: Vec<PeerConfigBuilder> = remove.chain(set).collect();
        for some in all.chunks(PEERS_AT_ONCE) {
            self.apply(DeviceUpdate::new().add_peers(some)).await?;
        }
        Ok(())
    }

    async fn apply(&self, update: DeviceUpdate) -> Result<()> {
        let (name, backend) = (self.name, self.backend);
        call("configure", move || update.apply(&name, backend)).await
    }

    /// Takes back what [`Self::open`] has done: an interface that was there before stays, with the hosts registered at it.
    pub async fn undo(&self, netlink: &Netlink) {
        if self.created {
            self.remove(netlink).await;
        }
    }

    /// Removes the interface if it is wgrelay's own.
    pub async fn remove(&self, netlink: &Netlink) {
        let name = self.name.as_str_lossy();
        // wireguard-go ends when its device is gone.
        if self.owned
            && let Err(error) = netlink.delete(&name).await
        {
            warn!("{error:#}");
        }
    }
}

/// One call at a time, so that a WireGuard that hangs holds one thread and not more and more of them.
static CALLS: Semaphore = Semaphore::const_new(1);

/// Runs a blocking call to WireGuard on a thread of its own and gives it up after [`CALL_TIMEOUT`].
async fn call<T: Send + 'static>(
    what: &str,
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let answer = async {
        let turn = CALLS.acquire().await?;
        let call = move || {
            let _turn = turn;
            f()
        };
        Ok(tokio::task::spawn_blocking(call).await??)
    };
    tokio::time::timeout(CALL_TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| Err(anyhow!("WireGuard did not answer within {CALL_TIMEOUT:?}")))
        .with_context(|| format!("{what} the WireGuard interface"))
}

/// Where a userspace implementation listens for its configuration.
fn userspace_socket(interface: &str) -> PathBuf {
    Path::new("/var/run/wireguard").join(format!("{interface}.sock"))
}

/// Makes the device: by the kernel or, where that has no WireGuard, by wireguard-go.
async fn start_backend(interface: &str, name: InterfaceName, netlink: &Netlink) -> Result<Backend> {
    let result = start_any(interface, name).await;
    if result.is_err() && netlink.ifindex(interface).await.is_ok() {
        // Half made.
        let _ = netlink.delete(interface).await;
    }
    result
}

async fn start_any(interface: &str, name: InterfaceName) -> Result<Backend> {
    let kernel = call("create", move || DeviceUpdate::new().apply(&name, Backend::Kernel)).await;
    let Err(kernel) = kernel else { return Ok(Backend::Kernel) };
    let program = std::env::var("WG_USERSPACE_IMPLEMENTATION").unwrap_or_else(|_| "wireguard-go".to_owned());
    let started = tokio::process::Command::new(&program)
        .arg(interface)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .status();
    let status = tokio::time::timeout(START_TIMEOUT, started).await;
    match status {
        Ok(Ok(status)) if status.success() => {}
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => bail!(
            "the kernel has no WireGuard ({}) and {program} is not installed: install the kernel module or `wireguard-go`",
            kernel.root_cause()
        ),
        _ => bail!(
            "{program} could not create {interface}: is /dev/net/tun there, and does CAP_NET_ADMIN hold?"
        ),
    }
    let socket = userspace_socket(interface);
    let deadline = tokio::time::Instant::now() + START_TIMEOUT;
    while UnixStream::connect(&socket).is_err() {
        if tokio::time::Instant::now() > deadline {
            bail!("{program} was started, but {} does not answer", socket.display());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(Backend::Userspace)
}

/// Whether the port can be had, on both families: WireGuard takes both.
fn check_port(port: u16) -> Result<()> {
    let any: [SocketAddr; 2] = [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    for address in any {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
                "UDP port {port} is occupied: `ss -lunp sport = {port}` shows by whom; stop that program or choose another \
                 relay port"
            ),
            _ => {}
        }
    }
    Ok(())
}

fn read_key(file: &Path) -> Result<Key> {
    let text =
        fs::read_to_string(file).with_context(|| format!("read the private key from {}", file.display()))?;
    Key::from_base64(text.trim())
        .map_err(|_| anyhow!("{} holds no WireGuard private key: `wg genkey` makes one", file.display()))
}

fn generate_key(file: &Path) -> Result<Key> {
    let key = Key::generate_private();
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    written
        .and_then(|mut file| writeln!(file, "{}", key.to_base64()))
        .with_context(|| format!("write a new private key to {}", file.display()))?;
    info!(file = %file.display(), public_key = key.get_public().to_base64(), "private key generated");
    Ok(key)
}

/// wireguard-go names IPv4 peers on its IPv6 socket by their mapped addresses.
fn canonical(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}
