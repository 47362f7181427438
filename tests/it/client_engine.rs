//! The engine of the Rust client: nodes that fail, streams that break, callers that leave.
//!
//! `TERRACE_CHECK_FULL=1` extends the chaos test from seconds to five minutes.

#[path = "../../clients/rust/examples/quickstart.rs"]
#[expect(dead_code, reason = "the test calls `run` itself")]
mod quickstart;

use std::{
    collections::HashSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rustix::process::Signal;
use terrace::{access::SecretHash, config::TlsMode};
use terrace_client::{Client, ErrorKind, Lease, Routing, Tls};
use tokio::time::{Instant, timeout};

use crate::support::{
    PATIENCE,
    certificates::Authority,
    grpc::{block_on, pause},
    process::{Process, memory_of, run_alone},
    proxy::{Cut, FaultProxy, Faults, Who},
    redis::{RedisServer, free_port},
    setting_from_environment,
    terrace::{Terrace, config, config_embedded, config_patient},
};

/// Deadline of operations that must succeed.
const LONG: Duration = Duration::from_secs(30);

fn patient(target: &str) -> terrace_client::ClientBuilder {
    Client::builder(target).read_timeout(LONG).write_timeout(LONG).connect_timeout(LONG)
}

#[test]
fn a_node_that_does_not_answer_costs_a_deadline_and_says_so() {
    let node = Terrace::start(config());
    let port: u16 = node.grpc().rsplit_once(':').unwrap().1.parse().unwrap();
    let proxy = FaultProxy::start(port);
    block_on(async {
        let client = patient(&format!("127.0.0.1:{}", proxy.port())).connect().await.unwrap();
        client.set("key", "value").await.unwrap();
        proxy.set(Who::All, Faults::held());
        let short = Duration::from_millis(30);
        let read = client.get("key").timeout(short).await.unwrap_err();
        assert_eq!(read.kind(), ErrorKind::DeadlineExceeded, "{read}");
        assert!(read.message().contains("no answer within 30ms"), "{read}");
        let write = client.set("key", "other").timeout(short).await.unwrap_err();
        assert_eq!(write.kind(), ErrorKind::OutcomeUnknown, "{write}");
        assert!(!write.is_retryable());
        proxy.heal();
        // The late results reach nobody: further operations receive their own.
        client.set("third", "3").await.unwrap();
        assert_eq!(client.get("third").await.unwrap().as_deref(), Some(&b"3"[..]));
    });
}

/// Statistics wait for the connections, as operations do.
#[test]
fn statistics_of_a_client_that_connects_are_complete() {
    let (first, second) = (Terrace::start(config()), Terrace::start(config()));
    block_on(async {
        for target in [first.grpc().to_owned(), second.grpc().to_owned()] {
            let client = patient(&target).connect_lazy().unwrap();
            assert_eq!(client.stats().await.unwrap().len(), 1);
        }
        let absent = format!("127.0.0.1:{}", free_port());
        let fault = patient(&absent).connect_timeout(Duration::from_millis(200)).connect_lazy().unwrap();
        assert_eq!(fault.stats().await.unwrap_err().kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn a_request_above_the_limit_of_the_server_is_refused_and_breaks_nothing() {
    let mut limited = config();
    limited.grpc.max_message = 1 << 20;
    limited.server.max_value = 1 << 19;
    let node = Terrace::start(limited);
    block_on(async {
        let client = patient(node.grpc()).connect().await.unwrap();
        client.set("key", "value").await.unwrap();
        let reads = tokio::spawn(client.get_or_lease("loaded").into_future());
        let error = client.set("large", vec![0; 1 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        assert!(error.message().contains("grpc.max_message of the server is 1048576 bytes"), "{error}");
        assert!(matches!(reads.await.unwrap().unwrap(), Lease::Load(_)));
        assert_eq!(client.get("key").await.unwrap().as_deref(), Some(&b"value"[..]));
    });
}

#[test]
fn tls_tokens_and_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let authority_file = authority.write(folder.path());
    let (certificate, key) = authority.issue(None).write(folder.path(), "server");
    let users = folder.path().join("users.toml");
    let role = "[[role]]\nname = \"app\"\nkeys = [{ prefix = \"app:\", allow = [\"read\", \"write\"] }]\n";
    let hash = SecretHash::of(b"token").to_text();
    let user = format!("[[user]]\nname = \"app\"\nroles = [\"app\"]\nsecrets = [\"{hash}\"]\n");
    fs::write(&users, format!("{role}{user}")).unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "token\n").unwrap();
    let mut secured = config();
    secured.tls.mode = TlsMode::On;
    (secured.tls.cert_file, secured.tls.key_file) = (Some(certificate), Some(key));
    secured.auth.file = Some(users.clone());
    let node = Terrace::start(secured);
    let socket = format!("unix:{}", folder.path().join("grpc.sock").display());
    let mut local = config();
    local.grpc.addr = socket.clone();
    local.auth.file = Some(users);
    let _local = Terrace::start(local);
    block_on(async {
        let trusting = || patient(node.grpc()).tls(Tls::authorities(&authority_file));
        for client in [trusting().token_file(&token), patient(&socket).token("token")] {
            let client = client.connect().await.unwrap();
            client.set("app:1", "value").await.unwrap();
            assert_eq!(client.get("app:1").await.unwrap().as_deref(), Some(&b"value"[..]));
            let error = client.get("other:1").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        }
        let error = trusting().token("wrong").connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        assert!(!format!("{error:?} {:?}", trusting().token("wrong")).contains("wrong\""), "{error:?}");
        let short = patient(node.grpc()).connect_timeout(Duration::from_millis(500));
        let error = short.clone().connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let error = short.tls(Tls::system()).token("token").connect().await.unwrap_err();
        assert!(error.message().contains("certificate") || error.message().contains("authorities"), "{error}");
        let exposed = Client::builder("192.0.2.1:7400").token("token").connect().await.unwrap_err();
        assert_eq!(exposed.kind(), ErrorKind::InvalidArgument, "{exposed}");
    });
}

#[test]
fn an_unreachable_node_is_an_error_that_names_the_cause() {
    block_on(async {
        let address = format!("127.0.0.1:{}", free_port());
        let error = Client::builder(&address).connect_timeout(Duration::from_millis(300)).connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains(&address) && error.message().contains("refused"), "{error}");
        let lazy = Client::builder(&address).connect_lazy().unwrap();
        let error = lazy.get("key").timeout(LONG).await.unwrap_err();
        assert!(error.message().contains("refused"), "{error}");
        let error = Client::builder("a b:1").connect_lazy().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    });
}

#[test]
fn operations_wait_until_a_name_is_resolved_and_fail_if_it_is_not() {
    let node = Terrace::start(config());
    let (_, port) = node.grpc().rsplit_once(':').unwrap();
    block_on(async {
        let client = patient(&format!("dns:///localhost:{port}")).connect_lazy().unwrap();
        assert!(client.set("key", "value").await.unwrap());
        assert_eq!(client.get("key").await.unwrap().as_deref(), Some(&b"value"[..]));
        let client = patient("dns:///nowhere.invalid:7400").connect_lazy().unwrap();
        let error = client.get("key").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("nowhere.invalid"), "{error}");
    });
}

#[test]
fn broken_connections_fail_no_read_and_apply_no_write_twice() {
    let node = Terrace::start(config());
    let port: u16 = node.grpc().rsplit_once(':').unwrap().1.parse().unwrap();
    let proxy = FaultProxy::start(port);
    block_on(async {
        let client = patient(&format!("127.0.0.1:{}", proxy.port())).connect().await.unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let counts = Arc::new([const { AtomicU64::new(0) }; 4]);
        let tasks: Vec<_> = (0..20)
            .map(|task| {
                let (client, ends, counts) = (client.clone(), Arc::clone(&ends), Arc::clone(&counts));
                tokio::spawn(async move {
                    let key = format!("key:{task}");
                    while !client.set(&key, &key).await.is_ok_and(|stored| stored) {}
                    while !ends.load(SeqCst) {
                        assert_eq!(client.get(&key).await.unwrap().as_deref(), Some(key.as_bytes()));
                        counts[0].fetch_add(1, SeqCst);
                        match client.increment("counter", 1).await {
                            Ok(_) => counts[1].fetch_add(1, SeqCst),
                            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => counts[2].fetch_add(1, SeqCst),
                            Err(error) => panic!("{error:?}"),
                        };
                    }
                })
            })
            .collect();
        let mut cuts = 0;
        while cuts < 20 || counts[2].load(SeqCst) == 0 {
            let before = counts[1].load(SeqCst);
            proxy.cut(Who::All, Cut::Rst);
            cuts += 1;
            while counts[1].load(SeqCst) < before + 50 {
                pause().await;
            }
        }
        ends.store(true, SeqCst);
        for task in tasks {
            task.await.unwrap();
        }
        let counter = client.increment("counter", 0).await.unwrap().unsigned_abs();
        let [reads, acknowledged, unknown, _] = &*counts;
        let (acknowledged, unknown) = (acknowledged.load(SeqCst), unknown.load(SeqCst));
        println!(
            "{cuts} cuts, {} reads, {acknowledged} acknowledged, {unknown} unknown, {counter}",
            reads.load(SeqCst)
        );
        assert!((acknowledged..=acknowledged + unknown).contains(&counter));
    });
}

/// Reads, writes and increments until `ends`; every call must succeed. Returns the number of increments.
async fn work(client: Client, task: usize, ends: Arc<AtomicBool>) -> u64 {
    let (key, mut increments) = (format!("key:{task}"), 0);
    let mut round = 0_u64;
    while !ends.load(SeqCst) {
        round += 1;
        let value = round.to_string();
        assert!(client.set(&key, &value).await.unwrap());
        assert_eq!(client.get(&key).await.unwrap().as_deref(), Some(value.as_bytes()), "{key}");
        client.increment(format!("counter:{}", task % 7), 1).await.unwrap();
        increments += 1;
        assert_eq!(client.get_many([&key, "absent"]).await.unwrap()[1], None);
    }
    increments
}

#[test]
fn a_rolling_restart_fails_no_call() {
    let redis = RedisServer::start();
    let ports = [free_port(), free_port()];
    let start = |port: u16| {
        let mut config = config_patient(redis.url());
        config.grpc.addr = format!("127.0.0.1:{port}");
        Terrace::start(config)
    };
    for routing in [Routing::Key, Routing::Any] {
        let mut nodes = ports.map(|port| Some(start(port)));
        block_on(async {
            let target = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
            let client = patient(&target).routing(routing).connect().await.unwrap();
            let before = counters(&client).await;
            let ends = Arc::new(AtomicBool::new(false));
            let tasks: Vec<_> =
                (0..60).map(|task| tokio::spawn(work(client.clone(), task, Arc::clone(&ends)))).collect();
            for turn in 0..4 {
                let node = &mut nodes[turn % 2];
                let stopped = node.take().unwrap();
                tokio::task::spawn_blocking(move || stopped.stop()).await.unwrap();
                *node = Some(start(ports[turn % 2]));
                wait_for_nodes(&client, 2).await;
            }
            ends.store(true, SeqCst);
            let mut increments = 0;
            for task in tasks {
                increments += task.await.unwrap();
            }
            assert_eq!(counters(&client).await - before, increments, "{routing:?}");
            println!("{routing:?}: {increments} increments");
        });
    }
}

async fn counters(client: &Client) -> u64 {
    let mut sum = 0;
    for counter in 0..7 {
        sum += client.increment(format!("counter:{counter}"), 0).await.unwrap().unsigned_abs();
    }
    sum
}

/// Waits until the client is connected to this number of nodes.
async fn wait_for_nodes(client: &Client, count: usize) {
    let begun = Instant::now();
    while !client.stats().await.is_ok_and(|stats| stats.len() == count) {
        assert!(begun.elapsed() < PATIENCE, "the client is not connected to {count} nodes");
        pause().await;
    }
}

#[test]
fn ten_thousand_callers_that_leave_cost_nothing_and_confuse_nobody() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let node = Terrace::start(config());
    block_on(async {
        let client = patient(node.grpc()).connect().await.unwrap();
        for key in 0..100 {
            client.set(format!("key:{key}"), format!("value:{key}")).await.unwrap();
        }
        let mut running = Vec::new();
        for call in 0..10_000 {
            let (client, key, micros) = (client.clone(), random.u32(0..100), random.u64(0..400));
            running.push(tokio::spawn(async move {
                let read = async {
                    match call % 3 {
                        0 => {
                            let lease = client.get_or_lease(format!("absent:{key}")).await.unwrap();
                            assert!(matches!(lease, Lease::Load(_) | Lease::Busy { .. }), "{lease:?}");
                        }
                        _ => {
                            let value = client.get(format!("key:{key}")).await.unwrap().unwrap();
                            assert_eq!(value, format!("value:{key}"));
                        }
                    }
                };
                // Most callers leave before the answer.
                let _left = timeout(Duration::from_micros(micros), read).await;
            }));
            if running.len() == 500 {
                for task in running.drain(..) {
                    task.await.unwrap();
                }
            }
        }
        for task in running {
            task.await.unwrap();
        }
        assert_eq!(client.operations_in_progress(), 0);
        // No lease is left: each key can be loaded at once.
        for key in 0..100 {
            let wait = Duration::from_secs(20);
            let lease = client.get_or_lease(format!("absent:{key}")).wait(wait).lease(LONG).await.unwrap();
            assert!(matches!(lease, Lease::Load(_)), "absent:{key}: {lease:?}");
        }
    });
}

#[test]
fn nodes_over_different_stores_are_refused() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let nodes = folders.each_ref().map(|folder| Terrace::start(config_embedded(folder.path())));
    block_on(async {
        let target = nodes.each_ref().map(Terrace::grpc).join(",");
        let client = patient(&target).routing(Routing::Any).connect().await.unwrap();
        let begun = Instant::now();
        let error = loop {
            if let Err(error) = client.stats().await
                && error.kind() == ErrorKind::FailedPrecondition
            {
                break error;
            }
            assert!(begun.elapsed() < PATIENCE, "both nodes are in use");
            pause().await;
        };
        assert!(error.message().contains("must have the same L2"), "{error}");
        // The node that was first stays in use.
        client.set("key", "value").await.unwrap();
        for _ in 0..20 {
            assert_eq!(client.get("key").await.unwrap().as_deref(), Some(&b"value"[..]));
        }
    });
}

/// What the callers of the chaos test have seen.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    failed: AtomicU64,
    /// Calls that took longer than their deadline and the time that a busy machine may add.
    late: AtomicU64,
}

