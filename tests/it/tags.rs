//! Tags through whole servers: over Redis, the embedded store and no L2; with two nodes and a cluster; with deleted tag
//! records; and values that look like headers. Tags are compared by id, so clock skew has no effect and is not tested.

use redis::{Commands, Connection, Value};
use terrace::{
    l2::codec::{self, Tag},
    proto::{
        GetManyRequest, GetMetaRequest, InvalidateTagsRequest, KeyMeta, SetManyRequest, SetRequest, TierSelection,
        cache_client::CacheClient, get_many_result, invalidation_client::InvalidationClient, set_many_result,
        set_request::Condition,
    },
};
use tonic::{Code, Status};

use crate::support::{
    cluster::RedisCluster,
    eventually,
    grpc::{block_on, connect},
    kv::{get, is_in_l1, read, set, tagged, try_set, value},
    node::{World, connected_node, over_embedded, over_none, over_redis, stats, wait_until_open},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config_over},
};

fn meta(node: &Terrace, key: &str) -> KeyMeta {
    let request = GetMetaRequest { keys: vec![key.to_owned().into()] };
    block_on(async { CacheClient::new(connect(node.grpc()).await).get_meta(request).await })
        .expect("an answer")
        .into_inner()
        .results
        .remove(0)
}

fn try_invalidate(node: &Terrace, tags: &[impl AsRef<[u8]>]) -> Result<u64, Status> {
    let tags = tags.iter().map(|tag| tag.as_ref().to_vec().into()).collect();
    let request = InvalidateTagsRequest { tags };
    let answer =
        block_on(async { InvalidationClient::new(connect(node.grpc()).await).invalidate_tags(request).await })?;
    Ok(answer.into_inner().invalidated)
}

fn invalidate(node: &Terrace, tag: &str) -> u64 {
    try_invalidate(node, &[tag]).expect("an answer")
}

/// Sends a command, its words separated by blanks; returns an error as a value.
fn say(client: &mut Connection, line: &str) -> Value {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command.query(client).unwrap_or_else(|error| Value::SimpleString(error.to_string()))
}

/// Reads until the copy of an entry is in L1.
fn bring_up(node: &Terrace, key: &str) {
    eventually("a copy is in L1", || {
        get(node, key);
        is_in_l1(node, key)
    });
}

fn names(tags: &[impl AsRef<[u8]>]) -> Vec<String> {
    tags.iter().map(|tag| String::from_utf8(tag.as_ref().to_vec()).unwrap()).collect()
}

fn tags_are_shown_and_kept(world: &World) {
    let (node, mut client) = (&world.node, connection(world.node.resp()));
    set(node, "k", "5", &["b", "a", "b"]);
    for _ in 0..3 {
        let found = get(node, "k").expect("there");
        assert_eq!((&found.value[..], names(&found.tags), found.size), (&b"5"[..], names(&["a", "b"]), Some(1)));
    }
    let known = meta(node, "k");
    assert_eq!((known.exists, names(&known.tags), known.size), (true, names(&["a", "b"]), 1));
    let tags = || redis::cmd("TERRACE.TAGS").arg("k").query::<Vec<String>>(&mut connection(node.resp())).unwrap();
    assert_eq!(tags(), ["a", "b"]);
    for (line, reply) in [
        ("STRLEN k", Value::Int(1)),
        ("INCR k", Value::Int(6)),
        ("APPEND k 0", Value::Int(2)),
        ("SETRANGE k 1 7", Value::Int(2)),
        ("INCRBYFLOAT k 0.5", Value::BulkString("67.5".into())),
        ("GETRANGE k 1 2", Value::BulkString("7.".into())),
        ("EXPIRE k 100", Value::Int(1)),
        ("PERSIST k", Value::Int(1)),
        ("GETEX k", Value::BulkString("67.5".into())),
        ("GET k", Value::BulkString("67.5".into())),
    ] {
        assert_eq!(say(&mut client, line), reply, "{line}");
        assert_eq!(tags(), ["a", "b"], "{line}");
    }
    client.set::<_, _, ()>("k", "v").unwrap();
    assert_eq!(say(&mut client, "TERRACE.TAGS k"), Value::Array(Vec::new()));
    assert_eq!(say(&mut client, "TERRACE.TAGS absent"), Value::Nil);
    assert!(get(node, "k").expect("there").tags.is_empty());
}

