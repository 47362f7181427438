//! Redis as L2, over a real redis-server: what each operation does there, and what callers see when it is slow, gone
//! or back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use terrace::{
    clock::{Clock, UnixMs},
    error::Kind,
    l2::{
        Applied, Backend, Batch, Deadlines, Op, ScanRequest, State, Tunables, TypeName,
        op::{self, Change, Condition, ExpireOnly, NewExpiry, Present, SetExpiry},
        redis::{RedisBackend, Settings, url::RedisUrl},
    },
    model::{Key, Life, Value},
};

use crate::support::{PATIENCE, redis::RedisServer};

const VALUE_MAX: u64 = 1024;
/// Generous: a test machine that is busy must not turn an answer into a time-out.
const PATIENT: Deadlines = Deadlines { read: Duration::from_secs(10), write: Duration::from_secs(10) };
/// For tests about deadlines.
const SHORT: Deadlines = Deadlines { read: Duration::from_millis(50), write: Duration::from_millis(200) };

fn settings(url: &str) -> Settings {
    Settings::new(RedisUrl::parse(url).expect("a URL that is served"))
}

fn start(server: &RedisServer, deadlines: Deadlines) -> RedisBackend {
    RedisBackend::start(&settings(&server.url()), Tunables::new(deadlines, VALUE_MAX))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what} did not come true");
}

async fn connected(server: &RedisServer, deadlines: Deadlines) -> RedisBackend {
    let backend = start(server, deadlines);
    until("the backend is up", || backend.state() == State::Up).await;
    backend
}

fn key(name: &str) -> Key {
    Key::copied(name.as_bytes()).expect("a valid key")
}

fn value(text: &str) -> Value {
    Value::from(Bytes::copy_from_slice(text.as_bytes()))
}

fn put(text: &str) -> Op {
    set(text, SetExpiry::Never, Condition::Always)
}

fn set(text: &str, expiry: SetExpiry, condition: Condition) -> Op {
    Op::Set { value: Bytes::copy_from_slice(text.as_bytes()), expiry, condition, want_old: false }
}

async fn apply(backend: &RedisBackend, name: &str, op: Op) -> terrace::error::Result<Applied> {
    let mut results = backend.apply(vec![(key(name), op)], Batch::Independent).await;
    assert_eq!(results.len(), 1);
    results.remove(0)
}

async fn read(backend: &RedisBackend, name: &str) -> terrace::error::Result<Option<Value>> {
    backend.get(&[key(name)], false).await.remove(0).map(|found| found.map(|stored| stored.value))
}

fn stored(old: Option<Value>) -> Applied {
    Applied::Set { stored: true, old }
}

#[tokio::test]
async fn values_are_raw_bytes_and_ttls_are_redis_own() {
    let server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    let binary = Bytes::from_static(b"\r\n\0\xff$-1\r\n");
    let op = Op::Set {
        value: binary.clone(),
        expiry: SetExpiry::In(Duration::from_secs(100)),
        condition: Condition::Always,
        want_old: false,
    };
    assert_eq!(apply(&backend, "bin\0\n", op).await, Ok(stored(None)));
    assert_eq!(server.ask::<Vec<u8>>(&[b"GET", b"bin\0\n"]), &binary[..]);
    let pttl: i64 = server.ask(&[b"PTTL", b"bin\0\n"]);
    assert!((90_000..=100_000).contains(&pttl), "{pttl}");
    server.run("SET theirs 1 PX 50000");
    server.run("SET forever 2");
    server.ask::<()>(&[b"SET", b"empty", b""]);
    let keys = [key("theirs"), key("forever"), key("absent"), key("empty"), key("bin\0\n")];
    let found: Vec<_> = backend.get(&keys, true).await.into_iter().map(Result::unwrap).collect();
    let lives: Vec<_> = found.iter().map(|stored| stored.as_ref().map(|stored| stored.life)).collect();
    assert!(matches!(lives[0], Some(Life::For(left)) if left <= Duration::from_secs(50)), "{lives:?}");
    assert_eq!(lives[1..4], [Some(Life::Forever), None, Some(Life::Forever)]);
    assert!(matches!(lives[4], Some(Life::For(left)) if left > Duration::from_secs(90)), "{lives:?}");
    assert_eq!(found[3].as_ref().unwrap().value, value(""));
    assert_eq!(found[4].as_ref().unwrap().value, Value::from(binary));
}

