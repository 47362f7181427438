//! A near cache that follows the rules of the proto, under faults: in the end it equals what a new reader sees.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use parking_lot::Mutex;
use redis::Connection;
use terrace::{
    grpc::client::{CacheClient, InvalidationClient},
    proto::{GetRequest, WatchGap, WatchResponse, get_response, watch_event::Subject, watch_response::News},
};
use tokio::time::Instant;
use tonic::{Streaming, transport::Channel};

use super::{node_over, quick};
use crate::support::{
    eventually,
    grpc::connect,
    node::{stats, wait_until_open},
    proxy::{Cut, FaultProxy, Faults, Link, Who},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config_over},
};

/// Few keys, so that most of them are cached and written constantly.
const KEYS: u64 = 40;
/// Maximum lag of a heartbeat by the contract.
const BEHIND: Duration = Duration::from_secs(1);

fn key(number: u64) -> String {
    format!("near:{number}")
}

/// The mode that the test sets.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Mode {
    Read,
    /// Reads nothing from its stream.
    Sleep,
    /// Closes its stream, and resumes after the last sequence when it reads again.
    Away,
    End,
}

/// State that the test can see.
#[derive(Default)]
struct Shown {
    mode: AtomicU8,
    /// The mode that is in effect.
    at: AtomicU8,
    copies: Mutex<HashMap<u64, Bytes>>,
    hits: AtomicU64,
    beats: AtomicU64,
    resumed: AtomicU64,
    gaps: Mutex<Vec<WatchGap>>,
}

/// The near cache: a map, a stream, and the three rules.
struct Near {
    shown: Arc<Shown>,
    cache: CacheClient<Channel>,
    watcher: InvalidationClient<Channel>,
    stream: Option<Streaming<WatchResponse>>,
    sequence: Option<u64>,
    /// No discontinuity since the last heartbeat.
    keeps: bool,
    rng: Rng,
}

impl Near {
    async fn run(mut self) {
        loop {
            let mode = self.shown.mode.load(SeqCst);
            if mode == Mode::End as u8 {
                return;
            }
            if mode == Mode::Away as u8 {
                self.stream = None;
            }
            self.shown.at.store(mode, SeqCst);
            if mode != Mode::Read as u8 {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            if self.stream.is_none() {
                let request = terrace::proto::WatchRequest { from_sequence: self.sequence, ..quick() };
                self.stream = Some(self.watcher.watch(request).await.unwrap().into_inner());
            }
            self.read().await;
        }
    }

    async fn read(&mut self) {
        let number = self.rng.u64(..KEYS);
        if self.shown.copies.lock().contains_key(&number) {
            self.shown.hits.fetch_add(1, SeqCst);
            // A hit needs no call and only polls the stream.
            self.hear_within(Duration::from_millis(1), number).await;
            return;
        }
        let mut cache = self.cache.clone();
        let get = async move { cache.get(GetRequest { key: key(number).into(), options: None }).await };
        tokio::pin!(get);
        let mut may_keep = self.keeps;
        let answer = loop {
            let stream = self.stream.as_mut().unwrap();
            tokio::select! {
                message = stream.message() => may_keep &= self.hear(message.unwrap().unwrap(), number),
                answer = &mut get => break answer,
            }
        };
        // A read may fail while Redis is unavailable; then nothing is stored.
        let Ok(answer) = answer else { return };
        if let (true, Some(get_response::Result::Found(found))) = (may_keep, answer.into_inner().result) {
            self.shown.copies.lock().insert(number, found.value);
        }
    }

    async fn hear_within(&mut self, patience: Duration, number: u64) {
        let stream = self.stream.as_mut().unwrap();
        if let Ok(message) = tokio::time::timeout(patience, stream.message()).await {
            self.hear(message.unwrap().unwrap(), number);
        }
    }

    /// Handles a message; returns whether a value of `asked` that was requested before it may be stored.
    fn hear(&mut self, message: WatchResponse, asked: u64) -> bool {
        self.sequence = Some(message.sequence);
        match message.news.unwrap() {
            News::Started(started) => {
                self.keeps &= started.resumed;
                self.shown.resumed.fetch_add(u64::from(started.resumed), SeqCst);
                self.keeps
            }
            News::Heartbeat(_) => {
                let kept = std::mem::replace(&mut self.keeps, true);
                self.shown.beats.fetch_add(1, SeqCst);
                kept
            }
            News::Discontinuity(gap) => {
                self.shown.gaps.lock().push(gap.gap());
                self.shown.copies.lock().clear();
                self.keeps = false;
                false
            }
            News::Events(events) => {
                let subjects = events.events.into_iter().filter_map(|event| event.subject);
                subjects.fold(true, |kept, subject| kept & self.drop_copies(&subject, asked))
            }
        }
    }

    fn drop_copies(&self, subject: &Subject, asked: u64) -> bool {
        let mut copies = self.shown.copies.lock();
        match subject {
            Subject::Key(name) => {
                copies.retain(|&number, _| key(number).as_bytes() != name);
                key(asked).as_bytes() != name
            }
            // The test causes no other subjects.
            Subject::Everything(_) | Subject::Pattern(_) | Subject::Tag(_) => {
                copies.clear();
                false
            }
        }
    }
}

/// A near cache on its own thread.
struct Running {
    shown: Arc<Shown>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(node: &Terrace, seed: u64) -> Self {
        let shown = Arc::new(Shown::default());
        let (inside, address) = (Arc::clone(&shown), node.grpc().to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let channel = connect(&address).await;
                let (cache, watcher) = (CacheClient::new(channel.clone()), InvalidationClient::new(channel));
                let rng = Rng::with_seed(seed);
                let near = Near { shown: inside, cache, watcher, stream: None, sequence: None, keeps: false, rng };
                near.run().await;
            });
        });
        Self { shown, thread: Some(thread) }
    }

    fn set(&self, mode: Mode) {
        self.shown.mode.store(mode as u8, SeqCst);
        eventually("the near cache does so", || self.shown.at.load(SeqCst) == mode as u8);
    }

    fn gaps(&self, gap: WatchGap) -> usize {
        self.shown.gaps.lock().iter().filter(|seen| **seen == gap).count()
    }

    /// Asserts that the only gaps are a silent Redis, which may occur on a busy machine.
    fn has_missed_nothing(&self) {
        let gaps = self.shown.gaps.lock().clone();
        assert!(gaps.iter().all(|gap| *gap == WatchGap::NotHeard), "{gaps:?}");
    }

    /// Waits until it has copies.
    fn warm(&self) {
        eventually("copies are kept", || self.shown.copies.lock().len() as u64 > KEYS / 2);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shown.mode.store(Mode::End as u8, SeqCst);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the near cache panicked");
        }
    }
}

