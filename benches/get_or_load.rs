//! Load leases: stampedes, and the cost of a read and of a write with leases.
//!
//! `cargo bench --bench get_or_load [-- [ROUNDS] [reads]]` (default 5); `reads` measures nothing but reads.
//!
//! * **stampede**: 1,000 callers on two nodes over one Redis ask for a key that is absent and whose load takes 200 ms.
//!   Yardstick: the same callers with Get and Set. Goals: 1 load, p99 of the callers at most 250 ms; 2 loads and a second
//!   load that begins at most 100 ms after the connection of the loading client ended.
//! * **read**: CPU time of the server per GetOrLease of a value in L1, in batches of 100 over Pipeline. Yardstick: Get. Goal:
//!   at most 1.15 times, for a value that needs a refresh at most 1.15 times of a fresh value.
//! * **Redis**: CPU time of Redis per Set, without leases in use and with leases in use (goals: 1.0 and 1.6 times), and per
//!   load (GetOrLease and Fill), with Get and Set of an absent key as the yardstick.
//!
//! Figures are medians of all rounds.

#[path = "support/figures.rs"]
mod figures;
#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use figures::median;
use futures_util::stream;
use support::{
    grpc::connect,
    process::{Process, cpu_ns},
    redis::RedisServer,
};
use terrace::{
    grpc::client::CacheClient,
    proto::{
        FillRequest, GetOrLeaseRequest, GetRequest, Grant, Operation, PipelineRequest, ReleaseRequest, SetRequest,
        fill_request::Loaded, get_or_lease_response::Result as Answer, get_response, operation::Operation as Asked,
        operation_result::Result as Answered,
    },
};
use tokio::time::Instant;
use tonic::transport::Channel;

/// Callers of a stampede, and the duration of a load.
const CALLERS: u64 = 1_000;
const LOAD: Duration = Duration::from_millis(200);
/// Reads per measurement, in batches.
const READS: u64 = 200_000;
const BATCH: u64 = 100;
/// Writes and loads per measurement.
const WRITES: u64 = 20_000;

type Client = CacheClient<Channel>;

async fn client(node: &Process) -> Client {
    CacheClient::new(connect(&node.grpc).await)
}

fn ask(key: &Bytes) -> GetOrLeaseRequest {
    GetOrLeaseRequest { key: key.clone(), wait_ms: Some(4_000), ..GetOrLeaseRequest::default() }
}

async fn lease(client: &mut Client, key: &Bytes) -> Grant {
    let answer = client.get_or_lease(ask(key)).await.expect("an answer").into_inner().result;
    match answer.expect("set") {
        Answer::Load(load) => load.grant.expect("a grant"),
        other @ (Answer::Hit(_) | Answer::Busy(_) | Answer::Absent(_) | Answer::Failed(_)) => {
            panic!("no lease: {other:?}")
        }
    }
}

async fn fill(client: &mut Client, key: &Bytes, token: Bytes, ttl_ms: i64) {
    let loaded = Some(Loaded::Value(vec![b'v'; 100].into()));
    let fill = FillRequest { key: key.clone(), token, loaded, ttl_ms: Some(ttl_ms), ..FillRequest::default() };
    client.fill(fill).await.expect("an answer");
}