/// Every command answers for an entry with an invalidated tag as for a key that never existed.
fn what_is_gone_is_absent_for_every_command(world: &World) {
    let (node, mut client) = (&world.node, connection(world.node.resp()));
    for (at, line) in [
        "GET @",
        "MGET @ @",
        "EXISTS @",
        "TTL @",
        "PTTL @",
        "TYPE @",
        "STRLEN @",
        "GETRANGE @ 0 -1",
        "DEL @",
        "UNLINK @",
        "GETDEL @",
        "GETEX @",
        "GETEX @ PERSIST",
        "EXPIRE @ 100",
        "EXPIRE @ 100 NX",
        "PERSIST @",
        "SET @ 1 NX",
        "SET @ 1 XX",
        "SET @ 1 GET",
        "SET @ 1 KEEPTTL",
        "SETNX @ 1",
        "GETSET @ 1",
        "INCR @",
        "INCRBYFLOAT @ 1.5",
        "APPEND @ x",
        "SETRANGE @ 2 x",
        "SETRANGE @ 0",
        "MSETNX @ 1 other:@ 2",
        "RENAME @ to:@",
        "RENAMENX other @",
        "COPY @ to:@",
        "COPY other @",
        "TERRACE.TAGS @",
        "OBJECT ENCODING @",
        "TOUCH @",
    ]
    .into_iter()
    .enumerate()
    {
        for is_resident in [false, true] {
            let (gone, absent) = (format!("gone:{at}:{is_resident}"), format!("absent:{at}:{is_resident}"));
            let request = SetRequest { ttl_ms: Some(100_000), ..tagged(&gone, "7", &["t", "other"]) };
            assert!(try_set(node, request).expect("an answer"));
            if is_resident {
                bring_up(node, &gone);
            }
            assert_eq!(invalidate(node, "t"), 1);
            let say = |client: &mut Connection, key: &str| {
                client.set::<_, _, ()>("other", "o").unwrap();
                let first = say(client, &line.replace('@', key));
                (first, say(client, &format!("GET {key}")), say(client, &format!("TTL {key}")))
            };
            let (found, expected) = (say(&mut client, &gone), say(&mut client, &absent));
            assert_eq!(found, expected, "{line}, resident: {is_resident}");
        }
    }
    let request = SetRequest { condition: Some(Condition::IfEqual("7".into())), ..tagged("k", "8", &["t"]) };
    set(node, "k", "7", &["t"]);
    assert!(try_set(node, request.clone()).expect("an answer"), "its payload is compared");
    set(node, "k", "7", &["t"]);
    invalidate(node, "t");
    assert!(!try_set(node, request).expect("an answer"));
    assert!(!meta(node, "k").exists);
}

fn a_rewrite_has_its_own_tags(world: &World) {
    let node = &world.node;
    set(node, "k", "1", &["old", "both"]);
    set(node, "k", "2", &["new", "both"]);
    bring_up(node, "k");
    assert_eq!(invalidate(node, "old"), 1);
    assert_eq!(value(node, "k").as_deref(), Some("2"), "it is under that tag no more");
    assert_eq!(invalidate(node, "new"), 1);
    assert_eq!(value(node, "k"), None);
    set(node, "k", "3", &["new"]);
    assert_eq!(value(node, "k").as_deref(), Some("3"), "what is written after an invalidation is valid");
    assert_eq!(invalidate(node, "both"), 1);
    assert_eq!(value(node, "k").as_deref(), Some("3"));
    assert_eq!(invalidate(node, "never used"), 0);
    set(node, "k", "4", &[]);
    assert_eq!(invalidate(node, "new"), 1);
    assert_eq!(value(node, "k").as_deref(), Some("4"), "without tags nothing invalidates it");
}

