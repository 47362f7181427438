//! Miss ratios of L1 and other caches: `cargo bench --features peers --bench hit_ratio`.
//!
//! Replays each trace in `TERRACE_TRACES` and four synthetic workloads with fixed seeds: Zipf, Zipf with scans, a loop
//! and a shifting Zipf. Capacities are 1 % and 10 % of the unique keys, in entries. A request is a get, and an insert
//! on a miss. The last lines show the mean and the worst ratio of ours to LRU.
//!
//! Traces with real sizes are also replayed by bytes, at 1 % and 10 % of the bytes of their unique keys. The yardstick
//! is an exact LRU that accepts any value that fits, and charges its key and 64 bytes of overhead in addition to the
//! value.
//!
//! ours: the learned policy with the default number of shards · LRU: our LRU policy with one shard · moka, quick_cache
//! (sync), foyer (S3-FIFO): default settings of the crates · Belady: knows the future, the bound for all.

#[path = "support/workload.rs"]
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::BuildHasherDefault,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use fastrand::Rng;
use foyer_memory::{Cache as Foyer, CacheBuilder, EvictionConfig, S3FifoConfig};
use terrace::{
    cli::trace::Trace,
    clock::Tick,
    l1::{Fill, L1, Leased, PolicyKind, Settings, Token},
    model::{Key, Value},
};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SEED: u64 = 7;
const PERCENTS: [usize; 2] = [1, 10];
/// Number of requests of each synthetic workload.
const SYNTHETIC: usize = 1_000_000;
/// Traces whose mean ratio to LRU has a goal. arc-oltp is not key-value traffic.
const JUDGED: [&str; 5] = ["orm-busy-1m", "web12", "dns-wrccdc", "mooncake-conv", "apache-semicomplete"];

/// Requests as key numbers, in order of first appearance.
struct Workload {
    name: String,
    requests: Vec<u32>,
    keys: usize,
}

impl Workload {
    fn new(name: impl Into<String>, requests: impl Iterator<Item = u64>) -> Self {
        let mut numbers: HashMap<u64, u32> = HashMap::new();
        let mut number = |key| {
            let next = numbers.len() as u32;
            *numbers.entry(key).or_insert(next)
        };
        let requests = requests.map(&mut number).collect();
        Self { name: name.into(), requests, keys: numbers.len() }
    }

    fn trace(path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut numbers: HashMap<Vec<u8>, u64> = HashMap::new();
        let mut requests = Vec::new();
        for request in Trace::open(path)? {
            let next = numbers.len() as u64;
            requests.push(*numbers.entry(request?.key).or_insert(next));
        }
        Ok(Self::new(Trace::name(path), requests.into_iter()))
    }
}

/// The directory of the traces: `TERRACE_TRACES`, otherwise next to the repository.
#[expect(clippy::disallowed_methods, reason = "a bench is no server; its one setting comes from the environment")]
fn traces() -> Vec<PathBuf> {
    let folder = std::env::var("TERRACE_TRACES").unwrap_or_else(|_| "../shared/traces".to_owned());
    let files = std::fs::read_dir(Path::new(&folder)).into_iter().flatten().flatten().map(|file| file.path());
    let is_trace = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".csv.zst")
    };
    let mut traces: Vec<PathBuf> = files.filter(is_trace).collect();
    traces.sort();
    if traces.is_empty() {
        println!("no traces in {folder} (TERRACE_TRACES): synthetic workloads only");
    }
    traces
}

fn synthetic() -> Vec<Workload> {
    let zipf = workload::Zipf::new(100_000, 0.9);
    let mut rng = Rng::with_seed(SEED);
    let mut draw = || zipf.draw(&mut rng) as u64;
    let plain = Workload::new("zipf 0.9", (0..SYNTHETIC).map(|_| draw()));
    // A tenth of the requests are a scan of keys that never recur.
    let scanned = (0..SYNTHETIC as u64).map(|n| if n % 50_000 < 5_000 { 1 << 40 | n } else { draw() });
    let scanned = Workload::new("zipf + scans", scanned);
    let looped = Workload::new("loop", (0..SYNTHETIC as u64).map(|n| n % 20_000));
    let shifted =
        Workload::new("shifting zipf", (0..SYNTHETIC as u64).map(|n| (draw() + n / 100_000 * 7_919) % 100_000));
    vec![plain, scanned, looped, shifted]
}

