//! The embedded store: one database file in the state directory, for one process.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt as _},
};
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::{sync::watch, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{Change, Entry, Event, Revision, Snapshot, Store, StoreError};

/// The database's name in the state directory.
pub const FILE: &str = "wgrelay.redb";

/// Key to revision and value.
const RECORDS: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("records");
/// Holds the revision of the last commit under the key "revision".
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Memory for pages that were read or written. All is read once at the start and then only written.
const CACHE: usize = 8 << 20;
/// How many commits are kept in memory for those that watch.
const HISTORY: usize = 1024;
/// And how many bytes of them, besides the newest.
const HISTORY_BYTES: usize = 4 << 20;

/// A store in a database file.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// `None` after a fault in the file system: the next commit opens it again.
    database: Mutex<Option<Database>>,
    history: Mutex<History>,
    newest: watch::Sender<Revision>,
    alive: watch::Sender<BTreeSet<String>>,
}

/// The last commits.
struct History {
    /// The revision before the oldest of them.
    from: Revision,
    commits: VecDeque<(Revision, Arc<[Change]>)>,
    bytes: usize,
    limit: usize,
}

impl Embedded {
    /// Opens the database in `directory`, which is made if need be, and checks all of it.
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with_history(directory, HISTORY).await
    }

    /// Likewise, with another number of commits that are kept for those that watch.
    pub async fn open_with_history(directory: &Path, history: usize) -> Result<Self, StoreError> {
        let directory = directory.to_owned();
        blocking(move || {
            let failed = |error| from_io(&directory, &error);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
            let path = directory.join(FILE);
            let database = open(&path)?;
            // It holds hashes of secrets.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
            let revision = revision_of(&database).map_err(|error| from_redb(&path, error))?;
            let history = History { from: revision, commits: VecDeque::new(), bytes: 0, limit: history };
            Ok(Self {
                shared: Arc::new(Shared {
                    path,
                    database: Mutex::new(Some(database)),
                    history: Mutex::new(history),
                    newest: watch::Sender::new(revision),
                    alive: watch::Sender::default(),
                }),
            })
        })
        .await
    }
}

impl Store for Embedded {
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(blocking(move || shared.with(snapshot)))
    }

    fn commit(
        &self,
        expected: Revision,
        changes: Vec<Change>,
    ) -> BoxFuture<'_, Result<Revision, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(blocking(move || {
            let revision = shared.with(|database| {
                let result = commit(database, expected, &changes)?;
                if let Ok(revision) = result {
                    locked(&shared.history).push(revision, changes.into());
                }
                Ok(result)
            })??;
            shared.newest.send_replace(revision);
            Ok(revision)
        }))
    }

    fn watch(&self, from: Revision) -> BoxStream<'static, Event> {
        let receiver = self.shared.newest.subscribe();
        stream::unfold(Some((self.shared.clone(), receiver, from)), |at| async move {
            let (shared, mut newest, from) = at?;
            loop {
                newest.mark_unchanged();
                let next = locked(&shared.history).after(from);
                match next {
                    Next::Commit(revision, changes) => {
                        return Some((Event::Changed(revision, changes), Some((shared, newest, revision))));
                    }
                    Next::Gone => return Some((Event::Resync, None)),
                    Next::None => {}
                }
                newest.changed().await.ok()?;
            }
        })
        .boxed()
    }

    fn announce(&self, name: String, _: Duration, stop: CancellationToken) -> BoxFuture<'static, ()> {
        let shared = self.shared.clone();
        Box::pin(async move {
            // There is only this process: who is alive in it needs no lease.
            shared.alive.send_if_modified(|alive| alive.insert(name.clone()));
            stop.cancelled().await;
            shared.alive.send_if_modified(|alive| alive.remove(&name));
        })
    }

    fn alive(&self) -> watch::Receiver<BTreeSet<String>> {
        self.shared.alive.subscribe()
    }
}

enum Next {
    Commit(Revision, Arc<[Change]>),
    Gone,
    None,
}

impl History {
    fn push(&mut self, revision: Revision, changes: Arc<[Change]>) {
        self.bytes += size(&changes);
        self.commits.push_back((revision, changes));
        while self.commits.len() > self.limit || (self.bytes > HISTORY_BYTES && self.commits.len() > 1) {
            let Some((oldest, changes)) = self.commits.pop_front() else { break };
            self.bytes -= size(&changes);
            self.from = oldest;
        }
    }

