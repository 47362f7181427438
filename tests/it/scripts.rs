//! Scripts and functions through a node, over a real redis-server: the write rule, refusals, the deadline, and the scripts
//! of libraries. (`resp_compat` compares the replies.)

use std::{
    collections::BTreeSet,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use redis::{Commands, Connection, RedisResult, Value};
use terrace::config::Config;

use crate::support::{
    checker::direct::slot,
    cluster::RedisCluster,
    eventually,
    kv::{is_in_l1, set},
    node::{connected_node, node, over_embedded, over_none, stats, wait_until_open},
    proxy::{FaultProxy, Faults, Link, Who},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config_patient},
};

/// Callers of scripts at the same time: more than a node sends to Redis.
const CALLERS: usize = 150;
/// Maximum number of connections of a node to Redis while it runs scripts: scripts, data, invalidations and others.
const CONNECTIONS_MAX: usize = 64 + 24;
/// Deletes a key if it has this value: a lock is released only by its owner, as by redis-py's Lock.
const RELEASE: &str = "if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end redis.call('del', KEYS[1]) return 1";
/// Adds time to a lock of this owner, as redis-py's Lock does.
const EXTEND: &str = "
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
local left = redis.call('pttl', KEYS[1])
if left < 0 then return 0 end
redis.call('pexpire', KEYS[1], left + ARGV[2])
return 1";
/// Moves the unacknowledged message with the lowest score back to its queue, as Celery's transport does.
const RESTORE: &str = "
local tags = redis.call('zrange', KEYS[1], 0, 0)
if #tags == 0 then return false end
local message = redis.call('hget', KEYS[2], tags[1])
redis.call('zrem', KEYS[1], tags[1])
redis.call('hdel', KEYS[2], tags[1])
redis.call('rpush', KEYS[3], message)
return message";

fn eval<T: redis::FromRedisValue>(
    client: &mut Connection,
    script: &str,
    keys: &[&str],
    args: &[&str],
) -> RedisResult<T> {
    redis::cmd("EVAL").arg(script).arg(keys.len()).arg(keys).arg(args).query(client)
}

/// Returns the text of the error of a script.
fn error(client: &mut Connection, script: &str, keys: &[&str], args: &[&str]) -> String {
    eval::<Value>(client, script, keys, args).unwrap_err().to_string()
}

fn get(client: &mut Connection, key: &str) -> Option<String> {
    client.get(key).unwrap()
}

/// Reads a key until L1 of the node has a copy of it.
fn copy(node: &Terrace, client: &mut Connection, key: &str) {
    eventually("L1 has a copy", || {
        let _value = get(client, key);
        is_in_l1(node, key)
    });
}

/// Waits until L1 of the node answers with this value. A read that bypasses L1 proves nothing about the copy.
fn wait_for_copy(node: &Terrace, client: &mut Connection, key: &str, value: &str) {
    let hits = || stats(node).reads.unwrap().hit_l1;
    eventually("L1 has the new value", || {
        let before = hits();
        get(client, key).as_deref() == Some(value) && hits() > before
    });
    assert_eq!(stats(node).coherence.unwrap().stale_detected, 0, "the self-check has dropped an old copy");
}

fn node_with(url: String, change: impl FnOnce(&mut Config)) -> Terrace {
    let mut config = config_patient(url);
    change(&mut config);
    let node = Terrace::start(config);
    wait_until_open(&node);
    node
}

