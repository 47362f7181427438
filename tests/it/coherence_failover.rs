//! The coherence contract while primaries change: Sentinels and a Redis Cluster, with failovers and slots that move.

use redis::Commands;

use crate::support::{
    checker::{
        BOUND, Plan,
        direct::{Direct, slot},
        run::{SCRIPT_TIMEOUT, check, plan, seconds},
    },
    cluster::RedisCluster,
    eventually,
    node::{stats, wait_until_open},
    resp::connection,
    sentinel::{MASTER, Sentinels},
    terrace::{Terrace, config_over},
};

fn node(url: String) -> Terrace {
    let mut config = config_over(url);
    config.l2.script_timeout = SCRIPT_TIMEOUT;
    let node = Terrace::start(config);
    wait_until_open(&node);
    node
}

#[test]
fn no_read_is_older_than_the_bound_over_a_cluster() {
    let cluster = RedisCluster::start();
    let nodes = [node(cluster.url()), node(cluster.url())];
    let plan = Plan { scripts: true, ..plan(&nodes, Direct::Cluster(cluster.urls()), BOUND) };
    check(cluster, &nodes, plan, seconds(10));
}

#[test]
fn no_read_is_older_than_the_bound_over_sentinels() {
    let group = Sentinels::start();
    let nodes = [node(group.url()), node(group.url())];
    let plan = Plan { scripts: true, ..plan(&nodes, Direct::Sentinels(group.sentinel_urls(), MASTER), BOUND) };
    check(group, &nodes, plan, seconds(10));
}

/// Redis 7.0 deletes the keys of a slot that another primary claims with a higher epoch, without invalidations.
#[test]
fn a_slot_that_is_taken_takes_its_copies_along() {
    const KEY: &str = "taken";
    let cluster = RedisCluster::start();
    let node = node(cluster.url());
    let mut through = connection(node.resp());
    let mut value = move || through.get::<_, Option<String>>(KEY);
    let slot = slot(KEY.as_bytes());
    for round in ["one", "two"] {
        let owner = cluster.owner(slot);
        cluster.servers[owner].run(&format!("SET {KEY} {round}"));
        let hits = || stats(&node).reads.expect("set").hit_l1;
        let before = hits();
        eventually("it is in L1", || value() == Ok(Some(round.to_owned())) && hits() > before);
        let other = cluster.primaries().into_iter().find(|other| *other != owner).expect("three primaries");
        cluster.take_slots(&[slot], other);
        // This is long before the copy would reach `l1.max_age`.
        eventually("the copy is gone as the key is", || value() == Ok(None));
    }
}
