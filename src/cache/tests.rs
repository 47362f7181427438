//! Tests of the facade over an L2 that a test can pause at chosen moments, which is not possible with a real store.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::*;
use crate::{
    access::Principal,
    clock::ManualClock,
    error::{CacheError, Kind, Result},
    l1::PolicyKind,
    l2::{
        BanStore, ChangeSink, InvalidationSink, LoadStore, Source, Stored,
        codec::{self, Tag},
        loads::{Acquired, LoadOp, LoadResult},
    },
    model::{Key, Life, Tier, Value},
};

type Reply = Result<Option<Stored>>;

/// An L2 whose reads wait for the test.
#[derive(Default)]
struct Held {
    asked: Mutex<VecDeque<(Key, oneshot::Sender<Reply>)>>,
    reads: AtomicU64,
    writes: AtomicU64,
    panics: AtomicBool,
    /// Locked by the test; a write waits for it.
    write_gate: Mutex<Option<oneshot::Receiver<()>>>,
    /// Answers to the next lease operations.
    loads: Mutex<VecDeque<LoadResult>>,
    /// Results of the next writes; without them, a write is a Set that stored its value.
    applied: Mutex<VecDeque<Applied>>,
}

impl Held {
    /// Waits until a read is in flight, and takes it.
    async fn next(&self) -> (Key, oneshot::Sender<Reply>) {
        loop {
            if let Some(asked) = self.asked.lock().pop_front() {
                return asked;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl BanStore for Held {}

impl LoadStore for Held {
    fn load(&self, _key: Key, _op: LoadOp) -> BoxFuture<'_, Result<LoadResult>> {
        let unexpected = || CacheError::new(Kind::Unsupported, "the test expects no lease operation");
        std::future::ready(self.loads.lock().pop_front().ok_or_else(unexpected)).boxed()
    }
}

impl Backend for Held {
    fn flavor(&self) -> Flavor {
        Flavor::Redis
    }

    fn get<'a>(&'a self, keys: &'a [Key], _with_life: bool) -> BoxFuture<'a, Vec<Reply>> {
        assert!(!self.panics.swap(false, Relaxed), "the test requested a panic");
        let mut replies = Vec::new();
        for key in keys {
            let (sender, receiver) = oneshot::channel();
            self.reads.fetch_add(1, Relaxed);
            self.asked.lock().push_back((key.clone(), sender));
            replies.push(receiver);
        }
        let lost = |_| Err(CacheError::new(Kind::Unavailable, "the test ended the read"));
        async move { futures_util::future::join_all(replies).await.into_iter().map(|r| r.unwrap_or_else(lost)).collect() }
            .boxed()
    }

    fn apply<'a>(&'a self, ops: Vec<(Key, Op)>, _batch: Batch) -> BoxFuture<'a, Vec<Result<Applied>>> {
        self.writes.fetch_add(ops.len() as u64, Relaxed);
        let gate = self.write_gate.lock().take();
        async move {
            if let Some(gate) = gate {
                let _ = gate.await;
            }
            let next = || self.applied.lock().pop_front().unwrap_or(Applied::Set { stored: true, old: None });
            ops.iter().map(|_| Ok(next())).collect()
        }
        .boxed()
    }

    fn describe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Option<Described>>>> {
        std::future::ready(keys.iter().map(|_| Ok(None)).collect()).boxed()
    }

    fn scan(&self, _request: ScanRequest) -> BoxFuture<'_, Result<ScanPage>> {
        std::future::ready(Ok(ScanPage::default())).boxed()
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        std::future::ready(Ok(0)).boxed()
    }

    fn random_key(&self) -> BoxFuture<'_, Result<Option<Key>>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    fn state(&self) -> State {
        State::Up
    }
}

struct Bench {
    cache: Cache,
    held: Arc<Held>,
    time: Arc<ManualClock>,
}

fn bench() -> Bench {
    bench_with(Rules::new(1 << 20, Duration::from_secs(60)))
}

