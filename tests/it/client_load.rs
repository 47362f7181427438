//! Get-or-load of the Rust client: one load for many callers, and values that end when the origin changes.

mod fencing;
mod processes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use terrace_client::{Client, DIRECT_LOADS_MAX, ErrorKind, Loaded, NearCache, OnUnavailable, Raw, Text, View};
use tokio::{sync::Notify, time::Instant};

use crate::support::{
    grpc::{block_on, pause},
    process::run_alone,
    redis::free_port,
    setting_from_environment,
    terrace::{Terrace, config},
};

/// Deadline of operations that must succeed.
const LONG: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

async fn connect(node: &Terrace) -> Client {
    let client = Client::builder(node.grpc()).read_timeout(LONG).write_timeout(LONG).connect_timeout(LONG);
    client.connect().await.unwrap()
}

/// A load in progress.
type Load = std::pin::Pin<Box<dyn Future<Output = Result<Option<Bytes>, String>> + Send>>;

/// Counts its loads, each of which waits for `gate` if there is one.
#[derive(Clone, Default)]
struct Origin {
    loads: Arc<AtomicU64>,
    gate: Option<Arc<Notify>>,
}

impl Origin {
    fn gated() -> Self {
        Self { gate: Some(Arc::default()), ..Self::default() }
    }

    fn open(&self) {
        self.gate.as_ref().unwrap().notify_one();
    }

    fn loads(&self) -> u64 {
        self.loads.load(SeqCst)
    }

    /// Returns a loader whose values are the number of the load.
    fn loader(&self) -> impl FnOnce() -> Load + use<> {
        let Self { loads, gate } = self.clone();
        move || {
            Box::pin(async move {
                let load = loads.fetch_add(1, SeqCst) + 1;
                if let Some(gate) = gate {
                    gate.notified().await;
                }
                Ok(Some(load.to_string().into()))
            })
        }
    }

    async fn wait_for_load(&self, number: u64) {
        while self.loads() < number {
            pause().await;
        }
    }
}

fn text(value: Option<Bytes>) -> String {
    String::from_utf8(value.expect("a value").to_vec()).unwrap()
}

#[test]
fn many_callers_of_a_process_cause_one_load_that_outlives_its_caller() {
    let node = Terrace::start(config());
    block_on(async {
        let client = connect(&node).await;
        let origin = Origin::gated();
        let first = tokio::spawn(client.get_or_load("key", origin.loader()).ttl(MINUTE).into_future());
        origin.wait_for_load(1).await;
        let others: Vec<_> =
            (0..500).map(|_| tokio::spawn(client.get_or_load("key", origin.loader()).into_future())).collect();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        origin.open();
        for other in others {
            assert_eq!(text(other.await.unwrap().unwrap()), "1");
        }
        assert_eq!(text(client.get("key").await.unwrap()), "1");
        assert_eq!(origin.loads(), 1);
    });
}

#[test]
fn a_caller_after_a_write_does_not_receive_the_value_of_an_earlier_load() {
    let node = Terrace::start(config());
    block_on(async {
        // The second client is another process for the first one.
        let (client, other) = (connect(&node).await, connect(&node).await);
        let origin = Origin::gated();
        for (round, writer) in [&client, &other].into_iter().enumerate() {
            let key = format!("key:{round}");
            let loads = origin.loads();
            let early = tokio::spawn(client.get_or_load(&key, origin.loader()).ttl(MINUTE).into_future());
            origin.wait_for_load(loads + 1).await;
            writer.delete([&key]).await.unwrap();
            let late = tokio::spawn(client.get_or_load(&key, origin.loader()).ttl(MINUTE).into_future());
            if round == 0 {
                // A change through the same client is noticed at once: the second load does not wait for the first.
                origin.wait_for_load(loads + 2).await;
                origin.open();
            }
            origin.open();
            if round == 1 {
                origin.wait_for_load(loads + 2).await;
                origin.open();
            }
            let early = text(early.await.unwrap().unwrap());
            let late = text(late.await.unwrap().unwrap());
            assert_eq!(early, (loads + 1).to_string());
            assert_eq!(late, (loads + 2).to_string(), "round {round}");
            assert_eq!(text(client.get(&key).await.unwrap()), late);
        }
    });
}

