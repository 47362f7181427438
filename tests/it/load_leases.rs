//! Load leases: one client loads a key, the others wait or receive the old value; no fill stores what was loaded before
//! a write or an invalidation. Over Redis, the embedded store and no L2.

use std::{collections::BTreeMap, rc::Rc};

use bytes::Bytes;
use futures_util::stream;
use terrace::{
    grpc::client::CacheClient,
    proto::{
        Absent, DeleteRequest, FillRequest, GetOrLeaseManyRequest, GetOrLeaseRequest, GetRequest, Grant, GrantReason,
        IncrementRequest, InvalidatePatternRequest, InvalidateTagsRequest, LeaseItem, LoadFailure, NotFilledReason,
        Operation, OperationResult, PipelineRequest, ReleaseRequest, SetRequest, TouchRequest, fill_request::Loaded,
        fill_response, get_or_lease_many_result, get_or_lease_response::Result as Answer, get_response,
        invalidate_pattern_request::Keys, invalidation_client::InvalidationClient, operation::Operation as Asked,
        operation_result::Result as Answered,
    },
};
use tonic::{Code, transport::Channel};

use crate::support::{
    cluster::RedisCluster,
    grpc::{block_on, connect, pause},
    http::metric,
    node::{World, connected_node, node, over_embedded, over_none, over_redis},
    redis::RedisServer,
    sentinel::Sentinels,
    terrace::Terrace,
};

/// A client on a connection of its own.
#[derive(Clone)]
struct Client {
    cache: CacheClient<Channel>,
    invalidation: InvalidationClient<Channel>,
}

impl Client {
    async fn of(node: &Terrace) -> Self {
        let channel = connect(node.grpc()).await;
        Self { cache: CacheClient::new(channel.clone()), invalidation: InvalidationClient::new(channel) }
    }

    async fn ask(&self, request: GetOrLeaseRequest) -> Answer {
        self.cache.clone().get_or_lease(request).await.expect("an answer").into_inner().result.expect("set")
    }

    async fn lease(&self, key: &'static str) -> Grant {
        granted(self.ask(request(key)).await)
    }

    async fn fill(&self, key: &'static str, token: &Bytes, value: &'static str) -> Option<NotFilledReason> {
        self.fill_with(FillRequest { ttl_ms: Some(60_000), ..fill(key, token, value) }).await
    }

    async fn fill_with(&self, request: FillRequest) -> Option<NotFilledReason> {
        match self.cache.clone().fill(request).await.expect("an answer").into_inner().result.expect("set") {
            fill_response::Result::Stored(_) => None,
            fill_response::Result::NotFilled(reason) => Some(reason.reason()),
        }
    }

    async fn release(&self, key: &'static str, token: &Bytes, failed: Option<LoadFailure>) {
        let request = ReleaseRequest { key: key.into(), token: token.clone(), failed };
        self.cache.clone().release(request).await.expect("an answer");
    }

    async fn get(&self, key: &'static str) -> Option<Bytes> {
        let request = GetRequest { key: key.into(), options: None };
        match self.cache.clone().get(request).await.expect("an answer").into_inner().result.expect("set") {
            get_response::Result::Found(found) => Some(found.value),
            get_response::Result::Missing(_) => None,
        }
    }

    async fn set(&self, key: &'static str, value: &'static str) {
        let request = SetRequest { key: key.into(), value: value.into(), ..SetRequest::default() };
        self.cache.clone().set(request).await.expect("stored");
    }

    async fn delete(&self, key: &'static str) {
        self.cache.clone().delete(DeleteRequest { keys: vec![key.into()] }).await.expect("deleted");
    }
}

fn request(key: &'static str) -> GetOrLeaseRequest {
    GetOrLeaseRequest { key: key.into(), ..GetOrLeaseRequest::default() }
}

fn fill(key: &'static str, token: &Bytes, value: &'static str) -> FillRequest {
    let loaded = Some(Loaded::Value(value.into()));
    FillRequest { key: key.into(), token: token.clone(), loaded, ..FillRequest::default() }
}

fn matching(pattern: &'static str) -> InvalidatePatternRequest {
    let keys = Some(Keys::Pattern(pattern.into()));
    InvalidatePatternRequest { keys, ..InvalidatePatternRequest::default() }
}

