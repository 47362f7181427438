//! Redis is unavailable, slow, restarted empty, or refuses tracking: callers receive correct answers or clear errors,
//! and Terrace recovers without a manual step.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::Commands;
use terrace::{
    grpc::client::CacheClient,
    proto::{Found, GetRequest, Tier},
};
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    eventually,
    grpc::{block_on, connect},
    http,
    kv::found,
    node::{is_open, stats, wait_until_open},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config_over, config_patient},
};

async fn get(client: &mut CacheClient<Channel>, key: String) -> Result<Option<Found>, Status> {
    let response = client.get(GetRequest { key: key.into(), options: None }).await?;
    Ok(found(response.into_inner()))
}

/// Number of keys that stay in L1.
const WARM: u64 = 100;
fn warm(number: u64) -> String {
    format!("warm:{number}")
}

#[derive(Default)]
struct Tally {
    right: AtomicU64,
    l1_hits: AtomicU64,
    errors: AtomicU64,
    codes: Mutex<BTreeMap<i32, u64>>,
    wrong: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Tally {
    fn note(&self, key: &str, expected: Option<&str>, answer: Result<Option<Found>, Status>) {
        match answer {
            Ok(found) if found.as_ref().map(|found| &found.value[..]) == expected.map(str::as_bytes) => {
                self.right.fetch_add(1, Relaxed);
                let from_l1 = found.is_some_and(|found| found.tier() == Tier::L1);
                self.l1_hits.fetch_add(u64::from(from_l1), Relaxed);
            }
            Ok(other) => self.wrong.lock().push(format!("{key}: {other:?}")),
            Err(status) => {
                self.errors.fetch_add(1, Relaxed);
                *self.codes.lock().entry(status.code() as i32).or_default() += 1;
            }
        }
    }
}

/// Reads keys that are in L1, and absent keys, which need Redis each time.
async fn call(mut client: CacheClient<Channel>, seed: u64, tally: Arc<Tally>) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !tally.stop.load(Relaxed) {
        let number = random.u64(..WARM);
        let is_warm = random.bool();
        let key = if is_warm { warm(number) } else { format!("absent:{}", random.u64(..)) };
        let before = tally.errors.load(Relaxed);
        let expected = is_warm.then(|| number.to_string());
        tally.note(&key, expected.as_deref(), get(&mut client, key.clone()).await);
        if tally.errors.load(Relaxed) > before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Runs 500 callers over 10 connections until the tally stops them.
fn callers(address: String, tally: &Arc<Tally>) -> std::thread::JoinHandle<()> {
    let tally = Arc::clone(tally);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for connection in 0..10 {
                let client = CacheClient::new(connect(&address).await);
                for caller in 0..50 {
                    tasks.spawn(call(client.clone(), connection * 50 + caller, Arc::clone(&tally)));
                }
            }
            while let Some(ended) = tasks.join_next().await {
                ended.expect("no caller panics");
            }
        });
    })
}

#[test]
fn a_stopped_redis_costs_errors_no_hits_no_wrong_answers_and_no_restart() {
    let redis = RedisServer::start();
    let node = Terrace::start(config_over(redis.url()));
    let mut straight = redis.connect();
    for number in 0..WARM {
        straight.set::<_, _, ()>(warm(number), number).expect("redis answers");
    }
    wait_until_open(&node);
    let tally = Arc::new(Tally::default());
    let callers = callers(node.grpc().to_owned(), &tally);
    let count = |of: &AtomicU64| of.load(Relaxed);
    eventually("all are under way", || count(&tally.l1_hits) > 10_000);
    let mut hits_while_stopped = 0;
    for _ in 0..3 {
        redis.pause();
        let (hits, errors) = (count(&tally.l1_hits), count(&tally.errors));
        eventually("calls that need Redis fail", || count(&tally.errors) > errors + 500);
        hits_while_stopped += count(&tally.l1_hits) - hits;
        eventually("the fence lapses", || !is_open(&node));
        redis.resume();
        let counts = || (count(&tally.right), count(&tally.l1_hits), count(&tally.errors));
        let mut last_error = counts();
        eventually("all goes well again", || {
            let (right, hits, errors) = counts();
            if errors > last_error.2 {
                last_error = counts();
            }
            right > last_error.0 + 500 && hits > last_error.1
        });
    }
    tally.stop.store(true, Relaxed);
    callers.join().expect("no caller panics");
    let codes = tally.codes.lock().clone();
    println!("{} right, {hits_while_stopped} hits while stopped, errors {codes:?}", count(&tally.right));
    assert_eq!(*tally.wrong.lock(), Vec::<String>::new());
    let allowed = [Code::DeadlineExceeded, Code::Unavailable, Code::ResourceExhausted].map(|code| code as i32);
    assert!(codes.keys().all(|code| allowed.contains(code)), "{codes:?}");
    assert!(hits_while_stopped > 0, "hits within the fence go on");
}

