//! The embedded store: persistence across restarts, exclusive use of its directory, the size limit, the sweep, and
//! notifications to L1.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use terrace::{
    clock::Clock,
    error::{CacheError, Kind},
    l2::{
        Applied, Backend, Ban, Batch, ChangeSink, Deadlines, Op, ScanRequest, Source, State, Tunables,
        embedded::{Embedded, EmbeddedSettings, OpenError, SIZE_MAX_LEAST, Sync},
        op::{Condition, ExpireOnly, NewExpiry, SetExpiry},
    },
};

use crate::support::{
    backend::{Deaf, key, open_embedded, tunables},
    eventually,
    http::{metric, samples},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config_over},
};

fn set(value: &[u8], expiry: SetExpiry) -> Op {
    Op::Set { value: Bytes::copy_from_slice(value), expiry, condition: Condition::Always, want_old: false }
}

async fn put(store: &Embedded, name: &str, value: &[u8]) {
    let done = store.apply(vec![(key(name), set(value, SetExpiry::Never))], Batch::Independent).await;
    assert_eq!(done, [Ok(Applied::Set { stored: true, old: None })], "{name}");
}

async fn get(store: &Embedded, name: &str) -> Option<Bytes> {
    store.get(&[key(name)], false).await.remove(0).unwrap().map(|stored| stored.value.into_bytes())
}

fn open_with(dir: &Path, clock: Clock, change: impl FnOnce(&mut EmbeddedSettings)) -> Arc<Embedded> {
    let mut settings = EmbeddedSettings::new(dir);
    change(&mut settings);
    Embedded::open(settings, clock, tunables(), Arc::new(Deaf)).unwrap()
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual();
    let store = open_embedded(dir.path(), clock.clone()).unwrap();
    put(&store, "ever", b"1").await;
    let long = "l".repeat(5_000);
    put(&store, &long, b"2").await;
    let mortal = set(b"3", SetExpiry::In(Duration::from_secs(10)));
    store.apply(vec![(key("mortal"), mortal.clone()), (key("mortal2"), mortal)], Batch::Atomic).await;
    let before = store.stats();
    drop(store);
    let store = open_embedded(dir.path(), clock.clone()).unwrap();
    assert_eq!((store.stats().entries, store.stats().bytes), (before.entries, before.bytes));
    assert_eq!(store.count().await, Ok(4));
    assert_eq!(store.state(), State::Up);
    assert_eq!(get(&store, "ever").await, Some(Bytes::from("1")));
    assert_eq!(get(&store, &long).await, Some(Bytes::from("2")));
    assert_eq!(get(&store, "mortal").await, Some(Bytes::from("3")));
    drop(store);
    time.advance(Duration::from_secs(10));
    let store = open_embedded(dir.path(), clock).unwrap();
    assert_eq!(get(&store, "mortal").await, None);
    eventually("what expired while the store was closed is removed", || store.stats().entries == 2);
}

#[tokio::test]
async fn synced_before_each_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), Clock::real(), |settings| settings.sync = Sync::Always);
    put(&store, "key", b"value").await;
    assert_eq!(get(&store, "key").await, Some(Bytes::from("value")));
}

#[test]
fn two_servers_cannot_have_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = open_embedded(dir.path(), Clock::real()).unwrap();
    let error = open_embedded(dir.path(), Clock::real()).err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    drop(first);
    open_embedded(dir.path(), Clock::real()).unwrap();
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(open_embedded(dir.path(), Clock::real()).unwrap());
    for text in ["terrace-store 2 1\n", "terrace-store 9 with more to say\n"] {
        fs::write(dir.path().join("FORMAT"), text).unwrap();
        let error = open_embedded(dir.path(), Clock::real()).err().unwrap();
        assert!(matches!(error, OpenError::Newer { known: 1, .. }), "{error}");
        assert!(error.to_string().contains(&format!("format {}", &text[14..15])), "{error}");
    }
    fs::write(dir.path().join("FORMAT"), "terrace-store 1 1\n").unwrap();
    open_embedded(dir.path(), Clock::real()).unwrap();
}

#[tokio::test]
async fn an_older_format_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    put(&store, "key", b"value").await;
    drop(store);
    fs::write(dir.path().join("FORMAT"), "terrace-store 0 1\n").unwrap();
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    assert_eq!(get(&store, "key").await, None, "it is never read as if it were of today");
    assert!(dir.path().join("aside-v0-1").is_dir());
    put(&store, "key", b"new").await;
    drop(store);
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    assert_eq!(get(&store, "key").await, Some(Bytes::from("new")));
    assert!(dir.path().join("aside-v0-1").is_dir(), "it is the operator's to delete");
}

