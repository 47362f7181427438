//! Pattern bans through whole servers: several nodes, nodes that miss the notification, sweepers that are killed, and
//! deleted ban records.

use redis::{Commands, Connection};
use terrace::proto::{
    InvalidatePatternRequest, InvalidatePatternResponse, invalidate_pattern_request::Keys,
    invalidation_client::InvalidationClient,
};
use tonic::Code;

use crate::support::{
    cluster::RedisCluster,
    command::{self, printed},
    eventually,
    grpc::{block_on, connect},
    kv::by_pattern,
    node::{PATIENT, node},
    process::Process,
    proxy::{FaultProxy, Faults, Link, Who},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config},
};

fn ban(client: &mut Connection, pattern: &str) -> u64 {
    redis::cmd("TERRACE.INVALIDATE").arg("PATTERN").arg(pattern).query(client).unwrap()
}

fn get(client: &mut Connection, key: &str) -> Option<String> {
    client.get(key).unwrap()
}

/// Number of L1 entries of this node that match the pattern.
fn resident(client: &mut Connection, pattern: &str) -> usize {
    redis::pipe()
        .cmd("SELECT")
        .arg(1)
        .ignore()
        .cmd("KEYS")
        .arg(pattern)
        .cmd("SELECT")
        .arg(0)
        .ignore()
        .query::<(Vec<String>,)>(client)
        .unwrap()
        .0
        .len()
}

fn fill(client: &mut Connection, keys: usize) {
    let mut pipe = redis::pipe();
    for number in 0..keys {
        pipe.set(format!("user:{number}"), "old").ignore();
    }
    for key in ["users:1", "xuser:1", "user"] {
        pipe.set(key, "kept").ignore();
    }
    pipe.exec(client).unwrap();
}

#[test]
fn all_nodes_hear_of_a_pattern_and_keep_what_comes_after() {
    let redis = RedisServer::start();
    let (one, two) = (node(&redis.url()), node(&redis.url()));
    let (mut straight, mut one, mut two) = (redis.connect(), connection(one.resp()), connection(two.resp()));
    fill(&mut straight, 500);
    redis.run("LPUSH user:list a");
    for number in 0..500 {
        let key = format!("user:{number}");
        assert_eq!((get(&mut one, &key), get(&mut two, &key)), (Some("old".into()), Some("old".into())));
    }
    assert!(resident(&mut one, "user:*") > 0 && resident(&mut two, "user:*") > 0);
    ban(&mut one, "user:*");
    // This node applies the ban at once, to every command; the other one after its notification.
    assert_eq!(get(&mut one, "user:1"), None);
    assert_eq!(redis::cmd("LLEN").arg("user:list").query::<u64>(&mut one), Ok(0));
    eventually("the other node hears", || get(&mut two, "user:1").is_none());
    two.set::<_, _, ()>("user:7", "new").unwrap();
    assert_eq!(two.incr::<_, _, i64>("user:8", 1), Ok(1));
    assert_eq!(one.exists::<_, u64>(&["user:1", "user:7", "users:1"]), Ok(2));
    eventually("the sweep is done", || straight.hlen::<_, u64>("__terrace:bans") == Ok(1));
    let left: usize = straight.keys::<_, Vec<String>>("user:*").unwrap().len();
    assert_eq!(left, 2, "user:7 and user:8");
    for client in [&mut one, &mut two] {
        assert_eq!(get(client, "user:7").as_deref(), Some("new"));
        assert_eq!(get(client, "user:8").as_deref(), Some("1"));
        for key in ["users:1", "xuser:1", "user"] {
            assert_eq!(get(client, key).as_deref(), Some("kept"), "{key}");
        }
        assert_eq!(resident(client, "user:*"), 2);
    }
    let note_life: i64 = redis.ask(&[b"PTTL", b"__terrace:fresh:1"]);
    assert!(note_life <= 10_000, "the note goes with the ban: {note_life}");
}

