//! gRPC deadlines: the status of a call whose deadline passes while Redis does not answer.

use std::time::Duration;

use terrace::{
    grpc::client::CacheClient,
    proto::{GetManyRequest, GetRequest, IncrementRequest, SetRequest},
};
use tonic::{Code, transport::Channel};

use crate::support::{
    grpc::{bare_call, block_on, connect, pause},
    redis::RedisServer,
    terrace::{Terrace, config_patient},
};

fn get(key: &'static str) -> GetRequest {
    GetRequest { key: key.into(), options: None }
}

async fn ready(client: &mut CacheClient<Channel>) {
    while client.get(get("k")).await.is_err() {
        pause().await;
    }
}

#[test]
fn reads_end_in_deadline_exceeded_and_writes_in_unknown() {
    let redis = RedisServer::start();
    let mut config = config_patient(redis.url());
    config.grpc.timeout = Duration::from_millis(70);
    let server = Terrace::start(config);
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        ready(&mut client).await;
        redis.pause();
        let status = client.get(get("absent")).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(status.message().contains("70ms"), "{status}");
        let many = GetManyRequest { keys: vec!["absent".into()], options: None };
        let status = client.get_many(many).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        let set = SetRequest { key: "k".into(), ..SetRequest::default() };
        let status = client.set(set).await.unwrap_err();
        assert_eq!(status.code(), Code::Unknown, "{status}");
        let increment = IncrementRequest { key: "n".into(), delta: 1, ttl_ms: None };
        let status = client.increment(increment).await.unwrap_err();
        assert_eq!(status.code(), Code::Unknown, "{status}");
        redis.resume();
        ready(&mut client).await;
    });
}

#[test]
fn a_shorter_timeout_of_the_client_wins_and_a_longer_one_does_not() {
    let redis = RedisServer::start();
    let mut config = config_patient(redis.url());
    config.grpc.timeout = Duration::from_millis(200);
    let server = Terrace::start(config);
    block_on(async {
        ready(&mut CacheClient::new(connect(server.grpc()).await)).await;
        redis.pause();
        for (timeout, naming) in [("30m", "30ms"), ("20S", "200ms")] {
            let headers = [("grpc-timeout", timeout)];
            let status = bare_call(server.grpc(), "/terrace.v1.Cache/Get", &headers, &get("absent")).await;
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
            assert!(status.message().contains(naming), "{status}");
        }
        redis.resume();
    });
}

#[test]
fn an_l2_that_is_gone_is_unavailable_and_says_when_to_come_back() {
    use tonic_types::StatusExt;
    let mut redis = RedisServer::start();
    let server = Terrace::start(config_patient(redis.url()));
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        ready(&mut client).await;
        redis.kill();
        let status = loop {
            let status = client.get(get("absent")).await.unwrap_err();
            if status.code() == Code::Unavailable {
                break status;
            }
            pause().await;
        };
        let retry = status.get_details_retry_info().expect("RetryInfo");
        assert!(retry.retry_delay.is_some_and(|delay| !delay.is_zero()), "{status}");
    });
}