#[test]
fn other_directories_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let error = open_embedded(dir.path(), Clock::real()).err().unwrap();
    assert!(matches!(&error, OpenError::NotAStore { found, .. } if found == "thesis.tex"), "{error}");
    let file = dir.path().join("thesis.tex");
    let error = open_embedded(&file, Clock::real()).err().unwrap();
    assert!(matches!(error, OpenError::NotUsable { .. }), "{error}");
    let error = open_embedded(Path::new("/proc/terrace"), Clock::real()).err().unwrap();
    assert!(matches!(error, OpenError::NotUsable { .. }), "{error}");
    assert!(error.to_string().contains("/proc/terrace"), "{error}");
}

/// Returns all files in a directory and its subdirectories.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// A copy of a directory, because opening a damaged store may change its other files.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in files(from) {
        let target = to.path().join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
    to
}

#[tokio::test]
async fn damage_is_named_and_nothing_panics() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    put(&store, "key", b"value").await;
    drop(store);
    let mut refused = Vec::new();
    for file in files(dir.path()) {
        let name = file.strip_prefix(dir.path()).unwrap();
        for damage in [&b""[..], &[0x5a; 4096]] {
            let damaged = copy(dir.path());
            fs::write(damaged.path().join(name), damage).unwrap();
            match open_embedded(damaged.path(), Clock::real()) {
                // The file may be unused; or it is the journal, whose incomplete end is ignored.
                Ok(store) => drop(get(&store, "key").await),
                Err(error) => {
                    assert!(matches!(error, OpenError::Damaged { .. }), "{file:?}: {error}");
                    assert!(error.to_string().contains(damaged.path().to_str().unwrap()), "{error}");
                    refused.push(name.to_owned());
                }
            }
        }
    }
    assert!(refused.iter().all(|file| file == Path::new("FORMAT")) && !refused.is_empty(), "{refused:?}");
}

/// A possible state after a power failure: the last batch lacks a page but has its end.
#[tokio::test]
async fn a_torn_journal_loses_its_last_writes_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    for number in 0..100 {
        put(&store, &format!("key:{number}"), format!("value-{number}-").repeat(10).as_bytes()).await;
    }
    drop(store);
    let journal = files(dir.path()).into_iter().find(|file| file.extension().is_some_and(|end| end == "jnl")).unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    let torn = bytes.windows(9).rposition(|window| window == b"value-97-").unwrap();
    bytes[torn..torn + 4].fill(0);
    fs::write(&journal, bytes).unwrap();
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    for number in 0..100 {
        assert_eq!(get(&store, &format!("key:{number}")).await.is_some(), number != 97, "key:{number}");
    }
    assert_eq!(store.count().await, Ok(99));
    assert_eq!(store.health().damage, 1);
    put(&store, "after", b"value").await;
    drop(store);
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    assert_eq!(get(&store, "after").await, Some(Bytes::from("value")));
    assert_eq!(store.count().await, Ok(100));
}

/// A small store with entries of about 1 KiB, and the number that fits.
async fn filled(dir: &Path, clock: Clock, entries: usize) -> Arc<Embedded> {
    let store = open_with(dir, clock, |settings| settings.size_max_bytes = SIZE_MAX_LEAST);
    for number in 0..entries {
        put(&store, &format!("key:{number}"), &[b'x'; 1_000]).await;
        assert!(store.stats().bytes <= SIZE_MAX_LEAST, "the bound holds after every write");
    }
    store
}

#[tokio::test]
async fn the_oldest_written_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), Clock::real(), 500).await;
    assert_eq!(store.stats().evicted, 0);
    // A rewrite makes an entry young; a new expiry or a read does not.
    put(&store, "key:0", &[b'y'; 1_000]).await;
    let expire =
        Op::Expire { expiry: NewExpiry::In(Duration::from_secs(1_000)), only: ExpireOnly::ALWAYS, want_value: false };
    store.apply(vec![(key("key:1"), expire)], Batch::Independent).await;
    get(&store, "key:2").await;
    for number in 500..1_200 {
        put(&store, &format!("key:{number}"), &[b'x'; 1_000]).await;
    }
    let stats = store.stats();
    assert!(stats.bytes <= SIZE_MAX_LEAST && stats.bytes > SIZE_MAX_LEAST - 5_000, "{stats:?}");
    assert_eq!(stats.evicted, 1_200 - stats.entries, "{stats:?}");
    for number in 0..1_200 {
        let is_young = number == 0 || number > 1_200 - stats.entries;
        assert_eq!(get(&store, &format!("key:{number}")).await.is_some(), is_young, "key:{number} of {stats:?}");
    }
}

#[tokio::test]
async fn what_is_written_again_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), Clock::real(), 100).await;
    for number in 100..3_000 {
        put(&store, &format!("key:{number}"), &[b'x'; 1_000]).await;
        put(&store, "key:0", format!("{number}").as_bytes()).await;
    }
    assert_eq!(get(&store, "key:0").await, Some(Bytes::from("2999")));
    assert!(store.stats().evicted > 1_000);
}

