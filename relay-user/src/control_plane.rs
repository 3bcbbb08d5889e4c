//! The control plane of this process: the store that the configuration names, and the task that writes it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{StoreConfig, StoreKind},
    store::{Embedded, Etcd, FILE, Followers, Store, StoreError, Writer, fail_over, unix_time},
};

/// A store and who writes it.
pub struct ControlPlane {
    /// Changes the store by the model's rules, and knows all that is in it.
    pub writer: Writer,
    /// The store itself: which relays are alive is announced and known there.
    pub store: Arc<dyn Store>,
    /// The hosts that wait for a change of their configuration.
    pub followers: Followers,
    /// What the store is called.
    title: String,
    /// Whether all relays announce themselves in the store.
    shared: bool,
    task: JoinHandle<()>,
}

impl ControlPlane {
    /// Opens the store and reads all of it. It is followed until `stop`.
    pub async fn open(config: &StoreConfig, stop: CancellationToken) -> Result<Self> {
        let (opened, place) = match config.kind {
            StoreKind::Embedded => {
                let place = config.state_dir.join(FILE).display().to_string();
                (
                    Embedded::open(&config.state_dir).await.map(|store| Arc::new(store) as Arc<dyn Store>),
                    place,
                )
            }
            StoreKind::Etcd => {
                let etcd = config.etcd.clone().unwrap_or_default();
                let place = format!("etcd at {}", etcd.endpoints.join(", "));
                (Etcd::connect(&etcd).await.map(|store| Arc::new(store) as Arc<dyn Store>), place)
            }
        };
        let (title, opening) = (place.clone(), format!("open the control plane's store, {place}"));
        let started = async {
            let store = opened?;
            let (writer, task) = Writer::start(store.clone(), unix_time, stop).await?;
            let (followers, shared) = (Followers::default(), config.kind == StoreKind::Etcd);
            Ok::<_, StoreError>(Self { writer, store, followers, title, shared, task })
        };
        started.await.context(opening)
    }

    /// What the store is called.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The relays that are alive, as far as is known.
    pub fn alive(&self) -> watch::Receiver<BTreeSet<String>> {
        self.store.alive()
    }

    /// Moves hosts that follow their configuration away from relays that are gone for so many seconds, until `stop`. With
    /// 0, or where only this process can be in the store, this does nothing.
    pub fn fail_over(
        &self,
        seconds: u64,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let work = fail_over(
            self.writer.clone(),
            self.alive(),
            self.followers.clone(),
            Duration::from_secs(seconds),
            stop.clone(),
        );
        let wanted = self.shared && seconds > 0;
        async move { if wanted { work.await } else { stop.cancelled().await } }
    }

    /// Waits until the task has ended, which it does after `stop`.
    pub async fn ended(self) {
        // A panic has been printed.
        let _ = self.task.await;
    }
}
