//! The guarantee of load leases under random operations and faults: after an invalidation is acknowledged, no read
//! returns a value that was loaded before the invalidation began.
//!
//! The origin counts a version per key. An invalidation first raises the version, then removes the key, and after the
//! acknowledgement every value below that version is a violation. Reads go to the store, because L1 of another node may
//! answer for another second. The ids of tags and the bans of patterns are in L1 also for such reads: an invalidation by
//! tag or pattern counts for other nodes after that second.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use parking_lot::Mutex;
use terrace::{
    grpc::client::CacheClient,
    proto::{
        Absent, DeleteRequest, FillRequest, GetOrLeaseRequest, GetRequest, Grant, InvalidatePatternRequest,
        InvalidateTagsRequest, ReadOptions, SetRequest, TierSelection, fill_request::Loaded, fill_response,
        get_or_lease_response::Result as Answer, get_response, invalidate_pattern_request::Keys,
        invalidation_client::InvalidationClient,
    },
};
use tonic::transport::Channel;

use crate::support::{
    checker::direct::slot,
    cluster::RedisCluster,
    grpc::{connect, pause},
    node::{connected_node, node, over_embedded, over_none},
    redis::RedisServer,
    setting_from_environment,
    terrace::Terrace,
};

/// Keys, in two groups with a tag and a pattern each.
const KEYS: [&str; 8] = ["a:1", "a:2", "a:3", "a:4", "b:1", "b:2", "b:3", "b:4"];
/// Loaders of each node.
const LOADERS: u64 = 4;
/// Invalidators of each node.
const INVALIDATORS: u64 = 2;
/// Time after which a node has received the invalidations of tags and patterns by other nodes: twice what is guaranteed.
const OTHER_NODES_WITHIN: Duration = Duration::from_secs(2);

/// The versions of the origin, and the versions below which no value may be read.
#[derive(Default)]
struct Origin {
    versions: Mutex<BTreeMap<&'static str, u64>>,
    /// By node and key.
    floors: Mutex<BTreeMap<(usize, &'static str), u64>>,
    nodes: usize,
    /// One for each group.
    turns: [tokio::sync::Mutex<()>; 2],
}

impl Origin {
    fn version(&self, key: &str) -> u64 {
        self.versions.lock().get(key).copied().unwrap_or(0)
    }

    fn floor(&self, node: usize, key: &'static str) -> u64 {
        self.floors.lock().get(&(node, key)).copied().unwrap_or(0)
    }