#[tokio::test]
async fn a_read_of_another_type_or_over_the_limit_is_an_error_of_its_key_alone() {
    let server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    server.run("RPUSH list a");
    server.ask::<()>(&[b"SET", b"big", &[b'x'; 1025]]);
    server.ask::<()>(&[b"SET", b"fits", &[b'x'; 1024]]);
    let keys = [key("list"), key("big"), key("fits")];
    for with_life in [false, true] {
        let found = backend.get(&keys, with_life).await;
        assert_eq!(found[0].as_ref().unwrap_err().kind(), Kind::WrongType);
        let error = found[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), Kind::TooLarge);
        assert_eq!(error.message(), "value of 1025 bytes exceeds max_value (1024 bytes)");
        assert!(found[2].is_ok());
    }
}

/// An entry of the model, as [`op::apply`] leaves it.
type Entry = Option<(Bytes, Option<UnixMs>)>;

/// The model of one key: what the definition of the operations says.
fn model(entry: &mut Entry, op: &Op, now: UnixMs) -> terrace::error::Result<Applied> {
    let present = entry.as_ref().map(|(value, expires_at)| Present { value, expires_at: *expires_at });
    let (change, applied) = op::apply(op, present, now)?;
    match change {
        Change::Keep => {}
        Change::Put(value, expires_at) => *entry = Some((value, expires_at)),
        Change::Reexpire(expires_at) => {
            if let Some((_, at)) = entry {
                *at = expires_at;
            }
        }
        Change::Remove => *entry = None,
    }
    // What a past expiry stores is gone at once.
    if entry.as_ref().is_some_and(|(_, at)| at.is_some_and(|at| at <= now)) {
        *entry = None;
    }
    Ok(applied)
}

fn pick<T: Clone>(rng: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())].clone()
}

/// Far enough apart that the time a test takes decides nothing.
fn random_life(rng: &mut fastrand::Rng) -> Duration {
    Duration::from_secs(3600 * rng.u64(1..5))
}

fn random_at(rng: &mut fastrand::Rng, now: UnixMs) -> UnixMs {
    let hours = pick(rng, &[-2, 1, 3, 5]);
    UnixMs(now.0.saturating_add_signed(3_600_000 * hours))
}