fn bench_with(rules: Rules) -> Bench {
    let (clock, time) = Clock::manual();
    let settings = l1::Settings { capacity_bytes: 64 << 20, max_entries: None, policy: PolicyKind::Lru };
    let core = Core::new(settings, Flavor::Redis, rules, clock);
    core.listening(Source::ONLY);
    core.proven(Source::ONLY, Tick::FAR);
    let held = Arc::new(Held::default());
    Bench { cache: Cache::new(core, Arc::clone(&held) as Arc<dyn Backend>), held, time }
}

fn key(text: &'static str) -> Key {
    Key::new(Bytes::from_static(text.as_bytes())).unwrap()
}

fn stored(text: &'static str) -> Reply {
    Ok(Some(Stored { value: Value::from(Bytes::from_static(text.as_bytes())), life: Life::Forever }))
}

fn set(text: &'static str) -> Op {
    let value = Bytes::from_static(text.as_bytes());
    Op::Set { value, expiry: SetExpiry::Never, condition: Condition::Always, want_old: false }
}

fn spawn_get(bench: &Bench, name: &'static str) -> tokio::task::JoinHandle<Result<Read>> {
    let cache = bench.cache.clone();
    tokio::spawn(async move { cache.get(key(name), ReadOptions::default()).await })
}

