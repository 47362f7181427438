//! The near cache of the Rust client: copies in the client that the change feeds of the nodes keep true.
//!
//! `TERRACE_NEAR_SECONDS` sets the duration of the checker (default 20), `TERRACE_NEAR_ROUNDS` the number of own writes that
//! are read back (default 300).

use std::{
    collections::{HashSet, VecDeque},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use parking_lot::Mutex;
use rustix::process::Signal;
use terrace::access::SecretHash;
use terrace_client::{Client, ClientBuilder, ErrorKind, Invalidated, NearCache, NearStats, NewEntry, Routing};
use tokio::time::{Instant, sleep};

use crate::support::{
    PATIENCE,
    grpc::{block_on, pause},
    node::node,
    process::Process,
    proxy::{Cut, FaultProxy, Faults, Flow, Who},
    redis::RedisServer,
    setting_from_environment,
    terrace::{Terrace, config},
};

/// Deadline of operations that must succeed.
const LONG: Duration = Duration::from_secs(30);

fn patient(target: &str) -> ClientBuilder {
    Client::builder(target).read_timeout(LONG).write_timeout(LONG).connect_timeout(LONG)
}

fn near(target: &str) -> ClientBuilder {
    patient(target).near_cache(NearCache::new().heartbeat(Duration::from_millis(100)))
}

fn stats(client: &Client) -> NearStats {
    client.near_stats().expect("the client has a near cache")
}

/// Waits until a condition holds; fails the test after [`PATIENCE`].
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        pause().await;
    }
}

/// Waits until the answers of `nodes` nodes are kept.
async fn following(client: &Client, nodes: u64) {
    until("the feeds are followed", async || stats(client).feeds == nodes).await;
}

/// Reads a key until a copy answers, and returns the value of the copy.
async fn hit(client: &Client, key: &str) -> Option<Bytes> {
    let begun = Instant::now();
    loop {
        let before = stats(client).hits;
        let value = client.get(key).await.unwrap();
        if stats(client).hits > before {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "{key}: no copy answers; {:?}", stats(client));
        pause().await;
    }
}

fn text(value: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(value.as_bytes()))
}

/// Changes the key by another client. Returns the value that readers see then.
async fn change(way: &str, other: &Client, redis: &RedisServer) -> Option<Bytes> {
    match way {
        "set" => {
            other.set("key", "after").await.unwrap();
            return text("after");
        }
        "redis" => {
            redis.run("SET key after");
            return text("after");
        }
        "delete" => assert_eq!(other.delete(["key"]).await.unwrap(), 1),
        "tag" => assert_eq!(other.invalidate_tags(["team"]).await.unwrap(), 1),
        "pattern" => drop(other.invalidate_pattern("k?y").await.unwrap()),
        _ => drop(other.invalidate_prefix("ke").await.unwrap()),
    }
    None
}

#[test]
fn copies_answer_until_the_value_changes() {
    let redis = RedisServer::start();
    let node = node(&redis.url());
    block_on(async {
        let client = near(node.grpc()).connect().await.unwrap();
        let other = patient(node.grpc()).connect().await.unwrap();
        following(&client, 1).await;
        for way in ["set", "redis", "delete", "tag", "pattern", "prefix"] {
            set_and_hit(&client, &other).await;
            let expected = change(way, &other, &redis).await;
            until(way, async || client.get("key").await.unwrap() == expected).await;
        }
    });
}

/// Writes the key with a tag and reads it until a copy answers.
async fn set_and_hit(client: &Client, other: &Client) {
    other.set("key", "before").tags(["team"]).await.unwrap();
    until("the copy is current", async || hit(client, "key").await == text("before")).await;
}

