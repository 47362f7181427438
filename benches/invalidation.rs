//! A pattern over many keys: how soon it takes effect on two nodes, how fast it is swept, and how it affects other
//! clients.
//!
//! `cargo bench --bench invalidation [-- --keys N] [--matching N]` (default 1,000,000 keys of which 200,000 match)
//!
//! The same keys are removed five times: by Terrace while clients read old values from both nodes; by Terrace while no
//! other client uses Redis; by Terrace under load; and under the same load by `redis-cli --scan | xargs redis-cli
//! unlink`, and by KEYS and DEL. The load consists of GETs directly to Redis from a few connections that pause between
//! two calls, so that their latency shows the effect on Redis. Goals: the pattern takes effect on both nodes at most 20
//! ms after the call has returned its ban; 200,000 keys/s are swept on an idle Redis; the p99 of the load is at most
//! twice its undisturbed value.

#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use redis::{Commands, Connection};
use support::{grpc::connect, process::Process, redis::RedisServer};
use terrace::{
    grpc::client::InvalidationClient,
    proto::{InvalidatePatternRequest, invalidate_pattern_request::Keys},
};
use tokio::time::Instant;

/// Number of matching keys that are in L1 of both nodes.
const WARM: usize = 20_000;
/// Number of connections of the load, and the pause between two calls of a connection.
const LOAD: usize = 4;
const THINK: Duration = Duration::from_micros(500);
/// Duration of the measurement of the undisturbed load.
const QUIET: Duration = Duration::from_secs(3);

fn fill(redis: &mut Connection, keys: usize, matching: usize) {
    let step = keys / matching;
    for chunk in (0..keys).collect::<Vec<_>>().chunks(5_000) {
        let mut pipe = redis::pipe();
        for number in chunk {
            let name = if number % step == 0 { format!("user:{}", number / step) } else { format!("other:{number}") };
            pipe.set(name, "a value of some thirty bytes..").ignore();
        }
        pipe.exec(redis).expect("stored");
    }
}

fn client(address: &str) -> Connection {
    redis::Client::open(format!("redis://{address}")).expect("an address").get_connection().expect("it accepts")
}

fn warm(node: &mut Connection) {
    for number in 0..WARM {
        node.get::<_, String>(format!("user:{number}")).expect("it is there");
    }
}

/// Returns the latencies in nanoseconds of GETs directly to Redis, until `stop`.
fn load(redis: &RedisServer, keys: usize, stop: &AtomicBool) -> Histogram<u64> {
    let histogram = || Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("a histogram");
    let mut all = histogram();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..LOAD)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = redis.connect();
                    let mut latencies = histogram();
                    while !stop.load(Relaxed) {
                        let key = format!("other:{}", fastrand::usize(..keys));
                        let began = Instant::now();
                        let _: Option<String> = connection.get(key).expect("redis answers");
                        latencies.saturating_record(began.elapsed().as_nanos() as u64);
                        std::thread::sleep(THINK);
                    }
                    latencies
                })
            })
            .collect();
        for thread in threads {
            all.add(thread.join().expect("no panic")).expect("the same bounds");
        }
    });
    all
}

/// Runs `work` under load. Returns its result, its duration, and the latencies of the load.
fn under_load<T>(redis: &RedisServer, keys: usize, work: impl FnOnce() -> T) -> (T, Duration, Histogram<u64>) {
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| load(redis, keys, &stop));
        let began = Instant::now();
        let done = work();
        let took = began.elapsed();
        stop.store(true, Relaxed);
        (done, took, loading.join().expect("no panic"))
    })
}

/// Removes `user:*` through Terrace. Returns the time until the ban was returned and the duration of the sweep; calls
/// `look` with the time of the first message.
fn invalidate(address: &str, look: impl FnOnce(Instant)) -> (Duration, Duration, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = InvalidationClient::new(connect(address).await);
        let keys = Some(Keys::Pattern(b"user:*".to_vec().into()));
        let request = InvalidatePatternRequest { keys, wait: true, ..Default::default() };
        let began = Instant::now();
        let mut messages = client.invalidate_pattern(request).await.expect("a call").into_inner();
        messages.message().await.expect("a message").expect("the ban");
        let returned = began.elapsed();
        look(Instant::now());
        let mut removed = 0;
        while let Some(message) = messages.message().await.expect("a message") {
            removed = message.removed;
        }
        (returned, began.elapsed() - returned, removed)
    })
}

