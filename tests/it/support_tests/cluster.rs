//! The test cluster behaves as a Redis Cluster, and a client finds its keys after failovers and resharding.

use redis::Value;

use crate::support::{
    checker::direct::{Direct, DirectClient, slot},
    cluster::{RedisCluster, SHARDS},
};

/// Writes and reads some keys of all shards.
async fn write_and_read(direct: &mut DirectClient, round: usize) {
    for number in 0..50 {
        let key = format!("k:{number}");
        let value = format!("{round}:{number}").into_bytes();
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(&value);
        assert_eq!(direct.ask(key.as_bytes(), &set).await, Ok(Value::Okay));
        let mut get = redis::cmd("GET");
        get.arg(&key);
        assert_eq!(direct.ask(key.as_bytes(), &get).await, Ok(Value::BulkString(value)));
    }
}

#[test]
fn shards_fail_over_and_slots_move() {
    // Connections last as long as their runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let write_and_read = |direct: &mut DirectClient, round| runtime.block_on(write_and_read(direct, round));
    let mut cluster = RedisCluster::start();
    assert_eq!(cluster.primaries(), (0..SHARDS).collect::<Vec<_>>());
    let mut direct = DirectClient::new(Direct::Cluster(cluster.urls()));
    write_and_read(&mut direct, 0);

    let from = cluster.owner(slot(b"k:1"));
    let to = (from + 1) % SHARDS;
    let slots = slot(b"k:1")..=slot(b"k:1");
    let before = cluster.slots(to).len();
    cluster.reshard(slots, from, to);
    assert_eq!((cluster.owner(slot(b"k:1")), cluster.slots(to).len()), (to, before + 1));
    write_and_read(&mut direct, 1);

    let promoted = cluster.failover(0);
    assert_eq!(promoted, SHARDS);
    write_and_read(&mut direct, 2);

    // The client learns of a killed server only by an error, so a new client starts at the new primary.
    let taken_over = cluster.kill(1);
    let mut direct = DirectClient::new(Direct::Cluster(vec![cluster.servers[taken_over].url()]));
    write_and_read(&mut direct, 3);
    cluster.servers[1].restart();
    cluster.settle();

    let taken_over = cluster.pause(2);
    let mut direct = DirectClient::new(Direct::Cluster(vec![cluster.servers[taken_over].url()]));
    write_and_read(&mut direct, 4);
    cluster.servers[2].resume();
    cluster.settle();
    write_and_read(&mut direct, 5);
}