fn random_text(rng: &mut fastrand::Rng) -> Bytes {
    let texts: [&'static [u8]; 7] = [b"", b"0", b"17", b"-5", b"abc", b"9223372036854775807", b"\x00\xff 1"];
    Bytes::from_static(pick(rng, &texts))
}

fn maybe<T>(rng: &mut fastrand::Rng, make: impl FnOnce(&mut fastrand::Rng) -> T) -> Option<T> {
    rng.bool().then(|| make(rng))
}

fn random_set(rng: &mut fastrand::Rng, now: UnixMs) -> Op {
    let expiry = match rng.u8(..4) {
        0 => SetExpiry::Never,
        1 => SetExpiry::In(random_life(rng)),
        2 => SetExpiry::At(random_at(rng, now)),
        _ => SetExpiry::Keep { life_if_new: maybe(rng, random_life) },
    };
    let condition = match rng.u8(..4) {
        0 => Condition::Always,
        1 => Condition::IfAbsent,
        2 => Condition::IfPresent,
        _ => Condition::IfEqual(random_text(rng)),
    };
    Op::Set { value: random_text(rng), expiry, condition, want_old: rng.bool() }
}

fn random_expire(rng: &mut fastrand::Rng, now: UnixMs) -> Op {
    let expiry = match rng.u8(..5) {
        0 => NewExpiry::Never,
        1 => NewExpiry::In(random_life(rng)),
        2 => NewExpiry::In(Duration::ZERO),
        3 => NewExpiry::At(random_at(rng, now)),
        _ => NewExpiry::Keep,
    };
    let conditional = rng.bool();
    let mut flag = || conditional && rng.u8(..3) == 0;
    let only = ExpireOnly { if_none: flag(), if_some: flag(), if_longer: flag(), if_shorter: flag() };
    Op::Expire { expiry, only, want_value: rng.bool() }
}

fn random_op(rng: &mut fastrand::Rng, now: UnixMs) -> Op {
    match rng.u8(..10) {
        0..4 => random_set(rng, now),
        4 => Op::Delete { want_old: rng.bool() },
        5..8 => random_expire(rng, now),
        8 => Op::Increment { delta: pick(rng, &[1, -3, i64::MAX, i64::MIN]), life_if_new: maybe(rng, random_life) },
        _ => Op::Append { suffix: random_text(rng), life_if_new: maybe(rng, random_life), length_max: 24 },
    }
}

/// What Redis holds, in the model's terms; expiries in whole hours from `now`, which the operations deal in.
fn held(server: &RedisServer, name: &[u8]) -> Entry {
    let value: Option<Vec<u8>> = server.ask(&[b"GET", name]);
    let at: i64 = server.ask(&[b"PEXPIRETIME", name]);
    value.map(|value| (Bytes::from(value), u64::try_from(at).ok().map(UnixMs)))
}

fn same(ours: &Entry, theirs: &Entry) -> bool {
    // A relative life is counted from when Redis runs the command, a little after the model did.
    let near = |a: Option<UnixMs>, b: Option<UnixMs>| match (a, b) {
        (Some(a), Some(b)) => a.0.abs_diff(b.0) < 600_000,
        (a, b) => a == b,
    };
    match (ours, theirs) {
        (Some((a, at)), Some((b, bt))) => a == b && near(*at, *bt),
        (a, b) => a == b,
    }
}

async fn walk(batch_max: usize, batch: Batch, seed: u64) {
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    let names = ["a", "b", "c"];
    let mut entries: [Entry; 3] = [None, None, None];
    for step in 0..600 / batch_max {
        let now = Clock::real().unix();
        let picks: Vec<_> = (0..rng.usize(1..=batch_max)).map(|_| (rng.usize(..3), random_op(&mut rng, now))).collect();
        let expected: Vec<_> = picks.iter().map(|(at, op)| model(&mut entries[*at], op, now)).collect();
        let ops = picks.iter().map(|(at, op)| (key(names[*at]), op.clone())).collect();
        let results = backend.apply(ops, batch).await;
        for ((expected, result), (at, op)) in expected.iter().zip(&results).zip(&picks) {
            let kinds = |result: &terrace::error::Result<Applied>| result.clone().map_err(|error| error.kind());
            assert_eq!(kinds(result), kinds(expected), "seed {seed}, step {step}: {} {op:?}", names[*at]);
        }
        assert_eq!(results.len(), picks.len());
        for (name, entry) in names.iter().zip(&entries) {
            let found = held(&server, name.as_bytes());
            assert!(same(entry, &found), "seed {seed}, step {step}: {name} is {found:?}, not {entry:?}; {picks:?}");
        }
        if rng.u8(..20) == 0 {
            server.run("SCRIPT FLUSH");
        }
    }
}

#[tokio::test]
async fn every_operation_means_what_its_definition_says() {
    walk(1, Batch::Independent, fastrand::u64(..)).await;
}

#[tokio::test]
async fn batches_mean_the_same_as_one_by_one() {
    walk(6, Batch::Independent, fastrand::u64(..)).await;
}

#[tokio::test]
async fn atomic_batches_mean_the_same_as_one_by_one() {
    walk(6, Batch::Atomic, fastrand::u64(..)).await;
}

#[tokio::test]
async fn numbers_keep_all_their_digits() {
    let server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    server.run("SET n 9007199254740993");
    let life_if_new = Some(Duration::from_secs(100));
    let op = Op::Increment { delta: 2, life_if_new };
    assert_eq!(apply(&backend, "n", op).await, Ok(Applied::Number(9_007_199_254_740_995)));
    assert_eq!(server.ask::<i64>(&[b"PTTL", b"n"]), -1);
    for (delta, sum) in [("0.1", "0.1"), ("0.2", "0.3")] {
        let op = Op::IncrementFloat { delta: Bytes::from_static(delta.as_bytes()), life_if_new };
        assert_eq!(apply(&backend, "f", op).await, Ok(Applied::Decimal(Bytes::from_static(sum.as_bytes()))));
    }
    assert!(server.ask::<i64>(&[b"PTTL", b"f"]) > 90_000);
    server.run("SET text abc");
    for life_if_new in [None, life_if_new] {
        let op = Op::IncrementFloat { delta: Bytes::from_static(b"1"), life_if_new };
        assert_eq!(apply(&backend, "text", op).await.unwrap_err().kind(), Kind::NotANumber);
    }
}

#[tokio::test]
async fn another_type_is_refused_and_untouched() {
    let server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    server.run("RPUSH list a");
    let equal = Condition::IfEqual(Bytes::from_static(b"a"));
    for op in [
        Op::Set { value: Bytes::new(), expiry: SetExpiry::Never, condition: Condition::Always, want_old: true },
        set("x", SetExpiry::Never, equal),
        Op::Delete { want_old: true },
        Op::Expire { expiry: NewExpiry::In(Duration::ZERO), only: ExpireOnly::ALWAYS, want_value: true },
        Op::Expire { expiry: NewExpiry::Never, only: ExpireOnly::ALWAYS, want_value: true },
        Op::Expire { expiry: NewExpiry::Keep, only: ExpireOnly::ALWAYS, want_value: true },
        Op::Expire { expiry: NewExpiry::In(Duration::from_secs(9)), only: ExpireOnly::IF_SHORTER, want_value: true },
        Op::Increment { delta: 1, life_if_new: None },
        Op::Increment { delta: 1, life_if_new: Some(Duration::from_secs(9)) },
        Op::Append { suffix: Bytes::new(), life_if_new: None, length_max: 9 },
    ] {
        let error = apply(&backend, "list", op.clone()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::WrongType, "{op:?}");
        assert_eq!(server.ask::<Vec<String>>(&[b"LRANGE", b"list", b"0", b"-1"]), ["a"], "{op:?}");
        assert_eq!(server.ask::<i64>(&[b"PTTL", b"list"]), -1, "{op:?}");
    }
    let expire =
        Op::Expire { expiry: NewExpiry::In(Duration::from_secs(100)), only: ExpireOnly::ALWAYS, want_value: false };
    assert_eq!(apply(&backend, "list", expire).await, Ok(Applied::Expired { found: true, applied: true, value: None }));
    assert_eq!(
        apply(&backend, "list", Op::Delete { want_old: false }).await,
        Ok(Applied::Deleted { existed: true, old: None })
    );
}

#[tokio::test]
async fn an_atomic_batch_is_refused_whole() {
    let server = RedisServer::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let backend = connected(&server, PATIENT).await;
    let ops = vec![(key("a"), Op::Delete { want_old: false }), (key("b"), put("1"))];
    let results = backend.apply(ops, Batch::Atomic).await;
    let kinds: Vec<_> = results.into_iter().map(|result| result.unwrap_err().kind()).collect();
    assert_eq!(kinds, [Kind::OutOfMemory, Kind::OutOfMemory]);
}

#[tokio::test]
async fn descriptions_read_no_value() {
    let server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    for line in ["SET s abc PX 60000", "RPUSH l a", "SADD e a", "ZADD z 1 a", "HSET h a 1", "XADD x * a 1"] {
        server.run(line);
    }
    let keys: Vec<_> = ["s", "l", "e", "z", "h", "x", "none"].into_iter().map(key).collect();
    let found: Vec<_> = backend.describe(&keys).await.into_iter().map(Result::unwrap).collect();
    let names: Vec<_> = found.iter().map(|found| found.as_ref().map(|found| found.type_name)).collect();
    let expected = [TypeName::String, TypeName::List, TypeName::Set, TypeName::ZSet, TypeName::Hash, TypeName::Stream];
    assert_eq!(names[..6], expected.map(Some));
    assert_eq!(names[6], None);
    let string = found[0].unwrap();
    assert_eq!(string.size_bytes, 3);
    assert!(matches!(string.life, Life::For(left) if left <= Duration::from_secs(60)));
    assert_eq!(string.expires_at_ms, Some(server.ask::<u64>(&[b"PEXPIRETIME", b"s"])));
    let list = found[1].unwrap();
    assert_eq!((list.life, list.expires_at_ms, list.size_bytes), (Life::Forever, None, 0));
}

async fn scanned(backend: &RedisBackend, pattern: Option<&str>, type_name: Option<&str>) -> Vec<Key> {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let (mut keys, mut cursor) = (Vec::new(), 0);
    loop {
        let request = ScanRequest { cursor, pattern: pattern.map(bytes), count: 10, type_name: type_name.map(bytes) };
        let page = backend.scan(request).await.expect("a page");
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor == 0 {
            keys.sort();
            keys.dedup();
            return keys;
        }
    }
}

#[tokio::test]
async fn scans_and_random_keys_never_show_reserved_ones() {
    let server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    assert_eq!(backend.random_key().await, Ok(None));
    server.run("SET __terrace:bans 1");
    assert_eq!(backend.random_key().await, Ok(None));
    for number in 0..50 {
        server.run(&format!("SET k{number} 1"));
    }
    server.run("RPUSH list a");
    assert_eq!(scanned(&backend, None, None).await.len(), 51);
    assert_eq!(scanned(&backend, Some("*"), Some("LIST")).await, [key("list")]);
    assert_eq!(scanned(&backend, Some("k1?"), Some("string")).await.len(), 10);
    assert_eq!(scanned(&backend, Some("__terrace:*"), None).await, []);
    assert_eq!(backend.count().await, Ok(52));
    for _ in 0..100 {
        assert!(backend.random_key().await.unwrap().is_some());
    }
    assert_eq!(backend.clear().await, Ok(()));
    assert_eq!(backend.count().await, Ok(0));
    assert_eq!(read(&backend, "k1").await, Ok(None));
}

#[tokio::test]
async fn the_url_says_which_database_and_who_asks() {
    let server = RedisServer::start();
    server.run("ACL SETUSER bob on >pw%42 ~* +@all");
    let tunables = || Tunables::new(PATIENT, VALUE_MAX);
    let url = format!("redis://bob:pw%2542@127.0.0.1:{}/3", server.port());
    let backend = RedisBackend::start(&settings(&url), tunables());
    until("the backend is up", || backend.state() == State::Up).await;
    apply(&backend, "k", put("v")).await.unwrap();
    assert!(server.ask::<String>(&[b"INFO", b"keyspace"]).contains("db3:keys=1"));
    let clients: String = server.ask(&[b"CLIENT", b"LIST"]);
    assert_eq!(clients.matches("name=terrace").count(), 2, "{clients}");
    let url = format!("redis+unix://{}?db=3", server.socket().display());
    let local = RedisBackend::start(&settings(&url), tunables());
    until("the backend is up", || local.state() == State::Up).await;
    assert_eq!(read(&local, "k").await, Ok(Some(value("v"))));
}

#[tokio::test]
async fn what_redis_refuses_at_connect_is_told_by_name() {
    let server = RedisServer::start_with(&["--requirepass", "right", "--databases", "2"]);
    for (url, kind, text) in [
        (server.url(), Kind::NoAccess, "NOAUTH"),
        (server.url().replace("//", "//:wrong-one@"), Kind::NoAccess, "WRONGPASS"),
        (server.url().replace("//", "//:right@") + "/7", Kind::Unsupported, "database 7"),
    ] {
        let backend = RedisBackend::start(&settings(&url), Tunables::new(PATIENT, VALUE_MAX));
        until("the refusal is known", || matches!(backend.state(), State::Down(_))).await;
        let error = read(&backend, "k").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(text), "{error}");
        assert!(!error.message().contains("wrong-one"), "{error}");
        assert!(matches!(backend.state(), State::Down(why) if why == error.message()));
    }
}

