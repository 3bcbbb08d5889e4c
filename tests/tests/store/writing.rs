//! The writer, whatever the store.

use std::sync::Arc;

use futures_util::future::join_all;
use relay_user::{
    model::{Command, Hosts, NewRelay, Relay, Request, Revision},
    store::{Embedded, Store as _, StoreError, WriteError, Writer, unix_time},
};
use tokio_util::sync::CancellationToken;

use super::{delete, member, name, network, put, soon, until, writer};

#[tokio::test]
async fn commands_of_many_steps_are_done_wholly() {
    const HOSTS: u64 = 2500;
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).await.unwrap();
    let ((writer, _a), (follower, _b)) = (writer(store.clone()).await, writer(store).await);
    writer.write(network("net")).await.unwrap();
    // All at once: they go into few commits.
    let before = writer.state().revision();
    let members = join_all((0..=HOSTS).map(|n| writer.write(member(&format!("m{n}"), n)))).await;
    members.into_iter().for_each(|done| drop(done.unwrap()));
    let commits = writer.state().revision().0 - before.0;
    assert!(commits < 10, "{commits} commits for {HOSTS} members");

    let addresses = vec!["198.51.100.1".parse().unwrap()];
    let relay = Relay { name: name("m0"), addresses, port: 51820, private: false };
    let done = writer.write(Command::CreateRelay(NewRelay { relay, hosts: Hosts::All })).await.unwrap();
    assert_eq!(done.state.hosts("m0").len() as u64, HOSTS);
    until(&follower, "all hosts", |state| state.hosts("m0").len() as u64 == HOSTS).await;
    let done = writer.write(Command::DeleteRelay { name: name("m0"), move_to: None }).await.unwrap();
    assert!(done.state.relay("m0").is_none() && done.state.members().all(|m| m.relayed.is_none()));
    until(&follower, "no relay", |state| state.relay("m0").is_none()).await;
}

#[tokio::test]
async fn stale_commands_are_refused_and_a_stopped_writer_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).await.unwrap();
    let (writer, stop) = writer(store).await;
    writer.write(network("net")).await.unwrap();
    let seen = writer.state().network("net").unwrap().revision;
    let request = |command| Request { command, expected: Some(seen) };
    let wider = |prefix: &str| {
        let Command::CreateNetwork(mut network) = network("net") else { unreachable!() };
        network.ipv4 = Some(prefix.parse().unwrap());
        Command::ChangeNetwork(network)
    };
    // Of two that have seen the same, one is first, also within one commit.
    let both = join_all([
        writer.write(request(wider("172.16.0.0/12"))),
        writer.write(request(wider("192.168.0.0/16"))),
    ]);
    let results = both.await;
    assert!(results[0].is_ok(), "{:?}", results[0]);
    let Err(WriteError::Refused(refusal)) = &results[1] else { panic!("{:?}", results[1]) };
    assert_eq!(refusal.code(), "stale");
    drop(stop);
    let stopped = soon("answer", async {
        loop {
            // It may still take what came before.
            if let Err(error) = writer.write(wider("10.0.0.0/8")).await {
                return error;
            }
        }
    });
    assert_eq!(stopped.await, WriteError::Stopped);
}

#[tokio::test]
async fn a_record_that_can_not_be_read_leaves_the_last_good_state() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).await.unwrap();
    let (writer, _stop) = writer(store.clone()).await;
    writer.write(network("net")).await.unwrap();
    let good = writer.state();
    store.commit(good.revision(), vec![put("member/x", "{")]).await.unwrap();
    let mut trouble = writer.trouble();
    let told = soon("trouble", trouble.wait_for(Option::is_some)).await.unwrap().clone();
    assert!(matches!(&told, Some(StoreError::Corrupt(why)) if why.contains("member/x")), "{told:?}");
    assert_eq!(writer.state().revision(), good.revision());
    let refused = writer.write(member("y", 1)).await;
    assert!(matches!(refused, Err(WriteError::Store(StoreError::Corrupt(_)))), "{refused:?}");
    // A new one does not start with half a state.
    let start = Writer::start(Arc::new(store.clone()), unix_time, CancellationToken::new()).await;
    assert!(matches!(start.err(), Some(StoreError::Corrupt(_))));
    // Mended, it goes on by itself.
    let revision = store.snapshot().await.unwrap().revision;
    let mended = store.commit(revision, vec![delete("member/x")]).await.unwrap();
    until(&writer, "the mended state", |state| state.revision() == mended).await;
    soon("end of trouble", trouble.wait_for(Option::is_none)).await.unwrap();
    assert!(writer.write(member("y", 1)).await.unwrap().state.revision() > Revision(0));
}