#[tokio::test]
async fn a_smaller_bound_is_reached_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    for number in 0..3_000 {
        put(&store, &format!("key:{number}"), &[b'x'; 1_000]).await;
    }
    drop(store);
    let store = open_with(dir.path(), Clock::real(), |settings| settings.size_max_bytes = SIZE_MAX_LEAST);
    eventually("the store comes down to its bound", || store.stats().bytes <= SIZE_MAX_LEAST);
    assert_eq!(get(&store, "key:0").await, None);
    assert!(get(&store, "key:2999").await.is_some());
}

#[tokio::test]
async fn an_entry_over_the_bound_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), Clock::real(), 10).await;
    let value = vec![0; usize::try_from(SIZE_MAX_LEAST).unwrap()];
    let done = store.apply(vec![(key("large"), set(&value, SetExpiry::Never))], Batch::Independent).await;
    assert_eq!(done[0].as_ref().map_err(CacheError::kind), Err(Kind::TooLarge));
    assert_eq!(store.stats().entries, 10);
}

#[tokio::test]
async fn what_expired_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual();
    let store = open_embedded(dir.path(), clock).unwrap();
    put(&store, "ever", b"value").await;
    let empty = store.stats().bytes;
    let entry =
        |number: u64| (key(&format!("{number}")), set(b"value", SetExpiry::In(Duration::from_secs(number / 100 + 1))));
    store.apply((0..5_000).map(entry).collect(), Batch::Independent).await;
    time.advance(Duration::from_secs(10));
    eventually("a part has gone", || store.stats().expired == 1_000);
    assert_eq!(store.count().await, Ok(4_001));
    // One TTL is shortened, another one is extended.
    let expire = |seconds| Op::Expire {
        expiry: NewExpiry::In(Duration::from_secs(seconds)),
        only: ExpireOnly::ALWAYS,
        want_value: false,
    };
    store.apply(vec![(key("4999"), expire(1)), (key("1000"), expire(10_000))], Batch::Independent).await;
    time.advance(Duration::from_secs(1));
    eventually("what was cut short has gone", || store.stats().expired == 1_100);
    time.advance(Duration::from_secs(100));
    eventually("the rest has gone", || store.stats().entries == 2);
    assert!(get(&store, "1000").await.is_some());
    let left = store.stats();
    assert!(left.bytes < 3 * empty && left.evicted == 0, "{left:?}");
}

/// Records all notifications.
#[derive(Default)]
struct Listener {
    heard: Mutex<Vec<String>>,
}

impl Listener {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

impl ChangeSink for Listener {
    fn invalidated(&self, key: &[u8]) {
        self.heard.lock().unwrap().push(String::from_utf8_lossy(key).into_owned());
    }
    fn flushed(&self, _source: Source) {
        self.heard.lock().unwrap().push("<all>".into());
    }
    fn banned(&self, _ban: &Arc<Ban>) {}
}

#[tokio::test]
async fn l1_hears_of_each_change_before_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Arc::new(Listener::default());
    let mut settings = EmbeddedSettings::new(dir.path());
    settings.size_max_bytes = SIZE_MAX_LEAST;
    let store = Embedded::open(settings, Clock::real(), tunables(), Arc::clone(&listener) as _).unwrap();
    put(&store, "a", b"value").await;
    assert_eq!(listener.take(), ["a"]);
    let unchanged =
        Op::Set { value: Bytes::new(), expiry: SetExpiry::Never, condition: Condition::IfAbsent, want_old: false };
    store.apply(vec![(key("a"), unchanged), (key("b"), Op::Delete { want_old: false })], Batch::Atomic).await;
    assert_eq!(listener.take(), [""; 0], "nothing changed");
    put(&store, "large", &vec![0; 1_000_000]).await;
    assert_eq!(listener.take(), ["large"]);
    put(&store, "large2", &vec![0; 1_000_000]).await;
    assert_eq!(listener.take(), ["large2", "a", "large"], "what was evicted, too");
    store.clear().await.unwrap();
    assert_eq!(listener.take(), ["<all>"]);
    // A caller that is canceled after the store has accepted its write.
    let write = store.apply(vec![(key("c"), set(b"value", SetExpiry::Never))], Batch::Independent);
    let _answered_or_not = futures_util::FutureExt::now_or_never(write);
    eventually("L1 hears of a write whose caller has gone", || listener.take() == ["c"]);
    assert!(get(&store, "c").await.is_some());
}

