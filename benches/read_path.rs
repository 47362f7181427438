//! A gRPC Get that L2 answers, compared with its parts, and the cost of the coherence check for a hit: `cargo bench
//! --bench read_path [-- ROUNDS]` (default 7).
//!
//! One caller at a time, because the benchmark measures the latency of one read. Ours: `terrace serve` over a real
//! redis-server, with a key that a policy excludes from L1. Yardstick: a direct GET with the redis crate, plus a call
//! of a bare tonic method that returns the same message. Rounds alternate between the three; the output shows the
//! medians of their p50.
//!
//! The check: whether an epoch is open, which is the cost of fence and counters for a hit, and for comparison one read
//! of the clock.

#[path = "support/bare.rs"]
mod bare;
#[path = "support/figures.rs"]
mod figures;
#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{hint::black_box, time::Duration};

use figures::median;
use hdrhistogram::Histogram;
use redis::AsyncCommands;
use support::{grpc::connect, process::Process, redis::RedisServer};
use terrace::{
    clock::{Clock, Tick, stopwatch_ns},
    grpc::client::CacheClient,
    l1::{L1, PolicyKind, Settings},
    proto::{GetRequest, Tier, get_response},
};
use tokio::net::TcpListener;

/// Number of calls of one round.
const CALLS: usize = 3_000;
const KEY: &str = "below:1";
const CHECKS: u64 = 20_000_000;

/// Returns the p50 of `call` in microseconds.
async fn p50<F: AsyncFnMut()>(mut call: F) -> f64 {
    let mut latency = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).expect("bounds in order");
    for _ in 0..CALLS {
        let begun = stopwatch_ns();
        call().await;
        latency.saturating_record(stopwatch_ns() - begun);
    }
    latency.value_at_quantile(0.5) as f64 / 1_000.0
}

async fn read_path(rounds: usize) {
    let redis = RedisServer::start();
    redis.ask::<()>(&[b"SET", KEY.as_bytes(), &bare::value()]);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("terrace.toml");
    std::fs::write(&file, "[[policy]]\nmatch = \"below:*\"\nl1 = false\n").expect("a file");
    let file = file.display().to_string();
    let server = Process::start(directory.path(), &["--l2", &redis.url(), "--config", &file]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    // Runs on its own thread, because the server is a separate process.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = listener.into_std().expect("a socket");
        runtime.block_on(async { bare::serve_bare(TcpListener::from_std(listener).expect("a socket")).await });
    });
    let (mut ours, mut plain) =
        (CacheClient::new(connect(&server.grpc).await), CacheClient::new(connect(&address).await));
    let client = redis::Client::open(redis.url()).expect("a URL");
    let mut direct = client.get_multiplexed_async_connection().await.expect("a connection");
    let request = || GetRequest { key: KEY.into(), options: None };

    let mut figures = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        figures[0].push(
            p50(async || {
                let answer = ours.get(request()).await.expect("it answers").into_inner();
                let found =
                    matches!(answer.result, Some(get_response::Result::Found(found)) if found.tier() == Tier::L2);
                assert!(found, "L2 is to answer");
            })
            .await,
        );
        figures[1].push(p50(async || drop(plain.get(request()).await.expect("it answers"))).await);
        figures[2].push(
            p50(async || {
                let value: Vec<u8> = direct.get(KEY).await.expect("it answers");
                assert_eq!(value.len(), bare::VALUE_BYTES);
            })
            .await,
        );
    }
    let [ours, plain, direct] = figures.map(median);
    println!("gRPC Get, L2 hit, p50 of {CALLS} calls, median of {rounds} rounds");
    println!(
        "ours {ours:.1} us | bare tonic call {plain:.1} us + direct GET {direct:.1} us = {:.1} us",
        plain + direct
    );
    println!("ratio {:.2} (goal at most 1.3)", ours / (plain + direct));
}

fn per_call_ns<T>(mut call: impl FnMut() -> T) -> f64 {
    let begun = stopwatch_ns();
    for _ in 0..CHECKS {
        black_box(call());
    }
    (stopwatch_ns() - begun) as f64 / CHECKS as f64
}

fn check(rounds: usize) {
    let l1 = L1::new(Settings { capacity_bytes: 1 << 20, max_entries: None, policy: PolicyKind::Learned });
    let (clock, epoch) = (Clock::real(), l1.begin(Tick::FAR).expect("the first epoch"));
    let now = clock.now();
    let empty = median((0..rounds).map(|_| per_call_ns(|| black_box(now))));
    let checks = (0..rounds).map(|_| per_call_ns(|| l1.is_open(black_box(epoch), black_box(now))));
    let check = median(checks) - empty;
    let clocks = (0..rounds).map(|_| per_call_ns(|| clock.now()));
    println!(
        "fence and counters: {check:.1} ns per hit (goal at most 15); one read of the clock: {:.1} ns",
        median(clocks)
    );
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(7);
    check(rounds);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(read_path(rounds));
    // Lets the threads of the servers write their last output.
    runtime.shutdown_timeout(Duration::from_millis(100));
}
