//! Control sources: what says who the members are. That is the configuration file itself, the control plane's store, or
//! a Netmaker server. The file is followed in each case, for all else that can be changed while the relay runs.

mod file;
mod netmaker;
mod store;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{file::File, netmaker::Netmaker, store::Followed};
use crate::{
    api::{Control, Engine, Listener, Own},
    config::{self, Config},
    control_plane::ControlPlane,
    engine::Change,
    interface::Interface,
    members::{Desired, PublicKey},
    model::{Name, Records, TurnUser},
    serve::serve_on,
    turn::server::Settings,
};

/// The source that a configuration names, before there is anything of a relay.
pub enum Opened {
    /// The file.
    File,
    /// The store, and where its API is served over TCP.
    Store(Box<ControlPlane>, Option<Box<Listener>>),
    /// A Netmaker server.
    Netmaker,
}

/// The source of a relay.
pub struct Source {
    file: File,
    members: Members,
}

/// Where the members come from.
enum Members {
    File(Desired),
    Store(Box<Store>),
    Netmaker(Box<Netmaker>),
}

struct Store {
    plane: Box<ControlPlane>,
    failover_seconds: u64,
    followed: Followed,
    own: Option<Own>,
    tcp: Option<Box<Listener>>,
}

impl Opened {
    /// Opens what there is to open. A store is followed until `stop`.
    pub async fn open(config: &Config, stop: &CancellationToken) -> Result<Self> {
        let control = &config.control;
        Ok(match control.source {
            config::Source::File => Self::File,
            config::Source::Netmaker => Self::Netmaker,
            config::Source::Store => {
                let tcp = match &control.api {
                    Some(api) => Some(Box::new(Listener::open(api).await?)),
                    None => None,
                };
                Self::Store(Box::new(ControlPlane::open(&control.store, stop.clone()).await?), tcp)
            }
        })
    }

    /// The source of the relay that has this interface.
    pub fn of_relay(self, path: &Path, config: &Config, interface: &Interface) -> Result<Source> {
        let relay_key = interface.public_key();
        let wanted = file::desired(path, config, relay_key)?;
        let policy = wanted.members.policy();
        let members = match self {
            Self::File => Members::File(wanted.clone()),
            Self::Store(plane, tcp) => {
                let title = plane.title().to_owned();
                let (writer, store) = (plane.writer.clone(), plane.store.clone());
                let followed = Followed::new(writer, store, title, relay_key, policy)
                    .context("take this relay's part of the control plane's store")?;
                let (own, failover_seconds) = (own(config, relay_key), config.control.failover_seconds);
                Members::Store(Box::new(Store { plane, failover_seconds, followed, own, tcp }))
            }
            Self::Netmaker => Members::Netmaker(Box::new(Netmaker::open(config, relay_key)?)),
        };
        let in_file = matches!(members, Members::File(_)).then_some(wanted);
        let file = File::new(path.to_owned(), config.clone(), in_file, relay_key);
        Ok(Source { file, members })
    }
}

/// This relay, as `wgrelay relay create` without more proposes it to the control plane.
fn own(config: &Config, public_key: PublicKey) -> Option<Own> {
    let relay = &config.relay;
    let name: Name = match relay.name.parse() {
        Ok(name) => name,
        Err(error) => {
            warn!(
                name = relay.name,
                "{error}: give `name` in [relay] to have this relay created without further words"
            );
            return None;
        }
    };
    Some(Own { name, public_key, addresses: relay.addresses.clone(), port: relay.port })
}

impl Source {
    /// What is wanted, and what the source says of itself.
    pub fn desired(&self) -> Change {
        let (desired, source) = match &self.members {
            Members::File(desired) => (desired.clone(), self.file.state()),
            Members::Store(store) => (store.followed.desired().clone(), store.followed.state()),
            Members::Netmaker(netmaker) => (netmaker.desired(), netmaker.state()),
        };
        Change { desired, source }
    }

    /// What the TURN server is to go by, as the file has it.
    pub fn turn(&self) -> Result<watch::Receiver<Option<Settings>>> {
        self.file.turn()
    }

    /// Users of the TURN server who do not stand in the file.
    pub fn turn_users(&self) -> watch::Receiver<Records<TurnUser>> {
        match &self.members {
            Members::Store(store) => store.followed.turn_users(),
            Members::File(_) | Members::Netmaker(_) => watch::Sender::new(Records::new()).subscribe(),
        }
    }

    /// Starts to follow, and to serve the API. Peers that have proven their keys come by `proofs`.
    pub fn start(
        self,
        tasks: &mut JoinSet<Result<()>>,
        unix: UnixListener,
        engine: &Engine,
        proofs: mpsc::Receiver<Vec<PublicKey>>,
        stop: &CancellationToken,
    ) {
        tasks.spawn(self.file.follow(engine.clone(), stop.clone()));
        let serve = |tasks: &mut _, tcp, control| {
            serve_on(tasks, unix, tcp, Some(engine.clone()), control, stop);
        };
        match self.members {
            // Whoever is named needs no proof.
            Members::File(_) => serve(tasks, None, None),
            Members::Netmaker(netmaker) => {
                serve(tasks, None, None);
                tasks.spawn(netmaker.follow(engine.clone(), stop.clone()));
            }
            Members::Store(store) => {
                let Store { plane, failover_seconds, followed, own, tcp } = *store;
                if let Some(tcp) = &tcp {
                    info!(listen = %tcp.address(), "the API is served");
                }
                let (writer, followers) = (plane.writer.clone(), plane.followers.clone());
                serve(
                    tasks,
                    tcp.map(|tcp| *tcp),
                    Some(Control { writer, alive: plane.alive(), own, followers }),
                );
                let failover = plane.fail_over(failover_seconds, stop.clone());
                tasks.spawn(async {
                    failover.await;
                    Ok(())
                });
                tasks.spawn(followed.follow(engine.clone(), proofs, stop.clone()));
                let stop = stop.clone();
                tasks.spawn(async move {
                    plane.ended().await;
                    ensure!(stop.is_cancelled(), "the control plane's task has ended");
                    Ok(())
                });
            }
        }
    }
}