#[test]
fn who_has_not_heard_loses_nothing() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let (one, deaf) = (node(&redis.url()), node(&proxy.url()));
    let (mut one, mut deaf) = (connection(one.resp()), connection(deaf.resp()));
    for key in ["k:set", "k:incr", "k:append", "k:untouched"] {
        one.set::<_, _, ()>(key, "5").unwrap();
    }
    assert_eq!(get(&mut deaf, "k:set").as_deref(), Some("5"));
    proxy.set(Who::Link(Link::Invalidation), Faults::held());
    ban(&mut one, "k:*");
    // The node has an older log, but its first write reports the ban to it.
    deaf.set::<_, _, ()>("k:set", "new").unwrap();
    assert_eq!(deaf.incr::<_, _, i64>("k:incr", 1), Ok(1));
    assert_eq!(deaf.append::<_, _, u64>("k:append", "x"), Ok(1));
    let is_swept = || redis.ask::<u64>(&[b"HLEN", b"__terrace:bans"]) == 1;
    eventually("the sweep is done", is_swept);
    proxy.heal();
    for client in [&mut one, &mut deaf] {
        assert_eq!(get(client, "k:set").as_deref(), Some("new"));
        assert_eq!(get(client, "k:incr").as_deref(), Some("1"));
        assert_eq!(get(client, "k:append").as_deref(), Some("x"));
        assert_eq!(get(client, "k:untouched"), None);
    }
    // The same holds if its first write depends on the stored value.
    one.set::<_, _, ()>("n:1", "5").unwrap();
    eventually("heard", || get(&mut deaf, "n:1").as_deref() == Some("5"));
    proxy.set(Who::Link(Link::Invalidation), Faults::held());
    ban(&mut one, "n:*");
    assert_eq!(deaf.incr::<_, _, i64>("n:1", 1), Ok(1), "done again on what is left: nothing");
    eventually("the sweep is done", is_swept);
    assert_eq!(get(&mut one, "n:1").as_deref(), Some("1"));
    // The same holds for a command that passes through, alone or in a transaction.
    for round in 0..2 {
        proxy.heal();
        one.lpush::<_, _, ()>("l:1", "old").unwrap();
        eventually("L1 of the other node is up to date", || redis::cmd("LLEN").arg("l:1").query(&mut deaf) == Ok(1));
        proxy.set(Who::Link(Link::Invalidation), Faults::held());
        ban(&mut one, "l:*");
        let length: Vec<u64> = match round {
            0 => vec![deaf.lpush("l:1", "new").unwrap()],
            _ => redis::pipe().atomic().lpush("l:1", "new").query(&mut deaf).unwrap(),
        };
        assert_eq!(length, [1]);
        eventually("the sweep is done", is_swept);
        assert_eq!(one.lrange::<_, Vec<String>>("l:1", 0, -1), Ok(vec!["new".to_owned()]));
        one.del::<_, ()>("l:1").unwrap();
    }
}

#[test]
fn another_node_finishes_the_sweep_of_one_that_died() {
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let doomed = Process::start(dir.path(), &["--l2", &redis.url()]);
    let other = node(&redis.url());
    let mut straight = redis.connect();
    fill(&mut straight, 20_000);
    ban(&mut connection(&doomed.resp), "user:*");
    doomed.kill();
    eventually("the other one sweeps", || straight.hlen::<_, u64>("__terrace:bans") == Ok(1));
    assert_eq!(straight.keys::<_, Vec<String>>("user:*"), Ok(Vec::new()));
    assert_eq!(get(&mut connection(other.resp()), "users:1").as_deref(), Some("kept"));
}

#[test]
fn records_deleted_by_hand_cost_misses_only() {
    let redis = RedisServer::start();
    let (one, two) = (node(&redis.url()), node(&redis.url()));
    let (mut one, mut two) = (connection(one.resp()), connection(two.resp()));
    fill(&mut redis.connect(), 10);
    ban(&mut one, "user:*");
    eventually("the other node hears", || get(&mut two, "user:1").is_none());
    redis.run("DEL __terrace:bans");
    assert_eq!((get(&mut one, "user:1"), get(&mut two, "user:2")), (None, None));
    two.set::<_, _, ()>("user:3", "new").unwrap();
    redis.run("DEL __terrace:fresh:1");
    assert_eq!(get(&mut one, "user:4"), None);
    let seen = get(&mut one, "user:3");
    assert!(seen.is_none() || seen.as_deref() == Some("new"), "{seen:?}");
    eventually("the log is written again, and swept", || {
        redis.ask::<Vec<String>>(&[b"HGETALL", b"__terrace:bans"]) == ["n", "1"]
            && redis.ask::<Vec<String>>(&[b"KEYS", b"user:*"]).iter().all(|key| key == "user:3")
    });
    assert!(ban(&mut two, "other:*") == 2, "numbers go on");
}

#[test]
fn a_cluster_is_swept_everywhere() {
    let cluster = RedisCluster::start();
    let (one, two) = (node(&cluster.url()), node(&cluster.url()));
    let (mut one, mut two) = (connection(one.resp()), connection(two.resp()));
    for number in 0..300 {
        one.set::<_, _, ()>(format!("user:{number}"), "old").unwrap();
        one.set::<_, _, ()>(format!("users:{number}"), "kept").unwrap();
        assert_eq!(get(&mut two, &format!("user:{number}")).as_deref(), Some("old"));
    }
    ban(&mut one, "user:*");
    for number in 0..100 {
        // On every primary, whether the node was notified or not.
        two.set::<_, _, ()>(format!("user:{number}"), "new").unwrap();
        assert_eq!(get(&mut one, &format!("user:{}", number + 100)), None);
    }
    let names = |server: usize| cluster.servers[server].ask::<Vec<String>>(&[b"KEYS", b"user:*"]);
    let left = || cluster.primaries().into_iter().map(|server| names(server).len()).sum::<usize>();
    eventually("the sweep is done", || left() == 100);
    for number in 0..300 {
        let expected = (number < 100).then_some("new");
        for client in [&mut one, &mut two] {
            assert_eq!(get(client, &format!("user:{number}")).as_deref(), expected, "user:{number}");
        }
        assert_eq!(get(&mut two, &format!("users:{number}")).as_deref(), Some("kept"));
    }
}

