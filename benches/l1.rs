//! L1 compared with quick_cache (sync) and moka, and the memory and expiration of L1: `cargo bench --features peers
//! --bench l1 [-- speed | memory | expiry | purge]`.
//!
//! * **speed**: reads with an insert on a miss, Zipf over more keys than fit (mixed) or over keys that all fit (hits),
//!   16-byte keys, values of 64 B and 4 KiB, 1 and 2 threads. Shows the CPU time per operation, summed over the
//!   threads: the best of several rounds that alternate between the caches. Unlike wall time, CPU time is accurate on a
//!   shared machine.
//! * **memory**: growth of RSS for a million entries of 16 + 64 bytes, each cache in its own process; for ours, also
//!   the sum of weights.
//! * **expiry**: two million entries expire within a second; latency of concurrent reads before and during the sweep,
//!   and RSS afterward.
//! * **purge**: patterns over a million entries, of which a fifth, one or none match: time until the pattern hides
//!   them, CPU time of the walk, and latency of concurrent reads of other entries.

#[path = "support/workload.rs"]
mod workload;

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use terrace::{
    clock::{Tick, stopwatch_ns},
    glob::Glob,
    l1::{Change, Current, Epoch, Fill, L1, Leased, PolicyKind, Settings, Token},
    model::{Key, Value},
};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NOW: Tick = Tick(1);
/// Capacity in entries.
const ENTRIES: usize = 100_000;
const ROUNDS: usize = 5;
const OPERATIONS: usize = 1_000_000;

/// Operations that all caches support.
trait Cache: Sync {
    /// Returns the length of the value and its last byte, so that the value is read.
    fn get(&self, key: &Key) -> Option<(usize, Option<u8>)>;
    fn insert(&self, key: &Key, value: &Bytes);
}

struct Ours {
    l1: L1,
    epoch: Epoch,
}

impl Ours {
    fn new(entries: usize) -> Self {
        let settings =
            Settings { capacity_bytes: 1 << 30, max_entries: Some(entries as u64), policy: PolicyKind::Learned };
        let l1 = L1::new(settings);
        let epoch = l1.begin(Tick::FAR).unwrap_or_else(|| panic!("the first epoch"));
        Self { l1, epoch }
    }
}

impl Cache for Ours {
    fn get(&self, key: &Key) -> Option<(usize, Option<u8>)> {
        self.l1.get(key, NOW, true).map(|hit| (hit.value.len(), hit.value.last().copied()))
    }

    fn insert(&self, key: &Key, value: &Bytes) {
        // Same as the insert of the other caches: without a lease.
        let put = |_: Option<Current<'_>>| Ok((Change::Put(value.clone(), Tick::FAR), ()));
        self.l1.update(key, NOW, self.epoch, 0, put).unwrap_or_else(|error| panic!("it fits: {error}"));
    }
}

/// The other caches hold their own copies, as L1 does.
fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

struct Quick(quick_cache::sync::Cache<Bytes, Bytes>);

impl Cache for Quick {
    fn get(&self, key: &Key) -> Option<(usize, Option<u8>)> {
        self.0.get(&key[..]).map(|value| (value.len(), value.last().copied()))
    }

    fn insert(&self, key: &Key, value: &Bytes) {
        self.0.insert(copied(key), copied(value));
    }
}

struct Moka(moka::sync::Cache<Bytes, Bytes>);

impl Cache for Moka {
    fn get(&self, key: &Key) -> Option<(usize, Option<u8>)> {
        self.0.get(&key[..]).map(|value| (value.len(), value.last().copied()))
    }

    fn insert(&self, key: &Key, value: &Bytes) {
        self.0.insert(copied(key), copied(value));
    }
}

fn caches(entries: usize) -> [(&'static str, Box<dyn Cache>); 3] {
    [
        ("ours", Box::new(Ours::new(entries))),
        ("quick_cache", Box::new(Quick(quick_cache::sync::Cache::new(entries)))),
        ("moka", Box::new(Moka(moka::sync::Cache::new(entries as u64)))),
    ]
}

fn key(rank: usize) -> Key {
    Key::copied(&workload::key(rank)).unwrap_or_else(|error| panic!("a key of 16 bytes: {error}"))
}

/// Returns the CPU time of this thread in ns.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn speed() {
    println!("CPU ns per operation               | hit rate |   ours |  quick |   moka | quick / ours | moka / ours");
    for (name, keys) in [("mixed", 10 * ENTRIES), ("hits", ENTRIES / 2)] {
        let zipf = workload::Zipf::new(keys, 0.9);
        let keys: Vec<Key> = (0..keys).map(key).collect();
        for value_bytes in [64, 4_096] {
            for threads in [1, 2] {
                compare(name, &zipf, &keys, value_bytes, threads);
            }
        }
    }
}

