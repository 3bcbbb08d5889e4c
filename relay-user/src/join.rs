//! `wgrelay join`: makes a host a member of a network, and keeps its WireGuard interface as the control plane says.
//!
//! - [`Member`] is what the host keeps of itself: its private key, which never leaves it, and its owner's secret.
//! - [`peers`] and [`link`] compare what the interface is to be with what it is; `device` applies the difference.
//! - [`follow`] asks for the configuration again and again.
//!
//! The interface is WireGuard's own, in the kernel or by wireguard-go, and stays when this process ends.

mod device;
mod follow;
mod link;
mod member;
mod peers;

use std::{future::Future, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    api::shape::{Enrol, EnrolAnswer},
    client::ClientError,
    model::Name,
    netlink::Netlink,
};
use device::Device;
use follow::follow;
pub use link::Link;
pub use member::Member;
pub use peers::{Op, Present, Wanted, plan};

/// Join a network: make this host's key, enrol with an enrolment key, and set up the WireGuard interface.
///
/// Again, without a key, it sets the interface up as it is to be now; with the key of another network it joins that too.
#[derive(Clone, Debug, clap::Args)]
pub struct Join {
    /// The WireGuard interface. It is made, by the kernel or else by wireguard-go, and its peers are the control plane's.
    #[arg(long, value_name = "NAME", default_value = "wg0")]
    pub interface: String,
    /// The enrolment key, as ID.SECRET.
    #[arg(long, value_name = "KEY", conflicts_with = "key_file")]
    pub key: Option<String>,
    /// A file with the enrolment key, which does not show in the list of processes.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Where the control plane's API is; several times for one that is at several places.
    #[arg(long, value_name = "URL")]
    pub api: Vec<String>,
    /// Certificates to trust for the API instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// What this host is to be called; its host name if not given.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where others reach this host directly, if they do; at most one for each family.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub endpoint: Vec<SocketAddr>,
    /// Which way traffic takes if this host is relayed.
    #[arg(long, value_name = "WHEN")]
    pub via_relay: Option<ViaRelay>,
    /// Stay, and follow every change of the configuration.
    #[arg(long)]
    pub watch: bool,
    /// Where this host's key and the rest of its state are kept; a directory for each interface is made in it.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/wgrelay/join")]
    pub state_dir: PathBuf,
}

/// Leave all networks: delete this host's membership, its WireGuard interface and its keys.
#[derive(Clone, Debug, clap::Args)]
pub struct Leave {
    /// The WireGuard interface.
    #[arg(long, value_name = "NAME", default_value = "wg0")]
    pub interface: String,
    /// Where this host's state is kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/wgrelay/join")]
    pub state_dir: PathBuf,
    /// Leave even if the control plane can't be told.
    #[arg(long)]
    pub force: bool,
}

/// Which way traffic takes if a host is relayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ViaRelay {
    /// All of it over the relay.
    #[default]
    Always,
    /// Public peers are reached directly.
    Needed,
}

impl ViaRelay {
    fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Needed => "needed",
        }
    }
}

/// Joins, and follows until `shutdown` if that is wished.
pub async fn join(options: Join, shutdown: impl Future<Output = ()>) -> Result<()> {
    let netlink = Netlink::for_questions()?;
    let mut member = Member::open(&options.state_dir, &options.interface)?;
    member.take_over(&options)?;
    let key = match (&options.key, &options.key_file) {
        (Some(key), _) => Some(key.clone()),
        (None, Some(file)) => {
            let key = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            Some(key.trim().to_owned())
        }
        (None, None) if member.is_enrolled() => None,
        (None, None) => bail!(
            "this host has not joined by {} yet: give an enrolment key with --key or --key-file",
            options.interface
        ),
    };
    if let Some(key) = key
        && let Err(error) = enrol(&mut member, key, &options).await
    {
        // As after a reboot, when the control plane is not there (yet).
        if !(member.is_enrolled() && error.downcast_ref().is_some_and(ClientError::is_temporary)) {
            return Err(error);
        }
        tracing::warn!("{error:#}; the host goes on as the member that it is");
    }
    let mut device = Device::new(&options.interface, netlink);
    let stop = CancellationToken::new();
    let following = follow(&mut member, &mut device, options.watch, stop.clone());
    tokio::pin!(following, shutdown);
    tokio::select! {
        ended = &mut following => return ended,
        () = &mut shutdown => stop.cancel(),
    }
    // What is being written to the interface is finished.
    following.await
}

/// Tells the control plane of this host. Safe to be done again if the answer was lost: the owner's secret is our own.
async fn enrol(member: &mut Member, key: String, options: &Join) -> Result<()> {
    let name = match (&options.name, member.name()) {
        (None, Some(name)) => name.clone(),
        (Some(wished), Some(name)) if wished != name.as_str() => {
            bail!("this host is called {name} already: leave first to join by another name")
        }
        (Some(wished), _) => wished.parse()?,
        (None, None) => host_name()?,
    };
    let proof = member.proof(&name)?;
    let request = Enrol {
        key,
        name,
        public_key: member.public_key(),
        endpoints: options.endpoint.clone(),
        proof: Some(proof),
    };
    let mut last = None;
    for client in member.clients()? {
        match client.post::<EnrolAnswer>("/v1/enrol", &request).await {
            Ok(answer) => {
                let networks: Vec<&str> =
                    answer.member.networks.iter().map(|place| place.network.as_str()).collect();
                info!(name = %answer.member.name, networks = networks.join(", "), "joined");
                return member.enrolled(answer.member.name);
            }
            Err(error) if error.is_temporary() => last = Some(error),
            Err(error) => return Err(refused(error)),
        }
    }
    Err(last.map_or_else(|| anyhow::anyhow!("there is no API to ask: give one with --api"), refused))
}

fn refused(error: ClientError) -> anyhow::Error {
    anyhow::Error::new(error).context("join the network")
}

fn host_name() -> Result<Name> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host's name")?;
    let name = text.trim();
    name.parse().with_context(|| format!("this host's name is {name:?}: give another with --name"))
}

/// Leaves.
pub async fn leave(options: Leave) -> Result<()> {
    let netlink = Netlink::for_questions()?;
    let member = Member::open(&options.state_dir, &options.interface)?;
    if !member.is_enrolled() && !options.force {
        bail!("this host has not joined by {}: nothing is to be left", options.interface);
    }
    if let Err(error) = member.delete().await {
        if !options.force {
            return Err(error.context(
                "delete the membership; with --force the host leaves all the same, and the member is to be deleted by \
                 an administrator",
            ));
        }
        tracing::warn!("the membership stays until an administrator deletes it: {error:#}");
    }
    Device::new(&options.interface, netlink).remove(member.public_key()).await?;
    member.forget()
}
