//! Tests of the fake. The conformance scenarios compare its answers with those of a server.

use std::time::Duration;

use futures_util::future::join_all;
use terrace_proto::{GrantReason, WatchCause, WatchResponse, watch_event::Subject, watch_response::News};
use tokio::task::JoinHandle;

use super::{Fake, OperationKind};
use crate::{Client, ErrorKind, Filled, Grant, Lease, NewEntry, Result, Touched, WatchFeed};

const SECOND: Duration = Duration::from_secs(1);

async fn granted(cache: &Client, key: &str) -> Grant {
    let Lease::Load(grant) = cache.get_or_lease(key).wait(Duration::ZERO).await.unwrap() else {
        panic!("{key}: no grant")
    };
    grant
}

/// Begins a request that waits for the load of another client.
async fn waiting(fake: &Fake, cache: &Client, key: &'static str) -> JoinHandle<Result<Lease>> {
    let (before, request) = (fake.waiting(), cache.get_or_lease(key));
    let task = tokio::spawn(request.into_future());
    while fake.waiting() == before {
        tokio::task::yield_now().await;
    }
    task
}

/// Returns the answer of a waiting request, which was woken and did not wait for a timer: the clock of tokio is paused.
async fn woken(waiter: JoinHandle<Result<Lease>>) -> Result<Lease> {
    let begun = tokio::time::Instant::now();
    let lease = waiter.await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO, "no change woke the caller");
    lease
}

fn value(lease: Lease) -> String {
    let Lease::Hit { entry, .. } = lease else { panic!("{lease:?}") };
    String::from_utf8_lossy(&entry.value).into_owned()
}

#[tokio::test]
async fn values_expire_by_the_manual_clock_only() {
    let fake = Fake::new();
    let cache = fake.client();
    cache.set("k", "v").ttl(10 * SECOND).tags(["b", "a"]).await.unwrap();
    fake.advance(4 * SECOND);
    let entry = cache.lookup("k").await.unwrap().unwrap();
    assert_eq!((entry.expires_in, entry.age), (Some(6 * SECOND), 4 * SECOND));
    assert_eq!(fake.entry("k").unwrap().tags, ["a", "b"]);
    assert_eq!(cache.touch("k", Some(5 * SECOND)).if_longer().await.unwrap(), Touched { found: true, applied: false });
    assert_eq!(cache.touch("k", Some(7 * SECOND)).if_longer().await.unwrap(), Touched { found: true, applied: true });
    fake.advance(7 * SECOND - Duration::from_nanos(1));
    assert!(cache.get("k").await.unwrap().is_some());
    fake.advance(Duration::from_nanos(1));
    assert_eq!((cache.get("k").await.unwrap(), fake.now()), (None, 11 * SECOND));
    assert!(fake.keys().is_empty() && fake.entry("k").is_none());
}

#[tokio::test]
async fn an_increment_keeps_ttl_and_tags() {
    let fake = Fake::new();
    let cache = fake.client();
    cache.set("n", "41").ttl(10 * SECOND).tags(["t"]).await.unwrap();
    fake.advance(SECOND);
    assert_eq!(cache.increment("n", 1).ttl(99 * SECOND).await.unwrap(), 42);
    let entry = fake.entry("n").unwrap();
    assert_eq!((entry.expires_in, &entry.tags[..]), (Some(9 * SECOND), &["t".into()][..]));
    for text in ["", " 1", "+1", "007", "9223372036854775808"] {
        cache.set("n", text).await.unwrap();
        let error = cache.increment("n", 1).await.unwrap_err();
        assert_eq!(error.message(), "value is not an integer or out of range", "{text:?}");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    }
    cache.set("n", i64::MAX.to_string()).await.unwrap();
    assert_eq!(cache.increment("n", 1).await.unwrap_err().message(), "increment or decrement would overflow");
}