fn granted(answer: Answer) -> Grant {
    match answer {
        Answer::Load(load) => load.grant.expect("a grant"),
        other @ (Answer::Hit(_) | Answer::Busy(_) | Answer::Absent(_) | Answer::Failed(_)) => {
            panic!("no lease: {other:?}")
        }
    }
}

/// Returns value, `needs_refresh` and grant of a hit.
fn hit(answer: Answer) -> (Bytes, bool, Option<Grant>) {
    match answer {
        Answer::Hit(hit) => (hit.found.expect("a value").value, hit.needs_refresh, hit.grant),
        other @ (Answer::Load(_) | Answer::Busy(_) | Answer::Absent(_) | Answer::Failed(_)) => {
            panic!("no hit: {other:?}")
        }
    }
}

/// Waits until leases can be fenced: over Redis, seconds after their first use.
async fn ready(client: &Client) {
    loop {
        let grant = client.lease("ready").await;
        if !grant.token.is_empty() {
            return client.release("ready", &grant.token, None).await;
        }
        pause().await;
    }
}

/// Runs a test with a ready client over each store.
fn over_each<F: Future<Output = ()>>(test: impl Fn(Rc<World>, Client) -> F) {
    for world in [over_none(), over_embedded(), over_redis()].map(Rc::new) {
        block_on(async {
            let client = Client::of(&world.node).await;
            ready(&client).await;
            test(Rc::clone(&world), client).await;
        });
    }
}

#[test]
fn one_caller_loads_and_the_others_receive_its_value() {
    over_each(|world, leader| async move {
        // A value with tags is stored behind a header, which no caller may see.
        for (key, tags) in [("k", vec![]), ("tagged", vec![Bytes::from("team:7")])] {
            let request = || GetOrLeaseRequest { tags: tags.clone(), ..request(key) };
            let grant = granted(leader.ask(request()).await);
            assert_eq!((grant.reason(), grant.lease_ms), (GrantReason::Miss, 10_000));
            let others = Client::of(&world.node).await;
            let waiting: Vec<_> = (0..50)
                .map(|_| {
                    let (others, request) = (others.clone(), request());
                    tokio::spawn(async move { others.ask(request).await })
                })
                .collect();
            // One more caller that does not wait learns about the leader.
            let busy = others.ask(GetOrLeaseRequest { wait_ms: Some(0), ..request() }).await;
            assert!(matches!(busy, Answer::Busy(_)), "{busy:?}");
            let loaded = FillRequest { ttl_ms: Some(60_000), tags: tags.clone(), ..fill(key, &grant.token, "loaded") };
            assert_eq!(leader.fill_with(loaded.clone()).await, None);
            for caller in waiting {
                assert_eq!(hit(caller.await.unwrap()), ("loaded".into(), false, None));
            }
            // A token fills once.
            assert_eq!(leader.fill_with(loaded).await, Some(NotFilledReason::LeaseLost));
            assert_eq!(leader.get(key).await, Some("loaded".into()));
        }
    });
}

#[test]
fn a_write_or_an_invalidation_during_the_load_prevents_the_fill() {
    over_each(|_world, client| async move {
        let lost = Some(NotFilledReason::LeaseLost);
        let grant = client.lease("deleted").await;
        client.delete("deleted").await;
        assert_eq!(client.fill("deleted", &grant.token, "old").await, lost, "a Delete of an absent key");
        assert_eq!(client.get("deleted").await, None);

        let grant = client.lease("set").await;
        client.set("set", "new").await;
        assert_eq!(client.fill("set", &grant.token, "old").await, lost);
        assert_eq!(client.get("set").await, Some("new".into()));

        let grant = client.lease("counter").await;
        let increment = IncrementRequest { key: "counter".into(), delta: 1, ttl_ms: None };
        client.cache.clone().increment(increment).await.unwrap();
        assert_eq!(client.fill("counter", &grant.token, "old").await, lost);

        client.set("touched", "1").await;
        let forced = client.ask(GetOrLeaseRequest { refresh: true, ..request("touched") }).await;
        let (_, _, grant) = hit(forced);
        let grant = grant.expect("a forced refresh is granted");
        assert_eq!(grant.reason(), GrantReason::Forced);
        let touch = TouchRequest { key: "touched".into(), ttl_ms: Some(50_000), only: 0 };
        client.cache.clone().touch(touch).await.unwrap();
        assert_eq!(client.fill("touched", &grant.token, "old").await, lost);

        let grant = client.lease("pattern:1").await;
        let other = client.lease("other").await;
        let pattern = matching("pattern:*");
        let mut progress = client.invalidation.clone().invalidate_pattern(pattern).await.unwrap().into_inner();
        progress.message().await.unwrap();
        let refused = client.fill("pattern:1", &grant.token, "old").await;
        assert!(matches!(refused, Some(NotFilledReason::LeaseLost | NotFilledReason::Invalidated)), "{refused:?}");
        assert_eq!(client.get("pattern:1").await, None);
        assert_eq!(client.fill("other", &other.token, "loaded").await, None, "the pattern does not cover this key");
    });
}