/// Returns how long after the ban `node` still returned an old value, over all warm keys.
fn in_effect_after(node: &mut Connection, returned: Instant) -> Duration {
    let mut last = Duration::ZERO;
    for number in 0..WARM {
        let value: Option<String> = node.get(format!("user:{number}")).expect("it answers");
        if value.is_some() {
            last = returned.elapsed();
        }
    }
    last
}

fn us(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1_000.0
}

/// A way to remove the matching keys.
type Way<'a> = Box<dyn Fn() + 'a>;

fn shell(script: &str) {
    assert!(Command::new("sh").args(["-c", script]).status().expect("a shell").success(), "{script}");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (keys, matching) = (option("--keys", 1_000_000), option("--matching", 200_000));
    let redis = RedisServer::start();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let nodes: Vec<Process> = dirs.iter().map(|dir| Process::start(dir.path(), &["--l2", &redis.url()])).collect();
    let (mut straight, mut clients) =
        (redis.connect(), nodes.iter().map(|node| client(&node.resp)).collect::<Vec<_>>());
    let mut refill = |clients: &mut Vec<Connection>| {
        fill(&mut straight, keys, matching);
        clients.iter_mut().for_each(warm);
    };
    println!("{keys} keys, {matching} match user:*, {WARM} of the matching keys in L1 of both nodes");

    refill(&mut clients);
    let mut effects = Vec::new();
    let (returned, _, _) = invalidate(&nodes[0].grpc, |at| {
        effects = clients.iter_mut().map(|node| in_effect_after(node, at)).collect();
    });
    println!(
        "effect: ban after {:.1} ms; old values until {:.1} and {:.1} ms after it (goal 20)",
        returned.as_secs_f64() * 1e3,
        effects[0].as_secs_f64() * 1e3,
        effects[1].as_secs_f64() * 1e3,
    );

    refill(&mut clients);
    let (_, swept, removed) = invalidate(&nodes[0].grpc, |_| {});
    println!(
        "idle: {removed} removed in {:.2} s: {:.0} matching keys/s (goal 200000), {:.0} keys/s examined",
        swept.as_secs_f64(),
        removed as f64 / swept.as_secs_f64(),
        keys as f64 / swept.as_secs_f64(),
    );

    let (_, _, quiet) = under_load(&redis, keys, || std::thread::sleep(QUIET));
    println!("load alone: p50 {:.0} us, p99 {:.0} us", us(&quiet, 0.5), us(&quiet, 0.99));
    let port = redis.port();
    let ways: [(&str, Way<'_>); 3] = [
        (
            "terrace",
            Box::new(|| {
                invalidate(&nodes[0].grpc, |_| {});
            }),
        ),
        (
            "redis-cli --scan | xargs unlink",
            Box::new(move || {
                shell(&format!(
                    "redis-cli -p {port} --scan --pattern 'user:*' | xargs -n 1000 redis-cli -p {port} unlink >/dev/null"
                ));
            }),
        ),
        (
            "KEYS and DEL",
            Box::new(|| {
                let mut connection = redis.connect();
                let found: Vec<String> = connection.keys("user:*").expect("redis answers");
                for some in found.chunks(10_000) {
                    connection.del::<_, ()>(some).expect("redis answers");
                }
            }),
        ),
    ];
    for (name, way) in &ways {
        refill(&mut clients);
        let ((), took, loaded) = under_load(&redis, keys, way);
        println!(
            "{name}: {:.2} s, {:.0} matching keys/s; load p50 {:.0} us, p99 {:.0} us ({:.2} x), longest {:.1} ms",
            took.as_secs_f64(),
            matching as f64 / took.as_secs_f64(),
            us(&loaded, 0.5),
            us(&loaded, 0.99),
            us(&loaded, 0.99) / us(&quiet, 0.99),
            us(&loaded, 1.0) / 1_000.0,
        );
    }
}
