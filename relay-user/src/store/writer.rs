//! The one task that changes and follows a store by the model's rules.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Change, Event, Store, StoreError};
use crate::model::{
    Command, Key, Op, Record, RecordError, Refusal, Request, Revision, STEP, State, UnixTime,
};

/// Commands that may wait.
const WAITING: usize = 4096;
/// Bytes that one commit has at most, unless a single command has more. etcd takes 1.5 MiB.
const COMMIT_BYTES: usize = 1 << 20;
/// How often a commit is tried while others are always first.
const ATTEMPTS: usize = 100;
/// How long to wait for the news that a conflict tells of.
const NEWS: Duration = Duration::from_secs(2);
/// How long until a store that can't be read is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often keys that were never proven are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// The revision that a record has in between, when it is planned but not committed: nobody can expect it.
const PLANNED: Revision = Revision(u64::MAX);

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A rule is against it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// wgrelay is about to end.
    #[error("wgrelay is being stopped")]
    Stopped,
}

/// A command was done, and is on stable storage.
#[derive(Clone, Debug)]
pub struct Done {
    /// The state afterwards.
    pub state: Arc<State>,
}

/// What talks to the task that writes. A clone talks to the same.
#[derive(Clone)]
pub struct Writer {
    commands: mpsc::Sender<Waiting>,
    state: watch::Receiver<Arc<State>>,
    trouble: watch::Receiver<Option<StoreError>>,
}

struct Waiting {
    request: Request,
    reply: Option<oneshot::Sender<Result<Done, WriteError>>>,
}

impl Writer {
    /// Reads the store and starts the task; it ends with `stop`. `now` is the calendar.
    pub async fn start(
        store: Arc<dyn Store>,
        now: fn() -> UnixTime,
        stop: CancellationToken,
    ) -> Result<(Self, JoinHandle<()>), StoreError> {
        let state = load(&*store).await?;
        let (commands, receiver) = mpsc::channel(WAITING);
        let (published, state_receiver) = watch::channel(Arc::new(state.clone()));
        let (trouble, trouble_receiver) = watch::channel(None);
        let events = store.watch(state.revision());
        let task = Task { store, now, state, events, behind: false, published, trouble };
        let running = tokio::spawn(task.run(receiver, stop));
        Ok((Self { commands, state: state_receiver, trouble: trouble_receiver }, running))
    }

    /// Has a command done.
    pub async fn write(&self, request: impl Into<Request>) -> Result<Done, WriteError> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { request: request.into(), reply: Some(reply) };
        self.commands.send(waiting).await.map_err(|_| WriteError::Stopped)?;
        answer.await.map_err(|_| WriteError::Stopped)?
    }

    /// The state as far as it is known.
    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// The state, and whenever it changes. [`State::changes_since`] tells what is different.
    pub fn states(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }

    /// What is wrong with the store at the moment, if anything is. The state is the last good one then.
    pub fn trouble(&self) -> watch::Receiver<Option<StoreError>> {
        self.trouble.clone()
    }
}

