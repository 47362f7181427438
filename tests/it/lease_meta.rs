//! `want_meta` of GetOrLease and GetOrLeaseMany: the metadata equals the metadata of a Get, over each store.

use std::{any::Any, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use terrace::{
    cache::policy::Policy,
    config::Config,
    glob::Glob,
    grpc::client::CacheClient,
    proto::{
        FillRequest, Found, GetManyRequest, GetOrLeaseManyRequest, GetOrLeaseRequest, GetRequest, Grant, LeaseHit,
        LeaseItem, Operation, PipelineRequest, ReadOptions, SetRequest, Tier, TierSelection, fill_request::Loaded,
        get_many_result, get_or_lease_many_result::Result as Item, get_or_lease_response::Result as Answer,
        get_response, operation::Operation as Asked, operation_result::Result as Answered,
    },
};
use tonic::transport::Channel;

use crate::support::{
    grpc::{block_on, connect, pause},
    http::metric,
    node::wait_until_open,
    redis::RedisServer,
    terrace::{Terrace, config, config_embedded, config_patient},
};

/// Stale part of the policies in milliseconds.
const STALE_MS: i64 = 30_000;
/// A TTL in milliseconds that does not end during a test.
const TTL_MS: i64 = 600_000;

/// A node with policies, and the store that it uses.
struct World {
    node: Terrace,
    has_l2: bool,
    _keep: Box<dyn Any>,
}

impl World {
    fn new(mut config: Config, has_l2: bool, keep: impl Any) -> Self {
        let stale = Some(Duration::from_millis(STALE_MS.unsigned_abs()));
        let policy = |pattern: &[u8]| Policy { stale, ..Policy::of(Glob::new(pattern).unwrap()) };
        let halved = Policy { max_ttl: Some(Duration::from_secs(40)), ..policy(b"halved:*") };
        config.policies = vec![policy(b"soft:*"), Policy { l1: false, ..policy(b"cold:*") }, halved];
        let node = Terrace::start(config);
        wait_until_open(&node);
        Self { node, has_l2, _keep: Box::new(keep) }
    }
}

/// Runs a test over each store, once leases can be fenced: over Redis, seconds after their first use.
fn over_each(test: impl AsyncFn(&World, Client)) {
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let over_redis = World::new(config_patient(redis.url()), true, redis);
    let over_embedded = World::new(config_embedded(dir.path()), true, dir);
    for world in [World::new(config(), false, ()), over_embedded, over_redis] {
        block_on(async {
            let client = Client(CacheClient::new(connect(world.node.grpc()).await));
            while client.grant("ready").await.token.is_empty() {
                pause().await;
            }
            test(&world, client).await;
        });
    }
}

/// A way to send a GetOrLease.
#[derive(Debug, Clone, Copy)]
enum Route {
    Unary,
    Pipeline,
    Many,
    ManyInPipeline,
}

const ROUTES: [Route; 4] = [Route::Unary, Route::Pipeline, Route::Many, Route::ManyInPipeline];

#[derive(Clone)]
struct Client(CacheClient<Channel>);

impl Client {
    async fn set(&self, request: SetRequest) {
        self.0.clone().set(request).await.expect("stored");
    }

    async fn get(&self, key: &str, options: ReadOptions) -> Found {
        let request = GetRequest { key: copied(key), options: Some(options) };
        match self.0.clone().get(request).await.expect("an answer").into_inner().result {
            Some(get_response::Result::Found(found)) => found,
            other => panic!("not found: {other:?}"),
        }
    }

    async fn operate(&self, operation: Asked) -> Answered {
        let operations = vec![Operation { id: 1, operation: Some(operation), context: 0 }];
        let batch = stream::iter([PipelineRequest { operations }]);
        let mut answers = self.0.clone().pipeline(batch).await.expect("a stream").into_inner();
        let mut results = answers.message().await.expect("an answer").expect("a message").results;
        results.pop().expect("a result").result.expect("set")
    }

    async fn ask(&self, route: Route, request: GetOrLeaseRequest) -> Answer {
        match route {
            Route::Unary => {
                self.0.clone().get_or_lease(request).await.expect("an answer").into_inner().result.expect("set")
            }
            Route::Pipeline => {
                let answered = self.operate(Asked::GetOrLease(request)).await;
                let Answered::GetOrLease(answer) = answered else { panic!("no GetOrLease: {answered:?}") };
                answer.result.expect("set")
            }
            Route::Many => {
                one(self.0.clone().get_or_lease_many(many(request)).await.expect("an answer").into_inner().results)
            }
            Route::ManyInPipeline => {
                let answered = self.operate(Asked::GetOrLeaseMany(many(request))).await;
                let Answered::GetOrLeaseMany(answer) = answered else { panic!("no GetOrLeaseMany: {answered:?}") };
                one(answer.results)
            }
        }
    }

    async fn hit(&self, route: Route, request: GetOrLeaseRequest) -> LeaseHit {
        let answer = self.ask(route, request).await;
        let Answer::Hit(hit) = answer else { panic!("no hit by {route:?}: {answer:?}") };
        hit
    }

    /// As [`Client::hit`], once this tier answers: over Redis, the announcement of an earlier write may remove the copy in L1.
    async fn hit_in(&self, tier: Tier, route: Route, request: GetOrLeaseRequest) -> LeaseHit {
        loop {
            let hit = self.hit(route, request.clone()).await;
            if hit.found.as_ref().expect("a value").tier() == tier {
                return hit;
            }
            pause().await;
        }
    }

    /// Takes the lease of an absent key.
    async fn grant(&self, key: &str) -> Grant {
        let answer = self.ask(Route::Unary, with_meta(key)).await;
        let Answer::Load(load) = answer else { panic!("no lease: {answer:?}") };
        load.grant.expect("a grant")
    }
}

fn copied(key: &str) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

fn with_meta(key: &str) -> GetOrLeaseRequest {
    GetOrLeaseRequest { key: copied(key), want_meta: true, ..GetOrLeaseRequest::default() }
}

/// The request for one key as a GetOrLeaseMany.
fn many(request: GetOrLeaseRequest) -> GetOrLeaseManyRequest {
    let GetOrLeaseRequest { key, stale_ms, refresh, want_meta, .. } = request;
    let items = vec![LeaseItem { key, ..LeaseItem::default() }];
    GetOrLeaseManyRequest { items, stale_ms, refresh, want_meta, lease_ms: None }
}

fn one(results: Vec<terrace::proto::GetOrLeaseManyResult>) -> Answer {
    match results.into_iter().next().expect("a result").result.expect("set") {
        Item::Hit(hit) => Answer::Hit(hit),
        Item::Load(load) => Answer::Load(load),
        Item::Busy(busy) => Answer::Busy(busy),
        Item::Absent(absent) => Answer::Absent(absent),
        Item::Failed(failed) => Answer::Failed(failed),
        Item::Error(error) => panic!("{error:?}"),
    }
}

fn tagged(key: &str, ttl_ms: Option<i64>) -> SetRequest {
    let tags = vec!["b".into(), "a".into()];
    SetRequest { key: copied(key), value: "four".into(), ttl_ms, tags, ..SetRequest::default() }
}

const META: ReadOptions = ReadOptions { tier: 0, no_touch: false, want_meta: true };

/// Checks the metadata of a value that [`tagged`] has written, with the stale part of this many milliseconds.
#[track_caller]
fn check(found: &Found, stale_ms: i64) {
    assert_eq!((&found.value[..], found.size), (&b"four"[..], Some(4)), "{found:?}");
    assert_eq!(found.tags, ["a", "b"], "{found:?}");
    assert!(found.age_ms.is_some() && found.l1_hits.is_some(), "{found:?}");
    assert!(found.ttl_ms.is_none_or(|ttl_ms| (1..=TTL_MS).contains(&ttl_ms)), "{found:?}");
    assert_eq!(found.fresh_ms, found.ttl_ms.map(|ttl_ms| (ttl_ms - stale_ms).max(0)), "{found:?}");
}

#[track_caller]
fn check_hit(hit: &LeaseHit, stale_ms: i64) {
    let found = hit.found.as_ref().expect("a value");
    check(found, stale_ms);
    assert_eq!(hit.fresh_ms, found.fresh_ms, "{hit:?}");
}

#[test]
fn a_lease_and_a_read_have_the_same_metadata() {
    over_each(async |world, client| {
        let kept = [("soft:k", STALE_MS, Tier::L1), ("plain", 0, Tier::L1), ("halved:k", 20_000, Tier::L1)];
        let cold = world.has_l2.then_some(("cold:k", STALE_MS, Tier::L2));
        for (key, stale_ms, tier) in kept.into_iter().chain(cold) {
            client.set(tagged(key, Some(TTL_MS))).await;
            check(&client.get(key, META).await, stale_ms);
            for route in ROUTES {
                let hit = client.hit_in(tier, route, with_meta(key)).await;
                check_hit(&hit, stale_ms);
                assert!(hit.fresh_ms.is_some() && hit.grant.is_none(), "{route:?}: {hit:?}");
                let own = GetOrLeaseRequest { stale_ms: Some(10_000), ..with_meta(key) };
                check_hit(&client.hit_in(tier, route, own).await, 10_000);
                let bare = GetOrLeaseRequest { want_meta: false, ..with_meta(key) };
                let bare = client.hit_in(tier, route, bare).await;
                assert!(bare.fresh_ms.is_some());
                let expected = Found { value: "four".into(), tier: tier.into(), ..Found::default() };
                assert_eq!(bare.found, Some(expected), "{route:?}");
            }
        }
        // Without a TTL, there is no time until a refresh.
        client.set(tagged("soft:ever", None)).await;
        for route in ROUTES {
            let hit = client.hit(route, with_meta("soft:ever")).await;
            check_hit(&hit, STALE_MS);
            assert_eq!((hit.fresh_ms, hit.found.unwrap().ttl_ms), (None, None));
        }
        assert_eq!(client.get("soft:ever", META).await.fresh_ms, None);
    });
}

#[test]
fn a_read_reports_the_fresh_time_by_the_policy_of_each_key() {
    over_each(async |world, client| {
        for key in ["soft:k", "plain", "cold:k"] {
            client.set(tagged(key, Some(TTL_MS))).await;
        }
        let keys = if world.has_l2 { vec!["soft:k", "plain", "cold:k", ""] } else { vec!["soft:k", "plain", ""] };
        let keys: Vec<Bytes> = keys.into_iter().map(copied).collect();
        let request = GetManyRequest { keys: keys.clone(), options: Some(META) };
        let unary = client.0.clone().get_many(request.clone()).await.unwrap().into_inner().results;
        let Answered::GetMany(piped) = client.operate(Asked::GetMany(request)).await else { panic!("no GetMany") };
        for results in [unary, piped.results] {
            for (key, result) in keys.iter().zip(results) {
                let Some(get_many_result::Result::Found(found)) = result.result else {
                    assert!(key.is_empty(), "{key:?} was not found");
                    continue;
                };
                check(&found, if key == "plain" { 0 } else { STALE_MS });
                assert!(found.fresh_ms.is_some());
            }
        }
        let get = GetRequest { key: "soft:k".into(), options: Some(META) };
        let Answered::Get(read) = client.operate(Asked::Get(get)).await else { panic!("no Get") };
        let Some(get_response::Result::Found(found)) = read.result else { panic!("not found") };
        check(&found, STALE_MS);
        let inspected = client.get("soft:k", ReadOptions { no_touch: true, ..META }).await;
        check(&inspected, STALE_MS);
        if world.has_l2 {
            check(&client.get("soft:k", ReadOptions { tier: TierSelection::L2Only.into(), ..META }).await, STALE_MS);
        }
        let bare = client.get("soft:k", ReadOptions { want_meta: false, ..META }).await;
        assert_eq!((bare.fresh_ms, bare.ttl_ms, bare.size), (None, None, None));
    });
}

#[test]
fn a_value_that_needs_a_refresh_has_metadata_with_and_without_a_grant() {
    over_each(async |_world, client| {
        for route in ROUTES {
            let key = format!("soft:{route:?}");
            client.set(tagged(&key, Some(TTL_MS))).await;
            let stale = GetOrLeaseRequest { stale_ms: Some(2 * TTL_MS), ..with_meta(&key) };
            let mut hit = client.hit(route, stale.clone()).await;
            while hit.grant.is_none() {
                // Over Redis, the announcement of the Set may arrive during the request: no lease is taken then.
                pause().await;
                hit = client.hit(route, stale.clone()).await;
            }
            for hit in [hit, client.hit(route, stale).await] {
                assert!(hit.needs_refresh, "{route:?}: {hit:?}");
                assert_eq!(hit.fresh_ms, Some(0));
                check_hit(&hit, 2 * TTL_MS);
            }
        }
    });
}

#[test]
fn callers_that_wait_for_a_load_receive_metadata() {
    over_each(async |world, client| {
        for (number, route) in [Route::Unary, Route::Pipeline].into_iter().enumerate() {
            let key = format!("soft:{number}");
            let tags: Vec<Bytes> = vec!["b".into(), "a".into()];
            let lease = GetOrLeaseRequest { tags: tags.clone(), ..with_meta(&key) };
            let Answer::Load(load) = client.ask(route, lease).await else { panic!("no lease") };
            let grant = load.grant.unwrap();
            let waiting = tokio::spawn({
                let (client, key) = (client.clone(), key.clone());
                async move { client.hit(route, GetOrLeaseRequest { wait_ms: Some(60_000), ..with_meta(&key) }).await }
            });
            while metric(world.node.http(), "terrace_load_waiters") != Some(1.0) {
                pause().await;
            }
            let fill = FillRequest {
                key: copied(&key),
                token: grant.token.clone(),
                loaded: Some(Loaded::Value("four".into())),
                ttl_ms: Some(TTL_MS - STALE_MS),
                tags,
                ..FillRequest::default()
            };
            client.0.clone().fill(fill).await.unwrap();
            check_hit(&waiting.await.unwrap(), STALE_MS);
        }
    });
}