#[test]
fn a_stale_value_is_returned_at_once_or_after_the_soft_timeout() {
    let node = Terrace::start(config());
    block_on(async {
        let client = connect(&node).await;
        let origin = Origin::default();
        let load = || client.get_or_load("key", origin.loader()).ttl(Duration::from_millis(1)).stale(MINUTE);
        assert_eq!(text(load().await.unwrap()), "1");
        // Stale at once: the caller receives the old value, and the load runs in the background.
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(text(load().await.unwrap()), "1");
        origin.wait_for_load(2).await;
        while text(client.get("key").await.unwrap()) != "2" {
            pause().await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        // Another refresh may be in progress, without a grant for this caller.
        while text(load().soft_timeout(LONG).await.unwrap()) == "2" {
            pause().await;
        }
        // A refresh that is too slow costs the soft timeout.
        let slow = Origin::gated();
        slow.loads.store(100, SeqCst);
        let before = text(client.get("key").await.unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
        let load = || client.get_or_load("key", slow.loader()).ttl(MINUTE).stale(MINUTE);
        while slow.loads() == 100 {
            assert_eq!(text(load().soft_timeout(Duration::from_millis(20)).await.unwrap()), before);
        }
        slow.open();
        while text(client.get("key").await.unwrap()) != "101" {
            pause().await;
        }
        // A fresh value is loaded again on request.
        slow.open();
        assert_eq!(text(load().refresh().await.unwrap()), "102");
        assert_eq!(text(client.get("key").await.unwrap()), "102");
    });
}

#[test]
fn absent_keys_and_failures_are_answers() {
    let node = Terrace::start(config());
    block_on(async {
        let (client, other) = (connect(&node).await, connect(&node).await);
        let absent = |loads: &Arc<AtomicU64>| {
            let loads = Arc::clone(loads);
            move || async move {
                loads.fetch_add(1, SeqCst);
                Ok::<Option<Bytes>, String>(None)
            }
        };
        let loads = Arc::new(AtomicU64::new(0));
        for client in [&client, &other, &client] {
            assert_eq!(client.get_or_load("absent", absent(&loads)).negative_ttl(MINUTE).await.unwrap(), None);
        }
        assert_eq!(loads.load(SeqCst), 1);
        // Without a time for absent keys, the answer is shared with the callers that wait now, and later calls load.
        for round in 2..5 {
            while loads.load(SeqCst) < round {
                assert_eq!(client.get_or_load("unknown", absent(&loads)).await.unwrap(), None);
            }
        }
        let failing = || async { Err::<Option<Bytes>, _>(std::io::Error::other("no database")) };
        let error = client.get_or_load("failing", failing).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LoadFailed);
        assert_eq!(error.message(), "the load failed: no database");
        let source = std::error::Error::source(&error).unwrap();
        assert!(source.downcast_ref::<std::io::Error>().is_some(), "{source:?}");
        // Other clients receive the type of the error, its text on request, and the time of the next attempt.
        let error = other.get_or_load("failing", failing).await.unwrap_err();
        assert_eq!(error.message(), "the last load of the key failed: std::io::error::Error");
        assert!(error.retry_after().is_some_and(|delay| delay <= Duration::from_secs(2)), "{error:?}");
        let _failed = client.get_or_load("shared", failing).share_errors(true).await.unwrap_err();
        let error = other.get_or_load("shared", failing).await.unwrap_err();
        assert_eq!(error.message(), "the last load of the key failed: no database");
    });
}

#[test]
fn a_loader_that_panics_or_does_not_end_fails() {
    let node = Terrace::start(config());
    block_on(async {
        let client = connect(&node).await;
        let panicking = || async { if true { panic!("as expected") } else { Ok::<Option<Bytes>, String>(None) } };
        let error = client.get_or_load("panic", panicking).await.unwrap_err();
        assert_eq!(error.message(), "the load failed: the loader panicked");
        let endless = || std::future::pending::<Result<Option<Bytes>, String>>();
        let limit = Duration::from_millis(20);
        let error = client.get_or_load("endless", endless).load_timeout(limit).await.unwrap_err();
        assert_eq!(error.message(), "the load failed: no result within 20ms");
        let error = client.get_or_load("limited", endless).timeout(limit).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (ErrorKind::DeadlineExceeded, "no value within 20ms; a load may be in progress")
        );
    });
}

