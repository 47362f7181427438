//! Cancels of `Cache.Pipeline`: the result of a canceled operation, leases, the window, the charged memory.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use futures_util::stream;
use terrace::{
    grpc::client::CacheClient,
    proto::{
        CancelRequest, GetOrLeaseManyRequest, GetOrLeaseRequest, GetRequest, LeaseItem, Operation, OperationResult,
        PipelineRequest, PipelineResponse, ReleaseRequest, SetRequest, Tier, get_or_lease_response::Result as Lease,
        get_response, operation::Operation as Asked, operation_result::Result as Answered,
    },
};
use tokio::sync::mpsc;
use tonic::{Code, Streaming, transport::Channel};

use crate::support::{
    eventually,
    grpc::{block_on, connect, pause},
    http::metric,
    node::{World, connected_node, over_embedded, over_none, over_redis},
    proxy::{FaultProxy, Faults, Link, Who},
    redis::RedisServer,
    terrace::Terrace,
};

/// Delay of the answers of Redis, in which a test can hold the next answer. Less than the maximum age of a ban log, which
/// fences leases.
const ANSWER_DELAY: Duration = Duration::from_millis(300);
/// Keys of attempts to cancel an operation between its grant and the answer.
const KEYS: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// One Pipeline stream.
struct Pipe {
    batches: mpsc::Sender<PipelineRequest>,
    answers: Streaming<PipelineResponse>,
}

impl Pipe {
    async fn open(client: &CacheClient<Channel>) -> Self {
        let (batches, received) = mpsc::channel(8);
        let requests = stream::unfold(received, async |mut received| Some((received.recv().await?, received)));
        let answers = client.clone().pipeline(requests).await.expect("a stream").into_inner();
        Self { batches, answers }
    }

    async fn send(&self, operations: Vec<Operation>) {
        self.batches.send(PipelineRequest { operations }).await.expect("the stream is open");
    }

    /// Receives results until `count` are there.
    async fn results(&mut self, count: usize) -> BTreeMap<u64, Answered> {
        let mut results = BTreeMap::new();
        while results.len() < count {
            let answer = self.answers.message().await.expect("a message").expect("the stream is open");
            results.extend(answer.results.into_iter().map(|OperationResult { id, result }| (id, result.expect("set"))));
        }
        results
    }

    async fn result(&mut self) -> (u64, Answered) {
        self.results(1).await.pop_first().expect("one")
    }
}

fn operation(id: u64, operation: Asked) -> Operation {
    Operation { id, operation: Some(operation), context: 0 }
}

fn cancel(id: u64) -> Operation {
    operation(0, Asked::Cancel(CancelRequest { id }))
}

fn get(id: u64, key: String) -> Operation {
    operation(id, Asked::Get(GetRequest { key: key.into(), options: None }))
}

fn lease(id: u64, key: &'static str) -> Operation {
    let request = GetOrLeaseRequest { key: key.into(), wait_ms: Some(60_000), ..GetOrLeaseRequest::default() };
    operation(id, Asked::GetOrLease(request))
}

