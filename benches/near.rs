//! Hits of the near cache of the Rust client: `cargo bench --features peers --bench near [-- --rounds N]` (default 15)
//!
//! One thread reads 1,000 keys with values of 100 B in turn, all of which have copies:
//! * `get`: `client.get(key).await`, with the key as `&Bytes` and as `&str`;
//! * `get_many`: 100 keys per call, per key;
//! * moka (`sync::Cache::get` with `Bytes`), the yardstick, and quick_cache, in which the copies are stored.
//!
//! The table has the median of all rounds, in which the subjects take turns: CPU time of the reading thread per read, which is accurate on
//! a shared machine too, and the ratio to moka. Goal:
//! at most 150 ns per hit. The last lines show the memory of a million copies: growth of RSS and sum of the weights.

#[path = "support/figures.rs"]
mod figures;
#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{fs, hint::black_box, time::Duration};

use bytes::Bytes;
use figures::median;
use rustix::time::{ClockId, clock_gettime};
use support::{process::Process, setting_from_environment};
use terrace_client::{Client, NearCache, NewEntry};

const KEYS: usize = 1_000;
const READS: usize = 1_000_000;
/// Copies of the memory measurement.
const COPIES: usize = 1_000_000;
/// Deadline that only a hang exceeds.
const PATIENCE: Duration = Duration::from_secs(30);
const SUBJECTS: [&str; 5] = ["moka", "quick_cache", "get(&Bytes)", "get(&str)", "get_many, per key"];

struct Caches {
    keys: Vec<Bytes>,
    texts: Vec<String>,
    moka: moka::sync::Cache<Bytes, Bytes>,
    quick: quick_cache::sync::Cache<Bytes, Bytes>,
    client: Client,
}

fn key(number: usize) -> String {
    format!("key:{number:012}")
}

async fn connect(node: &Process, max_bytes: u64) -> Client {
    let near = NearCache::new().max_bytes(max_bytes);
    let client = Client::builder(&node.grpc).read_timeout(PATIENCE).near_cache(near);
    let client = client.connect().await.expect("a client");
    while client.near_stats().is_none_or(|stats| stats.feeds == 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client
}

/// Writes keys, and reads them until all have copies.
async fn fill(client: &Client, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for part in numbers.chunks(1_000) {
        let entries = part.iter().map(|number| NewEntry::new(key(*number), vec![b'v'; 100]));
        client.set_many(entries).timeout(PATIENCE).await.expect("stored");
    }
    loop {
        let before = client.near_stats().map_or(0, |stats| stats.misses);
        for part in numbers.chunks(1_000) {
            client.get_many(part.iter().map(|number| key(*number))).await.expect("read");
        }
        if client.near_stats().is_some_and(|stats| stats.misses == before) {
            return;
        }
    }
}

impl Caches {
    async fn new(node: &Process) -> Self {
        let client = connect(node, 64 << 20).await;
        fill(&client, KEYS).await;
        let texts: Vec<String> = (0..KEYS).map(key).collect();
        let keys: Vec<Bytes> = texts.iter().map(|text| Bytes::from(text.clone())).collect();
        let (moka, quick) = (moka::sync::Cache::new(10_000), quick_cache::sync::Cache::new(10_000));
        for key in &keys {
            moka.insert(key.clone(), Bytes::from(vec![b'v'; 100]));
            quick.insert(key.clone(), Bytes::from(vec![b'v'; 100]));
        }
        Self { keys, texts, moka, quick, client }
    }

    /// Returns the CPU time of a read in ns.
    async fn measure(&self, subject: usize, reads: usize) -> f64 {
        let begun = cpu_ns();
        for number in 0..reads {
            let place = number % KEYS;
            let key = &self.keys[place];
            let value = match subject {
                0 => self.moka.get(black_box(&key[..])),
                1 => self.quick.get(black_box(&key[..])),
                2 => self.client.get(black_box(key)).await.expect("an answer"),
                3 => self.client.get(black_box(&self.texts[place])).await.expect("an answer"),
                _ if place.is_multiple_of(100) => {
                    let keys = &self.keys[place..place + 100];
                    self.client.get_many(black_box(keys)).await.expect("an answer").pop().flatten()
                }
                _ => continue,
            };
            assert_eq!(value.map(|value| value.len()), Some(100));
        }
        (cpu_ns() - begun) as f64 / reads as f64
    }
}

/// Returns the CPU time of this thread in ns.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the status of this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

async fn memory(node: &Process) {
    let before = rss_bytes();
    let client = connect(node, 4 << 30).await;
    fill(&client, COPIES).await;
    let (grown, stats) = (rss_bytes() - before, client.near_stats().expect("a near cache"));
    let per_copy = |bytes: u64| bytes / stats.entries.max(1);
    println!("\n{} copies of 16 + 100 bytes: RSS grew by {} bytes each", stats.entries, per_copy(grown));
    println!("weight: {} bytes each", per_copy(stats.weight));
}

fn main() {
    let rounds: usize = {
        let mut arguments = std::env::args().skip_while(|argument| argument != "--rounds").skip(1);
        arguments.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(15)
    };
    let folder = tempfile::tempdir().expect("a directory");
    let node = Process::start(folder.path(), &["--l2", "none", "--l1-size", "2GiB"]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let caches = Caches::new(&node).await;
        let mut figures = vec![Vec::new(); SUBJECTS.len()];
        for _ in 0..rounds {
            for (subject, figures) in figures.iter_mut().enumerate() {
                caches.measure(subject, READS / 20).await;
                figures.push(caches.measure(subject, READS).await);
            }
        }
        let medians: Vec<f64> = figures.into_iter().map(median).collect();
        println!("{:20} {:>10} {:>14}", "", "ns per hit", "ratio to moka");
        for (name, ns) in SUBJECTS.iter().zip(&medians) {
            println!("{name:20} {ns:>10.0} {:>14.2}", ns / medians[0]);
        }
        if setting_from_environment("TERRACE_NEAR_MEMORY", 1) == 1 {
            memory(&node).await;
        }
    });
}