/// Time that a busy machine may add to a deadline.
const LATE: Duration = Duration::from_secs(10);
const READ: Duration = Duration::from_millis(250);
const WRITE: Duration = Duration::from_millis(500);

/// Writes increasing numbers to its own key and reads them. No read may be older than what was acknowledged 1 s before.
async fn caller(client: Client, task: usize, seen: Arc<Seen>, ends: Arc<AtomicBool>) {
    let key = format!("chaos:{task}");
    // Number that was acknowledged, and since when; the last is the newest.
    let mut acknowledged: Vec<(u64, Instant)> = Vec::new();
    let mut unknown = HashSet::new();
    let mut number = 0;
    while !ends.load(SeqCst) {
        number += 1;
        let begun = Instant::now();
        let stored = client.set(&key, number.to_string()).await;
        seen.late.fetch_add(u64::from(begun.elapsed() > WRITE + LATE), SeqCst);
        seen.failed.fetch_add(u64::from(stored.is_err()), SeqCst);
        match stored {
            Ok(_) => acknowledged.push((number, Instant::now())),
            // It may be applied later, over newer values: a stopped node executes it when it continues.
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                unknown.insert(number);
            }
            Err(_) => {}
        }
        for _ in 0..3 {
            let begun = Instant::now();
            let read = client.get(&key).await;
            seen.late.fetch_add(u64::from(begun.elapsed() > READ + LATE), SeqCst);
            seen.calls.fetch_add(1, SeqCst);
            let Ok(value) = read else {
                seen.failed.fetch_add(1, SeqCst);
                continue;
            };
            let value: u64 = value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap());
            let old =
                acknowledged.iter().rev().find(|(_, since)| begun.duration_since(*since) > Duration::from_secs(1));
            let least = old.map_or(0, |(number, _)| *number);
            assert!(
                value >= least || unknown.contains(&value),
                "{key}: read {value}; {least} was acknowledged more than 1 s before"
            );
        }
        if acknowledged.len() > 64 {
            acknowledged.drain(..32);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Nothing acknowledged is lost.
    let last = acknowledged.last().map_or(0, |(number, _)| *number);
    let value = client
        .get(&key)
        .timeout(LONG)
        .await
        .unwrap()
        .map_or(0, |value| std::str::from_utf8(&value).unwrap().parse::<u64>().unwrap());
    assert!(value >= last || unknown.contains(&value), "{key}: {value} after the faults; {last} was acknowledged");
}

