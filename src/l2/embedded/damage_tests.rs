//! Flips bytes in the files of a small store. Every start succeeds, damage costs the damaged block or batch only, and every
//! loss is reported. `TERRACE_CHECK_FULL=1` makes the run long.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;

use super::{Embedded, EmbeddedSettings, OpenError};
use crate::{
    clock::{Clock, stopwatch_ns},
    l2::{
        Backend, Ban, Batch, ChangeSink, Deadlines, Op, Source, Tunables,
        op::{Condition, SetExpiry},
    },
    model::Key,
};

/// Number of flips in an ordinary run and in a full run.
const FLIPS: usize = 100;
const FLIPS_FULL: usize = 2_000;
/// Number of threads that test flips.
const THREADS: usize = 2;
/// Maximum time in which a store has to repair itself.
const PATIENCE: Duration = Duration::from_secs(60);

struct Deaf;

impl ChangeSink for Deaf {
    fn invalidated(&self, _key: &[u8]) {}
    fn flushed(&self, _source: Source) {}
    fn banned(&self, _ban: &Arc<Ban>) {}
}

fn open(dir: &Path) -> Result<Arc<Embedded>, OpenError> {
    let tunables = Tunables::new(Deadlines { read: PATIENCE, write: PATIENCE }, 1 << 20);
    Embedded::open(EmbeddedSettings::new(dir), Clock::real(), tunables, Arc::new(Deaf))
}

fn key(number: usize) -> Key {
    Key::copied(format!("key:{number:05}").as_bytes()).expect("a key")
}

fn value(number: usize, version: usize) -> Bytes {
    format!("value-{number}-{version}-").repeat(6).into()
}

fn set(number: usize, version: usize) -> (Key, Op) {
    let value = value(number, version);
    (key(number), Op::Set { value, expiry: SetExpiry::Never, condition: Condition::Always, want_old: false })
}

/// The number of each key with the version of its value; `None` after a deletion.
type Contents = BTreeMap<usize, Option<usize>>;

/// Keys below this number are in the tables, the others in the journal only.
const IN_TABLES: usize = 400;

/// Creates a store with two tables, overwritten and deleted keys, and a journal.
async fn create(dir: &Path) -> Contents {
    let store = open(dir).expect("a store");
    let mut contents = Contents::new();
    let write = async |numbers: std::ops::Range<usize>, version: usize, contents: &mut Contents| {
        for number in numbers {
            store.apply(vec![set(number, version)], Batch::Independent).await.remove(0).expect("a write");
            contents.insert(number, Some(version));
        }
    };
    let flush = || store.shared.table.load_full().expect("a table").flush();
    write(0..IN_TABLES, 1, &mut contents).await;
    flush();
    write(0..200, 2, &mut contents).await;
    for number in 380..IN_TABLES {
        let delete = (key(number), Op::Delete { want_old: false });
        store.apply(vec![delete], Batch::Independent).await.remove(0).expect("a deletion");
        contents.insert(number, None);
    }
    flush();
    write(IN_TABLES..500, 1, &mut contents).await;
    drop(store);
    // The second start truncates the preallocated journal, so that the copies are small.
    drop(open(dir).expect("a store"));
    contents
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("a path below"));
        fs::create_dir_all(target.parent().expect("a parent")).expect("a directory");
        fs::copy(&file, target).expect("a copy");
    }
}

