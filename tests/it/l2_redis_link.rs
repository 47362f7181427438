//! The invalidation link, over a real redis-server: received invalidations, the coherence fence, and reconnects.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use terrace::{
    clock::{Clock, Tick},
    l2::{
        Ban, ChangeSink, Deadlines, InvalidationSink, Source, Tunables,
        redis::{Following, LinkSettings, Redis, RedisSettings, TlsFiles, url::RedisUrl},
    },
};

use crate::support::{PATIENCE, redis::RedisServer};

/// The notifications of the link in order; equal neighbors count once.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Key(Vec<u8>),
    Listening,
    Flushed,
    Lost,
    Proven,
    Refused(String),
}

#[derive(Debug, Default)]
struct Sink {
    told: Mutex<Vec<Told>>,
    fence: AtomicU64,
    /// The furthest fence that was set, in milliseconds ahead.
    lead_max: AtomicU64,
}

impl Sink {
    fn note(&self, what: Told) {
        let mut told = self.told.lock();
        if told.last() != Some(&what) {
            told.push(what);
        }
    }

    fn open(&self) -> bool {
        Clock::real().now().0 < self.fence.load(SeqCst)
    }

    fn has(&self, what: &Told) -> bool {
        self.told.lock().contains(what)
    }

    fn count(&self, what: &Told) -> usize {
        self.told.lock().iter().filter(|told| *told == what).count()
    }

    fn heard(&self, key: &str) -> bool {
        self.has(&Told::Key(key.as_bytes().to_vec()))
    }

    fn forget(&self) {
        self.told.lock().clear();
    }

    fn refusal(&self) -> Option<String> {
        self.told.lock().iter().find_map(|told| if let Told::Refused(why) = told { Some(why.clone()) } else { None })
    }
}

impl ChangeSink for Sink {
    fn invalidated(&self, key: &[u8]) {
        self.note(Told::Key(key.to_vec()));
    }
    fn flushed(&self, _source: Source) {
        self.note(Told::Flushed);
    }
    fn banned(&self, _ban: &Arc<Ban>) {}
}

impl InvalidationSink for Sink {
    fn listening(&self, _source: Source) {
        self.note(Told::Listening);
    }
    fn not_primary(&self, source: Source, why: &str) {
        self.refused(source, why);
    }
    fn gone(&self, _source: Source) {}
    fn lost(&self, _source: Source, _why: &str) {
        self.fence.store(0, SeqCst);
        self.note(Told::Lost);
    }
    fn proven(&self, _source: Source, until: Tick) {
        self.lead_max.fetch_max(until.0.saturating_sub(Clock::real().now().0), SeqCst);
        self.fence.store(until.0, SeqCst);
        self.note(Told::Proven);
    }
    fn refused(&self, _source: Source, why: &str) {
        self.note(Told::Refused(why.to_owned()));
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what} did not come true");
}