fn l1_misses(work: &Workload, entries: usize, policy: PolicyKind, shards: Option<usize>) -> usize {
    let settings = Settings { capacity_bytes: u64::MAX, max_entries: Some(entries as u64), policy };
    let l1 = match shards {
        Some(shards) => L1::with_shards(settings, shards, Some(SEED)),
        None => L1::seeded(settings, SEED),
    };
    let keys: Vec<Key> = (0..work.keys).filter_map(|n| Key::copied(&workload::key(n)).ok()).collect();
    let (now, epoch) = (Tick(1), l1.begin(Tick::FAR));
    let mut misses = 0;
    for &number in &work.requests {
        let key = &keys[number as usize];
        if l1.get(key, now, true).is_some() {
            continue;
        }
        misses += 1;
        let token = Token(misses as u64);
        if matches!(l1.lease(key, token, now, epoch, false), Leased::Lead) {
            let fill = Fill { value: Value::from(Bytes::new()), expires_at: Tick::FAR, deadline: Tick::FAR, group: 0 };
            l1.fill(key, token, fill, now);
        }
    }
    misses
}

/// Returns the number of misses: each request is a get, and an insert on a miss.
fn misses(work: &Workload, get: impl Fn(u32) -> bool, insert: impl Fn(u32)) -> usize {
    let missed = work.requests.iter().filter(|&&number| {
        let miss = !get(number);
        if miss {
            insert(number);
        }
        miss
    });
    missed.count()
}

fn moka_misses(work: &Workload, entries: usize) -> usize {
    let cache = moka::sync::Cache::<u32, ()>::new(entries as u64);
    misses(work, |n| cache.get(&n).is_some(), |n| cache.insert(n, ()))
}

fn quick_misses(work: &Workload, entries: usize) -> usize {
    let cache = quick_cache::sync::Cache::<u32, ()>::new(entries);
    misses(work, |n| cache.get(&n).is_some(), |n| cache.insert(n, ()))
}

fn foyer_misses(work: &Workload, entries: usize) -> usize {
    type Seeded = BuildHasherDefault<std::hash::DefaultHasher>;
    let builder = CacheBuilder::new(entries).with_shards(1).with_hash_builder(Seeded::default());
    let cache: Foyer<u32, (), Seeded> =
        builder.with_eviction_config(EvictionConfig::S3Fifo(S3FifoConfig::default())).build();
    misses(work, |n| cache.get(&n).is_some(), |n| drop(cache.insert(n, ())))
}

/// Evicts the entry whose next use is the latest.
fn belady_misses(work: &Workload, entries: usize) -> usize {
    let mut next = vec![usize::MAX; work.requests.len()];
    let mut last = vec![usize::MAX; work.keys];
    for (at, &number) in work.requests.iter().enumerate().rev() {
        next[at] = last[number as usize];
        last[number as usize] = at;
    }
    let (mut cached, mut misses): (BTreeSet<(usize, u32)>, usize) = (BTreeSet::new(), 0);
    for (at, &number) in work.requests.iter().enumerate() {
        if !cached.remove(&(at, number)) {
            misses += 1;
            if cached.len() == entries {
                cached.pop_last();
            }
        }
        cached.insert((next[at], number));
    }
    misses
}

fn compare(work: &Workload, percent: usize) -> f64 {
    let entries = (work.keys * percent / 100).max(1);
    let lru = l1_misses(work, entries, PolicyKind::Lru, Some(1));
    let ours = l1_misses(work, entries, PolicyKind::Learned, None);
    let peers = [moka_misses(work, entries), quick_misses(work, entries), foyer_misses(work, entries)];
    let belady = belady_misses(work, entries);
    let ratio = |misses: usize| misses as f64 / work.requests.len() as f64;
    let [moka, quick, foyer] = peers.map(ratio);
    println!(
        "{:<20} {percent:>3} % {entries:>8} | {:.4} | {:.4} | {moka:.4} | {quick:.4} | {foyer:.4} | {:.4} | {:.3}",
        work.name,
        ratio(ours),
        ratio(lru),
        ratio(belady),
        ours as f64 / lru as f64
    );
    ours as f64 / lru as f64
}

/// Requests with sizes: key number and value size in bytes.
struct Sized {
    name: String,
    requests: Vec<(u32, usize)>,
    unique_bytes: u64,
}

/// Bytes that the exact LRU charges in addition to the value: a key of [`workload::key`] and the permitted overhead.
const CHARGED_BYTES: u64 = 16 + 64;
/// Maximum value size in bytes.
const LARGEST: usize = 128 << 20;