#[test]
fn a_declared_key_is_current_at_once_here_and_soon_on_the_other_node() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let (here, there) = (node(&proxy.url()), node(&redis.url()));
    let (mut a, mut b) = (connection(here.resp()), connection(there.resp()));
    a.set::<_, _, ()>("k", "old").unwrap();
    for script in ["redis.call('set', KEYS[1], 'new')", "redis.call('set', KEYS[1], 'new') error('late')"] {
        a.set::<_, _, ()>("k", "old").unwrap();
        copy(&here, &mut a, "k");
        copy(&there, &mut b, "k");
        // Without its link, only the write rule can end the copy of this node.
        proxy.set(Who::Link(Link::Invalidation), Faults::held());
        let _done = eval::<Value>(&mut a, script, &["k"], &[]);
        assert_eq!(get(&mut a, "k").as_deref(), Some("new"), "{script}");
        proxy.heal();
        wait_for_copy(&there, &mut b, "k", "new");
        wait_until_open(&here);
    }
}

#[test]
fn an_undeclared_key_is_current_soon_on_all_nodes() {
    let redis = RedisServer::start();
    let nodes = [node(&redis.url()), node(&redis.url())];
    let mut clients = nodes.each_ref().map(|node| connection(node.resp()));
    clients[0].set::<_, _, ()>("k", "old").unwrap();
    for (node, client) in nodes.iter().zip(&mut clients) {
        copy(node, client, "k");
    }
    eval::<Value>(&mut clients[0], "redis.call('set', ARGV[1], 'new')", &[], &["k"]).unwrap();
    for (node, client) in nodes.iter().zip(&mut clients) {
        wait_for_copy(node, client, "k", "new");
    }
}

/// The script leaves the key as it was, so only the removed record of the lease shows that something happened.
#[test]
fn a_load_that_began_before_the_script_fills_nothing() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let node = node(&proxy.url());
    let mut client = connection(node.resp());
    let lease = |client: &mut Connection, key: &str| -> String {
        let granted: Vec<String> = redis::cmd("TERRACE.LEASE").arg(key).query(client).unwrap();
        assert_eq!(granted[0], "load");
        granted[1].clone()
    };
    let fill = |client: &mut Connection, key: &str, token: &str| -> Vec<String> {
        redis::cmd("TERRACE.FILL").arg(key).arg(token).arg("old").query(client).unwrap()
    };
    let mut number = 0;
    eventually("all nodes could know that leases are in use, so that fills are accepted", || {
        number += 1;
        let key = format!("first:{number}");
        let token = lease(&mut client, &key);
        fill(&mut client, &key, &token) == ["stored"]
    });
    let token = lease(&mut client, "k");
    // The announcement of the change would end the lease as well.
    proxy.set(Who::Link(Link::Invalidation), Faults::held());
    eval::<Value>(&mut client, "redis.call('set', KEYS[1], 'new') redis.call('del', KEYS[1])", &["k"], &[]).unwrap();
    let filled = fill(&mut client, "k", &token);
    proxy.heal();
    assert_eq!(get(&mut client, "k"), None, "{filled:?}");
}

#[test]
fn an_open_ban_is_applied_before_the_script_and_spares_what_it_writes() {
    let redis = RedisServer::start();
    let node = node(&redis.url());
    let mut client = connection(node.resp());
    let mut fill = redis::pipe();
    for number in 0..20_000 {
        fill.set(format!("user:{number}"), "old").ignore();
    }
    fill.exec(&mut redis.connect()).unwrap();
    redis::cmd("TERRACE.INVALIDATE").arg("PATTERN").arg("user:*").exec(&mut client).unwrap();
    let script = "local old = redis.call('get', KEYS[1]) redis.call('set', KEYS[1], 'new') return old";
    for number in (0..20_000).step_by(997) {
        let key = format!("user:{number}");
        assert_eq!(eval::<Option<String>>(&mut client, script, &[&key], &[]).unwrap(), None, "{key}");
    }
    let mut straight = redis.connect();
    eventually("the sweep is done", || straight.hlen::<_, u64>("__terrace:bans") == Ok(1));
    for number in (0..20_000).step_by(997) {
        assert_eq!(get(&mut client, &format!("user:{number}")).as_deref(), Some("new"));
    }
}