#[tokio::test]
async fn one_of_many_callers_loads() {
    let fake = Fake::new();
    let calls = (0..100).map(|number| {
        let cache = fake.client();
        tokio::spawn(async move {
            let lease = cache.get_or_lease("k").await.unwrap();
            let Lease::Load(grant) = lease else { return (0, value(lease)) };
            tokio::task::yield_now().await;
            let value = format!("loaded by {number}");
            assert_eq!(grant.fill(value.clone(), Some(SECOND), None).await.unwrap(), Filled::Stored);
            (1, value)
        })
    });
    let results = join_all(calls).await.into_iter().map(|result| result.unwrap()).collect::<Vec<_>>();
    assert_eq!(results.iter().map(|(grants, _)| grants).sum::<u32>(), 1);
    assert!(results.iter().all(|(_, value)| *value == results[0].1), "{results:?}");
    assert_eq!((fake.loads("k"), fake.total_loads(), fake.waiting()), (1, 1, 0));
    assert_eq!(fake.count(OperationKind::GetOrLease), 100);
}

#[tokio::test(start_paused = true)]
async fn a_fill_a_release_and_a_failure_wake_a_waiting_caller() {
    let fake = Fake::new();
    let cache = fake.client();
    let grant = granted(&cache, "fill").await;
    assert!(fake.is_loading("fill") && !fake.is_loading("other"));
    let waiter = waiting(&fake, &cache, "fill").await;
    grant.fill("v", None, None).await.unwrap();
    assert_eq!(value(woken(waiter).await.unwrap()), "v");

    let grant = granted(&cache, "release").await;
    let waiter = waiting(&fake, &cache, "release").await;
    drop(grant);
    let Lease::Load(again) = woken(waiter).await.unwrap() else { panic!("no grant") };
    assert_eq!(again.reason(), GrantReason::Miss);

    let waiter = waiting(&fake, &cache, "release").await;
    again.fail("database is down", None).await.unwrap();
    let Lease::Failed { message, retry_after } = woken(waiter).await.unwrap() else { panic!("not failed") };
    assert_eq!((&message[..], retry_after), ("database is down", SECOND));

    let grant = granted(&cache, "absent").await;
    let waiter = waiting(&fake, &cache, "absent").await;
    assert_eq!(grant.fill_absent(Some(9 * SECOND)).await.unwrap(), Filled::Stored);
    assert!(matches!(woken(waiter).await.unwrap(), Lease::Absent { ttl } if ttl == 9 * SECOND));
    fake.advance(9 * SECOND);
    granted(&cache, "absent").await;
}