#[tokio::test]
async fn a_user_without_rights_is_told_so_per_command() {
    let server = RedisServer::start();
    server.run("ACL SETUSER reader on nopass ~* +get +select +client|setname");
    let url = server.url().replace("//", "//reader:any@");
    let backend = RedisBackend::start(&settings(&url), Tunables::new(PATIENT, VALUE_MAX));
    until("the backend is up", || backend.state() == State::Up).await;
    assert_eq!(read(&backend, "k").await, Ok(None));
    let error = apply(&backend, "k", put("v")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoAccess);
    assert!(error.message().contains("NOPERM"), "{error}");
}

#[tokio::test]
async fn a_stopped_redis_costs_a_deadline_and_no_more() {
    let server = RedisServer::start();
    let backend = connected(&server, SHORT).await;
    apply(&backend, "k", put("before")).await.unwrap();
    server.pause();
    let begun = tokio::time::Instant::now();
    assert_eq!(read(&backend, "k").await.unwrap_err().kind(), Kind::DeadlineExceeded);
    assert!(begun.elapsed() >= SHORT.read);
    let begun = tokio::time::Instant::now();
    assert_eq!(apply(&backend, "k", put("during")).await.unwrap_err().kind(), Kind::Unknown);
    assert!(begun.elapsed() >= SHORT.write);
    // Left unanswered, the connections are given up: from then on nothing waits.
    until("the stopped Redis is known", || {
        let _call = futures_util::FutureExt::now_or_never(backend.get(&[key("k")], false));
        matches!(backend.state(), State::Down(_))
    })
    .await;
    let error = read(&backend, "k").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.retry_delay().is_some());
    server.resume();
    until("it is up again", || backend.state() == State::Up).await;
    assert!(read(&backend, "k").await.is_ok());
}

