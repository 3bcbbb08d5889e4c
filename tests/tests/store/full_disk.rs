//! The embedded store on a disk that is full.

use std::path::{Path, PathBuf};

use relay_tests::command::{program, run};
use relay_user::store::{Embedded, Revision, Store as _, StoreError};

use super::put;

/// A small file system in memory.
struct Disk(PathBuf, #[expect(dead_code, reason = "it is removed with this value")] tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("wgr-disk-").tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        run(program("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path));
        Self(path, directory)
    }

    fn grow(&self, size: &str) {
        run(program("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0));
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = program("umount").arg("--lazy").arg(&self.0).output();
    }
}

#[tokio::test]
async fn is_told_and_nothing_is_lost() {
    let disk = Disk::new("4m");
    let store = Embedded::open(disk.path()).await.unwrap();
    let mut revision = Revision(0);
    let value = "v".repeat(1000);
    let mut acknowledged = Vec::new();
    let error = loop {
        let batch: Vec<_> = (0..50).map(|n| format!("k/{}/{n}", revision.0)).collect();
        match store.commit(revision, batch.iter().map(|key| put(key, &value)).collect()).await {
            Ok(next) => revision = next,
            Err(error) => break error,
        }
        acknowledged.extend(batch);
        assert!(acknowledged.len() < 10_000, "4 MiB never get full");
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(!acknowledged.is_empty());
    disk.grow("64m");
    // The same store goes on, with all that it had.
    let revision = store.commit(revision, vec![put("after", "")]).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!((snapshot.revision, snapshot.entries.len()), (revision, acknowledged.len() + 1));
    drop(store);
    assert_eq!(Embedded::open(disk.path()).await.unwrap().snapshot().await.unwrap(), snapshot);
}
