//! Cost of learning: `cargo bench --bench learning [-- ROUNDS]` (default 7).
//!
//! * **A hit in L1**: servers with `prefetch = "off"` and with `"auto"` (the default) over one real Redis, driven in
//!   turn with reads that L1 answers: gRPC Gets, Gets with a `traceparent`, and a RESP pipeline. A policy does not
//!   switch off the tap, which TTLs and key groups need as well: its cost per hit is measured and shown separately.
//! * **A miss**: the same servers and one with `"shadow"` read keys for the first time: users, each with two subsequent
//!   keys. `shadow` learns and predicts at each miss and fetches nothing.
//! * **The learner alone**, on one thread: CPU time of one event, for keys that match templates and for the trace
//!   orm-busy (read through a set of keys with a tenth of its size).
//! * **A snapshot** of a learner whose memory is full: how long the lock of the learner is held, and how long a restore
//!   takes.
//!
//! CPU time is that of the whole server process, from `/proc`. The output shows the median over the rounds of each
//! figure, and of the ratio within a round.

#[path = "support/figures.rs"]
mod figures;
#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    collections::{HashSet, VecDeque},
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use figures::median;
use futures_util::future::join_all;
use rustix::time::{ClockId, clock_gettime};
use support::{
    eventually,
    grpc::{block_on, connect},
    process::{Process, cpu_ns},
    redis::RedisServer,
    setting_from_environment,
};
use terrace::{
    cache::Caller,
    cli::trace::Trace,
    clock::{Tick, stopwatch_ns},
    grpc::client::{CacheClient, InsightClient},
    learn::{
        prefetch::{L1View, Learner, PrefetchSettings, Presence, Trigger},
        recorder::Recorder,
        snapshot::Cursor,
    },
    proto::{GetRequest, GetStatsRequest},
};
use tonic::transport::Channel;

/// Number of keys that are read repeatedly, with the names of `redis-benchmark -r`.
const KEYS: usize = 10_000;
/// Concurrent calls: connections, and streams on each.
const CONNECTIONS: usize = 4;
const STREAMS: usize = 16;
/// Duration of one gRPC measurement.
const SPAN: Duration = Duration::from_millis(1_500);
/// Number of commands of one RESP pipeline, and of one measurement.
const PIPELINE: usize = 16;
const COMMANDS: usize = 2_000_000;
/// Number of users of one measurement of misses.
const USERS: usize = 10_000;
/// Keys that are read for a user, in this order.
const KINDS: [&str; 3] = ["user", "profile", "cart"];
/// Number of hits of one measurement of the tap.
const HITS: u64 = 5_000_000;
/// Number of prefetched keys that wait for their first use, in the measurement of the learner alone.
const STAGED_MAX: usize = 1_024;

/// Figures of two arms, by round.
#[derive(Default)]
struct Pair {
    base: Vec<f64>,
    other: Vec<f64>,
}

impl Pair {
    /// Runs one round. The order alternates, because other load on the machine varies.
    fn measure(&mut self, round: usize, [base, other]: &[Process; 2], figure: impl Fn(&Process) -> f64) {
        if round.is_multiple_of(2) {
            self.base.push(figure(base));
            self.other.push(figure(other));
        } else {
            self.other.push(figure(other));
            self.base.push(figure(base));
        }
    }

    fn print(self, what: &str, names: [&str; 2]) {
        let ratio = median(self.base.iter().zip(&self.other).map(|(base, other)| other / base));
        let (base, other) = (median(self.base) / 1e3, median(self.other) / 1e3);
        let [first, second] = names;
        println!("{what:<44} {first} {base:.3} µs | {second} {other:.3} µs | ratio {ratio:.3}");
    }
}

/// Starts a server with one prefetch policy and one worker.
fn server(redis: &RedisServer, folder: &Path, prefetch: &str) -> Process {
    let folder = folder.join(prefetch);
    fs::create_dir(&folder).expect("a folder");
    let file = folder.join("terrace.toml");
    let policy = format!(
        "[server]\nworkers = 1\n[l1]\nmax_age = \"1h\"\n[[policy]]\nmatch = \"*\"\nprefetch = \"{prefetch}\"\n"
    );
    fs::write(&file, policy).expect("a file");
    let process = Process::start(&folder, &["--l2", &redis.url(), "--config", file.to_str().expect("UTF-8")]);
    eventually("L1 is open", || {
        let stats = block_on(async {
            let mut insight = InsightClient::new(connect(&process.grpc).await);
            insight.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner()
        });
        stats.coherence.is_some_and(|coherence| coherence.open)
    });
    process
}

