//! RESP GET answered from L1 compared with redis-server: server CPU per operation at pipeline depths of 1, 16 and 64.
//!
//! Both servers run as separate processes with the same keys. `redis-benchmark` drives them in turn, and the CPU time
//! of their threads is read from `/proc`. The output shows ours, the yardstick and the ratio: the median of several
//! interleaved rounds.
//!
//! `cargo bench --bench resp [-- --rounds N] [--clients N]`

#[path = "support/figures.rs"]
mod figures;
#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use figures::median;
use support::{
    process::{Process, cpu_ns},
    redis::RedisServer,
};

/// Number of keys, all present, with the names of `redis-benchmark -r`.
const KEYS: usize = 10_000;
/// Size of each value in bytes.
const VALUE_BYTES: usize = 100;
/// Pipeline depth and requests of a round: each takes a few seconds.
const RUNS: [(u32, u32); 3] = [(1, 300_000), (16, 3_000_000), (64, 6_000_000)];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (rounds, clients) = (option("--rounds", 5), option("--clients", 50));
    let redis = RedisServer::start();
    let yardstick = Target { address: format!("127.0.0.1:{}", redis.port()), pid: redis.pid() };
    yardstick.fill();
    println!("RESP GET, {VALUE_BYTES} B, {clients} clients, median of {rounds}: server CPU in ns per operation");
    // One worker is comparable: redis-server has one thread. With one worker per core, workers idle more often.
    for (workers, name) in [(1, "one worker"), (0, "one worker per core")] {
        compare(workers, name, &yardstick, rounds, clients);
    }
}

fn compare(workers: usize, name: &str, yardstick: &Target, rounds: usize, clients: usize) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let configuration = dir.path().join("terrace.toml");
    fs::write(&configuration, format!("[server]\nworkers = {workers}\n")).expect("the directory is writable");
    let configuration = configuration.to_str().expect("a path in UTF-8");
    let terrace = Process::start(dir.path(), &["--l2", "none", "--config", configuration]);
    let ours = Target { address: terrace.resp.clone(), pid: terrace.id() };
    ours.fill();
    for (pipeline, requests) in RUNS {
        let mut measured = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            measured.0.push(ours.cpu_ns_per_get(pipeline, requests, clients));
            measured.1.push(yardstick.cpu_ns_per_get(pipeline, requests, clients));
        }
        let (ours, redis) = (median(measured.0), median(measured.1));
        let ratio = ours / redis;
        println!("{name}, pipeline {pipeline:2}: ours {ours:6.0}  redis-server {redis:6.0}  ratio {ratio:.2}");
    }
}

struct Target {
    address: String,
    pid: u32,
}

impl Target {
    fn port(&self) -> &str {
        self.address.rsplit_once(':').expect("host and port").1
    }

    /// Sets all keys, in one pipeline.
    fn fill(&self) {
        let value = "x".repeat(VALUE_BYTES);
        let request = |number| format!("SET key:{number:012} {value}\r\n");
        let mut requests: String = (0..KEYS).map(request).collect();
        requests.push_str("QUIT\r\n");
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.write_all(requests.as_bytes()).expect("the server reads");
        let mut replies = String::new();
        stream.read_to_string(&mut replies).expect("the server answers");
        assert_eq!(replies, "+OK\r\n".repeat(KEYS + 1));
    }

    fn cpu_ns_per_get(&self, pipeline: u32, requests: u32, clients: usize) -> f64 {
        let before = cpu_ns(self.pid);
        let status = Command::new("redis-benchmark")
            .args(["-p", self.port(), "-t", "get", "-q", "-r", &KEYS.to_string()])
            .args(["-P", &pipeline.to_string(), "-n", &requests.to_string(), "-c", &clients.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("redis-benchmark is installed");
        assert!(status.success());
        (cpu_ns(self.pid) - before) / f64::from(requests)
    }
}