/// All parts of one test.
struct World {
    /// Dropped first, so that its stream does not end before.
    near: Running,
    watched: Terrace,
    other: Terrace,
    proxy: FaultProxy,
    redis: RedisServer,
    rng: Rng,
    written: u64,
}

impl World {
    fn new() -> Self {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        let redis = RedisServer::start();
        let proxy = FaultProxy::start(redis.port());
        let mut wanted = config_over(proxy.url());
        wanted.resp.flush = Some(true);
        let watched = Terrace::start(wanted);
        wait_until_open(&watched);
        let other = node_over(&redis);
        let near = Running::start(&watched, seed);
        Self { redis, proxy, watched, other, near, rng: Rng::with_seed(seed), written: 0 }
    }

    /// Writes, deletes, flushes and invalidates for a while, through both nodes and directly to Redis. A write through
    /// the watched node may fail while its link to Redis is faulty.
    fn write(&mut self, times: usize) {
        let mut ways: [Connection; 3] =
            [connection(self.watched.resp()), connection(self.other.resp()), self.redis.connect()];
        for _ in 0..times {
            self.written += 1;
            let way = &mut ways[self.rng.usize(..3)];
            let name = key(self.rng.u64(..KEYS));
            let command = match self.rng.u8(..200) {
                0 => redis::cmd("FLUSHDB"),
                1..4 => redis::cmd("TERRACE.INVALIDATE").arg("PATTERN").arg("near:1*").to_owned(),
                4..40 => redis::cmd("DEL").arg(name).to_owned(),
                _ => redis::cmd("SET").arg(name).arg(self.written).to_owned(),
            };
            let _may_fail = command.exec(way);
            // This gives the near cache time to store copies.
            std::thread::sleep(Duration::from_micros(self.rng.u64(..1_500)));
        }
    }

