//! The peers of the relay's own WireGuard interface, kept as they are wanted.
//!
//! A task of its own, since calls to WireGuard take their time, and nothing that is forwarded waits for them.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use anyhow::Result;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    interface::{Interface, PEERS_AT_ONCE},
    members::{Peer, Peers, PublicKey},
};

/// How long until what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the task is told.
#[derive(Debug)]
enum Notice {
    /// The peers that are wanted are others.
    Wanted(Peers),
    /// Peers that the interface was given are not there any more.
    Missing(Vec<PublicKey>),
}

/// What talks to the task.
pub struct Registrar {
    notices: mpsc::UnboundedSender<Notice>,
    wanted: Peers,
    applied: watch::Receiver<Peers>,
}

impl Registrar {
    /// Makes `wanted` the peers of an interface that has the peers `present`, and starts the task. Where that is more than
    /// a call or two, the task does it: whoever has sessions is not to wait until WireGuard knows ten thousands of others.
    /// Hosts of which WireGuard does not know where they are it calls where they were `last_seen`.
    pub async fn start(
        interface: Interface,
        present: &BTreeSet<PublicKey>,
        wanted: &Peers,
        last_seen: HashMap<PublicKey, SocketAddr>,
        stop: CancellationToken,
    ) -> Result<Self> {
        // Peers of an interface that is not wgrelay's own are somebody else's: none is removed.
        let ours = present.iter().filter(|key| interface.is_owned() || wanted.contains_key(*key));
        let peer = |key: &PublicKey| (*key, wanted.get(key).cloned().unwrap_or_default());
        let (notices, receiver) = mpsc::unbounded_channel();
        let (applied, applied_receiver) = watch::channel(ours.map(peer).collect());
        let mut task = Task { interface, applied, wanted: wanted.clone(), missing: Vec::new() };
        let changes = {
            let applied = task.applied.borrow();
            let (set, remove) = task.changes(&applied);
            set.len() + remove.len()
        };
        if changes <= PEERS_AT_ONCE {
            task.apply().await?;
            task.call(&last_seen).await;
            tokio::spawn(async move { stop.run_until_cancelled(task.run(receiver)).await });
        } else {
            info!(
                changes,
                "the peers of the WireGuard interface are being set; forwarding does not wait for it"
            );
            let all = async move {
                task.settle().await;
                info!(peers = task.wanted.len(), "the WireGuard interface has its peers");
                task.call(&last_seen).await;
                task.run(receiver).await;
            };
            tokio::spawn(async move { stop.run_until_cancelled(all).await });
        }
        Ok(Self { notices, wanted: wanted.clone(), applied: applied_receiver })
    }

    /// Other peers are wanted.
    pub fn want(&mut self, peers: &Peers) {
        if !self.wanted.ptr_eq(peers) {
            self.wanted = peers.clone();
            // The task has ended: then the interface is about to go.
            let _ = self.notices.send(Notice::Wanted(peers.clone()));
        }
    }

    /// What the interface was given so far.
    pub fn applied(&self) -> Peers {
        self.applied.borrow().clone()
    }

    /// Peers that the interface was given were not seen there: somebody has removed them. What somebody has added is left to
    /// them.
    pub fn missing(&self, missing: Vec<PublicKey>) {
        if !missing.is_empty() {
            let _ = self.notices.send(Notice::Missing(missing));
        }
    }
}

struct Task {
    interface: Interface,
    wanted: Peers,
    applied: watch::Sender<Peers>,
    missing: Vec<PublicKey>,
}

impl Task {
    async fn run(mut self, mut notices: mpsc::UnboundedReceiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            self.take(notice);
            while let Ok(notice) = notices.try_recv() {
                self.take(notice);
            }
            self.settle().await;
        }
    }

    fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Wanted(peers) => self.wanted = peers,
            Notice::Missing(missing) => self.missing = missing,
        }
    }

    /// Makes them the peers, however often it takes.
    async fn settle(&mut self) {
        while let Err(error) = self.apply().await {
            warn!("{error:#}: relayed hosts that are new can't register yet; it is tried again");
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn apply(&mut self) -> Result<()> {
        let applied = self.applied.borrow().clone();
        let (set, remove) = self.changes(&applied);
        if !set.is_empty() || !remove.is_empty() {
            self.interface.change_peers(set, remove).await?;
        }
        self.applied.send_replace(self.wanted.clone());
        self.missing.clear();
        Ok(())
    }

    /// The peers that have to be set, and those that have to go, where these are there.
    fn changes(&self, applied: &Peers) -> (Vec<(PublicKey, &Peer)>, Vec<PublicKey>) {
        use imbl::ordmap::DiffItem as D;
        let (mut set, mut remove) = (Vec::new(), Vec::new());
        for item in applied.diff(&self.wanted) {
            match item {
                D::Add(key, peer) | D::Update { new: (key, peer), .. } => set.push((*key, peer)),
                D::Remove(key, _) => remove.push(*key),
            }
        }
        set.extend(self.missing.iter().filter_map(|key| Some((*key, self.wanted.get(key)?))));
        (set, remove)
    }

    /// Has WireGuard call hosts that it does not know of where they were last seen.
    async fn call(&self, last_seen: &HashMap<PublicKey, SocketAddr>) {
        match self.interface.call(last_seen).await {
            Ok(0) => {}
            Ok(hosts) => info!(hosts, "called where they were last seen"),
            Err(error) => warn!("{error:#}: hosts have to come back by themselves"),
        }
    }
}