#[test]
fn without_a_node_few_loads_run_at_a_time_and_none_after_its_deadline() {
    let client = Client::builder(format!("127.0.0.1:{}", free_port()));
    block_on(async {
        let client = client.connect_lazy().unwrap();
        let (running, most, loads) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let gate = Arc::new(Notify::new());
        let load = |key: usize| {
            let (running, most, loads, gate) =
                (Arc::clone(&running), Arc::clone(&most), Arc::clone(&loads), Arc::clone(&gate));
            let loader = move || async move {
                loads.fetch_add(1, SeqCst);
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                gate.notified().await;
                running.fetch_sub(1, SeqCst);
                Ok::<_, String>(Some(Bytes::from(key.to_string())))
            };
            client.get_or_load(format!("key:{key}"), loader)
        };
        let all: Vec<_> = (0..64)
            .map(|key| {
                tokio::spawn(load(key).wait(if key < 40 { LONG } else { Duration::from_millis(300) }).into_future())
            })
            .collect();
        // The calls with the short time end while the first loads run.
        while all[40..].iter().filter(|call| call.is_finished()).count() < 24 - DIRECT_LOADS_MAX {
            pause().await;
        }
        let begun = loads.load(SeqCst);
        assert!(begun <= DIRECT_LOADS_MAX, "{begun} loads have begun");
        let mut refused = 0;
        for (key, call) in all.into_iter().enumerate() {
            let call = async {
                tokio::pin!(call);
                loop {
                    tokio::select! {
                        result = &mut call => return result.unwrap(),
                        () = pause() => gate.notify_one(),
                    }
                }
            };
            match call.await {
                Ok(value) => assert_eq!(text(value), key.to_string()),
                Err(error) => {
                    assert!(key >= 40, "{key}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    assert!(error.message().contains("16 loads without the cache are in progress"), "{error}");
                    refused += 1;
                }
            }
        }
        assert_eq!(loads.load(SeqCst), 64 - refused, "a load began after its deadline");
        assert!(most.load(SeqCst) <= DIRECT_LOADS_MAX);
        let error = load(1).on_unavailable(OnUnavailable::Error).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(loads.load(SeqCst), 64 - refused);
    });
}

#[test]
fn a_node_that_does_not_answer_delays_a_load_for_the_time_of_a_read() {
    let node = crate::support::process::Process::start(tempfile::tempdir().unwrap().path(), &[]);
    block_on(async {
        let client = Client::builder(&node.grpc).read_timeout(Duration::from_millis(100)).connect_timeout(LONG);
        let client = client.connect().await.unwrap();
        node.signal(rustix::process::Signal::STOP);
        let origin = Origin::default();
        let begun = Instant::now();
        assert_eq!(text(client.get_or_load("key", origin.loader()).wait(LONG).await.unwrap()), "1");
        assert!(begun.elapsed() < LONG, "the call waited as if another client was loading");
        node.signal(rustix::process::Signal::CONT);
        node.stop();
    });
}

#[test]
fn many_keys_are_loaded_with_one_call() {
    let node = Terrace::start(config());
    block_on(async {
        let (client, other) = (connect(&node).await, connect(&node).await);
        client.set("many:1", "known").await.unwrap();
        let calls: Arc<parking_lot::Mutex<Vec<Vec<Bytes>>>> = Arc::default();
        let loader = |calls: &Arc<parking_lot::Mutex<Vec<Vec<Bytes>>>>| {
            let calls = Arc::clone(calls);
            move |keys: Vec<Bytes>| {
                calls.lock().push(keys.clone());
                async move {
                    let absent = |key: &Bytes| key == "many:3";
                    let load = |key: &Bytes| (!absent(key)).then(|| Bytes::from([b"loaded ", &key[..]].concat()));
                    Ok::<Vec<Option<Bytes>>, String>(keys.iter().map(load).collect())
                }
            }
        };
        // The other client loads one of the keys.
        let origin = Origin::gated();
        let leading = tokio::spawn(other.get_or_load("many:5", origin.loader()).into_future());
        origin.wait_for_load(1).await;
        let keys = ["many:1", "many:2", "many:3", "many:2", "many:4", "many:5"];
        let read = tokio::spawn(client.get_or_load_many(keys, loader(&calls)).negative_ttl(MINUTE).into_future());
        while calls.lock().is_empty() {
            pause().await;
        }
        origin.open();
        leading.await.unwrap().unwrap();
        let values = read.await.unwrap().unwrap();
        let expected =
            [Some("known"), Some("loaded many:2"), None, Some("loaded many:2"), Some("loaded many:4"), Some("1")];
        assert_eq!(values, expected.map(|value| value.map(Bytes::from_static_str)));
        assert_eq!(*calls.lock(), [["many:2", "many:3", "many:4"].map(Bytes::from)]);
        while client.get("many:4").await.unwrap().is_none() {
            pause().await;
        }
        let again = client.get_or_load_many(["many:2", "many:3"], loader(&calls)).await.unwrap();
        assert_eq!(again, [Some(Bytes::from("loaded many:2")), None]);
        assert_eq!(calls.lock().len(), 1);
        // A loader with a wrong number of results fails all its keys.
        let wrong = |_keys| async { Ok::<Vec<Option<Bytes>>, String>(Vec::new()) };
        let results = client.get_or_load_many(["many:1", "many:7", "many:8"], wrong).each().await;
        assert_eq!(results[0].as_ref().unwrap().as_deref(), Some(&b"known"[..]));
        for result in &results[1..] {
            let error = result.as_ref().unwrap_err();
            assert_eq!(error.message(), "the load failed: the loader returned 0 results for 2 keys");
        }
    });
}

/// `Bytes::from` for static texts, as a path.
trait FromStaticStr {
    fn from_static_str(text: &'static str) -> Self;
}

impl FromStaticStr for Bytes {
    fn from_static_str(text: &'static str) -> Self {
        Self::from_static(text.as_bytes())
    }
}

#[test]
fn a_view_has_keys_tags_and_values_of_a_type() {
    let node = Terrace::start(config());
    block_on(async {
        let client = connect(&node).await;
        let names: View<Text> = client.view("user:{id}:name", Text).unwrap().ttl(MINUTE).tags(["user:{id}"]).unwrap();
        assert_eq!(names.key(7).unwrap(), "user:7:name");
        let loads = Arc::new(AtomicU64::new(0));
        let load = |text: &'static str| {
            let loads = Arc::clone(&loads);
            move || async move {
                loads.fetch_add(1, SeqCst);
                Ok::<_, String>(Some(text.to_owned()))
            }
        };
        let name = names.get_or_load(7, load("Ada")).await.unwrap().unwrap();
        assert_eq!(*name, "Ada");
        assert_eq!(*names.get_or_load(7, load("Bob")).await.unwrap().unwrap(), "Ada");
        assert_eq!(*names.refresh(7, load("Bob")).await.unwrap().unwrap(), "Bob");
        let entry = client.lookup("user:7:name").await.unwrap().unwrap();
        assert_eq!(entry.tags, ["user:7"]);
        assert!(entry.expires_in.is_some_and(|left| left <= MINUTE));
        client.invalidate_tags(["user:7"]).await.unwrap();
        assert_eq!(names.get(7).await.unwrap(), None);
        // A value that cannot be decoded is loaded again.
        let raw = client.view("user:{id}:name", Raw).unwrap();
        raw.set(8, &Bytes::from_static(b"\xff")).await.unwrap();
        assert_eq!(names.get(8).await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
        assert_eq!(*names.get_or_load(8, load("Cyd")).await.unwrap().unwrap(), "Cyd");
        assert_eq!(*names.get(8).await.unwrap().unwrap(), "Cyd");
        assert_eq!(loads.load(SeqCst), 3);
        let many = names
            .get_or_load_many([8, 9], |ids: Vec<i32>| async move {
                let name = |id: &i32| Loaded::value(format!("name {id}")).ttl(MINUTE * 2);
                Ok::<Vec<Loaded<String>>, String>(ids.iter().map(name).collect())
            })
            .await
            .unwrap();
        let many: Vec<&str> = many.iter().map(|name| name.as_deref().unwrap().as_str()).collect();
        assert_eq!(many, ["Cyd", "name 9"]);
        assert!(names.delete(8).await.unwrap());
        assert!(!names.delete(8).await.unwrap());
    });
}

#[test]
fn copies_of_the_near_cache_answer_loads_and_end_with_changes() {
    let mut node = Some(Terrace::start(config()));
    block_on(async {
        let grpc = node.as_ref().unwrap().grpc().to_owned();
        let other = connect(node.as_ref().unwrap()).await;
        let near = NearCache::new().prefixes(["near:"]);
        let client =
            Client::builder(grpc).read_timeout(LONG).write_timeout(LONG).connect_timeout(LONG).near_cache(near);
        let client = client.connect().await.unwrap();
        let view = client.view("near:{id}", Text).unwrap().ttl(MINUTE);
        let loads = Arc::new(AtomicU64::new(0));
        let load = || {
            let loads = Arc::clone(&loads);
            move || async move { Ok::<_, String>(Some((loads.fetch_add(1, SeqCst) + 1).to_string())) }
        };
        // A copy is kept as soon as the feed of the node is complete.
        let hits = || client.near_stats().unwrap().hits;
        while hits() == 0 {
            assert_eq!(*view.get_or_load(1, load()).await.unwrap().unwrap(), "1");
            pause().await;
        }
        let [first, second] =
            [view.get(1).await.unwrap().unwrap(), view.get_or_load(1, load()).await.unwrap().unwrap()];
        assert!(Arc::ptr_eq(&first, &second), "the value was decoded twice");
        let raw = client.get_or_load("near:1", || async { Ok::<Option<Bytes>, String>(None) }).await.unwrap();
        assert_eq!(text(raw), "1");
        let many = client.get_or_load_many(["near:1"], |_| async { Err::<Vec<Option<Bytes>>, _>("not called") });
        assert_eq!(many.await.unwrap(), [Some(Bytes::from("1"))]);
        // Changes by this client end the copy at once, changes by others when they are announced.
        client.delete(["near:1"]).await.unwrap();
        assert_eq!(*view.get_or_load(1, load()).await.unwrap().unwrap(), "2");
        other.set("near:1", "3").await.unwrap();
        while *view.get_or_load(1, load()).await.unwrap().unwrap() != "3" {
            pause().await;
        }
        assert_eq!(*view.refresh(1, load()).await.unwrap().unwrap(), "3", "the third load");
        assert_eq!(loads.load(SeqCst), 3);
        let before = hits();
        while hits() == before {
            assert_eq!(*view.get(1).await.unwrap().unwrap(), "3");
            pause().await;
        }
        client.set("near:5", vec![0xff_u8]).await.unwrap();
        let before = hits();
        while hits() == before {
            client.get("near:5").await.unwrap();
            pause().await;
        }
        // Without a node, a copy that nobody can confirm answers on request.
        node.take().unwrap().stop();
        let stale = view.clone().on_unavailable(OnUnavailable::Stale);
        while client.near_stats().unwrap().feeds > 0 {
            pause().await;
        }
        assert_eq!(*stale.get_or_load(1, load()).await.unwrap().unwrap(), "3");
        let not_called = |_: Vec<i32>| async { Err::<Vec<Option<String>>, _>("not called") };
        let values = stale.get_or_load_many([1], not_called).await.unwrap();
        assert_eq!(values[0].as_deref().map(String::as_str), Some("3"));
        // Another key, and a copy that cannot be decoded.
        for key in [2, 5] {
            let one = stale.get_or_load(key, load()).await.unwrap_err();
            let many = stale.get_or_load_many([key], not_called).await.unwrap_err();
            assert_eq!((one.kind(), many.kind()), (ErrorKind::Unavailable, ErrorKind::Unavailable), "{key}");
        }
        assert_eq!(loads.load(SeqCst), 3);
    });
}

/// Variable that is set in the process of the test of spans.
const SPANS: &str = "TERRACE_TEST_SPANS";

/// Collects the names and fields of spans.
#[derive(Clone, Default)]
struct Spans(Arc<parking_lot::Mutex<Vec<String>>>);

impl<S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>> tracing_subscriber::Layer<S>
    for Spans
{
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _id: &tracing::span::Id,
        context: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let parent = context.lookup_current().map_or("", |parent| parent.name());
        let mut text = format!("{parent}/{}", attributes.metadata().name());
        attributes.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            text.push_str(&format!(" {field}={value:?}"));
        });
        self.0.lock().push(text);
    }

    fn on_record(
        &self,
        _id: &tracing::span::Id,
        values: &tracing::span::Record<'_>,
        _context: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let mut text = String::from("recorded");
        values.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            text.push_str(&format!(" {field}={value:?}"));
        });
        self.0.lock().push(text);
    }
}

