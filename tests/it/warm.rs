//! Warm start: hot keys survive a restart and are loaded from L2, which does not count as reads; and warm-up on
//! request.

use std::{fs, path::Path};

use redis::Commands;
use serde_json::Value;
use terrace::{
    grpc::client::AdminClient,
    persist::hot_keys,
    proto::{GetStatsResponse, WarmRequest, WarmResponse},
};

use crate::support::{
    command::terrace,
    eventually,
    grpc::{block_on, connect},
    http::metric,
    node::stats_at,
    process::Process,
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config},
};

const KEYS: usize = 2_000;

fn fill(redis: &RedisServer) {
    let mut straight = redis.connect();
    for number in 0..KEYS {
        straight.set::<_, _, ()>(format!("k:{number}"), number).unwrap();
    }
}

/// A node over `redis` with a long read deadline, because the machine may be busy.
fn node(redis: &RedisServer, data: &Path, more: &[&str]) -> Process {
    let l2 = redis.url();
    let args = [&["--l2", &l2, "--l2-read-timeout", "30s"], more].concat();
    let node = Process::start(data, &args);
    eventually("L1 is open", || stats(&node).coherence.is_some_and(|coherence| coherence.open));
    node
}

fn stats(node: &Process) -> GetStatsResponse {
    stats_at(&node.grpc)
}

fn entries(node: &Process) -> u64 {
    stats(node).l1.map_or(0, |l1| l1.entries)
}

fn read(node: &Process, numbers: impl Iterator<Item = usize>) {
    let mut client = connection(&node.resp);
    for number in numbers {
        assert_eq!(client.get::<_, usize>(format!("k:{number}")).unwrap(), number);
    }
}

fn kept(data: &Path) -> Vec<String> {
    let keys = hot_keys::decode(&fs::read(data.join("hot-keys")).unwrap()).unwrap();
    keys.iter().map(|hot| String::from_utf8_lossy(&hot.key).into_owned()).collect()
}

#[test]
fn what_was_hot_is_in_l1_after_a_restart_and_nobody_is_said_to_have_read_it() {
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    fill(&redis);
    let first = node(&redis, data.path(), &[]);
    read(&first, 0..KEYS);
    first.stop();
    let mut straight = redis.connect();
    straight.del::<_, ()>("k:7").unwrap();
    straight.set::<_, _, ()>("k:8", 88).unwrap();
    let second = node(&redis, data.path(), &[]);
    eventually("it has warmed up", || {
        metric(&second.http, "terrace_warming") == Some(0.0) && entries(&second) == KEYS as u64 - 1
    });
    assert_eq!(metric(&second.http, "terrace_warm_keys_total{result=\"found\"}"), Some((KEYS - 1) as f64));
    assert_eq!(metric(&second.http, "terrace_warm_keys_total{result=\"absent\"}"), Some(1.0));
    let reads = stats(&second).reads.unwrap();
    assert_eq!((reads.hit_l1, reads.hit_l2, reads.miss), (0, 0, 0), "warming up is nobody's read");
    read(&second, (0..KEYS).filter(|number| ![7, 8].contains(number)));
    let reads = stats(&second).reads.unwrap();
    assert_eq!((reads.hit_l1, reads.hit_l2), (KEYS as u64 - 2, 0));
    let mut client = connection(&second.resp);
    assert_eq!(client.get::<_, usize>("k:8").unwrap(), 88, "the value is today's");
    assert!(second.log().contains("finished warm-up"), "{}", second.log());
}

#[test]
fn the_hottest_are_kept_and_come_first() {
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    fill(&redis);
    let first = node(&redis, data.path(), &["--data-hot-keys", "10"]);
    read(&first, 0..KEYS);
    (0..100).for_each(|_| read(&first, 500..510));
    first.stop();
    let mut keys = kept(data.path());
    keys.sort();
    assert_eq!(keys, (500..510).map(|number| format!("k:{number}")).collect::<Vec<_>>());
}

#[test]
fn a_node_that_is_killed_has_written_them_before() {
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    fill(&redis);
    let first = node(&redis, data.path(), &["--data-hot-keys-every", "1s"]);
    read(&first, 0..10);
    eventually("they are written", || data.path().join("hot-keys").exists() && kept(data.path()).len() == 10);
    first.kill();
    let second = node(&redis, data.path(), &[]);
    eventually("it has warmed up", || entries(&second) == 10);
}