fn spawn(url: &str, prefixes: &[&'static str]) -> (Following, Arc<Sink>) {
    let url = RedisUrl::parse(url).expect("a URL that is served");
    let mut settings = RedisSettings::new(url, TlsFiles::default()).expect("settings");
    settings.client_name = "terrace-test".to_owned();
    let redis = Redis::new(&settings, Tunables::new(Deadlines { read: PATIENCE, write: PATIENCE }, 1 << 20));
    let prefixes = prefixes.iter().map(|prefix| Bytes::from_static(prefix.as_bytes())).collect();
    let sink = Arc::new(Sink::default());
    let told: Arc<dyn InvalidationSink> = Arc::<Sink>::clone(&sink);
    (redis.follow(&LinkSettings { prefixes }, &Clock::real(), told), sink)
}

async fn linked(server: &RedisServer, prefixes: &[&'static str]) -> (Following, Arc<Sink>) {
    let (link, sink) = spawn(&server.url(), prefixes);
    until("the fence is open", || sink.open()).await;
    (link, sink)
}

fn kill_link(server: &RedisServer) {
    let clients: String = server.ask(&[b"CLIENT", b"LIST"]);
    let line =
        clients.lines().find(|line| line.contains("name=terrace-test-invalidation")).expect("the link is a client");
    let id = line.split(' ').find_map(|word| word.strip_prefix("id=")).expect("a client has an id");
    assert_eq!(server.ask::<i64>(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_way_a_key_changes_is_heard() {
    let server = RedisServer::start();
    server.run("SET old 1");
    let (_link, sink) = linked(&server, &[]).await;
    // Before a fence, all values that were read without tracking are void.
    assert_eq!(sink.told.lock().first(), Some(&Told::Listening));
    for (line, key) in [
        ("SET old 1", "old"),
        ("SET new 1", "new"),
        ("INCR number", "number"),
        ("EXPIRE old 100", "old"),
        ("PERSIST old", "old"),
        ("RENAME old moved", "moved"),
        ("APPEND moved x", "moved"),
        ("DEL moved", "moved"),
        ("SET brief 1 PX 1", "brief"),
    ] {
        sink.forget();
        server.run(line);
        until(line, || sink.heard(key)).await;
    }
    sink.forget();
    // The key is deleted by the expiration cycle of Redis, because nobody reads it.
    until("the expiry is heard", || sink.heard("brief")).await;
    server.ask::<()>(&[b"EVAL", b"redis.call('SET', KEYS[1], 1)", b"1", b"scripted"]);
    until("a script is heard", || sink.heard("scripted")).await;
    for line in ["FLUSHALL", "FLUSHDB", "FLUSHDB ASYNC"] {
        sink.forget();
        server.run("SET some 1");
        server.run(line);
        until(line, || sink.has(&Told::Flushed)).await;
    }
    assert_eq!(sink.count(&Told::Lost), 0);
}

/// A PONG may be sent before an invalidation of the same turn. Therefore only the *previous* ping counts, 100 ms
/// earlier. A busy machine makes the lead shorter, never longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_fence_is_counted_from_the_ping_before() {
    let server = RedisServer::start();
    let (_link, sink) = linked(&server, &[]).await;
    let first = sink.fence.load(SeqCst);
    until("several fences", || sink.fence.load(SeqCst) > first + 500).await;
    let lead = sink.lead_max.load(SeqCst);
    assert!(lead <= 910, "{lead} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn evictions_are_heard() {
    let server = RedisServer::start_with(&["--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"]);
    let (_link, sink) = linked(&server, &[]).await;
    let value = vec![b'x'; 10_000];
    let mut written = BTreeSet::new();
    for number in 0..1000 {
        let key = format!("k{number}").into_bytes();
        server.ask::<()>(&[b"SET", &key, &value]);
        written.insert(key);
    }
    let info: String = server.ask(&[b"INFO", b"stats"]);
    assert!(!info.contains("evicted_keys:0\r"), "{info}");
    let gone = |key: &Vec<u8>| server.ask::<i64>(&[b"EXISTS", key]) == 0;
    let evicted: Vec<_> = written.into_iter().filter(gone).collect();
    // Once for the write, and once for the eviction.
    let twice = |key: &Vec<u8>| sink.count(&Told::Key(key.clone())) >= 2;
    until("each eviction is heard", || evicted.iter().all(twice)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_tracked_prefixes_are_heard() {
    let server = RedisServer::start();
    let (_link, sink) = linked(&server, &["user:", "user:1", "page:"]).await;
    for key in ["other", "user:1", "page:2", "__terrace:bans"] {
        server.run(&format!("SET {key} 1"));
    }
    until("the last write is heard", || sink.heard("__terrace:bans")).await;
    assert!(sink.heard("user:1") && sink.heard("page:2") && !sink.heard("other"), "{:?}", sink.told.lock());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stopped_redis_closes_the_fence_and_loses_nothing() {
    let server = RedisServer::start();
    let (_link, sink) = linked(&server, &[]).await;
    server.pause();
    until("the fence lapses", || !sink.open()).await;
    assert_eq!(sink.count(&Told::Lost), 0, "a pause is no loss");
    server.resume();
    until("the fence is open again", || sink.open()).await;
    server.run("SET k 1");
    until("writes are heard", || sink.heard("k")).await;
    assert_eq!(sink.count(&Told::Lost), 0, "the connection lived");
    assert_eq!((sink.count(&Told::Listening), sink.count(&Told::Flushed)), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_redis_that_stays_stopped_is_given_up() {
    let server = RedisServer::start();
    let (_link, sink) = linked(&server, &[]).await;
    server.pause();
    until("the link is lost", || sink.has(&Told::Lost)).await;
    sink.forget();
    server.resume();
    until("the fence is open again", || sink.open()).await;
    assert_eq!(sink.told.lock()[..2], [Told::Listening, Told::Proven]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cut_link_is_lost_at_once_and_proven_anew() {
    let server = RedisServer::start();
    let (_link, sink) = linked(&server, &[]).await;
    for _ in 0..3 {
        sink.forget();
        kill_link(&server);
        until("the loss is told", || sink.has(&Told::Lost)).await;
        until("the fence is open again", || sink.open()).await;
        let told = sink.told.lock().clone();
        let order: Vec<_> = told.into_iter().skip_while(|told| *told != Told::Lost).take(3).collect();
        assert_eq!(order, [Told::Lost, Told::Listening, Told::Proven]);
    }
    server.run("SET k 1");
    until("writes are heard", || sink.heard("k")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_killed_redis_is_found_again() {
    let mut server = RedisServer::start();
    let (link, sink) = linked(&server, &[]).await;
    server.kill();
    until("the loss is told", || sink.has(&Told::Lost)).await;
    assert!(!sink.open());
    server.restart();
    until("the fence is open again", || sink.open()).await;
    assert_eq!(sink.count(&Told::Lost), 1, "one loss is told once");
    drop(link);
    until("the fence lapses by itself", || !sink.open()).await;
    let clients: String = server.ask(&[b"CLIENT", b"LIST"]);
    assert!(!clients.contains("terrace-test"), "{clients}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_refused_is_named_with_the_rule_that_allows_it() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let as_root = server.url().replace("//", "//:right@");
    let mut connection =
        ::redis::Client::open(as_root.as_str()).and_then(|client| client.get_connection()).expect("root");
    for (user, rules, text) in
        [("no-tracking", "+@all -client|tracking", "+client|tracking"), ("no-role", "+@all -role", "+role")]
    {
        let mut command = ::redis::cmd("ACL");
        command.arg("SETUSER").arg(user).arg("on").arg(">pw").arg("~*");
        for rule in rules.split(' ') {
            command.arg(rule);
        }
        command.exec(&mut connection).expect("the user is made");
        let (_link, sink) = spawn(&server.url().replace("//", &format!("//{user}:pw@")), &[]);
        until("the refusal is told", || sink.refusal().is_some()).await;
        assert!(sink.refusal().is_some_and(|why| why.contains(text)), "{:?}", sink.refusal());
        assert!(!sink.open());
    }
    for (url, text) in [(server.url(), "NOAUTH"), (server.url().replace("//", "//:wrong-one@"), "WRONGPASS")] {
        let (_link, sink) = spawn(&url, &[]);
        until("the refusal is told", || sink.refusal().is_some()).await;
        let why = sink.refusal().unwrap_or_default();
        assert!(why.contains(text) && !why.contains("wrong-one"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_demoted_primary_closes_l1_until_it_is_promoted() {
    let primary = RedisServer::start();
    let server = RedisServer::start();
    let (_link, sink) = linked(&server, &[]).await;
    server.run(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    until("the role is told", || sink.refusal().is_some()).await;
    assert!(sink.refusal().is_some_and(|why| why.contains("slave")), "{:?}", sink.refusal());
    assert!(sink.has(&Told::Lost) && !sink.open());
    server.run("REPLICAOF NO ONE");
    until("the fence is open again", || sink.open()).await;
}