#[test]
fn a_breaker_refuses_at_once_while_redis_does_not_answer_and_closes_by_itself() {
    let redis = RedisServer::start();
    let node = Terrace::start(config_over(redis.url()));
    wait_until_open(&node);
    let l2 = || stats(&node).l2.expect("set");
    let call = |number: usize| {
        block_on(async { get(&mut CacheClient::new(connect(node.grpc()).await), format!("k:{number}")).await })
    };
    redis.pause();
    let mut calls = 0;
    eventually("the breaker opens", || {
        calls += 1;
        call(calls).is_err() && l2().breakers_open == 1
    });
    let refused = call(0).expect_err("it is open");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("circuit breaker") || refused.message().contains("Redis"), "{refused}");
    assert!(!l2().up && l2().breaker_opened >= 1 && l2().primaries == 1);
    eventually("readiness tells it", || {
        let (code, text) = http::get(node.http(), "/readyz");
        code == 200 && text.starts_with("degraded: L2 is unavailable: ")
    });
    redis.resume();
    eventually("the breaker closes and calls are answered", || l2().breakers_open == 0 && call(0).is_ok());
    eventually("readiness tells it", || http::get(node.http(), "/readyz").1 == "ready\n");
    let page = http::get(node.http(), "/metrics").1;
    assert!(page.contains("terrace_l2_breakers_open 0\n") && page.contains("terrace_l2_up 1\n"), "{page}");
}

#[test]
fn a_redis_that_comes_back_empty_brings_no_old_value_back() {
    let mut redis = RedisServer::start();
    let node = Terrace::start(config_patient(redis.url()));
    let mut through = connection(node.resp());
    let keys: Vec<String> = (0..WARM).map(warm).collect();
    for _ in 0..3 {
        for key in &keys {
            redis.connect().set::<_, _, ()>(key, "old").expect("redis answers");
        }
        eventually("L1 is open and full", || {
            let values: Vec<Option<String>> = through.mget(&keys).expect("it answers");
            is_open(&node) && values.iter().all(Option::is_some) && stats(&node).l1.expect("set").entries >= WARM
        });
        redis.kill();
        redis.restart();
        wait_until_open(&node);
        let values: Vec<Option<String>> = through.mget(&keys).expect("it answers");
        assert!(values.iter().all(Option::is_none), "{values:?}");
    }
}

#[test]
fn ten_thousand_callers_on_forty_connections_cause_one_get() {
    const CONNECTIONS: usize = 40;
    const CALLERS: usize = 10_000;
    // A caller that arrives after Redis has resumed and before its heartbeat is not part of the herd and reads again: on
    // a busy machine the herd may take longer to arrive than the first hold lasts.
    let gets = [3, 8, 20].map(|held| move || gets_of_a_herd(held, CONNECTIONS, CALLERS));
    assert!(gets.iter().any(|gets| gets() == 1), "no herd of three was led by one");
}

