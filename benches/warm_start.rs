//! Benefit of a warm start: `cargo bench --bench warm_start -- TRACE [speed]` (default 5 times as fast as recorded).
//!
//! `terrace replay` drives a node over a real Redis with the first half of the trace, and then with a slice whose last
//! ten seconds are "before". The node is restarted with SIGTERM and driven with the next slice from `ready` on: ten
//! seconds "warm". Then it is restarted without its list of hot keys and driven with the same slice: ten seconds
//! "cold". The output shows the L1 hit rate of each, for an L1 that holds all keys and for an L1 that holds a tenth of
//! them.

#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use support::{
    eventually,
    grpc::{block_on, connect},
    process::Process,
    redis::RedisServer,
};
use terrace::{
    cli::trace::Trace,
    grpc::client::InsightClient,
    proto::{GetStatsRequest, GetStatsResponse},
};

/// Duration of a measurement.
const WINDOW: Duration = Duration::from_secs(10);

/// The slices of the trace.
struct Parts {
    fill: PathBuf,
    before: PathBuf,
    after: PathBuf,
    keys: u64,
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let Some(trace) = args.next() else {
        println!("a trace is required: cargo bench --bench warm_start -- orm-busy-1m.csv.zst");
        return;
    };
    let speed: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let folder = tempfile::tempdir().expect("a folder");
    let parts = split(Path::new(&trace), folder.path(), speed);
    println!("{trace} at {speed} times its speed, {} keys; L1 hit rate of {} s", parts.keys, WINDOW.as_secs());
    println!("{:>12} {:>8} {:>8} {:>8} {:>12}", "L1 entries", "before", "warm", "cold", "warm/before");
    for entries in [parts.keys, parts.keys / 10] {
        let [before, warm, cold] = run(&parts, entries, speed);
        println!("{entries:>12} {before:>8.4} {warm:>8.4} {cold:>8.4} {:>12.3}", warm / before);
    }
}

/// Splits the trace: half of it to fill, then two slices slightly longer than the measurement.
fn split(trace: &Path, folder: &Path, speed: u64) -> Parts {
    let requests: Vec<_> = Trace::open(trace).expect("a trace").map(|request| request.expect("a request")).collect();
    let slice_ms = (WINDOW.as_millis() as u64 + 5_000) * speed;
    let middle_ms = (requests[0].at_ms + requests[requests.len() - 1].at_ms) / 2;
    let write = |name: &str, from_ms: u64, to_ms: u64| {
        let path = folder.join(name);
        let mut file = BufWriter::new(fs::File::create(&path).expect("a file"));
        for request in requests.iter().filter(|request| (from_ms..to_ms).contains(&request.at_ms)) {
            let key = String::from_utf8_lossy(&request.key);
            writeln!(file, "{},{key},{}", request.at_ms as f64 / 1e3, request.size).expect("room for it");
        }
        path
    };
    let keys: std::collections::HashSet<_> = requests.iter().map(|request| &request.key).collect();
    Parts {
        fill: write("fill.csv", 0, middle_ms),
        before: write("before.csv", middle_ms, middle_ms + slice_ms),
        after: write("after.csv", middle_ms + slice_ms, middle_ms + 2 * slice_ms),
        keys: keys.len() as u64,
    }
}

fn run(parts: &Parts, entries: u64, speed: u64) -> [f64; 3] {
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    let start = || {
        let (url, entries) = (redis.url(), entries.to_string());
        Process::start(
            data.path(),
            &["--l2", &url, "--l1-max-entries", &entries, "--l2-read-timeout", "5s", "--l2-write-timeout", "5s"],
        )
    };
    let node = start();
    let mut filled = replay(&node, &parts.fill, None);
    assert!(filled.wait().expect("it ends").success(), "the trace is played");
    let mut playing = replay(&node, &parts.before, Some(speed));
    sleep(Duration::from_secs(5));
    let before = hit_rate(&node);
    assert!(playing.wait().expect("it ends").success(), "the trace is played");
    stop(node);
    let measured = || {
        let node = start();
        let mut playing = replay(&node, &parts.after, Some(speed));
        let rate = hit_rate(&node);
        assert!(playing.wait().expect("it ends").success(), "the trace is played");
        node.log()
            .lines()
            .filter(|line| line.contains("warm"))
            .for_each(|line| eprintln!("{}", line.split_once("INFO").map_or(line, |(_, rest)| rest)));
        stop(node);
        rate
    };
    let warm = measured();
    fs::remove_file(data.path().join("hot-keys")).expect("it was kept");
    [before, warm, measured()]
}

fn replay(node: &Process, trace: &Path, speed: Option<u64>) -> Child {
    let speed = speed.map_or("max".to_owned(), |speed| speed.to_string());
    Command::new(env!("CARGO_BIN_EXE_terrace"))
        .arg("replay")
        .arg(trace)
        .args(["--server", &node.grpc, "--speed", &speed])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

/// Returns the L1 hit rate of the next ten seconds.
fn hit_rate(node: &Process) -> f64 {
    let first = counts(node);
    sleep(WINDOW);
    let last = counts(node);
    (last.0 - first.0) as f64 / (last.1 - first.1).max(1) as f64
}

/// Returns the number of L1 hits, and of reads.
fn counts(node: &Process) -> (u64, u64) {
    let stats: GetStatsResponse = block_on(async {
        let mut insight = InsightClient::new(connect(&node.grpc).await);
        insight.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner()
    });
    let reads = stats.reads.unwrap_or_default();
    (reads.hit_l1, reads.hit_l1 + reads.hit_l2 + reads.miss)
}

fn stop(mut node: Process) {
    let pid = i32::try_from(node.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, Signal::TERM).expect("it lives");
    eventually("it drains", || node.ended().is_some());
}
