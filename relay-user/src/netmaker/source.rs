//! Following a Netmaker server.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Options,
    answers::{Host, Node},
    endpoint::{Endpoint, Override, Step, step},
    mesh::{LeftOut, Mesh, Reason, Us},
    server::{NetmakerError, Server},
};
use crate::{members::Members, model::UnixTime, state_file, store::unix_time};

/// Between two polls there are so many milliseconds, at random: relays do not come in step.
const INTERVAL: std::ops::Range<u64> = 5_000..10_000;
/// After failures at most so many.
const LONGEST: u64 = 120_000;
/// The state file is written when something is new, and otherwise every so many seconds, for its age.
const REWRITE: UnixTime = 300;

/// What is known of the mesh.
#[derive(Clone, Debug)]
pub struct Latest {
    /// The members: the last good state.
    pub members: Arc<Members>,
    /// What people want to know of it.
    pub state: State,
}

/// What the source says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// The server.
    pub server: String,
    /// When the server last said what is in force.
    pub heard: Option<UnixTime>,
    /// Why its newest answer was not taken over, or only in part.
    pub error: Option<String>,
    /// What of the answers is not used, sorted.
    pub left_out: Vec<LeftOut>,
    /// Hosts whose endpoint on the server is not as it should be, and why.
    pub remarks: BTreeMap<String, String>,
}

impl State {
    /// How much is not used, by reason.
    pub fn left_out_by_reason(&self) -> BTreeMap<Reason, usize> {
        let mut counts = BTreeMap::new();
        self.left_out.iter().for_each(|left_out| *counts.entry(left_out.reason).or_default() += 1);
        counts
    }
}

/// What outlives a restart: the last good answers, and what was done on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Whose answers these are.
    server: String,
    heard: Option<UnixTime>,
    hosts: Vec<Host>,
    /// By network, or all under "".
    nodes: BTreeMap<String, Vec<Node>>,
    /// What was done to endpoints, by host id.
    #[serde(default)]
    overrides: BTreeMap<String, Override>,
}

/// The source.
pub struct Source {
    options: Options,
    us: Us,
    server: Server,
    state_file: PathBuf,
    kept: Kept,
    /// When the state file was written.
    written: Option<UnixTime>,
    /// Entries of the last answer that can't be read.
    unreadable: Vec<LeftOut>,
    latest: watch::Sender<Latest>,
}

impl Source {
    /// Begins with what the state file has from an earlier run, and asks nothing yet. The members are known as far as they
    /// were then; whoever holds the receiver hears of every change.
    pub fn open(options: Options, us: Us, state_file: PathBuf) -> Result<(Self, watch::Receiver<Latest>)> {
        let server = Server::new(&options)?;
        let url = options.url.to_string();
        let kept = match state_file::read(&state_file)?.unwrap_or_default() {
            kept if kept.server == url => kept,
            // What was done to endpoints there is to be undone even if only the URL is another.
            Kept { overrides, .. } => Kept { server: url.clone(), overrides, ..Kept::default() },
        };
        let state = State { server: url, ..State::default() };
        let (latest, receiver) = watch::channel(Latest { members: Arc::default(), state });
        let mut this =
            Self { options, us, server, state_file, kept, written: None, unreadable: Vec::new(), latest };
        this.take_over(this.kept.clone())
            .context("take over the last good answers of the Netmaker server")?;
        Ok((this, receiver))
    }

