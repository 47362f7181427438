//! End-to-end benefit of prefetch: `cargo bench --bench prefetch_latency [-- REQUESTS [ROUNDS]]` (default 100,000 and
//! 3).
//!
//! `terrace replay` plays the beginning of orm-busy against servers with `prefetch = "off"` and `"auto"`, over a real
//! Redis that holds all keys and is a millisecond away (a proxy delays its answers). L1 has room for 10 % and for 1 %
//! of the keys. Each round starts both servers anew, in turn. The output shows the medians over the rounds of the
//! figures and of the ratios within a round, and the latency of a GET to Redis through the proxy.

#[path = "support/figures.rs"]
mod figures;
#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use figures::median;
use serde_json::Value;
use support::{
    eventually,
    grpc::{block_on, connect},
    http::metric,
    process::Process,
    proxy::{FaultProxy, Faults, Link, Who},
    redis::RedisServer,
    setting_from_environment,
};
use terrace::{
    cli::trace::Trace,
    clock::stopwatch_ns,
    grpc::client::InsightClient,
    proto::{GetAssociationsRequest, GetStatsRequest, GetStatsResponse},
};

/// Additional delay of an answer of Redis.
const AWAY: Duration = Duration::from_millis(1);
/// Divisors: L1 has room for the number of keys divided by each of them.
const PARTS: [u64; 2] = [10, 100];
const ARMS: [&str; 2] = ["off", "auto"];

/// Figures of one replay.
struct Played {
    mean_us: f64,
    p50_us: f64,
    p99_us: f64,
    misses: f64,
    l2_reads: f64,
    busy: f64,
    late: f64,
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let (requests, rounds) = (numbers.first().copied().unwrap_or(100_000), numbers.get(1).copied().unwrap_or(3));
    let traces: PathBuf = setting_from_environment("TERRACE_TRACES", "../shared/traces".into());
    let folder = tempfile::tempdir().expect("a folder");
    let Some((trace, keys)) = beginning(&traces.join("orm-busy-1m.csv.zst"), requests, folder.path()) else {
        println!("no orm-busy-1m.csv.zst in {} (TERRACE_TRACES)", traces.display());
        return;
    };
    let redis = RedisServer::start();
    fill(&redis, &keys);
    let proxy = FaultProxy::start(redis.port());
    proxy.set(Who::Link(Link::Data), Faults::late_answers(AWAY, Duration::ZERO));
    println!(
        "orm-busy, {requests} requests, {} keys, median of {rounds}; a GET of Redis: {:.0} µs",
        keys.len(),
        get_us(&proxy)
    );
    println!(
        "{:>6} {:>9} {:>9} {:>8} {:>8} {:>8} {:>9} {:>7} {:>7}",
        "L1", "prefetch", "mean µs", "p50 µs", "p99 µs", "misses", "L2 reads", "late", "busy"
    );
    for part in PARTS {
        let entries = (keys.len() as u64 / part).max(1);
        let mut played = ARMS.map(|_| Vec::new());
        for _ in 0..rounds {
            for (prefetch, played) in ARMS.iter().zip(&mut played) {
                played.push(play(&proxy, &trace, entries, prefetch));
            }
        }
        let [off, auto] = played;
        // Round by round, because other load on the machine varies.
        let ratio = |of: fn(&Played) -> f64| median(off.iter().zip(&auto).map(|(off, auto)| of(auto) / of(off)));
        let ratios = [
            ratio(|of| of.mean_us),
            ratio(|of| of.p50_us),
            ratio(|of| of.p99_us),
            ratio(|of| of.misses),
            ratio(|of| of.l2_reads),
        ];
        let figures = [&off, &auto].map(|played| {
            let figure = |of: fn(&Played) -> f64| median(played.iter().map(of));
            Played {
                mean_us: figure(|of| of.mean_us),
                p50_us: figure(|of| of.p50_us),
                p99_us: figure(|of| of.p99_us),
                misses: figure(|of| of.misses),
                l2_reads: figure(|of| of.l2_reads),
                busy: figure(|of| of.busy),
                late: figure(|of| of.late),
            }
        });
        for (prefetch, of) in ARMS.iter().zip(&figures) {
            println!(
                "{entries:>6} {prefetch:>9} {:>9.1} {:>8.0} {:>8.0} {:>8.0} {:>9.0} {:>7.0} {:>7.0}",
                of.mean_us, of.p50_us, of.p99_us, of.misses, of.l2_reads, of.late, of.busy
            );
        }
        let [mean, p50, p99, misses, l2_reads] = ratios;
        println!("{entries:>6} {:>9} {mean:>9.3} {p50:>8.3} {p99:>8.3} {misses:>8.3} {l2_reads:>9.3}", "ratio");
    }
}

