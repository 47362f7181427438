//! Each method of `terrace.v1.Cache`, through a real socket with the generated client.

use terrace::{
    grpc::client::CacheClient,
    proto::{
        DeleteRequest, Found, GetManyRequest, GetMetaRequest, GetRequest, IfAbsent, IfPresent, IncrementRequest,
        ReadOptions, SetManyRequest, SetRequest, Tier, TierSelection, TouchOnly, TouchRequest, get_many_result,
        set_many_result, set_request::Condition, set_response,
    },
};
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    grpc::{block_on, connect},
    kv,
    terrace::{Terrace, config},
};

type Client = CacheClient<Channel>;

fn with_client<F: Future<Output = ()>>(test: impl FnOnce(Client) -> F) {
    let server = Terrace::start(config());
    block_on(async {
        test(CacheClient::new(connect(server.grpc()).await)).await;
    });
}

fn set(key: &'static str, value: &'static str) -> SetRequest {
    SetRequest { key: key.into(), value: value.into(), ..SetRequest::default() }
}

fn get(key: &'static str) -> GetRequest {
    GetRequest { key: key.into(), options: None }
}

async fn found(client: &mut Client, request: GetRequest) -> Option<Found> {
    kv::found(client.get(request).await.unwrap().into_inner())
}

async fn stored(client: &mut Client, request: SetRequest) -> bool {
    match client.set(request).await.unwrap().into_inner().result.unwrap() {
        set_response::Result::Stored(_) => true,
        set_response::Result::NotStored(_) => false,
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, naming: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(naming), "{:?} does not name {naming:?}", status.message());
}

#[test]
fn a_value_is_read_as_it_was_set() {
    with_client(async |mut client| {
        assert_eq!(found(&mut client, get("k")).await, None);
        let binary = SetRequest {
            key: b"\x00\xffk".as_slice().into(),
            value: b"\x00\r\n\xff".as_slice().into(),
            ..SetRequest::default()
        };
        assert!(stored(&mut client, binary.clone()).await);
        let read = found(&mut client, GetRequest { key: binary.key, options: None }).await.unwrap();
        assert_eq!(read.value, binary.value);
        assert_eq!(read.tier(), Tier::L1);
        assert_eq!((read.ttl_ms, read.age_ms, read.size, read.l1_hits), (None, None, None, None));
        assert!(stored(&mut client, set("empty", "")).await);
        assert_eq!(found(&mut client, get("empty")).await.unwrap().value, "");
    });
}

#[test]
fn what_is_known_comes_only_when_asked_for() {
    with_client(async |mut client| {
        stored(&mut client, SetRequest { ttl_ms: Some(60_000), ..set("k", "four") }).await;
        let options = Some(ReadOptions { want_meta: true, ..ReadOptions::default() });
        let read = found(&mut client, GetRequest { options, ..get("k") }).await.unwrap();
        assert!((1..=60_000).contains(&read.ttl_ms.unwrap()), "{read:?}");
        assert_eq!(read.size, Some(4));
        assert!(read.age_ms.is_some() && read.l1_hits.is_some());
        stored(&mut client, set("k", "for ever")).await;
        let read = found(&mut client, GetRequest { options, ..get("k") }).await.unwrap();
        assert_eq!(read.ttl_ms, None, "a Set without TTL removes the one there was");
    });
}

#[test]
fn conditions_hold_or_nothing_is_stored() {
    with_client(async |mut client| {
        let when = |condition, value| SetRequest { condition: Some(condition), ..set("k", value) };
        assert!(!stored(&mut client, when(Condition::IfPresent(IfPresent {}), "1")).await);
        assert!(!stored(&mut client, when(Condition::IfEqual("".into()), "1")).await);
        assert!(stored(&mut client, when(Condition::IfAbsent(IfAbsent {}), "2")).await);
        assert!(!stored(&mut client, when(Condition::IfAbsent(IfAbsent {}), "3")).await);
        assert!(stored(&mut client, when(Condition::IfPresent(IfPresent {}), "4")).await);
        assert!(!stored(&mut client, when(Condition::IfEqual("2".into()), "5")).await);
        assert!(stored(&mut client, when(Condition::IfEqual("4".into()), "6")).await);
        assert_eq!(found(&mut client, get("k")).await.unwrap().value, "6");
    });
}

#[test]
fn many_keys_are_answered_in_their_order() {
    with_client(async |mut client| {
        stored(&mut client, set("a", "1")).await;
        stored(&mut client, set("c", "3")).await;
        let keys = ["a", "b", "", "c", "__terrace:x", "a"].map(Into::into).to_vec();
        let results = client.get_many(GetManyRequest { keys, options: None }).await.unwrap().into_inner().results;
        let shown: Vec<String> = results
            .into_iter()
            .map(|result| match result.result.unwrap() {
                get_many_result::Result::Found(found) => String::from_utf8(found.value.to_vec()).unwrap(),
                get_many_result::Result::Missing(_) => "-".to_owned(),
                get_many_result::Result::Error(error) => format!("error {}", error.code),
            })
            .collect();
        assert_eq!(shown, ["1", "-", "error 3", "3", "error 3", "1"]);
        let none = client.get_many(GetManyRequest::default()).await.unwrap().into_inner();
        assert_eq!(none.results, []);
    });
}