#[test]
fn a_delete_of_an_absent_key_ends_its_lease() {
    over_each(|world, leader| async move {
        let grant = leader.lease("k").await;
        let other = Client::of(&world.node).await;
        // The node has learned that the key is being loaded.
        let busy = other.ask(GetOrLeaseRequest { wait_ms: Some(0), ..request("k") }).await;
        assert!(matches!(busy, Answer::Busy(_)), "{busy:?}");
        let waiting = {
            let other = other.clone();
            tokio::spawn(async move { other.ask(GetOrLeaseRequest { wait_ms: Some(60_000), ..request("k") }).await })
        };
        other.delete("k").await;
        granted(waiting.await.unwrap());
        assert_eq!(leader.fill("k", &grant.token, "old").await, Some(NotFilledReason::LeaseLost));
    });
}

#[test]
fn a_tag_that_is_invalidated_during_the_load_hides_the_fill() {
    over_each(|_world, client| async move {
        let tagged = |key| GetOrLeaseRequest { tags: vec!["team:7".into(), "all".into()], ..request(key) };
        let grant = granted(client.ask(tagged("k")).await);
        let tags = InvalidateTagsRequest { tags: vec!["team:7".into()] };
        client.invalidation.clone().invalidate_tags(tags.clone()).await.unwrap();
        let with_tags = FillRequest { tags: vec!["all".into(), "team:7".into()], ..fill("k", &grant.token, "old") };
        assert_eq!(client.fill_with(with_tags).await, Some(NotFilledReason::Invalidated));
        assert_eq!(client.get("k").await, None, "the value was loaded before the invalidation");
        let grant = granted(client.ask(tagged("k")).await);
        let with_tags = FillRequest { tags: vec!["all".into(), "team:7".into()], ..fill("k", &grant.token, "new") };
        assert_eq!(client.fill_with(with_tags).await, None);
        assert_eq!(client.get("k").await, Some("new".into()));
        client.invalidation.clone().invalidate_tags(tags).await.unwrap();
        assert_eq!(client.get("k").await, None);

        let grant = granted(client.ask(tagged("other")).await);
        let fault = client.cache.clone().fill(fill("other", &grant.token, "x")).await.unwrap_err();
        assert_eq!(fault.code(), Code::InvalidArgument);
        assert!(fault.message().contains("tags differ"), "{}", fault.message());
    });
}

#[test]
fn callers_that_wait_receive_a_tagged_value_without_its_header() {
    over_each(|world, client| async move {
        let tags: Vec<Bytes> = vec!["team:7".into()];
        let grant = granted(client.ask(GetOrLeaseRequest { tags: tags.clone(), ..request("k") }).await);
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.ask(GetOrLeaseRequest { wait_ms: Some(60_000), ..request("k") }).await }
        });
        while metric(world.node.http(), "terrace_load_waiters") != Some(1.0) {
            pause().await;
        }
        assert_eq!(client.fill_with(FillRequest { tags, ..fill("k", &grant.token, "loaded") }).await, None);
        assert_eq!(hit(waiting.await.unwrap()), ("loaded".into(), false, None));
    });
}