/// Reads all keys until no read fails.
async fn read_all(store: &Embedded, contents: &Contents, context: &str) -> BTreeMap<usize, Option<Bytes>> {
    let keys: Vec<Key> = contents.keys().map(|number| key(*number)).collect();
    let begun_ns = stopwatch_ns();
    loop {
        let found = store.get(&keys, false).await;
        if let Some(error) = found.iter().find_map(|found| found.as_ref().err()) {
            assert!(stopwatch_ns() - begun_ns < PATIENCE.as_nanos() as u64, "{error}, {context}");
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let found = found.into_iter().map(|found| found.expect("no error").map(|stored| stored.value.into_bytes()));
        return contents.keys().copied().zip(found).collect();
    }
}

/// Checks a store after damage. Returns the number of lost keys.
async fn check(store: &Embedded, contents: &Contents, is_journal: bool, context: &str) -> usize {
    let found = read_all(store, contents, context).await;
    let mut lost = 0;
    for (number, found) in &found {
        let expected = contents[number].map(|version| value(*number, version));
        if *found == expected {
            continue;
        }
        lost += 1;
        // The loss of a write in a journal may bring back the value before it.
        let is_older = is_journal && found.as_ref() == Some(&value(*number, 1));
        assert!(found.is_none() || is_older, "key {number} is {found:?} and was {expected:?}, {context}");
        assert!(*number < IN_TABLES || is_journal, "key {number} was in the journal, {context}");
    }
    let damage = store.health().damage;
    assert!(lost == 0 || damage > 0, "{lost} keys were lost without a report, {context}");
    lost
}

/// Flips one byte in a copy of the store and checks it. Returns the file, and the number of lost keys.
async fn flip(base: &Path, contents: &Contents, seed: u64) -> (PathBuf, usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().expect("a directory");
    copy(base, dir.path());
    let candidates = files(dir.path());
    let candidates: Vec<_> = candidates.iter().filter(|file| fs::metadata(file).expect("a file").len() > 0).collect();
    let file = candidates[random.usize(..candidates.len())];
    let name = file.strip_prefix(dir.path()).expect("a path below").to_owned();
    let mut bytes = fs::read(file).expect("a file");
    let at = random.usize(..bytes.len());
    bytes[at] ^= 1 << random.u8(..8);
    fs::write(file, &bytes).expect("a file");
    let context = format!("seed {seed}, byte {at} of {}", name.display());
    let store = match open(dir.path()) {
        Ok(store) => store,
        Err(error) => {
            assert!(name == Path::new("FORMAT"), "{error}, {context}");
            return (name, 0);
        }
    };
    let is_journal = name.extension().is_some_and(|extension| extension == "jnl");
    let lost = check(&store, contents, is_journal, &context).await;
    assert!(lost == 0 || name != Path::new("FORMAT"), "{lost} keys were lost, {context}");
    // Writes succeed, and the next start finds the same keys.
    for number in [0, 250, 399, 450, 600] {
        let written = store.apply(vec![set(number, 3)], Batch::Independent).await.remove(0);
        assert!(written.is_ok(), "{written:?}, {context}");
    }
    let entries = store.count().await.expect("a count");
    drop(store);
    let store = open(dir.path()).expect("a second start");
    assert_eq!(store.count().await, Ok(entries), "{context}");
    let found = store.get(&[key(250)], false).await.remove(0).expect("a read").expect("a value");
    assert_eq!(found.value.into_bytes(), value(250, 3), "{context}");
    (name, lost)
}

#[expect(clippy::disallowed_methods, reason = "the switch of long test runs")]
fn flips() -> usize {
    if std::env::var("TERRACE_CHECK_FULL").is_ok_and(|full| full == "1") { FLIPS_FULL } else { FLIPS }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

#[test]
fn a_flipped_byte_costs_its_block_only_and_is_reported() {
    let base = tempfile::tempdir().expect("a directory");
    let contents = block_on(create(base.path()));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut seeds = fastrand::Rng::with_seed(seed);
    let seeds: Vec<u64> = (0..flips()).map(|_| seeds.u64(..)).collect();
    let next = AtomicUsize::new(0);
    let lost: Vec<(PathBuf, usize)> = std::thread::scope(|scope| {
        let work = || {
            let mut lost = Vec::new();
            while let Some(seed) = seeds.get(next.fetch_add(1, Relaxed)) {
                lost.push(block_on(flip(base.path(), &contents, *seed)));
            }
            lost
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no failed flip")).collect()
    });
    let mut worst: BTreeMap<PathBuf, (usize, usize)> = BTreeMap::new();
    for (file, lost) in lost {
        let entry = worst.entry(file).or_default();
        *entry = (entry.0 + 1, entry.1.max(lost));
    }
    println!("file: flips, most keys lost: {worst:#?}");
}

/// Returns the lists of table files, and the files with their ids and checksums.
fn lists(dir: &Path) -> Vec<PathBuf> {
    let mut found = files(dir);
    found.retain(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == "current" || name.strip_prefix('v').is_some_and(|id| id.parse::<u64>().is_ok())
    });
    found
}

#[test]
fn a_damaged_byte_in_a_list_of_table_files_is_corrected() {
    let base = tempfile::tempdir().expect("a directory");
    let contents = block_on(create(base.path()));
    let lists = lists(base.path());
    assert_eq!(lists.len(), 4, "two trees, each with a list: {lists:?}");
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let step = if flips() == FLIPS_FULL { 1 } else { 8 };
    for list in lists {
        let name = list.strip_prefix(base.path()).expect("a path below");
        let bytes = fs::read(&list).expect("a list");
        for at in (random.usize(..step)..bytes.len()).step_by(step) {
            let dir = tempfile::tempdir().expect("a directory");
            copy(base.path(), dir.path());
            let mut damaged = bytes.clone();
            damaged[at] ^= random.u8(1..);
            fs::write(dir.path().join(name), damaged).expect("a list");
            let context = format!("seed {seed}, byte {at} of {}", name.display());
            let store = open(dir.path()).unwrap_or_else(|error| panic!("{error}, {context}"));
            assert_eq!(block_on(check(&store, &contents, false, &context)), 0, "{context}");
            assert_eq!(store.health().damage, 0, "{context}");
        }
    }
}

#[test]
fn a_lost_list_of_table_files_costs_the_tables_and_is_reported() {
    let base = tempfile::tempdir().expect("a directory");
    let contents = block_on(create(base.path()));
    for list in lists(base.path()) {
        let name = list.strip_prefix(base.path()).expect("a path below");
        let bytes = fs::read(&list).expect("a list");
        let mut zeroed = bytes.clone();
        zeroed[2..20].fill(0);
        for damaged in [None, Some(Vec::new()), Some(bytes[..bytes.len() / 2].to_vec()), Some(zeroed)] {
            let dir = tempfile::tempdir().expect("a directory");
            copy(base.path(), dir.path());
            let file = dir.path().join(name);
            match &damaged {
                None => fs::remove_file(file).expect("a list"),
                Some(bytes) => fs::write(file, bytes).expect("a list"),
            }
            let context = format!("{} with {:?} bytes", name.display(), damaged.map(|bytes| bytes.len()));
            let store = open(dir.path()).unwrap_or_else(|error| panic!("{error}, {context}"));
            block_on(check(&store, &contents, false, &context));
        }
    }
}

#[test]
fn a_kill_during_a_repair_is_repaired_at_the_next_start() {
    let base = tempfile::tempdir().expect("a directory");
    let contents = block_on(create(base.path()));
    let is_journal = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "jnl");
    let journal = files(base.path()).into_iter().rfind(is_journal).expect("a journal");
    let mut bytes = fs::read(&journal).expect("a journal");
    // A zeroed range among the writes that are in no table.
    let middle = bytes.len() * 19 / 20;
    bytes[middle..middle + 64].fill(0);
    fs::write(&journal, &bytes).expect("a journal");
    let name = journal.strip_prefix(base.path()).expect("a path below");
    // Each state that a kill leaves: the copy is written in part, or complete; the original has its second name.
    let states = [(None, false), (Some(0), false), (Some(middle / 2), false), (Some(middle), true)];
    for (copied, is_linked) in states {
        let dir = tempfile::tempdir().expect("a directory");
        copy(base.path(), dir.path());
        let journal = dir.path().join(name);
        if let Some(length) = copied {
            fs::write(journal.with_file_name("RECONCILE"), b"").expect("a mark");
            fs::write(journal.with_extension("repaired"), &bytes[..length]).expect("a copy");
        }
        if is_linked {
            fs::hard_link(&journal, journal.with_extension("torn")).expect("a link");
        }
        let store = open(dir.path()).expect("a store");
        let context = format!("copied {copied:?}, linked {is_linked}");
        let lost = block_on(check(&store, &contents, true, &context));
        assert!((1..=3).contains(&lost), "{lost} keys are lost, {context}");
        drop(store);
        let store = open(dir.path()).expect("a second start");
        assert_eq!(block_on(check_again(&store, &contents)), lost, "{context}");
    }
}

/// Returns the number of lost keys.
async fn check_again(store: &Embedded, contents: &Contents) -> usize {
    let found = read_all(store, contents, "the second start").await;
    found.iter().filter(|(number, found)| **found != contents[number].map(|version| value(**number, version))).count()
}