fn text(read: Result<Read>) -> (String, Tier) {
    match read {
        Ok(Read::Found(found)) => (String::from_utf8_lossy(&found.value).into_owned(), found.tier),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_read_promotes_and_the_next_is_a_hit() {
    let bench = bench();
    let read = spawn_get(&bench, "k");
    bench.held.next().await.1.send(stored("v")).unwrap();
    assert_eq!(text(read.await.unwrap()), ("v".into(), Tier::L2));
    assert_eq!(text(bench.cache.get(key("k"), ReadOptions::default()).await), ("v".into(), Tier::L1));
    let reads = bench.cache.snapshot().reads;
    assert_eq!((reads.hit_l1, reads.hit_l2, reads.miss), (1, 1, 0));
}

#[tokio::test]
async fn a_miss_looks_into_l1_at_most_twice_and_a_hit_once() {
    let bench = bench();
    let (cache, options) = (&bench.cache, ReadOptions::default());
    let lookups = || cache.core.l1.lookups();
    // The call sequence of `get`.
    let read = spawn_get(&bench, "k");
    bench.held.next().await.1.send(stored("v")).unwrap();
    assert_eq!((text(read.await.unwrap()).1, lookups()), (Tier::L2, 2));
    assert_eq!((text(cache.get(key("k"), options).await).1, lookups()), (Tier::L1, 3));
    // The call sequence of the gRPC port: first the hot path, then the keys that it did not answer.
    assert!(cache.get_from_l1(b"m", cache.now()).is_none());
    let (read, ()) = tokio::join!(cache.read_missed(key("m"), options), async {
        bench.held.next().await.1.send(stored("w")).unwrap();
    });
    assert_eq!((text(read).1, lookups()), (Tier::L2, 5));
    // Several keys at once, the first of which was already looked up.
    assert!(cache.get_from_l1(b"a", cache.now()).is_none());
    let (reads, ()) = tokio::join!(cache.read_many_missed(vec![key("a"), key("k"), key("b")], 1, options), async {
        for _ in 0..2 {
            bench.held.next().await.1.send(Ok(None)).unwrap();
        }
    });
    let found: Vec<bool> = reads.into_iter().map(|read| matches!(read, Ok(Read::Found(_)))).collect();
    assert_eq!((found, lookups()), (vec![false, true, false], 10));
    let reads = cache.snapshot().reads;
    assert_eq!((reads.hit_l1, reads.hit_l2, reads.miss), (2, 2, 2));
}

#[tokio::test]
async fn a_copy_that_came_in_before_the_flight_is_a_hit_like_any_other() {
    let bench = bench();
    let read = spawn_get(&bench, "k");
    bench.held.next().await.1.send(stored("v")).unwrap();
    read.await.unwrap().unwrap();
    let read = bench.cache.read_missed(key("k"), ReadOptions::default()).await;
    assert_eq!(text(read).1, Tier::L1);
    let reads = bench.cache.snapshot().reads;
    assert_eq!((reads.hit_l1, reads.hit_l2), (1, 1));
    let top = bench.cache.top(stats::top::By::Reads, 1);
    assert_eq!(top.keys, [(key("k"), 2)], "the rankings count it as well");
}

#[tokio::test]
async fn many_readers_ask_once() {
    let bench = bench();
    let readers: Vec<_> = (0..50).map(|_| spawn_get(&bench, "k")).collect();
    let (_, reply) = bench.held.next().await;
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    reply.send(stored("v")).unwrap();
    for reader in readers {
        assert_eq!(text(reader.await.unwrap()).0, "v");
    }
    let reads = bench.cache.snapshot().reads;
    assert_eq!((bench.held.reads.load(Relaxed), reads.hit_l2, reads.coalesced), (1, 50, 49));
    assert_eq!(bench.cache.snapshot().flights, 0);
}

#[tokio::test]
async fn a_cancelled_leader_strands_nobody() {
    let bench = bench();
    let leader = spawn_get(&bench, "k");
    let (_, asked) = bench.held.next().await;
    let waiter = spawn_get(&bench, "k");
    tokio::task::yield_now().await;
    leader.abort();
    // The read was sent: it serves the waiter.
    asked.send(stored("first")).unwrap();
    assert_eq!(text(waiter.await.unwrap()).0, "first");
    assert_eq!(bench.held.reads.load(Relaxed), 1);
}

#[tokio::test]
async fn a_read_whose_callers_have_all_left_fills_l1() {
    let bench = bench();
    let leader = spawn_get(&bench, "k");
    let (_, asked) = bench.held.next().await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    asked.send(stored("v")).unwrap();
    while bench.cache.snapshot().flights > 0 {
        tokio::task::yield_now().await;
    }
    assert!(bench.cache.get_from_l1(b"k", bench.cache.now()).is_some());
    assert_eq!(bench.held.reads.load(Relaxed), 1);
    assert_eq!(bench.cache.core().budget().bytes(), 0);
}

#[tokio::test]
async fn a_batch_stops_when_its_caller_leaves() {
    let bench = bench();
    let cache = bench.cache.clone();
    let read = tokio::spawn(async move { cache.get_many(vec![key("a"), key("b")], ReadOptions::default()).await });
    let (_, asked) = bench.held.next().await;
    read.abort();
    assert!(read.await.unwrap_err().is_cancelled());
    assert!(asked.is_closed(), "nobody waits for the answer");
    assert_eq!(bench.cache.snapshot().flights, 0);
}

#[tokio::test]
async fn a_panicking_leader_poisons_nobody() {
    let bench = bench();
    bench.held.panics.store(true, Relaxed);
    assert!(spawn_get(&bench, "k").await.unwrap_err().is_panic());
    assert_eq!(bench.cache.snapshot().flights, 0);
    let next = spawn_get(&bench, "k");
    bench.held.next().await.1.send(stored("v")).unwrap();
    assert_eq!(text(next.await.unwrap()).0, "v");
    assert!(bench.cache.resident(b"k").is_some(), "the lease of the panicked leader was not released");
}

#[tokio::test]
async fn a_failed_read_is_an_error_for_all_who_waited_and_not_a_miss() {
    let bench = bench();
    let readers: Vec<_> = (0..3).map(|_| spawn_get(&bench, "k")).collect();
    let (_, reply) = bench.held.next().await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    reply.send(Err(CacheError::new(Kind::Unavailable, "away"))).unwrap();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap_err().kind(), Kind::Unavailable);
    }
    let reads = bench.cache.snapshot().reads;
    assert_eq!((reads.error, reads.miss, reads.hit_l2, reads.coalesced), (3, 0, 0, 0));
}

#[tokio::test]
async fn an_invalidation_overtakes_a_fill() {
    let bench = bench();
    let early = spawn_get(&bench, "k");
    let (_, reply) = bench.held.next().await;
    bench.cache.core().invalidated(b"k");
    // A reader that arrives after the invalidation does not join the earlier flight.
    let late = spawn_get(&bench, "k");
    let (_, late_reply) = bench.held.next().await;
    reply.send(stored("old")).unwrap();
    assert_eq!(text(early.await.unwrap()).0, "old");
    late_reply.send(stored("new")).unwrap();
    assert_eq!(text(late.await.unwrap()).0, "new");
    assert_eq!(text(bench.cache.get(key("k"), ReadOptions::default()).await), ("new".into(), Tier::L1));
    assert_eq!(bench.cache.snapshot().fills.voided, 1);
}