impl Sized {
    /// Returns `None` if all sizes are equal: such a trace counts objects.
    fn trace(path: &Path) -> Result<Option<Self>, Box<dyn std::error::Error>> {
        let mut seen: HashMap<Vec<u8>, (u32, usize)> = HashMap::new();
        let mut requests = Vec::new();
        for request in Trace::open(path)? {
            let request = request?;
            let next = seen.len() as u32;
            // A key keeps its first size.
            let size = usize::try_from(request.size)?.min(LARGEST);
            requests.push(*seen.entry(request.key).or_insert((next, size)));
        }
        let first = requests.first().map(|(_, size)| *size);
        let varies = requests.iter().any(|(_, size)| Some(*size) != first);
        let unique_bytes = seen.values().map(|(_, size)| *size as u64).sum();
        Ok(varies.then(|| Self { name: Trace::name(path), requests, unique_bytes }))
    }

    fn ours(&self, capacity_bytes: u64) -> usize {
        let settings = Settings { capacity_bytes, max_entries: None, policy: PolicyKind::Learned };
        let l1 = L1::seeded(settings, SEED);
        let (now, epoch) = (Tick(1), l1.begin(Tick::FAR));
        let zeros = Bytes::from(vec![0; self.requests.iter().map(|(_, size)| *size).max().unwrap_or(0)]);
        let mut misses = 0;
        for &(number, size) in &self.requests {
            let Ok(key) = Key::copied(&workload::key(number as usize)) else { continue };
            if l1.get(&key, now, true).is_some() {
                continue;
            }
            misses += 1;
            let token = Token(misses as u64);
            if matches!(l1.lease(&key, token, now, epoch, false), Leased::Lead) {
                let fill = Fill {
                    value: Value::from(zeros.slice(..size)),
                    expires_at: Tick::FAR,
                    deadline: Tick::FAR,
                    group: 0,
                };
                l1.fill(&key, token, fill, now);
            }
        }
        misses
    }

    fn lru(&self, capacity_bytes: u64) -> usize {
        let (mut used_at, mut by_use, mut held, mut misses) = (HashMap::new(), BTreeMap::new(), 0, 0);
        for (at, &(number, size)) in self.requests.iter().enumerate() {
            if let Some(before) = used_at.insert(number, at) {
                by_use.remove(&before);
            } else {
                misses += 1;
                let weight = size as u64 + CHARGED_BYTES;
                if weight > capacity_bytes {
                    used_at.remove(&number);
                    continue;
                }
                held += weight;
            }
            by_use.insert(at, (number, size));
            while held > capacity_bytes {
                let Some((_, (oldest, size))) = by_use.pop_first() else { break };
                used_at.remove(&oldest);
                held -= size as u64 + CHARGED_BYTES;
            }
        }
        misses
    }

    fn compare(&self, percent: u64) {
        let capacity = self.unique_bytes * percent / 100;
        let (ours, lru) = (self.ours(capacity), self.lru(capacity));
        let ratio = |misses: usize| misses as f64 / self.requests.len() as f64;
        let (name, over) = (&self.name, ours as f64 / lru as f64);
        println!("{name:<20} {percent:>3} % {capacity:>12} B | {:.4} | {:.4} | {over:.3}", ratio(ours), ratio(lru));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("miss ratio                entries |   ours |    LRU |   moka |  quick |  foyer | Belady | ours / LRU");
    let traces: Result<Vec<Workload>, _> = traces().iter().map(|path| Workload::trace(path)).collect();
    let all: Vec<Workload> = traces?.into_iter().chain(synthetic()).collect();
    for percent in PERCENTS {
        let ratios: Vec<(bool, f64)> =
            all.iter().map(|work| (JUDGED.contains(&&work.name[..]), compare(work, percent))).collect();
        let judged: Vec<f64> = ratios.iter().filter(|(is, _)| *is).map(|(_, ratio)| *ratio).collect();
        let worst = ratios.iter().map(|(_, ratio)| *ratio).fold(0.0, f64::max);
        if judged.is_empty() {
            println!("{percent} %: worst of all {worst:.3}");
        } else {
            let mean = judged.iter().sum::<f64>() / judged.len() as f64;
            println!("{percent} %: mean over {} key-value traces {mean:.4}, worst of all {worst:.3}", judged.len());
        }
    }
    println!("object misses by bytes                | ours   | byte-LRU | ours / byte-LRU");
    for path in self::traces() {
        if let Some(work) = Sized::trace(&path)? {
            PERCENTS.iter().for_each(|&percent| work.compare(percent as u64));
        }
    }
    Ok(())
}