fn hit_key(number: usize) -> String {
    format!("key:{:012}", number % KEYS)
}

/// Returns the CPU time in nanoseconds of a Get that L1 answers.
fn grpc_hit_ns(server: &Process, is_traced: bool) -> f64 {
    block_on(async {
        let channels = join_all((0..CONNECTIONS).map(|_| connect(&server.grpc))).await;
        let (before, end_ns) = (cpu_ns(server.id()), stopwatch_ns() + SPAN.as_nanos() as u64);
        let callers = (0..CONNECTIONS * STREAMS).map(|at| {
            let client = CacheClient::new(channels[at % CONNECTIONS].clone());
            tokio::spawn(gets(client, at, is_traced, end_ns))
        });
        let callers: Vec<_> = callers.collect();
        let mut calls = 0;
        for caller in callers {
            calls += caller.await.expect("a caller ends");
        }
        (cpu_ns(server.id()) - before) / calls as f64
    })
}

async fn gets(mut client: CacheClient<Channel>, seed: usize, is_traced: bool, end_ns: u64) -> usize {
    let mut calls = 0;
    let parent = format!("00-{:032x}-{:016x}-01", seed + 1, 1).parse().expect("a header");
    while stopwatch_ns() < end_ns {
        let mut request = tonic::Request::new(GetRequest { key: hit_key(seed * 31 + calls * 7).into(), options: None });
        if is_traced {
            request.metadata_mut().insert("traceparent", tonic::metadata::MetadataValue::clone(&parent));
        }
        client.get(request).await.expect("it answers");
        calls += 1;
    }
    calls
}