const TAG: &str = "t";
const RECORD: &[u8] = b"__terrace:tag:t";

/// Returns the stored form of a value with the tag under an id.
fn tagged(payload: &'static str, id: u64) -> Stored {
    let head = codec::head_of(&[Tag { name: Bytes::from_static(TAG.as_bytes()), id }]);
    let value = codec::joined(&head, Bytes::from_static(payload.as_bytes()));
    Stored { value: codec::opened(Value::from(value)), life: Life::Forever }
}

/// Returns the record of the tag with an id.
fn record(id: u64) -> Reply {
    Ok(Some(Stored { value: Value::from(Bytes::from(codec::hex_of(id))), life: Life::Forever }))
}

/// Answers the reads of internal records until the call ends: the tag has this id. All keys of clients are absent.
async fn with_tag<T>(bench: &Bench, id: u64, call: impl Future<Output = T>) -> T {
    let answers = async {
        loop {
            let (key, reply) = bench.held.next().await;
            let _left = reply.send(if &key[..] == RECORD { record(id) } else { Ok(None) });
        }
    };
    tokio::select! { biased; done = call => done, () = answers => unreachable!("the answers do not end") }
}

#[tokio::test]
async fn a_reader_that_joins_after_its_tag_was_invalidated_does_not_receive_the_old_value() {
    let bench = bench();
    let early = spawn_get(&bench, "k");
    bench.held.next().await.1.send(Ok(Some(tagged("old", 1)))).unwrap();
    let (asked, id) = bench.held.next().await;
    assert_eq!(&asked[..], RECORD);
    // The store has answered the read of the id, and the answer is on its way.
    bench.cache.core().invalidated(RECORD);
    let mut late = pin!(bench.cache.get(key("k"), ReadOptions::default()));
    assert!(futures_util::poll!(late.as_mut()).is_pending());
    assert!(bench.held.asked.lock().is_empty(), "the reader joins");
    id.send(record(1)).unwrap();
    assert_eq!(text(early.await.unwrap()).0, "old");
    let late = with_tag(&bench, 2, late).await;
    assert!(matches!(late, Ok(Read::Missing)), "{late:?}");
}

#[tokio::test]
async fn a_value_that_another_node_filled_under_an_invalidated_tag_is_not_the_answer_to_a_request_for_a_lease() {
    let lease = Duration::from_secs(1);
    let (age, left, holder) = (lease, lease, [1; 16]);
    let dead = || Some(tagged("dead", 1));
    let granted = |stored| Acquired::Granted { stored, fence: None, lease, taken_over: false };
    let failed = |stored| Acquired::Failed { stored, message: Bytes::from_static(b"no"), retry_after: lease };
    let busy = |stored| Acquired::Busy { stored, age, left, holder };
    let cases = [
        (vec![Acquired::Fresh(tagged("dead", 1)), granted(None)], "load"),
        (vec![Acquired::Fresh(tagged("live", 2))], "live"),
        (vec![granted(dead())], "load"),
        (vec![granted(Some(tagged("live", 2)))], "live"),
        (vec![failed(dead())], "failed"),
        (vec![failed(Some(tagged("live", 2)))], "live"),
        (vec![busy(dead()); 2], "busy"),
        (vec![busy(Some(tagged("live", 2)))], "live"),
        // Each answer of the store is invalid again: the request waits like for another client.
        (vec![Acquired::Fresh(tagged("dead", 1)); 3], "busy"),
    ];
    for (replies, expected) in cases {
        let bench = bench();
        bench.held.loads.lock().extend(replies.iter().cloned().map(LoadResult::Acquired));
        let request = LeaseRequest { wait: Some(Duration::ZERO), ..LeaseRequest::default() };
        let answer = with_tag(&bench, 2, bench.cache.get_or_lease(key("k"), request)).await.unwrap();
        let answer = match answer {
            LeaseAnswer::Hit { found, .. } => String::from_utf8_lossy(&found.value).into_owned(),
            LeaseAnswer::Load(_) => "load".to_owned(),
            LeaseAnswer::Busy { .. } => "busy".to_owned(),
            LeaseAnswer::Failed { .. } => "failed".to_owned(),
            LeaseAnswer::Absent { .. } => "absent".to_owned(),
        };
        assert_eq!(answer, expected, "{replies:?}");
    }
}