#[test]
fn a_damaged_list_is_set_aside_and_the_start_is_cold() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("hot-keys"), b"terrace-hot v01\nnonsense").unwrap();
    let node = Process::start(data.path(), &[]);
    eventually("it is told", || node.log().contains("set aside"));
    eventually("it serves", || metric(&node.http, "terrace_warming") == Some(0.0));
    assert!(data.path().join("hot-keys.damaged").exists());
}

async fn warm(address: &str, request: WarmRequest) -> Result<WarmResponse, tonic::Status> {
    let mut progress = AdminClient::new(connect(address).await).warm(request).await?.into_inner();
    let mut last = WarmResponse::default();
    while let Some(message) = progress.message().await? {
        last = message;
    }
    Ok(last)
}

#[test]
fn keys_and_patterns_are_warmed_up_over_grpc() {
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    fill(&redis);
    let node = node(&redis, data.path(), &[]);
    let keys = |names: &[&str]| names.iter().map(|name| (*name).to_owned().into()).collect::<Vec<_>>();
    let listed = WarmRequest { keys: keys(&["k:1", "k:2", "nowhere"]), ..WarmRequest::default() };
    let done = block_on(warm(&node.grpc, listed)).unwrap();
    assert_eq!((done.done, done.found, done.absent, done.resident, done.failed), (3, 2, 1, 0, 0));
    let pattern = WarmRequest { pattern: "k:1*".into(), ..WarmRequest::default() };
    let matching = (0..KEYS).filter(|number| number.to_string().starts_with('1')).count() as u64;
    let done = block_on(warm(&node.grpc, pattern)).unwrap();
    assert_eq!((done.found, done.resident, done.full), (matching - 1, 1, false));
    assert_eq!(entries(&node), matching + 1);
    for (wrong, says) in [
        (WarmRequest::default(), "neither"),
        (WarmRequest { keys: keys(&["a"]), pattern: "b".into(), ..WarmRequest::default() }, "one of them"),
        (WarmRequest { keys: keys(&["__terrace:x"]), ..WarmRequest::default() }, "reserved"),
        (WarmRequest { keys: vec!["k".into(); 10_001], ..WarmRequest::default() }, "10000"),
    ] {
        let status = block_on(warm(&node.grpc, wrong)).unwrap_err();
        assert!(status.code() == tonic::Code::InvalidArgument && status.message().contains(says), "{status:?}");
    }
    let without = Terrace::start(config());
    let status = block_on(warm(without.grpc(), WarmRequest { pattern: "*".into(), ..WarmRequest::default() }));
    assert_eq!(status.unwrap_err().code(), tonic::Code::InvalidArgument);
}

#[test]
fn warming_up_ends_when_l1_is_full() {
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    fill(&redis);
    let node = node(&redis, data.path(), &["--l1-max-entries", "500"]);
    let done = block_on(warm(&node.grpc, WarmRequest { pattern: "*".into(), ..WarmRequest::default() })).unwrap();
    assert!(done.full && done.found < KEYS as u64, "{done:?}");
}

#[test]
fn the_command_warms_up_from_a_file_and_by_a_pattern() {
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    fill(&redis);
    let node = node(&redis, data.path(), &[]);
    let list = data.path().join("list");
    fs::write(&list, "k:1\nk:2\r\n\nnowhere\n").unwrap();
    let run = |args: &[&str]| {
        let output = terrace(&["warm", "--server", &node.grpc]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = run(&[list.to_str().unwrap()]);
    assert_eq!(said, "3 keys: 2 loaded, 0 already in L1, 1 not in L2, 0 failed\n");
    let said: Value = serde_json::from_str(&run(&["--pattern", "k:?", "--format", "json"])).unwrap();
    assert_eq!((&said["found"], &said["resident"]), (&Value::from(8), &Value::from(2)));
    let hot_keys = data.path().join("hot");
    let keys = terrace::model::Key::copied(b"k:100").map(|key| vec![hot_keys::HotKey { key, heat: 1 }]).unwrap();
    fs::write(&hot_keys, hot_keys::encode(&keys)).unwrap();
    assert_eq!(run(&[hot_keys.to_str().unwrap()]), "1 keys: 1 loaded, 0 already in L1, 0 not in L2, 0 failed\n");
}