    fn after(&self, from: Revision) -> Next {
        if from < self.from {
            return Next::Gone;
        }
        let next = self.commits.partition_point(|(revision, _)| *revision <= from);
        match self.commits.get(next) {
            Some((revision, changes)) => Next::Commit(*revision, changes.clone()),
            None => Next::None,
        }
    }
}

impl Shared {
    /// Works with the database, which is opened again if it was given up.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let mut database = locked(&self.database);
        if database.is_none() {
            *database = Some(self.reopen()?);
        }
        let result = work(database.as_ref().expect("it was opened"));
        result.map_err(|error| {
            // After a fault in the file system redb wants to be opened again; what was committed is then found.
            *database = None;
            from_redb(&self.path, error)
        })
    }

    /// Opens the database again. If a commit was done whose end was not seen, those that watch have to begin anew.
    fn reopen(&self) -> Result<Database, StoreError> {
        let database = open(&self.path)?;
        let revision = revision_of(&database).map_err(|error| from_redb(&self.path, error))?;
        let mut history = locked(&self.history);
        if history.commits.back().map_or(history.from, |(last, _)| *last) != revision {
            history.commits.clear();
            history.bytes = 0;
            history.from = revision;
            self.newest.send_replace(revision);
        }
        Ok(database)
    }
}

fn size(changes: &[Change]) -> usize {
    changes.iter().map(|change| change.key.len() + change.value.as_ref().map_or(0, Vec::len)).sum()
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    let database = builder.create(path).map_err(|error| from_redb(path, error.into()))?;
    let tables = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(META)?;
        Ok(transaction.commit()?)
    };
    tables().map_err(|error| from_redb(path, error))?;
    Ok(database)
}

fn revision_of(database: &Database) -> Result<Revision, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(Revision(meta.get("revision")?.map_or(0, |revision| revision.value())))
}

fn snapshot(database: &Database) -> Result<Snapshot, redb::Error> {
    let transaction = database.begin_read()?;
    let revision = transaction.open_table(META)?.get("revision")?.map_or(0, |revision| revision.value());
    let mut entries = Vec::new();
    for entry in transaction.open_table(RECORDS)?.iter()? {
        let (key, value) = entry?;
        let (revision, value) = value.value();
        entries.push(Entry {
            key: key.value().to_owned(),
            value: value.to_owned(),
            revision: Revision(revision),
        });
    }
    Ok(Snapshot { revision: Revision(revision), entries })
}

fn commit(
    database: &Database,
    expected: Revision,
    changes: &[Change],
) -> Result<Result<Revision, StoreError>, redb::Error> {
    let transaction = database.begin_write()?;
    let next = {
        let mut meta = transaction.open_table(META)?;
        let current = meta.get("revision")?.map_or(0, |revision| revision.value());
        if current != expected.0 {
            return Ok(Err(StoreError::Conflict(expected)));
        }
        meta.insert("revision", current + 1)?;
        current + 1
    };
    let mut records = transaction.open_table(RECORDS)?;
    for change in changes {
        match &change.value {
            Some(value) => drop(records.insert(change.key.as_str(), (next, value.as_slice()))?),
            None => drop(records.remove(change.key.as_str())?),
        }
    }
    drop(records);
    transaction.commit()?;
    Ok(Ok(Revision(next)))
}

/// Runs what blocks on a thread for such. A panic of the database is a damage that it had not foreseen.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(StoreError::Corrupt(error.to_string())))
}

fn from_io(path: &Path, error: &std::io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => StoreError::Full(text),
        ErrorKind::PermissionDenied => StoreError::Denied(text),
        // What redb says of a file that is none of its own, or cut short.
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => StoreError::Corrupt(text),
        _ => StoreError::Unavailable(text),
    }
}

fn from_redb(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error) => from_io(path, &error),
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse(path.display().to_string()),
        redb::Error::PreviousIo => StoreError::Unavailable(format!("{}: {error}", path.display())),
        other => StoreError::Corrupt(format!("{}: {other}", path.display())),
    }
}

/// What is behind the mutexes is whole at any time, also after a panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