#[tokio::test]
async fn a_write_does_not_return_a_previous_value_with_an_invalidated_tag() {
    let old = |id| Some(tagged("old", id).value);
    for (id, is_valid) in [(1, false), (2, true)] {
        let results = [
            Applied::Set { stored: true, old: old(id) },
            Applied::Deleted { existed: true, old: old(id) },
            Applied::Expired { found: true, applied: true, value: old(id) },
        ];
        let expected = [
            Applied::Set { stored: true, old: old(id).filter(|_| is_valid) },
            Applied::Deleted { existed: is_valid, old: old(id).filter(|_| is_valid) },
            Applied::Expired { found: is_valid, applied: is_valid, value: old(id).filter(|_| is_valid) },
        ];
        for (result, expected) in results.into_iter().zip(expected) {
            let bench = bench();
            bench.held.applied.lock().push_back(result);
            let write = bench.cache.write(key("k"), Op::Delete { want_old: true });
            assert_eq!(with_tag(&bench, 2, write).await.unwrap(), expected);
        }
    }
}

#[tokio::test]
async fn a_write_drops_the_copy_before_it_is_sent_and_again_after_it() {
    let bench = bench();
    let fill = async |value| {
        let read = spawn_get(&bench, "k");
        bench.held.next().await.1.send(stored(value)).unwrap();
        read.await.unwrap().unwrap();
    };
    fill("old").await;
    let (done, gate) = oneshot::channel();
    *bench.held.write_gate.lock() = Some(gate);
    let cache = bench.cache.clone();
    let write = tokio::spawn(async move { cache.write(key("k"), set("new")).await });
    while bench.held.writes.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(bench.cache.resident(b"k").is_none(), "the copy outlived the start of a write");
    fill("old").await;
    assert!(bench.cache.resident(b"k").is_some());
    done.send(()).unwrap();
    write.await.unwrap().unwrap();
    assert!(bench.cache.resident(b"k").is_none(), "a copy filled during the write outlived it");
}

#[tokio::test]
async fn a_cancelled_write_drops_the_copy() {
    let bench = bench();
    let (_never, gate) = oneshot::channel();
    *bench.held.write_gate.lock() = Some(gate);
    let cache = bench.cache.clone();
    let write = tokio::spawn(async move { cache.write(key("k"), set("new")).await });
    while bench.held.writes.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let read = spawn_get(&bench, "k");
    bench.held.next().await.1.send(stored("old")).unwrap();
    read.await.unwrap().unwrap();
    assert!(bench.cache.resident(b"k").is_some());
    write.abort();
    assert!(write.await.unwrap_err().is_cancelled());
    assert!(bench.cache.resident(b"k").is_none());
}

#[tokio::test]
async fn a_write_voids_fills() {
    let bench = bench();
    let early = spawn_get(&bench, "k");
    let (_, reply) = bench.held.next().await;
    bench.cache.write(key("k"), set("new")).await.unwrap();
    reply.send(stored("old")).unwrap();
    early.await.unwrap().unwrap();
    assert!(bench.cache.resident(b"k").is_none());
}

#[tokio::test]
async fn a_lost_link_closes_l1_and_voids_its_fills() {
    let bench = bench();
    let read = spawn_get(&bench, "k");
    let (_, reply) = bench.held.next().await;
    bench.cache.core().lost(Source::ONLY, "test");
    bench.cache.core().listening(Source::ONLY);
    bench.cache.core().proven(Source::ONLY, Tick::FAR);
    reply.send(stored("v")).unwrap();
    read.await.unwrap().unwrap();
    assert!(bench.cache.resident(b"k").is_none(), "a lease from before the loss filled L1");
}

/// Ends the read of `k` in flight, as if L2 were unavailable.
async fn answer_away(bench: &Bench) {
    bench.held.next().await.1.send(Err(CacheError::new(Kind::Unavailable, "away"))).unwrap();
}

