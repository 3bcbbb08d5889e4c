//! The host's own WireGuard interface.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use tracing::{info, warn};
use wireguard_control::{DeviceUpdate, Key, PeerConfigBuilder, PeerInfo};

use super::{Link, Member, Op, Present, Wanted, plan};
use crate::{
    api::shape::{Configuration, Peer},
    clock,
    members::PublicKey,
    netlink::Netlink,
    wireguard::{Handle, canonical},
};

/// How many peers are changed by one call.
const AT_ONCE: usize = 5000;

/// The interface, whether it is there or not.
pub(super) struct Device {
    interface: String,
    netlink: Netlink,
    /// What was last complained of: it is not said again and again.
    complaints: BTreeSet<String>,
}

impl Device {
    pub(super) fn new(interface: &str, netlink: Netlink) -> Self {
        Self { interface: interface.to_owned(), netlink, complaints: BTreeSet::new() }
    }

    /// Makes the interface what a configuration says.
    pub(super) async fn configure(
        &mut self,
        configuration: &Configuration,
        member: &mut Member,
    ) -> Result<()> {
        let handle = self.ensure(member.private_key()).await?;
        let wanted: Vec<Wanted> = configuration.peers.iter().map(Wanted::from).collect();
        let device = handle.read().await?;
        if let Some(port) = configuration.listen_port.filter(|port| device.listen_port != Some(*port)) {
            handle.apply(DeviceUpdate::new().set_listen_port(port)).await?;
        }
        let present: Vec<Present> = device.peers.into_iter().map(Present::from).collect();
        let ops = plan(&member.applied(), &wanted, &present);
        for update in updates(&ops) {
            handle.apply(update).await?;
        }
        member.set_applied(configuration)?;
        let (link, loops) = Link::wanted(&configuration.addresses, &wanted);
        let unrouted = self.netlink.set_link(&self.interface, configuration.mtu, &link).await?;
        self.complain(&loops, unrouted);
        if !ops.is_empty() {
            let removed = ops.iter().filter(|op| matches!(op, Op::Remove(_))).count();
            info!(peers = wanted.len(), removed, set = ops.len() - removed, "peers are as configured");
        }
        Ok(())
    }

    /// The interface with our key. It is made if it is not there, by whomever it may have been removed.
    async fn ensure(&self, key: Key) -> Result<Handle> {
        let interface = &self.interface;
        if self.netlink.ifindex(interface).await.is_err() {
            let handle = Handle::create(interface, &self.netlink).await?;
            handle.apply(DeviceUpdate::new().set_private_key(key)).await?;
            info!(interface, backend = ?handle.backend, "WireGuard interface created");
            return Ok(handle);
        }
        let handle = Handle::of(interface)?;
        let device = handle
            .read()
            .await
            .with_context(|| format!("{interface} is no WireGuard interface that answers: name another"))?;
        match device.public_key {
            Some(there) if there == key.get_public() => {}
            // Made, and then we were killed.
            None => handle.apply(DeviceUpdate::new().set_private_key(key)).await?,
            Some(_) => bail!(
                "{interface} has another key, so it is not ours: name another interface, or remove that one \
                 (`ip link del {interface}`)"
            ),
        }
        Ok(handle)
    }

    /// Removes the interface, if it has this key.
    pub(super) async fn remove(&self, key: PublicKey) -> Result<()> {
        if self.netlink.ifindex(&self.interface).await.is_err() {
            return Ok(());
        }
        let device = Handle::of(&self.interface)?.read().await?;
        if device.public_key.is_some_and(|there| there.0 != key.0) {
            bail!("{} has another key, so it is not ours: it stays", self.interface);
        }
        // wireguard-go ends when its device is gone.
        self.netlink.delete(&self.interface).await
    }

    fn complain(&mut self, loops: &BTreeSet<IpNet>, unrouted: Vec<String>) {
        let loops = loops.iter().map(|range| {
            format!("{range} is not routed: the way to a peer's endpoint would lead into the tunnel")
        });
        let now: BTreeSet<String> = loops.chain(unrouted).collect();
        now.difference(&self.complaints).for_each(|complaint| warn!("{complaint}"));
        self.complaints = now;
    }
}

/// Steps in their order: what was removed can come back in a later update, not in the same.
fn updates(ops: &[Op]) -> Vec<DeviceUpdate> {
    let mut updates: Vec<(Vec<PeerConfigBuilder>, BTreeSet<PublicKey>)> = Vec::new();
    for op in ops {
        let (key, builder) = match op {
            Op::Remove(key) => (*key, PeerConfigBuilder::new(&Key(key.0)).remove()),
            Op::Set { public_key, endpoint, allowed_ips, keepalive } => {
                let mut builder = PeerConfigBuilder::new(&Key(public_key.0));
                if let Some(ranges) = allowed_ips {
                    builder = builder.replace_allowed_ips();
                    for range in ranges {
                        builder = builder.add_allowed_ip(range.addr(), range.prefix_len());
                    }
                }
                builder = endpoint.iter().copied().fold(builder, PeerConfigBuilder::set_endpoint);
                builder = keepalive
                    .iter()
                    .copied()
                    .fold(builder, PeerConfigBuilder::set_persistent_keepalive_interval);
                (*public_key, builder)
            }
        };
        if updates.last().is_none_or(|(builders, keys)| builders.len() == AT_ONCE || keys.contains(&key)) {
            updates.push(<_>::default());
        }
        let (builders, keys) = updates.last_mut().expect("there is one");
        builders.push(builder);
        keys.insert(key);
    }
    updates.into_iter().map(|(builders, _)| DeviceUpdate::new().add_peers(&builders)).collect()
}

impl From<&Peer> for Wanted {
    fn from(peer: &Peer) -> Self {
        Self {
            public_key: peer.public_key,
            endpoint: peer.endpoint,
            allowed_ips: peer.allowed_ips.iter().map(IpNet::trunc).collect(),
            keepalive: peer.keepalive.unwrap_or_default(),
        }
    }
}

impl From<PeerInfo> for Present {
    fn from(peer: PeerInfo) -> Self {
        let ranges = peer.config.allowed_ips.iter();
        Self {
            public_key: PublicKey(peer.config.public_key.0),
            endpoint: peer.config.endpoint.map(canonical),
            allowed_ips: ranges.filter_map(|range| IpNet::new(range.address, range.cidr).ok()).collect(),
            keepalive: peer.config.persistent_keepalive_interval.unwrap_or_default(),
            handshake: peer.stats.last_handshake_time.and_then(clock::ago),
        }
    }
}
