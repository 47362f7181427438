//! Client CPU of reads from Redis: `cargo bench --bench l2_redis -- [operations] [callers]` (default 400,000 per row,
//! and 1, 8, 64 and 256 callers). If callers are given, only the rows of Terrace are measured, for a profiler.
//!
//! Uses one current-thread runtime, as a worker does, the given number of concurrent callers with one read in flight
//! each, and a dedicated redis-server on loopback. Shows the CPU time of this process per operation for the coalesced
//! pipelines of Terrace and, as yardsticks, for the multiplexing and for explicit pipelines of 16 of the redis crate.

#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{future::Future, sync::Arc, time::Duration};

use redis::{AsyncCommands, Client, aio::MultiplexedConnection, pipe};
use rustix::time::{ClockId, clock_gettime};
use support::redis::RedisServer;
use terrace::{
    clock::stopwatch_ns,
    l2::{
        Backend, Deadlines, State, Tunables,
        redis::{Redis, RedisBackend, RedisSettings, TlsFiles, url::RedisUrl},
    },
    model::Key,
};

const KEYS: usize = 10_000;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let operations = numbers.first().copied().unwrap_or(400_000);
    let server = RedisServer::start();
    server.ask::<()>(&[b"EVAL", b"for i=0,9999 do redis.call('SET', 'k'..i, string.rep('v', 100)) end", b"0"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("{:<44} {:>8} {:>12} {:>12}", "100 B values", "callers", "CPU µs/op", "wall µs/op");
    if let Some(&callers) = numbers.get(1) {
        return runtime.block_on(measure_ours(&server, callers, operations));
    }
    for callers in [1, 8, 64, 256] {
        runtime.block_on(measure_ours(&server, callers, operations));
        runtime.block_on(measure_crate(&server, callers, operations));
    }
}

async fn measure_ours(server: &RedisServer, callers: usize, operations: usize) {
    let settings =
        RedisSettings::new(RedisUrl::parse(&server.url()).expect("a URL"), TlsFiles::default()).expect("settings");
    let deadline = Duration::from_secs(30);
    let tunables = Tunables::new(Deadlines { read: deadline, write: deadline }, 1 << 20);
    let backend = Arc::new(Redis::new(&settings, tunables).backend());
    while backend.state() != State::Up {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for with_life in [false, true] {
        let name = if with_life { "Terrace, PTTL and GET" } else { "Terrace, GET" };
        let read = |caller, rounds| ours(Arc::clone(&backend), with_life, caller, rounds);
        measure(name, callers, operations, read).await;
    }
}

async fn measure_crate(server: &RedisServer, callers: usize, operations: usize) {
    let client = Client::open(server.url()).expect("a client");
    let crates = client.get_multiplexed_async_connection().await.expect("a connection");
    measure("redis crate, multiplexed, GET", callers, operations, |caller, rounds| {
        implicit(crates.clone(), caller, rounds)
    })
    .await;
    measure("redis crate, explicit pipelines of 16 GET", callers, operations, |caller, rounds| {
        explicit(crates.clone(), caller, rounds)
    })
    .await;
}

fn name(caller: usize, round: usize) -> String {
    format!("k{}", (caller * 7919 + round) % KEYS)
}

async fn ours(backend: Arc<RedisBackend>, with_life: bool, caller: usize, rounds: usize) {
    for round in 0..rounds {
        let key = Key::copied(name(caller, round).as_bytes()).expect("a key");
        let found = backend.get(std::slice::from_ref(&key), with_life).await.remove(0);
        assert!(found.is_ok_and(|found| found.is_some()));
    }
}

async fn implicit(mut connection: MultiplexedConnection, caller: usize, rounds: usize) {
    for round in 0..rounds {
        let value: Option<Vec<u8>> = connection.get(name(caller, round)).await.expect("an answer");
        assert!(value.is_some());
    }
}

async fn explicit(mut connection: MultiplexedConnection, caller: usize, rounds: usize) {
    for round in 0..rounds / 16 {
        let mut pipeline = pipe();
        for step in 0..16 {
            pipeline.get(name(caller, round * 16 + step));
        }
        let values: Vec<Option<Vec<u8>>> = pipeline.query_async(&mut connection).await.expect("answers");
        assert!(values.iter().all(Option::is_some));
    }
}

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

async fn measure<F: Future<Output = ()> + Send + 'static>(
    what: &str,
    callers: usize,
    operations: usize,
    read: impl Fn(usize, usize) -> F,
) {
    // A single caller waits for a round trip each time: a tenth of the operations suffices.
    let rounds = if callers == 1 { operations / 10 } else { operations / callers };
    let (cpu, wall) = (cpu_ns(), stopwatch_ns());
    let tasks: Vec<_> = (0..callers).map(|caller| tokio::spawn(read(caller, rounds))).collect();
    for task in tasks {
        task.await.expect("a caller ends");
    }
    #[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
    let per_op = |ns: u64| ns as f64 / 1_000.0 / (rounds * callers) as f64;
    println!("{what:<44} {callers:>8} {:>12.2} {:>12.2}", per_op(cpu_ns() - cpu), per_op(stopwatch_ns() - wall));
}