#[tokio::test]
async fn the_back_off_doubles_and_ends_with_a_value() {
    let fake = Fake::new();
    let cache = fake.client();
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        granted(&cache, "k").await.fail("down", None).await.unwrap();
        let Lease::Failed { retry_after, .. } = cache.get_or_lease("k").await.unwrap() else { panic!("not failed") };
        assert_eq!(retry_after, seconds * SECOND);
        fake.advance(retry_after);
    }
    assert_eq!(granted(&cache, "k").await.fill("v", None, None).await.unwrap(), Filled::Stored);
    assert_eq!(fake.loads("k"), 8);
    // A value is served during the back-off.
    let Lease::Hit { grant: Some(grant), .. } = cache.get_or_lease("k").refresh().await.unwrap() else {
        panic!("no grant")
    };
    grant.fail("down", Some(5 * SECOND)).await.unwrap();
    let lease = cache.get_or_lease("k").refresh().await.unwrap();
    assert!(matches!(lease, Lease::Hit { needs_refresh: true, grant: None, .. }), "{lease:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_has_ended_is_taken_over_and_the_first_fill_wins() {
    let fake = Fake::new();
    let cache = fake.client();
    let Lease::Load(first) = cache.get_or_lease("k").lease(2 * SECOND).await.unwrap() else { panic!("no grant") };
    assert_eq!(first.lease(), 2 * SECOND);
    let waiter = waiting(&fake, &cache, "k").await;
    fake.advance(2 * SECOND);
    let Lease::Load(second) = woken(waiter).await.unwrap() else { panic!("no grant") };
    assert_eq!(second.reason(), GrantReason::Takeover);
    assert_eq!(first.fill("first", None, None).await.unwrap(), Filled::Stored);
    assert_eq!(second.fill("second", None, None).await.unwrap(), Filled::LeaseLost);
    assert_eq!(fake.entry("k").unwrap().value, "first");

    let late = granted(&cache, "late").await;
    fake.advance(10 * SECOND + 60 * SECOND);
    assert_eq!(late.fill("v", None, None).await.unwrap(), Filled::LeaseLost);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_caller_is_busy_when_the_manual_clock_has_passed_its_wait() {
    let fake = Fake::new();
    let cache = fake.client();
    let _grant = granted(&cache, "k").await;
    let waiter = waiting(&fake, &cache, "k").await;
    fake.advance(3 * SECOND);
    assert!(matches!(woken(waiter).await.unwrap(), Lease::Busy { leader_age, .. } if leader_age == 3 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_caller_is_busy_when_the_real_clock_has_passed_its_wait() {
    let fake = Fake::new();
    let cache = fake.client();
    let _grant = granted(&cache, "k").await;
    let begun = tokio::time::Instant::now();
    assert!(matches!(cache.get_or_lease("k").await.unwrap(), Lease::Busy { .. }));
    assert!((3 * SECOND..4 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let error = cache.get_or_lease("k").timeout(SECOND).await.unwrap_err();
    assert_eq!((error.kind(), fake.waiting()), (ErrorKind::DeadlineExceeded, 0));
}

#[tokio::test]
async fn the_same_nonce_receives_the_same_lease() {
    let fake = Fake::new();
    let request = |nonce: u8| terrace_proto::GetOrLeaseRequest {
        key: "k".into(),
        wait_ms: Some(0),
        nonce: Some(vec![nonce; 16].into()),
        ..terrace_proto::GetOrLeaseRequest::default()
    };
    let state = &fake.server.state;
    let take = |nonce| {
        let plan = super::leases::Plan::new(request(nonce)).unwrap();
        state.lock().take_lease(&plan, true).unwrap()
    };
    let first = take(1);
    assert!(matches!(&first, terrace_proto::get_or_lease_response::Result::Load(_)), "{first:?}");
    assert_eq!(take(1), first);
    assert!(matches!(take(2), terrace_proto::get_or_lease_response::Result::Busy(_)));
    let short = terrace_proto::GetOrLeaseRequest { nonce: Some("short".into()), ..request(1) };
    assert_eq!(super::leases::Plan::new(short).unwrap_err().message, "nonce has 5 bytes; expected 16");
}

#[tokio::test]
async fn writes_and_invalidations_during_a_load_are_not_lost() {
    let fake = Fake::new();
    let cache = fake.client();
    let written = granted(&cache, "written").await;
    let touched = granted(&cache, "touched").await;
    let matching = granted(&cache, "page:1").await;
    let Lease::Load(tagged) = cache.get_or_lease("tagged").tags(["t"]).await.unwrap() else { panic!("no grant") };
    let Lease::Load(absent) = cache.get_or_lease("absent").tags(["t"]).await.unwrap() else { panic!("no grant") };
    cache.set("written", "new").await.unwrap();
    cache.touch("touched", None).await.unwrap();
    cache.invalidate_pattern("page:*").dry_run().await.unwrap();
    assert!(fake.is_loading("page:1"));
    cache.invalidate_prefix("page:").await.unwrap();
    assert_eq!(cache.invalidate_tags(["t", "unused"]).await.unwrap(), 1);
    for grant in [written, touched, matching] {
        assert_eq!(grant.fill("old", None, None).await.unwrap(), Filled::LeaseLost);
    }
    assert_eq!(tagged.fill("old", None, None).await.unwrap(), Filled::Invalidated);
    assert_eq!(absent.fill_absent(Some(SECOND)).await.unwrap(), Filled::Invalidated);
    assert_eq!(fake.keys(), ["written"]);
    let Lease::Load(absent) = cache.get_or_lease("absent").tags(["t"]).await.unwrap() else { panic!("no grant") };
    absent.fill_absent(Some(SECOND)).await.unwrap();
    assert!(matches!(cache.get_or_lease("absent").await.unwrap(), Lease::Absent { .. }));
    cache.invalidate_tags(["t"]).await.unwrap();
    granted(&cache, "absent").await;
}

#[tokio::test]
async fn a_value_in_its_stale_time_is_refreshed_by_one_caller() {
    let fake = Fake::new();
    let cache = fake.client();
    let get = || cache.get_or_lease("k").stale(30 * SECOND).into_future();
    granted(&cache, "k").await.fill("old", Some(10 * SECOND), Some(30 * SECOND)).await.unwrap();
    let Lease::Hit { fresh_for, needs_refresh, .. } = get().await.unwrap() else { panic!("no hit") };
    assert_eq!((fresh_for, needs_refresh), (Some(10 * SECOND), false));
    fake.advance(11 * SECOND);
    let Lease::Hit { grant: Some(grant), needs_refresh: true, .. } = get().await.unwrap() else { panic!("no grant") };
    assert_eq!(grant.reason(), GrantReason::Stale);
    assert!(matches!(get().await.unwrap(), Lease::Hit { grant: None, needs_refresh: true, .. }));
    assert_eq!(grant.fill("new", Some(10 * SECOND), None).await.unwrap(), Filled::Stored);
    assert_eq!(value(get().await.unwrap()), "new");
}

#[tokio::test(start_paused = true)]
async fn an_outage_fails_all_operations_until_the_recovery() {
    let fake = Fake::new();
    let cache = fake.client();
    let grant = granted(&cache, "k").await;
    let waiter = waiting(&fake, &cache, "k").await;
    fake.fail(ErrorKind::Unavailable, "connection refused");
    assert_eq!(woken(waiter).await.unwrap_err().message(), "connection refused");
    assert_eq!(grant.fill("v", None, None).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let results = [
        cache.get("k").await.err(),
        cache.set("k", "v").await.err(),
        cache.get_many(["k", "l"]).await.err(),
        cache.set_many([NewEntry::new("k", "v")]).await.err(),
        cache.delete(["k"]).await.err(),
        cache.touch("k", None).await.err(),
        cache.increment("k", 1).await.err(),
        cache.get_or_lease("k").await.err(),
        cache.invalidate_pattern("*").await.err(),
        cache.invalidate_tags(["t"]).await.err(),
        cache.watch().open().await.err(),
        cache.stats().await.err(),
        cache.ready().await.err(),
    ];
    for (number, error) in results.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("{number} succeeded"));
        assert_eq!((error.kind(), error.message()), (ErrorKind::Unavailable, "connection refused"), "{number}");
    }
    fake.recover();
    assert_eq!((cache.get("k").await.unwrap(), cache.operations_in_progress()), (None, 0));
}

#[tokio::test]
async fn faults_of_one_key_and_of_a_number_of_operations() {
    let fake = Fake::new();
    let cache = fake.client();
    fake.fail_key("bad", ErrorKind::FailedPrecondition, "wrong type");
    assert_eq!(cache.get("bad").await.unwrap_err().message(), "wrong type");
    assert_eq!(cache.get_many(["good", "bad"]).await.unwrap_err().message(), "wrong type");
    assert_eq!(cache.get("good").await.unwrap(), None);
    fake.recover();
    fake.fail_next(2, ErrorKind::ResourceExhausted);
    fake.fail_next(1, ErrorKind::Unavailable);
    for kind in [ErrorKind::ResourceExhausted, ErrorKind::ResourceExhausted, ErrorKind::Unavailable] {
        assert_eq!(cache.set("k", "v").await.unwrap_err().kind(), kind);
        assert!(fake.keys().is_empty());
    }
    assert!(cache.set("k", "v").await.unwrap());
    assert_eq!((fake.count(OperationKind::Set), fake.count(OperationKind::GetMany)), (4, 1));
    // The release of a dropped grant is not one of the number.
    let grant = granted(&cache, "released").await;
    fake.fail_next(1, ErrorKind::Unavailable);
    drop(grant);
    // The release runs in a task.
    tokio::task::yield_now().await;
    assert!(!fake.is_loading("released"));
    assert_eq!(cache.get("k").await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_write_with_an_unknown_outcome_is_applied() {
    let fake = Fake::new();
    let cache = fake.client();
    fake.unknown_next(3);
    assert_eq!(cache.get("k").await.unwrap(), None, "reads do not count");
    assert_eq!(cache.set("k", "v").await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    let grant = granted(&cache, "filled").await;
    assert_eq!(grant.fill("v", None, None).await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(fake.keys(), ["filled", "k"]);
    assert_eq!(cache.invalidate_prefix("").await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    assert!(fake.keys().is_empty());
    assert!(cache.set("k", "v").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn delayed_answers_arrive_late_or_after_the_deadline() {
    let fake = Fake::new();
    let cache = fake.client();
    fake.delay(Duration::from_millis(200));
    let begun = tokio::time::Instant::now();
    assert_eq!(cache.get("k").await.unwrap(), None);
    assert!((200..220).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let short = Duration::from_millis(100);
    assert_eq!(cache.get("k").timeout(short).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(cache.set("k", "v").timeout(short).await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(fake.keys(), ["k"]);
    // A grant that its caller did not receive is released.
    assert_eq!(cache.get_or_lease("l").timeout(short).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(!fake.is_loading("l"));
}

#[tokio::test]
async fn operations_on_many_keys_have_one_result_each() {
    let fake = Fake::new();
    let cache = fake.client();
    let entries = (0..2_500).map(|number| NewEntry::new(format!("k:{number:04}"), "v"));
    cache.set_many(entries.chain([NewEntry::new("k:0000", "w").tags(["t"])])).await.unwrap();
    assert_eq!((fake.keys().len(), fake.count(OperationKind::SetMany)), (2_500, 3));
    let each = cache.get_many(["k:0000", "", "other"]).each().await.unwrap();
    assert_eq!(each[0].as_ref().unwrap().as_deref(), Some(&b"w"[..]));
    assert_eq!(each[1].as_ref().unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(each[2].as_ref().unwrap(), &None);
    assert_eq!(cache.delete(["k:0001", "k:0001", "other"]).await.unwrap(), 1);
    fake.clear();
    assert!(fake.keys().is_empty());
    fake.reset_counts();
    assert_eq!(fake.count(OperationKind::SetMany), 0);
}

async fn news(feed: &mut WatchFeed) -> News {
    feed.next().await.unwrap().unwrap().news.unwrap()
}

/// Returns the subjects and causes of the next events.
async fn events(feed: &mut WatchFeed) -> Vec<(String, WatchCause)> {
    let News::Events(events) = news(feed).await else { panic!("no events") };
    let shown = events.events.into_iter().map(|event| {
        let cause = event.cause();
        let subject = match event.subject.unwrap() {
            Subject::Key(key) => format!("key {}", String::from_utf8_lossy(&key)),
            Subject::Pattern(pattern) => format!("pattern {}", String::from_utf8_lossy(&pattern)),
            Subject::Tag(tag) => format!("tag {}", String::from_utf8_lossy(&tag)),
            Subject::Everything(_) => "everything".to_owned(),
        };
        (subject, cause)
    });
    shown.collect()
}

#[tokio::test(start_paused = true)]
async fn a_watch_sends_changes_and_heartbeats() {
    let fake = Fake::new();
    let cache = fake.client();
    let mut feed = cache.watch().prefixes(["a:"]).heartbeat(Duration::from_millis(500)).open().await.unwrap();
    assert!(matches!(news(&mut feed).await, News::Started(started) if !started.resumed));
    assert!(matches!(news(&mut feed).await, News::Heartbeat(_)));
    cache.set("a:1", "v").ttl(SECOND).await.unwrap();
    cache.set("b:1", "v").await.unwrap();
    cache.touch("a:1", Some(2 * SECOND)).await.unwrap();
    cache.delete(["a:1", "a:2"]).await.unwrap();
    cache.invalidate_prefix("b*").await.unwrap();
    cache.invalidate_tags(["t"]).await.unwrap();
    fake.clear();
    let expected = [
        ("key a:1", WatchCause::Written),
        ("key a:1", WatchCause::Lifetime),
        ("key a:1", WatchCause::Deleted),
        ("pattern b\\**", WatchCause::Unspecified),
        ("tag t", WatchCause::Unspecified),
        ("everything", WatchCause::Unspecified),
    ];
    assert_eq!(events(&mut feed).await, expected.map(|(subject, cause)| (subject.to_owned(), cause)));
    let begun = tokio::time::Instant::now();
    for _ in 0..2 {
        assert!(matches!(
            feed.next().await.unwrap().unwrap(),
            WatchResponse { sequence: 7, news: Some(News::Heartbeat(_)) }
        ));
    }
    assert!((490..1_100).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    fake.fail(ErrorKind::Unavailable, "down");
    assert_eq!(feed.next().await.unwrap_err().message(), "down");
    assert_eq!(feed.next().await.unwrap(), None);
    fake.recover();
    let error = cache.watch().heartbeat(Duration::from_millis(99)).open().await.unwrap_err();
    assert_eq!(error.message(), "heartbeat_ms is 99; expected 100 to 60000");
}

#[tokio::test]
async fn a_watch_continues_where_it_ended_or_reports_the_gap() {
    let fake = Fake::new();
    let cache = fake.client();
    let open = |from: u64| {
        let mut watch = cache.watch();
        watch.request.from_sequence = Some(from);
        watch.open()
    };
    cache.set("k", "1").await.unwrap();
    cache.set("k", "2").await.unwrap();
    let mut feed = open(1).await.unwrap();
    assert!(matches!(news(&mut feed).await, News::Started(started) if started.resumed));
    assert_eq!(events(&mut feed).await.len(), 1);
    let mut feed = open(3).await.unwrap();
    assert!(matches!(news(&mut feed).await, News::Started(started) if !started.resumed));
    assert!(matches!(news(&mut feed).await, News::Discontinuity(_)));
    assert!(matches!(news(&mut feed).await, News::Heartbeat(_)));
    for _ in 0..=65_536 {
        cache.set("k", "v").await.unwrap();
    }
    assert!(matches!(news(&mut feed).await, News::Discontinuity(_)));
}

#[tokio::test]
async fn stats_have_counts_of_reads_and_loads() {
    let fake = Fake::new();
    let cache = fake.client();
    cache.set("k", "v").await.unwrap();
    cache.get("k").await.unwrap();
    cache.get("l").await.unwrap();
    cache.lookup("l").no_touch().await.unwrap();
    granted(&cache, "l").await.fill("v", None, None).await.unwrap();
    fake.advance(SECOND);
    let stats = cache.stats().await.unwrap();
    let (name, stats) = &stats[0];
    let (reads, loads, l1) = (stats.reads.unwrap(), stats.loads.unwrap(), stats.l1.unwrap());
    assert_eq!((&name[..], stats.uptime_ms), ("fake", 1_000));
    assert_eq!((reads.hit_l1, reads.miss), (1, 2));
    assert_eq!((loads.granted_miss, loads.stored, l1.entries, l1.bytes), (1, 1, 2, 4));
}

#[tokio::test]
async fn settings_of_a_builder_apply() {
    let fake = Fake::new();
    fake.delay(SECOND);
    let cache = fake.client_with(Client::builder("any").read_timeout(Duration::from_millis(1)));
    assert_eq!(cache.get("k").await.unwrap_err().message(), "fake: no answer within 1ms");
}

/// The feature changes no type of applications.
#[test]
fn operations_can_still_be_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<crate::Pending<bool>>();
    is_shared::<WatchFeed>();
    is_shared::<Client>();
}