fn many_at_once(world: &World) {
    let node = &world.node;
    let entries = (0..100).map(|n| tagged(&format!("k:{n}"), format!("{n}"), &["all", &format!("t:{}", n % 10)]));
    let mut entries: Vec<SetRequest> = entries.collect();
    entries.push(tagged("bad", "1", &[""]));
    entries.push(tagged("plain", "1", &[]));
    let results = block_on(async {
        CacheClient::new(connect(node.grpc()).await)
            .set_many(SetManyRequest { entries })
            .await
            .unwrap()
            .into_inner()
            .results
    });
    let stored = |at: usize| matches!(results[at].result, Some(set_many_result::Result::Stored(_)));
    assert!((0..100).all(stored) && !stored(100) && stored(101));
    assert_eq!(try_invalidate(node, &["t:1", "t:1", "t:2"]).expect("an answer"), 2);
    let keys = (0..100).map(|n| format!("k:{n}").into()).collect();
    let results = block_on(async {
        let mut client = CacheClient::new(connect(node.grpc()).await);
        client.get_many(GetManyRequest { keys, options: None }).await.unwrap().into_inner().results
    });
    for (n, result) in results.into_iter().enumerate() {
        let expected = !matches!(n % 10, 1 | 2);
        assert_eq!(matches!(result.result, Some(get_many_result::Result::Found(_))), expected, "k:{n}");
    }
    assert_eq!(say(&mut connection(node.resp()), "TERRACE.INVALIDATE TAG all t:1"), Value::Int(1));
    assert_eq!((value(node, "k:5"), value(node, "plain").as_deref()), (None, Some("1")));
}