#[test]
fn many_entries_have_their_own_results() {
    with_client(async |mut client| {
        let mut entries = vec![set("a", "1"), set("", "2"), set("b", "3"), set("c", "4")];
        entries[2].ttl_ms = Some(0);
        entries[3].condition = Some(Condition::IfPresent(IfPresent {}));
        let results = client.set_many(SetManyRequest { entries }).await.unwrap().into_inner().results;
        let shown: Vec<String> = results
            .into_iter()
            .map(|result| match result.result.unwrap() {
                set_many_result::Result::Stored(_) => "stored".to_owned(),
                set_many_result::Result::NotStored(_) => "not stored".to_owned(),
                set_many_result::Result::Error(error) => format!("error {}", error.code),
            })
            .collect();
        assert_eq!(shown, ["stored", "error 3", "error 3", "not stored"]);
        assert_eq!(found(&mut client, get("a")).await.unwrap().value, "1");
    });
}

#[test]
fn delete_counts_what_was_there() {
    with_client(async |mut client| {
        stored(&mut client, set("a", "1")).await;
        stored(&mut client, set("b", "1")).await;
        let keys = ["a", "b", "c"].map(Into::into).to_vec();
        assert_eq!(client.delete(DeleteRequest { keys }).await.unwrap().into_inner().deleted, 2);
        assert_eq!(found(&mut client, get("a")).await, None);
        stored(&mut client, set("a", "1")).await;
        let keys = ["a", ""].map(Into::into).to_vec();
        refused(client.delete(DeleteRequest { keys }).await, Code::InvalidArgument, "key is empty");
        assert!(found(&mut client, get("a")).await.is_some(), "a Delete with a bad key deletes nothing");
    });
}

#[test]
fn touch_changes_the_ttl_when_its_condition_holds() {
    async fn asked(client: &mut Client, ttl_ms: Option<i64>, only: TouchOnly) -> (bool, bool) {
        let request = TouchRequest { key: "k".into(), ttl_ms, only: only.into() };
        let answer = client.touch(request).await.unwrap().into_inner();
        (answer.found, answer.applied)
    }
    with_client(async |mut client| {
        assert_eq!(asked(&mut client, Some(1000), TouchOnly::Always).await, (false, false));
        stored(&mut client, set("k", "v")).await;
        for (ttl_ms, only, applied, why) in [
            (None, TouchOnly::Always, true, "it has no TTL, as asked"),
            (Some(60_000), TouchOnly::IfLonger, false, "no TTL is longer than any"),
            (Some(60_000), TouchOnly::IfShorter, true, "no TTL is longer than any"),
            (Some(90_000), TouchOnly::IfShorter, false, "it is longer"),
            (Some(90_000), TouchOnly::IfLonger, true, "it is longer"),
            (None, TouchOnly::IfLonger, true, "no TTL is longer than any"),
        ] {
            assert_eq!(asked(&mut client, ttl_ms, only).await, (true, applied), "{ttl_ms:?} {only:?}: {why}");
        }
    });
}

#[test]
fn increment_counts_from_zero_and_refuses_what_is_no_number() {
    with_client(async |mut client| {
        let add = |delta, ttl_ms| IncrementRequest { key: "n".into(), delta, ttl_ms };
        assert_eq!(client.increment(add(5, Some(60_000))).await.unwrap().into_inner().value, 5);
        assert_eq!(client.increment(add(-7, None)).await.unwrap().into_inner().value, -2);
        let options = Some(ReadOptions { want_meta: true, ..ReadOptions::default() });
        let read = found(&mut client, GetRequest { options, ..get("n") }).await.unwrap();
        assert!(read.ttl_ms.is_some(), "the TTL of the creation stays");
        refused(client.increment(add(i64::MIN, None)).await, Code::FailedPrecondition, "overflow");
        stored(&mut client, set("n", "seven")).await;
        refused(client.increment(add(1, None)).await, Code::FailedPrecondition, "not an integer");
    });
}

#[test]
fn meta_describes_without_effect() {
    with_client(async |mut client| {
        stored(&mut client, SetRequest { ttl_ms: Some(60_000), ..set("k", "four") }).await;
        let keys = ["k", "absent", ""].map(Into::into).to_vec();
        let results = client.get_meta(GetMetaRequest { keys }).await.unwrap().into_inner().results;
        assert!(results[0].exists && results[0].size == 4 && results[0].ttl_ms.is_some(), "{results:?}");
        assert_eq!(results[0].tiers, [i32::from(Tier::L1)], "without an L2 only L1 holds it");
        assert!(!results[1].exists && results[1].tiers.is_empty() && results[1].error.is_none());
        assert_eq!(results[2].error.as_ref().unwrap().code, i32::from(Code::InvalidArgument));
    });
}

