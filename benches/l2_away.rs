//! Redis is stopped (SIGSTOP) under load: latency of calls in the meantime, time to recovery, and memory.
//!
//! `cargo bench --bench l2_away [-- --callers N] [--think MS] [--stopped SECONDS]` (default 500 callers, 50 ms, 5 s)
//!
//! Each caller waits about `think` between two calls, so that the machine is not busy by itself: the benchmark measures
//! the wait for Redis, not for a core. Half of the calls read keys in L1, half read keys that need Redis each time. For
//! each phase, the output shows how the calls that began in it ended, and their latency. Goals: p99 of at most the read
//! deadline plus 10 ms while Redis is stopped; full speed at most 2 s after Redis resumes; no growth of memory; no
//! wrong answer.

#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use support::{grpc::connect, process::Process, redis::RedisServer};
use terrace::{
    grpc::client::CacheClient,
    proto::{GetRequest, Tier, get_response},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::transport::Channel;

/// Number of keys in L1.
const WARM: u64 = 1000;
/// Number of connections that the calls share.
const CONNECTIONS: u64 = 10;
/// The default of `l2.read_timeout`.
const READ_DEADLINE: Duration = Duration::from_millis(50);
/// Duration of the phases before Redis is stopped and after it resumes.
const QUIET: Duration = Duration::from_secs(5);
/// Interval in which speed is measured.
const STEP: Duration = Duration::from_millis(100);
/// Full speed: this fraction of the calls per step of the quiet phase, without errors, in [`FULL_STEPS`] consecutive
/// steps.
const FULL: f64 = 0.8;
const FULL_STEPS: usize = 10;
/// Longer calls are reported with this latency, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// Outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    L1,
    L2,
    Error(i32),
    Wrong,
}

#[derive(Debug, Clone, Copy)]
struct Call {
    began: Instant,
    took: Duration,
    end: End,
}

struct Options {
    callers: u64,
    think: Duration,
    stopped: Duration,
}

fn options() -> Options {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    Options {
        callers: option("--callers", 500),
        think: Duration::from_millis(option("--think", 50)),
        stopped: Duration::from_secs(option("--stopped", 5)),
    }
}

async fn caller(mut client: CacheClient<Channel>, think: Duration, seed: u64, calls: Arc<Mutex<Vec<Call>>>) {
    let mut random = fastrand::Rng::with_seed(seed);
    loop {
        sleep(think.mul_f64(2.0 * random.f64())).await;
        let number = random.u64(..WARM);
        let is_warm = random.bool();
        let key = if is_warm { format!("warm:{number}") } else { format!("absent:{}", random.u64(..)) };
        let began = Instant::now();
        let answer = client.get(GetRequest { key: key.into(), options: None }).await;
        let took = began.elapsed();
        let end = match answer.map(|answer| answer.into_inner().result) {
            Ok(Some(get_response::Result::Found(found))) if is_warm && found.value == number.to_string() => {
                if found.tier() == Tier::L1 { End::L1 } else { End::L2 }
            }
            Ok(Some(get_response::Result::Missing(_))) if !is_warm => End::L2,
            Ok(_) => End::Wrong,
            Err(status) => End::Error(status.code() as i32),
        };
        calls.lock().push(Call { began, took, end });
    }
}

fn rss_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64 / 1024
}

/// Returns the maximum memory until `end`.
async fn watch(pid: u32, span: Duration) -> u64 {
    let end = Instant::now() + span;
    let mut most = 0;
    while Instant::now() < end {
        most = most.max(rss_kib(pid));
        sleep(STEP).await;
    }
    most
}

fn report(name: &str, calls: &[Call]) {
    let mut latency = Histogram::<u64>::new_with_bounds(1, LONGEST_US, 3).expect("bounds in order");
    let mut ends: BTreeMap<End, u64> = BTreeMap::new();
    for call in calls {
        latency.saturating_record(u64::try_from(call.took.as_micros()).unwrap_or(u64::MAX));
        *ends.entry(call.end).or_default() += 1;
    }
    let quantile = |at| latency.value_at_quantile(at) as f64 / 1000.0;
    let (p50, p99, max) = (quantile(0.5), quantile(0.99), latency.max() as f64 / 1000.0);
    println!("{name:>8}: {:>7} calls  p50 {p50:>8.2} ms  p99 {p99:>8.2} ms  max {max:>8.2} ms  {ends:?}", calls.len());
}

/// Returns the time from `from` until full speed.
fn recovered(calls: &[Call], from: Instant, expected: f64) -> Option<Duration> {
    let mut steps: Vec<(f64, u64)> = Vec::new();
    for call in calls.iter().filter(|call| call.began + call.took >= from) {
        let step = ((call.began + call.took - from).as_micros() / STEP.as_micros()) as usize;
        steps.resize(steps.len().max(step + 1), (0.0, 0));
        steps[step].0 += 1.0;
        steps[step].1 += u64::from(matches!(call.end, End::Error(_)));
    }
    let full = |(count, errors): &(f64, u64)| *errors == 0 && *count >= FULL * expected;
    let first = steps.windows(FULL_STEPS).position(|window| window.iter().all(full))?;
    Some(STEP * u32::try_from(first).unwrap_or(u32::MAX))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = options();
    let redis = RedisServer::start();
    for number in 0..WARM {
        redis.run(&format!("SET warm:{number} {number}"));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let server = Process::start(directory.path(), &["--l2", &redis.url()]);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let client = CacheClient::new(connect(&server.grpc).await);
        for number in (connection..options.callers).step_by(CONNECTIONS as usize) {
            tasks.spawn(caller(client.clone(), options.think, number, Arc::clone(&calls)));
        }
    }
    // Waits until L1 is warm.
    let _running = timeout(QUIET, tasks.join_next()).await;
    let take = || std::mem::take(&mut *calls.lock());
    drop(take());
    let most = watch(server.id(), QUIET).await;
    let quiet = take();
    redis.pause();
    let most_stopped = watch(server.id(), options.stopped).await;
    redis.resume();
    let resumed = Instant::now();
    let during = take();
    let most_after = watch(server.id(), QUIET).await;
    let after = take();
    tasks.abort_all();

    println!("{} callers, {:?} between calls; deadline of reads {READ_DEADLINE:?}", options.callers, options.think);
    report("quiet", &quiet);
    report("stopped", &during);
    report("after", &after);
    let steps = QUIET.as_secs_f64() / STEP.as_secs_f64();
    match recovered(&after, resumed, quiet.len() as f64 / steps) {
        Some(span) => println!("full speed {span:?} after Redis resumed (in steps of {STEP:?})"),
        None => println!("not at full speed within {QUIET:?}"),
    }
    println!("memory {most} KiB before, {most_stopped} KiB while stopped, {most_after} KiB after");
}