#[test]
fn scripts_that_cannot_be_run_are_refused() {
    let redis = RedisServer::start();
    let node = node(&redis.url());
    let mut client = connection(node.resp());
    set(&node, "tagged", "v", &["t"]);
    let write = "redis.call('set', KEYS[1], 'w')";
    let text = error(&mut client, write, &["free", "tagged"], &[]);
    assert!(text.contains("\"tagged\" has tags"), "{text}");
    let text = error(&mut client, write, &["__terrace:bans"], &[]);
    assert!(text.contains("__terrace:"), "{text}");
    assert_eq!(redis.ask::<u64>(&[b"EXISTS", b"__terrace:bans"]), 0);
    let marked: RedisResult<Value> =
        redis::cmd("EVAL").arg("return 1").arg(0).arg(b"\x9fTERRACE\x01").query(&mut client);
    assert!(marked.unwrap_err().to_string().contains("must not begin with"));
    let text = redis::cmd("SCRIPT").arg("DEBUG").arg("YES").exec(&mut client).unwrap_err().to_string();
    assert!(text.contains("SCRIPT DEBUG is refused"), "{text}");
    assert_eq!(get(&mut client, "tagged").as_deref(), Some("v"));
    redis::cmd("SELECT").arg(1).exec(&mut client).unwrap();
    let text = error(&mut client, "return 1", &[], &[]);
    assert!(text.contains("EVAL is only available in db 0"), "{text}");
}

#[test]
fn other_stores_name_the_store_that_runs_scripts() {
    for world in [over_embedded(), over_none()] {
        let mut client = connection(world.node.resp());
        for words in
            ["EVAL 1 0", "EVALSHA 1 0", "EVAL_RO 1 0", "FCALL f 0", "SCRIPT LOAD 1", "SCRIPT EXISTS 1", "FUNCTION DUMP"]
        {
            let mut words = words.split(' ');
            let mut command = redis::cmd(words.next().unwrap());
            let text = command.arg(words.collect::<Vec<_>>()).exec(&mut client).unwrap_err().to_string();
            assert!(text.contains("requires Redis as L2") && text.contains("redis://"), "{text}");
        }
    }
}

#[test]
fn an_unknown_script_is_reported_as_by_redis() {
    let mut redis = RedisServer::start();
    let node = node(&redis.url());
    let mut client = connection(node.resp());
    let load =
        |client: &mut Connection| redis::cmd("SCRIPT").arg("LOAD").arg("return 7").query::<String>(client).unwrap();
    let digest = load(&mut client);
    let mut call = redis::cmd("EVALSHA");
    call.arg(&digest).arg(0);
    assert_eq!(call.query::<i64>(&mut client), Ok(7));
    redis.run("SCRIPT FLUSH");
    let text = call.query::<i64>(&mut client).unwrap_err().to_string();
    assert!(text.contains("NoScript") || text.contains("NOSCRIPT"), "{text}");
    assert_eq!(load(&mut client), digest);
    assert_eq!(call.query::<i64>(&mut client), Ok(7));
    redis.kill();
    redis.restart();
    eventually("the restarted server is asked", || {
        call.query::<i64>(&mut client).is_err_and(|error| error.to_string().to_lowercase().contains("noscript"))
    });
}

/// Redis cannot abort a script that has written, so the script is executed after its caller has left.
#[test]
fn a_slow_script_costs_its_caller_an_error_and_others_nothing_lasting() {
    let redis = RedisServer::start();
    redis.run("CONFIG SET busy-reply-threshold 50");
    let node = node_with(redis.url(), |config| config.l2.script_timeout = Duration::from_millis(100));
    let mut client = connection(node.resp());
    client.set::<_, _, ()>("k", "old").unwrap();
    copy(&node, &mut client, "k");
    let slow = "
        local function ms() local t = redis.call('time') return t[1] * 1000 + t[2] / 1000 end
        local ends = ms() + 1500
        redis.call('set', KEYS[1], 'begun')
        while ms() < ends do end
        redis.call('set', KEYS[1], 'new')";
    let text = error(&mut client, slow, &["k"], &[]);
    assert!(text.contains("l2.script_timeout (100ms)") && text.contains("may still run"), "{text}");
    assert_ne!(get_or_error(&mut client, "k").as_deref(), Some("old"));
    eventually("the script has ended and its write is seen", || {
        get_or_error(&mut client, "k").as_deref() == Some("new")
    });
    assert_eq!(eval::<i64>(&mut client, "return 1", &[], &[]), Ok(1));
}