async fn get_with(bench: &Bench, stale_ok: bool) -> Result<Read> {
    let options = ReadOptions { stale_ok, ..ReadOptions::default() };
    let cache = bench.cache.clone();
    let read = tokio::spawn(async move { cache.get(key("k"), options).await });
    answer_away(bench).await;
    read.await.unwrap()
}

#[tokio::test]
async fn while_l2_is_away_a_copy_is_served_as_stale_within_its_time_and_to_who_wants_it() {
    let mut rules = Rules::new(1 << 20, Duration::from_secs(1));
    rules.serve_stale_for = Duration::from_secs(30);
    let bench = bench_with(rules);
    bench.cache.core().proven(Source::ONLY, bench.cache.now().plus(Duration::from_secs(1)));
    let read = spawn_get(&bench, "k");
    bench.held.next().await.1.send(stored("v")).unwrap();
    read.await.unwrap().unwrap();
    bench.cache.core().lost(Source::ONLY, "test");
    bench.time.advance(Duration::from_secs(20));
    assert!(get_with(&bench, false).await.is_err(), "a caller that does not accept stale copies gets the error");
    let Ok(Read::Found(found)) = get_with(&bench, true).await else { panic!("the copy is there") };
    assert_eq!((found.value.to_vec(), found.tier, found.stale), (b"v".to_vec(), Tier::L1, true));
    assert_eq!((bench.cache.snapshot().reads.stale, bench.cache.snapshot().reads.error), (1, 1));
    bench.time.advance(Duration::from_secs(11));
    assert!(get_with(&bench, true).await.is_err(), "31 s after the fence");
}

#[tokio::test]
async fn once_the_link_is_back_an_old_copy_is_not_even_stale() {
    let mut rules = Rules::new(1 << 20, Duration::from_secs(60));
    rules.serve_stale_for = Duration::from_secs(3_600);
    let bench = bench_with(rules);
    let read = spawn_get(&bench, "k");
    bench.held.next().await.1.send(stored("v")).unwrap();
    read.await.unwrap().unwrap();
    bench.cache.core().lost(Source::ONLY, "test");
    assert!(get_with(&bench, true).await.is_ok());
    bench.cache.core().listening(Source::ONLY);
    assert!(get_with(&bench, true).await.is_ok(), "the new fence has no proof yet");
    bench.cache.core().proven(Source::ONLY, Tick::FAR);
    assert!(get_with(&bench, true).await.is_err());
}

/// Creates a copy of `k` that was hit and whose change was never announced. Returns the result of the check if L2 has
/// `in_l2`.
async fn checked(in_l2: &'static str) -> (usize, Bench) {
    let bench = bench();
    let read = spawn_get(&bench, "k");
    bench.held.next().await.1.send(stored("v")).unwrap();
    read.await.unwrap().unwrap();
    assert!(bench.cache.get_from_l1(b"k", bench.cache.now()).is_some(), "the first hit is a sample");
    for _ in 0..2 {
        bench.time.advance(Duration::from_millis(1_100));
        let cache = bench.cache.clone();
        let check = tokio::spawn(async move { cache.check_samples().await });
        if bench.cache.core().hit_samples.is_waiting_for_l2() {
            bench.held.next().await.1.send(stored(in_l2)).unwrap();
        }
        let stale = check.await.unwrap();
        if stale > 0 {
            return (stale, bench);
        }
    }
    (0, bench)
}

#[tokio::test]
async fn the_self_check_finds_a_copy_whose_change_was_never_heard_of() {
    let (stale, bench) = checked("w").await;
    assert_eq!(stale, 1);
    assert!(bench.cache.resident(b"k").is_none(), "it is dropped");
    let coherence = bench.cache.snapshot().coherence;
    assert_eq!((coherence.checked, coherence.stale_detected), (1, 1));
}

#[tokio::test]
async fn the_self_check_leaves_a_true_copy_alone() {
    let (stale, bench) = checked("v").await;
    assert_eq!((stale, bench.cache.snapshot().coherence.checked), (0, 1));
    assert!(bench.cache.resident(b"k").is_some());
}