#[test]
fn reads_of_many_keys_and_lookups_use_the_same_copies() {
    let redis = RedisServer::start();
    let node = node(&redis.url());
    block_on(async {
        let settings = NearCache::new().prefixes(["near:"]).heartbeat(Duration::from_millis(100));
        let client = patient(node.grpc()).near_cache(settings).connect().await.unwrap();
        following(&client, 1).await;
        let entries = (0..10).map(|number| NewEntry::new(format!("near:{number}"), number.to_string()));
        client.set_many(entries.chain([NewEntry::new("far:1", "far")])).await.unwrap();
        let keys = ["near:1", "far:1", "near:absent", "near:2"];
        let expected = vec![text("1"), text("far"), None, text("2")];
        let all_hits = async || {
            let before = stats(&client);
            assert_eq!(client.get_many(keys).await.unwrap(), expected);
            let after = stats(&client);
            (after.hits - before.hits, after.misses - before.misses) == (2, 1)
        };
        until("copies answer two of the keys", all_hits).await;
        assert_eq!(hit(&client, "near:1").await, text("1"));
        // A lookup reports the tier, so that the node answers it; its answer is kept.
        let kept = async || {
            let before = stats(&client);
            let entry = client.lookup("near:3").await.unwrap().unwrap();
            assert_eq!(entry.value, "3");
            let after = stats(&client);
            assert_eq!((after.hits, after.misses), (before.hits, before.misses));
            after.kept > before.kept
        };
        until("the answer to a lookup is kept", kept).await;
        let before = stats(&client);
        client.lookup("near:4").no_touch().await.unwrap();
        client.get("far:1").await.unwrap();
        assert_eq!(stats(&client), before, "neither counts as a read of the near cache");
        assert!(
            client.near_stats().unwrap().entries > 0 && patient("a:1").connect_lazy().unwrap().near_stats().is_none()
        );
    });
}

#[test]
fn a_copy_ends_with_the_ttl_of_its_key() {
    let node = Terrace::start(config());
    block_on(async {
        let client = near(node.grpc()).connect().await.unwrap();
        following(&client, 1).await;
        let other = patient(node.grpc()).connect().await.unwrap();
        let begun = Instant::now();
        let ttl = Duration::from_millis(500);
        other.set("key", "value").ttl(ttl).await.unwrap();
        let mut hits = 0;
        loop {
            let (before, asked) = (stats(&client).hits, begun.elapsed());
            let value = client.get("key").await.unwrap();
            let is_hit = stats(&client).hits > before;
            hits += u64::from(is_hit);
            // The node received the write after `begun`, and the answer to it before `asked`.
            assert!(!is_hit || asked < ttl + LONG);
            if value.is_none() {
                break;
            }
            pause().await;
        }
        assert!(hits > 0 && begun.elapsed() >= ttl);
    });
}

#[test]
fn a_feed_that_resumes_keeps_its_copies_and_a_restarted_node_ends_them() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let port = crate::support::redis::free_port();
    let url = redis.url();
    let start = || Process::start_at(&format!("127.0.0.1:{port}"), folder.path(), &["--l2", &url]);
    let process = start();
    let proxy = FaultProxy::start(port);
    block_on(async {
        let client = near(&format!("127.0.0.1:{}", proxy.port())).connect().await.unwrap();
        following(&client, 1).await;
        client.set("kept", "1").await.unwrap();
        client.set("changed", "1").await.unwrap();
        until("both are kept", async || hit(&client, "kept").await.and(hit(&client, "changed").await).is_some()).await;
        // A node that has just started may not have heard from Redis yet.
        let discontinuities = stats(&client).discontinuities;
        proxy.refuse(true);
        proxy.cut(Who::All, Cut::Rst);
        until("the feed is lost", async || stats(&client).feeds == 0).await;
        redis.run("SET changed 2");
        proxy.heal();
        following(&client, 1).await;
        let before = stats(&client);
        assert_eq!(before.discontinuities, discontinuities, "nothing was missed");
        assert_eq!(client.get("kept").await.unwrap(), text("1"));
        assert_eq!(stats(&client).hits, before.hits + 1, "the copy stays");
        until("the change arrives", async || client.get("changed").await.unwrap() == text("2")).await;
        process.kill();
        let _restarted = start();
        until("the gap is noticed", async || stats(&client).discontinuities > discontinuities).await;
        following(&client, 1).await;
        let before = stats(&client);
        until("the node is ready", async || client.get("kept").await.is_ok()).await;
        assert!(stats(&client).misses > before.misses, "the copy has ended");
        assert_eq!(hit(&client, "kept").await, text("1"));
    });
}