#[test]
fn operations_and_loads_have_spans_without_keys_and_values() {
    use tracing::Instrument;
    use tracing_subscriber::layer::SubscriberExt;
    // In a process of its own: subscribers of other tests change which spans are enabled.
    if setting_from_environment(SPANS, 0) == 0 {
        return run_alone(module_path!(), "operations_and_loads_have_spans_without_keys_and_values", SPANS);
    }
    let node = Terrace::start(config());
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    // The runtime of the test has one thread.
    tracing::subscriber::with_default(subscriber, || {
        block_on(async {
            let client = connect(&node).await;
            let load = || async {
                tracing::info_span!("query").in_scope(|| ());
                Ok::<_, String>(Some(Bytes::from("secret-value")))
            };
            let read = client.get_or_load("secret-key", load).ttl(MINUTE).into_future();
            read.instrument(tracing::info_span!("request")).await.unwrap();
        });
    });
    let all = spans.0.lock().join("\n");
    for expected in [
        "request/cache operation=\"get_or_lease\"",
        "request/load reason=Some(Miss)",
        "load/query",
        "load/cache operation=\"fill\"",
        &format!("recorded node=\"{}\"", node.grpc()),
        "recorded attempts=1",
    ] {
        assert!(all.contains(expected), "no {expected:?} in\n{all}");
    }
    assert!(!all.contains("secret"), "{all}");
}

