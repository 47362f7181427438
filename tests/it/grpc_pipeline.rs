//! `Cache.Pipeline`: results by id, failed operations, the credit window, the drain.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures_util::stream;
use terrace::{
    grpc::client::CacheClient,
    proto::{
        DeleteRequest, GetMetaRequest, GetRequest, IncrementRequest, Operation, OperationResult, PipelineRequest,
        SetRequest, TouchRequest, get_response, operation::Operation as Asked, operation_result::Result as Answered,
    },
};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::support::{
    grpc::{block_on, connect, pause},
    terrace::{Terrace, config},
};

fn operation(id: u64, operation: Asked) -> Operation {
    Operation { id, operation: Some(operation) }
}

fn get(id: u64, key: &'static str) -> Operation {
    operation(id, Asked::Get(GetRequest { key: key.into(), options: None }))
}

fn set(id: u64, key: &'static str, value: Vec<u8>) -> Operation {
    operation(id, Asked::Set(SetRequest { key: key.into(), value: value.into(), ..SetRequest::default() }))
}

fn batch(operations: Vec<Operation>) -> PipelineRequest {
    PipelineRequest { operations }
}

/// Returns all results of several batches by id.
async fn results(client: &mut CacheClient<Channel>, batches: Vec<PipelineRequest>) -> Vec<OperationResult> {
    let mut answers = client.pipeline(stream::iter(batches)).await.unwrap().into_inner();
    let mut results = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        results.extend(answer.results);
    }
    results.sort_by_key(|result| result.id);
    results
}

fn value(result: &OperationResult) -> &[u8] {
    let Some(Answered::Get(response)) = &result.result else { panic!("not a Get: {result:?}") };
    match response.result.as_ref().unwrap() {
        get_response::Result::Found(found) => &found.value,
        get_response::Result::Missing(_) => b"(missing)",
    }
}

fn error(result: &OperationResult) -> (Code, &str) {
    let Some(Answered::Error(error)) = &result.result else { panic!("not an error: {result:?}") };
    (Code::from(error.code), &error.message)
}

#[test]
fn every_operation_has_its_own_result() {
    let server = Terrace::start(config());
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        results(&mut client, vec![batch(vec![set(1, "k", b"v".to_vec()), set(2, "t", b"v".to_vec())])]).await;
        let meta = GetMetaRequest { keys: vec!["k".into()] };
        let operations = vec![
            get(10, "k"),
            get(11, "absent"),
            operation(12, Asked::Touch(TouchRequest { key: "t".into(), ttl_ms: Some(1000), only: 0 })),
            operation(13, Asked::Increment(IncrementRequest { key: "n".into(), delta: 4, ttl_ms: None })),
            operation(14, Asked::GetMeta(meta)),
            operation(15, Asked::Delete(DeleteRequest { keys: vec!["gone".into()] })),
            get(16, ""),
            Operation { id: 17, operation: None },
        ];
        let results = results(&mut client, vec![batch(operations), batch(vec![get(18, "k")])]).await;
        let ids: Vec<u64> = results.iter().map(|result| result.id).collect();
        assert_eq!(ids, (10..=18).collect::<Vec<u64>>());
        assert_eq!((value(&results[0]), value(&results[1])), (&b"v"[..], &b"(missing)"[..]));
        assert!(matches!(results[2].result, Some(Answered::Touch(touched)) if touched.applied));
        assert!(matches!(results[3].result, Some(Answered::Increment(sum)) if sum.value == 4));
        assert!(matches!(&results[4].result, Some(Answered::GetMeta(meta)) if meta.results[0].exists));
        assert!(matches!(results[5].result, Some(Answered::Delete(deleted)) if deleted.deleted == 0));
        assert_eq!(error(&results[6]).0, Code::InvalidArgument);
        assert_eq!(
            error(&results[7]),
            (
                Code::InvalidArgument,
                "operation 17 is empty; set one of get, set, delete, touch, increment, get_meta, get_or_lease, fill, release"
            )
        );
        assert_eq!(value(&results[8]), b"v");
    });
}

#[test]
fn a_batch_over_its_limit_fails_alone() {
    let server = Terrace::start(config());
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        let large = batch((0..1001).map(|id| get(id, "k")).collect());
        let results = results(&mut client, vec![large, batch(vec![get(5000, "k")])]).await;
        assert_eq!(results.len(), 1002);
        assert!(results[..1001].iter().all(|result| error(result).0 == Code::ResourceExhausted));
        assert_eq!(value(&results[1001]), b"(missing)");
    });
}

#[test]
fn results_are_spread_over_messages_that_fit() {
    let mut config = config();
    config.grpc.max_message = 64 * 1024;
    let server = Terrace::start(config);
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        results(&mut client, vec![batch(vec![set(0, "large", vec![b'v'; 30_000])])]).await;
        // An APPEND over RESP can create a value that exceeds every message. This test uses two halves and a lower
        // limit.
        let many = batch((0..100).map(|id| get(id, "large")).collect());
        let results = results(&mut client, vec![many]).await;
        assert_eq!(results.len(), 100);
        assert!(results.iter().all(|result| value(result).len() == 30_000));
    });
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    const BATCHES: u64 = 400;
    const BATCH: u64 = 1000;
    let server = Terrace::start(config());
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        results(&mut client, vec![batch(vec![set(0, "k", vec![b'v'; 1000])])]).await;
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let batches = (0..BATCHES).map(move |number| {
            count.fetch_add(1, Relaxed);
            batch((0..BATCH).map(|at| get(number * BATCH + at, "k")).collect())
        });
        let mut answers = client.pipeline(stream::iter(batches)).await.unwrap().into_inner();
        let stalled = stalled(&sent).await;
        assert!(stalled < BATCHES, "all {BATCHES} batches were taken from a client that reads nothing");
        let held = server.node.in_flight.bytes();
        assert!(held < 16 << 20, "{held} bytes are held for a client that reads nothing");
        let mut ids = HashSet::new();
        while let Some(answer) = answers.message().await.unwrap() {
            ids.extend(answer.results.iter().map(|result| result.id));
        }
        assert_eq!(ids.len() as u64, BATCHES * BATCH, "every operation is answered once the client reads");
    });
    assert_eq!(server.node.in_flight.bytes(), 0);
}

/// Waits until a count has stopped growing, and returns it.
async fn stalled(count: &AtomicU64) -> u64 {
    let (mut last, mut same) = (0, 0);
    while same < 40 {
        pause().await;
        let now = count.load(Relaxed);
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

#[test]
fn a_drain_ends_the_stream_after_what_was_begun() {
    let mut server = Terrace::start(config());
    let answered = block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        let (batches, requests) = mpsc::channel(1);
        let requests = stream::unfold(requests, async |mut requests| Some((requests.recv().await?, requests)));
        batches.send(batch(vec![set(1, "k", b"v".to_vec())])).await.unwrap();
        let mut answers = client.pipeline(requests).await.unwrap().into_inner();
        let first = answers.message().await.unwrap().unwrap();
        assert_eq!(first.results[0].id, 1);
        server.begin_stop();
        ended(&mut answers).await
    });
    assert_eq!(answered.code(), Code::Unavailable, "{answered}");
    server.stop();
}

async fn ended<T>(answers: &mut Streaming<T>) -> Status {
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a status"),
            Err(status) => return status,
        }
    }
}