#[test]
fn without_a_feed_nothing_is_kept_and_operations_work() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users.toml");
    let all = r#"["read", "write", "delete", "invalidate", "watch", "inspect"]"#;
    let roles = [
        ("app", r#"keys = [{ prefix = "", allow = ["read", "write"] }]"#.to_owned()),
        // The events of other keys are not sent to this user: no copies of all keys.
        (
            "part",
            format!(r#"keys = [{{ prefix = "app:", allow = {all} }}, {{ prefix = "", allow = ["read", "write"] }}]"#),
        ),
        ("full", format!(r#"keys = [{{ prefix = "", allow = {all} }}]"#)),
    ];
    let mut file = String::new();
    for (name, keys) in roles {
        let hash = SecretHash::of(name.as_bytes()).to_text();
        file += &format!(
            "[[role]]\nname = \"{name}\"\n{keys}\n[[user]]\nname = \"{name}\"\nroles = [\"{name}\"]\nsecrets = [\"{hash}\"]\n"
        );
    }
    fs::write(&users, file).unwrap();
    let mut secured = config();
    secured.auth.file = Some(users);
    let node = Terrace::start(secured);
    block_on(async {
        let full = near(node.grpc()).token("full").connect().await.unwrap();
        following(&full, 1).await;
        full.set("app:1", "value").await.unwrap();
        assert_eq!(hit(&full, "app:1").await, text("value"));
        for user in ["app", "part"] {
            let client = near(node.grpc()).token(user).connect().await.unwrap();
            for _ in 0..50 {
                assert_eq!(client.get("app:1").await.unwrap(), text("value"));
                pause().await;
            }
            let stats = stats(&client);
            assert_eq!((stats.hits, stats.kept, stats.feeds, stats.entries), (0, 0, 0, 0), "{user}");
        }
        let settings = NearCache::new().prefixes(["app:"]);
        let part = patient(node.grpc()).token("part").near_cache(settings).connect().await.unwrap();
        following(&part, 1).await;
        assert_eq!(hit(&part, "app:1").await, text("value"));
    });
}

/// Invalidates keys by a pattern. On a busy machine, 64 sweeps may be in progress, the maximum of a server: it is asked again.
async fn invalidated<F: Future<Output = terrace_client::Result<Invalidated>>>(mut invalidate: impl FnMut() -> F) {
    let begun = Instant::now();
    while let Err(error) = invalidate().await {
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        assert!(begun.elapsed() < PATIENCE, "{error}");
        pause().await;
    }
}

/// Abandons a write of a key and writes it again. The node executes operations in progress side by side, so either value can
/// remain; the copy of the client is equal to it.
async fn abandon_a_write(client: &Client, other: &Client, key: &str) {
    let _left = tokio::time::timeout(Duration::ZERO, client.set(key, "left").into_future()).await;
    client.set(key, "last").await.unwrap();
    until("the copy has the value of the node", async || {
        let copy = client.get(key).await.unwrap();
        assert!(copy == text("left") || copy == text("last"), "{key} has the value {copy:?}");
        copy == other.get(key).await.unwrap()
    })
    .await;
}

#[test]
fn a_client_reads_its_own_writes() {
    let rounds = setting_from_environment("TERRACE_NEAR_ROUNDS", 300);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let redis = RedisServer::start();
    let node = node(&redis.url());
    block_on(async {
        let client = near(node.grpc()).connect().await.unwrap();
        let other = patient(node.grpc()).connect().await.unwrap();
        following(&client, 1).await;
        // Other tasks read all the time, so that reads are in flight and answers are kept during each write.
        let ends = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (client, ends) = (client.clone(), Arc::clone(&ends));
                tokio::spawn(async move {
                    while !ends.load(SeqCst) {
                        for key in 0..3 {
                            client.get(format!("own:{key}")).await.unwrap();
                        }
                        sleep(Duration::from_millis(1)).await;
                    }
                })
            })
            .collect();
        for round in 0..rounds {
            let key = format!("own:{}", random.u8(0..3));
            let value = round.to_string();
            client.set(&key, &value).tags([format!("tag:{key}")]).await.unwrap();
            for _ in 0..random.u8(1..4) {
                assert_eq!(client.get(&key).await.unwrap(), text(&value), "{key}");
            }
            let what = random.u8(0..8);
            match what {
                0 => drop(client.delete([&key]).await.unwrap()),
                1 => drop(client.invalidate_tags([format!("tag:{key}")]).await.unwrap()),
                2 => invalidated(async || client.invalidate_pattern(format!("*{key}")).await).await,
                3 => invalidated(async || client.invalidate_prefix(&key).await).await,
                4 => client.set_many([NewEntry::new(&key, "many")]).await.unwrap(),
                5 => drop(client.increment(&key, 1_000_000).await.unwrap()),
                6 => {
                    client.touch(&key, Some(Duration::from_secs(100))).await.unwrap();
                }
                _ => abandon_a_write(&client, &other, &format!("left:{round}")).await,
            }
            let expected = match what {
                0..=3 => None,
                4 => text("many"),
                5 => text(&(round + 1_000_000).to_string()),
                _ => text(&value),
            };
            for _ in 0..3 {
                let read = client.get_many([&key]).await.unwrap().remove(0);
                assert_eq!(read, expected, "round {round}: {key} after {what}");
            }
        }
        ends.store(true, SeqCst);
        for reader in readers {
            reader.await.unwrap();
        }
        let stats = stats(&client);
        println!("{stats:?}");
        assert!(stats.hits > 0);
    });
}

#[test]
fn many_clients_cost_redis_one_tracking_connection_per_node() {
    const CLIENTS: usize = 100;
    let redis = RedisServer::start();
    let nodes = [node(&redis.url()), node(&redis.url())];
    let tracking = || {
        let list: String = redis.ask(&[b"CLIENT", b"LIST"]);
        let flags = list.lines().filter_map(|line| line.split(" flags=").nth(1)?.split(' ').next());
        flags.filter(|flags| flags.contains('t') || flags.contains('B')).count()
    };
    let before = tracking();
    block_on(async {
        let target = nodes.each_ref().map(Terrace::grpc).join(",");
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(near(&target).connect().await.unwrap());
        }
        for client in &clients {
            following(client, 2).await;
        }
        clients[0].set("key", "0").await.unwrap();
        for client in &clients {
            assert_eq!(hit(client, "key").await, text("0"));
        }
        assert_eq!((before, tracking()), (2, 2), "tracking connections of both nodes");
        redis.run("SET key 1");
        for client in &clients {
            until("each client receives the change", async || client.get("key").await.unwrap() == text("1")).await;
        }
    });
}

