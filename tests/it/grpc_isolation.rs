//! gRPC: one bad call, or a client that cancels, stalls or reads slowly, does not harm other calls of its connection.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use terrace::{
    grpc::client::CacheClient,
    proto::{
        GetRequest, Operation, PipelineRequest, SetRequest, WatchRequest, get_response,
        invalidation_client::InvalidationClient, operation, operation_result, watch_response::News,
    },
};
use tokio::net::TcpStream;
use tonic::{Code, Request};

use crate::support::{
    PATIENCE,
    grpc::{block_on, connect, pause, raw_request},
    terrace::{Terrace, config},
};

const GET: &str = "/terrace.v1.Cache/Get";
const PIPELINE: &str = "/terrace.v1.Cache/Pipeline";

fn get(key: impl Into<Bytes>) -> GetRequest {
    GetRequest { key: key.into(), options: None }
}

/// A request body that begins with these bytes and never ends.
fn endless(head: &'static [u8]) -> impl hyper::body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static {
    let head = stream::iter((!head.is_empty()).then(|| Ok(Frame::data(Bytes::from_static(head)))));
    StreamBody::new(head.chain(stream::pending()))
}

#[test]
fn a_get_without_data_ends_with_its_deadline_and_does_not_delay_the_drain() {
    let mut config = config();
    config.grpc.timeout = Duration::from_millis(300);
    let server = Terrace::start(config);
    block_on(async {
        let mut channel = connect(server.grpc()).await;
        for head in [&b""[..], b"\0", b"\0\0\0\0\x05\x0a"] {
            let status = raw_request(&mut channel, GET, "application/grpc", endless(head)).await;
            assert_eq!(status.code(), Code::DeadlineExceeded, "{head:?}: {status}");
        }
        CacheClient::new(channel.clone()).get(get("k")).await.unwrap();
        // The server ends while such a call is open: the call ends first.
        let call = tokio::spawn(async move { raw_request(&mut channel, GET, "application/grpc", endless(b"")).await });
        tokio::task::yield_now().await;
        server.stop();
        let status = call.await.unwrap();
        assert!([Code::DeadlineExceeded, Code::Unavailable].contains(&status.code()), "{status}");
    });
}

#[test]
fn canceling_all_calls_at_once_keeps_the_connection_and_its_watch() {
    let server = Terrace::start(config());
    block_on(async {
        let channel = connect(server.grpc()).await;
        let mut client = CacheClient::new(channel.clone());
        let watch = InvalidationClient::new(channel.clone()).watch(WatchRequest::default()).await;
        let mut watch = watch.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();
        for calls in [30, 100, 250].into_iter().cycle().take(12) {
            let pending = (0..calls).map(|_| {
                let mut channel = channel.clone();
                tokio::spawn(async move { raw_request(&mut channel, GET, "application/grpc", endless(b"")).await })
            });
            let pending: Vec<_> = pending.collect();
            // Some calls have reached the server, others have not.
            client.get(get("k")).await.unwrap();
            pending.iter().for_each(tokio::task::JoinHandle::abort);
            join_all(pending).await;
            client.get(get("k")).await.unwrap();
        }
        let set = SetRequest { key: "watched".into(), ..SetRequest::default() };
        client.set(set).await.unwrap();
        // A lost connection would end the stream with an error.
        while !matches!(watch.message().await.unwrap().unwrap().news, Some(News::Events(_))) {}
    });
}

/// Opens a call and resets it, until the server ends the connection; returns how often.
async fn reset_rapidly(address: &str, most: usize) -> usize {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for number in 0..most {
        let request = http::Request::post(format!("http://{address}{GET}")).header("content-type", "application/grpc");
        let Ok(ready) = sender.ready().await else { return number };
        sender = ready;
        let Ok((_response, mut body)) = sender.send_request(request.body(()).unwrap(), false) else { return number };
        body.send_reset(h2::Reason::CANCEL);
        tokio::task::yield_now().await;
    }
    most
}

#[test]
fn a_client_that_only_cancels_loses_its_connection() {
    let server = Terrace::start(config());
    block_on(async {
        let mut other = CacheClient::new(connect(server.grpc()).await);
        let resets = reset_rapidly(server.grpc(), 200_000).await;
        assert!((1_000..200_000).contains(&resets), "{resets} calls were canceled");
        other.get(get("k")).await.unwrap();
    });
}

#[test]
fn metadata_over_its_limit_is_refused_with_a_status() {
    let server = Terrace::start(config());
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        for kib in [9, 12, 16, 40] {
            let large = |message: SetRequest| {
                let mut request = Request::new(message);
                request.metadata_mut().insert("x-large", "v".repeat(kib * 1024).parse().unwrap());
                request
            };
            let set = SetRequest { key: format!("k{kib}").into(), ..SetRequest::default() };
            let status = client.set(large(set)).await.unwrap_err();
            assert_eq!(status.code(), Code::ResourceExhausted, "{kib} KiB: {status}");
            assert!(status.message().contains("8192"), "{status}");
            let response = client.get(get(format!("k{kib}"))).await.unwrap().into_inner();
            assert!(matches!(response.result, Some(get_response::Result::Missing(_))), "the Set had no effect");
        }
    });
}

