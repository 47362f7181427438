//! Rolling restarts under load: a draining node reports that it is not ready, and no client that retries elsewhere
//! after GOAWAY or UNAVAILABLE sees a failure.
//!
//! `TERRACE_RESTARTS` sets the number of rolling restarts of both nodes (default 2, 10 for the long run).

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use redis::Commands;
use rustix::process::Signal;
use terrace::{
    grpc::client::CacheClient,
    proto::{GetRequest, get_response::Result::Found},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::support::{
    eventually,
    grpc::{block_on, connect},
    http,
    process::Process,
    redis::RedisServer,
    setting_from_environment,
};

const CALLERS: usize = 1_000;
/// Connections to each node: a server accepts 256 concurrent calls on one connection.
const CHANNELS: usize = 8;
const NODES: usize = 2;
const KEYS: usize = 100;
/// Flags for deadlines that only a hang exceeds.
const PATIENT: [&str; 6] = ["--l2-read-timeout", "30s", "--l2-write-timeout", "30s", "--grpc-timeout", "1m"];

/// A node at `address` (port 0: any).
fn node(redis: &RedisServer, data: &Path, address: &str) -> Process {
    let l2 = redis.url();
    let more = ["--grpc", address, "--l2", &l2, "--server-drain-wait", "100ms"];
    Process::start(data, &[&PATIENT[..], &more[..]].concat())
}

/// State that all callers share.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answered: AtomicU64,
    repeated: AtomicU64,
    failures: std::sync::Mutex<Vec<String>>,
}

/// Returns whether a call was not executed: GOAWAY, UNAVAILABLE, or a connection that closed before the client library
/// had sent the call (it reports "canceled", or "user error" for a call in its queue).
fn says_elsewhere(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_go_away)
            || error.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_canceled() || error.is_user())
        {
            return true;
        }
        cause = error.source();
    }
    status.code() == Code::Unavailable
}

async fn get(channel: &Channel, number: usize) -> Result<(), Status> {
    let request = GetRequest { key: format!("k:{number}").into(), options: None };
    let answer = CacheClient::new(channel.clone()).get(request).await?.into_inner();
    match answer.result {
        Some(Found(found)) if found.value == format!("v:{number}") => Ok(()),
        other => Err(Status::data_loss(format!("a wrong answer: {other:?}"))),
    }
}

/// Calls the nodes in turn until stopped, and repeats a call that was not executed on the other node.
async fn caller(number: usize, nodes: Arc<Vec<Vec<Channel>>>, tally: Arc<Tally>) {
    for turn in number.. {
        if tally.stop.load(Relaxed) {
            return;
        }
        let channel = |turn: usize| &nodes[turn % NODES][number % CHANNELS];
        let mut result = get(channel(turn), turn % KEYS).await;
        if result.as_ref().is_err_and(says_elsewhere) {
            tally.repeated.fetch_add(1, Relaxed);
            result = get(channel(turn + 1), turn % KEYS).await;
        }
        match result {
            Ok(()) => drop(tally.answered.fetch_add(1, Relaxed)),
            Err(status) => tally.failures.lock().unwrap().push(format!("{status:?}")),
        }
    }
}

#[test]
fn rolling_restarts_under_a_thousand_callers_fail_none() {
    let redis = RedisServer::start();
    let mut straight = redis.connect();
    for number in 0..KEYS {
        straight.set::<_, _, ()>(format!("k:{number}"), format!("v:{number}")).unwrap();
    }
    let data: Vec<_> = (0..NODES).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut nodes: Vec<Process> = data.iter().map(|data| node(&redis, data.path(), "127.0.0.1:0")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let channels = runtime.block_on(async {
        let lazy = |node: &Process| Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect_lazy();
        Arc::new(nodes.iter().map(|node| (0..CHANNELS).map(|_| lazy(node)).collect()).collect::<Vec<Vec<_>>>())
    });
    let tally = Arc::new(Tally::default());
    let start = |number| runtime.spawn(caller(number, Arc::clone(&channels), Arc::clone(&tally)));
    let callers: Vec<_> = (0..CALLERS).map(start).collect();
    for _ in 0..setting_from_environment("TERRACE_RESTARTS", 2) {
        for at in 0..NODES {
            roll(&mut nodes[at], &redis, data[at].path(), &tally);
        }
    }
    tally.stop.store(true, Relaxed);
    for caller in callers {
        runtime.block_on(caller).unwrap();
    }
    let (answered, repeated) = (tally.answered.load(Relaxed), tally.repeated.load(Relaxed));
    let failures = tally.failures.lock().unwrap();
    println!("{answered} calls answered, {repeated} of them by the other node, {} failed", failures.len());
    assert!(failures.is_empty(), "{} of {answered}: {}", failures.len(), failures[0]);
}

/// Restarts a node on its address, once the nodes are under load.
fn roll(node_at: &mut Process, redis: &RedisServer, data: &Path, tally: &Tally) {
    let before = tally.answered.load(Relaxed);
    eventually("the nodes are busy", || tally.answered.load(Relaxed) > before + 2 * CALLERS as u64);
    node_at.signal(Signal::TERM);
    let mut status = None;
    eventually("it drains", || {
        status = node_at.ended();
        status.is_some()
    });
    assert!(status.unwrap().success(), "{status:?}: {}", node_at.log());
    assert!(!node_at.log().contains("aborting the remaining connections"), "{}", node_at.log());
    *node_at = node(redis, data, &node_at.grpc.clone());
}

#[test]
fn a_draining_server_says_so_and_still_serves_for_the_configured_wait() {
    let data = tempfile::tempdir().unwrap();
    // Longer than the test, which kills the server at its end.
    let server = Process::start(data.path(), &["--server-drain-wait", "10m"]);
    assert_eq!(http::get(&server.http, "/readyz").0, 200);
    server.signal(Signal::TERM);
    eventually("it is not ready", || http::get(&server.http, "/readyz").0 == 503);
    block_on(async {
        // A new connection is accepted, and a call on it.
        let channel = connect(&server.grpc).await;
        CacheClient::new(channel).get(GetRequest { key: "k".into(), options: None }).await.unwrap();
    });
}