/// Returns the number of GETs that these callers cause while Redis is held for this many seconds.
fn gets_of_a_herd(held_seconds: u64, connections: usize, callers: usize) -> u64 {
    let redis = RedisServer::start();
    redis.run("SET wanted value");
    let mut config = config_over(redis.url());
    config.l2.read_timeout = Duration::from_secs(10 + held_seconds);
    config.grpc.timeout = Duration::from_secs(3600);
    let node = Terrace::start(config);
    wait_until_open(&node);
    redis.run("CONFIG RESETSTAT");
    redis.run(&format!("CLIENT PAUSE {held_seconds}000 ALL"));
    let answers = block_on(async {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(CacheClient::new(connect(node.grpc()).await));
        }
        let ask = |caller: usize| {
            let mut client = clients[caller % connections].clone();
            async move { get(&mut client, "wanted".into()).await }
        };
        futures_util::future::join_all((0..callers).map(ask)).await
    });
    for answer in answers {
        assert_eq!(answer.expect("an answer").expect("it is there").value, "value");
    }
    let commands: String = redis.ask(&[b"INFO", b"commandstats"]);
    let gets = commands.lines().find(|line| line.starts_with("cmdstat_get:")).expect("a GET was sent");
    println!("held for {held_seconds} s: {gets}");
    let calls = gets.strip_prefix("cmdstat_get:calls=").and_then(|rest| rest.split(',').next());
    calls.and_then(|calls| calls.parse().ok()).expect("a number of calls")
}

/// Waits until the node writes, reads, and may answer from L1.
fn works(node: &Terrace) {
    eventually("it works without a manual step", || {
        let mut client = connection(node.resp());
        let written = client.set::<_, _, ()>("k", "v");
        written.is_ok() && client.get::<_, String>("k").is_ok_and(|value| value == "v") && is_open(node)
    });
    let hits = || stats(node).reads.expect("set").hit_l1;
    let before = hits();
    eventually("L1 answers", || {
        let _value = connection(node.resp()).get::<_, String>("k");
        hits() > before
    });
}

#[test]
fn node_and_redis_restart_in_any_order() {
    let mut redis = RedisServer::start();
    let url = redis.url();
    let first = Terrace::start(config_over(url.clone()));
    works(&first);
    // Only the node restarts.
    first.stop();
    let second = Terrace::start(config_over(url.clone()));
    works(&second);
    // Only Redis restarts.
    redis.kill();
    redis.restart();
    works(&second);
    // Redis stops, the node stops, the node starts, Redis starts.
    redis.kill();
    second.stop();
    let third = Terrace::start(config_over(url.clone()));
    redis.restart();
    works(&third);
    // The node stops, Redis stops, Redis starts, the node starts.
    third.stop();
    redis.kill();
    redis.restart();
    let fourth = Terrace::start(config_over(url.clone()));
    works(&fourth);
    // Redis restarts while no node runs, and once more while the node runs.
    fourth.stop();
    redis.kill();
    let fifth = Terrace::start(config_over(url));
    assert!(connection(fifth.resp()).get::<_, Option<String>>("k").is_err(), "there is no Redis");
    redis.restart();
    works(&fifth);
}

#[test]
fn a_redis_without_tracking_is_passed_through_and_says_so() {
    let redis = RedisServer::start();
    redis.run("ACL SETUSER plain on >pw ~* +@all -client|tracking");
    let renamed = RedisServer::start_with(&["--rename-command", "ROLE", ""]);
    let old = RedisServer::start_with(&["--rename-command", "HELLO", ""]);
    let limited = redis.url().replace("//", "//plain:pw@");
    for (url, server, text) in
        [(limited, &redis, "+client|tracking"), (renamed.url(), &renamed, "ROLE"), (old.url(), &old, "HELLO")]
    {
        let node = Terrace::start(config_patient(url));
        let mut through = connection(node.resp());
        eventually("Redis is reached", || through.set::<_, _, ()>("k", "1").is_ok());
        for value in ["2", "3", "4"] {
            server.connect().set::<_, _, ()>("k", value).expect("redis answers");
            assert_eq!(through.get::<_, String>("k"), Ok(value.to_owned()), "never from L1");
        }
        // The worker that serves HTTP has its own connections to Redis.
        eventually("it is ready all the same", || http::get(node.http(), "/readyz") == (200, "ready\n".into()));
        eventually("INFO says what is refused", || {
            let info: String = redis::cmd("INFO").arg("coherence").query(&mut through).expect("INFO answers");
            let refused = info.lines().find_map(|line| line.strip_prefix("coherence_refused:")).expect("a line");
            refused.contains(text) && info.contains("coherence_l1_open:0")
        });
        assert_eq!(http::samples(node.http())["terrace_coherence_open"], 0.0, "{text}");
    }
}