#[test]
fn bad_input_is_named() {
    with_client(async |mut client| {
        refused(client.get(get("")).await, Code::InvalidArgument, "key is empty");
        let long = GetRequest { key: vec![b'k'; 65_537].into(), options: None };
        refused(client.get(long).await, Code::InvalidArgument, "65537");
        let longest = GetRequest { key: vec![b'k'; 65_536].into(), options: None };
        assert!(client.get(longest).await.is_ok());
        refused(client.get(get("__terrace:x")).await, Code::InvalidArgument, "__terrace:");
        for ttl_ms in [0, -1, i64::MIN, i64::MAX] {
            let request = SetRequest { ttl_ms: Some(ttl_ms), ..set("k", "v") };
            refused(client.set(request).await, Code::InvalidArgument, "ttl_ms");
            let request = TouchRequest { key: "k".into(), ttl_ms: Some(ttl_ms), only: 0 };
            refused(client.touch(request).await, Code::InvalidArgument, "ttl_ms");
            let request = IncrementRequest { key: "k".into(), delta: 1, ttl_ms: Some(ttl_ms) };
            refused(client.increment(request).await, Code::InvalidArgument, "ttl_ms");
        }
        let tier = |tier| GetRequest { options: Some(ReadOptions { tier, ..ReadOptions::default() }), ..get("k") };
        refused(client.get(tier(9)).await, Code::InvalidArgument, "options.tier");
        refused(client.get(tier(TierSelection::L2Only.into())).await, Code::InvalidArgument, "L2_ONLY");
        let touch = TouchRequest { key: "k".into(), ttl_ms: None, only: 7 };
        refused(client.touch(touch).await, Code::InvalidArgument, "only");
    });
}

#[test]
fn batches_and_values_over_their_limits_are_refused_by_name() {
    with_client(async |mut client| {
        let keys = vec!["k".into(); 1001];
        let many = GetManyRequest { keys: keys.clone(), options: None };
        refused(client.get_many(many).await, Code::ResourceExhausted, "1000");
        refused(client.delete(DeleteRequest { keys: keys.clone() }).await, Code::ResourceExhausted, "1000");
        refused(client.get_meta(GetMetaRequest { keys: keys.clone() }).await, Code::ResourceExhausted, "1000");
        let entries = vec![set("k", "v"); 1001];
        refused(client.set_many(SetManyRequest { entries }).await, Code::ResourceExhausted, "1000");
        let keys = keys[..1000].to_vec();
        assert_eq!(
            client.get_many(GetManyRequest { keys, options: None }).await.unwrap().into_inner().results.len(),
            1000
        );
        let big = SetRequest { value: vec![0; (8 << 20) + 1].into(), ..set("k", "") };
        refused(client.set(big).await, Code::ResourceExhausted, "max_value");
        let huge = SetRequest { value: vec![0; 17 << 20].into(), ..set("k", "") };
        refused(client.set(huge).await, Code::ResourceExhausted, "grpc.max_message");
        assert!(stored(&mut client, set("k", "v")).await, "the connection goes on");
    });
}

#[test]
fn inspection_is_not_counted() {
    let server = Terrace::start(config());
    block_on(async {
        let channel = connect(server.grpc()).await;
        let mut client = CacheClient::new(channel.clone());
        let mut insight = terrace::grpc::client::InsightClient::new(channel);
        stored(&mut client, set("k", "v")).await;
        let look = |no_touch, tier: TierSelection| GetRequest {
            options: Some(ReadOptions { tier: tier.into(), no_touch, want_meta: false }),
            ..get("k")
        };
        for request in [look(true, TierSelection::Any), look(false, TierSelection::L1Only)] {
            assert_eq!(found(&mut client, request).await.unwrap().value, "v");
        }
        found(&mut client, get("k")).await;
        found(&mut client, get("absent")).await;
        let reads = insight.get_stats(terrace::proto::GetStatsRequest {}).await.unwrap().into_inner().reads.unwrap();
        assert_eq!((reads.hit_l1, reads.hit_l2, reads.miss, reads.error), (1, 0, 1, 0));
        assert_eq!(reads.l1_hit_rate, Some(0.5));
    });
}

#[test]
fn what_does_not_fit_into_an_answer_is_refused_key_by_key() {
    let mut config = config();
    config.grpc.max_message = 64 * 1024;
    let server = Terrace::start(config);
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        for key in ["a", "b", "c"] {
            stored(&mut client, SetRequest { value: vec![b'v'; 30_000].into(), ..set(key, "") }).await;
        }
        let keys = ["a", "b", "c", "absent"].map(Into::into).to_vec();
        let answer = client.get_many(GetManyRequest { keys, options: None }).await.unwrap().into_inner();
        let codes: Vec<i32> = answer
            .results
            .iter()
            .map(|result| match result.result.as_ref().unwrap() {
                get_many_result::Result::Found(_) => 0,
                get_many_result::Result::Missing(_) => -1,
                get_many_result::Result::Error(error) => error.code,
            })
            .collect();
        assert_eq!(codes, [0, 0, i32::from(Code::ResourceExhausted), -1]);
    });
}