/// Returns the number of callers that wait for loads of others.
async fn waiters(observer: &Client) -> u64 {
    observer.stats().await.unwrap()[0].1.load_waiters
}

#[test]
fn many_callers_receive_the_answer_that_a_key_is_absent() {
    let node = Terrace::start(config());
    block_on(async {
        // Each client is another process for the others.
        let loads = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let mut calls = Vec::new();
        for _ in 0..10 {
            let (client, loads, gate) = (connect(&node).await, Arc::clone(&loads), Arc::clone(&gate));
            let load = move || async move {
                loads.fetch_add(1, SeqCst);
                gate.acquire().await.unwrap().forget();
                Ok::<Option<Bytes>, String>(None)
            };
            calls.push(tokio::spawn(client.get_or_load("absent", load).wait(LONG).into_future()));
        }
        let observer = connect(&node).await;
        while waiters(&observer).await < 9 {
            pause().await;
        }
        gate.add_permits(1);
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap(), None);
        }
        assert_eq!(loads.load(SeqCst), 1);
    });
}

#[test]
fn a_loader_that_loads_its_own_key_is_refused() {
    let node = Terrace::start(config());
    block_on(async {
        let client = connect(&node).await;
        let (outer, inner) = (client.clone(), client.clone());
        let load = move || async move {
            let nested = outer.get_or_load("other", move || async move {
                inner.get_or_load("key", || async { Ok::<Option<Bytes>, String>(None) }).await
            });
            nested.await
        };
        let error = client.get_or_load("key", load).await.unwrap_err();
        assert!(error.message().contains("inside the loader of this key"), "{error}");
        // Another key inside a loader is fine.
        let nested = client.clone();
        let load =
            move || async move { nested.get_or_load("b", || async { Ok::<_, String>(Some(Bytes::from("1"))) }).await };
        assert_eq!(text(client.get_or_load("a", load).await.unwrap()), "1");
    });
}