#[test]
fn a_value_in_the_last_part_of_its_life_is_refreshed_by_one_client() {
    over_each(|_world, client| async move {
        let stale = |key| GetOrLeaseRequest { stale_ms: Some(60_000), ..request(key) };
        let grant = granted(client.ask(stale("k")).await);
        let soft = FillRequest { ttl_ms: Some(1_000_000), stale_ms: Some(60_000), ..fill("k", &grant.token, "1") };
        assert_eq!(client.fill_with(soft).await, None);
        assert_eq!(hit(client.ask(stale("k")).await), ("1".into(), false, None));
        // The key moves into the last part of its life.
        let touch = TouchRequest { key: "k".into(), ttl_ms: Some(50_000), only: 0 };
        client.cache.clone().touch(touch).await.unwrap();
        let (value, needs_refresh, grant) = hit(client.ask(stale("k")).await);
        let grant = grant.expect("the first reader refreshes");
        assert_eq!((&value[..], needs_refresh, grant.reason()), (&b"1"[..], true, GrantReason::Stale));
        for _ in 0..3 {
            assert_eq!(hit(client.ask(stale("k")).await), ("1".into(), true, None), "one refresh at a time");
        }
        let soft = FillRequest { ttl_ms: Some(1_000_000), stale_ms: Some(60_000), ..fill("k", &grant.token, "2") };
        assert_eq!(client.fill_with(soft).await, None);
        assert_eq!(hit(client.ask(stale("k")).await), ("2".into(), false, None));
    });
}

#[test]
fn a_negative_answer_is_shared_until_the_key_is_written() {
    over_each(|world, client| async move {
        let absent = |key, token: &Bytes| FillRequest {
            key: Bytes::from_static(key),
            token: token.clone(),
            loaded: Some(Loaded::Absent(Absent {})),
            ttl_ms: Some(60_000),
            ..FillRequest::default()
        };
        let grant = client.lease("nobody").await;
        let other = Client::of(&world.node).await;
        let waiting = tokio::spawn({
            let other = other.clone();
            async move { other.ask(request("nobody")).await }
        });
        assert_eq!(client.fill_with(absent(b"nobody", &grant.token)).await, None);
        for answer in [waiting.await.unwrap(), other.ask(request("nobody")).await, client.ask(request("nobody")).await]
        {
            let Answer::Absent(absent) = answer else { panic!("not absent: {answer:?}") };
            assert!((1..=60_000).contains(&absent.ttl_ms), "{absent:?}");
        }
        assert_eq!(client.get("nobody").await, None);
        client.set("nobody", "somebody").await;
        assert_eq!(hit(other.ask(request("nobody")).await).0, "somebody");
        client.delete("nobody").await;
        let grant = client.lease("nobody").await;
        let without_ttl = FillRequest { ttl_ms: None, ..absent(b"nobody", &grant.token) };
        let fault = client.cache.clone().fill(without_ttl).await.unwrap_err();
        assert!(fault.message().contains("negative_ttl"), "{}", fault.message());

        // A pattern covers a negative answer, too.
        assert_eq!(client.fill_with(absent(b"nobody", &grant.token)).await, None);
        let pattern = matching("no*");
        let mut progress = client.invalidation.clone().invalidate_pattern(pattern).await.unwrap().into_inner();
        progress.message().await.unwrap();
        client.lease("nobody").await;
    });
}

#[test]
fn a_failed_load_answers_all_callers_until_the_next_attempt() {
    over_each(|world, client| async move {
        let grant = client.lease("k").await;
        let other = Client::of(&world.node).await;
        let waiting = tokio::spawn({
            let other = other.clone();
            async move { other.ask(request("k")).await }
        });
        let busy = other.ask(GetOrLeaseRequest { wait_ms: Some(0), ..request("k") }).await;
        assert!(matches!(busy, Answer::Busy(_)), "{busy:?}");
        let failure = LoadFailure { message: "the database is down".into(), retry_after_ms: Some(60_000) };
        client.release("k", &grant.token, Some(failure)).await;
        for answer in [waiting.await.unwrap(), other.ask(request("k")).await] {
            let Answer::Failed(failed) = answer else { panic!("not failed: {answer:?}") };
            assert_eq!(failed.message, "the database is down");
            assert!((1..=60_000).contains(&failed.retry_after_ms), "{failed:?}");
        }
        assert_eq!(client.fill("k", &grant.token, "late").await, Some(NotFilledReason::LeaseLost));

        let grant = client.lease("soon").await;
        let failure = LoadFailure { message: "once".into(), retry_after_ms: Some(1) };
        client.release("soon", &grant.token, Some(failure)).await;
        // The next attempt is free as soon as its time has come.
        while !matches!(client.ask(request("soon")).await, Answer::Load(_)) {
            pause().await;
        }
        // A released lease is free at once.
        let grant = client.lease("free").await;
        client.release("free", &grant.token, None).await;
        client.lease("free").await;
    });
}

