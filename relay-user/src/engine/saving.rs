//! The file with what outlives a reboot, kept up to date.

use std::{collections::HashMap, path::PathBuf};

use tokio::task::JoinHandle;
use tracing::warn;

use super::Engine;
use crate::{
    clock,
    maps::Traffic,
    members::{MemberId, Place},
    saved::{End, Saved, SavedHost, Seen},
};

/// What the engine knows of the file.
pub(super) struct Saving {
    file: PathBuf,
    /// What was last written.
    written: Saved,
    /// Where WireGuard last saw members, in this run or an earlier one.
    pub(super) seen: HashMap<MemberId, Seen>,
    running: Option<JoinHandle<()>>,
}

impl Saving {
    /// For a file that holds this.
    pub fn new(file: PathBuf, written: Saved) -> Self {
        let seen = written.seen(&clock::moment()).map(|(key, seen)| (key.id(), seen)).collect();
        Self { file, written, seen, running: None }
    }

    /// Writes in the background, one after the other, if there is anything new.
    async fn write(&mut self, saved: Saved) {
        if saved.same(&self.written) {
            return;
        }
        self.finish().await;
        let (file, content) = (self.file.clone(), saved.clone());
        self.written = saved;
        self.running = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = content.write(&file) {
                warn!("{error:#}: after a reboot of this host, hosts will take longer to come back");
            }
        }));
    }

    /// Waits until all is written.
    async fn finish(&mut self) {
        if let Some(running) = self.running.take() {
            // It does not panic, and if it did, there would be nothing to do.
            let _ = running.await;
        }
    }
}

impl Engine {
    /// Writes what is to outlive a reboot, as long as the relay runs.
    pub(super) async fn save(&mut self) {
        let saved = self.to_save(None);
        self.saving.write(saved).await;
    }

    /// Writes the same and all live sessions, at the end.
    pub(super) async fn save_all(&mut self) {
        let sessions = self.tracker.sessions().copied().collect();
        let saved = self.to_save(Some(End { kept: self.keep.leaves(), sessions }));
        self.saving.write(saved).await;
        self.saving.finish().await;
    }

    fn to_save(&self, end: Option<End>) -> Saved {
        let traffic = self.traffic();
        let pair = |Traffic { packets, bytes }| (packets, bytes);
        let hosts = self.desired.members.iter().map(|(id, member)| {
            let (_, total) = traffic.get(&id).copied().unwrap_or_default();
            let seen = self.saving.seen.get(&id).filter(|_| member.place == Place::Relayed).copied();
            let host = SavedHost { seen, sent: pair(total.sent), received: pair(total.received) };
            (member.public_key, host)
        });
        Saved::new(clock::moment(), self.config.relay.port, hosts, end)
    }
}