#[test]
fn an_embedded_store_that_is_killed_goes_on_sweeping() {
    let dir = tempfile::tempdir().unwrap();
    let first = Process::start(dir.path(), &PATIENT);
    let mut to_first = connection(&first.resp);
    fill(&mut to_first, 5_000);
    assert_eq!(get(&mut to_first, "user:1").as_deref(), Some("old"));
    ban(&mut to_first, "user:*");
    assert_eq!(get(&mut to_first, "user:1"), None);
    to_first.set::<_, _, ()>("user:2", "new").unwrap();
    first.kill();
    let second = Process::start(dir.path(), &PATIENT);
    let mut to_second = connection(&second.resp);
    assert_eq!(get(&mut to_second, "user:1"), None);
    eventually("the sweep is done", || redis::cmd("DBSIZE").query::<u64>(&mut to_second) == Ok(4));
    assert_eq!(get(&mut to_second, "user:2").as_deref(), Some("new"));
    assert_eq!(get(&mut to_second, "users:1").as_deref(), Some("kept"));
}

#[test]
fn without_an_l2_the_matching_entries_go() {
    let terrace = Terrace::start(config());
    let mut client = connection(terrace.resp());
    fill(&mut client, 3_000);
    let removed: u64 =
        redis::cmd("TERRACE.INVALIDATE").arg("PATTERN").arg("user:*").arg("WAIT").query(&mut client).unwrap();
    assert_eq!(removed, 3_000);
    assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut client), Ok(3));
}

/// All messages of a call.
fn invalidate(
    address: &str,
    request: InvalidatePatternRequest,
) -> Result<Vec<InvalidatePatternResponse>, tonic::Status> {
    block_on(async {
        let mut client = InvalidationClient::new(connect(address).await);
        let mut messages = client.invalidate_pattern(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(message) = messages.message().await? {
            all.push(message);
        }
        Ok(all)
    })
}

#[test]
fn a_call_tells_how_far_it_is() {
    let redis = RedisServer::start();
    let node = node(&redis.url());
    fill(&mut redis.connect(), 1_000);
    let mut client = connection(node.resp());
    for number in 0..100 {
        assert!(get(&mut client, &format!("user:{number}")).is_some());
    }
    let counted = invalidate(node.grpc(), InvalidatePatternRequest { dry_run: true, ..by_pattern("user:*") }).unwrap();
    let last = counted.last().unwrap();
    assert_eq!((last.removed, last.total, last.done, last.ban), (1_000, 1_003, true, 0));
    assert!(get(&mut client, "user:1").is_some(), "nothing was removed");
    let prefix =
        InvalidatePatternRequest { keys: Some(Keys::Prefix("user:".into())), wait: true, ..Default::default() };
    let all = invalidate(node.grpc(), prefix).unwrap();
    assert_eq!(all[0].ban, 1);
    let last = all.last().unwrap();
    // Redis announces each key that the sweep removes, so L1 may drop it before it applies the ban to its entries.
    assert!(last.removed == 1_000 && last.done && last.removed_l1 <= 100, "{last:?}");
    // The total does not include the records of Terrace itself.
    assert!(last.total == 1_003 && last.scanned == last.total, "{last:?}");
    let first_only = invalidate(node.grpc(), by_pattern("users:*")).unwrap();
    assert_eq!(first_only.len(), 1, "without wait");
    for (request, what) in [
        (InvalidatePatternRequest::default(), "neither pattern nor prefix"),
        (by_pattern("__terrace:*"), "reserved prefix"),
        (by_pattern(&"a".repeat(1_025)), "at most 1024"),
    ] {
        let refused = invalidate(node.grpc(), request).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(what), "{refused}");
    }
}

fn terrace(args: &[&str]) -> (bool, String) {
    let output = command::terrace(args).output().unwrap();
    (output.status.success(), printed(&output))
}

#[test]
fn the_command_line_invalidates() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(dir.path(), &PATIENT);
    fill(&mut connection(&server.resp), 50);
    let run = |args: &[&str]| terrace(&[&["invalidate", "--server", &server.grpc], args].concat());
    assert_eq!(run(&["user:*", "--dry-run"]), (true, "50 of about 53 keys match; nothing was removed\n".to_owned()));
    let (well, text) = run(&["user:*", "--format", "json"]);
    assert!(well && text.contains(r#""removed":50"#) && text.contains(r#""done":true"#), "{text}");
    assert_eq!(run(&["--prefix", "users:", "--dry-run"]).1, "1 of about 3 keys match; nothing was removed\n");
    let (well, text) = run(&["__terrace:*"]);
    assert!(!well && text.contains("reserved prefix"), "{text}");
    assert!(!run(&[]).0);
    drop(server);
    let (well, text) = terrace(&["invalidate", "--server", "127.0.0.1:1", "a*"]);
    assert!(!well && text.contains("cannot connect to 127.0.0.1:1"), "{text}");
}
