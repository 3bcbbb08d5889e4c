//! The peers of the relay's own WireGuard interface, kept as they are wanted.
//!
//! A task of its own, since calls to WireGuard take their time, and nothing that is forwarded waits for them.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    interface::Interface,
    members::{Peers, PublicKey},
};

/// How long until what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the task is told.
#[derive(Debug)]
enum Notice {
    /// The peers that are wanted are others.
    Wanted(Peers),
    /// Peers that are wanted were not seen at the interface.
    Missing(Vec<PublicKey>),
}

/// What talks to the task.
pub struct Registrar {
    notices: mpsc::UnboundedSender<Notice>,
    wanted: Peers,
}

impl Registrar {
    /// Starts the task, for an interface whose peers are `wanted` already.
    pub fn start(interface: Interface, wanted: Peers, stop: CancellationToken) -> Self {
        let (notices, receiver) = mpsc::unbounded_channel();
        let task = Task { interface, applied: wanted.clone(), wanted: wanted.clone(), missing: Vec::new() };
        tokio::spawn(async move { stop.run_until_cancelled(task.run(receiver)).await });
        Self { notices, wanted }
    }

    /// Other peers are wanted.
    pub fn want(&mut self, peers: &Peers) {
        if !self.wanted.ptr_eq(peers) {
            self.wanted = peers.clone();
            // The task has ended: then the interface is about to go.
            let _ = self.notices.send(Notice::Wanted(peers.clone()));
        }
    }

    /// These peers were seen. If some that are wanted are not among them, somebody has removed them. What somebody has added
    /// is left to them.
    pub fn saw(&self, present: &BTreeSet<PublicKey>) {
        let missing: Vec<PublicKey> =
            self.wanted.keys().filter(|key| !present.contains(*key)).copied().collect();
        if !missing.is_empty() {
            let _ = self.notices.send(Notice::Missing(missing));
        }
    }
}

struct Task {
    interface: Interface,
    wanted: Peers,
    applied: Peers,
    missing: Vec<PublicKey>,
}

impl Task {
    async fn run(mut self, mut notices: mpsc::UnboundedReceiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            self.take(notice);
            while let Ok(notice) = notices.try_recv() {
                self.take(notice);
            }
            while let Err(error) = self.apply().await {
                warn!("{error:#}: relayed hosts that are new can't register yet; it is tried again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Wanted(peers) => self.wanted = peers,
            Notice::Missing(missing) => self.missing = missing,
        }
    }

    async fn apply(&mut self) -> Result<()> {
        use imbl::ordmap::DiffItem as D;
        let (mut set, mut remove) = (Vec::new(), Vec::new());
        for item in self.applied.diff(&self.wanted) {
            match item {
                D::Add(key, peer) | D::Update { new: (key, peer), .. } => set.push((*key, peer)),
                D::Remove(key, _) => remove.push(*key),
            }
        }
        set.extend(self.missing.iter().filter_map(|key| Some((*key, self.wanted.get(key)?))));
        if !set.is_empty() || !remove.is_empty() {
            self.interface.change_peers(set, remove).await?;
        }
        self.applied = self.wanted.clone();
        self.missing.clear();
        Ok(())
    }
}
