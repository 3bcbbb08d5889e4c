//! The stores. One suite says what a store is, and runs against both kinds; what breaks each is its own.
//!
//! Everything of etcd starts a real one, so that needs the feature `kernel`, like a full disk, which needs root.

mod crash;
mod embedded;
#[cfg(feature = "kernel")]
mod etcd;
#[cfg(feature = "kernel")]
mod failing_over;
#[cfg(feature = "kernel")]
mod full_disk;
mod suite;
mod writing;

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use relay_user::{
    members::{PublicKey, RateLimit},
    model::{Command, Membership, Name, Network, NewMember},
    store::{Change, Event, Store, Writer, unix_time},
};
use tokio_util::sync::CancellationToken;

/// Long enough for everything that is to come.
const SOON: Duration = Duration::from_secs(20);

fn put(key: &str, value: &str) -> Change {
    Change { key: key.to_owned(), value: Some(value.as_bytes().to_vec()) }
}

fn delete(key: &str) -> Change {
    Change { key: key.to_owned(), value: None }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("no {what} within {SOON:?}"))
}

/// The next event that is news of the store.
async fn next(events: &mut (impl futures_util::Stream<Item = Event> + Unpin)) -> Event {
    soon("event", events.next()).await.expect("the watch goes on")
}

/// A writer that ends when its guard goes.
async fn writer(store: impl Store + 'static) -> (Writer, tokio_util::sync::DropGuard) {
    let stop = CancellationToken::new();
    let (writer, _) =
        Writer::start(Arc::new(store), unix_time, stop.clone()).await.expect("the store is sound");
    (writer, stop.drop_guard())
}

fn name(text: &str) -> Name {
    text.parse().expect("a good name")
}

fn network(text: &str) -> Command {
    Command::CreateNetwork(Network {
        name: name(text),
        ipv4: Some("10.0.0.0/8".parse().expect("a prefix")),
        ipv6: None,
    })
}

fn member(text: &str, number: u64) -> Command {
    let mut key = [1; 32];
    key[..8].copy_from_slice(&(number + 1).to_be_bytes());
    Command::CreateMember(NewMember {
        name: name(text),
        public_key: PublicKey(key),
        networks: vec![Membership::of(name("net"))],
        endpoints: Vec::new(),
        rate_limit: RateLimit::default(),
        tags: Vec::new(),
        owner: None,
    })
}

/// Waits until a writer's state is as told.
async fn until(writer: &Writer, what: &str, is: impl Fn(&relay_user::model::State) -> bool) {
    let mut states = writer.states();
    soon(what, states.wait_for(|state| is(state))).await.expect("the writer lives");
}
