//! A full disk below the embedded store: reads and removals go on, no acknowledged write is lost, and the store recovers
//! without a restart. The disk is a small tmpfs, which only root may mount; elsewhere, the test prints that it is left out.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use terrace::{
    clock::{Clock, UnixMs},
    error::{CacheError, Kind},
    l2::{
        Applied, Backend, Batch, Op, State,
        embedded::{Embedded, EmbeddedSettings},
        op::{Condition, ExpireOnly, NewExpiry, SetExpiry},
    },
    model::Key,
};

use crate::support::{
    backend::{Deaf, key, tunables},
    disk::SmallDisk,
};

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

/// The keys that [`removals_of_all_kinds`] uses in this round.
fn spare(round: usize) -> std::ops::Range<usize> {
    let first = 1_000_000 + 10 * round;
    first..first + 5
}

/// While the disk is full: an expiry that has passed removes its key, as DEL does; GETEX without an option reads; an
/// independent batch loses only the writes that need space, an atomic one is refused as a whole.
async fn removals_of_all_kinds(store: &Embedded, round: usize) {
    let name = |number: usize| key(&format!("key:{number}"));
    let expire = |expiry| Op::Expire { expiry, only: ExpireOnly::ALWAYS, want_value: false };
    let delete = || Op::Delete { want_old: false };
    let set = || Op::Set {
        value: Bytes::from_static(b"1"),
        expiry: SetExpiry::Never,
        condition: Condition::Always,
        want_old: false,
    };
    let apply = async |ops: Vec<(Key, Op)>, batch| {
        // A removal may meet the second in which the store examines the disk.
        until("an answer of the full store", async || {
            let results = store.apply(ops.clone(), batch).await;
            let is_final = |result: &Result<Applied, CacheError>| match result {
                Ok(_) => true,
                Err(error) => error.message().contains("only reads and removals"),
            };
            results.iter().all(is_final).then_some(results)
        })
        .await
    };
    let [zero, past, kept, long, deleted] = spare(round).collect::<Vec<_>>().try_into().unwrap();
    for (number, expiry) in [(zero, NewExpiry::In(Duration::ZERO)), (past, NewExpiry::At(UnixMs(1)))] {
        let results = apply(vec![(name(number), expire(expiry))], Batch::Independent).await;
        assert!(matches!(results[..], [Ok(Applied::Expired { .. })]), "{results:?}");
        assert_eq!(get(store, number).await, Ok(None), "key:{number}");
    }
    let results = apply(vec![(name(kept), expire(NewExpiry::Keep))], Batch::Independent).await;
    assert!(matches!(results[..], [Ok(Applied::Expired { found: true, applied: false, .. })]), "{results:?}");
    for expiry in [NewExpiry::In(Duration::from_secs(60)), NewExpiry::Never] {
        let results = apply(vec![(name(long), expire(expiry))], Batch::Independent).await;
        assert!(results[0].is_err(), "{results:?}");
    }
    let mixed = || vec![(name(long), set()), (name(deleted), delete())];
    let results = apply(mixed(), Batch::Atomic).await;
    assert!(results.iter().all(Result::is_err), "{results:?}");
    assert_eq!(get(store, deleted).await, Ok(Some(value(deleted))));
    let results = apply(mixed(), Batch::Independent).await;
    assert!(results[0].is_err() && matches!(results[1], Ok(Applied::Deleted { .. })), "{results:?}");
    assert_eq!(get(store, deleted).await, Ok(None));
    assert_eq!(get(store, long).await, Ok(Some(value(long))));
}

#[tokio::test]
async fn a_full_disk_serves_reads_and_removals_and_recovers() {
    let Some(disk) = SmallDisk::mount(200) else { return };
    let dir = disk.path().join("store");
    let store = open(&dir);
    let mut acknowledged = Vec::new();
    for number in 0..50 {
        put(&store, number).await.unwrap();
        acknowledged.push(number);
    }
    for number in (0..2).flat_map(spare) {
        put(&store, number).await.unwrap();
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
        removals_of_all_kinds(&store, round).await;
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