/// A read while a script occupies Redis may fail.
fn get_or_error(client: &mut Connection, key: &str) -> Option<String> {
    client.get(key).unwrap_or_else(|error| Some(error.to_string()))
}

#[test]
fn an_endless_script_is_killed_through_a_node_and_leaves_the_pool_whole() {
    let redis = RedisServer::start();
    redis.run("CONFIG SET busy-reply-threshold 5");
    let proxy = FaultProxy::start(redis.port());
    let node = node_with(proxy.url(), |config| config.l2.script_timeout = Duration::from_secs(1));
    let mut killer = connection(node.resp());
    assert!(
        redis::cmd("SCRIPT").arg("KILL").exec(&mut killer).unwrap_err().to_string().to_lowercase().contains("notbusy")
    );
    let (told, heard) = mpsc::channel();
    let address = node.resp().to_owned();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (address, told) = (address.clone(), told.clone());
            std::thread::spawn(move || {
                let mut client = connection(&address);
                told.send(()).unwrap();
                eval::<Value>(&mut client, "while true do end", &["k"], &[]).unwrap_err().to_string()
            })
        })
        .collect();
    (0..CALLERS).for_each(|_| heard.recv().unwrap());
    let (done, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut killer = connection(node.resp());
            while !done.load(Relaxed) {
                most.fetch_max(proxy.connections().len(), Relaxed);
                let _killed = redis::cmd("SCRIPT").arg("KILL").exec(&mut killer);
            }
        });
        for caller in callers {
            let text = caller.join().unwrap();
            let known = ["UNKNOWN", "script_timeout", "Script killed", "BUSY", "Busy", "UNAVAILABLE", "TRYAGAIN"];
            assert!(known.iter().any(|known| text.contains(known)), "{text}");
        }
        eventually("Redis answers again", || eval::<i64>(&mut killer, "return 1", &["k"], &[]) == Ok(1));
        done.store(true, Relaxed);
    });
    assert_eq!(killer.llen::<_, u64>("list"), Ok(0), "other commands get connections");
    let most = most.into_inner();
    assert!((2..=CONNECTIONS_MAX).contains(&most), "{most} connections at the same time");
}