fn names_have_limits(world: &World) {
    let node = &world.node;
    let longest = "x".repeat(128);
    set(node, "k", "v", &[&longest]);
    let sixteen: Vec<String> = (0..16).map(|n| format!("{n:0>128}")).collect();
    let mut tags: Vec<&str> = sixteen.iter().map(String::as_str).collect();
    set(node, "k", "v", &tags);
    assert_eq!(get(node, "k").expect("there").tags.len(), 16);
    tags.push("more");
    let too_long = format!("{longest}x");
    for bad in [&tags[..], &[""], &[&too_long]] {
        let status = try_set(node, tagged("bad", "v", bad)).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    for bad in ["", &too_long] {
        assert_eq!(try_invalidate(node, &[bad]).unwrap_err().code(), Code::InvalidArgument);
    }
    let many: Vec<String> = (0..1_001).map(|n| n.to_string()).collect();
    assert_eq!(try_invalidate(node, &many).unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(value(node, "bad"), None);
    assert_eq!(try_invalidate(node, &many[..1_000]).expect("an answer"), 0);
}

/// A client reads what it has written, also a value that looks like a header; the tags in such a value have no effect.
fn values_that_look_like_headers_are_values(world: &World) {
    let (node, mut client) = (&world.node, connection(world.node.resp()));
    set(node, "real", "v", &["t"]);
    let valid = codec::joined(&codec::head_of(&[Tag { name: "t".into(), id: 1 }]), "payload".into());
    let mut broken = valid.to_vec();
    broken[12] ^= 1;
    let nested = codec::joined(&codec::head_of(&[]), valid.clone());
    for (at, value) in [codec::MAGIC.to_vec(), valid.to_vec(), broken, nested.to_vec()].into_iter().enumerate() {
        let key = format!("k:{at}");
        let set_by_resp = |client: &mut Connection| client.set::<_, _, ()>(&key, &value).unwrap();
        let set_many =
            |client: &mut Connection| redis::cmd("MSET").arg(&key).arg(&value).arg("x").arg(1).exec(client).unwrap();
        let set_new = |client: &mut Connection| {
            client.del::<_, ()>(&[&key, "y"]).unwrap();
            assert_eq!(redis::cmd("MSETNX").arg(&key).arg(&value).arg("y").arg(1).query(client), Ok(1));
        };
        let append = |client: &mut Connection| {
            client.set::<_, _, ()>(&key, &value[..3]).unwrap();
            client.append::<_, _, ()>(&key, &value[3..]).unwrap();
        };
        let by_grpc = |_: &mut Connection| assert!(try_set(node, tagged(&key, value.clone(), &[])).unwrap());
        let under_tags = |_: &mut Connection| assert!(try_set(node, tagged(&key, value.clone(), &["u"])).unwrap());
        for write in [&set_by_resp as &dyn Fn(&mut Connection), &set_many, &set_new, &append, &by_grpc, &under_tags] {
            write(&mut client);
            for _ in 0..2 {
                assert_eq!(client.get::<_, Vec<u8>>(&key).unwrap(), value, "value {at}");
            }
            let found = get(node, &key).expect("there");
            assert_eq!((&found.value[..], found.size), (&value[..], Some(value.len() as u64)), "value {at}");
            assert_eq!(client.strlen::<_, usize>(&key).unwrap(), value.len());
            assert_eq!(meta(node, &key).size, value.len() as u64);
        }
    }
    assert_eq!(invalidate(node, "t"), 1);
    assert_eq!(client.get::<_, Vec<u8>>("k:1").unwrap(), valid, "it was never under that tag");
}

fn names_change_and_tags_stay(world: &World) {
    let (node, mut client) = (&world.node, connection(world.node.resp()));
    set(node, "k{1}", "v", &["t"]);
    assert_eq!(say(&mut client, "RENAME k{1} l{1}"), Value::Okay);
    assert_eq!(say(&mut client, "COPY l{1} m{1}"), Value::Int(1));
    for key in ["l{1}", "m{1}"] {
        let found = get(node, key).expect("there");
        assert_eq!((&found.value[..], names(&found.tags)), (&b"v"[..], names(&["t"])), "{key}");
    }
    assert_eq!(invalidate(node, "t"), 1);
    assert_eq!(say(&mut client, "EXISTS k{1} l{1} m{1}"), Value::Int(0));
}

/// Clients can neither read, change nor count tag records.
fn records_stay_hidden(world: &World) {
    let (node, mut client) = (&world.node, connection(world.node.resp()));
    set(node, "k", "v", &["t"]);
    let before = stats(node).reads.unwrap();
    bring_up(node, "k");
    let after = stats(node).reads.unwrap();
    let count = |reads: terrace::proto::ReadStats| reads.hit_l1 + reads.hit_l2 + reads.miss + reads.error;
    let mut reads = count(after) - count(before);
    assert!(reads > 0);
    assert_eq!(value(node, "k").as_deref(), Some("v"));
    reads += 1;
    assert_eq!(count(stats(node).reads.unwrap()) - count(before), reads, "one outcome for one read");
    for db in [0, 1] {
        assert_eq!(say(&mut client, &format!("SELECT {db}")), Value::Okay);
        assert_eq!(redis::cmd("KEYS").arg("*").query::<Vec<String>>(&mut client).unwrap(), ["k"], "db {db}");
        assert_eq!(say(&mut client, "STRLEN k"), Value::Int(1), "db {db}");
        assert_eq!(say(&mut client, "GET k"), Value::BulkString("v".into()), "db {db}");
        let refused = say(&mut client, "GET __terrace:tag:t");
        assert!(matches!(&refused, Value::SimpleString(text) if text.contains("reserved")), "{refused:?}");
    }
    assert_eq!(say(&mut client, "SELECT 0"), Value::Okay);
    invalidate(node, "t");
    let before = stats(node).reads.unwrap();
    assert_eq!(value(node, "k"), None);
    let after = stats(node).reads.unwrap();
    assert_eq!((after.miss - before.miss, count(after) - count(before)), (1, 1), "what is gone is a miss");
    for db in [0, 1] {
        assert_eq!(say(&mut client, &format!("SELECT {db}")), Value::Okay);
        assert_eq!(
            say(&mut client, "SCAN 0 COUNT 1000"),
            say(&mut client, "SCAN 0 COUNT 1000 MATCH absent"),
            "db {db}"
        );
    }
}

fn ten_thousand_invalidations_leave_nothing(world: &World) {
    let (node, mut client) = (&world.node, connection(world.node.resp()));
    set(node, "k", "v", &["first"]);
    invalidate(node, "first");
    client.set::<_, _, ()>("k", "v").unwrap();
    let size = |client: &mut Connection| say(client, "DBSIZE");
    let before = size(&mut client);
    for round in 0..10 {
        let tags: Vec<String> = (0..1_000).map(|n| format!("{round}:{n}")).collect();
        let entries = tags.iter().map(|tag| tagged("k", "v", &[tag])).collect();
        block_on(async { CacheClient::new(connect(node.grpc()).await).set_many(SetManyRequest { entries }).await })
            .unwrap();
        assert_eq!(try_invalidate(node, &tags).expect("an answer"), 1_000);
    }
    assert_eq!(value(node, "k"), None);
    client.set::<_, _, ()>("k", "v").unwrap();
    assert_eq!(size(&mut client), before);
}

/// One test for each case and store.
macro_rules! over_all {
    ($($case:ident),*) => {
        mod over_redis { $( #[test] fn $case() { super::$case(&super::over_redis()); } )* }
        mod over_embedded { $( #[test] fn $case() { super::$case(&super::over_embedded()); } )* }
        mod over_none { $( #[test] fn $case() { super::$case(&super::over_none()); } )* }
    };
}

over_all!(
    tags_are_shown_and_kept,
    what_is_gone_is_absent_for_every_command,
    a_rewrite_has_its_own_tags,
    many_at_once,
    names_have_limits,
    values_that_look_like_headers_are_values,
    names_change_and_tags_stay,
    records_stay_hidden,
    ten_thousand_invalidations_leave_nothing
);

#[test]
fn the_other_node_hears_within_the_bound() {
    let redis = RedisServer::start();
    let (a, b) = (connected_node(&redis.url()), connected_node(&redis.url()));
    for round in 0..20 {
        set(&a, "k", &round.to_string(), &["t"]);
        eventually("both have a copy", || {
            [&a, &b].iter().all(|node| {
                get(node, "k");
                is_in_l1(node, "k")
            })
        });
        assert_eq!(invalidate(&a, "t"), 1);
        assert_eq!(value(&a, "k"), None, "the node that was told");
        eventually("the other node has heard", || get(&b, "k").is_none());
        assert_eq!(read(&b, "k", TierSelection::L1Only).expect("an answer"), None);
        // The entry stays absent.
        assert_eq!((value(&a, "k"), value(&b, "k")), (None, None));
    }
}

#[test]
fn a_node_that_comes_later_knows_that_there_are_tags() {
    let redis = RedisServer::start();
    let a = connected_node(&redis.url());
    for key in ["exists", "nx", "incr"] {
        set(&a, key, "7", &["t"]);
    }
    invalidate(&a, "t");
    for (line, reply) in [("EXISTS exists", Value::Int(0)), ("SET nx 1 NX", Value::Okay), ("INCR incr", Value::Int(1))]
    {
        let later = connected_node(&redis.url());
        assert_eq!(say(&mut connection(later.resp()), line), reply, "{line}");
    }
}

#[test]
fn a_node_that_is_there_hears_that_there_are_tags() {
    let redis = RedisServer::start();
    let (a, b) = (connected_node(&redis.url()), connected_node(&redis.url()));
    let mut client = connection(b.resp());
    // It has queried the tags and has cached that there are none.
    assert_eq!(say(&mut client, "INCR n"), Value::Int(1));
    set(&a, "k", "7", &["t"]);
    invalidate(&a, "t");
    eventually("it counts from nothing", || {
        set(&a, "k", "7", &["t"]);
        invalidate(&a, "t");
        say(&mut client, "INCR k") == Value::Int(1)
    });
}

/// No loss of tag records makes an invalidated entry valid again.
#[test]
fn records_that_go_cost_misses_only() {
    let redis = RedisServer::start();
    let (a, b) = (connected_node(&redis.url()), connected_node(&redis.url()));
    let set_both = || {
        set(&a, "k", "v", &["t"]);
        eventually("both have a copy", || {
            [&a, &b].iter().all(|node| {
                get(node, "k");
                is_in_l1(node, "k")
            })
        });
    };
    for line in [
        "DEL __terrace:tag:t",
        "PEXPIRE __terrace:tag:t 1",
        "SET __terrace:tag:t 0123456789abcdef",
        "SET __terrace:tag:t rubbish",
        "DEL __terrace:tag:t __terrace:tagged",
    ] {
        set_both();
        redis.run(line);
        eventually("both miss", || [&a, &b].iter().all(|node| get(node, "k").is_none()));
        assert_eq!(say(&mut connection(a.resp()), "EXISTS k"), Value::Int(0), "{line}");
        set(&b, "k", "new", &["t"]);
        eventually("what is written anew is valid", || {
            [&a, &b].iter().all(|node| value(node, "k").as_deref() == Some("new"))
        });
    }
    set(&a, "old", "v", &["t"]);
    redis.run("DEL __terrace:tag:t");
    eventually("it is missed", || get(&b, "old").is_none());
    set(&a, "k", "v", &["t"]);
    assert_eq!(value(&a, "old"), None, "a new id makes nothing valid again");
    let ttl: i64 = redis.ask(&[b"PTTL", b"__terrace:tag:t"]);
    assert!((29 * 86_400_000..=30 * 86_400_000).contains(&ttl), "{ttl}");
    redis.run("PEXPIRE __terrace:tag:t 1000000000");
    eventually("a Set renews the id's life", || {
        set(&a, "k", "v", &["t"]);
        redis.ask::<i64>(&[b"PTTL", b"__terrace:tag:t"]) > 29 * 86_400_000
    });
    assert_eq!(value(&a, "k").as_deref(), Some("v"), "the id stays");
}

#[test]
fn what_stands_in_redis() {
    let redis = RedisServer::start();
    let a = connected_node(&redis.url());
    let mut straight = redis.connect();
    set(&a, "plain", "v", &[]);
    assert_eq!(straight.get::<_, Vec<u8>>("plain").unwrap(), b"v");
    assert_eq!(redis.ask::<Vec<String>>(&[b"KEYS", b"__terrace:tag*"]), Vec::<String>::new(), "nobody uses tags");
    set(&a, "k", "v", &["t"]);
    let raw: Vec<u8> = straight.get("k").unwrap();
    let (head, payload) = codec::split(&raw);
    assert_eq!((codec::tags(head).unwrap()[0].name.as_ref(), payload), (&b"t"[..], &b"v"[..]));
    // Written directly to Redis: a copy of an entry is an entry; bytes with a wrong checksum are a plain value.
    straight.set::<_, _, ()>("copy", &raw).unwrap();
    assert_eq!(value(&a, "copy").as_deref(), Some("v"));
    let mut broken = raw.clone();
    broken[11] ^= 0x80;
    for (key, bytes) in [("broken", &broken), ("short", &raw[..head.len() - 1].to_vec())] {
        straight.set::<_, _, ()>(key, bytes).unwrap();
        assert_eq!(&get(&a, key).expect("there").value[..], &bytes[..]);
        assert_eq!(meta(&a, key).size, bytes.len() as u64);
        let more = [&bytes[..], b"!"].concat();
        assert_eq!(connection(a.resp()).append::<_, _, usize>(key, "!").unwrap(), more.len());
        assert_eq!(&get(&a, key).expect("there").value[..], &more[..]);
    }
    invalidate(&a, "t");
    assert_eq!((value(&a, "k"), value(&a, "copy")), (None, None));
    assert!(get(&a, "broken").is_some());
}

#[test]
fn what_passes_to_redis_meets_no_header() {
    let redis = RedisServer::start();
    let a = connected_node(&redis.url());
    let mut client = connection(a.resp());
    let refused = |client: &mut Connection, line: &str| {
        let reply = say(client, line);
        assert!(matches!(&reply, Value::SimpleString(text) if text.contains("\"k\" has tags")), "{line}: {reply:?}");
    };
    let transaction = |client: &mut Connection, line: &str| {
        assert_eq!(say(client, "MULTI"), Value::Okay);
        assert_eq!(say(client, line), Value::SimpleString("QUEUED".into()));
    };
    set(&a, "k", "v", &["t"]);
    for line in ["GETBIT k 0", "SETBIT k 1 1", "BITCOUNT k", "BITOP NOT other k"] {
        refused(&mut client, line);
    }
    for line in ["GET k", "APPEND k x", "INCR k", "SET k 1"] {
        transaction(&mut client, line);
        refused(&mut client, "EXEC");
    }
    assert_eq!(value(&a, "k").as_deref(), Some("v"), "nothing was done");
    invalidate(&a, "t");
    assert_eq!(say(&mut client, "BITCOUNT k"), Value::Int(0));
    set(&a, "k", "v", &["t"]);
    invalidate(&a, "t");
    transaction(&mut client, "APPEND k x");
    assert_eq!(say(&mut client, "EXEC"), Value::Array(vec![Value::Int(1)]));
    assert_eq!(say(&mut client, "GET k"), Value::BulkString("x".into()));
    assert_eq!(say(&mut client, "MULTI"), Value::Okay);
    redis::cmd("SET").arg("f").arg(&codec::head_of(&[])[..]).query::<Value>(&mut client).unwrap();
    let reply = say(&mut client, "EXEC");
    assert!(matches!(&reply, Value::SimpleString(text) if text.contains("transaction not executed")), "{reply:?}");
    assert_eq!(value(&a, "f"), None);
}

/// The entry and its tag are on different primaries.
#[test]
pub(crate) fn over_a_cluster() {
    let cluster = RedisCluster::start();
    let (a, b) = (connected_node(&cluster.url()), connected_node(&cluster.url()));
    for number in 0..30 {
        set(&a, &format!("k:{number}"), "1", &[&format!("t:{}", number % 3), "all"]);
    }
    let found = |node: &Terrace| (0..30).filter(|number| get(node, format!("k:{number}")).is_some()).count();
    assert_eq!((found(&a), found(&b)), (30, 30));
    assert_eq!(say(&mut connection(b.resp()), "INCR k:1"), Value::Int(2));
    assert_eq!(invalidate(&b, "t:1"), 1);
    assert_eq!(found(&b), 20);
    eventually("the other node hears", || found(&a) == 20);
    assert_eq!(say(&mut connection(a.resp()), "EXISTS k:4"), Value::Int(0));
    assert_eq!(invalidate(&a, "all"), 1);
    assert_eq!(found(&a), 0);
    eventually("the other node hears", || found(&b) == 0);
}

#[test]
fn where_the_id_cannot_be_read_nothing_is_said_to_be_missing() {
    let mut redis = RedisServer::start();
    let a = Terrace::start(config_over(redis.url()));
    wait_until_open(&a);
    eventually("it is stored", || try_set(&a, tagged("k", "v", &["t"])).is_ok());
    eventually("it is read", || read(&a, "k", TierSelection::Any).is_ok_and(|found| found.is_some()));
    redis.kill();
    eventually("the read fails", || {
        let answer = read(&a, "k", TierSelection::Any);
        assert!(!matches!(answer, Ok(None)), "a failed read is no miss");
        answer.is_err()
    });
}