/// Returns the CPU time in nanoseconds of a GET in a RESP pipeline that L1 answers.
fn resp_hit_ns(server: &Process) -> f64 {
    let port = server.resp.rsplit_once(':').expect("host and port").1;
    let before = cpu_ns(server.id());
    let status = Command::new("redis-benchmark")
        .args(["-p", port, "-t", "get", "-q", "-r", &KEYS.to_string(), "-c", "20"])
        .args(["-P", &PIPELINE.to_string(), "-n", &COMMANDS.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("redis-benchmark is installed");
    assert!(status.success());
    (cpu_ns(server.id()) - before) / COMMANDS as f64
}

fn hits(servers: &[Process; 2], rounds: usize) {
    for server in servers {
        let mut client = resp(server);
        for from in (0..KEYS).step_by(PIPELINE) {
            read(&mut client, (from..KEYS.min(from + PIPELINE)).map(hit_key));
        }
    }
    let (mut plain, mut traced, mut header, mut pipeline) =
        (Pair::default(), Pair::default(), Pair::default(), Pair::default());
    for round in 0..rounds {
        plain.measure(round, servers, |server| grpc_hit_ns(server, false));
        traced.measure(round, servers, |server| grpc_hit_ns(server, true));
        pipeline.measure(round, servers, resp_hit_ns);
    }
    header.base.clone_from(&plain.other);
    header.other.clone_from(&traced.other);
    plain.print("gRPC Get, L1 hit", ["off", "auto"]);
    traced.print("gRPC Get with traceparent, L1 hit", ["off", "auto"]);
    header.print("traceparent header alone", ["without", "with"]);
    pipeline.print(&format!("RESP GET, pipeline {PIPELINE}, L1 hit"), ["off", "auto"]);
    let taps = (0..rounds).map(|_| tap_ns());
    println!("{:<44} {:.1} ns per hit", "the tap, included in each row", median(taps));
}

/// Returns the cost of the tap for a hit in nanoseconds, including the drain of its ring.
fn tap_ns() -> f64 {
    let recorder = Recorder::default();
    let (tap, mut events) = (recorder.tap(), Vec::new());
    let keys: Vec<String> = (0..KEYS).map(hit_key).collect();
    let begun_ns = thread_cpu_ns();
    for hit in 0..HITS {
        tap.record_hit(black_box(keys[hit as usize % KEYS].as_bytes()), Caller(1), Tick(1));
        // Drains the rings as often as the job does at 200,000 hits per second.
        if hit % 4_096 == 0 {
            events.clear();
            recorder.drain(&mut events);
        }
    }
    (thread_cpu_ns() - begun_ns) as f64 / HITS as f64
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).expect("time goes up")
}

fn resp(server: &Process) -> redis::Connection {
    let client = redis::Client::open(format!("redis://{}", server.resp)).expect("an address");
    client.get_connection().expect("it accepts")
}

fn read(client: &mut redis::Connection, keys: impl Iterator<Item = String>) {
    let mut pipe = redis::pipe();
    for key in keys {
        pipe.get(key);
    }
    let values: Vec<Option<Vec<u8>>> = pipe.query(client).expect("it answers");
    assert!(values.iter().all(Option::is_some), "all keys are there");
}

/// Returns the CPU time in nanoseconds of a read of a new key. Each user in turn has one connection, as services have
/// that send one request after another.
fn miss_ns(server: &Process, first_user: usize) -> f64 {
    let mut client = resp(server);
    let before = cpu_ns(server.id());
    for user in first_user..first_user + USERS {
        KINDS.iter().for_each(|kind| read(&mut client, std::iter::once(format!("{kind}:{user}"))));
    }
    (cpu_ns(server.id()) - before) / (USERS * KINDS.len()) as f64
}

fn misses(servers: [&Process; 3], rounds: usize) {
    let (mut shadow, mut auto) = (Pair::default(), Pair::default());
    for round in 0..rounds {
        let [off, pretends, fetches] = servers.map(|server| miss_ns(server, round * USERS));
        shadow.base.push(off);
        shadow.other.push(pretends);
        auto.base.push(off);
        auto.other.push(fetches);
    }
    shadow.print("RESP GET of a new key: learn and predict", ["off", "shadow"]);
    auto.print("RESP GET of a new key: two of three prefetched", ["off", "auto"]);
}

/// A set of keys that removes the oldest: the L1 of the learner.
struct Memory {
    learner: Learner,
    resident: HashSet<Vec<u8>>,
    order: VecDeque<Vec<u8>>,
    staged: HashSet<Vec<u8>>,
    staged_order: VecDeque<Vec<u8>>,
    room: usize,
    events: u64,
    cpu_ns: u64,
}

impl Memory {
    fn new(room: usize) -> Self {
        Self {
            learner: Learner::new(PrefetchSettings::default()),
            resident: HashSet::new(),
            order: VecDeque::new(),
            staged: HashSet::new(),
            staged_order: VecDeque::new(),
            room,
            events: 0,
            cpu_ns: 0,
        }
    }

    fn read(&mut self, key: &[u8], caller: Caller) {
        let trigger = match (self.resident.contains(key), self.staged.remove(key)) {
            (true, _) => return,
            (false, true) => Trigger::FirstUse,
            (false, false) => Trigger::Miss,
        };
        let presence = |key: &[u8]| match (self.resident.contains(key), self.staged.contains(key)) {
            (true, _) => Presence::Resident,
            (false, true) => Presence::Prefetched,
            (false, false) => Presence::Absent,
        };
        let l1 = L1View { presence: &presence, room: self.room as u64, displaced: 0 };
        let mut fetched = Vec::new();
        let begun_ns = thread_cpu_ns();
        self.learner.learn(key, caller, trigger, &l1, &mut fetched);
        self.cpu_ns += thread_cpu_ns() - begun_ns;
        self.events += 1;
        for key in fetched {
            self.staged.insert(key.to_vec());
            self.staged_order.push_back(key.to_vec());
        }
        while self.staged_order.len() > STAGED_MAX {
            let oldest = self.staged_order.pop_front().unwrap_or_default();
            if self.staged.remove(&oldest) {
                self.learner.unused(&oldest);
            }
        }
        self.resident.insert(key.to_vec());
        self.order.push_back(key.to_vec());
        while self.order.len() > self.room {
            self.resident.remove(&self.order.pop_front().unwrap_or_default());
        }
    }

    fn print(&self, what: &str) {
        // The cost of reading the clock twice is subtracted.
        let begun_ns = thread_cpu_ns();
        for _ in 0..1_000 {
            black_box(thread_cpu_ns());
        }
        let clock_ns = (thread_cpu_ns() - begun_ns) as f64 / 1_000.0;
        let us = (self.cpu_ns as f64 / self.events.max(1) as f64 - clock_ns) / 1e3;
        println!("{what:<44} {us:.2} µs per event, {} events", self.events);
    }
}

fn learner_alone() {
    let mut memory = Memory::new(KEYS);
    for user in 0..5 * USERS {
        KINDS.iter().for_each(|kind| memory.read(format!("{kind}:{user}").as_bytes(), Caller(1)));
    }
    memory.print("learner, keys that match templates");
    let folder: PathBuf = setting_from_environment("TERRACE_TRACES", "../shared/traces".into());
    let Ok(trace) = Trace::open(&folder.join("orm-busy-1m.csv.zst")) else {
        println!("no orm-busy-1m.csv.zst in {} (TERRACE_TRACES)", folder.display());
        return;
    };
    let mut memory = Memory::new(4_418);
    trace.for_each(|request| memory.read(&request.expect("a whole trace").key, Caller(1)));
    memory.print("learner, orm-busy at 10 % of its keys");
}

/// Measures a snapshot of a learner whose memory is full: the lock is held for one block at a time.
fn snapshot() {
    let mut memory = Memory::new(KEYS);
    let mut full = 0;
    for user in 0.. {
        KINDS.iter().for_each(|kind| memory.read(format!("{kind}:{user}").as_bytes(), Caller(1)));
        if user % USERS == 0 && std::mem::replace(&mut full, memory.learner.keys()) == memory.learner.keys() && user > 0
        {
            break;
        }
    }
    let (mut cursor, mut blocks, mut spans) = (Cursor::default(), Vec::new(), Vec::new());
    loop {
        let begun_ns = thread_cpu_ns();
        let Some(block) = memory.learner.next_block(&mut cursor) else { break };
        spans.push((thread_cpu_ns() - begun_ns) as f64 / 1e3);
        blocks.push(block);
    }
    let (bytes, sum): (usize, f64) = (blocks.iter().map(Vec::len).sum(), spans.iter().sum());
    let longest = spans.iter().fold(0.0_f64, |longest, &span| longest.max(span));
    let begun_ns = thread_cpu_ns();
    let mut back = Learner::new(PrefetchSettings::default());
    blocks.iter().for_each(|block| back.restore_block(block).expect("it is whole"));
    let back_ms = (thread_cpu_ns() - begun_ns) as f64 / 1e6;
    // Keys that replaced shorter ones may find no room.
    assert!(back.keys() * 100 >= memory.learner.keys() * 99, "{} of {}", back.keys(), memory.learner.keys());
    println!(
        "snapshot of {} keys in {:.1} MiB: {:.1} MiB; under the lock {:.1} ms in {} blocks, median {:.0} µs, longest \
         {longest:.0} µs; restored in {back_ms:.0} ms",
        back.keys(),
        memory.learner.bytes() as f64 / f64::from(1 << 20),
        bytes as f64 / f64::from(1 << 20),
        sum / 1e3,
        blocks.len(),
        median(spans)
    );
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(7);
    learner_alone();
    snapshot();
    let (redis, folder) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    let mut below = redis.connect();
    let users = (0..rounds * USERS).flat_map(|user| KINDS.map(|kind| format!("{kind}:{user}")));
    let keys: Vec<String> = (0..KEYS).map(hit_key).chain(users).collect();
    for some in keys.chunks(1_000) {
        let mut pipe = redis::pipe();
        for key in some {
            pipe.set(key, "x".repeat(100)).ignore();
        }
        pipe.query::<()>(&mut below).expect("it answers");
    }
    let servers = ["off", "shadow", "auto"].map(|prefetch| server(&redis, folder.path(), prefetch));
    let [off, shadow, auto] = servers;
    println!("server CPU, median of {rounds} rounds:");
    misses([&off, &shadow, &auto], rounds);
    hits(&[off, auto], rounds);
}
