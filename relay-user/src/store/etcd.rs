//! The store on etcd, for any number of relay hosts.
//!
//! Below a prefix, `PREFIX/records/KEY` holds the records, `PREFIX/records/.revision` is written by every commit, and
//! `PREFIX/alive/NAME` hangs on a lease. A revision is the one that etcd itself gave to the last write of
//! `.revision`; every commit is one transaction that demands that it is still that.

mod leases;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, EventType, GetOptions, Identity,
    KeyValue, TlsOptions, Txn, TxnOp, WatchOptions, WatchStream,
};
use futures_util::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt as _},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Change, Entry, Event, Revision, Snapshot, Store, StoreError};

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long until a lost connection is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Entries of one answer when all are read.
const PAGE: i64 = 5000;
/// etcd takes 128 operations in a list; lists may be nested.
const NESTED: usize = 60;
/// Many commits may come in one answer of a watch.
const ANSWER_BYTES: usize = 256 << 20;

/// The key that every commit writes. No record's key begins with a dot.
const REVISION: &str = ".revision";

/// How to reach etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdOptions {
    /// Its endpoints, as `https://HOST:2379`.
    pub endpoints: Vec<String>,
    /// What all keys begin with; `/wgrelay` if it is not given.
    #[serde(default)]
    pub prefix: Option<String>,
    /// User, if etcd wants one.
    #[serde(default)]
    pub user: Option<String>,
    /// A file with the user's password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// TLS, if it is not the system's default.
    #[serde(default)]
    pub tls: Option<EtcdTls>,
}

/// TLS to etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdTls {
    /// Certificates of those that etcd's certificate is signed by, PEM.
    pub ca_file: PathBuf,
    /// Our own certificate, PEM, if etcd wants one.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The name in etcd's certificate, if it is not the endpoint's.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// A store on etcd.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    prefix: Arc<str>,
}

