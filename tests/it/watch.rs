//! `Invalidation.Watch`: the events, their order, and a near cache that is built on them.

use std::time::Duration;

use bytes::Bytes;
use redis::Connection;
use rustix::process::Signal;
use terrace::{
    grpc::client::InvalidationClient,
    proto::{
        WatchCause, WatchEvent, WatchGap, WatchRequest, WatchResponse, watch_event::Subject, watch_response::News,
    },
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, Streaming};

use crate::support::{
    grpc::{block_on, connect},
    http::samples,
    node::wait_until_open,
    process::Process,
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config, config_over},
};

mod near_cache;

async fn watch(node: &Terrace, request: WatchRequest) -> Result<Streaming<WatchResponse>, Status> {
    let mut client = InvalidationClient::new(connect(node.grpc()).await);
    client.watch(request).await.map(tonic::Response::into_inner)
}

fn quick() -> WatchRequest {
    WatchRequest { heartbeat_ms: Some(100), ..WatchRequest::default() }
}

async fn next(stream: &mut Streaming<WatchResponse>) -> (u64, News) {
    let message = stream.message().await.unwrap().expect("it goes on");
    (message.sequence, message.news.unwrap())
}

/// The next message that is not a heartbeat.
async fn next_news(stream: &mut Streaming<WatchResponse>) -> (u64, News) {
    loop {
        let (sequence, news) = next(stream).await;
        if !matches!(news, News::Heartbeat(_)) {
            return (sequence, news);
        }
    }
}

/// Waits for an event that satisfies `is`.
async fn event(stream: &mut Streaming<WatchResponse>, is: impl Fn(&WatchEvent) -> bool) -> WatchEvent {
    loop {
        let (sequence, News::Events(events)) = next_news(stream).await else { continue };
        assert_eq!(events.events.last().unwrap().sequence, sequence);
        if let Some(found) = events.events.into_iter().find(&is) {
            return found;
        }
    }
}

fn is_key(event: &WatchEvent, key: &str) -> bool {
    event.subject == Some(Subject::Key(Bytes::copy_from_slice(key.as_bytes())))
}

fn run(connection: &mut Connection, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    redis::Cmd::new().arg(words).exec(connection).unwrap();
}

fn node_over(redis: &RedisServer) -> Terrace {
    let mut wanted = config_over(redis.url());
    wanted.resp.flush = Some(true);
    let node = Terrace::start(wanted);
    wait_until_open(&node);
    node
}

/// A started stream that has sent a heartbeat.
async fn begun(node: &Terrace, request: WatchRequest) -> Streaming<WatchResponse> {
    let mut stream = watch(node, request).await.unwrap();
    assert!(matches!(next(&mut stream).await.1, News::Started(started) if !started.resumed));
    // Redis may still announce earlier writes, and a busy machine may miss a heartbeat.
    while !matches!(next(&mut stream).await.1, News::Heartbeat(_)) {}
    stream
}

async fn changes_are_told_with_what_is_known_of_them(node: &Terrace) {
    let mut stream = begun(node, quick()).await;
    let mut client = connection(node.resp());
    run(&mut client, "SET k v");
    let written = event(&mut stream, |event| is_key(event, "k") && event.cause() == WatchCause::Written).await;
    run(&mut client, "EXPIRE k 100");
    event(&mut stream, |event| is_key(event, "k") && event.cause() == WatchCause::Lifetime).await;
    run(&mut client, "DEL k");
    let deleted = event(&mut stream, |event| is_key(event, "k") && event.cause() == WatchCause::Deleted).await;
    assert!(deleted.sequence > written.sequence, "numbers rise");
    run(&mut client, "TERRACE.INVALIDATE PATTERN us?r:*");
    let pattern = Subject::Pattern(Bytes::from_static(b"us?r:*"));
    event(&mut stream, |event| event.subject.as_ref() == Some(&pattern)).await;
    run(&mut client, "FLUSHDB");
    event(&mut stream, |event| matches!(event.subject, Some(Subject::Everything(_)))).await;
}

