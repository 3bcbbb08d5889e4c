//! Stores: where the records are kept, and how changes are made and followed.
//!
//! A store is a flat, ordered map of keys to values with one revision, which grows with each commit. It knows nothing of
//! what the values mean. Two kinds are there: [`Embedded`], a database file for one process, and [`Etcd`], for any
//! number of relay hosts. [`Writer`] makes changes to either by the rules of the [model](crate::model).

mod embedded;
mod etcd;
mod fail_over;
mod writer;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{future::BoxFuture, stream::BoxStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use embedded::{Embedded, FILE};
pub use etcd::{Etcd, EtcdOptions, EtcdTls};
pub use fail_over::{Followers, Following, fail_over};
pub use writer::{Done, WriteError, Writer, unix_time};

pub use crate::model::Revision;

/// A change of one key: its new value, or none if it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Option<Vec<u8>>,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision of its last change.
    pub revision: Revision,
}

/// All that is in a store at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// The entries, by key.
    pub entries: Vec<Entry>,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A commit: its revision and all its changes, in order. Commits come in order and without gaps.
    Changed(Revision, Arc<[Change]>),
    /// The history from where the watch stood is gone. Nothing more comes: take a snapshot, and watch from there.
    Resync,
    /// The store can't be reached at the moment. The watch goes on by itself.
    Unavailable(StoreError),
    /// It is reached again.
    Restored,
}

/// Why a store does not do what it should. What was committed before stays in all cases.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Others have committed first: nothing was done.
    #[error("the store is not at revision {} any more", .0.0)]
    Conflict(Revision),
    /// It can't be reached. A commit may have been done or not.
    #[error("the store can't be reached: {0}")]
    Unavailable(String),
    /// There is no room. Nothing was done.
    #[error("the store is full: {0}; make room")]
    Full(String),
    /// A commit has more changes than the store takes at once. Nothing was done.
    #[error("too much for one commit: {0}; do it in parts")]
    TooLarge(String),
    /// The store's data is damaged. It is left as it is.
    #[error("the store is damaged: {0}; put it aside and restore a copy")]
    Corrupt(String),
    /// Another process uses it.
    #[error("{0} is in use by another process: stop that one, or use etcd to share the state")]
    InUse(String),
    /// It does not let us in.
    #[error("the store refuses access: {0}; check user, password and certificates")]
    Denied(String),
}

/// A store.
pub trait Store: Send + Sync {
    /// All that is in it.
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>>;

    /// Makes changes, all or none, if the store is still at revision `expected`, and gives the new revision. Each key at
    /// most once, and at least one. When this returns, the changes are on stable storage.
    fn commit(&self, expected: Revision, changes: Vec<Change>)
    -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Tells all commits after revision `from`, those that are in the past first.
    fn watch(&self, from: Revision) -> BoxStream<'static, Event>;

    /// Announces that `name` is alive, until `stop`. If this process dies, the others know after `ttl`, in whole seconds.
    /// While the store can't be reached, it is tried again.
    fn announce(&self, name: String, ttl: Duration, stop: CancellationToken) -> BoxFuture<'static, ()>;

    /// Who is alive, as far as is known; it is followed as long as somebody has the receiver. Who is in doubt while the
    /// store can't be reached stays as it was.
    fn alive(&self) -> watch::Receiver<BTreeSet<String>>;
}