impl Etcd {
    /// Prepares to talk to etcd. Only a user's name and password are checked at once; else it may still be down.
    pub async fn connect(options: &EtcdOptions) -> Result<Self, StoreError> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(TIMEOUT)
            .with_timeout(TIMEOUT)
            .with_keep_alive(Duration::from_secs(5), Duration::from_secs(5))
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = &options.user {
            let password = match &options.password_file {
                Some(path) => read(path)?,
                None => String::new(),
            };
            connect = connect.with_user(user, password.trim_end_matches(['\r', '\n']));
        }
        if let Some(tls) = &options.tls {
            connect = connect.with_tls(tls_options(tls)?);
        }
        let prefix = options.prefix.as_deref().unwrap_or("/wgrelay").trim_end_matches('/').into();
        let client = bounded(Client::connect(&options.endpoints, Some(connect))).await?;
        Ok(Self { client, prefix })
    }

    fn revision_key(&self) -> String {
        format!("{}/records/{REVISION}", self.prefix)
    }

    fn records(&self) -> String {
        format!("{}/records/", self.prefix)
    }

    /// The keys below `below`, a page at a time so that no answer is too large, all as of one revision of etcd.
    async fn read_all(&self, below: &str, at: i64) -> Result<Vec<KeyValue>, StoreError> {
        let mut client = self.client.kv_client().max_decoding_message_size(ANSWER_BYTES);
        let end = after_all(below);
        let (mut all, mut from) = (Vec::new(), below.as_bytes().to_vec());
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(at);
            let mut answer = bounded(client.get(from, Some(options))).await?;
            let more = answer.more();
            all.extend(answer.take_kvs());
            let Some(last) = all.last().filter(|_| more) else { return Ok(all) };
            from = last.key().to_vec();
            from.push(0);
        }
    }

    async fn read_snapshot(&self) -> Result<Snapshot, StoreError> {
        let mut client = self.client.kv_client();
        let answer = bounded(client.get(self.revision_key(), None)).await?;
        let at = answer.header().map_or(0, |header| header.revision());
        let revision = answer.kvs().first().map_or(Revision(0), |kv| revision_of(kv.mod_revision()));
        let records = self.records();
        let mut entries = Vec::new();
        for kv in self.read_all(&records, at).await? {
            let at = revision_of(kv.mod_revision());
            let (key, value) = kv.into_key_value();
            let key = below(&records, &key)?;
            if key != REVISION {
                entries.push(Entry { key, value, revision: at });
            }
        }
        Ok(Snapshot { revision, entries })
    }

    async fn try_commit(&self, expected: Revision, changes: Vec<Change>) -> Result<Revision, StoreError> {
        let records = self.records();
        let revision_key = self.revision_key();
        let expected_now = Compare::mod_revision(
            revision_key.clone(),
            CompareOp::Equal,
            i64::try_from(expected.0).expect("revisions are etcd's"),
        );
        let mut ops: Vec<TxnOp> = changes
            .into_iter()
            .map(|Change { key, value }| match value {
                Some(value) => TxnOp::put(format!("{records}{key}"), value, None),
                None => TxnOp::delete(format!("{records}{key}"), None),
            })
            .collect();
        if ops.len() > NESTED * NESTED {
            return Err(StoreError::TooLarge(format!("{} changes", ops.len())));
        }
        if ops.len() > NESTED {
            let mut lists = Vec::new();
            while !ops.is_empty() {
                let rest = ops.split_off(ops.len().min(NESTED));
                lists.push(TxnOp::txn(Txn::new().and_then(std::mem::replace(&mut ops, rest))));
            }
            ops = lists;
        }
        ops.push(TxnOp::put(revision_key, [], None));
        let transaction = Txn::new().when([expected_now]).and_then(ops);
        let answer = bounded(self.client.kv_client().txn(transaction)).await?;
        if !answer.succeeded() {
            return Err(StoreError::Conflict(expected));
        }
        Ok(revision_of(answer.header().map_or(0, |header| header.revision())))
    }

    async fn open_watch(&self, below: &str, from: i64) -> Result<WatchStream, StoreError> {
        let options = WatchOptions::new().with_range(after_all(below)).with_start_revision(from);
        let mut client = self.client.watch_client().max_decoding_message_size(ANSWER_BYTES);
        bounded(client.watch(below, Some(options))).await
    }
}

impl Store for Etcd {
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        Box::pin(self.read_snapshot())
    }

    fn commit(
        &self,
        expected: Revision,
        changes: Vec<Change>,
    ) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(self.try_commit(expected, changes))
    }

    fn watch(&self, from: Revision) -> BoxStream<'static, Event> {
        let watching = Watching {
            store: self.clone(),
            at: i64::try_from(from.0).expect("revisions are etcd's"),
            stream: None,
            told: Vec::new().into_iter(),
            lost: false,
            ended: false,
        };
        stream::unfold(watching, |mut watching| async move { Some((watching.next().await?, watching)) })
            .boxed()
    }

    fn announce(&self, name: String, ttl: Duration, stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(leases::announce(self.clone(), name, ttl, stop))
    }

    fn alive(&self) -> watch::Receiver<BTreeSet<String>> {
        let (sender, receiver) = watch::channel(BTreeSet::new());
        tokio::spawn(leases::follow(self.clone(), sender));
        receiver
    }
}