fn compare(name: &str, zipf: &workload::Zipf, keys: &[Key], value_bytes: usize, threads: usize) {
    let value = Bytes::from(vec![b'v'; value_bytes]);
    // New random keys in each round: a repeated sequence is a loop, which a learning policy would learn.
    let mut rng = Rng::with_seed(1);
    let mut draw = || (0..OPERATIONS).map(|_| zipf.draw(&mut rng) as u32).collect();
    let caches = caches(ENTRIES);
    let mut best = [f64::MAX; 3];
    let mut hit_rate = 0.0;
    for round in 0..=ROUNDS {
        let draws: Vec<Vec<u32>> = (0..threads).map(|_| draw()).collect();
        for (at, (_, cache)) in caches.iter().enumerate() {
            let (ns, hits) = play(&**cache, &draws, keys, &value);
            // The first round fills the cache.
            if round > 0 {
                best[at] = best[at].min(ns);
                hit_rate = if at == 0 { hits } else { hit_rate };
            }
        }
    }
    let [ours, quick, moka] = best;
    println!(
        "{name:<6} value {value_bytes:>5} B  {threads} thread(s) | {hit_rate:>8.3} | {ours:>6.1} | {quick:>6.1} | {moka:>6.1} | {:>12.2} | {:>11.2}",
        quick / ours,
        moka / ours
    );
}

