//! The relay's own WireGuard interface, which is the registrar: relayed hosts are its peers, and WireGuard itself learns
//! and follows their addresses.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use tracing::{info, warn};
use wireguard_control::{Backend, Device, DeviceUpdate, Key, PeerConfigBuilder};

use crate::{
    config::Relay,
    members::{self, PublicKey},
    netlink::Netlink,
    wireguard::{Handle, START_TIMEOUT, canonical, generate_key, read_key, userspace_socket},
};

/// How many peers are configured by one call.
pub const PEERS_AT_ONCE: usize = 5000;

/// Seconds between keepalives, where all that counts is that they are switched on.
const CALL_KEEPALIVE: u16 = 25;

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
    device: Handle,
    /// wgrelay removes it at the end.
    owned: bool,
    /// This process has made it.
    created: bool,
    public_key: PublicKey,
}

impl Interface {
    /// Finds the interface or, if the configuration says so, creates it. Of its own one wgrelay mends whatever an earlier
    /// run has left unfinished or under other settings.
    pub async fn open(relay: &Relay, netlink: &Netlink) -> Result<Self> {
        let exists = netlink.ifindex(&relay.interface).await.is_ok();
        if !exists && !relay.create {
            bail!(
                "there is no WireGuard interface {}: create it (`wg-quick up {0}`), or set `create = true` under [relay]",
                relay.interface
            );
        }
        if !relay.create {
            return Self::find(relay).await;
        }
        for other in netlink.with_alias(&alias(&relay.pin_dir)).await? {
            if other != relay.interface {
                info!(interface = other, "removed: it is an earlier run's, under another name");
                netlink.delete(&other).await?;
            }
        }
        let this =
            if exists { Self::adopt(relay, netlink).await? } else { Self::create(relay, netlink).await? };
        netlink.set_alias(&relay.interface, &alias(&relay.pin_dir)).await?;
        Ok(this)
    }

    /// Removes what an earlier run has made and kept. Returns the interfaces.
    pub async fn remove_kept(pin_dir: &Path, netlink: &Netlink) -> Result<Vec<String>> {
        let kept = netlink.with_alias(&alias(pin_dir)).await?;
        for interface in &kept {
            netlink.delete(interface).await?;
        }
        Ok(kept)
    }

    /// An interface that is somebody else's.
    async fn find(relay: &Relay) -> Result<Self> {
        let device = Handle::of(&relay.interface)?;
        let found = device.read().await.with_context(|| no_answer(&relay.interface))?;
        let Some(key) = found.public_key else {
            bail!("{} has no private key: set one (`wg set {0} private-key FILE`)", relay.interface);
        };
        if let Some(file) = &relay.private_key_file
            && file.exists()
        {
            check_key(relay, file, &read_key(file)?, &key)?;
        }
        if found.listen_port != Some(relay.port) {
            bail!(
                "{} listens on port {}, but the relay port is {}: they must be the same (`wg set {0} listen-port {2}`)",
                relay.interface,
                found.listen_port.unwrap_or(0),
                relay.port
            );
        }
        Ok(Self { device, owned: false, created: false, public_key: PublicKey(key.0) })
    }

    /// An interface of our own that is there already.
    async fn adopt(relay: &Relay, netlink: &Netlink) -> Result<Self> {
        let (device, found) = answering(&relay.interface).await?;
        let file = key_file(relay);
        let (public_key, missing) = match found.public_key {
            Some(found) => {
                if file.exists() {
                    check_key(relay, file, &read_key(file)?, &found)?;
                }
                (found, None)
            }
            None => {
                let key = own_key(file)?;
                (key.get_public(), Some(key))
            }
        };
        let this = Self { device, owned: true, created: false, public_key: PublicKey(public_key.0) };
        let port = (found.listen_port != Some(relay.port)).then_some(relay.port);
        if missing.is_some() || port.is_some() {
            this.set_up(relay, missing, port, netlink).await?;
        } else {
            netlink.set_up(&relay.interface).await?;
        }
        Ok(this)
    }