#[tokio::test]
async fn where_changes_are_not_announced_l1_may_go_by_age_alone_until_they_are() {
    let mut rules = Rules::new(1 << 20, Duration::from_secs(60));
    rules.untracked = true;
    let bench = bench_with(rules);
    let core = Arc::clone(bench.cache.core());
    core.lost(Source::ONLY, "test");
    core.not_primary(Source::ONLY, "a replica");
    assert!(!core.fence.is_valid(bench.cache.now()), "the fence of a replica must not become valid");
    core.refused(Source::ONLY, "no tracking");
    let read = spawn_get(&bench, "k");
    bench.held.next().await.1.send(stored("v")).unwrap();
    read.await.unwrap().unwrap();
    assert!(bench.cache.get_from_l1(b"k", bench.cache.now()).is_some());
    bench.time.advance(Duration::from_secs(60));
    assert!(bench.cache.get_from_l1(b"k", bench.cache.now()).is_none(), "l1.max_age");
    core.listening(Source::ONLY);
    assert!(!core.fence.is_valid(bench.cache.now()));
    core.proven(Source::ONLY, Tick::FAR);
    assert!(core.fence.is_valid(bench.cache.now()) && core.fence.refused().is_none());
}

#[tokio::test]
async fn past_the_fence_l1_is_bypassed_but_flights_still_coalesce() {
    let bench = bench();
    bench.cache.core().proven(Source::ONLY, bench.cache.now().plus(Duration::from_secs(1)));
    let read = spawn_get(&bench, "k");
    bench.held.next().await.1.send(stored("v")).unwrap();
    read.await.unwrap().unwrap();
    bench.time.advance(Duration::from_millis(999));
    assert!(bench.cache.get_from_l1(b"k", bench.cache.now()).is_some());
    bench.time.advance(Duration::from_millis(1));
    let readers: Vec<_> = (0..2).map(|_| spawn_get(&bench, "k")).collect();
    let (_, reply) = bench.held.next().await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    reply.send(stored("v2")).unwrap();
    for reader in readers {
        assert_eq!(text(reader.await.unwrap()), ("v2".into(), Tier::L2));
    }
    assert_eq!(bench.held.reads.load(Relaxed), 2);
}

#[tokio::test]
async fn a_copy_ends_with_the_key_or_with_its_age() {
    let bench = bench();
    for (name, life) in [("short", Life::For(Duration::from_secs(5))), ("long", Life::Forever)] {
        let read = spawn_get(&bench, name);
        let value = Value::from(Bytes::from_static(b"v"));
        // TTLs count from the request, not from the answer.
        let (_, reply) = bench.held.next().await;
        bench.time.advance(Duration::from_secs(1));
        reply.send(Ok(Some(Stored { value, life }))).unwrap();
        read.await.unwrap().unwrap();
    }
    let resident = |name: &str| bench.cache.resident(name.as_bytes());
    bench.time.advance(Duration::from_millis(2999));
    assert!(resident("short").is_some());
    bench.time.advance(Duration::from_millis(1));
    assert!(resident("short").is_none() && resident("long").is_some());
    bench.time.advance(Duration::from_secs(56));
    assert!(resident("long").is_none());
}

#[tokio::test]
async fn inspection_counts_and_promotes_nothing() {
    let bench = bench();
    let cache = bench.cache.clone();
    let options = ReadOptions { no_touch: true, ..ReadOptions::default() };
    let read = tokio::spawn(async move { cache.get(key("k"), options).await });
    bench.held.next().await.1.send(stored("v")).unwrap();
    assert_eq!(text(read.await.unwrap()).0, "v");
    assert!(bench.cache.resident(b"k").is_none());
    assert_eq!(bench.cache.snapshot().reads, stats::Reads::default());
}

#[tokio::test]
async fn one_key_twice_in_a_batch_is_read_once() {
    let bench = bench();
    let cache = bench.cache.clone();
    let keys = vec![key("a"), key("b"), key("a")];
    let read = tokio::spawn(async move { cache.get_many(keys, ReadOptions::default()).await });
    bench.held.next().await.1.send(stored("1")).unwrap();
    bench.held.next().await.1.send(Ok(None)).unwrap();
    let mut results = read.await.unwrap();
    assert_eq!(text(results.pop().unwrap()).0, "1");
    assert!(matches!(results.pop().unwrap(), Ok(Read::Missing)));
    assert_eq!(bench.held.reads.load(Relaxed), 2);
}