#[test]
fn a_lease_ends_with_its_time_or_with_the_connection_of_its_holder() {
    over_each(|world, client| async move {
        let slow = Client::of(&world.node).await;
        let grant = granted(slow.ask(GetOrLeaseRequest { lease_ms: Some(100), ..request("slow") }).await);
        let next = client.ask(GetOrLeaseRequest { wait_ms: Some(60_000), ..request("slow") }).await;
        assert_eq!(granted(next).reason(), GrantReason::Takeover);
        // Nothing has changed, so the first fill counts, whoever loaded it.
        assert_eq!(slow.fill("slow", &grant.token, "slow").await, None);

        let lost = Client::of(&world.node).await;
        let grant = granted(lost.ask(GetOrLeaseRequest { lease_ms: Some(300_000), ..request("lost") }).await);
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.ask(GetOrLeaseRequest { wait_ms: Some(60_000), ..request("lost") }).await }
        });
        let busy = client.ask(GetOrLeaseRequest { wait_ms: Some(0), ..request("lost") }).await;
        assert!(matches!(busy, Answer::Busy(_)), "{busy:?}");
        drop(lost);
        assert_eq!(granted(waiting.await.unwrap()).reason(), GrantReason::Takeover);
        assert_eq!(client.fill("lost", &grant.token, "late").await, None, "the holder may still fill");
    });
}

#[test]
fn the_same_nonce_receives_the_same_lease() {
    over_each(|_world, client| async move {
        let again = || GetOrLeaseRequest { nonce: Some(vec![7; 16].into()), wait_ms: Some(0), ..request("k") };
        let first = granted(client.ask(again()).await);
        // The node that granted the lease knows that a load is in progress, and a repeated request asks the store.
        let second = client.ask(again()).await;
        let second = granted(second);
        assert!(!matches!(client.ask(GetOrLeaseRequest { wait_ms: Some(0), ..request("k") }).await, Answer::Load(_)));
        assert_eq!(client.fill("k", &second.token, "loaded").await, None);
        assert_eq!(client.fill("k", &first.token, "loaded").await, Some(NotFilledReason::LeaseLost));
    });
}

/// Sends one batch over a Pipeline stream of its own and returns the results by id.
async fn pipeline(client: &Client, operations: Vec<Operation>) -> BTreeMap<u64, OperationResult> {
    let batch = stream::iter([PipelineRequest { operations }]);
    let mut answers = client.cache.clone().pipeline(batch).await.expect("a stream").into_inner();
    let mut results = BTreeMap::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        results.extend(answer.results.into_iter().map(|result| (result.id, result)));
    }
    results
}

fn ask_operation(id: u64, key: &'static str) -> Operation {
    let request = GetOrLeaseRequest { wait_ms: Some(25_000), ..request(key) };
    Operation { id, operation: Some(Asked::GetOrLease(request)), context: 0 }
}

fn lease_answer(result: OperationResult) -> Answer {
    let Some(Answered::GetOrLease(response)) = result.result else { panic!("not a GetOrLease: {result:?}") };
    response.result.expect("set")
}