/// Keys of the checker. Even ones are written directly to Redis, odd ones through a node.
const KEYS: usize = 64;
const STALENESS: Duration = Duration::from_secs(3);
const READ: Duration = Duration::from_millis(250);

/// What is known about one key: the acknowledged values with their times, and values with an unknown outcome.
#[derive(Default)]
struct Known {
    acknowledged: VecDeque<(u64, Instant)>,
    /// Newest acknowledged value that is older than the others.
    oldest: u64,
    unknown: HashSet<u64>,
}

/// What all tasks of the checker share.
struct Checker {
    keys: Vec<Mutex<Known>>,
    ends: AtomicBool,
    reads: AtomicU64,
    failed: AtomicU64,
    writes: AtomicU64,
}

impl Checker {
    fn new() -> Self {
        let keys = std::iter::repeat_with(Mutex::default).take(KEYS).collect();
        let (ends, reads, failed, writes) = Default::default();
        Self { keys, ends, reads, failed, writes }
    }

    fn acknowledge(&self, key: usize, value: u64) {
        let mut known = self.keys[key].lock();
        known.acknowledged.push_back((value, Instant::now()));
        self.writes.fetch_add(1, SeqCst);
        while known.acknowledged.front().is_some_and(|(_, at)| at.elapsed() > STALENESS * 4) {
            known.oldest = known.acknowledged.pop_front().map_or(0, |(value, _)| value);
        }
    }

