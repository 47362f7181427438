//! `get_or_load` with the fake: the logic of the client is the one that applications run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;

use super::{Fake, OperationKind};
use crate::{Client, ErrorKind, GetOrLoad, OnUnavailable};

const SECOND: Duration = Duration::from_secs(1);

/// The origin of the tests, which counts its loads.
#[derive(Clone, Default)]
struct Origin(Arc<AtomicUsize>);

impl Origin {
    /// Reads a key, whose value is the number of the load.
    fn read(&self, cache: &Client, key: &str) -> GetOrLoad {
        let loads = Arc::clone(&self.0);
        cache.get_or_load(key, move || async move {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(Some(Bytes::from((loads.fetch_add(1, SeqCst) + 1).to_string())))
        })
    }

    fn loads(&self) -> usize {
        self.0.load(SeqCst)
    }
}

#[tokio::test]
async fn one_of_many_callers_of_three_clients_loads() {
    let (fake, origin) = (Fake::new(), Origin::default());
    let clients = [fake.client(), fake.client(), fake.client()];
    let reads = (0..100).map(|number| origin.read(&clients[number % 3], "k").into_future());
    let values = join_all(reads).await.into_iter().map(|value| value.unwrap().unwrap()).collect::<Vec<_>>();
    assert!(values.iter().all(|value| value == "1"), "{values:?}");
    assert_eq!((origin.loads(), fake.loads("k"), fake.entry("k").unwrap().value), (1, 1, "1".into()));
    assert!(fake.count(OperationKind::GetOrLease) <= 6, "callers of a client share lookups");
}

#[tokio::test]
async fn an_expired_value_is_loaded_again_and_a_stale_one_in_the_background() {
    let (fake, origin) = (Fake::new(), Origin::default());
    let cache = fake.client();
    let read = || origin.read(&cache, "k").ttl(10 * SECOND).stale(20 * SECOND).into_future();
    assert_eq!(read().await.unwrap().unwrap(), "1");
    assert_eq!(fake.entry("k").unwrap().expires_in, Some(30 * SECOND));
    fake.advance(11 * SECOND);
    assert_eq!(read().await.unwrap().unwrap(), "1");
    while fake.loads("k") < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(read().await.unwrap().unwrap(), "2");
    fake.advance(30 * SECOND);
    assert_eq!(read().await.unwrap().unwrap(), "3");
}

#[tokio::test]
async fn an_absent_key_is_not_loaded_for_its_negative_ttl() {
    let (fake, loads) = (Fake::new(), Arc::new(AtomicUsize::new(0)));
    let cache = fake.client();
    for (expected, passes) in [(1, 0), (1, 29), (2, 1)] {
        fake.advance(passes * SECOND);
        let counted = Arc::clone(&loads);
        let read = cache.get_or_load("k", move || async move {
            counted.fetch_add(1, SeqCst);
            Ok::<_, std::io::Error>(None::<Bytes>)
        });
        assert_eq!(read.negative_ttl(30 * SECOND).await.unwrap(), None);
        assert_eq!((loads.load(SeqCst), fake.loads("k")), (expected, expected as u64));
    }
}

#[tokio::test]
async fn a_failed_load_is_repeated_after_its_back_off() {
    let (fake, origin) = (Fake::new(), Origin::default());
    let cache = fake.client();
    let failing = || cache.get_or_load("k", || async { Err::<Option<Bytes>, _>(std::io::Error::other("down")) });
    assert_eq!(failing().await.unwrap_err().kind(), ErrorKind::LoadFailed);
    assert_eq!(origin.read(&cache, "k").await.unwrap_err().kind(), ErrorKind::LoadFailed);
    assert_eq!((origin.loads(), fake.total_loads()), (0, 1));
    fake.advance(SECOND);
    assert_eq!(origin.read(&cache, "k").await.unwrap().unwrap(), "1");
}

#[tokio::test]
async fn an_outage_of_the_cache_loads_without_storing_or_fails() {
    let (fake, origin) = (Fake::new(), Origin::default());
    let cache = fake.client();
    fake.fail(ErrorKind::Unavailable, "connection refused");
    assert_eq!(origin.read(&cache, "k").await.unwrap().unwrap(), "1");
    let error = origin.read(&cache, "k").on_unavailable(OnUnavailable::Error).await.unwrap_err();
    assert_eq!((error.kind(), origin.loads(), fake.loads("k")), (ErrorKind::Unavailable, 1, 0));
    fake.recover();
    assert!(fake.keys().is_empty());
    // The lookup succeeds, and the fill fails: the caller has its value.
    fake.unknown_next(1);
    assert_eq!(origin.read(&cache, "k").await.unwrap().unwrap(), "2");
}

#[tokio::test(start_paused = true)]
async fn a_slow_cache_delays_a_load_by_the_deadline_of_a_read() {
    let (fake, origin) = (Fake::new(), Origin::default());
    let cache = fake.client();
    fake.delay(SECOND);
    let begun = tokio::time::Instant::now();
    assert_eq!(origin.read(&cache, "k").await.unwrap().unwrap(), "1");
    assert!((250..500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert!(!fake.is_loading("k") && fake.keys().is_empty());
}

#[tokio::test]
async fn an_invalidation_during_a_load_prevents_the_fill() {
    let (fake, origin) = (Fake::new(), Origin::default());
    let (cache, other) = (fake.client(), fake.client());
    let read = cache.get_or_load("k", move || async move {
        other.invalidate_tags(["t"]).await.unwrap();
        Ok::<_, std::io::Error>(Some(Bytes::from_static(b"old")))
    });
    assert_eq!(read.tags(["t"]).await.unwrap().unwrap(), "old");
    assert!(fake.keys().is_empty());
    assert_eq!(origin.read(&cache, "k").await.unwrap().unwrap(), "1");
    assert_eq!(fake.loads("k"), 2);
}

#[tokio::test]
async fn many_keys_are_loaded_by_one_call() {
    let fake = Fake::new();
    let cache = fake.client();
    cache.set("a", "cached").await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let values = cache
        .get_or_load_many(["a", "b", "c"], move |keys: Vec<Bytes>| {
            counted.fetch_add(1, SeqCst);
            async move { Ok::<_, std::io::Error>(keys.into_iter().map(Some).collect::<Vec<_>>()) }
        })
        .await
        .unwrap();
    assert_eq!(values, ["cached", "b", "c"].map(|value| Some(Bytes::from(value))));
    assert_eq!((calls.load(SeqCst), fake.total_loads(), fake.keys().len()), (1, 2, 3));
}