#[test]
fn a_thousand_callers_on_two_nodes_cause_one_load() {
    let redis = RedisServer::start();
    let nodes = [connected_node(&redis.url()), connected_node(&redis.url())];
    block_on(async {
        let clients = [Client::of(&nodes[0]).await, Client::of(&nodes[1]).await];
        ready(&clients[0]).await;
        let grant = clients[0].lease("k").await;
        let callers: Vec<_> = (0..4)
            .map(|number| {
                let client = clients[number % 2].clone();
                let operations = (0..250).map(|id| ask_operation(id, "k")).collect();
                tokio::spawn(async move { pipeline(&client, operations).await })
            })
            .collect();
        for node in &nodes {
            while metric(node.http(), "terrace_load_waiters") != Some(500.0) {
                pause().await;
            }
        }
        assert_eq!(clients[1].fill("k", &grant.token, "loaded").await, None);
        for caller in callers {
            for (_, result) in caller.await.expect("no panic") {
                assert_eq!(hit(lease_answer(result)), ("loaded".into(), false, None));
            }
        }
    });
}

#[test]
fn callers_that_wait_do_not_stop_the_other_operations_of_their_stream() {
    over_each(|_world, client| async move {
        let grant = client.lease("k").await;
        let (batches, received) = tokio::sync::mpsc::channel(4);
        let requests = stream::unfold(received, |mut received| async move { Some((received.recv().await?, received)) });
        let mut answers = client.cache.clone().pipeline(requests).await.unwrap().into_inner();
        // More callers wait than a stream may have unanswered operations.
        for batch in 0..3 {
            let operations = (0..1_000).map(|id| ask_operation(batch * 1_000 + id, "k")).collect();
            batches.send(PipelineRequest { operations }).await.unwrap();
        }
        let get = GetRequest { key: "other".into(), options: None };
        let operations = vec![Operation { id: 9_999, operation: Some(Asked::Get(get)), context: 0 }];
        batches.send(PipelineRequest { operations }).await.unwrap();
        let first = answers.message().await.unwrap().unwrap();
        assert_eq!(first.results.iter().map(|result| result.id).collect::<Vec<_>>(), [9_999]);
        assert_eq!(client.fill("k", &grant.token, "loaded").await, None);
        let mut left = 3_000;
        while left > 0 {
            for result in answers.message().await.unwrap().unwrap().results {
                assert_eq!(hit(lease_answer(result)).0, "loaded");
                left -= 1;
            }
        }
    });
}

#[test]
fn a_connection_waits_with_a_limited_number_of_calls() {
    over_each(|world, client| async move {
        let grant = client.lease("k").await;
        let other = Client::of(&world.node).await;
        let waiting: Vec<_> = (0..80)
            .map(|_| {
                let other = other.clone();
                tokio::spawn(
                    async move { other.ask(GetOrLeaseRequest { wait_ms: Some(20_000), ..request("k") }).await },
                )
            })
            .collect();
        // The calls above the limit are answered; the others wait.
        while waiting.iter().filter(|caller| caller.is_finished()).count() < 80 - 64 {
            pause().await;
        }
        assert_eq!(client.fill("k", &grant.token, "loaded").await, None);
        let (mut hits, mut busy) = (0, 0);
        for caller in waiting {
            let answer = caller.await.unwrap();
            if matches!(answer, Answer::Busy(_)) {
                busy += 1;
            } else {
                assert_eq!(hit(answer).0, "loaded");
                hits += 1;
            }
        }
        assert_eq!((hits, busy), (64, 16));
    });
}

#[test]
fn a_failing_origin_is_asked_once_per_step_while_the_value_is_served() {
    over_each(|_world, client| async move {
        let stale = || GetOrLeaseRequest { stale_ms: Some(3_600_000), ..request("k") };
        let grant = granted(client.ask(stale()).await);
        assert_eq!(client.fill("k", &grant.token, "old").await, None);
        let failure =
            |retry_after_ms| Some(LoadFailure { message: "down".into(), retry_after_ms: Some(retry_after_ms) });
        let mut attempts = 0;
        for step in [1, 60_000] {
            let grant = loop {
                let (value, needs_refresh, grant) = hit(client.ask(stale()).await);
                assert_eq!((&value[..], needs_refresh), (&b"old"[..], true));
                match grant {
                    Some(grant) => break grant,
                    None => pause().await,
                }
            };
            attempts += 1;
            client.release("k", &grant.token, failure(step)).await;
        }
        for _ in 0..200 {
            assert_eq!(hit(client.ask(stale()).await), ("old".into(), true, None), "after {attempts} attempts");
        }
    });
}