#[test]
fn an_unfinished_message_of_a_pipeline_ends_and_its_bytes_are_counted() {
    let server = Terrace::start(config());
    block_on(async {
        let mut channel = connect(server.grpc()).await;
        // 5 bytes that declare 15 MiB, and 64 KiB of as much.
        let head: &'static [u8] = {
            let mut head = vec![0; 64 * 1024];
            head[..5].copy_from_slice(&[0, 0, 0xf0, 0, 0]);
            head.leak()
        };
        let mut large = channel.clone();
        let call =
            tokio::spawn(async move { raw_request(&mut large, PIPELINE, "application/grpc", endless(head)).await });
        while server.node.in_flight.bytes() < 64 * 1024 {
            pause().await;
        }
        assert!(server.node.in_flight.bytes() < 1 << 20, "the declared length takes no memory");
        let small = raw_request(&mut channel, PIPELINE, "application/grpc", endless(b"\0\0\xf0\0\0")).await;
        let status = call.await.unwrap();
        for status in [small, status] {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
            assert!(status.message().contains("5s"), "{status}");
        }
        while server.node.in_flight.bytes() > 0 {
            pause().await;
        }
    });
}

#[test]
fn an_idle_pipeline_stays_open() {
    let server = Terrace::start(config());
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        let (input, requests) = tokio::sync::mpsc::channel(1);
        let requests = stream::unfold(requests, |mut requests| async { Some((requests.recv().await?, requests)) });
        let mut answers = client.pipeline(requests).await.unwrap().into_inner();
        for id in 1..3 {
            let operation = Some(operation::Operation::Get(get("k")));
            input.send(PipelineRequest { operations: vec![Operation { id, operation, context: 0 }] }).await.unwrap();
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!(answer.results[0].id, id);
            // Longer than an unfinished message may wait.
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
    });
}

/// Values of many sizes, around the sizes at which writes are buffered, copied or split.
fn values() -> HashMap<String, Bytes> {
    let sizes = [0, 1, 100, 1_000, 8_000, 16_300, 16_384, 16_500, 60_000, 65_536, 70_000, 300_000, 1 << 20];
    let value = |size: usize| (0..size).map(|at| (at * 31 + size) as u8).collect::<Vec<_>>();
    sizes.into_iter().map(|size| (format!("size:{size}"), value(size).into())).collect()
}

#[test]
fn responses_of_all_sizes_arrive_whole_also_at_a_slow_reader() {
    let server = Terrace::start(config());
    block_on(async {
        let client = CacheClient::new(connect(server.grpc()).await);
        let values = values();
        for (key, value) in &values {
            let set = SetRequest { key: key.clone().into(), value: value.clone(), ..SetRequest::default() };
            client.clone().set(set).await.unwrap();
        }
        for _ in 0..5 {
            let calls = values.iter().cycle().take(200).map(|(key, value)| {
                let mut client = client.clone();
                async move {
                    let response = client.get(get(key.clone())).await.unwrap().into_inner();
                    let Some(get_response::Result::Found(found)) = response.result else { panic!("{key} is missing") };
                    assert!(found.value == *value, "{key}");
                }
            });
            join_all(calls).await;
        }
        // A Pipeline whose results are read one message at a time, late.
        let operations: Vec<_> = values
            .keys()
            .cycle()
            .take(130)
            .enumerate()
            .map(|(id, key)| {
                let operation = Some(operation::Operation::Get(get(key.clone())));
                (key.clone(), Operation { id: id as u64, operation, context: 0 })
            })
            .collect();
        let keys: Vec<String> = operations.iter().map(|(key, _)| key.clone()).collect();
        let batch = PipelineRequest { operations: operations.into_iter().map(|(_, operation)| operation).collect() };
        let mut slow = client.clone().max_decoding_message_size(32 << 20);
        let mut answers = slow.pipeline(stream::iter([batch])).await.unwrap().into_inner();
        let mut seen = 0;
        while let Some(answer) = answers.message().await.unwrap() {
            pause().await;
            for result in answer.results {
                let key = &keys[result.id as usize];
                let Some(operation_result::Result::Get(response)) = result.result else { panic!("{key}: no Get") };
                let Some(get_response::Result::Found(found)) = response.result else { panic!("{key} is missing") };
                assert!(found.value == values[key], "{key}");
                seen += 1;
            }
        }
        assert_eq!(seen, keys.len());
        tokio::time::timeout(PATIENCE, async {
            while server.node.in_flight.bytes() > 0 {
                pause().await;
            }
        })
        .await
        .expect("all responses were sent and freed");
    });
}