#[tokio::test]
async fn policies_give_and_cap_lives_and_sizes() {
    let glob = |pattern: &str| crate::glob::Glob::new(pattern.as_bytes()).unwrap();
    let seconds = Duration::from_secs;
    let mut rules = Rules::new(100, seconds(60));
    rules.policies = vec![
        policy::Policy {
            default_ttl: Some(seconds(30)),
            max_ttl: Some(seconds(90)),
            max_value: Some(10),
            ..policy::Policy::of(glob("s:*"))
        },
        policy::Policy { l1: false, ..policy::Policy::of(glob("*")) },
    ];
    let resolved = |name: &'static str, expiry| {
        let mut op = Op::Set { value: Bytes::new(), expiry, condition: Condition::Always, want_old: false };
        rules.resolve(&key(name), &mut op, crate::clock::UnixMs(0), None).unwrap();
        let Op::Set { expiry, .. } = op else { panic!() };
        expiry
    };
    assert_eq!(resolved("s:1", SetExpiry::Never), SetExpiry::In(seconds(30)));
    assert_eq!(resolved("s:1", SetExpiry::In(seconds(600))), SetExpiry::In(seconds(90)));
    assert_eq!(
        resolved("s:1", SetExpiry::At(crate::clock::UnixMs(600_000))),
        SetExpiry::At(crate::clock::UnixMs(90_000))
    );
    assert_eq!(resolved("other", SetExpiry::Never), SetExpiry::Never);
    assert!(rules.may_promote(b"s:1", b"") && !rules.may_promote(b"other", b""));

    let bench = bench_with(rules);
    let long = Op::Set {
        value: Bytes::from_static(b"eleven bytes"),
        expiry: SetExpiry::Never,
        condition: Condition::Always,
        want_old: false,
    };
    let ops = vec![(key("s:1"), long), (key("s:2"), set("short"))];
    let independent = bench.cache.write_many(ops.clone(), Batch::Independent).await;
    assert_eq!(independent[0].as_ref().unwrap_err().kind(), Kind::TooLarge);
    assert!(independent[1].is_ok());
    assert!(bench.cache.write_many(ops, Batch::Atomic).await.iter().all(Result::is_err));
    assert_eq!(bench.held.writes.load(Relaxed), 1);
}

#[tokio::test]
async fn user_reads_and_writes_are_told_with_their_caller_inspection_is_not() {
    use crate::learn::recorder::{Happened, Wrote};
    let mut bench = bench();
    bench.cache = bench.cache.for_new_caller(Principal::system());
    let caller = bench.cache.caller;
    let inspection = ReadOptions { no_touch: true, ..ReadOptions::default() };
    for (name, options) in [("a", ReadOptions::default()), ("b", inspection)] {
        let cache = bench.cache.clone();
        let reader = tokio::spawn(async move { cache.get(key(name), options).await });
        let (_, answer) = bench.held.next().await;
        answer.send(stored("1")).unwrap();
        reader.await.unwrap().unwrap();
    }
    bench.cache.write(key("c"), set("2")).await.unwrap();
    bench.cache.core.invalidated(b"d");
    let mut events = Vec::new();
    bench.cache.core.learn(&mut events);
    let mut told: Vec<_> = events.iter().map(|event| (event.key.to_vec(), event.happened, event.caller)).collect();
    told.sort_by_key(|(key, ..)| key.clone());
    let expected = [
        (b"a".to_vec(), Happened::HitL2, caller),
        (b"c".to_vec(), Happened::Written(Wrote::Value(Some(Tick::FAR))), caller),
        (b"d".to_vec(), Happened::Invalidated, Caller::UNKNOWN),
    ];
    assert_eq!(told, expected);
}

#[test]
fn what_finds_the_learner_at_work_is_learned_afterwards() {
    let bench = bench();
    let (cache, now) = (&bench.cache, bench.cache.now());
    let at_work = cache.core.prefetcher.learner.lock();
    cache.note_late_prefetch(b"a", now);
    drop(at_work);
    assert_eq!(cache.core.prefetch().keys, 0);
    cache.note_late_prefetch(b"b", now);
    let report = cache.core.prefetch();
    assert_eq!((report.keys, report.busy), (2, 0), "both were learned, and none was lost");
}