#[test]
fn changes_are_told_over_none() {
    let node = Terrace::start(config());
    block_on(changes_are_told_with_what_is_known_of_them(&node));
}

#[test]
fn changes_are_told_over_the_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    let node = Terrace::start(config_over(format!("embedded:{}", dir.path().display())));
    block_on(changes_are_told_with_what_is_known_of_them(&node));
}

#[test]
fn changes_are_told_over_redis_whoever_makes_them() {
    let redis = RedisServer::start();
    let (watched, other) = (node_over(&redis), node_over(&redis));
    block_on(async {
        changes_are_told_with_what_is_known_of_them(&watched).await;
        let mut stream = begun(&watched, quick()).await;
        run(&mut connection(other.resp()), "SET by:another:node v");
        event(&mut stream, |event| is_key(event, "by:another:node")).await;
        redis.run("RPUSH straight:to:redis v");
        let straight = event(&mut stream, |event| is_key(event, "straight:to:redis")).await;
        assert_eq!(straight.cause(), WatchCause::Unspecified);
        run(&mut connection(watched.resp()), "RPUSH of:another:type v");
        event(&mut stream, |event| is_key(event, "of:another:type") && event.cause() == WatchCause::Written).await;
        redis.run("SET __terrace:own v");
        redis.run("SET last v");
        loop {
            let (_, News::Events(events)) = next_news(&mut stream).await else { continue };
            assert!(!events.events.iter().any(|event| is_key(event, "__terrace:own")), "Terrace's own records");
            if events.events.iter().any(|event| is_key(event, "last")) {
                break;
            }
        }
    });
}

#[test]
fn only_the_prefixes_asked_for_are_told_and_numbers_say_what_was_passed_over() {
    let node = Terrace::start(config());
    block_on(async {
        let request = WatchRequest { prefixes: vec!["user:".into(), "page:".into()], ..quick() };
        let mut stream = begun(&node, request).await;
        let mut client = connection(node.resp());
        for line in ["SET users:1 v", "SET user:1 v", "SET xuser:1 v", "SET page: v"] {
            run(&mut client, line);
        }
        // The events may arrive in one message or in two.
        let mut told = Vec::new();
        while told.len() < 2 {
            let (_, news) = next_news(&mut stream).await;
            let News::Events(events) = news else { panic!("{news:?}") };
            told.extend(events.events);
        }
        assert!(is_key(&told[0], "user:1") && is_key(&told[1], "page:"), "{told:?}");
        assert_eq!(told[1].sequence - told[0].sequence, 2, "one was passed over");
    });
}

#[test]
fn a_stream_goes_on_where_it_ended_or_says_that_it_cannot() {
    let node = Terrace::start(config());
    block_on(async {
        let mut client = connection(node.resp());
        let mut stream = begun(&node, quick()).await;
        run(&mut client, "SET first v");
        let first = event(&mut stream, |event| is_key(event, "first")).await;
        drop(stream);
        run(&mut client, "SET between v");
        let from = |sequence| WatchRequest { from_sequence: Some(sequence), ..quick() };
        let mut resumed = watch(&node, from(first.sequence)).await.unwrap();
        assert!(matches!(next(&mut resumed).await.1, News::Started(started) if started.resumed));
        let (_, News::Events(missed)) = next_news(&mut resumed).await else { panic!("no events") };
        assert!(is_key(&missed.events[0], "between"));
        for other in [1, first.sequence + 1_000, u64::MAX] {
            let mut anew = watch(&node, from(other)).await.unwrap();
            assert!(matches!(next(&mut anew).await.1, News::Started(started) if !started.resumed));
            let (_, News::Discontinuity(gap)) = next(&mut anew).await else { panic!("no discontinuity") };
            assert_eq!(gap.gap(), WatchGap::PlaceUnknown);
            assert!(matches!(next(&mut anew).await.1, News::Heartbeat(_)));
        }
    });
}

