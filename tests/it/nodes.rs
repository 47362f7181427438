//! Two nodes over one Redis, and clients that go straight to it: one truth, raw bytes, Redis's TTLs.

use redis::{Commands, Connection, Value};
use terrace::proto::{
    GetRequest, GetStatsRequest, GetStatsResponse, ReadOptions, SetRequest, TierSelection, cache_client::CacheClient,
    get_response, insight_client::InsightClient,
};
use tonic::transport::Channel;

use crate::support::{
    PATIENCE, eventually,
    redis::RedisServer,
    terrace::{Terrace, config},
};

fn node(redis: &RedisServer) -> Terrace {
    let mut wanted = config();
    wanted.l2.url = redis.url();
    // Deadlines are not what is tested here, and the machine may be busy.
    wanted.l2.read_timeout = PATIENCE;
    wanted.l2.write_timeout = PATIENCE;
    Terrace::start(wanted)
}

fn resp(node: &Terrace) -> Connection {
    let client = redis::Client::open(format!("redis://{}", node.resp())).expect("an address");
    client.get_connection().expect("it accepts")
}

/// Waits until L1 of `node` may answer.
fn wait_open(node: &Terrace) {
    eventually("the fence opens", || open(node));
}

/// Whether L1 of `node` may answer now.
pub(crate) fn open(node: &Terrace) -> bool {
    stats(node).coherence.expect("set").open
}

/// Its statistics.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn stats(node: &Terrace) -> GetStatsResponse {
    InsightClient::new(channel(node).await).get_stats(GetStatsRequest {}).await.expect("it answers").into_inner()
}

async fn channel(node: &Terrace) -> Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", node.grpc())).expect("an address");
    endpoint.connect().await.expect("it accepts")
}

#[tokio::main(flavor = "current_thread")]
async fn grpc_get(node: &Terrace, key: &[u8]) -> Option<terrace::proto::Found> {
    let options = Some(ReadOptions { want_meta: true, ..ReadOptions::default() });
    let request = GetRequest { key: key.to_vec().into(), options };
    let mut client = CacheClient::new(channel(node).await);
    match client.get(request).await.expect("it answers").into_inner().result.expect("set") {
        get_response::Result::Found(found) => Some(found),
        get_response::Result::Missing(_) => None,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn grpc_set(node: &Terrace, key: &[u8], value: &[u8], ttl_ms: Option<i64>) {
    let request =
        SetRequest { key: key.to_vec().into(), value: value.to_vec().into(), ttl_ms, ..SetRequest::default() };
    CacheClient::new(channel(node).await).set(request).await.expect("it is stored");
}

#[tokio::main(flavor = "current_thread")]
async fn in_l1(node: &Terrace, key: &[u8]) -> bool {
    let options = Some(ReadOptions { tier: TierSelection::L1Only.into(), ..ReadOptions::default() });
    let request = GetRequest { key: key.to_vec().into(), options };
    let answer = CacheClient::new(channel(node).await).get(request).await.expect("it answers").into_inner();
    matches!(answer.result, Some(get_response::Result::Found(_)))
}

#[test]
fn a_value_is_the_same_bytes_and_ttl_by_every_way() {
    let redis = RedisServer::start();
    let node = node(&redis);
    wait_open(&node);
    let (mut straight, mut through) = (redis.connect(), resp(&node));
    let binary: Vec<u8> = (0..=255).collect();
    let key: &[u8] = b"bin\x00\r\n\xff";

    grpc_set(&node, key, &binary, Some(100_000));
    assert_eq!(straight.get::<_, Vec<u8>>(key).expect("redis answers"), binary);
    assert_eq!(through.get::<_, Vec<u8>>(key).expect("terrace answers"), binary);
    let lives: [i64; 2] = [straight.pttl(key).expect("redis answers"), through.pttl(key).expect("terrace answers")];
    let found = grpc_get(&node, key).expect("it is there");
    for life in lives.into_iter().chain(found.ttl_ms) {
        assert!((40_000..=100_000).contains(&life), "{life}");
    }

    straight.pset_ex::<_, _, ()>("raw", &binary[..], 90_000).expect("redis answers");
    let found = grpc_get(&node, b"raw").expect("it is there");
    assert_eq!(
        (&found.value[..], through.get::<_, Vec<u8>>("raw").expect("terrace answers")),
        (&binary[..], binary.clone())
    );
    assert!((40_000..=90_000).contains(&found.ttl_ms.expect("it has one")));

    through.set::<_, _, ()>("plain", "v").expect("terrace answers");
    assert_eq!(straight.ttl::<_, i64>("plain").expect("redis answers"), -1);
    assert_eq!(grpc_get(&node, b"plain").expect("it is there").ttl_ms, None);
}

#[test]
fn a_write_anywhere_is_seen_on_every_node() {
    let redis = RedisServer::start();
    let nodes = [node(&redis), node(&redis)];
    nodes.iter().for_each(wait_open);
    let (mut a, mut b, mut straight) = (resp(&nodes[0]), resp(&nodes[1]), redis.connect());
    let mut copies_are_everywhere = |expected: &str| {
        eventually("both nodes hold a copy of the newest value", || {
            let values: [Option<String>; 2] = [a.get("k").expect("a answers"), b.get("k").expect("b answers")];
            values.iter().all(|value| value.as_deref() == Some(expected)) && nodes.iter().all(|node| in_l1(node, b"k"))
        });
    };
    straight.set::<_, _, ()>("k", "1").expect("redis answers");
    copies_are_everywhere("1");
    resp(&nodes[0]).set::<_, _, ()>("k", "2").expect("a answers");
    copies_are_everywhere("2");
    grpc_set(&nodes[1], b"k", b"3", None);
    copies_are_everywhere("3");
    straight.set::<_, _, ()>("k", "4").expect("redis answers");
    copies_are_everywhere("4");
    redis.run("FLUSHALL");
    eventually("the flush is seen", || nodes.iter().all(|node| resp(node).get::<_, Value>("k") == Ok(Value::Nil)));
}

#[test]
fn terrace_serves_before_its_redis_does_and_recovers_when_it_comes() {
    let mut redis = RedisServer::start();
    redis.kill();
    let node = node(&redis);
    let mut client = resp(&node);
    let error = client.get::<_, Value>("k").expect_err("there is no Redis");
    assert!(error.to_string().contains("Redis"), "{error}");
    redis.restart();
    eventually("Redis is used", || client.set::<_, _, ()>("k", "v").is_ok());
    wait_open(&node);
    assert_eq!(client.get::<_, String>("k").expect("it answers"), "v");
}