#[tokio::test]
async fn a_killed_redis_is_unavailable_at_once_and_back_without_a_restart() {
    let mut server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    apply(&backend, "k", put("old")).await.unwrap();
    server.kill();
    until("the loss is known", || matches!(backend.state(), State::Down(_))).await;
    for _ in 0..100 {
        let error = read(&backend, "k").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.retry_delay().is_some());
        assert_eq!(apply(&backend, "k", put("x")).await.unwrap_err().kind(), Kind::Unavailable);
    }
    server.restart();
    until("it is up again", || backend.state() == State::Up).await;
    assert_eq!(read(&backend, "k").await, Ok(None));
    // Scripts went with the old server.
    let op = Op::Append { suffix: Bytes::from_static(b"x"), life_if_new: None, length_max: 9 };
    assert_eq!(apply(&backend, "k", op).await, Ok(Applied::Length(1)));
}

#[tokio::test]
async fn a_redis_that_comes_later_is_found() {
    let mut server = RedisServer::start();
    server.kill();
    let backend = start(&server, PATIENT);
    assert_eq!(backend.state(), State::Connecting);
    assert_eq!(read(&backend, "k").await.unwrap_err().kind(), Kind::Unavailable);
    until("the failure is known", || matches!(backend.state(), State::Down(_))).await;
    server.restart();
    until("it is up", || backend.state() == State::Up).await;
    assert_eq!(read(&backend, "k").await, Ok(None));
}