/// Requests leases, also of keys with a fresh value.
fn lease_many(id: u64, keys: &[&'static str]) -> Operation {
    let items = keys.iter().map(|&key| LeaseItem { key: key.into(), ..LeaseItem::default() }).collect();
    operation(
        id,
        Asked::GetOrLeaseMany(GetOrLeaseManyRequest { items, refresh: true, ..GetOrLeaseManyRequest::default() }),
    )
}

fn is_canceled(result: &Answered) -> bool {
    matches!(result, Answered::Error(error) if error.code == i32::from(Code::Cancelled) && error.retry_after_ms.is_none())
}

fn load(answer: Answered) -> bytes::Bytes {
    let Answered::GetOrLease(response) = answer else { panic!("not a GetOrLease: {answer:?}") };
    let Some(Lease::Load(load)) = response.result else { panic!("no lease: {response:?}") };
    load.grant.expect("a grant").token
}

/// Waits until leases can be fenced: over Redis, seconds after their first use.
async fn ready(client: &CacheClient<Channel>) {
    let mut pipe = Pipe::open(client).await;
    loop {
        pipe.send(vec![lease(1, "ready")]).await;
        let token = load(pipe.result().await.1);
        if !token.is_empty() {
            pipe.send(vec![operation(2, Asked::Release(ReleaseRequest { key: "ready".into(), token, failed: None }))])
                .await;
            pipe.result().await;
            return;
        }
        pause().await;
    }
}

fn in_flight(node: &Terrace) -> u64 {
    node.node.in_flight.bytes()
}

fn over_each<F: Future<Output = ()>>(test: impl Fn(Rc<World>, CacheClient<Channel>) -> F) {
    for world in [over_none(), over_embedded(), over_redis()].map(Rc::new) {
        block_on(async {
            let client = CacheClient::new(connect(world.node.grpc()).await);
            ready(&client).await;
            test(Rc::clone(&world), client).await;
        });
    }
}

#[test]
fn a_canceled_wait_ends_with_its_own_result_and_holds_nothing() {
    over_each(|world, client| async move {
        let mut holder = Pipe::open(&client).await;
        holder.send(vec![lease(1, "k")]).await;
        let token = load(holder.result().await.1);
        let mut pipe = Pipe::open(&client).await;
        let before = in_flight(&world.node);
        pipe.send(vec![lease(7, "k"), lease(8, "k")]).await;
        while metric(world.node.http(), "terrace_load_waiters") != Some(2.0) {
            pause().await;
        }
        assert!(in_flight(&world.node) > before, "waiting operations are charged");
        // An id without a running operation is ignored, also the id of an answered operation and of another stream.
        pipe.send(vec![cancel(99), cancel(1), get(3, "absent".into()), cancel(3)]).await;
        pipe.send(vec![cancel(7), cancel(7)]).await;
        let results = pipe.results(2).await;
        assert!(is_canceled(&results[&7]), "{results:?}");
        assert!(results.contains_key(&3), "{results:?}");
        while metric(world.node.http(), "terrace_load_waiters") != Some(1.0) {
            pause().await;
        }
        let release = ReleaseRequest { key: "k".into(), token, failed: None };
        holder.send(vec![operation(2, Asked::Release(release))]).await;
        // The other operation is not affected.
        let (id, answer) = pipe.result().await;
        assert_eq!((id, load(answer).is_empty()), (8, false));
        while in_flight(&world.node) != before {
            pause().await;
        }
    });
}

#[test]
fn a_queued_operation_is_canceled_before_it_begins() {
    over_each(|_world, client| async move {
        let mut pipe = Pipe::open(&client).await;
        pipe.send(vec![lease(1, "never"), get(2, "absent".into()), cancel(1), lease(3, "other")]).await;
        let results = pipe.results(3).await;
        assert!(is_canceled(&results[&1]), "{results:?}");
        assert!(matches!(results[&2], Answered::Get(_)), "{results:?}");
        let mut other = Pipe::open(&client).await;
        other.send(vec![lease(1, "never")]).await;
        assert!(!load(other.result().await.1).is_empty(), "the canceled operation took no lease");
    });
}

/// A node over Redis whose answers can be held.
fn behind_proxy() -> (RedisServer, FaultProxy, Terrace) {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let node = connected_node(&proxy.url());
    (redis, proxy, node)
}

/// Holds the answers of Redis; its pushes and heartbeats arrive.
fn hold_answers(proxy: &FaultProxy) {
    let mut faults = Faults::default();
    faults.down.held = true;
    proxy.set(Who::Link(Link::Data), faults);
}

fn exists(redis: &RedisServer, key: &str) -> bool {
    redis.ask::<u64>(&[b"EXISTS", key.as_bytes()]) == 1
}

/// A request that takes the lease of a key that L1 has: it needs one answer of the store.
fn refresh(id: u64, key: &'static str) -> Operation {
    let request = GetOrLeaseRequest { key: key.into(), refresh: true, ..GetOrLeaseRequest::default() };
    operation(id, Asked::GetOrLease(request))
}

/// Writes a key and reads it, so that L1 has it.
async fn fill_l1(pipe: &mut Pipe, key: &'static str) {
    let set = SetRequest { key: key.into(), value: "v".into(), ..SetRequest::default() };
    pipe.send(vec![operation(1, Asked::Set(set))]).await;
    pipe.result().await;
    let mut tier = None;
    while tier != Some(Tier::L1) {
        pipe.send(vec![get(1, key.to_owned())]).await;
        let (_, Answered::Get(response)) = pipe.result().await else { panic!("not a Get") };
        let Some(get_response::Result::Found(found)) = response.result else { panic!("no value: {response:?}") };
        tier = Some(found.tier());
    }
}

/// Sends an operation, cancels it when Redis has the record of its last lease but the answer is on its way, and returns
/// whether the operation was canceled: on a busy machine, the answer may arrive first.
async fn cancel_granted(
    (redis, proxy): (&RedisServer, &FaultProxy),
    pipe: &mut Pipe,
    operation: Operation,
    record: &str,
) -> bool {
    let id = operation.id;
    proxy.set(Who::Link(Link::Data), Faults::late_answers(ANSWER_DELAY, Duration::ZERO));
    pipe.send(vec![operation]).await;
    while !exists(redis, record) {
        pause().await;
    }
    hold_answers(proxy);
    pipe.send(vec![cancel(id)]).await;
    // An answer that was not held arrives before the result of this operation.
    pipe.send(vec![get(id + 1, String::new())]).await;
    let results = pipe.results(2).await;
    proxy.heal();
    is_canceled(&results[&id])
}

#[test]
fn a_lease_that_the_store_grants_to_a_canceled_operation_is_released() {
    let (redis, proxy, node) = behind_proxy();
    block_on(async {
        let client = CacheClient::new(connect(node.grpc()).await);
        ready(&client).await;
        let mut pipe = Pipe::open(&client).await;
        for key in KEYS {
            fill_l1(&mut pipe, key).await;
            let record = format!("__terrace:load::{key}");
            if cancel_granted((&redis, &proxy), &mut pipe, refresh(2, key), &record).await {
                return eventually("the lease ends", || !exists(&redis, &record));
            }
        }
        panic!("no operation was canceled in time");
    });
}

#[test]
fn leases_that_were_granted_before_a_canceled_operation_ends_are_released() {
    let (redis, proxy, node) = behind_proxy();
    block_on(async {
        let client = CacheClient::new(connect(node.grpc()).await);
        ready(&client).await;
        let mut pipe = Pipe::open(&client).await;
        for keys in KEYS.chunks_exact(2) {
            // L1 has the first key, so its lease is granted by the first answer. The other key is read before.
            fill_l1(&mut pipe, keys[0]).await;
            let records = [0, 1].map(|at| format!("__terrace:load::{}", keys[at]));
            if cancel_granted((&redis, &proxy), &mut pipe, lease_many(2, keys), &records[1]).await {
                return eventually("both leases end", || records.iter().all(|record| !exists(&redis, record)));
            }
        }
        panic!("no operation was canceled in time");
    });
}

/// Size of the keys of the operations that fill the window: much more than the buffers of a stream.
const KEY_BYTES: usize = 1_000;

#[test]
fn a_cancel_does_not_wait_behind_a_full_window() {
    let (_redis, proxy, node) = behind_proxy();
    block_on(async {
        let client = CacheClient::new(connect(node.grpc()).await);
        let mut pipe = Pipe::open(&client).await;
        hold_answers(&proxy);
        let reads = |from: u64, to: u64| (from..to).map(|id| get(id, format!("{id:0KEY_BYTES$}"))).collect();
        pipe.send(reads(0, 1_000)).await;
        pipe.send(reads(1_000, 1_001)).await;
        while in_flight(&node) < 1_001 * KEY_BYTES as u64 {
            pause().await;
        }
        pipe.send((0..1_000).map(cancel).collect()).await;
        let canceled = pipe.results(1_000).await;
        assert!(canceled.values().all(is_canceled));
        pipe.send(vec![cancel(1_000)]).await;
        assert!(is_canceled(&pipe.result().await.1));
        proxy.heal();
        pipe.send(vec![get(5, "free".into())]).await;
        assert!(matches!(pipe.result().await, (5, Answered::Get(_))));
        while in_flight(&node) > 100 * KEY_BYTES as u64 {
            pause().await;
        }
    });
}