#[tokio::test]
async fn a_start_that_was_killed_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    drop(open_embedded(dir.path(), Clock::real()).unwrap());
    let table = dir.path().join("table-1");
    fs::remove_file(table.join("version")).unwrap();
    fs::write(table.join("UNFINISHED"), "").unwrap();
    fs::create_dir(dir.path().join("table-2")).unwrap();
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    put(&store, "key", b"value").await;
    assert!(!table.join("UNFINISHED").exists());
    drop(store);
    assert!(!dir.path().join("table-2").exists());
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    assert_eq!(get(&store, "key").await, Some(Bytes::from("value")));
}

#[tokio::test]
async fn a_clear_gives_the_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    for number in 0..50 {
        put(&store, &format!("key:{number}"), &vec![number; 1_000_000]).await;
    }
    store.clear().await.unwrap();
    put(&store, "after", b"value").await;
    eventually("the old generation is deleted", || !dir.path().join("table-1").exists());
    eventually("the next generation is prepared", || dir.path().join("table-3/version").exists());
    drop(store);
    assert!(dir.path().join("table-2").exists() && !dir.path().join("table-3").exists());
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    assert_eq!(store.count().await, Ok(1));
    assert_eq!(get(&store, "after").await, Some(Bytes::from("value")));
}

/// Blocks the writer while the test holds the lock.
#[derive(Default)]
struct Gate(Mutex<()>);

impl ChangeSink for Gate {
    fn invalidated(&self, _key: &[u8]) {
        drop(self.0.lock().unwrap());
    }
    fn flushed(&self, _source: Source) {}
    fn banned(&self, _ban: &Arc<Ban>) {}
}

fn kind<T>(result: &Result<T, CacheError>) -> Option<Kind> {
    result.as_ref().err().map(CacheError::kind)
}

#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "the writer, on a thread of its own, is to wait for it")]
async fn late_writes_are_unknown_and_too_many_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let deadlines = Deadlines { read: Duration::from_secs(20), write: Duration::from_millis(20) };
    let tunables = Tunables::new(deadlines, 1 << 20);
    let store =
        Embedded::open(EmbeddedSettings::new(dir.path()), Clock::real(), tunables, Arc::clone(&gate) as _).unwrap();
    let write = |number: usize| {
        let op = set(b"value", SetExpiry::Never);
        store.apply(vec![(key(&number.to_string()), op)], Batch::Independent)
    };
    let closed = gate.0.lock().unwrap();
    assert_eq!(kind(&write(0).await[0]), Some(Kind::Unknown));
    let results = futures_util::future::join_all((1..6_000).map(write)).await;
    drop(closed);
    let refused = results.iter().filter(|results| kind(&results[0]) == Some(Kind::Overloaded)).count();
    assert!(refused > 1_000, "{refused}");
    let taken = 6_000 - refused;
    assert!(results.iter().all(|results| matches!(kind(&results[0]), Some(Kind::Overloaded | Kind::Unknown))));
    eventually("what was taken happens, and nothing else", || store.stats().entries == taken as u64);
}

#[tokio::test]
async fn late_reads_are_deadline_exceeded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    let entry = |number: u64| (key(&number.to_string()), set(b"value", SetExpiry::Never));
    store.apply((0..5_000).map(entry).collect(), Batch::Independent).await;
    drop(store);
    let none = Deadlines { read: Duration::ZERO, write: Duration::ZERO };
    let tunables = Tunables::new(none, 1 << 20);
    let store = Embedded::open(EmbeddedSettings::new(dir.path()), Clock::real(), tunables, Arc::new(Deaf)).unwrap();
    let request = ScanRequest { cursor: 0, pattern: None, count: 5_000, type_name: None };
    let mut late = 0;
    for _ in 0..50 {
        let page = store.scan(request.clone()).await;
        assert!(matches!(kind(&page), None | Some(Kind::DeadlineExceeded)), "{page:?}");
        late += usize::from(page.is_err());
    }
    assert!(late > 0, "5,000 rows are not read in no time");
}

#[test]
fn the_store_has_deadlines_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config_over("embedded");
    config.data.dir = dir.path().into();
    let node = Terrace::start(config);
    let mut client = connection(node.resp());
    let deadlines = || {
        let samples = samples(node.http());
        ["read", "write"].map(|call| samples[&format!("terrace_l2_deadline_seconds{{call=\"{call}\"}}")])
    };
    assert_eq!(deadlines(), [2.0, 3.0]);
    let mut set = |setting: &str, value: &str| {
        redis::cmd("CONFIG").arg("SET").arg(setting).arg(value).exec(&mut client).unwrap();
    };
    set("data.read_timeout", "4s");
    set("data.write_timeout", "5s");
    set("l2.read_timeout", "75ms");
    assert_eq!(deadlines(), [4.0, 5.0]);
    let redis = RedisServer::start();
    let node = Terrace::start(config_over(redis.url()));
    assert_eq!(metric(node.http(), "terrace_l2_deadline_seconds{call=\"read\"}"), Some(0.05));
}
