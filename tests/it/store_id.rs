//! The store id in the metadata of `Cache.Pipeline`: equal on all nodes over one store, and kept while the store exists.

use futures_util::stream;
use terrace::{grpc::client::CacheClient, proto::PipelineRequest};

use crate::support::{
    cluster::RedisCluster,
    eventually,
    grpc::{block_on, connect},
    node::{connected_node, over_none},
    redis::RedisServer,
    sentinel::Sentinels,
    terrace::{Terrace, config_embedded, config_over, config_patient},
};

const RECORD: &str = "__terrace:store";

/// The id that a node announces now.
fn announced(node: &Terrace) -> Option<String> {
    block_on(async {
        let mut client = CacheClient::new(connect(node.grpc()).await);
        let answers = client.pipeline(stream::empty::<PipelineRequest>()).await.expect("a stream");
        let id = answers.metadata().get("terrace-store-id")?;
        Some(id.to_str().expect("text").to_owned())
    })
}

/// The id of a node, once it is known.
fn id_of(node: &Terrace) -> String {
    eventually("the store id is known", || announced(node).is_some());
    let id = announced(node).expect("known");
    assert!(id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id:?}");
    id
}

fn record(redis: &RedisServer) -> Option<String> {
    redis.ask(&[b"GET", RECORD.as_bytes()])
}

#[test]
fn nodes_over_one_redis_have_one_id_and_restore_it() {
    let redis = RedisServer::start();
    let nodes = [connected_node(&redis.url()), connected_node(&redis.url())];
    let id = id_of(&nodes[0]);
    assert_eq!(id_of(&nodes[1]), id);
    assert_eq!(record(&redis).as_deref(), Some(&*id));
    assert_eq!(redis.ask::<i64>(&[b"TTL", RECORD.as_bytes()]), -1, "no expiry");
    redis.run("FLUSHALL");
    eventually("the record is created again", || record(&redis).as_deref() == Some(&*id));
    redis.run(&format!("SET {RECORD} overwritten"));
    eventually("a value that is no id is replaced", || record(&redis).as_deref() == Some(&*id));
    // Another deployment created a record first: the nodes follow it.
    redis.run(&format!("SET {RECORD} 00000000000000ab"));
    for node in &nodes {
        eventually("the id of the store is announced", || announced(node).as_deref() == Some("00000000000000ab"));
    }
    drop(nodes);
    assert_eq!(id_of(&connected_node(&redis.url())), "00000000000000ab");
    let other = RedisServer::start();
    assert_ne!(id_of(&connected_node(&other.url())), id);
}

#[test]
fn the_id_is_absent_until_redis_is_reachable() {
    let mut redis = RedisServer::start();
    redis.kill();
    let node = Terrace::start(config_over(redis.url()));
    assert_eq!(announced(&node), None);
    redis.restart();
    assert_eq!(Some(id_of(&node)), record(&redis));
}

#[test]
fn the_id_of_an_embedded_store_is_kept_in_its_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Terrace::start(config_embedded(dir.path()));
    let id = id_of(&node);
    node.stop();
    let node = Terrace::start(config_embedded(dir.path()));
    assert_eq!(id_of(&node), id);
    let other = tempfile::tempdir().expect("a directory");
    assert_ne!(id_of(&Terrace::start(config_embedded(other.path()))), id);
}

#[test]
fn without_l2_each_run_has_its_own_id() {
    let (one, other) = (over_none(), over_none());
    let id = announced(&one.node).expect("known from the start");
    assert_eq!(announced(&one.node).as_deref(), Some(&*id));
    assert_ne!(announced(&other.node), Some(id));
}

#[test]
fn nodes_over_a_cluster_have_one_id() {
    let cluster = RedisCluster::start();
    let nodes = [connected_node(&cluster.url()), connected_node(&cluster.url())];
    assert_eq!(id_of(&nodes[0]), id_of(&nodes[1]));
}

#[test]
fn a_failover_keeps_the_id() {
    let sentinels = Sentinels::start();
    let nodes = [0, 1].map(|_| Terrace::start(config_patient(sentinels.url())));
    let id = id_of(&nodes[0]);
    assert_eq!(id_of(&nodes[1]), id);
    sentinels.settle();
    let primary = sentinels.failover();
    eventually("the new primary has the record", || record(&sentinels.servers[primary]).as_deref() == Some(&*id));
    assert!(nodes.iter().all(|node| announced(node).as_deref() == Some(&*id)));
}