/// Waits until leases are in use and can be fenced.
async fn begin_leases(client: &mut Client) {
    let key = Bytes::from_static(b"begin");
    loop {
        let grant = lease(client, &key).await;
        if !grant.token.is_empty() {
            let release = ReleaseRequest { key, token: grant.token, failed: None };
            client.release(release).await.expect("an answer");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets callers ask for a key over one Pipeline stream. A caller that receives a lease loads and fills. Returns the
/// latencies, and the times at which loads began.
async fn callers(mut client: Client, key: Bytes, count: u64) -> (Vec<Duration>, Vec<Instant>) {
    let begun = Instant::now();
    let operations =
        (0..count).map(|id| Operation { id, operation: Some(Asked::GetOrLease(ask(&key))), context: 0 }).collect();
    let batch = stream::iter([PipelineRequest { operations }]);
    let mut answers = client.pipeline(batch).await.expect("a stream").into_inner();
    let (mut latencies, mut loads, mut fills) = (Vec::new(), Vec::new(), tokio::task::JoinSet::new());
    while let Some(answer) = answers.message().await.expect("an answer") {
        for result in answer.results {
            let Some(Answered::GetOrLease(response)) = result.result else { panic!("no answer") };
            match response.result.expect("set") {
                Answer::Load(load) => {
                    loads.push(Instant::now());
                    let (mut client, key, grant) = (client.clone(), key.clone(), load.grant.expect("a grant"));
                    fills.spawn(async move {
                        tokio::time::sleep(LOAD).await;
                        fill(&mut client, &key, grant.token, 60_000).await;
                        begun.elapsed()
                    });
                }
                Answer::Hit(_) => latencies.push(begun.elapsed()),
                other @ (Answer::Busy(_) | Answer::Absent(_) | Answer::Failed(_)) => panic!("no value: {other:?}"),
            }
        }
    }
    while let Some(took) = fills.join_next().await {
        latencies.push(took.expect("no panic"));
    }
    (latencies, loads)
}

/// Lets callers ask for a key with Get, load after a miss, and Set. Returns the latencies and the number of loads.
async fn callers_by_hand(client: Client, key: Bytes, count: u64) -> (Vec<Duration>, usize) {
    let loads = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (mut client, key, loads) = (client.clone(), key.clone(), Arc::clone(&loads));
        tasks.spawn(async move {
            let read = client.get(GetRequest { key: key.clone(), options: None }).await.expect("an answer");
            if matches!(read.into_inner().result, Some(get_response::Result::Missing(_))) {
                loads.fetch_add(1, Relaxed);
                tokio::time::sleep(LOAD).await;
                let value = vec![b'v'; 100].into();
                let set = SetRequest { key, value, ttl_ms: Some(60_000), ..SetRequest::default() };
                client.set(set).await.expect("stored");
            }
            begun.elapsed()
        });
    }
    let mut latencies = Vec::new();
    while let Some(took) = tasks.join_next().await {
        latencies.push(took.expect("no panic"));
    }
    (latencies, loads.load(Relaxed))
}

fn p99_ms(mut latencies: Vec<Duration>) -> f64 {
    latencies.sort();
    latencies[latencies.len() * 99 / 100].as_secs_f64() * 1e3
}

async fn stampede(nodes: &[Process; 2], rounds: usize) {
    let clients = [client(&nodes[0]).await, client(&nodes[1]).await];
    let (mut ours, mut hand, mut after_loss) = (Vec::new(), Vec::new(), Vec::new());
    let (mut loads, mut loads_by_hand, mut loads_after_loss) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let key = Bytes::from(format!("stampede:{round}"));
        let half = |client: &Client| callers(client.clone(), key.clone(), CALLERS / 2);
        let (a, b) = tokio::join!(half(&clients[0]), half(&clients[1]));
        loads.push((a.1.len() + b.1.len()) as f64);
        ours.push(p99_ms([a.0, b.0].concat()));

        let key = Bytes::from(format!("hand:{round}"));
        let half = |client: &Client| callers_by_hand(client.clone(), key.clone(), CALLERS / 2);
        let (a, b) = tokio::join!(half(&clients[0]), half(&clients[1]));
        loads_by_hand.push((a.1 + b.1) as f64);
        hand.push(p99_ms([a.0, b.0].concat()));

        let key = Bytes::from(format!("lost:{round}"));
        let mut lost = client(&nodes[0]).await;
        let _grant = lease(&mut lost, &key).await;
        let (half_key, half_client) = (key.clone(), clients[1].clone());
        let waiting = tokio::spawn(async move { callers(half_client, half_key, CALLERS / 2).await });
        tokio::time::sleep(LOAD / 2).await;
        let died = Instant::now();
        drop(lost);
        let (_, began) = waiting.await.expect("no panic");
        loads_after_loss.push(1.0 + began.len() as f64);
        after_loss.push(began[0].duration_since(died).as_secs_f64() * 1e3);
    }
    println!("stampede of {CALLERS} callers on 2 nodes, load of {} ms", LOAD.as_millis());
    println!("  {:<26} {:>8} loads, p99 of the callers {:>7.1} ms", "GetOrLease", median(loads), median(ours));
    println!("  {:<26} {:>8} loads, p99 of the callers {:>7.1} ms", "Get and Set", median(loads_by_hand), median(hand));
    println!(
        "  {:<26} {:>8} loads, the second begins {:>7.1} ms after the loss",
        "loading client lost",
        median(loads_after_loss),
        median(after_loss)
    );
}

/// Returns the CPU time of the server per operation in nanoseconds.
async fn read_cost(node: &Process, client: &mut Client, operation: impl Fn() -> Asked) -> f64 {
    let batch = PipelineRequest {
        operations: (0..BATCH).map(|id| Operation { id, operation: Some(operation()), context: 0 }).collect(),
    };
    let before = cpu_ns(node.id());
    let batches = stream::iter(std::iter::repeat_n(batch, (READS / BATCH) as usize));
    let mut answers = client.pipeline(batches).await.expect("a stream").into_inner();
    let mut results = 0;
    while let Some(answer) = answers.message().await.expect("an answer") {
        results += answer.results.len() as u64;
    }
    assert_eq!(results, READS);
    (cpu_ns(node.id()) - before) / READS as f64
}

async fn reads(node: &Process, rounds: usize) {
    let mut client = client(node).await;
    let (fresh_key, stale_key) = (Bytes::from_static(b"read:fresh"), Bytes::from_static(b"read:stale"));
    for key in [&fresh_key, &stale_key] {
        let grant = lease(&mut client, key).await;
        fill(&mut client, key, grant.token, 600_000).await;
    }
    let stale = GetOrLeaseRequest { stale_ms: Some(3_600_000), lease_ms: Some(300_000), ..ask(&stale_key) };
    // The lease of the stale value is taken, and the node knows it.
    client.get_or_lease(stale.clone()).await.expect("an answer");
    let (mut get, mut fresh, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let request = GetRequest { key: fresh_key.clone(), options: None };
        get.push(read_cost(node, &mut client, || Asked::Get(request.clone())).await);
        fresh.push(read_cost(node, &mut client, || Asked::GetOrLease(ask(&fresh_key))).await);
        known.push(read_cost(node, &mut client, || Asked::GetOrLease(stale.clone())).await);
    }
    let (get, fresh, known) = (median(get), median(fresh), median(known));
    println!("server CPU per read in batches of {BATCH}, ns: ours | yardstick | ratio");
    println!("  {:<44} {fresh:>7.0} | {get:>7.0} | {:.2}", "GetOrLease, fresh, to Get", fresh / get);
    println!("  {:<44} {known:>7.0} | {fresh:>7.0} | {:.2}", "needs a refresh, known load, to fresh", known / fresh);
}

/// Returns the CPU time of Redis per step in microseconds.
async fn redis_cost<F: Future<Output = ()>>(redis: &RedisServer, steps: u64, step: impl Fn(u64) -> F) -> f64 {
    let before = cpu_ns(redis.pid());
    for number in 0..steps {
        step(number).await;
    }
    (cpu_ns(redis.pid()) - before) / steps as f64 / 1e3
}

async fn sets(redis: &RedisServer, client: &Client) -> f64 {
    redis_cost(redis, WRITES, |number| {
        let mut client = client.clone();
        let value = vec![b'v'; 100].into();
        let key = format!("set:{}", number % 1_000).into();
        let set = SetRequest { key, value, ttl_ms: Some(60_000), ..SetRequest::default() };
        async move { drop(client.set(set).await.expect("stored")) }
    })
    .await
}

async fn loads(redis: &RedisServer, client: &Client, round: usize) -> (f64, f64) {
    let leased = redis_cost(redis, WRITES / 4, |number| {
        let (mut client, key) = (client.clone(), Bytes::from(format!("load:{round}:{number}")));
        async move {
            let grant = lease(&mut client, &key).await;
            fill(&mut client, &key, grant.token, 60_000).await;
        }
    });
    let leased = leased.await;
    let by_hand = redis_cost(redis, WRITES / 4, |number| {
        let (mut client, key) = (client.clone(), Bytes::from(format!("hand:{round}:{number}")));
        async move {
            client.get(GetRequest { key: key.clone(), options: None }).await.expect("an answer");
            let value = vec![b'v'; 100].into();
            let set = SetRequest { key, value, ttl_ms: Some(60_000), ..SetRequest::default() };
            client.set(set).await.expect("stored");
        }
    });
    (leased, by_hand.await)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(5);
    let redis = RedisServer::start();
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let nodes = [0, 1].map(|number| Process::start(dirs[number].path(), &["--l2", &redis.url()]));
    let mut first = client(&nodes[0]).await;
    if std::env::args().any(|word| word == "reads") {
        begin_leases(&mut first).await;
        return reads(&nodes[0], rounds).await;
    }
    // Until a node has seen the log without leases for a while, it removes leases that do not exist.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut without = Vec::new();
    for _ in 0..rounds {
        without.push(sets(&redis, &first).await);
    }
    begin_leases(&mut first).await;
    begin_leases(&mut client(&nodes[1]).await).await;
    let (mut with, mut leased, mut by_hand) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        with.push(sets(&redis, &first).await);
        let (ours, hand) = loads(&redis, &first, round).await;
        leased.push(ours);
        by_hand.push(hand);
    }
    let direct = redis_direct(&redis, rounds);
    let (without, with, leased, by_hand) = (median(without), median(with), median(leased), median(by_hand));
    println!("CPU of Redis, us: ours | yardstick | ratio");
    println!(
        "  {:<44} {without:>7.2} | {direct:>7.2} | {:.2}",
        "Set, no leases in use, to SET PX by redis-rs",
        without / direct
    );
    println!(
        "  {:<44} {with:>7.2} | {without:>7.2} | {:.2}",
        "Set, leases in use, to no leases in use",
        with / without
    );
    println!(
        "  {:<44} {leased:>7.2} | {by_hand:>7.2} | {:.2}",
        "GetOrLease and Fill, to Get and Set",
        leased / by_hand
    );
    reads(&nodes[0], rounds).await;
    stampede(&nodes, rounds).await;
}

/// Returns the CPU time of Redis in microseconds per SET PX of one direct client.
fn redis_direct(redis: &RedisServer, rounds: usize) -> f64 {
    let mut connection = redis.connect();
    let value = vec![b'v'; 100];
    median((0..rounds).map(|_| {
        let before = cpu_ns(redis.pid());
        for number in 0..WRITES {
            let key = format!("set:{}", number % 1_000);
            redis::cmd("SET").arg(key).arg(&value).arg("PX").arg(60_000).exec(&mut connection).expect("stored");
        }
        (cpu_ns(redis.pid()) - before) / WRITES as f64 / 1e3
    }))
}
