//! Redis as L2, over a real redis-server: the effect of each operation, and what callers receive while Redis is slow,
//! unavailable or restarted.

mod faults;
mod random_operations;

use std::time::Duration;

use bytes::Bytes;
use terrace::{
    error::Kind,
    l2::{
        Applied, Backend, Batch, Deadlines, Op, ScanRequest, State, Tunables, TypeName,
        op::{Condition, ExpireOnly, NewExpiry, SetExpiry},
        redis::{Redis, RedisBackend, RedisSettings, TlsFiles, url::RedisUrl},
    },
    model::{Key, Life, Value},
};

use crate::support::{PATIENCE, backend::key, redis::RedisServer};

const VALUE_MAX: u64 = 1024;
/// Long deadlines, so that no call times out on a busy machine.
const PATIENT: Deadlines = Deadlines { read: Duration::from_secs(10), write: Duration::from_secs(10) };
/// Short deadlines, for tests about deadlines.
const SHORT: Deadlines = Deadlines { read: Duration::from_millis(50), write: Duration::from_millis(200) };

fn settings(url: &str) -> RedisSettings {
    RedisSettings::new(RedisUrl::parse(url).expect("a URL that is served"), TlsFiles::default()).expect("settings")
}

/// A backend over this Redis.
fn over(url: &str, tunables: std::sync::Arc<Tunables>) -> RedisBackend {
    Redis::new(&settings(url), tunables).backend()
}

fn start(server: &RedisServer, deadlines: Deadlines) -> RedisBackend {
    over(&server.url(), Tunables::new(deadlines, VALUE_MAX))
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
    let string = found[0].clone().unwrap();
    assert_eq!(string.size_bytes, 3);
    assert!(matches!(string.life, Life::For(left) if left <= Duration::from_secs(60)));
    assert_eq!(string.expires_at_ms, Some(server.ask::<u64>(&[b"PEXPIRETIME", b"s"])));
    let list = found[1].clone().unwrap();
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
    assert_eq!(backend.count().await, Ok(51));
    for _ in 0..100 {
        assert!(backend.random_key().await.unwrap().is_some());
    }
    assert_eq!(backend.clear().await, Ok(()));
    assert_eq!(backend.count().await, Ok(0));
    assert_eq!(read(&backend, "k1").await, Ok(None));
}