/// The calendar's time.
pub fn unix_time() -> UnixTime {
    crate::clock::ago(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

struct Task {
    store: Arc<dyn Store>,
    now: fn() -> UnixTime,
    state: State,
    events: BoxStream<'static, Event>,
    /// The watch can't be followed any more: all has to be read anew.
    behind: bool,
    published: watch::Sender<Arc<State>>,
    trouble: watch::Sender<Option<StoreError>>,
}

/// What is to be committed at once, and who waits for it.
#[derive(Default)]
struct Batch {
    changes: Vec<(Op, Change)>,
    bytes: usize,
    outcomes: Vec<(Waiting, Result<Option<Command>, Refusal>)>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Waiting>, stop: CancellationToken) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                () = stop.cancelled() => return,
                event = self.events.next(), if !self.behind => self.follow(event),
                () = sleep(RETRY), if self.behind => {}
                _ = sweep.tick() => waiting.push(Waiting { request: Command::Sweep.into(), reply: None }),
                number = commands.recv_many(&mut waiting, STEP) => if number == 0 { return },
            }
            if self.behind
                && let Err(error) = self.resync().await
            {
                waiting.drain(..).for_each(|waiting| waiting.answer(Err(error.clone().into())));
            }
            self.write(waiting).await;
        }
    }

    /// Does commands, as many at once as fit into a commit.
    async fn write(&mut self, mut waiting: Vec<Waiting>) {
        let (mut attempts, mut at_once) = (0, usize::MAX);
        while !waiting.is_empty() {
            let mut batch = self.plan(&mut waiting, at_once);
            let (ops, changes) = last_of_each(std::mem::take(&mut batch.changes));
            let result = if ops.is_empty() {
                Ok(self.state.revision())
            } else {
                self.store.commit(self.state.revision(), changes).await
            };
            match result {
                Ok(revision) => {
                    if !ops.is_empty() {
                        self.state.apply(revision, ops);
                        self.publish(None);
                    }
                    attempts = 0;
                    let mut unfinished = batch.answer(&self.published.borrow());
                    unfinished.append(&mut waiting);
                    waiting = unfinished;
                }
                Err(StoreError::Conflict(_)) if attempts < ATTEMPTS => {
                    attempts += 1;
                    batch.put_back(&mut waiting);
                    if let Err(error) = self.catch_up().await {
                        return waiting
                            .into_iter()
                            .for_each(|waiting| waiting.answer(Err(error.clone().into())));
                    }
                }
                Err(StoreError::TooLarge(_)) if batch.outcomes.len() > 1 => {
                    at_once = 1;
                    batch.put_back(&mut waiting);
                }
                Err(error) => {
                    warn!("{error}");
                    self.trouble.send_replace(Some(error.clone()));
                    for (waiting, _) in batch.outcomes {
                        waiting.answer(Err(error.clone().into()));
                    }
                }
            }
        }
    }

    /// Plans commands one after another, each on top of those before it.
    fn plan(&self, waiting: &mut Vec<Waiting>, at_once: usize) -> Batch {
        let now = (self.now)();
        let mut batch = Batch::default();
        let mut working = self.state.clone();
        let mut rest = std::mem::take(waiting).into_iter();
        for next in rest.by_ref() {
            let planned = working.plan(now, &next.request);
            if let Ok(plan) = &planned {
                let changes: Vec<_> = plan.ops.iter().map(|op| (op.clone(), change(op))).collect();
                let bytes: usize = changes.iter().map(|(_, change)| size(change)).sum();
                let full = batch.changes.len() + changes.len() > STEP || batch.bytes + bytes > COMMIT_BYTES;
                if (full && !batch.changes.is_empty()) || batch.outcomes.len() >= at_once {
                    waiting.push(next);
                    break;
                }
                batch.bytes += bytes;
                working.apply(PLANNED, plan.ops.iter().cloned());
                batch.changes.extend(changes);
            }
            batch.outcomes.push((next, planned.map(|plan| plan.rest)));
        }
        waiting.extend(rest);
        batch
    }

    fn follow(&mut self, event: Option<Event>) {
        match event {
            // Our own commits come back too.
            Some(Event::Changed(revision, _)) if revision <= self.state.revision() => {}
            Some(Event::Changed(revision, changes)) => {
                match changes.iter().map(op).collect::<Result<Vec<_>, _>>() {
                    Ok(ops) => {
                        self.state.apply(revision, ops);
                        self.publish(None);
                    }
                    Err(error) => {
                        self.behind = true;
                        self.publish(Some(StoreError::Corrupt(error.to_string())));
                    }
                }
            }
            Some(Event::Unavailable(error)) => self.publish(Some(error)),
            Some(Event::Restored) => self.publish(None),
            Some(Event::Resync) | None => self.behind = true,
        }
    }

    /// Waits for the commits of others that were first.
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        let before = self.state.revision();
        let news = async {
            while self.state.revision() == before && !self.behind {
                let event = self.events.next().await;
                self.follow(event);
            }
        };
        if timeout(NEWS, news).await.is_err() {
            // Perhaps it was set back to an earlier state, so that nothing will come.
            self.behind = true;
        }
        if self.behind { self.resync().await } else { Ok(()) }
    }

    async fn resync(&mut self) -> Result<(), StoreError> {
        match load(&*self.store).await {
            Ok(state) => {
                self.events = self.store.watch(state.revision());
                self.state = state;
                self.behind = false;
                self.publish(None);
                Ok(())
            }
            Err(error) => {
                self.publish(Some(error.clone()));
                Err(error)
            }
        }
    }

    /// Tells others the state and how the store is.
    fn publish(&self, trouble: Option<StoreError>) {
        self.trouble.send_if_modified(|now| {
            let other = *now != trouble;
            if other {
                if let Some(trouble) = &trouble {
                    warn!("going on with the last good state: {trouble}");
                }
                *now = trouble;
            }
            other
        });
        if self.published.borrow().revision() != self.state.revision() {
            self.published.send_replace(Arc::new(self.state.clone()));
        }
    }
}

impl Batch {
    /// Answers those that are done, and gives back those of which a part is.
    fn answer(self, state: &Arc<State>) -> Vec<Waiting> {
        let mut unfinished = Vec::new();
        for (waiting, outcome) in self.outcomes {
            match outcome {
                Ok(None) => waiting.answer(Ok(Done { state: state.clone() })),
                Ok(Some(rest)) => unfinished.push(Waiting { request: rest.into(), ..waiting }),
                Err(refusal) => waiting.answer(Err(refusal.into())),
            }
        }
        unfinished
    }

    fn put_back(self, waiting: &mut Vec<Waiting>) {
        waiting.splice(..0, self.outcomes.into_iter().map(|(waiting, _)| waiting));
    }
}

impl Waiting {
    fn answer(self, result: Result<Done, WriteError>) {
        if let Some(reply) = self.reply {
            // Who asked may have gone.
            let _ = reply.send(result);
        }
    }
}

async fn load(store: &dyn Store) -> Result<State, StoreError> {
    let snapshot = store.snapshot().await?;
    let entries = snapshot.entries.iter().map(|e| (e.key.as_str(), e.value.as_slice(), e.revision));
    State::load(snapshot.revision, entries).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// Of several changes of one record only the last counts, and stores take no more than one.
fn last_of_each(changes: Vec<(Op, Change)>) -> (Vec<Op>, Vec<Change>) {
    let numbered = || changes.iter().enumerate();
    let last: HashMap<String, usize> = numbered().map(|(n, (_, change))| (change.key.clone(), n)).collect();
    changes
        .into_iter()
        .enumerate()
        .filter(|(n, (_, change))| last[&change.key] == *n)
        .map(|(_, both)| both)
        .unzip()
}

fn change(op: &Op) -> Change {
    Change {
        key: op.key().to_string(),
        value: match op {
            Op::Put(record) => Some(record.encode()),
            Op::Delete(_) => None,
        },
    }
}

fn op(change: &Change) -> Result<Op, RecordError> {
    let key: Key = change.key.parse()?;
    Ok(match &change.value {
        Some(value) => Op::Put(Record::decode(&key, value)?),
        None => Op::Delete(key),
    })
}

/// About how many bytes a change takes in a commit.
fn size(change: &Change) -> usize {
    change.key.len() + change.value.as_ref().map_or(0, Vec::len) + 100
}