#[test]
fn leases_work_over_a_cluster() {
    let cluster = RedisCluster::start();
    let nodes = [node(&cluster.url()), node(&cluster.url())];
    block_on(async {
        let clients = [Client::of(&nodes[0]).await, Client::of(&nodes[1]).await];
        ready(&clients[0]).await;
        ready(&clients[1]).await;
        for key in ["a", "b", "c", "d", "e", "f", "{tag}:1"] {
            let grant = clients[0].lease(key).await;
            let busy = clients[1].ask(GetOrLeaseRequest { wait_ms: Some(0), ..request(key) }).await;
            assert!(matches!(busy, Answer::Busy(_)), "{busy:?}");
            let waiting = tokio::spawn({
                let client = clients[1].clone();
                async move { client.ask(GetOrLeaseRequest { wait_ms: Some(20_000), ..request(key) }).await }
            });
            assert_eq!(clients[1].fill(key, &grant.token, "loaded").await, None, "{key}");
            assert_eq!(hit(waiting.await.unwrap()).0, "loaded");
            clients[0].delete(key).await;
            let grant = clients[0].lease(key).await;
            clients[1].delete(key).await;
            assert_eq!(clients[0].fill(key, &grant.token, "old").await, Some(NotFilledReason::LeaseLost), "{key}");
            let grant = clients[0].lease(key).await;
            let pattern = clients[1].invalidation.clone().invalidate_pattern(matching("*")).await;
            pattern.unwrap().into_inner().message().await.unwrap();
            assert_eq!(clients[0].fill(key, &grant.token, "old").await, Some(NotFilledReason::Invalidated), "{key}");
            assert_eq!(clients[0].get(key).await, None);
        }
    });
}

#[test]
fn leases_continue_after_a_failover_of_sentinel() {
    let sentinels = Sentinels::start();
    let node = connected_node(&sentinels.url());
    block_on(async {
        let client = Client::of(&node).await;
        ready(&client).await;
        let grant = client.lease("k").await;
        sentinels.failover();
        sentinels.settle();
        let delete = || DeleteRequest { keys: vec!["k".into()] };
        while client.cache.clone().delete(delete()).await.is_err() {
            pause().await;
        }
        // The lease may be lost with the former primary. Its fill is refused either way, because the key was deleted.
        let refused = client.fill("k", &grant.token, "old").await;
        assert!(refused.is_some(), "a fill is older than the deletion");
        assert_eq!(client.get("k").await, None);
        ready(&client).await;
        let grant = client.lease("k").await;
        assert_eq!(client.fill("k", &grant.token, "new").await, None);
        assert_eq!(client.get("k").await.as_deref(), Some(&b"new"[..]));
    });
}

#[test]
fn bad_requests_are_refused_and_bad_tokens_fill_nothing() {
    over_each(|_world, client| async move {
        let lost = Some(NotFilledReason::LeaseLost);
        let grant = client.lease("k").await;
        let other = client.lease("other").await;
        for token in [Bytes::new(), grant.token.slice(1..), vec![1; 512].into(), other.token.clone()] {
            assert_eq!(client.fill("k", &token, "bad").await, lost, "{token:?}");
        }
        let faulty = [
            (
                GetOrLeaseRequest { lease_ms: Some(99), ..request("k") },
                "lease_ms is 99; expected 100 to 300000 milliseconds",
            ),
            (GetOrLeaseRequest { wait_ms: Some(-1), ..request("k") }, "wait_ms is -1"),
            (GetOrLeaseRequest { stale_ms: Some(-1), ..request("k") }, "stale_ms is -1"),
            (GetOrLeaseRequest { nonce: Some("short".into()), ..request("k") }, "nonce has 5 bytes; expected 16"),
            (request(""), "the key is empty"),
        ];
        for (request, text) in faulty {
            let fault = client.cache.clone().get_or_lease(request).await.unwrap_err();
            assert_eq!(fault.code(), Code::InvalidArgument, "{text}");
            assert!(fault.message().contains(text), "{}", fault.message());
        }
        let long = fill("k", &vec![1; 513].into(), "x");
        let fault = client.cache.clone().fill(long).await.unwrap_err();
        assert!(
            fault.message().contains("the token has 513 bytes; a token has at most 512 bytes"),
            "{}",
            fault.message()
        );
        let empty = FillRequest { key: "k".into(), token: grant.token.clone(), ..FillRequest::default() };
        assert_eq!(client.cache.clone().fill(empty).await.unwrap_err().code(), Code::InvalidArgument);
        for (message, text) in [("x".repeat(257), "257 bytes"), ("a\nb".to_owned(), "control character at byte 1")] {
            let failed = Some(LoadFailure { message, retry_after_ms: None });
            let release = ReleaseRequest { key: "k".into(), token: grant.token.clone(), failed };
            let fault = client.cache.clone().release(release).await.unwrap_err();
            assert!(fault.message().contains(text), "{}", fault.message());
        }
        assert_eq!(client.fill("k", &grant.token, "good").await, None, "the lease was not lost by any of these");
    });
}

