//! Random loads, writes and invalidations: no caller receives a value from before an invalidation that was acknowledged when
//! the caller began.
//!
//! An invalidation through the same node counts at once, through another node after the time in which L1 of a node may still
//! answer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use parking_lot::Mutex;
use terrace_client::Client;
use tokio::time::Instant;

use super::LONG;
use crate::support::{
    grpc::pause,
    node::connected_node,
    redis::RedisServer,
    setting_from_environment,
    terrace::{Terrace, config},
};

const KEYS: [&str; 4] = ["a:1", "a:2", "b:1", "b:2"];
/// Number of changes in the report of a violation.
const HISTORY: usize = 20;
/// Callers of each client.
const CALLERS: u64 = 6;
/// Time after which an invalidation through another node counts: twice what is guaranteed.
const OTHER_NODES_WITHIN: Duration = Duration::from_secs(2);

/// Versions of the origin, and the versions below which no value may be returned.
#[derive(Default)]
struct Origin {
    versions: Mutex<BTreeMap<&'static str, u64>>,
    /// By node and key.
    floors: Mutex<BTreeMap<(usize, &'static str), u64>>,
    /// Versions whose Set has an unknown outcome: a node may apply it at any later time.
    unknown: Mutex<BTreeSet<(&'static str, u64)>>,
    /// The last changes, for the report of a violation.
    history: Mutex<VecDeque<String>>,
    /// Changes of the origin follow one another.
    turn: tokio::sync::Mutex<()>,
    loads: AtomicU64,
    shared: AtomicU64,
    changes: AtomicU64,
    stop: AtomicBool,
}

impl Origin {
    fn version(&self, key: &str) -> u64 {
        self.versions.lock().get(key).copied().unwrap_or(0)
    }

    fn note(&self, change: String) {
        let mut history = self.history.lock();
        history.push_back(change);
        if history.len() > HISTORY {
            history.pop_front();
        }
    }

    /// Checks a value that a caller received. `floor`: the version that was acknowledged before the call.
    fn check(&self, node: usize, key: &'static str, version: u64, floor: u64) {
        let is_permitted = version >= floor || self.unknown.lock().contains(&(key, version));
        assert!(
            is_permitted,
            "node {node}: {key} has the version {version}; {floor} was acknowledged before the call; last changes: {:#?}",
            self.history.lock()
        );
    }

    fn acknowledge(&self, node: usize, changed: &[(&'static str, u64)]) {
        let mut floors = self.floors.lock();
        for (key, version) in changed {
            let floor = floors.entry((node, key)).or_default();
            *floor = (*floor).max(*version);
        }
    }
}

/// One client of one node, and the RESP port of that node.
struct Caller {
    client: Client,
    resp: redis::aio::MultiplexedConnection,
    node: usize,
    nodes: usize,
    origin: Arc<Origin>,
}

impl Caller {
    async fn read(self, mut random: Rng) {
        while !self.origin.stop.load(SeqCst) {
            let key = KEYS[random.usize(..KEYS.len())];
            let floor = self.origin.floors.lock().get(&(self.node, key)).copied().unwrap_or(0);
            let delay = Duration::from_millis(random.u64(0..20));
            let origin = Arc::clone(&self.origin);
            let loads = origin.loads.load(SeqCst);
            let load = move || async move {
                origin.loads.fetch_add(1, SeqCst);
                let version = origin.version(key);
                tokio::time::sleep(delay).await;
                Ok::<_, String>(Some(Bytes::from(version.to_string())))
            };
            let call = self.client.get_or_load(key, load).tags([&key[..1]]).wait(LONG);
            let call =
                call.ttl(Duration::from_millis(random.u64(1..2_000))).stale(Duration::from_millis(random.u64(1..500)));
            // On a busy machine, a connection may be given up.
            let Ok(value) = call.await else { continue };
            let value = value.unwrap();
            let version = std::str::from_utf8(&value).ok().and_then(|text| text.parse::<u64>().ok());
            let version = version.unwrap_or_else(|| panic!("{key} has the value {value:?}"));
            self.origin.check(self.node, key, version, floor);
            self.origin.shared.fetch_add(u64::from(self.origin.loads.load(SeqCst) == loads), SeqCst);
            if random.u8(..4) == 0 {
                tokio::time::sleep(Duration::from_millis(random.u64(0..5))).await;
            }
        }
    }

    async fn change(mut self, mut random: Rng) {
        while !self.origin.stop.load(SeqCst) {
            tokio::time::sleep(Duration::from_millis(random.u64(0..30))).await;
            let origin = Arc::clone(&self.origin);
            let _turn = origin.turn.lock().await;
            let key = KEYS[random.usize(..KEYS.len())];
            let kind = random.u8(..6);
            let is_of_group = |other: &&'static str| if kind < 2 { other[..1] == key[..1] } else { *other == key };
            let changed: Vec<(&'static str, u64)> = {
                let mut versions = origin.versions.lock();
                let raise = |key: &'static str| {
                    let version = versions.entry(key).or_default();
                    *version += 1;
                    (key, *version)
                };
                KEYS.into_iter().filter(is_of_group).map(raise).collect()
            };
            let version = changed[0].1.to_string();
            let is_applied = match kind {
                0 => self.client.invalidate_pattern(format!("{}:*", &key[..1])).await.is_ok(),
                1 => self.client.invalidate_tags([&key[..1]]).await.is_ok(),
                2 => {
                    let set = self.client.set(key, version).ttl(Duration::from_secs(2)).tags([&key[..1]]);
                    set.await.is_ok()
                }
                // A Set over RESP has no tags, and an invalidation of tags would not reach its value.
                3 => redis::cmd("GETDEL").arg(key).exec_async(&mut self.resp).await.is_ok(),
                4 => redis::cmd("DEL").arg(key).exec_async(&mut self.resp).await.is_ok(),
                _ => self.client.delete([key]).await.is_ok(),
            };
            let outcome = if is_applied { "acknowledged" } else { "unknown" };
            origin.note(format!("node {}: kind {kind}, {changed:?}, {outcome}", self.node));
            if !is_applied {
                // On a busy machine, a connection may be given up.
                if kind == 2 {
                    origin.unknown.lock().extend(changed);
                }
                continue;
            }
            origin.changes.fetch_add(1, SeqCst);
            origin.acknowledge(self.node, &changed);
            let (nodes, origin) = (self.nodes, Arc::clone(&origin));
            tokio::spawn(async move {
                tokio::time::sleep(OTHER_NODES_WITHIN).await;
                (0..nodes).for_each(|node| origin.acknowledge(node, &changed));
            });
        }
    }
}

/// Duration of a run with `TERRACE_CHECK_FULL=1`.
const FULL: Duration = Duration::from_secs(600);
/// Number of changes after which other runs end.
const CHANGES: u64 = 300;

fn check(nodes: &[Terrace]) {
    let seed = setting_from_environment("TERRACE_CHECK_SEED", fastrand::u64(..));
    eprintln!("TERRACE_CHECK_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    // A full run takes longer than other tests may.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let origin = Arc::new(Origin::default());
        let mut tasks = tokio::task::JoinSet::new();
        // Two clients of each node, as two processes.
        for (place, node) in nodes.iter().enumerate().chain(nodes.iter().enumerate()) {
            let client = Client::builder(node.grpc()).read_timeout(LONG).write_timeout(LONG).connect_timeout(LONG);
            let client = client.connect().await.unwrap();
            let resp = redis::Client::open(format!("redis://{}", node.resp())).unwrap();
            let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(LONG));
            let resp = resp.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
            for number in 0..=CALLERS {
                let caller = Caller {
                    client: client.clone(),
                    resp: resp.clone(),
                    node: place,
                    nodes: nodes.len(),
                    origin: Arc::clone(&origin),
                };
                let random = random.fork();
                if number < CALLERS {
                    tasks.spawn(caller.read(random));
                } else {
                    tasks.spawn(caller.change(random));
                }
            }
        }
        let begun = Instant::now();
        let is_full = setting_from_environment("TERRACE_CHECK_FULL", 0) == 1;
        let is_enough = || {
            let is_long = !is_full || begun.elapsed() >= FULL;
            is_long && origin.changes.load(SeqCst) >= CHANGES && origin.loads.load(SeqCst) >= 100
        };
        while !is_enough() && tasks.try_join_next().is_none() {
            pause().await;
        }
        origin.stop.store(true, SeqCst);
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no violation");
        }
        assert!(is_enough(), "a task ended early");
        let (loads, shared, changes) = (&origin.loads, &origin.shared, &origin.changes);
        let unknown = origin.unknown.lock().len();
        eprintln!("{loads:?} loads, {shared:?} calls without a load, {changes:?} changes, {unknown} unknown writes");
    });
}

#[test]
fn no_caller_receives_a_value_from_before_an_invalidation_over_none() {
    check(&[Terrace::start(config())]);
}

#[test]
fn no_caller_receives_a_value_from_before_an_invalidation_over_redis() {
    let redis = RedisServer::start();
    check(&[connected_node(&redis.url()), connected_node(&redis.url())]);
}
