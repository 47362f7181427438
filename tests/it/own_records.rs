//! Terrace's own records (`__terrace:*`) are invisible in database 0, over every L2, also when there are far more of them
//! than keys of clients.

use std::{collections::BTreeSet, ops::Range};

use ::redis::{Commands, Connection, cmd, pipe};

use crate::support::{
    kv::set,
    node::{connected_node, over_embedded, over_none, over_redis},
    redis::RedisServer,
    resp::{connection, info_field},
    setting_from_environment,
    terrace::Terrace,
};

const KEYS: usize = 15;

fn scan(client: &mut Connection, pattern: &str) -> BTreeSet<String> {
    let (mut cursor, mut found) = (0_u64, BTreeSet::new());
    loop {
        let page: (u64, Vec<String>) =
            cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1_000).query(client).unwrap();
        found.extend(page.1);
        cursor = page.0;
        if cursor == 0 {
            return found;
        }
    }
}

/// The database has these keys only.
fn shows_only_keys(node: &Terrace, client: &mut Connection) {
    let keys: BTreeSet<String> = (0..KEYS).map(|number| format!("key:{number}")).collect();
    assert_eq!(cmd("DBSIZE").query::<usize>(client).unwrap(), KEYS);
    assert!(info_field(node, "db0").starts_with(&format!("keys={KEYS},")));
    for pattern in ["*", "*:*", "*e*"] {
        let listed: Vec<String> = client.keys(pattern).unwrap();
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), keys, "KEYS {pattern}");
        assert_eq!(scan(client, pattern), keys, "SCAN MATCH {pattern}");
    }
    assert!(scan(client, "__terrace:*").is_empty());
    for _ in 0..50 {
        let drawn: Option<String> = cmd("RANDOMKEY").query(client).unwrap();
        assert!(drawn.as_ref().is_some_and(|drawn| keys.contains(drawn)), "RANDOMKEY {drawn:?}");
    }
}

fn few_keys_among_tags(node: &Terrace) {
    let mut client = connection(node.resp());
    for number in 0..40 {
        let tags: Vec<String> = (0..16).map(|tag| format!("tag:{number}:{tag}")).collect();
        set(node, "carrier", "v", &tags.iter().map(String::as_str).collect::<Vec<_>>());
    }
    client.del::<_, ()>("carrier").unwrap();
    assert_eq!(cmd("DBSIZE").query::<usize>(&mut client).unwrap(), 0);
    assert_eq!(cmd("RANDOMKEY").query::<Option<String>>(&mut client).unwrap(), None);
    (0..KEYS).for_each(|number| client.set::<_, _, ()>(format!("key:{number}"), "v").unwrap());
    shows_only_keys(node, &mut client);
    // A rewrite and a deletion of own records keep the count right.
    set(node, "carrier", "v", &["tag:1:1", "tag:1:2"]);
    client.del::<_, ()>("carrier").unwrap();
    shows_only_keys(node, &mut client);
}

#[test]
fn few_keys_among_tags_over_redis() {
    few_keys_among_tags(&over_redis().node);
}

#[test]
fn few_keys_among_tags_over_the_embedded_store() {
    few_keys_among_tags(&over_embedded().node);
}

#[test]
fn few_keys_among_tags_without_l2() {
    few_keys_among_tags(&over_none().node);
}

fn write_directly(redis: &RedisServer, prefix: &str, numbers: Range<usize>) {
    let mut redis = redis.connect();
    let mut batch = pipe();
    numbers.for_each(|number| {
        batch.set(format!("{prefix}{number}"), "v").ignore();
    });
    batch.exec(&mut redis).unwrap();
}

/// Number of Terrace's own records in an ordinary run and in a full run.
const RECORDS: usize = 40_000;
const RECORDS_FULL: usize = 1_000_000;

#[test]
fn more_records_than_redis_is_asked_to_list() {
    let is_full = setting_from_environment("TERRACE_CHECK_FULL", 0) == 1;
    let records = if is_full { RECORDS_FULL } else { RECORDS };
    let redis = RedisServer::start();
    let node = connected_node(&redis.url());
    let mut client = connection(node.resp());
    (0..records).step_by(10_000).for_each(|from| write_directly(&redis, "__terrace:tag:", from..from + 10_000));
    write_directly(&redis, "key:", 0..KEYS);
    shows_only_keys(&node, &mut client);
    write_directly(&redis, "other:", 0..40_000);
    // The count of the previous step is used for ten seconds; a node without it takes a sample.
    let fresh = connected_node(&redis.url());
    let seen: f64 = cmd("DBSIZE").query(&mut connection(fresh.resp())).unwrap();
    // Five standard errors of 0.6% of all keys.
    assert!((seen - 40_015.0).abs() < 0.03 * (records + 40_015) as f64, "{seen}");
    let drawn: Option<String> = cmd("RANDOMKEY").query(&mut client).unwrap();
    assert!(drawn.is_some_and(|drawn| !drawn.starts_with("__terrace:")));
    println!("{records} records: DBSIZE {seen} of 40,015");
}
