//! Memory of the server relative to the weights of L1, over `none`, where L1 is the store.
//!
//! Each case fills the L1 of a server of its own until entries are evicted, and reads the growth of RSS after freed pages
//! are returned. The weights are what the server says that its entries take (`terrace_l1_bytes`). The yardstick is a
//! redis-server that receives as many entries as L1 contains at the end. Goal: RSS growth of at most 1.10 times the
//! weights.
//!
//! `cargo bench --bench memory [-- --mib N]` (default: 256 and 512 MiB)

#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{fs, thread, time::Duration};

use redis::{Connection, pipe};
use support::{http::metric, process::Process, redis::RedisServer, resp::connection};

/// Number of writes per request.
const BATCH: usize = 1_000;
/// Time in which the allocator returns freed pages: they stay for two seconds.
const SETTLE: Duration = Duration::from_secs(6);
/// Fraction of the capacity that is written: entries are evicted at the end.
const FILL: f64 = 1.2;

/// Entries of one case.
struct Case {
    name: &'static str,
    /// Size of the value of the entry with this number.
    value_bytes: fn(usize) -> usize,
    ttl_s: Option<usize>,
}

const CASES: [Case; 4] = [
    Case { name: "16 + 64 B", value_bytes: |_| 64, ttl_s: None },
    Case { name: "16 + 64 B, TTL", value_bytes: |_| 64, ttl_s: Some(86_400) },
    Case { name: "16 + 64..2048 B, TTL", value_bytes: |number| 64 << (number % 6), ttl_s: Some(86_400) },
    Case { name: "16 + 1..1500 B", value_bytes: |number| number * 7_919 % 1_500 + 1, ttl_s: None },
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let chosen = arguments.iter().position(|argument| argument == "--mib");
    let chosen = chosen.and_then(|at| arguments.get(at + 1)?.parse().ok());
    let sizes = chosen.map_or(vec![256, 512], |mib| vec![mib]);
    println!("l1.size | entries             |   number | weights MB | RSS MB | RSS / weights | B per entry | redis B");
    for mib in sizes {
        CASES.iter().for_each(|case| measure(mib, case));
    }
}

fn rss_bytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
}

fn measure(mib: usize, case: &Case) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Process::start(dir.path(), &["--l2", "none", "--l1-size", &format!("{mib}MiB")]);
    let mut client = connection(&server.resp);
    // The first batch allocates what does not depend on the number of entries.
    let mut number = fill(&mut client, case, 0);
    thread::sleep(SETTLE);
    let l1 = |name: &str| metric(&server.http, name).expect("a metric");
    let (before, weights_before) = (rss_bytes(server.id()), l1("terrace_l1_bytes"));
    let mut written = 0.0;
    while written < FILL * (mib << 20) as f64 {
        let begun = number;
        number = fill(&mut client, case, number);
        written += (begun..number).map(|number| 160.0 + (case.value_bytes)(number) as f64).sum::<f64>();
    }
    thread::sleep(SETTLE);
    let grown = rss_bytes(server.id()) - before;
    let (weights, entries) = (l1("terrace_l1_bytes") - weights_before, l1("terrace_l1_entries"));
    let redis = redis_bytes(case, entries as usize);
    println!(
        "{mib:>3} MiB | {:<20}| {entries:>8} | {:>10.1} | {:>6.1} | {:>13.3} | {:>11.1} | {redis:>7.1}",
        case.name,
        weights / 1e6,
        grown / 1e6,
        grown / weights,
        grown / entries,
    );
}

/// Writes a batch of entries. Returns the number of the next one.
fn fill(client: &mut Connection, case: &Case, from: usize) -> usize {
    let mut batch = pipe();
    for number in from..from + BATCH {
        let value = vec![b'v'; (case.value_bytes)(number)];
        let set = batch.cmd("SET").arg(format!("key:{number:012}")).arg(value);
        if let Some(ttl_s) = case.ttl_s {
            set.arg("EX").arg(ttl_s);
        }
        set.ignore();
    }
    batch.exec(client).expect("the server answers");
    from + BATCH
}

/// Returns the growth of redis-server per entry.
fn redis_bytes(case: &Case, entries: usize) -> f64 {
    let redis = RedisServer::start();
    let mut client = redis.connect();
    let mut number = fill(&mut client, case, 0);
    let before = rss_bytes(redis.pid());
    while number < entries {
        number = fill(&mut client, case, number);
    }
    (rss_bytes(redis.pid()) - before) / (number - BATCH) as f64
}
