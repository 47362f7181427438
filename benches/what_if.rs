//! Accuracy of the capacity simulation of a running server (`Insight.SimulateCapacity`), compared with L1s of the
//! simulated sizes: `cargo bench --bench what_if`.
//!
//! Ours: the simulated tiers of an L1 of 1 %, 10 % and 30 % of the keys of a trace, at 0.5, 1, 2 and 4 times that size.
//! Yardstick: an L1 of each of these sizes, as in `terrace simulate --entries`. Traces come from `TERRACE_TRACES`
//! (default `../shared/traces`); without traces, a synthetic workload is played.

#[path = "support/workload.rs"]
mod workload;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fastrand::Rng;
use hashbrown::HashMap;
use terrace::{
    cache::stats::whatif::{Touch, WhatIf},
    cli::trace::Trace,
    clock::Tick,
    l1::{Fill, L1, Leased, PolicyKind, Settings, Token},
    model::{Key, Value},
};

const NOW: Tick = Tick(1);
const SEED: u64 = 7;
/// Number of reads between two runs of the job that plays the sample.
const ROUND: usize = 500;

/// The directory of the traces: `TERRACE_TRACES`, otherwise next to the repository.
#[expect(clippy::disallowed_methods, reason = "a bench is no server; its one setting comes from the environment")]
fn traces() -> Vec<PathBuf> {
    let folder = std::env::var("TERRACE_TRACES").unwrap_or_else(|_| "../shared/traces".to_owned());
    let files = std::fs::read_dir(Path::new(&folder)).into_iter().flatten().flatten().map(|file| file.path());
    let mut traces: Vec<PathBuf> = files.filter(|path| path.to_string_lossy().ends_with(".csv.zst")).collect();
    traces.sort();
    if traces.is_empty() {
        println!("no traces in {folder} (TERRACE_TRACES): a synthetic workload only");
    }
    traces
}

/// Reads by key number, and the keys.
struct Work {
    name: String,
    reads: Vec<u32>,
    keys: Vec<Key>,
}

fn work(path: &Path) -> Work {
    let mut numbers: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut reads = Vec::new();
    for request in Trace::open(path).expect("a trace") {
        let next = numbers.len() as u32;
        reads.push(*numbers.entry(request.expect("a whole trace").key).or_insert(next));
    }
    Work { name: Trace::name(path), keys: keys(numbers.len()), reads }
}

fn keys(count: usize) -> Vec<Key> {
    (0..count).filter_map(|rank| Key::copied(&workload::key(rank)).ok()).collect()
}

fn synthetic() -> Work {
    let (zipf, mut rng) = (workload::Zipf::new(100_000, 0.9), Rng::with_seed(SEED));
    Work {
        name: "zipf".into(),
        reads: (0..2_000_000).map(|_| zipf.draw(&mut rng) as u32).collect(),
        keys: keys(100_000),
    }
}

/// One read each 100 µs: no trace is longer than the period that is counted.
fn time(at: usize) -> Tick {
    Tick(1 + at as u64 / 10)
}

fn settings(entries: u64) -> Settings {
    Settings { capacity_bytes: u64::MAX, max_entries: Some(entries.max(1)), policy: PolicyKind::Learned }
}

/// Returns the L1 hit rate of an L1 of each size.
fn measured(work: &Work, entries: u64) -> f64 {
    let l1 = L1::seeded(settings(entries), SEED);
    let epoch = l1.begin(Tick::FAR);
    let mut hits = 0;
    for (at, &number) in work.reads.iter().enumerate() {
        let (key, token) = (&work.keys[number as usize], Token(at as u64));
        if l1.get(key, NOW, true).is_some() {
            hits += 1;
        } else if matches!(l1.lease(key, token, NOW, epoch, false), Leased::Lead) {
            let value = Value::from(Bytes::new());
            l1.fill(key, token, Fill { value, expires_at: Tick::FAR, deadline: Tick::FAR, group: 0 }, NOW);
        }
    }
    f64::from(hits) / work.reads.len() as f64
}

/// Returns the simulated L1 hit rates for an L1 of that size.
fn estimated(work: &Work, entries: u64) -> (Vec<(f64, f64)>, u32) {
    let hasher = L1::seeded(settings(entries), SEED);
    let what_if = WhatIf::new(settings(entries));
    what_if.play(NOW, 0);
    for (at, &number) in work.reads.iter().enumerate() {
        let hash = hasher.hash_of(&work.keys[number as usize]);
        if what_if.wants(hash) {
            what_if.read(Touch { hash, weight: Some(1), deadline: Tick::FAR, at: time(at) });
        }
        if at % ROUND == ROUND - 1 {
            what_if.play(time(at), at as u64 + 1);
        }
    }
    let reads = work.reads.len() as u64;
    let end = time(work.reads.len());
    what_if.play(end, reads);
    let estimates = what_if.estimates(end, reads);
    let sizes = estimates.sizes.iter().map(|size| (size.scale, size.l1_hit_rate.unwrap_or(0.0)));
    (sizes.collect(), estimates.one_in)
}

fn main() {
    let mut works: Vec<Work> = traces().iter().map(|path| work(path)).collect();
    if works.is_empty() {
        works.push(synthetic());
    }
    println!("{:<20} {:>7} {:>6} | estimated / measured L1 hit rate at 0.5, 1, 2, 4 times", "trace", "entries", "1 in");
    let mut worst: f64 = 0.0;
    for (work, part) in works.iter().flat_map(|work| [0.01, 0.1, 0.3].map(|part| (work, part))) {
        let entries = (work.keys.len() as f64 * part) as u64;
        let (sizes, one_in) = estimated(work, entries);
        let mut line = format!("{:<20} {entries:>7} {one_in:>6} |", work.name);
        for (scale, estimated) in sizes {
            let measured = measured(work, (entries as f64 * scale) as u64);
            worst = worst.max((estimated - measured).abs());
            line.push_str(&format!("  {estimated:.4} / {measured:.4}"));
        }
        println!("{line}");
    }
    println!("largest error {:.2} percentage points (goal at most 2)", worst * 100.0);
}