#[tokio::test]
async fn a_lost_connection_leaves_writes_unknown_and_reads_unavailable() {
    let mut server = RedisServer::start();
    let backend = Arc::new(connected(&server, PATIENT).await);
    server.pause();
    let reading = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { read(&backend, "k").await }
    });
    let writing = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { apply(&backend, "k", put("v")).await }
    });
    // Both are queued now, and sent with the next turn of their connections.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    server.kill();
    assert_eq!(reading.await.unwrap().unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(writing.await.unwrap().unwrap_err().kind(), Kind::Unknown);
}

#[tokio::test]
async fn the_queue_is_bounded_and_what_waits_in_it_too_long_is_never_sent() {
    let server = RedisServer::start();
    let mut settings = settings(&server.url());
    settings.connections = 1;
    settings.queue_limit = 10;
    let backend = RedisBackend::start(&settings, Tunables::new(SHORT, VALUE_MAX));
    until("the backend is up", || backend.state() == State::Up).await;
    server.run("SET n 0");
    server.pause();
    let increment = || apply(&backend, "n", Op::Increment { delta: 1, life_if_new: None });
    // Together they are more than may be queued: the first ten wait, the others are refused on the spot.
    let results = futures_util::future::join_all((0..50).map(|_| increment())).await;
    let count =
        |kind: Kind| results.iter().filter(|result| matches!(result, Err(error) if error.kind() == kind)).count();
    assert_eq!((count(Kind::Unknown), count(Kind::Overloaded)), (10, 40), "{results:?}");
    // One at a time until no more pipelines may be in flight: from then on writes wait in the queue, and are withdrawn.
    let mut sent = 10;
    loop {
        let error = increment().await.unwrap_err();
        if error.kind() == Kind::Unavailable {
            break;
        }
        assert_eq!(error.kind(), Kind::Unknown, "{error}");
        sent += 1;
    }
    server.resume();
    let number = || server.ask::<i64>(&[b"GET", b"n"]);
    until("what was sent has run", || number() == sent).await;
    until("it is up again", || backend.state() == State::Up).await;
    assert_eq!(increment().await, Ok(Applied::Number(sent + 1)));
}