/// Variable that is set in the process of the chaos test.
const CHAOS: &str = "TERRACE_TEST_CHAOS";
/// Maximum growth of the memory of a client from the first half of the chaos to its end, in bytes: allocators keep some.
const GROWTH_MAX: u64 = 16 << 20;

/// In a process of its own, whose memory only this client uses.
#[test]
fn chaos_loses_no_acknowledged_write_hangs_no_call_and_keeps_memory_flat() {
    run_alone(module_path!(), "chaos", CHAOS);
}

/// Does nothing in an ordinary run.
#[test]
fn chaos() {
    if setting_from_environment(CHAOS, 0) == 0 {
        return;
    }
    let span = if setting_from_environment("TERRACE_CHECK_FULL", 0) == 0 { 12 } else { 300 };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let redis = RedisServer::start();
    let ports = [free_port(), free_port()];
    let folder = tempfile::tempdir().unwrap();
    let url = redis.url();
    let start = |index: usize| {
        let address = format!("127.0.0.1:{}", ports[index]);
        Process::start_at(&address, &folder.path().join(index.to_string()), &["--l2", &url])
    };
    let mut nodes = [Some(start(0)), Some(start(1))];
    let proxies = ports.map(FaultProxy::start);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let target = proxies.each_ref().map(|proxy| format!("127.0.0.1:{}", proxy.port())).join(",");
        let client = Client::builder(&target).read_timeout(READ).write_timeout(WRITE).connect().await.unwrap();
        let (seen, ends) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let callers: Vec<_> = (0..200)
            .map(|task| tokio::spawn(caller(client.clone(), task, Arc::clone(&seen), Arc::clone(&ends))))
            .collect();
        let begun = Instant::now();
        let mut memory = Vec::new();
        while begun.elapsed() < Duration::from_secs(span) {
            memory.push(memory_of(std::process::id()).unwrap());
            let index = random.usize(0..2);
            match random.u8(0..5) {
                0 => {
                    nodes[index].take().unwrap().kill();
                    nodes[index] = Some(start(index));
                }
                1 => {
                    nodes[index].as_ref().unwrap().signal(Signal::STOP);
                    tokio::time::sleep(Duration::from_millis(random.u64(100..3_000))).await;
                    nodes[index].as_ref().unwrap().signal(Signal::CONT);
                }
                2 => {
                    let node = nodes[index].take().unwrap();
                    tokio::task::spawn_blocking(move || node.stop()).await.unwrap();
                    nodes[index] = Some(start(index));
                }
                _ => proxies[index].cut(Who::All, Cut::Rst),
            }
            tokio::time::sleep(Duration::from_millis(random.u64(50..1_000))).await;
            assert!(!callers.iter().any(|caller| caller.is_finished()), "a caller has failed");
        }
        ends.store(true, SeqCst);
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(client.operations_in_progress(), 0);
        let first = memory[..memory.len().div_ceil(2)].iter().max().unwrap();
        let last = memory_of(std::process::id()).unwrap();
        println!("memory of the client in bytes: {first}, then {last}");
        assert!(last <= first + GROWTH_MAX, "the memory grew: {memory:?}");
        let count = |counter: &AtomicU64| counter.load(SeqCst);
        println!("{} reads, {} failed calls, {} late", count(&seen.calls), count(&seen.failed), count(&seen.late));
        assert_eq!(count(&seen.late), 0);
        assert!(count(&seen.calls) > 1_000);
    });
}

#[test]
fn the_example_runs() {
    let node = Terrace::start(config());
    block_on(quickstart::run(node.grpc())).unwrap();
}