    async fn create(relay: &Relay, netlink: &Netlink) -> Result<Self> {
        let key = own_key(key_file(relay))?;
        check_port(relay.port)?;
        let device = Handle::create(&relay.interface, netlink).await?;
        let this = Self { device, owned: true, created: true, public_key: PublicKey(key.get_public().0) };
        let result = this.set_up(relay, Some(key), Some(relay.port), netlink).await;
        if result.is_err() {
            this.remove(netlink).await;
        }
        result.map(|()| this)
    }

    /// Gives the interface what it lacks, and takes it up. wireguard-go opens its socket anew when it is told its port, also
    /// if that is the same.
    async fn set_up(
        &self,
        relay: &Relay,
        key: Option<Key>,
        port: Option<u16>,
        netlink: &Netlink,
    ) -> Result<()> {
        let update = key.into_iter().fold(DeviceUpdate::new(), DeviceUpdate::set_private_key);
        self.device.apply(port.into_iter().fold(update, DeviceUpdate::set_listen_port)).await?;
        netlink.set_up(&relay.interface).await?;
        // wireguard-go binds its port when the interface comes up, and only logs it if that fails.
        if self.device.read().await?.listen_port != Some(relay.port) {
            bail!("UDP port {} can't be had for {}: another program has it", relay.port, relay.interface);
        }
        let backend = self.device.backend;
        info!(interface = relay.interface, ?backend, public_key = %self.public_key, "WireGuard interface set up");
        Ok(())
    }

    /// Whether it is wgrelay's own. Another's peers are only added to.
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// The relay's public key.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// How many peers its implementation takes: the kernel's `MAX_PEERS_PER_DEVICE`, wireguard-go's `MaxPeers`.
    pub fn most_peers(&self) -> usize {
        match self.device.backend {
            Backend::Kernel => 1 << 20,
            Backend::Userspace => 1 << 16,
        }
    }

    /// All peers as they are now.
    pub async fn peers(&self) -> Result<Vec<Peer>> {
        self.peers_as(|peers| peers).await
    }