/// Returns the CPU time per operation in ns, and the hit rate.
fn play(cache: &dyn Cache, draws: &[Vec<u32>], keys: &[Key], value: &Bytes) -> (f64, f64) {
    let results: Vec<(u64, usize)> = thread::scope(|scope| {
        let play = |draws: &[u32]| {
            let start = cpu_ns();
            let mut hits = 0;
            for &rank in draws {
                let key = &keys[rank as usize];
                match cache.get(key) {
                    Some(read) => hits += usize::from(read == (value.len(), Some(b'v'))),
                    None => cache.insert(key, value),
                }
            }
            (cpu_ns() - start, hits)
        };
        let threads: Vec<_> = draws.iter().map(|draws| scope.spawn(move || play(draws))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let operations = (OPERATIONS * draws.len()) as f64;
    let (ns, hits) = results.iter().fold((0, 0), |(ns, hits), (more_ns, more)| (ns + more_ns, hits + more));
    (ns as f64 / operations, hits as f64 / operations)
}

const MEMORY_ENTRIES: usize = 1_000_000;

/// Returns the resident memory of this process in bytes.
fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

fn memory() {
    println!("memory, 1,000,000 entries of 16 + 64 bytes");
    for name in ["ours", "quick_cache", "moka"] {
        let program = std::env::current_exe().unwrap_or_else(|error| panic!("this program: {error}"));
        let output = Command::new(program).args(["memory-of", name]).output();
        let output = output.unwrap_or_else(|error| panic!("this program started anew: {error}"));
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
}

fn memory_of(name: &str) {
    let value = Bytes::from(vec![b'v'; 64]);
    // Half as much capacity again, because shards of the other caches fill unevenly and nothing should be evicted.
    let ours = Ours::new(2 * MEMORY_ENTRIES);
    let [_, quick, moka] = caches(3 * MEMORY_ENTRIES / 2);
    let before = rss_bytes();
    let fill = |cache: &dyn Cache| (0..MEMORY_ENTRIES).for_each(|rank| cache.insert(&key(rank), &value));
    match name {
        "ours" => fill(&ours),
        "quick_cache" => fill(&*quick.1),
        _ => fill(&*moka.1),
    }
    let grown = rss_bytes() - before;
    let overhead = grown as f64 / MEMORY_ENTRIES as f64 - 80.0;
    print!("{name:<12} {:>6.1} MB, {overhead:>6.1} bytes per entry in addition to key and value", grown as f64 / 1e6);
    if name == "ours" {
        let weights = ours.l1.usage().bytes;
        print!("; weights {:.1} MB, RSS / weights {:.3}", weights as f64 / 1e6, grown as f64 / weights as f64);
    }
    println!();
}

const EXPIRING: usize = 2_000_000;
const STAYING: usize = 100_000;

/// A second thread reads entries that stay while this one sweeps.
fn expiry() {
    #[cfg(feature = "jemalloc")]
    terrace::allocator::return_freed_pages();
    let ours = Ours::new(4 * EXPIRING);
    let value = Bytes::from(vec![b'v'; 64]);
    let empty = rss_bytes();
    let deadline = Tick(1_000_000);
    for rank in 0..EXPIRING + STAYING {
        let expires_at = if rank < STAYING { Tick::FAR } else { Tick(deadline.0 - rank as u64 % 1_000) };
        let (key, token) = (key(rank), Token(rank as u64));
        if matches!(ours.l1.lease(&key, token, NOW, Some(ours.epoch), false), Leased::Lead) {
            let fill = Fill { value: Value::from(value.clone()), expires_at, deadline: expires_at, group: 0 };
            ours.l1.fill(&key, token, fill, NOW);
        }
    }
    let full = rss_bytes();
    let (sweeping, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (before, during, took_ms) = thread::scope(|scope| {
        let reader = scope.spawn(|| read_while(&ours.l1, deadline, &sweeping, &done));
        thread::sleep(Duration::from_secs(1));
        sweeping.store(true, Relaxed);
        let start = stopwatch_ns();
        while ours.l1.sweep(deadline, 4_096) == 4_096 {
            thread::yield_now();
        }
        let took_ms = (stopwatch_ns() - start) / 1_000_000;
        done.store(true, Relaxed);
        let (before, during) = reader.join().unwrap_or_else(|_| panic!("the reader"));
        (before, during, took_ms)
    });
    println!("expiry of {EXPIRING} entries within a second: swept in {took_ms} ms, {} left", ours.l1.usage().entries);
    print_latencies(&before, &during);
    thread::sleep(Duration::from_secs(5));
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!("  RSS: empty {:.0} MB, full {:.0} MB, 5 s after {:.0} MB", mb(empty), mb(full), mb(rss_bytes()));
}

fn print_latencies(before: &Latencies, during: &Latencies) {
    for (name, latencies) in [("before", before), ("during", during)] {
        let at = |quantile| latencies.value_at_quantile(quantile);
        println!(
            "  reads {name}: {} | p50 {} ns | p99 {} ns | p99.9 {} ns | max {} ns",
            latencies.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            latencies.max()
        );
    }
}

const PURGED_FROM: usize = 1_000_000;

/// A second thread reads entries that stay while this one bans a pattern and walks.
fn purge() {
    println!(
        "purge of patterns over {PURGED_FROM} entries, keys of 5 groups of equal size, and {STAYING} that are read"
    );
    for pattern in ["group-3:*", "group-3:000000017", "nothing:*", "*:000000017"] {
        let ours = Ours::new(4 * PURGED_FROM);
        let value = Bytes::from(vec![b'v'; 64]);
        (0..STAYING).for_each(|rank| ours.insert(&key(rank), &value));
        for rank in 0..PURGED_FROM {
            let name = format!("group-{}:{:09}", rank % 5, rank / 5);
            let name = Key::copied(name.as_bytes()).unwrap_or_else(|error| panic!("a key: {error}"));
            ours.insert(&name, &value);
        }
        let glob = Glob::new(pattern.as_bytes()).unwrap_or_else(|error| panic!("a pattern: {error}"));
        purge_one(&ours.l1, glob);
    }
}

fn purge_one(l1: &L1, glob: Glob) {
    let pattern = String::from_utf8_lossy(glob.pattern()).into_owned();
    let (walking, done) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| read_while(l1, NOW, &walking, &done));
        thread::sleep(Duration::from_secs(1));
        walking.store(true, Relaxed);
        let (start, cpu) = (stopwatch_ns(), cpu_ns());
        let mut purge = l1.ban(glob, NOW).unwrap_or_else(|| panic!("the only one"));
        let hidden_us = (stopwatch_ns() - start) / 1_000;
        while !purge.is_done() {
            l1.purge(&mut purge, NOW, 4_096);
            thread::yield_now();
        }
        let (took_ms, cpu_ms) = ((stopwatch_ns() - start) / 1_000_000, (cpu_ns() - cpu) / 1_000_000);
        done.store(true, Relaxed);
        let (before, during) = reader.join().unwrap_or_else(|_| panic!("the reader"));
        println!(
            "  {pattern:<18} hidden in {hidden_us} µs, {} removed in {took_ms} ms ({cpu_ms} ms CPU)",
            purge.removed()
        );
        print_latencies(&before, &during);
    });
}

type Latencies = Histogram<u64>;

/// Returns the latencies of reads before and while another thread sweeps. Each includes about 50 ns of the clock.
fn read_while(l1: &L1, now: Tick, sweeping: &AtomicBool, done: &AtomicBool) -> (Latencies, Latencies) {
    let new = || Histogram::new_with_max(60_000_000_000, 3).unwrap_or_else(|error| panic!("three digits: {error}"));
    let (mut before, mut during): (Latencies, Latencies) = (new(), new());
    let mut rng = Rng::with_seed(1);
    let keys: Vec<Key> = (0..STAYING).map(key).collect();
    while !done.load(Relaxed) {
        let key = &keys[rng.usize(..STAYING)];
        let start = stopwatch_ns();
        let hit = l1.get(key, now, true);
        let ns = stopwatch_ns() - start;
        assert!(hit.is_some(), "what stays is there");
        let latencies = if sweeping.load(Relaxed) { &mut during } else { &mut before };
        latencies.saturating_record(ns);
    }
    (before, during)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let wanted = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    if let [command, name] = &words[..]
        && command == "memory-of"
    {
        return memory_of(name);
    }
    if wanted("speed") {
        speed();
    }
    if wanted("memory") {
        memory();
    }
    if wanted("expiry") {
        expiry();
    }
    if wanted("purge") {
        purge();
    }
}