#[test]
fn what_cannot_be_watched_is_refused_by_name() {
    let redis = RedisServer::start();
    let mut wanted = config_over(redis.url());
    wanted.l2.prefixes = vec!["user:".into()];
    let node = Terrace::start(wanted);
    block_on(async {
        let refused = async |request: WatchRequest| {
            let mut stream = match watch(&node, request).await {
                Ok(stream) => stream,
                Err(status) => return (status.code(), status.message().to_owned()),
            };
            let status = stream.message().await.expect_err("it is refused");
            (status.code(), status.message().to_owned())
        };
        let prefixes = |prefixes: Vec<Bytes>| WatchRequest { prefixes, ..quick() };
        for (request, named) in [
            (WatchRequest { heartbeat_ms: Some(99), ..WatchRequest::default() }, "heartbeat_ms"),
            (prefixes(vec!["user:".into(); 65]), "64"),
            (prefixes(vec![]), "l2.prefixes"),
            (prefixes(vec!["user:1".into(), "use".into()]), "l2.prefixes"),
        ] {
            let (code, message) = refused(request).await;
            assert_eq!(code, Code::InvalidArgument, "{message}");
            assert!(message.contains(named), "{message}");
        }
        watch(&node, prefixes(vec!["user:1".into()])).await.unwrap().message().await.unwrap().unwrap();
    });
}

#[test]
fn the_drain_ends_a_stream_and_metrics_tell_of_it() {
    let mut node = Terrace::start(config());
    block_on(async {
        let mut stream = begun(&node, quick()).await;
        run(&mut connection(node.resp()), "SET k v");
        event(&mut stream, |event| is_key(event, "k")).await;
        let samples = samples(node.http());
        let told = ["terrace_watchers", "terrace_watch_events_total", "terrace_watch_discontinuities_total"];
        assert_eq!(told.map(|name| samples[name]), [1.0, 1.0, 0.0]);
        node.begin_stop();
        let status = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a status"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    });
}

/// A stream of a node, and the time at which the call began.
struct Timed {
    stream: Streaming<WatchResponse>,
    began: Instant,
}

impl Timed {
    async fn open(node: &Process) -> Self {
        let mut client = InvalidationClient::new(connect(&node.grpc).await);
        let began = Instant::now();
        Self { stream: client.watch(quick()).await.unwrap().into_inner(), began }
    }

    /// `elapsed_ms` of the next heartbeat: no more than has passed since the call began.
    async fn beat(&mut self) -> u64 {
        loop {
            if let News::Heartbeat(beat) = next(&mut self.stream).await.1 {
                assert!(u128::from(beat.elapsed_ms) <= self.began.elapsed().as_millis(), "{beat:?}");
                return beat.elapsed_ms;
            }
        }
    }
}

#[test]
fn a_heartbeat_says_how_long_after_the_request_it_was_sent() {
    /// Time in which the node is stopped.
    const STOP: Duration = Duration::from_millis(700);
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(folder.path(), &[]);
    block_on(async {
        let mut first = Timed::open(&node).await;
        let mut elapsed = first.beat().await;
        while elapsed < 500 {
            let later = first.beat().await;
            assert!(later > elapsed, "{later} ms after {elapsed} ms");
            elapsed = later;
        }
        // A further stream begins anew: `beat` compares with the begin of its own call.
        let mut second = Timed::open(&node).await;
        second.beat().await;
        let arrived = Instant::now();
        node.signal(Signal::STOP);
        sleep(STOP).await;
        let stopped = arrived.elapsed();
        node.signal(Signal::CONT);
        let mut client = connection(&node.resp);
        run(&mut client, "SET k v");
        event(&mut second.stream, |event| is_key(event, "k")).await;
        // The first heartbeat may have been due before the stop.
        second.beat().await;
        let elapsed = second.beat().await;
        assert!(u128::from(elapsed) + 2 >= stopped.as_millis(), "{elapsed} ms, of which {stopped:?} stopped");
    });
}