    /// What is made of all peers, in a thread of its own: they may be a lot.
    pub async fn peers_as<T: Send + 'static>(
        &self,
        of: impl FnOnce(Vec<Peer>) -> T + Send + 'static,
    ) -> Result<T> {
        let peer = |peer: wireguard_control::PeerInfo| Peer {
            public_key: PublicKey(peer.config.public_key.0),
            endpoint: peer.config.endpoint.map(canonical),
            last_handshake: peer.stats.last_handshake_time,
        };
        self.device.read_as(move |device| of(device.peers.into_iter().map(peer).collect())).await
    }

    /// Has WireGuard call hosts where they were last seen, if it does not know where they are: they are registered as soon as
    /// they answer, long before they would notice by themselves that the relay is another. Returns how many.
    pub async fn call(&self, last_seen: &HashMap<PublicKey, SocketAddr>) -> Result<usize> {
        if last_seen.is_empty() {
            return Ok(0);
        }
        let lost = self.peers().await?.into_iter().filter(|peer| peer.endpoint.is_none());
        let seen = lost.filter_map(|peer| Some((peer.public_key, *last_seen.get(&peer.public_key)?)));
        let called: Vec<_> =
            seen.map(|(key, endpoint)| (PeerConfigBuilder::new(&Key(key.0)), endpoint)).collect();
        for some in called.chunks(PEERS_AT_ONCE) {
            // To switch keepalives on sends one, for which there is no session: so a handshake begins.
            let on = some.iter().map(|(peer, endpoint)| {
                peer.clone().set_endpoint(*endpoint).set_persistent_keepalive_interval(CALL_KEEPALIVE)
            });
            self.device.apply(DeviceUpdate::new().add_peers(&on.collect::<Vec<_>>())).await?;
            let off = some.iter().map(|(peer, _)| peer.clone().unset_persistent_keepalive());
            self.device.apply(DeviceUpdate::new().add_peers(&off.collect::<Vec<_>>())).await?;
        }
        Ok(called.len())
    }

    /// Adds or changes some peers, and removes others. What peers of an interface that is not wgrelay's own may send is
    /// left to its owner.
    pub async fn change_peers(
        &self,
        set: impl IntoIterator<Item = (PublicKey, &members::Peer)>,
        remove: impl IntoIterator<Item = PublicKey>,
    ) -> Result<()> {
        let remove = remove.into_iter().map(|key| (key, None));
        let all: Vec<_> = remove.chain(set.into_iter().map(|(key, peer)| (key, Some(peer)))).collect();
        for some in all.chunks(PEERS_AT_ONCE) {
            let some: Vec<_> = some.iter().map(|(key, peer)| self.change(key, *peer)).collect();
            self.device.apply(DeviceUpdate::new().add_peers(&some)).await?;
        }
        Ok(())
    }

    /// Of a peer, or the removal of one.
    fn change(&self, key: &PublicKey, peer: Option<&members::Peer>) -> PeerConfigBuilder {
        let mut builder = PeerConfigBuilder::new(&Key(key.0));
        let Some(peer) = peer else { return builder.remove() };
        if self.owned {
            builder = builder.replace_allowed_ips();
            for range in &peer.allowed_ips {
                builder = builder.add_allowed_ip(range.addr(), range.prefix_len());
            }
        }
        peer.endpoint.into_iter().fold(builder, PeerConfigBuilder::set_endpoint)
    }

    /// Takes back what [`Self::open`] has done: an interface that was there before stays, with the hosts registered at it.
    pub async fn undo(&self, netlink: &Netlink) {
        if self.created {
            self.remove(netlink).await;
        }
    }

    /// Removes the interface if it is wgrelay's own.
    pub async fn remove(&self, netlink: &Netlink) {
        let name = self.device.name.as_str_lossy();
        // wireguard-go ends when its device is gone.
        if self.owned
            && let Err(error) = netlink.delete(&name).await
        {
            warn!("{error:#}");
        }
    }
}

/// The alias of the interface that wgrelay has made for the relay with these pins.
fn alias(pin_dir: &Path) -> String {
    // The kernel takes 255 bytes.
    let alias = format!("wgrelay {}", pin_dir.display());
    alias
        .chars()
        .scan(0, |len, c| {
            *len += c.len_utf8();
            (*len <= 255).then_some(c)
        })
        .collect()
}

fn no_answer(interface: &str) -> String {
    format!(
        "{interface} is no WireGuard interface that answers ({} is not there, and the kernel does not know it): remove it \
         (`ip link del {interface}`) or name another",
        userspace_socket(interface).display()
    )
}

/// Reads an interface of our own. What an earlier run had only just started when it was killed gets a moment to answer.
async fn answering(interface: &str) -> Result<(Handle, Device)> {
    let answer = async {
        loop {
            let device = Handle::of(interface)?;
            match device.read().await {
                Ok(found) => return anyhow::Ok((device, found)),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(START_TIMEOUT, answer).await.with_context(|| no_answer(interface))?
}

/// The file with the key of an interface of our own.
fn key_file(relay: &Relay) -> &Path {
    relay.private_key_file.as_deref().expect("the configuration was checked")
}

/// What is in it; made if there is none.
fn own_key(file: &Path) -> Result<Key> {
    if file.exists() { read_key(file) } else { generate_key(file) }
}

fn check_key(relay: &Relay, file: &Path, wanted: &Key, found: &Key) -> Result<()> {
    if wanted.get_public().0 != found.0 {
        bail!(
            "{} has another key than {}: remove the interface (`ip link del {0}`) or correct private_key_file",
            relay.interface,
            file.display()
        );
    }
    Ok(())
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