#[test]
fn many_keys_are_leased_in_one_call() {
    over_each(|_world, client| async move {
        client.set("present", "1").await;
        let item = |key: &'static str| LeaseItem { key: key.into(), ..LeaseItem::default() };
        let items = vec![item("present"), item("absent"), item(""), item("absent")];
        let request = GetOrLeaseManyRequest { items, ..GetOrLeaseManyRequest::default() };
        let results = client.cache.clone().get_or_lease_many(request).await.unwrap().into_inner().results;
        let names: Vec<&str> = results
            .iter()
            .map(|result| match result.result.as_ref().unwrap() {
                get_or_lease_many_result::Result::Hit(_) => "hit",
                get_or_lease_many_result::Result::Load(_) => "load",
                get_or_lease_many_result::Result::Busy(_) => "busy",
                get_or_lease_many_result::Result::Absent(_) => "absent",
                get_or_lease_many_result::Result::Failed(_) => "failed",
                get_or_lease_many_result::Result::Error(_) => "error",
            })
            .collect();
        assert_eq!(names, ["hit", "load", "error", "busy"]);
    });
}

#[test]
fn two_nodes_over_one_redis_load_once() {
    let redis = RedisServer::start();
    let nodes = [connected_node(&redis.url()), connected_node(&redis.url())];
    block_on(async {
        let clients = [Client::of(&nodes[0]).await, Client::of(&nodes[1]).await];
        ready(&clients[0]).await;
        ready(&clients[1]).await;
        let grant = clients[0].lease("k").await;
        let waiting: Vec<_> = (0..40)
            .map(|number| {
                let client = clients[number % 2].clone();
                tokio::spawn(async move { client.ask(request("k")).await })
            })
            .collect();
        // Both nodes know that a load is in progress.
        for client in &clients {
            let busy = client.ask(GetOrLeaseRequest { wait_ms: Some(0), ..request("k") }).await;
            assert!(matches!(busy, Answer::Busy(_)), "{busy:?}");
        }
        // The fill may arrive at any node.
        assert_eq!(clients[1].fill("k", &grant.token, "loaded").await, None);
        for caller in waiting {
            assert_eq!(hit(caller.await.unwrap()), ("loaded".into(), false, None));
        }
        let grant = clients[0].lease("gone").await;
        clients[1].delete("gone").await;
        assert_eq!(clients[0].fill("gone", &grant.token, "old").await, Some(NotFilledReason::LeaseLost));
        // A client that writes to Redis directly is noticed by its change.
        let grant = clients[0].lease("direct").await;
        let mut direct = redis.connect();
        redis::cmd("SET").arg("direct").arg("new").exec(&mut direct).unwrap();
        assert_eq!(clients[0].fill("direct", &grant.token, "old").await, Some(NotFilledReason::Changed));
        assert_eq!(clients[0].get("direct").await, Some("new".into()));
        // Redis shows the record to operators, and clients of Terrace do not see it.
        clients[0].lease("shown").await;
        let ttl: i64 = redis::cmd("PTTL").arg("__terrace:load::shown").query(&mut direct).unwrap();
        assert!((60_000..=70_000).contains(&ttl), "{ttl} ms: exclusive time and 60 s");
    });
}