#[test]
fn scripts_run_on_the_primary_of_their_keys_and_are_loaded_on_all() {
    let cluster = RedisCluster::start();
    let node = connected_node(&cluster.url());
    let mut client = connection(node.resp());
    let write = "return redis.call('set', KEYS[1], ARGV[1])";
    let keys: Vec<String> = (0..24).map(|number| format!("key:{number}")).collect();
    let owners: BTreeSet<usize> = keys.iter().map(|key| cluster.owner(slot(key.as_bytes()))).collect();
    assert_eq!(owners.len(), 3, "all primaries have keys");

    let text = error(&mut client, write, &["key:1", "key:2"], &["v"]);
    assert!(text.to_lowercase().contains("crossslot"), "{text}");
    eval::<Value>(&mut client, write, &["{t}a", "{t}b"], &["v"]).unwrap();
    assert_eq!(eval::<i64>(&mut client, "return 1", &[], &[]), Ok(1));

    let ask = |client: &mut Connection, words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query::<Value>(client)
    };
    let digest: String = redis::cmd("SCRIPT").arg("LOAD").arg(write).query(&mut client).unwrap();
    let function =
        "#!lua name=l\nredis.register_function('f', function(k, a) return redis.call('append', k[1], a[1]) end)";
    ask(&mut client, &["FUNCTION", "LOAD", function]).unwrap();
    for key in &keys {
        ask(&mut client, &["EVALSHA", &digest, "1", key, "v"]).unwrap();
        ask(&mut client, &["FCALL", "f", "1", key, "w"]).unwrap();
        assert_eq!(get(&mut client, key).as_deref(), Some("vw"), "{key}");
    }
    let exists = |client: &mut Connection| ask(client, &["SCRIPT", "EXISTS", &digest]).unwrap();
    assert_eq!(exists(&mut client), Value::Array(vec![Value::Int(1)]));
    let emptied = cluster.owner(slot(keys[0].as_bytes()));
    cluster.servers[emptied].run("SCRIPT FLUSH");
    assert_eq!(exists(&mut client), Value::Array(vec![Value::Int(0)]));
    let text = ask(&mut client, &["EVALSHA", &digest, "1", &keys[0], "v"]).unwrap_err().to_string();
    assert!(text.to_lowercase().contains("noscript"), "{text}");

    // Redis replicates functions, and no scripts.
    ask(&mut client, &["SCRIPT", "LOAD", write]).unwrap();
    cluster.failover(emptied);
    eventually("the new primary is asked for the script", || {
        let reply = ask(&mut client, &["EVALSHA", &digest, "1", &keys[0], "v"]);
        reply.is_err_and(|error| error.to_string().to_lowercase().contains("noscript"))
    });
    ask(&mut client, &["FCALL", "f", "1", &keys[0], "x"]).unwrap();
    ask(&mut client, &["FUNCTION", "DELETE", "l"]).unwrap();
    for key in &keys {
        let text = ask(&mut client, &["FCALL", "f", "1", key, "w"]).unwrap_err().to_string();
        assert!(text.to_lowercase().contains("function not found"), "{text}");
    }
}

#[test]
fn locks_and_queues_of_libraries_work() {
    let redis = RedisServer::start();
    let node = node(&redis.url());
    let mut client = connection(node.resp());
    let options = redis::SetOptions::default()
        .conditional_set(redis::ExistenceCheck::NX)
        .with_expiration(redis::SetExpiry::PX(60_000));
    assert_eq!(client.set_options::<_, _, bool>("lock", "me", options.clone()), Ok(true));
    copy(&node, &mut client, "lock");
    assert_eq!(eval::<i64>(&mut client, RELEASE, &["lock"], &["other"]), Ok(0));
    assert_eq!(eval::<i64>(&mut client, EXTEND, &["lock"], &["me", "100000"]), Ok(1));
    let left: i64 = client.pttl("lock").unwrap();
    assert!((100_000..=160_000).contains(&left), "{left}");
    let digest: String = redis::cmd("SCRIPT").arg("LOAD").arg(RELEASE).query(&mut client).unwrap();
    let released: i64 = redis::cmd("EVALSHA").arg(digest).arg(1).arg("lock").arg("me").query(&mut client).unwrap();
    assert_eq!((released, get(&mut client, "lock")), (1, None));
    assert_eq!(client.set_options::<_, _, bool>("lock", "you", options), Ok(true));

    client.zadd::<_, _, _, ()>("unacked_index", "tag", 1).unwrap();
    client.hset::<_, _, _, ()>("unacked", "tag", "message").unwrap();
    let keys = ["unacked_index", "unacked", "queue"];
    assert_eq!(eval::<Option<String>>(&mut client, RESTORE, &keys, &[]).unwrap().as_deref(), Some("message"));
    assert_eq!(eval::<Option<String>>(&mut client, RESTORE, &keys, &[]).unwrap(), None);
    assert_eq!(client.lrange::<_, Vec<String>>("queue", 0, -1).unwrap(), ["message"]);
}