    /// Changes keys in the origin; returns their new versions.
    fn change(&self, keys: &[&'static str]) -> Vec<(&'static str, u64)> {
        let mut versions = self.versions.lock();
        keys.iter()
            .map(|key| {
                let version = versions.entry(key).or_default();
                *version += 1;
                (*key, *version)
            })
            .collect()
    }

    /// Records that the invalidation of these versions was acknowledged: from now on, reads through these nodes return no
    /// older version.
    fn acknowledge(&self, nodes: std::ops::Range<usize>, changed: &[(&'static str, u64)]) {
        let mut floors = self.floors.lock();
        for node in nodes {
            for (key, version) in changed {
                let floor = floors.entry((node, key)).or_default();
                *floor = (*floor).max(*version);
            }
        }
    }
}

/// One client and what all clients share.
#[derive(Clone)]
struct Client {
    cache: CacheClient<Channel>,
    invalidation: InvalidationClient<Channel>,
    origin: Arc<Origin>,
    /// Number of the client's node.
    node: usize,
    /// Reads of the store, or of L1 if L1 is the store.
    tier: TierSelection,
    stored: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    invalidated: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    has_faults: bool,
}

fn group(key: &str) -> &str {
    &key[..1]
}

fn version_in(value: &[u8]) -> u64 {
    std::str::from_utf8(value).expect("digits").parse().expect("a version")
}

impl Client {
    /// Loads random keys until the end.
    async fn load(mut self, mut random: Rng) {
        while !self.stop.load(Relaxed) {
            let key = KEYS[random.usize(..KEYS.len())];
            let request = GetOrLeaseRequest {
                key: key.into(),
                tags: vec![group(key).to_owned().into()],
                wait_ms: Some(random.i64(0..50)),
                lease_ms: Some(random.i64(100..1_000)),
                stale_ms: Some(random.i64(0..2_000)),
                refresh: random.u8(..10) == 0,
                ..GetOrLeaseRequest::default()
            };
            // A store that is away refuses calls for a while.
            let Ok(answer) = self.cache.get_or_lease(request).await else {
                pause().await;
                continue;
            };
            let grant = match answer.into_inner().result.expect("set") {
                Answer::Hit(hit) => hit.grant,
                Answer::Load(load) => load.grant,
                Answer::Busy(_) | Answer::Absent(_) | Answer::Failed(_) => None,
            };
            if let Some(grant) = grant {
                self.load_one(key, grant, &mut random).await;
            }
            self.check(key).await;
        }
    }

    async fn load_one(&mut self, key: &'static str, grant: Grant, random: &mut Rng) {
        let version = self.origin.version(key);
        tokio::time::sleep(Duration::from_millis(random.u64(0..30))).await;
        let loaded = match random.u8(..8) {
            0 => Loaded::Absent(Absent {}),
            _ => Loaded::Value(version.to_string().into()),
        };
        let fill = FillRequest {
            key: key.into(),
            token: grant.token,
            loaded: Some(loaded),
            ttl_ms: Some(random.i64(1..3_000)),
            tags: vec![group(key).to_owned().into()],
            ..FillRequest::default()
        };
        if let Ok(filled) = self.cache.fill(fill).await {
            match filled.into_inner().result.expect("set") {
                fill_response::Result::Stored(_) => self.stored.fetch_add(1, Relaxed),
                fill_response::Result::NotFilled(_) => self.refused.fetch_add(1, Relaxed),
            };
        }
    }

    /// Reads a key and compares the version with the versions that were acknowledged before the read.
    async fn check(&mut self, key: &'static str) {
        let floor = self.origin.floor(self.node, key);
        let options = Some(ReadOptions { tier: self.tier.into(), ..ReadOptions::default() });
        let Ok(read) = self.cache.get(GetRequest { key: key.into(), options }).await else { return };
        if let get_response::Result::Found(found) = read.into_inner().result.expect("set") {
            let version = version_in(&found.value);
            assert!(version >= floor, "{key} has the version {version}; {floor} was acknowledged before the read");
        }
    }

    /// Invalidates random keys until the end.
    async fn invalidate(mut self, mut random: Rng) {
        while !self.stop.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(random.u64(0..40))).await;
            let key = KEYS[random.usize(..KEYS.len())];
            // Changes of one group follow one another, as transactions of a database do: a Set of an older version would
            // otherwise be the application's fault.
            let origin = Arc::clone(&self.origin);
            let _turn = origin.turns[usize::from(group(key) == "b")].lock().await;
            let of_group: Vec<&'static str> = KEYS.into_iter().filter(|other| group(other) == group(key)).collect();
            let kind = random.u8(..8);
            let (changed, result) = match kind {
                0 => {
                    let changed = self.origin.change(&of_group);
                    (changed, self.pattern(format!("{}:*", group(key))).await)
                }
                1 => {
                    let changed = self.origin.change(&of_group);
                    let tags = InvalidateTagsRequest { tags: vec![group(key).to_owned().into()] };
                    (changed, self.invalidation.invalidate_tags(tags).await.is_ok())
                }
                // A Set whose outcome is unknown may store its version later.
                2 | 3 if !self.has_faults => {
                    let changed = self.origin.change(&[key]);
                    (changed.clone(), self.set(key, changed[0].1).await)
                }
                _ => {
                    let changed = self.origin.change(&[key]);
                    let delete = DeleteRequest { keys: vec![key.into()] };
                    (changed, self.cache.delete(delete).await.is_ok())
                }
            };
            if result {
                self.acknowledge(changed, kind <= 1);
                self.invalidated.fetch_add(1, Relaxed);
            }
            self.check(key).await;
        }
    }

    /// Records an acknowledged invalidation. One by tag or pattern counts for other nodes later.
    fn acknowledge(&self, changed: Vec<(&'static str, u64)>, is_by_tag_or_pattern: bool) {
        let all = 0..self.origin.nodes;
        if !is_by_tag_or_pattern {
            return self.origin.acknowledge(all, &changed);
        }
        self.origin.acknowledge(self.node..self.node + 1, &changed);
        let origin = Arc::clone(&self.origin);
        tokio::spawn(async move {
            tokio::time::sleep(OTHER_NODES_WITHIN).await;
            origin.acknowledge(all, &changed);
        });
    }

    async fn set(&mut self, key: &'static str, version: u64) -> bool {
        let value = Bytes::from(version.to_string());
        let tags = vec![group(key).to_owned().into()];
        let set = SetRequest { key: key.into(), value, ttl_ms: Some(2_000), tags, ..SetRequest::default() };
        self.cache.set(set).await.is_ok()
    }

    async fn pattern(&mut self, pattern: String) -> bool {
        let keys = Some(Keys::Pattern(pattern.into()));
        let request = InvalidatePatternRequest { keys, ..InvalidatePatternRequest::default() };
        let Ok(progress) = self.invalidation.invalidate_pattern(request).await else { return false };
        progress.into_inner().message().await.is_ok()
    }
}

/// Numbers of stored fills and acknowledged invalidations at which a run ends.
fn enough() -> u64 {
    match setting_from_environment("TERRACE_CHECK_FULL", 0) {
        1 => 50_000,
        _ => 300,
    }
}

/// Runs loaders and invalidators on each node until enough has happened, and `fault` repeatedly on a thread of its own.
fn check(nodes: &[&Terrace], tier: TierSelection, fault: Option<&mut (dyn FnMut(&mut Rng) + Send)>) {
    let seed = setting_from_environment("TERRACE_CHECK_SEED", fastrand::u64(..));
    eprintln!("TERRACE_CHECK_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let is_over = AtomicBool::new(false);
    let has_faults = fault.is_some();
    std::thread::scope(|scope| {
        let mut of_faults = random.fork();
        if let Some(fault) = fault {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Relaxed) {
                    fault(&mut of_faults);
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        let _over = OnDrop(&is_over);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(nodes, tier, has_faults, random));
    });
}

/// Ends the faults, also when the test fails.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

async fn run(nodes: &[&Terrace], tier: TierSelection, has_faults: bool, mut random: Rng) {
    let origin = Arc::new(Origin { nodes: nodes.len(), ..Origin::default() });
    let stop = Arc::new(AtomicBool::new(false));
    let (stored, refused, invalidated) = <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
    let mut tasks = tokio::task::JoinSet::new();
    for (place, node) in nodes.iter().enumerate() {
        for number in 0..LOADERS + INVALIDATORS {
            let channel = connect(node.grpc()).await;
            let client = Client {
                cache: CacheClient::new(channel.clone()),
                invalidation: InvalidationClient::new(channel),
                origin: Arc::clone(&origin),
                node: place,
                tier,
                stored: Arc::clone(&stored),
                refused: Arc::clone(&refused),
                invalidated: Arc::clone(&invalidated),
                stop: Arc::clone(&stop),
                has_faults,
            };
            let random = random.fork();
            if number < LOADERS {
                tasks.spawn(client.load(random));
            } else {
                tasks.spawn(client.invalidate(random));
            }
        }
    }
    let is_enough = || {
        let least = |count: &AtomicU64, share: u64| count.load(Relaxed) >= enough() / share;
        least(&stored, 1) && least(&invalidated, 1) && least(&refused, 10)
    };
    while !is_enough() && tasks.try_join_next().is_none() {
        pause().await;
    }
    stop.store(true, Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no violation");
    }
    assert!(is_enough(), "a task ended early");
    eprintln!("{stored:?} fills stored, {refused:?} refused, {invalidated:?} invalidations");
}

#[test]
fn no_fill_outlives_an_invalidation_over_none() {
    check(&[&over_none().node], TierSelection::Any, None);
}

#[test]
fn no_fill_outlives_an_invalidation_over_embedded() {
    check(&[&over_embedded().node], TierSelection::L2Only, None);
}

#[test]
fn no_fill_outlives_an_invalidation_of_another_node() {
    let redis = RedisServer::start();
    let nodes = [connected_node(&redis.url()), connected_node(&redis.url())];
    check(&[&nodes[0], &nodes[1]], TierSelection::L2Only, None);
}

#[test]
fn no_fill_outlives_an_invalidation_while_redis_fails() {
    let mut redis = RedisServer::start();
    let nodes = [connected_node(&redis.url()), connected_node(&redis.url())];
    let mut fault = |random: &mut Rng| match random.u16(..1_000) {
        0..8 => {
            redis.pause();
            std::thread::sleep(Duration::from_millis(random.u64(1..1_500)));
            redis.resume();
        }
        8..16 => {
            // The connections of both nodes end, with requests in flight.
            let _refused = redis.try_ask::<redis::Value>(&[b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"]);
        }
        // As an eviction does.
        16..18 => drop(redis.try_ask::<redis::Value>(&[b"DEL", b"__terrace:bans"])),
        18 => {
            redis.kill();
            redis.restart();
        }
        _ => {}
    };
    check(&[&nodes[0], &nodes[1]], TierSelection::L2Only, Some(&mut fault));
}

#[test]
fn no_fill_outlives_an_invalidation_while_slots_move() {
    let cluster = RedisCluster::start();
    let nodes = [node(&cluster.url()), node(&cluster.url())];
    let mut fault = |random: &mut Rng| {
        let moving = slot(KEYS[random.usize(..KEYS.len())].as_bytes());
        let from = cluster.owner(moving);
        let others: Vec<usize> = cluster.primaries().into_iter().filter(|at| *at != from).collect();
        cluster.reshard([moving], from, others[random.usize(..others.len())]);
    };
    check(&[&nodes[0], &nodes[1]], TierSelection::L2Only, Some(&mut fault));
}

/// Runs over a Redis whose memory is repeatedly exhausted, with this eviction policy.
fn check_without_memory(eviction: &str) {
    let redis = RedisServer::start_with(&["--maxmemory-policy", eviction]);
    let nodes = [connected_node(&redis.url()), connected_node(&redis.url())];
    let mut fault = |random: &mut Rng| {
        if random.u8(..10) > 0 {
            return;
        }
        let memory: String = redis.ask(&[b"INFO", b"memory"]);
        let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok());
        // Below what is used: writes are refused, or records with a TTL are evicted until the rest fits.
        let limit = used.expect("a number").saturating_sub(random.u64(0..20_000));
        redis.run(&format!("CONFIG SET maxmemory {limit}"));
        std::thread::sleep(Duration::from_millis(random.u64(1..50)));
        redis.run("CONFIG SET maxmemory 0");
    };
    check(&[&nodes[0], &nodes[1]], TierSelection::L2Only, Some(&mut fault));
}

#[test]
fn no_fill_outlives_an_invalidation_while_redis_refuses_writes() {
    check_without_memory("noeviction");
}

#[test]
fn no_fill_outlives_an_invalidation_while_redis_evicts() {
    check_without_memory("volatile-ttl");
}
