//! Patterns of a hostile client: `cargo bench --bench hostile [-- glob | sweep] [--keys N] [--long N]`
//!
//! * **glob**: time of one comparison by pattern length and text length, for patterns that make naive matchers slow.
//!   Goal: at most 2 ms for 1 KiB against 64 KiB on an idle core. Yardstick: the same with the matcher of Redis, stated
//!   by `redis-cli` through KEYS of one key.
//! * **sweep**: pattern bans over Redis with N keys (default 400,000) and some keys of 64 KiB (default 200), and the
//!   latency of PING directly to Redis meanwhile. Goals: PING under 50 ms with every pattern, at least 200,000 keys/s.

#[path = "support/figures.rs"]
mod figures;
#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use figures::median;
use redis::Connection;
use support::{grpc::connect, process::Process, redis::RedisServer};
use terrace::{
    glob::Glob,
    grpc::client::InvalidationClient,
    proto::{InvalidatePatternRequest, invalidate_pattern_request::Keys},
};
use tokio::time::Instant;

const LENGTHS: [usize; 4] = [16, 64, 256, 1_024];
const TEXTS: [usize; 4] = [64, 1_024, 16_384, 65_536];
/// Pause between two PINGs. With more than 500 commands per second, a sweep yields to the client (`BUSY_RATE`).
const THINK: Duration = Duration::from_millis(4);

/// A kind of pattern: its name, and the pattern of a given length.
type Shape = (&'static str, fn(usize) -> Vec<u8>);

const SHAPES: [Shape; 5] = [
    ("*aa...ab*", |n| [&b"*"[..], &vec![b'a'; n - 3], b"b*"].concat()),
    ("*?a...ab*", |n| [&b"*?"[..], &vec![b'a'; n - 4], b"b*"].concat()),
    ("*[^b]...b*", |n| [&b"*"[..], &b"[^b]".repeat((n - 3) / 4), b"b*"].concat()),
    ("a*a*...b*", |n| [&b"a*".repeat((n - 2) / 2)[..], b"b*"].concat()),
    ("?a*?a*...b*", |n| [&b"?a*".repeat((n - 2) / 3)[..], b"b*"].concat()),
];

/// Returns the median time of one comparison in microseconds.
fn time_us(glob: &Glob, text: &[u8]) -> f64 {
    median((0..11).map(|_| {
        let rounds = (1_000_000 / text.len()).clamp(1, 1_000);
        let begun = Instant::now();
        for _ in 0..rounds {
            assert!(!std::hint::black_box(glob.matches(std::hint::black_box(text))));
        }
        begun.elapsed().as_secs_f64() * 1e6 / rounds as f64
    }))
}

fn globs() {
    let redis = RedisServer::start();
    let mut line = redis.connect();
    println!("{:<12} {:>8} {:>8} {:>12} {:>12}", "pattern", "bytes", "text", "terrace us", "redis us");
    for (name, shape) in SHAPES {
        for length in LENGTHS {
            let pattern = shape(length);
            let glob = Glob::new(&pattern).expect("a pattern");
            for text in TEXTS {
                let text = vec![b'a'; text];
                redis::cmd("FLUSHDB").exec(&mut line).expect("redis answers");
                redis::cmd("SET").arg(&text).arg("").exec(&mut line).expect("redis answers");
                let begun = Instant::now();
                let found: Vec<Vec<u8>> = redis::cmd("KEYS").arg(&pattern).query(&mut line).expect("redis answers");
                let theirs = begun.elapsed().as_secs_f64() * 1e6;
                assert!(found.is_empty(), "{name}");
                let ours = time_us(&glob, &text);
                println!("{name:<12} {length:>8} {:>8} {ours:>12.2} {theirs:>12.0}", text.len());
            }
        }
    }
}

fn fill(line: &mut Connection, keys: usize, long: usize) {
    for chunk in (0..keys).collect::<Vec<_>>().chunks(5_000) {
        let mut pipe = redis::pipe();
        for number in chunk {
            pipe.set(format!("user:{number}:profile"), "a value of some thirty bytes..").ignore();
        }
        pipe.exec(line).expect("stored");
    }
    for number in 0..long {
        let key = [&vec![b'a'; 65_000][..], number.to_string().as_bytes()].concat();
        redis::cmd("SET").arg(key).arg("v").exec(line).expect("stored");
    }
}

/// Returns the number of removed keys and the duration of the sweep.
fn sweep(address: &str, pattern: &[u8]) -> (u64, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = InvalidationClient::new(connect(address).await);
        let keys = Some(Keys::Pattern(pattern.to_vec().into()));
        let request = InvalidatePatternRequest { keys, wait: true, ..Default::default() };
        let begun = Instant::now();
        let mut messages = client.invalidate_pattern(request).await.expect("a call").into_inner();
        let mut removed = 0;
        while let Some(message) = messages.message().await.expect("a message") {
            removed = message.removed;
        }
        (removed, begun.elapsed())
    })
}

/// Returns the longest PING in milliseconds, until `stop`.
fn pings(redis: &RedisServer, stop: &AtomicBool) -> f64 {
    let (mut line, mut longest) = (redis.connect(), Duration::ZERO);
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        redis::cmd("PING").exec(&mut line).expect("redis answers");
        longest = longest.max(begun.elapsed());
        std::thread::sleep(THINK);
    }
    longest.as_secs_f64() * 1e3
}

fn sweeps(keys: usize, long: usize) {
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let node = Process::start(dir.path(), &["--l2", &redis.url()]);
    let mut line = redis.connect();
    let hostile: Vec<(&str, Vec<u8>)> = SHAPES.iter().map(|(name, shape)| (*name, shape(1_024))).collect();
    let short = [&b"*"[..], &[b'a'; 61], b"b*"].concat();
    let ordinary: [(&str, &[u8]); 5] = [
        ("user:*", b"user:*"),
        ("*:profile", b"*:profile"),
        ("user:*7:*", b"user:*7:*"),
        ("none:*", b"none:*"),
        ("64 B, 2 stars", &short),
    ];
    println!("{keys} keys and {long} keys of 64 KiB");
    for (name, pattern) in ordinary.map(|(name, pattern)| (name, pattern.to_vec())).into_iter().chain(hostile) {
        fill(&mut line, keys, long);
        let stop = AtomicBool::new(false);
        let ((removed, took), longest) = std::thread::scope(|scope| {
            let pinging = scope.spawn(|| pings(&redis, &stop));
            let swept = sweep(&node.grpc, &pattern);
            stop.store(true, Relaxed);
            (swept, pinging.join().expect("no panic"))
        });
        let rate = (keys + long) as f64 / took.as_secs_f64();
        println!(
            "{name:<14} {removed:>8} removed, {rate:>9.0} keys/s (goal 200000), PING at most {longest:.1} ms (goal 50)"
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let wants = |part: &str| arguments.iter().any(|argument| argument == part);
    if wants("glob") || !wants("sweep") {
        globs();
    }
    if wants("sweep") || !wants("glob") {
        sweeps(option("--keys", 400_000), option("--long", 200));
    }
}
