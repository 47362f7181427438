//! `Cache.Pipeline`: results by id, failed operations, the credit window, the drain.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures_util::stream;
use prost::Message;
use terrace::{
    grpc::client::CacheClient,
    proto::{
        DeleteRequest, GetManyRequest, GetManyResult, GetMetaRequest, GetOrLeaseManyRequest, GetRequest,
        IncrementRequest, LeaseItem, Operation, OperationResult, PipelineRequest, SetManyRequest, SetManyResult,
        SetRequest, TouchRequest, get_many_result, get_or_lease_many_result, get_response,
        operation::Operation as Asked, operation_result::Result as Answered, set_many_result,
    },
};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use crate::support::{
    eventually,
    grpc::{block_on, connect, pause},
    node::{over_none, over_redis},
    terrace::{Terrace, config, config_over},
};

fn operation(id: u64, operation: Asked) -> Operation {
    Operation { id, operation: Some(operation), context: 0 }
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
            Operation { id: 17, operation: None, context: 0 },
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
                "operation 17 is empty; set one of get, set, delete, touch, increment, get_meta, get_or_lease, fill, release, get_many, set_many, get_or_lease_many, cancel"
            )
        );
        assert_eq!(value(&results[8]), b"v");
    });
}

#[test]
fn operations_with_several_keys_have_results_for_each_key() {
    let server = Terrace::start(config());
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        let entry = |key: &'static str, value: &'static str| SetRequest {
            key: key.into(),
            value: value.into(),
            ..SetRequest::default()
        };
        let entries = vec![entry("a", "1"), entry("", "invalid"), entry("b", "2")];
        let set = operation(1, Asked::SetMany(SetManyRequest { entries }));
        let stored = results(&mut client, vec![batch(vec![set])]).await;
        let Some(Answered::SetMany(stored)) = &stored[0].result else { panic!("not a SetMany: {stored:?}") };
        let is_stored = |item: &SetManyResult| matches!(item.result, Some(set_many_result::Result::Stored(_)));
        assert_eq!(stored.results.iter().map(is_stored).collect::<Vec<_>>(), [true, false, true]);
        let keys: Vec<bytes::Bytes> = ["b", "absent", "", "a"].map(Into::into).to_vec();
        let request = GetManyRequest { keys: keys.clone(), options: None };
        let items = keys[..2].iter().map(|key| LeaseItem { key: key.clone(), ..LeaseItem::default() }).collect();
        let leases = GetOrLeaseManyRequest { items, ..GetOrLeaseManyRequest::default() };
        let operations = vec![
            operation(2, Asked::GetMany(request.clone())),
            operation(3, Asked::GetOrLeaseMany(leases)),
            operation(4, Asked::GetMany(GetManyRequest { keys: vec!["k".into(); 1_001], options: None })),
        ];
        let unary = client.get_many(request).await.unwrap().into_inner();
        let answers = results(&mut client, vec![batch(operations)]).await;
        assert_eq!(answers[0].result, Some(Answered::GetMany(unary)));
        let Some(Answered::GetOrLeaseMany(leased)) = &answers[1].result else { panic!("no leases: {answers:?}") };
        let [hit, load] = &leased.results[..] else { panic!("two results: {leased:?}") };
        assert!(matches!(hit.result, Some(get_or_lease_many_result::Result::Hit(_))), "{hit:?}");
        assert!(matches!(load.result, Some(get_or_lease_many_result::Result::Load(_))), "{load:?}");
        assert_eq!(error(&answers[2]).0, Code::ResourceExhausted);
    });
}

#[test]
fn a_get_many_that_exceeds_a_message_has_errors_for_single_keys() {
    let mut config = config();
    config.grpc.max_message = 64 * 1024;
    let server = Terrace::start(config);
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        results(&mut client, vec![batch(vec![set(0, "large", vec![b'v'; 20_000])])]).await;
        let many = |id, count| {
            operation(id, Asked::GetMany(GetManyRequest { keys: vec!["large".into(); count], options: None }))
        };
        let answers = results(&mut client, vec![batch(vec![many(1, 3), many(2, 4), many(u64::MAX, 5)])]).await;
        for (answer, (found, errors)) in answers.iter().zip([(3, 0), (3, 1), (3, 2)]) {
            let Some(Answered::GetMany(many)) = &answer.result else { panic!("not a GetMany: {answer:?}") };
            let is_found = |item: &&GetManyResult| matches!(item.result, Some(get_many_result::Result::Found(_)));
            let count = many.results.iter().filter(is_found).count();
            assert_eq!((count, many.results.len() - count), (found, errors));
        }
        // Two values whose GetManyResponse has exactly the maximum size: the id of the operation needs space, too.
        results(&mut client, vec![batch(vec![set(0, "large", vec![b'v'; 32 * 1024 - 14])])]).await;
        let request = GetManyRequest { keys: vec!["large".into(); 2], options: None };
        assert_eq!(client.get_many(request).await.unwrap().into_inner().encoded_len(), 64 * 1024);
        let answers = results(&mut client, vec![batch(vec![many(1, 2)])]).await;
        let Some(Answered::GetMany(many)) = &answers[0].result else { panic!("not a GetMany: {answers:?}") };
        assert!(matches!(many.results[0].result, Some(get_many_result::Result::Found(_))));
        assert!(matches!(many.results[1].result, Some(get_many_result::Result::Error(_))));
    });
    assert_eq!(server.node.in_flight.bytes(), 0);
}

/// Thousands of keys in one batch: the operations are started in several turns, and all are answered.
#[test]
fn a_batch_with_many_keys_is_answered_in_turns() {
    for world in [over_none(), over_redis()] {
        block_on(async {
            let mut client = CacheClient::new(connect(world.node.grpc()).await);
            let keys = |of: u64| (0..500).map(|key| format!("{of}:{key}").into()).collect();
            let operations = (0..40)
                .map(|id| operation(id, Asked::GetMany(GetManyRequest { keys: keys(id), options: None })))
                .collect();
            let answers = results(&mut client, vec![batch(operations)]).await;
            assert_eq!(answers.len(), 40);
            for answer in answers {
                let Some(Answered::GetMany(many)) = &answer.result else { panic!("not a GetMany: {answer:?}") };
                let is_missing =
                    |item: &GetManyResult| matches!(item.result, Some(get_many_result::Result::Missing(_)));
                assert!(many.results.len() == 500 && many.results.iter().all(is_missing));
            }
        });
        eventually("nothing is charged", || world.node.node.in_flight.bytes() == 0);
    }
}

#[test]
fn the_error_of_an_operation_has_the_time_of_a_repetition() {
    let server = Terrace::start(config_over("redis://127.0.0.1:1"));
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        let answers = results(&mut client, vec![batch(vec![get(1, "k"), get(2, "")])]).await;
        assert_eq!(error(&answers[0]).0, Code::Unavailable);
        let retry = answers.iter().map(|answer| match &answer.result {
            Some(Answered::Error(error)) => error.retry_after_ms,
            other => panic!("not an error: {other:?}"),
        });
        let retry: Vec<_> = retry.collect();
        assert!(retry[0].is_some_and(|ms| ms > 0) && retry[1].is_none(), "{retry:?}");
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
    let details = answered.get_error_details();
    let reason = details.error_info().map(|info| (info.reason.as_str(), info.domain.as_str()));
    assert_eq!(reason, Some(("DRAINING", "terrace.v1")));
    assert!(details.retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
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