    /// Returns a value that a read that begins now may not be older than.
    fn least(&self, key: usize, begun: Instant) -> u64 {
        let known = self.keys[key].lock();
        let old = known.acknowledged.iter().rev().find(|(_, at)| begun.duration_since(*at) > STALENESS);
        old.map_or(known.oldest, |(value, _)| *value)
    }

    /// Writes increasing numbers to the keys of a writer.
    async fn write(&self, mut writer: Writer) {
        let mut random = Rng::new();
        let mut number = 0;
        while !self.ends.load(SeqCst) {
            number += 1;
            let key = random.usize(0..KEYS / 2) * 2 + usize::from(matches!(writer, Writer::Node(_)));
            match writer.set(key, number).await {
                Ok(()) => self.acknowledge(key, number),
                Err(is_unknown) if is_unknown => drop(self.keys[key].lock().unknown.insert(number)),
                Err(_) => {}
            }
            sleep(Duration::from_micros(random.u64(0..8_000))).await;
        }
    }

    async fn read(&self, client: Client) {
        let mut random = Rng::new();
        while !self.ends.load(SeqCst) {
            let key = random.usize(0..KEYS);
            let begun = Instant::now();
            let least = self.least(key, begun);
            let hits = stats(&client).hits;
            let read = client.get(format!("check:{key}")).await;
            self.reads.fetch_add(1, SeqCst);
            if let Ok(value) = read {
                let value = value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap());
                let is_allowed = value >= least || self.keys[key].lock().unknown.contains(&value);
                let is_hit = stats(&client).hits > hits;
                assert!(
                    is_allowed,
                    "check:{key}: {value} (maybe a copy: {is_hit}); {least} was acknowledged {STALENESS:?} before"
                );
            } else {
                self.failed.fetch_add(1, SeqCst);
            }
            if random.u8(0..16) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// The way of a write.
enum Writer {
    /// Directly to Redis.
    Redis(redis::aio::MultiplexedConnection),
    /// Through the nodes, without faults between.
    Node(Client),
}

impl Writer {
    /// Writes a key. The error says whether the write may be applied.
    async fn set(&mut self, key: usize, value: u64) -> Result<(), bool> {
        let name = format!("check:{key}");
        match self {
            Self::Redis(connection) => {
                let set = redis::cmd("SET").arg(name).arg(value).to_owned();
                set.exec_async(connection).await.map_err(|_| true)
            }
            Self::Node(client) => {
                let stored = client.set(name, value.to_string()).await;
                stored.map(drop).map_err(|error| error.kind() == ErrorKind::OutcomeUnknown)
            }
        }
    }
}

/// Number of the fault that shows a wrong bound.
const LATE: u8 = 6;

/// One fault of one or of both nodes, and the time in which it lasts. While one feed works, it also ends the copies of the
/// other node: only faults of both show a wrong bound.
async fn disturb(random: &mut Rng, nodes: &[Process; 2], proxies: &[FaultProxy; 2], is_first: bool) -> String {
    let affected = [0..1, 1..2, 0..2][if is_first { 2 } else { random.usize(0..3) }].clone();
    let (nodes, proxies) = (&nodes[affected.clone()], &proxies[affected.clone()]);
    let mut span = Duration::from_millis(random.u64(500..6_000));
    let down = |flow| Faults { down: flow, ..Faults::default() };
    let (name, faults) = match if is_first { LATE } else { random.u8(0..=LATE) } {
        0 => {
            proxies.iter().for_each(|proxy| proxy.cut(Who::All, if random.bool() { Cut::Rst } else { Cut::Fin }));
            return format!("{affected:?} cut");
        }
        1 => {
            nodes.iter().for_each(|node| node.signal(Signal::STOP));
            sleep(Duration::from_secs(5)).await;
            nodes.iter().for_each(|node| node.signal(Signal::CONT));
            return format!("{affected:?} stopped");
        }
        2 => {
            for proxy in proxies {
                proxy.refuse(true);
                proxy.cut(Who::All, Cut::Rst);
            }
            ("refused", Faults::default())
        }
        3 => ("held", Faults::held()),
        4 => ("answers held", down(Flow { held: true, ..Flow::default() })),
        5 => ("slow", Faults::throttled(random.u64(2_000..20_000))),
        _ => {
            // Longer than the maximum staleness: events and heartbeats arrive, but too late.
            let delay = STALENESS + Duration::from_millis(random.u64(200..1_500));
            span = STALENESS * 3;
            ("late", down(Flow { delay, ..Flow::default() }))
        }
    };
    proxies.iter().for_each(|proxy| proxy.set(Who::All, faults));
    sleep(span).await;
    proxies.iter().for_each(FaultProxy::heal);
    format!("{affected:?} {name} for {span:?}")
}

#[test]
fn no_copy_is_older_than_the_maximum_staleness() {
    let span = Duration::from_secs(setting_from_environment("TERRACE_NEAR_SECONDS", 20));
    let seed = setting_from_environment("TERRACE_NEAR_SEED", fastrand::u64(..));
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let nodes = ["a", "b"].map(|name| Process::start(&folder.path().join(name), &["--l2", &redis.url()]));
    let proxies =
        nodes.each_ref().map(|node| FaultProxy::start(node.grpc.rsplit_once(':').unwrap().1.parse().unwrap()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let checker = Arc::new(Checker::new());
    runtime.block_on(async {
        let target = proxies.each_ref().map(|proxy| format!("127.0.0.1:{}", proxy.port())).join(",");
        let mut clients = Vec::new();
        for routing in [Routing::Key, Routing::Any] {
            let settings = NearCache::new().max_staleness(STALENESS).prefixes(["check:"]);
            let client = Client::builder(&target).read_timeout(READ).routing(routing).near_cache(settings);
            clients.push(client.connect().await.unwrap());
        }
        let mut tasks = Vec::new();
        let direct = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
        let through_nodes = nodes.each_ref().map(|node| node.grpc.clone()).join(",");
        for writer in [Writer::Redis(direct), Writer::Node(Client::connect(through_nodes).await.unwrap())] {
            let shared = Arc::clone(&checker);
            tasks.push(tokio::spawn(async move { shared.write(writer).await }));
        }
        for client in clients.iter().chain(&clients) {
            let (shared, client) = (Arc::clone(&checker), client.clone());
            tasks.push(tokio::spawn(async move { shared.read(client).await }));
        }
        let (begun, mut is_first) = (Instant::now(), true);
        while begun.elapsed() < span {
            sleep(Duration::from_millis(random.u64(200..2_000))).await;
            let name = disturb(&mut random, &nodes, &proxies, is_first).await;
            is_first = false;
            println!("{:>6} ms: nodes {name}", begun.elapsed().as_millis());
            assert!(!tasks.iter().any(tokio::task::JoinHandle::is_finished), "a task has failed");
        }
        checker.ends.store(true, SeqCst);
        for task in tasks {
            task.await.unwrap();
        }
        let count = |counter: &AtomicU64| counter.load(SeqCst);
        println!(
            "{} reads, {} failed, {} writes",
            count(&checker.reads),
            count(&checker.failed),
            count(&checker.writes)
        );
        for client in &clients {
            let stats = stats(client);
            println!("{stats:?}");
            assert!(stats.hits > 0);
        }
    });
}
