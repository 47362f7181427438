//! Nodes over each store, ready to serve from L1, and their statistics.

use std::any::Any;

use redis::Commands;
use terrace::{
    config::Config,
    proto::{GetStatsRequest, GetStatsResponse, insight_client::InsightClient},
};

use super::{
    eventually,
    grpc::{block_on, connect},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config, config_embedded, config_patient},
};

/// Flags for deadlines of the embedded store that only a hang exceeds.
pub const PATIENT: [&str; 4] = ["--data-read-timeout", "30s", "--data-write-timeout", "30s"];

/// A running node and the store that it uses.
pub struct World {
    pub node: Terrace,
    _keep: Box<dyn Any>,
}

/// A node over the Redis at `url` whose L1 may answer, with deadlines that only a hang exceeds.
pub fn node(url: &str) -> Terrace {
    open_node(config_patient(url))
}

fn open_node(config: Config) -> Terrace {
    let node = Terrace::start(config);
    wait_until_open(&node);
    node
}

/// A node as [`node`] starts it, once all of its workers reach all of Redis.
pub fn connected_node(url: &str) -> Terrace {
    connected(config_patient(url))
}

fn connected(config: Config) -> Terrace {
    let node = open_node(config);
    // Each worker has connections of its own, and a client cannot choose its worker.
    eventually("all workers reach all of Redis", || {
        (0..16).all(|_| {
            let mut client = connection(node.resp());
            (0..16).all(|number| client.exists::<_, bool>(format!("warm:{number}")).is_ok())
        })
    });
    node
}

/// A node over a Redis of its own, which clients may flush as the other stores.
pub fn over_redis() -> World {
    let redis = RedisServer::start();
    let mut config = config_patient(redis.url());
    config.resp.flush = Some(true);
    World { node: connected(config), _keep: Box::new(redis) }
}

/// A node over an embedded store of its own.
pub fn over_embedded() -> World {
    let dir = tempfile::tempdir().expect("a directory");
    World { node: Terrace::start(config_embedded(dir.path())), _keep: Box::new(dir) }
}

/// A node without an L2.
pub fn over_none() -> World {
    World { node: Terrace::start(config()), _keep: Box::new(()) }
}

/// Waits until L1 of a node may answer.
pub fn wait_until_open(node: &Terrace) {
    eventually("L1 opens", || is_open(node));
}

/// Returns whether L1 of a node may answer now.
pub fn is_open(node: &Terrace) -> bool {
    stats(node).coherence.expect("set").open
}

/// The statistics of a node.
pub fn stats(node: &Terrace) -> GetStatsResponse {
    stats_at(node.grpc())
}

/// The statistics of the node with this gRPC address.
pub fn stats_at(grpc: &str) -> GetStatsResponse {
    let request = async { InsightClient::new(connect(grpc).await).get_stats(GetStatsRequest {}).await };
    block_on(request).expect("an answer").into_inner()
}