    /// Follows the server until `stop`.
    pub async fn follow(mut self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let poll = async {
                let failed = self.poll().await.is_err();
                failures = if failed { failures + 1 } else { 0 };
                tokio::time::sleep(pause(failures, rand::random_range(INTERVAL))).await;
            };
            if stop.run_until_cancelled(poll).await.is_none() {
                return;
            }
        }
    }

    /// Asks once, and takes over what is good.
    pub async fn poll(&mut self) -> Result<(), NetmakerError> {
        let result = self.ask_and_take_over().await;
        if let Err(error) = &result {
            self.latest.send_if_modified(|latest| {
                let error = Some(error.to_string());
                let news = latest.state.error != error;
                if news {
                    warn!("{}; the last good state stays", error.as_deref().unwrap_or_default());
                    latest.state.error = error;
                }
                news
            });
        }
        result
    }

    async fn ask_and_take_over(&mut self) -> Result<(), NetmakerError> {
        let fetched = self.server.fetch(&self.options.networks).await?;
        if fetched.hosts.is_empty() {
            return Err(NetmakerError::Empty("hosts"));
        }
        let mut kept = Kept { heard: Some(unix_time()), ..self.kept.clone() };
        self.unreadable.clear();
        kept.hosts = self.readable("a host", fetched.hosts.clone());
        kept.nodes.retain(|network, _| fetched.nodes.iter().any(|(known, _)| known == network));
        let hosts: BTreeSet<&str> = kept.hosts.iter().map(|host| host.id.as_str()).collect();
        let mut held = None;
        for (network, nodes) in fetched.nodes {
            let nodes = self.readable("a node", nodes);
            // Its nodes stay as long as their hosts are there.
            let mut stay = kept.nodes.remove(&network).filter(|_| nodes.is_empty()).unwrap_or_default();
            stay.retain(|node: &Node| hosts.contains(node.hostid.as_str()));
            if !stay.is_empty() {
                held = Some(NetmakerError::Empty("nodes in a network that had some"));
            }
            kept.nodes.insert(network, if stay.is_empty() { nodes } else { stay });
        }
        if kept.nodes.values().all(Vec::is_empty) {
            return Err(NetmakerError::Empty("nodes"));
        }
        let before = self.kept.clone();
        let relayed = self.take_over(kept)?;
        let remarks = self.override_endpoints(&fetched.hosts, &relayed).await;
        self.keep(&before);
        self.latest.send_if_modified(|latest| {
            let error = held.as_ref().map(ToString::to_string);
            let news = latest.state.error != error || latest.state.remarks != remarks;
            (latest.state.error, latest.state.remarks) = (error, remarks);
            news
        });
        held.map_or(Ok(()), Err)
    }

    /// Makes members of answers, and these what is in force. Gives the ids of the hosts that are relayed here.
    fn take_over(&mut self, kept: Kept) -> Result<BTreeSet<String>, NetmakerError> {
        let nodes: Vec<Node> = kept.nodes.values().flatten().cloned().collect();
        let mesh = Mesh::new(&kept.hosts, &nodes, &self.options.relayed, &self.us);
        let unusable = |why: String| NetmakerError::Unreadable("api/hosts".to_owned(), why);
        let mut mesh = mesh.map_err(|error| unusable(error.to_string()))?;
        let (before, after) = (self.latest.borrow().members.iter().len(), mesh.members.iter().len());
        if after == 0 && before > 0 {
            return Err(unusable(format!("none of its {} hosts can be used", kept.hosts.len())));
        }
        mesh.left_out.append(&mut self.unreadable);
        mesh.left_out.sort();
        self.latest.send_if_modified(|latest| {
            let other = *latest.members != mesh.members;
            if other {
                info!(members = after, left_out = mesh.left_out.len(), "taken over from the Netmaker server");
                latest.members = Arc::new(mesh.members);
            }
            let news = other || latest.state.left_out != mesh.left_out;
            latest.state.left_out = mesh.left_out;
            latest.state.heard = kept.heard;
            news
        });
        self.kept = kept;
        Ok(mesh.relayed)
    }

    fn readable<T: for<'de> Deserialize<'de>>(&mut self, what: &str, entries: Vec<Value>) -> Vec<T> {
        let mut readable = Vec::with_capacity(entries.len());
        for entry in entries {
            let id = entry.get("id").and_then(Value::as_str).unwrap_or("without an id").to_owned();
            match serde_json::from_value(entry) {
                Ok(entry) => readable.push(entry),
                Err(_) => {
                    self.unreadable
                        .push(LeftOut { what: format!("{what}, {id}"), reason: Reason::Unreadable });
                }
            }
        }
        readable
    }

    /// Tells the server where relayed hosts are reached, if that is wished, and undoes it where it is not any more. Gives
    /// what people should know, by host.
    async fn override_endpoints(
        &mut self,
        hosts: &[Value],
        relayed: &BTreeSet<String>,
    ) -> BTreeMap<String, String> {
        let endpoints = self.options.override_endpoint.clone();
        let by_id: BTreeMap<&str, &Value> =
            hosts.iter().filter_map(|host| Some((host.get("id")?.as_str()?, host))).collect();
        self.kept.overrides.retain(|id, _| by_id.contains_key(id.as_str()));
        let mut remarks = BTreeMap::new();
        for (id, host) in by_id {
            let relay = (!endpoints.is_empty() && relayed.contains(id)).then_some(endpoints.as_slice());
            let mut record = self.kept.overrides.remove(id);
            let step = step(&mut record, &Endpoint::of(host), relay);
            self.kept.overrides.extend(record.map(|record| (id.to_owned(), record)));
            let remark = match step {
                Step::Nothing => None,
                Step::Remark(remark) => Some(remark.to_owned()),
                Step::Put(endpoint) => {
                    self.put(id, &endpoint.put_into(host)).await.err().map(|error| format!("{error:#}"))
                }
            };
            if let Some(remark) = &remark {
                warn!(host = id, "{remark}");
            }
            let left_alone = self.kept.overrides.get(id).and_then(|record| record.remark.clone());
            remarks.extend(remark.or(left_alone).map(|remark| (id.to_owned(), remark)));
        }
        remarks
    }

    /// Writes the state file if something is new.
    fn keep(&mut self, before: &Kept) {
        let now = self.kept.heard;
        let news = Kept { heard: now, ..before.clone() } != self.kept;
        if !news && now.unwrap_or_default() < self.written.unwrap_or_default() + REWRITE {
            return;
        }
        match state_file::write(&self.state_file, &self.kept) {
            Ok(()) => self.written = now,
            Err(error) => warn!("{error:#}"),
        }
    }

    async fn put(&mut self, id: &str, host: &Value) -> Result<()> {
        // What was there before must be known whatever happens to us now.
        state_file::write(&self.state_file, &self.kept)?;
        let result = self.server.put_host(id, host).await;
        let mut record = self.kept.overrides.remove(id);
        match &result {
            Ok(()) => record.iter_mut().for_each(Override::accepted),
            Err(error) if error.is_final() => Override::refused(&mut record, error.to_string()),
            // It may have been done or not: the next answer tells.
            Err(_) => {}
        }
        self.kept.overrides.extend(record.map(|record| (id.to_owned(), record)));
        Ok(result?)
    }
}

/// How long to wait after so many failures one after another.
fn pause(failures: u32, interval: u64) -> Duration {
    Duration::from_millis(interval.saturating_mul(1 << failures.min(10)).min(LONGEST.max(interval)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_make_the_pauses_longer_up_to_a_bound() {
        let seconds = |failures| pause(failures, 7_000).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 100].map(seconds), [7, 14, 28, 56, 112, 120, 120, 120]);
    }
}
