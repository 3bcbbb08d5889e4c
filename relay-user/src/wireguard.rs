//! WireGuard devices, in the kernel or by a userspace implementation, and their keys' files.
//!
//! `wireguard-control` blocks, has no time-outs, and starts a userspace implementation whenever its socket does not answer;
//! so every call runs on a thread of its own, bounded in time, and only after the socket was seen to be there.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::Semaphore;
use tracing::info;
use wireguard_control::{Backend, Device, DeviceUpdate, InterfaceName, Key};

use crate::netlink::Netlink;

/// How long a call to WireGuard may take before it is given up.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long wireguard-go may take to come up.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(5);

/// A device that this process may configure.
#[derive(Clone, Copy)]
pub(crate) struct Handle {
    pub(crate) name: InterfaceName,
    pub(crate) backend: Backend,
}

impl Handle {
    /// The device of an interface that is there.
    pub(crate) fn of(interface: &str) -> Result<Self> {
        let answers = UnixStream::connect(userspace_socket(interface)).is_ok();
        let backend = if answers { Backend::Userspace } else { Backend::Kernel };
        Ok(Self { name: parse(interface)?, backend })
    }

    /// Makes the device: by the kernel or, where that has no WireGuard, by wireguard-go.
    pub(crate) async fn create(interface: &str, netlink: &Netlink) -> Result<Self> {
        let name = parse(interface)?;
        let result = start_any(interface, name, netlink).await;
        if result.is_err() && netlink.ifindex(interface).await.is_ok() {
            // Half made.
            let _ = netlink.delete(interface).await;
        }
        result.map(|backend| Self { name, backend })
    }

    /// All that is to be known of it.
    pub(crate) async fn read(self) -> Result<Device> {
        self.read_as(|device| device).await
    }

    /// What is made of that, in the same thread: it may be a lot.
    pub(crate) async fn read_as<T: Send + 'static>(
        self,
        of: impl FnOnce(Device) -> T + Send + 'static,
    ) -> Result<T> {
        let Self { name, backend } = self;
        call("read", move || {
            if backend == Backend::Userspace {
                UnixStream::connect(userspace_socket(&name.as_str_lossy()))?;
            }
            Device::get(&name, backend).map(of)
        })
        .await
    }

    /// Changes it.
    pub(crate) async fn apply(self, update: DeviceUpdate) -> Result<()> {
        call("configure", move || update.apply(&self.name, self.backend)).await
    }
}

fn parse(interface: &str) -> Result<InterfaceName> {
    interface.parse().map_err(|e| anyhow!("interface name {interface:?}: {e}"))
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
pub(crate) fn userspace_socket(interface: &str) -> PathBuf {
    Path::new("/var/run/wireguard").join(format!("{interface}.sock"))
}

/// The program that makes an interface where the kernel can't.
pub(crate) fn userspace_program() -> String {
    std::env::var("WG_USERSPACE_IMPLEMENTATION").unwrap_or_else(|_| "wireguard-go".to_owned())
}

async fn start_any(interface: &str, name: InterfaceName, netlink: &Netlink) -> Result<Backend> {
    let kernel = call("create", move || DeviceUpdate::new().apply(&name, Backend::Kernel)).await;
    let Err(kernel) = kernel else { return Ok(Backend::Kernel) };
    let program = userspace_program();
    let started = tokio::process::Command::new(&program)
        .arg(interface)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        // It may outlive us: Ctrl-C is not for it.
        .process_group(0)
        .status();
    let status = tokio::time::timeout(START_TIMEOUT, started).await;
    match status {
        Ok(Ok(status)) if status.success() => {}
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => bail!(
            "the kernel has no WireGuard ({}) and {program} is not installed: install the kernel module or `wireguard-go`",
            kernel.root_cause()
        ),
        // Of a start that was killed it may come up in this very moment.
        _ if netlink.ifindex(interface).await.is_ok() => {}
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

pub(crate) fn read_key(file: &Path) -> Result<Key> {
    let text =
        fs::read_to_string(file).with_context(|| format!("read the private key from {}", file.display()))?;
    Key::from_base64(text.trim())
        .map_err(|_| anyhow!("{} holds no WireGuard private key: `wg genkey` makes one", file.display()))
}

pub(crate) fn generate_key(file: &Path) -> Result<Key> {
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
pub(crate) fn canonical(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}