#[tokio::test]
async fn what_is_asked_together_goes_as_one_pipeline() {
    let server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    let mut observer = server.connect();
    let mut reads = || {
        let info: String = ::redis::cmd("INFO").arg("stats").query(&mut observer).expect("INFO answers");
        let line = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:")).expect("a count");
        line.parse::<u64>().expect("a number")
    };
    let before = reads();
    let asked = futures_util::future::join_all((0..64).map(|_| read(&backend, "k"))).await;
    assert!(asked.iter().all(|found| *found == Ok(None)));
    // The observer's own question is one read as well.
    let took = reads() - before - 1;
    assert!((1..=2).contains(&took), "{took} reads for 64 questions");
}

#[tokio::test]
async fn a_server_that_is_full_says_so_and_is_tried_again() {
    let server = RedisServer::start();
    let mut held = server.connect();
    let mut limit = |clients: u32| {
        let mut command = ::redis::cmd("CONFIG");
        command.arg("SET").arg("maxclients").arg(clients).exec(&mut held).expect("CONFIG SET is allowed");
    };
    limit(1);
    let backend = start(&server, PATIENT);
    until("the refusal is known", || matches!(backend.state(), State::Down(_))).await;
    let error = read(&backend, "k").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().contains("max number of clients"), "{error}");
    limit(1000);
    until("it is up", || backend.state() == State::Up).await;
}
