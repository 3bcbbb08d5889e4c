//! Who is alive: keys that hang on leases.

use std::{collections::BTreeSet, time::Duration};

use etcd_client::{EventType, PutOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Etcd, RETRY, below, bounded, from_etcd};
use crate::store::StoreError;

impl Etcd {
    fn alive_below(&self) -> String {
        format!("{}/alive/", self.prefix)
    }
}

/// Keeps `name` announced until `stop`.
pub(super) async fn announce(store: Etcd, name: String, ttl: Duration, stop: CancellationToken) {
    let mut lease = None;
    while !stop.is_cancelled() {
        let lost = tokio::select! {
            () = stop.cancelled() => break,
            lost = hold(&store, &name, ttl, &mut lease) => lost,
        };
        if let Err(error) = lost {
            warn!("others can't see that {name} is alive: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    if let Some(lease) = lease {
        // If this fails, the lease runs out.
        let _ = bounded(store.client.lease_client().revoke(lease)).await;
    }
}

/// Takes a lease and keeps it alive; returns when it is lost.
async fn hold(store: &Etcd, name: &str, ttl: Duration, lease: &mut Option<i64>) -> Result<(), StoreError> {
    let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
    let mut client = store.client.lease_client();
    let granted = bounded(client.grant(seconds, None)).await?;
    let id = *lease.insert(granted.id());
    let key = format!("{}{name}", store.alive_below());
    bounded(store.client.kv_client().put(key, name, Some(PutOptions::new().with_lease(id)))).await?;
    let (mut keeper, mut answers) = bounded(client.keep_alive(id)).await?;
    loop {
        tokio::time::sleep(ttl / 3).await;
        bounded(keeper.keep_alive()).await?;
        match bounded(answers.message()).await? {
            Some(answer) if answer.ttl() > 0 => {}
            _ => return Err(StoreError::Unavailable("the lease has run out".into())),
        }
    }
}

/// Keeps `alive` up to date until nobody has the other end.
pub(super) async fn follow(store: Etcd, alive: watch::Sender<BTreeSet<String>>) {
    loop {
        let lost = tokio::select! {
            () = alive.closed() => return,
            lost = follow_once(&store, &alive) => lost,
        };
        if let Err(error) = lost {
            warn!("who is alive is not known anew: {error}");
        }
        tokio::select! {
            () = alive.closed() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn follow_once(store: &Etcd, alive: &watch::Sender<BTreeSet<String>>) -> Result<(), StoreError> {
    let prefix = store.alive_below();
    let all = bounded(store.client.kv_client().get(store.revision_key(), None)).await?;
    let at = all.header().map_or(0, |header| header.revision());
    let names = store.read_all(&prefix, at).await?.into_iter().map(|kv| below(&prefix, kv.key()));
    alive.send_replace(names.collect::<Result<_, _>>()?);
    let mut stream = store.open_watch(&prefix, at + 1).await?;
    while let Some(answer) = stream.message().await.map_err(from_etcd)? {
        if answer.canceled() {
            return Err(StoreError::Unavailable(answer.cancel_reason().to_owned()));
        }
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            let name = below(&prefix, kv.key())?;
            alive.send_modify(|alive| {
                match event.event_type() {
                    EventType::Put => alive.insert(name),
                    EventType::Delete => alive.remove(&name),
                };
            });
        }
    }
    Err(StoreError::Unavailable("etcd has ended the watch".into()))
}
