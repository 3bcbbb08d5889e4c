//! The embedded store.

use std::{fs, path::Path};

use relay_user::store::{Embedded, Event, FILE, Revision, Store as _, StoreError};

use super::{next, put, suite};

async fn open(directory: &Path) -> Result<Embedded, StoreError> {
    Embedded::open(directory).await
}

#[tokio::test]
async fn is_a_store() {
    let directory = tempfile::tempdir().unwrap();
    suite::run(open(directory.path()).await.unwrap()).await;
}

#[tokio::test]
async fn what_was_committed_is_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("made/by/itself");
    let store = open(&below).await.unwrap();
    let revision = store.commit(Revision(0), vec![put("a", "1")]).await.unwrap();
    let snapshot = store.snapshot().await;
    drop(store);
    let store = open(&below).await.unwrap();
    assert_eq!(store.snapshot().await, snapshot);
    assert!(store.commit(revision, vec![put("a", "2")]).await.unwrap() > revision);
}

#[tokio::test]
async fn who_comes_too_late_has_to_read_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open_with_history(directory.path(), 2).await.unwrap();
    let mut slow = store.watch(Revision(0));
    let mut revision = Revision(0);
    for value in ["1", "2", "3"] {
        revision = store.commit(revision, vec![put("a", value)]).await.unwrap();
    }
    assert_eq!(next(&mut slow).await, Event::Resync);
    assert_eq!(futures_util::StreamExt::next(&mut slow).await, None);
    let mut in_time = store.watch(Revision(1));
    assert_eq!(next(&mut in_time).await, Event::Changed(Revision(2), vec![put("a", "2")].into()));
    // What happened before this process is never known.
    drop((store, slow, in_time));
    let store = open(directory.path()).await.unwrap();
    assert_eq!(next(&mut store.watch(Revision(1))).await, Event::Resync);
}

#[tokio::test]
async fn one_process_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let _store = open(directory.path()).await.unwrap();
    assert!(matches!(open(directory.path()).await.err(), Some(StoreError::InUse(_))));
}

#[tokio::test]
async fn a_damaged_file_is_told_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(FILE);
    let store = open(directory.path()).await.unwrap();
    let mut revision = Revision(0);
    for n in 0..50 {
        let some = (0..20).map(|m| put(&format!("k/{n}/{m}"), &"value".repeat(50))).collect();
        revision = store.commit(revision, some).await.unwrap();
    }
    drop(store);
    let good = fs::read(&file).unwrap();
    let spoilt = |spoil: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        spoil(&mut bytes);
        bytes
    };
    let text = good.windows(10).rposition(|bytes| bytes == b"valuevalue").unwrap();
    let cases = [
        ("no database", b"something else".repeat(500)),
        ("cut short", good[..good.len() / 3].to_vec()),
        ("a flipped byte in a value", spoilt(&|bytes| bytes[text] ^= 1)),
        ("a hole", spoilt(&|bytes| bytes[text - 8192..text].fill(0))),
        ("a spoilt head", spoilt(&|bytes| bytes[..64].fill(0xff))),
    ];
    for (what, bytes) in cases {
        fs::write(&file, &bytes).unwrap();
        let opened = open(directory.path()).await;
        let error = opened.err().unwrap_or_else(|| panic!("{what}: it was opened"));
        assert!(matches!(error, StoreError::Corrupt(_)), "{what}: {error}");
        assert!(error.to_string().contains("restore a copy"), "{what}: {error}");
    }
    fs::write(&file, &good).unwrap();
    assert_eq!(open(directory.path()).await.unwrap().snapshot().await.unwrap().revision, revision);
}
