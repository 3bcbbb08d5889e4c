//! What a store is.

use std::time::Duration;

use relay_user::store::{Event, Revision, Snapshot, Store, StoreError, WriteError};
use tokio_util::sync::CancellationToken;

use super::{delete, member, network, next, put, soon, until, writer};

/// All of it, on an empty store.
pub(crate) async fn run(store: impl Store + Clone + 'static) {
    let last = keeps_what_is_committed(&store).await;
    refuses_what_is_out_of_date(&store, last).await;
    tells_what_happens(&store).await;
    takes_many_changes_at_once(&store).await;
    knows_who_is_alive(&store).await;
    empties(&store).await;
    writers_agree(&store).await;
}

async fn keeps_what_is_committed(store: &impl Store) -> Revision {
    assert_eq!(store.snapshot().await, Ok(Snapshot::default()), "a new store is empty");
    let first = store.commit(Revision(0), vec![put("b/1", "one"), put("a/1", "two")]).await.unwrap();
    let second = store.commit(first, vec![put("a/2", ""), delete("b/1"), delete("never")]).await.unwrap();
    assert!(Revision(0) < first && first < second);
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.revision, second);
    let entries: Vec<_> =
        snapshot.entries.iter().map(|e| (e.key.as_str(), e.value.as_slice(), e.revision)).collect();
    assert_eq!(entries, [("a/1", &b"two"[..], first), ("a/2", &b""[..], second)]);
    second
}

async fn refuses_what_is_out_of_date(store: &impl Store, last: Revision) {
    let before = store.snapshot().await;
    for expected in [Revision(0), Revision(last.0 - 1), Revision(last.0 + 1)] {
        let result = store.commit(expected, vec![put("a/1", "late"), put("a/9", "late")]).await;
        assert_eq!(result, Err(StoreError::Conflict(expected)));
    }
    assert_eq!(store.snapshot().await, before);
}

async fn tells_what_happens(store: &(impl Store + Clone)) {
    let from = store.snapshot().await.unwrap().revision;
    let mut events = store.watch(from);
    let one = vec![put("a/1", "x"), delete("a/2")];
    let first = store.commit(from, one.clone()).await.unwrap();
    assert_eq!(next(&mut events).await, Event::Changed(first, one.clone().into()));
    let two = vec![put("c/1", "y")];
    let second = store.commit(first, two.clone()).await.unwrap();
    assert_eq!(next(&mut events).await, Event::Changed(second, two.clone().into()));
    // Who comes later hears the same.
    let mut late = store.watch(from);
    assert_eq!(next(&mut late).await, Event::Changed(first, one.into()));
    assert_eq!(next(&mut late).await, Event::Changed(second, two.into()));
    // What changes nothing is a commit all the same.
    let third = store.commit(second, vec![delete("never")]).await.unwrap();
    let Event::Changed(revision, _) = next(&mut late).await else { panic!("a commit") };
    assert_eq!(revision, third);
}

async fn takes_many_changes_at_once(store: &impl Store) {
    let from = store.snapshot().await.unwrap().revision;
    let value = "v".repeat(400);
    let many: Vec<_> = (0..1500).map(|n| put(&format!("many/{n:04}"), &value)).collect();
    let mut events = store.watch(from);
    let revision = store.commit(from, many.clone()).await.unwrap();
    assert_eq!(next(&mut events).await, Event::Changed(revision, many.into()));
    let snapshot = store.snapshot().await.unwrap();
    let count = snapshot.entries.iter().filter(|e| e.revision == revision && e.value.len() == 400).count();
    assert_eq!(count, 1500);
}

async fn knows_who_is_alive(store: &impl Store) {
    let mut alive = store.alive();
    let stop = CancellationToken::new();
    let announced = tokio::spawn(store.announce("r1".into(), Duration::from_secs(2), stop.clone()));
    soon("life", alive.wait_for(|alive| alive.contains("r1"))).await.unwrap();
    let mut later = store.alive();
    soon("life", later.wait_for(|alive| alive.contains("r1"))).await.unwrap();
    stop.cancel();
    soon("end", alive.wait_for(|alive| alive.is_empty())).await.unwrap();
    announced.await.unwrap();
}

async fn empties(store: &impl Store) {
    let mut snapshot = store.snapshot().await.unwrap();
    while !snapshot.entries.is_empty() {
        let some = snapshot.entries.iter().take(1000).map(|entry| delete(&entry.key)).collect();
        store.commit(snapshot.revision, some).await.unwrap();
        snapshot = store.snapshot().await.unwrap();
    }
}

/// Two writers on one store, both busy: everything is done once, and they end with the same state.
async fn writers_agree(store: &(impl Store + Clone + 'static)) {
    const EACH: u64 = 60;
    let ((one, _a), (two, _b)) = (writer(store.clone()).await, writer(store.clone()).await);
    one.write(network("net")).await.unwrap();
    // What a writer has not heard of yet it refuses.
    until(&two, "the network", |state| state.network("net").is_some()).await;
    let writes = [(&one, 0), (&two, 1000)].into_iter().flat_map(|(writer, base)| {
        (0..EACH).map(move |n| async move {
            // Some names are wanted by both.
            let text = if n % 10 == 0 { format!("both{n}") } else { format!("m{}", base + n) };
            writer.write(member(&text, base + n)).await
        })
    });
    let results = soon("all writes", futures_util::future::join_all(writes)).await;
    let refused = results.iter().filter(|result| match result {
        Ok(_) => false,
        Err(WriteError::Refused(refusal)) => {
            assert_eq!(refusal.code(), "exists");
            true
        }
        Err(error) => panic!("{error}"),
    });
    assert_eq!(refused.count() as u64, EACH / 10);
    let all = (2 * EACH - EACH / 10) as usize;
    until(&one, "all members", |state| state.members().len() == all).await;
    until(&two, "all members", |state| state.members().len() == all).await;
    let addresses: std::collections::BTreeSet<_> =
        one.state().members().map(|member| member.networks[0].ipv4).collect();
    assert_eq!(addresses.len(), all, "nobody has another's address");
    assert_eq!(one.state().revision(), two.state().revision());
    let kept = store.snapshot().await.unwrap();
    assert_eq!((kept.revision, kept.entries.len()), (one.state().revision(), all + 1));
}