/// Writes the first requests of a trace to a file. Returns its path and the keys.
fn beginning(trace: &Path, requests: usize, folder: &Path) -> Option<(PathBuf, BTreeSet<Vec<u8>>)> {
    let trace = Trace::open(trace).ok()?;
    let path = folder.join("beginning.csv");
    let mut file = BufWriter::new(fs::File::create(&path).expect("a file"));
    let mut keys = BTreeSet::new();
    for request in trace.take(requests) {
        let request = request.expect("a whole trace");
        let key = String::from_utf8_lossy(&request.key);
        writeln!(file, "{},{key},{}", request.at_ms as f64 / 1e3, request.size).expect("room for it");
        keys.insert(request.key);
    }
    file.flush().expect("room for it");
    Some((path, keys))
}

fn fill(redis: &RedisServer, keys: &BTreeSet<Vec<u8>>) {
    let mut below = redis.connect();
    for some in keys.iter().collect::<Vec<_>>().chunks(1_000) {
        let mut pipe = redis::pipe();
        for key in some {
            pipe.set(*key, "value").ignore();
        }
        pipe.query::<()>(&mut below).expect("it answers");
    }
}

/// Returns the median latency of several GETs through the proxy, in microseconds.
fn get_us(proxy: &FaultProxy) -> f64 {
    const GETS: usize = 200;
    let client = redis::Client::open(proxy.url()).expect("an address");
    let mut connection = client.get_connection().expect("it accepts");
    let get = || {
        let begun_ns = stopwatch_ns();
        redis::cmd("GET").arg("a").query::<Option<Vec<u8>>>(&mut connection).expect("it answers");
        (stopwatch_ns() - begun_ns) as f64 / 1e3
    };
    median(std::iter::repeat_with(get).take(GETS))
}

/// Plays the trace against a new server.
fn play(proxy: &FaultProxy, trace: &Path, entries: u64, prefetch: &str) -> Played {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("terrace.toml");
    fs::write(&file, format!("[[policy]]\nmatch = \"*\"\nprefetch = \"{prefetch}\"\n")).expect("a file");
    let (url, entries) = (proxy.url(), entries.to_string());
    let config = file.to_str().expect("UTF-8");
    let server = Process::start(
        folder.path(),
        &[
            "--l2",
            &url,
            "--l1-max-entries",
            &entries,
            "--l1-max-age",
            "1h",
            "--l2-read-timeout",
            "5s",
            "--config",
            config,
        ],
    );
    eventually("L1 is open", || stats(&server).coherence.is_some_and(|coherence| coherence.open));
    let output = Command::new(env!("CARGO_BIN_EXE_terrace"))
        .arg("replay")
        .arg(trace)
        .args(["--server", &server.grpc, "--format", "json"])
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let figure = |name: &str| report[name].as_f64().expect("a number");
    let late = block_on(async {
        let mut insight = InsightClient::new(connect(&server.grpc).await);
        let known = insight.get_associations(GetAssociationsRequest::default()).await.expect("it answers").into_inner();
        known.total.unwrap_or_default().late
    });
    let l2_reads = stats(&server).l2.unwrap_or_default().reads;
    Played {
        mean_us: figure("mean_us"),
        p50_us: figure("p50_us"),
        p99_us: figure("p99_us"),
        misses: figure("hit_l2") + figure("miss"),
        l2_reads: l2_reads as f64,
        busy: metric(&server.http, "terrace_prefetch_busy_total").unwrap_or_default(),
        late: late as f64,
    }
}

fn stats(server: &Process) -> GetStatsResponse {
    block_on(async {
        let mut insight = InsightClient::new(connect(&server.grpc).await);
        insight.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner()
    })
}
