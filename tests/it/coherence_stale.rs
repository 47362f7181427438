//! `l2.serve_stale_for`: while Redis is unavailable, L1 serves stale values and flags them. No value older than the
//! bound is served without the flag.

use std::time::Duration;

use redis::Commands;
use terrace::proto::Found;
use tonic::{Code, Status};

use crate::support::{
    checker::{
        Plan,
        direct::Direct,
        faults::Stage,
        run::{check, plan, seconds},
    },
    eventually, kv,
    node::{is_open, stats, wait_until_open},
    proxy::FaultProxy,
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config_over},
};

fn node(url: String, serve_stale_for: Duration) -> Terrace {
    let mut config = config_over(url);
    config.l2.serve_stale_for = serve_stale_for;
    Terrace::start(config)
}

fn get(node: &Terrace, key: &str) -> Result<Option<Found>, Status> {
    kv::try_get(node, key.as_bytes(), None)
}

/// Short for the checker, so that it ends during faults.
const STALE_FOR: Duration = Duration::from_millis(1500);

/// Reads without the flag keep Δ = 1 s under the faults of `coherence`.
#[test]
fn every_older_value_is_flagged_whatever_fails() {
    let redis = RedisServer::start();
    let proxies: Vec<FaultProxy> = (0..2).map(|_| FaultProxy::start(redis.port())).collect();
    let nodes: Vec<Terrace> = proxies.iter().map(|proxy| node(proxy.url(), STALE_FOR)).collect();
    let plan = Plan { stale_for: STALE_FOR, ..plan(&nodes, Direct::One(redis.url()), Duration::ZERO) };
    check(Stage { redis, proxies }, &nodes, plan, seconds(20));
    let stale: u64 = nodes.iter().map(|node| stats(node).reads.expect("set").stale).sum();
    println!("{stale} reads were flagged stale");
}

#[test]
fn a_copy_is_served_and_flagged_while_redis_is_away_and_no_longer_than_told() {
    let redis = RedisServer::start();
    redis.run("SET k old");
    let node = node(redis.url(), Duration::from_secs(2));
    eventually("L1 has it", || {
        is_open(&node)
            && get(&node, "k").is_ok_and(|found| found.is_some())
            && stats(&node).l1.expect("set").entries == 1
    });
    assert!(!get(&node, "k").expect("an answer").expect("there").stale);
    redis.pause();
    eventually("it is served stale", || get(&node, "k").is_ok_and(|found| found.is_some_and(|found| found.stale)));
    let mut through = connection(node.resp());
    let over_resp = through.get::<_, String>("k");
    assert!(over_resp.is_err(), "RESP can not flag it: only with resp.serve_stale, {over_resp:?}");
    assert!(stats(&node).reads.expect("set").stale > 0);
    eventually("no longer than told", || {
        let answer = get(&node, "k");
        answer.is_err_and(|status| [Code::Unavailable, Code::DeadlineExceeded].contains(&status.code()))
    });
    redis.resume();
    redis.run("SET k new");
    eventually("it is as it should be again", || {
        get(&node, "k").is_ok_and(|found| found.is_some_and(|found| found.value == "new" && !found.stale))
            && is_open(&node)
    });
}

/// A stale copy ends with the TTL of its key and with an invalidation.
#[test]
fn a_flush_or_the_keys_own_end_ends_stale_copies_too() {
    let redis = RedisServer::start();
    redis.run("SET lasting v");
    redis.run("SET brief v PX 1500");
    let node = node(redis.url(), Duration::from_secs(600));
    wait_until_open(&node);
    eventually("L1 has both", || {
        let _both = (get(&node, "lasting"), get(&node, "brief"));
        stats(&node).l1.expect("set").entries == 2 || redis.try_ask::<i64>(&[b"EXISTS", b"brief"]) == Ok(0)
    });
    redis.pause();
    eventually("the lasting one is served stale", || {
        get(&node, "lasting").is_ok_and(|found| found.is_some_and(|found| found.stale))
    });
    eventually("the brief one is not", || get(&node, "brief").is_err());
    redis.resume();
    wait_until_open(&node);
    redis.run("FLUSHALL");
    eventually("the flush is heard", || get(&node, "lasting").is_ok_and(|found| found.is_none()));
    redis.pause();
    eventually("nothing is left to be served", || get(&node, "lasting").is_err());
}
