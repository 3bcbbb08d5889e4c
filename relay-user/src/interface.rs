//! The relay's own WireGuard interface, which is the registrar: relayed hosts are its peers, and WireGuard itself learns
//! and follows their addresses.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use tracing::{info, warn};
use wireguard_control::{DeviceUpdate, Key, PeerConfigBuilder};

use crate::{
    config::Relay,
    members::{self, Peers, PublicKey},
    netlink::Netlink,
    wireguard::{Handle, canonical, generate_key, read_key, userspace_socket},
};

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
    device: Handle,
    /// wgrelay removes it at the end.
    owned: bool,
    /// This process has made it.
    created: bool,
    public_key: PublicKey,
}

impl Interface {
    /// Finds the interface or, if the configuration says so, creates it.
    pub async fn open(relay: &Relay, netlink: &Netlink) -> Result<Self> {
        let exists = netlink.ifindex(&relay.interface).await.is_ok();
        if exists {
            return Self::find(relay).await;
        }
        if !relay.create {
            bail!(
                "there is no WireGuard interface {}: create it (`wg-quick up {0}`), or set `create = true` under [relay]",
                relay.interface
            );
        }
        Self::create(relay, netlink).await
    }

    async fn find(relay: &Relay) -> Result<Self> {
        let device = Handle::of(&relay.interface)?;
        let found = device.read().await.with_context(|| {
            format!(
                "{} is no WireGuard interface that answers ({} is not there, and the kernel does not know it): remove it \
                 (`ip link del {0}`) or name another",
                relay.interface,
                userspace_socket(&relay.interface).display()
            )
        })?;
        let Some(key) = found.public_key else {
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
        if found.listen_port != Some(relay.port) {
            bail!(
                "{} listens on port {}, but the relay port is {}: they must be the same (`wg set {0} listen-port {2}`)",
                relay.interface,
                found.listen_port.unwrap_or(0),
                relay.port
            );
        }
        Ok(Self { device, owned: relay.create, created: false, public_key })
    }

    async fn create(relay: &Relay, netlink: &Netlink) -> Result<Self> {
        let file = relay.private_key_file.as_deref().expect("the configuration was checked");
        let key = if file.exists() { read_key(file)? } else { generate_key(file)? };
        check_port(relay.port)?;
        let device = Handle::create(&relay.interface, netlink).await?;
        let this = Self { device, owned: true, created: true, public_key: PublicKey(key.get_public().0) };
        let result = this.set_up(relay, key, netlink).await;
        if result.is_err() {
            this.remove(netlink).await;
        }
        result.map(|()| this)
    }

    async fn set_up(&self, relay: &Relay, key: Key, netlink: &Netlink) -> Result<()> {
        let port = relay.port;
        self.device.apply(DeviceUpdate::new().set_private_key(key).set_listen_port(port)).await?;
        netlink.set_up(&relay.interface).await?;
        // wireguard-go binds its port when the interface comes up, and only logs it if that fails.
        if self.device.read().await?.listen_port != Some(port) {
            bail!("UDP port {port} can't be had for {}: another program has it", relay.interface);
        }
        let backend = self.device.backend;
        info!(interface = relay.interface, ?backend, public_key = %self.public_key, "WireGuard interface created");
        Ok(())
    }

    /// The relay's public key.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// All peers as they are now.
    pub async fn peers(&self) -> Result<Vec<Peer>> {
        let device = self.device.read().await?;
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
        let unwanted = present.iter().filter(|key| self.owned && !wanted.contains_key(*key)).copied();
        self.change_peers(missing, unwanted).await
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
            self.device.apply(DeviceUpdate::new().add_peers(some)).await?;
        }
        Ok(())
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
