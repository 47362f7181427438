//! `touch_on_read`: reads extend TTLs, over Redis with two nodes, over the embedded store and without an L2.

use std::time::Duration;

use redis::Commands;
use terrace::{cache::policy::Policy, clock::Clock, config::Config, glob::Glob, proto::ReadOptions};

use crate::support::{
    eventually,
    http::samples,
    kv::{get, set_for, try_get, value},
    node::wait_until_open,
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config, config_embedded, config_patient},
};

const MINUTE_MS: i64 = 60_000;

fn sliding(mut config: Config, window_ms: i64) -> Config {
    let touch_on_read = Some(Duration::from_millis(window_ms.unsigned_abs()));
    config.policies = vec![Policy { touch_on_read, ..Policy::of(Glob::new(b"session:*").unwrap()) }];
    config
}

fn extended(node: &Terrace) -> f64 {
    samples(node.http())["terrace_touches_total{result=\"extended\"}"]
}

fn ttl_ms(node: &Terrace, key: &str) -> Option<i64> {
    get(node, key).expect("it is there").ttl_ms
}

/// Reads without touching.
fn inspect(node: &Terrace, key: &str) {
    let options = ReadOptions { no_touch: true, ..ReadOptions::default() };
    try_get(node, key.as_bytes(), Some(options)).expect("an answer");
}

#[test]
fn over_redis_a_read_extends_the_life_for_both_nodes_and_few_touches_do() {
    let redis = RedisServer::start();
    let nodes = [(); 2].map(|()| Terrace::start(sliding(config_patient(redis.url()), 60 * MINUTE_MS)));
    nodes.iter().for_each(wait_until_open);
    let mut straight = redis.connect();
    let mut left = |key: &str| straight.pttl::<_, i64>(key).unwrap();
    for (key, ttl_ms) in [("session:1", 30 * MINUTE_MS), ("session:long", 120 * MINUTE_MS), ("other:1", MINUTE_MS)] {
        redis.run(&format!("SET {key} v PX {ttl_ms}"));
    }
    redis.run("SET session:forever v");

    // A read with `no_touch` extends nothing; a read of an older copy on the other node does.
    inspect(&nodes[0], "session:1");
    assert!(ttl_ms(&nodes[1], "other:1") <= Some(MINUTE_MS));
    assert!(left("session:1") <= 30 * MINUTE_MS);
    assert_eq!(value(&nodes[1], "session:1").as_deref(), Some("v"));
    eventually("the key lives longer in Redis", || left("session:1") > 59 * MINUTE_MS);
    for node in &nodes {
        eventually("each node sees it", || ttl_ms(node, "session:1") > Some(59 * MINUTE_MS));
        for key in ["session:1", "session:long", "session:forever", "other:1"] {
            (0..200).for_each(|_| assert!(value(node, key).is_some(), "{key}"));
        }
    }
    assert!((119 * MINUTE_MS..=120 * MINUTE_MS).contains(&left("session:long")), "it is never shortened");
    assert_eq!(left("session:forever"), -1, "what never expires goes on so");
    assert!(left("other:1") <= MINUTE_MS, "no policy says so");
    assert_eq!(nodes.iter().map(extended).sum::<f64>(), 1.0, "hundreds of reads within a sixteenth of the window");

    // Each node sees the extended TTL, and a TTL that is shortened is extended again.
    redis.run(&format!("PEXPIRE session:1 {MINUTE_MS}"));
    eventually("the shorter life is heard of and extended", || {
        nodes.iter().for_each(|node| drop(value(node, "session:1")));
        left("session:1") > 59 * MINUTE_MS
    });
}

/// With a window of 160 s, a key that is read every 100 s stays; without reads it expires after 160 s.
fn a_key_lives_on_while_it_is_read(mut wanted: Config) {
    let (clock, time) = Clock::manual();
    wanted.data.hot_keys = 0;
    let node = Terrace::start_at(wanted, clock);
    set_for(&node, "session:1", "v", 160_000);
    for _ in 0..5 {
        time.advance(Duration::from_secs(100));
        assert!(value(&node, "session:1").is_some(), "it was read 100 s ago");
        eventually("its life is extended", || ttl_ms(&node, "session:1") == Some(160_000));
    }
    assert_eq!(extended(&node), 5.0);
    // Reads within a sixteenth of the window extend nothing.
    time.advance(Duration::from_secs(9));
    (0..50).for_each(|_| assert_eq!(ttl_ms(&node, "session:1"), Some(151_000)));
    time.advance(Duration::from_secs(151));
    assert_eq!(value(&node, "session:1"), None, "nobody read it for 151 s, and it had no more");
    assert_eq!(extended(&node), 5.0);
    let _set: () = connection(node.resp()).set("session:2", "v").unwrap();
    assert_eq!(ttl_ms(&node, "session:2"), None);
}

#[test]
fn over_none_a_key_lives_on_while_it_is_read() {
    a_key_lives_on_while_it_is_read(sliding(config(), 160_000));
}

#[test]
fn over_the_embedded_store_a_key_lives_on_while_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    a_key_lives_on_while_it_is_read(sliding(config_embedded(folder.path()), 160_000));
}