    /// Gives every key a value, so that there is something to cache. The writes go through a node, because a value that
    /// is written directly to Redis may match an active ban.
    fn fill(&mut self) {
        let mut other = connection(self.other.resp());
        for number in 0..KEYS {
            self.written += 1;
            let set = redis::cmd("SET").arg(key(number)).arg(self.written).to_owned();
            eventually("a write succeeds", || set.exec(&mut other).is_ok());
        }
    }

    /// Checks the copies after all writes: once a heartbeat confirms all acknowledged writes, each copy equals the
    /// value of a new reader.
    fn check(&mut self) {
        let quiet = Instant::now();
        eventually("the contract's second has passed", || quiet.elapsed() > BEHIND);
        let before = self.near.shown.beats.load(SeqCst);
        // The first heartbeat may have been in flight already.
        eventually("heartbeats", || self.near.shown.beats.load(SeqCst) >= before + 3);
        let copies = self.near.shown.copies.lock().clone();
        // A new reader that knows all bans.
        let mut fresh = connection(self.other.resp());
        for (number, copy) in copies {
            // On a busy machine a deadline may pass; then the read is repeated.
            let mut seen: Option<Vec<u8>> = None;
            eventually("it is read", || {
                redis::cmd("GET").arg(key(number)).query(&mut fresh).map(|value| seen = value).is_ok()
            });
            assert_eq!(seen.as_deref(), Some(&copy[..]), "{}; gaps {:?}", key(number), self.near.shown.gaps.lock());
        }
    }

    /// Runs two rounds of writes around a fault, then the check.
    fn round(&mut self, fault: impl FnOnce(&mut Self)) {
        self.fill();
        self.near.warm();
        self.write(100);
        fault(self);
        self.write(100);
        self.check();
    }
}

#[test]
fn a_near_cache_stays_true_while_nothing_fails() {
    let mut world = World::new();
    world.round(|world| world.write(500));
    assert!(world.near.shown.hits.load(SeqCst) > 100);
    world.near.has_missed_nothing();
}

#[test]
fn a_slow_watcher_is_told_and_ends_as_a_fresh_reader() {
    let mut world = World::new();
    world.round(|world| {
        world.near.set(Mode::Sleep);
        world.write(50);
        let heard = || stats(&world.watched).coherence.unwrap().invalidations;
        let before = heard();
        let mut straight = world.redis.connect();
        // More events than the feed and the windows of the stream can hold.
        for number in 0..400 {
            let long = format!("{number:0>60000}");
            redis::cmd("SET").arg(long).arg("v").exec(&mut straight).unwrap();
        }
        eventually("all of it is heard", || heard() >= before + 400);
        world.near.set(Mode::Read);
        eventually("it is told", || world.near.gaps(WatchGap::TooSlow) > 0);
    });
}

#[test]
fn a_watcher_that_comes_back_goes_on_where_it_was() {
    let mut world = World::new();
    world.round(|world| {
        world.near.set(Mode::Away);
        world.write(50);
        world.near.set(Mode::Read);
        eventually("it goes on", || world.near.shown.resumed.load(SeqCst) > 0);
    });
    world.near.has_missed_nothing();
}

#[test]
fn a_watcher_over_a_lost_link_ends_as_a_fresh_reader() {
    let mut world = World::new();
    for cut in [Cut::Rst, Cut::Fin] {
        let before = world.near.gaps(WatchGap::LinkLost);
        world.round(|world| {
            world.proxy.refuse(true);
            world.proxy.cut(Who::Link(Link::Invalidation), cut);
            world.write(50);
            world.proxy.refuse(false);
            eventually("it is told", || world.near.gaps(WatchGap::LinkLost) > before);
        });
    }
}

#[test]
fn a_watcher_whose_node_hears_nothing_is_told_and_ends_as_a_fresh_reader() {
    let mut world = World::new();
    world.round(|world| {
        world.proxy.set(Who::Link(Link::Invalidation), Faults::held());
        world.write(50);
        eventually("it is told", || world.near.gaps(WatchGap::NotHeard) > 0);
        world.write(50);
        world.proxy.heal();
    });
}

#[test]
fn a_watcher_that_spans_a_restart_of_redis_ends_as_a_fresh_reader() {
    let mut world = World::new();
    world.round(|world| {
        world.redis.kill();
        world.redis.restart();
        eventually("it is told", || world.near.gaps(WatchGap::LinkLost) > 0);
        world.fill();
        world.near.warm();
    });
}