/// A watch that survives lost connections.
struct Watching {
    store: Etcd,
    /// The revision of etcd up to which all is told.
    at: i64,
    stream: Option<WatchStream>,
    told: std::vec::IntoIter<Event>,
    /// Whether the store was told to be unavailable.
    lost: bool,
    ended: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.told.next() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.read().await {
                Ok(events) => self.told = events.into_iter(),
                Err(error) => {
                    // Without a pause a refusing etcd would be asked as fast as it answers.
                    if self.stream.take().is_none() || self.lost {
                        tokio::time::sleep(RETRY).await;
                    }
                    self.lost = true;
                    return Some(Event::Unavailable(error));
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Vec<Event>, StoreError> {
        let records = self.store.records();
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(self.store.open_watch(&records, self.at + 1).await?),
        };
        let Some(answer) = stream.message().await.map_err(from_etcd)? else {
            return Err(StoreError::Unavailable("etcd has ended the watch".into()));
        };
        if answer.compact_revision() > self.at {
            self.ended = true;
            return Ok(vec![Event::Resync]);
        }
        if answer.canceled() {
            return Err(StoreError::Unavailable(format!("the watch was ended: {}", answer.cancel_reason())));
        }
        if answer.created() && std::mem::take(&mut self.lost) {
            return Ok(vec![Event::Restored]);
        }
        let mut commits: Vec<(i64, Vec<Change>)> = Vec::new();
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            let value = (event.event_type() == EventType::Put).then(|| kv.value().to_vec());
            let change = Change { key: below(&records, kv.key())?, value };
            if commits.last().is_none_or(|(revision, _)| *revision != kv.mod_revision()) {
                commits.push((kv.mod_revision(), Vec::new()));
            }
            if let Some((_, changes)) = commits.last_mut().filter(|_| change.key != REVISION) {
                changes.push(change);
            }
        }
        if let Some((last, _)) = commits.last() {
            self.at = *last;
        }
        let told =
            |(revision, changes): (i64, Vec<Change>)| Event::Changed(revision_of(revision), changes.into());
        Ok(commits.into_iter().map(told).collect())
    }
}

fn revision_of(etcd: i64) -> Revision {
    Revision(etcd.unsigned_abs())
}

/// The end of the range of all keys that begin with `prefix`, which ends with a slash.
fn after_all(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // '0' is what comes after '/'.
    *end.last_mut().expect("it ends with a slash") += 1;
    end
}

fn below(prefix: &str, key: &[u8]) -> Result<String, StoreError> {
    let rest = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(prefix)).map(str::to_owned);
    rest.ok_or_else(|| {
        StoreError::Corrupt(format!("a key that is no text: {:?}", String::from_utf8_lossy(key)))
    })
}

fn tls_options(tls: &EtcdTls) -> Result<TlsOptions, StoreError> {
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca_file)?));
    if let (Some(certificate), Some(key)) = (&tls.certificate_file, &tls.key_file) {
        options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    if let Some(name) = &tls.server_name {
        options = options.domain_name(name);
    }
    Ok(options)
}

fn read(path: &PathBuf) -> Result<String, StoreError> {
    std::fs::read_to_string(path)
        .map_err(|error| StoreError::Denied(format!("read {}: {error}", path.display())))
}

/// Waits for an answer, but not for ever: not all ways in which etcd can't be reached are told by its client.
async fn bounded<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
    match timeout(TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(from_etcd),
        Err(_) => Err(StoreError::Unavailable(format!("etcd has not answered within {TIMEOUT:?}"))),
    }
}

fn from_etcd(error: Error) -> StoreError {
    let Error::GRpcStatus(status) = &error else {
        return match error {
            Error::InvalidArgs(text) => StoreError::Denied(text),
            Error::InvalidUri(error) => StoreError::Denied(format!("not an endpoint: {error}")),
            // The chain of causes says what it is about.
            other => StoreError::Unavailable(causes(&other)),
        };
    };
    // etcd's own texts, as its clients know them; its codes are not precise enough.
    let text = status.message();
    if text.contains("space exceeded") {
        StoreError::Full(format!(
            "{text}: compact and defragment etcd, raise its quota, and disarm its alarm"
        ))
    } else if ["too many operations", "request is too large", "larger than max"]
        .iter()
        .any(|t| text.contains(t))
    {
        StoreError::TooLarge(text.to_owned())
    } else if text.contains("auth")
        || text.contains("permission denied")
        || text.contains("user name is empty")
    {
        StoreError::Denied(text.to_owned())
    } else if text.contains("corrupt") {
        StoreError::Corrupt(text.to_owned())
    } else {
        StoreError::Unavailable(causes(status))
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