#[test]
fn lives_that_the_server_would_refuse_are_errors_before_the_load() {
    let node = Terrace::start(config());
    block_on(async {
        let client = connect(&node).await;
        let origin = Origin::default();
        let load = || client.get_or_load("key", origin.loader());
        for (call, has) in [
            (load().ttl(Duration::ZERO), "ttl is 0ns; expected 1ms to 100 years"),
            (load().ttl(Duration::MAX), "ttl is 18446744073709551615"),
            (load().negative_ttl(Duration::ZERO), "negative_ttl is 0ns; expected 1ms to 100 years"),
            (load().stale(Duration::MAX), "stale is 18446744073709551615"),
        ] {
            let error = call.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.message().contains(has), "{error}");
        }
        assert_eq!(origin.loads(), 0);
        // A deadline that no clock can represent is no deadline.
        let endless = Client::builder(node.grpc()).read_timeout(Duration::MAX).connect_timeout(Duration::MAX);
        let endless = endless.connect().await.unwrap();
        assert_eq!(endless.get("none").timeout(Duration::MAX).await.unwrap(), None);
        let call =
            load().wait(Duration::MAX).load_timeout(Duration::MAX).soft_timeout(Duration::MAX).timeout(Duration::MAX);
        assert_eq!(text(call.ttl(MINUTE).await.unwrap()), "1");
    });
}

