//! A full disk below the embedded store: reads and removals go on, no acknowledged write is lost, and the store recovers
//! without a restart. The disk is a small tmpfs, which only root may mount; elsewhere, the test prints that it is skipped.

use std::{fs, io::Write, path::Path, process::Command, sync::Arc, time::Duration};

use bytes::Bytes;
use terrace::{
    clock::Clock,
    error::{CacheError, Kind},
    l2::{
        Applied, Backend, Batch, Op, State,
        embedded::{Embedded, EmbeddedSettings},
        op::{Condition, SetExpiry},
    },
};

use crate::support::backend::{Deaf, key, tunables};

/// A file system of its own, unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a message, where mounting is not permitted.
    fn mount(mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        println!("skipped: a small tmpfs cannot be mounted without root");
        None
    }

    /// Takes all free space.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.path().join("filler")).unwrap();
        let bytes = vec![1; 64 << 10];
        while file.write_all(&bytes).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn open(dir: &Path) -> Arc<Embedded> {
    Embedded::open(EmbeddedSettings::new(dir), Clock::real(), tunables(), Arc::new(Deaf)).unwrap()
}

fn value(number: usize) -> Bytes {
    format!("{number}-").repeat(4_000).into()
}

async fn put(store: &Embedded, number: usize) -> Result<Applied, CacheError> {
    let set = Op::Set { value: value(number), expiry: SetExpiry::Never, condition: Condition::Always, want_old: false };
    store.apply(vec![(key(&format!("key:{number}")), set)], Batch::Independent).await.remove(0)
}

async fn get(store: &Embedded, number: usize) -> Result<Option<Bytes>, CacheError> {
    let found = store.get(&[key(&format!("key:{number}"))], false).await.remove(0)?;
    Ok(found.map(|stored| stored.value.into_bytes()))
}

/// Repeats an operation until it succeeds; fails after a minute.
async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..6_000 {
        if let Some(done) = attempt().await {
            return done;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within a minute");
}

#[tokio::test]
async fn a_full_disk_serves_reads_and_removals_and_recovers() {
    let Some(disk) = SmallDisk::mount(200) else { return };
    let dir = disk.0.path().join("store");
    let store = open(&dir);
    let mut acknowledged = Vec::new();
    for number in 0..50 {
        put(&store, number).await.unwrap();
        acknowledged.push(number);
    }
    for round in 0..2 {
        disk.fill();
        let mut next = 100 * (round + 1);
        let error = loop {
            match put(&store, next).await {
                Ok(_) => acknowledged.push(next),
                Err(error) if error.kind() == Kind::Unavailable && error.message().contains("full") => break error,
                Err(error) => {
                    assert!(matches!(error.kind(), Kind::Unavailable | Kind::Unknown), "{error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            next += 1;
            assert!(next < 100_000, "the disk does not get full");
        };
        assert_eq!(error.message(), "the disk of the embedded store is full; only reads and removals are accepted");
        assert!(matches!(store.state(), State::Down(_)));
        for number in &acknowledged {
            let found = until("reads go on", async || get(&store, *number).await.ok()).await;
            assert_eq!(found, Some(value(*number)), "key:{number}");
        }
        let removed = acknowledged.remove(0);
        let delete = || (key(&format!("key:{removed}")), Op::Delete { want_old: false });
        let done =
            until("removals go on", async || store.apply(vec![delete()], Batch::Independent).await.remove(0).ok());
        assert!(matches!(done.await, Applied::Deleted { .. }));
        assert_eq!(get(&store, removed).await, Ok(None));
        disk.free();
        let number = 90 + round;
        until("writes are accepted again", async || put(&store, number).await.ok()).await;
        acknowledged.push(number);
        assert_eq!(store.state(), State::Up);
    }
    store.clear().await.unwrap();
    assert_eq!(store.count().await, Ok(0));
    put(&store, 1).await.unwrap();
    drop(store);
    let store = open(&dir);
    assert_eq!(get(&store, 1).await, Ok(Some(value(1))));
    assert_eq!(store.count().await, Ok(1));
}
