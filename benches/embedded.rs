//! The embedded store compared with redis-server, which has an append-only file that it syncs each second: writes, reads
//! of the store, and FLUSHDB with a million keys.
//!
//! `redis-benchmark` drives both servers in turn. L1 of the server has room for 1 % of the keys, so that reads are of the
//! store. FLUSHDB is timed by a client of its own, idle and while `redis-benchmark` writes; redis-server receives FLUSHDB
//! ASYNC. Each flush finds all keys. The output shows ours, the yardstick and the ratio. Goal: FLUSHDB in at most 5 ms.
//!
//! `cargo bench --bench embedded [-- --rounds N] [--keys N]` (default 5 rounds, 1,000,000 keys)

#[path = "support/figures.rs"]
mod figures;
#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::process::{Child, Command, Stdio};

use figures::median;
use redis::{Connection, cmd, pipe};
use support::{command::Killed, process::Process, redis::RedisServer, resp::connection};
use terrace::clock::stopwatch_ns;

/// Size of each value in bytes.
const VALUE_BYTES: usize = 100;
/// Number of clients and pipeline depth of `redis-benchmark`.
const CLIENTS: &str = "50";
const PIPELINES: [&str; 2] = ["1", "16"];
/// Number of requests of a round.
const REQUESTS: usize = 200_000;
/// Number of writes per request of the fill.
const BATCH: usize = 1_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (rounds, keys) = (option("--rounds", 5), option("--keys", 1_000_000));
    let redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Process::start(dir.path(), &["--l2", "embedded", "--l1-size", "2MiB"]);
    let ours = Target { address: server.resp.clone(), flush: &["FLUSHDB"], keys };
    let yardstick = Target { address: format!("127.0.0.1:{}", redis.port()), flush: &["FLUSHDB", "ASYNC"], keys };
    println!("the embedded store and redis-server, {keys} keys, values of {VALUE_BYTES} B, median of {rounds}");
    ours.fill();
    yardstick.fill();
    for operation in ["set", "get"] {
        for pipeline in PIPELINES {
            compare_speed(&ours, &yardstick, operation, pipeline, rounds);
        }
    }
    for loaded in [false, true] {
        compare_flush(&ours, &yardstick, loaded, rounds);
    }
}

fn compare_speed(ours: &Target, yardstick: &Target, operation: &str, pipeline: &str, rounds: usize) {
    let mut measured = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        measured.0.push(ours.requests_per_s(operation, pipeline));
        measured.1.push(yardstick.requests_per_s(operation, pipeline));
    }
    let (ours, redis) = (median(measured.0), median(measured.1));
    let ratio = ours / redis;
    println!("{operation}, pipeline {pipeline:>2}: ours {ours:8.0}/s  redis-server {redis:8.0}/s  ratio {ratio:.2}");
}

fn compare_flush(ours: &Target, yardstick: &Target, loaded: bool, rounds: usize) {
    let mut measured = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        measured.0.push(ours.flush_ms(loaded));
        measured.1.push(yardstick.flush_ms(loaded));
    }
    let longest = measured.0.iter().copied().fold(0.0, f64::max);
    let (ours, redis) = (median(measured.0), median(measured.1));
    let when = if loaded { "under writes" } else { "idle" };
    let ratio = ours / redis;
    println!(
        "FLUSHDB, {when:<12}: ours {ours:6.2} ms (longest {longest:.2} ms)  redis-server {redis:6.2} ms  ratio {ratio:.2}"
    );
}

struct Target {
    address: String,
    flush: &'static [&'static str],
    keys: usize,
}

impl Target {
    fn benchmark(&self, operation: &str, pipeline: &str, requests: usize) -> Command {
        let (host, port) = self.address.rsplit_once(':').expect("host and port");
        let mut command = Command::new("redis-benchmark");
        command
            .args(["-h", host, "-p", port, "-t", operation, "-r", &self.keys.to_string(), "--csv"])
            .args(["-n", &requests.to_string(), "-c", CLIENTS, "-P", pipeline, "-d", &VALUE_BYTES.to_string()])
            .stderr(Stdio::null());
        command
    }

    fn requests_per_s(&self, operation: &str, pipeline: &str) -> f64 {
        let output = self.benchmark(operation, pipeline, REQUESTS).output().expect("redis-benchmark is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The last line: "SET","123456.00", and latencies.
        let field = text.lines().last().and_then(|line| line.split(',').nth(1)).unwrap_or_default();
        field.trim_matches('"').parse().unwrap_or_else(|_| panic!("no result in {text}"))
    }

    /// Sets all keys, with the names of `redis-benchmark -r`.
    fn fill(&self) -> Connection {
        let mut client = connection(&self.address);
        let value = "y".repeat(VALUE_BYTES);
        for from in (0..self.keys).step_by(BATCH) {
            let mut batch = pipe();
            (from..self.keys.min(from + BATCH)).for_each(|number| {
                batch.set(format!("key:{number:012}"), &value).ignore();
            });
            batch.exec(&mut client).expect("the server answers");
        }
        client
    }

    /// Returns the duration of one flush in ms.
    fn flush_ms(&self, loaded: bool) -> f64 {
        let mut client = self.fill();
        let _writes = loaded.then(|| self.start_writes());
        if loaded {
            // The writes have begun when they have changed a value.
            support::eventually("writes", || self.is_written(&mut client));
        }
        let mut flush = cmd(self.flush[0]);
        flush.arg(&self.flush[1..]);
        let begun = stopwatch_ns();
        flush.exec(&mut client).expect("a flush");
        (stopwatch_ns() - begun) as f64 / 1e6
    }

    fn start_writes(&self) -> Killed {
        let child: Child = self.benchmark("set", "16", 100_000_000).stdout(Stdio::null()).spawn().expect("it starts");
        Killed(child)
    }

    /// Returns whether a random key has a value of `redis-benchmark`.
    fn is_written(&self, client: &mut Connection) -> bool {
        let key = format!("key:{:012}", fastrand::usize(..self.keys));
        let value: Option<String> = cmd("GET").arg(key).query(client).expect("the server answers");
        value.is_some_and(|value| !value.starts_with('y'))
    }
}