#[test]
fn operations_fail_after_the_end_of_the_runtime_that_connected() {
    let node = Terrace::start(config());
    let client = block_on(async {
        let client = connect(&node).await;
        client.set("key", "value").await.unwrap();
        client
    });
    block_on(async {
        let error = client.get("key").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("the runtime in which the client was connected has ended"), "{error}");
        assert_eq!(text(client.get_or_load("key", Origin::default().loader()).await.unwrap()), "1");
    });
}

#[test]
fn batches_of_a_view_load_values_that_cannot_be_decoded() {
    let node = Terrace::start(config());
    block_on(async {
        let client = connect(&node).await;
        client.set("view:1", Bytes::from_static(b"\xff")).await.unwrap();
        client.set("view:2", "two").await.unwrap();
        let view = client.view("view:{id}", Text).unwrap().ttl(MINUTE);
        let values = view
            .get_or_load_many([1, 2], |ids: Vec<i32>| async move {
                Ok::<Vec<Option<String>>, String>(ids.iter().map(|id| Some(format!("loaded {id}"))).collect())
            })
            .await
            .unwrap();
        let values: Vec<&str> = values.iter().map(|value| value.as_deref().unwrap().as_str()).collect();
        assert_eq!(values, ["loaded 1", "two"]);
        assert_eq!(*view.get(1).await.unwrap().unwrap(), "loaded 1");
    });
}
