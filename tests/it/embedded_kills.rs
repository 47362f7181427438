//! The embedded store is killed with SIGKILL at random points of journal rotation, compaction, the repair of a journal and
//! the rebuild of a damaged table; a server is killed while it saves snapshots. Afterwards, every acknowledged write is
//! present, except for the keys of a damaged block.
//!
//! The killed process is this test binary, started again to run [`child`] alone. `TERRACE_CHECK_FULL=1` kills 200 times,
//! `TERRACE_KILLS` sets another number, and `TERRACE_SEED` repeats the choices of a run.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use redis::Commands;
use terrace::{
    clock::Clock,
    l2::{
        Applied, Backend, Batch, Op,
        embedded::Embedded,
        op::{Condition, SetExpiry},
    },
};

use crate::support::{
    PATIENCE,
    backend::{key, open_embedded},
    disk::{damage_journal, files, journals},
    node::PATIENT,
    process::{Process, command_of_test},
    resp::connection,
    setting_from_environment,
};

/// Environment variables of the killed process: the directory of its store, and its work.
const DIR_VARIABLE: &str = "TERRACE_TEST_KILLS_DIR";
const WORK_VARIABLE: &str = "TERRACE_TEST_KILLS_WORK";
const KILLS_DEFAULT: u64 = 10;
const KILLS_FULL: u64 = 200;
/// Number of kinds of kills: one in this many is of a server that saves snapshots.
const KINDS: u64 = 5;
/// Number of concurrent clients, so that the store commits groups.
const CLIENTS: u64 = 8;
/// Number of keys that each client overwrites in turn.
const SLOTS: u64 = 100;
/// Number of keys that the client of a server overwrites in turn.
const SAVED_SLOTS: u64 = 500;
/// Maximum number of keys that one damaged block of a table costs: most values are larger than a block of 4 KiB, but a block
/// may contain the write numbers of hundreds of keys.
const LOST_MAX: usize = 400;

/// Returns the number of kills.
fn kills() -> u64 {
    let is_full = setting_from_environment("TERRACE_CHECK_FULL", 0) == 1;
    setting_from_environment("TERRACE_KILLS", if is_full { KILLS_FULL } else { KILLS_DEFAULT })
}

fn seeded() -> fastrand::Rng {
    let seed = setting_from_environment("TERRACE_SEED", fastrand::u64(..));
    println!("TERRACE_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// The value of the write with this number. Values of different writes differ, also in length.
fn value(client: u64, number: u64) -> Bytes {
    let text = format!("{client}-{number}-");
    let length = (1_000 + number * 7_919 % 20_000) as usize;
    text.repeat(length / text.len() + 1).into()
}

fn name(client: u64, slot: u64) -> String {
    format!("key:{client}:{slot}")
}

/// Runs until it is killed. Does nothing in an ordinary run.
#[tokio::test]
async fn child() {
    let dir: String = setting_from_environment(DIR_VARIABLE, String::new());
    let work: String = setting_from_environment(WORK_VARIABLE, String::new());
    if dir.is_empty() {
        return;
    }
    let store = open_embedded(Path::new(&dir), Clock::real()).unwrap();
    if work == "write" {
        join_all((0..CLIENTS).map(|client| write_for_ever(&store, client))).await;
    }
    while found(&store).await.is_err() {
        say("damaged");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    say("read all");
    std::future::pending::<()>().await;
}

/// Prints one line, with one write, so that no line is received in part.
fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("\nchild {line}\n").as_bytes()).unwrap();
}

async fn write_for_ever(store: &Arc<Embedded>, client: u64) {
    let counter = format!("counter:{client}");
    let begun = stored_number(store, &counter).await;
    for number in begun + 1.. {
        let set = Op::Set {
            value: value(client, number),
            expiry: SetExpiry::Never,
            condition: Condition::Always,
            want_old: false,
        };
        let increment = Op::Increment { delta: 1, life_if_new: None };
        let ops = vec![(key(&name(client, number % SLOTS)), set), (key(&counter), increment)];
        let results = store.apply(ops, Batch::Atomic).await;
        let [Ok(Applied::Set { stored: true, .. }), Ok(Applied::Number(count))] = results[..] else {
            panic!("{results:?}")
        };
        assert_eq!(count.cast_unsigned(), number);
        say(&format!("{client} {number}"));
    }
}

async fn stored_number(store: &Embedded, counter: &str) -> u64 {
    let found = store.get(&[key(counter)], false).await.remove(0).unwrap();
    found.map_or(0, |stored| String::from_utf8_lossy(&stored.value).parse().unwrap())
}

/// The number of the last write of each key.
type Contents = BTreeMap<(u64, u64), u64>;

/// Reads all keys. Fails if a read fails, or if a key has a value that was never written.
async fn found(store: &Embedded) -> Result<Contents, String> {
    let mut contents = Contents::new();
    for client in 0..CLIENTS {
        let keys: Vec<_> = (0..SLOTS).map(|slot| key(&name(client, slot))).collect();
        for (slot, found) in (0..SLOTS).zip(store.get(&keys, false).await) {
            let Some(stored) = found.map_err(|error| error.to_string())? else { continue };
            let bytes = stored.value.into_bytes();
            let text = String::from_utf8_lossy(&bytes);
            let number = text.split('-').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
            assert!(bytes == value(client, number), "{} has an invalid value", name(client, slot));
            contents.insert((client, slot), number);
        }
    }
    Ok(contents)
}

/// Reads all keys until no read fails.
async fn found_finally(store: &Embedded) -> Contents {
    let mut last = String::new();
    for _ in 0..6_000 {
        match found(store).await {
            Ok(contents) => return contents,
            Err(error) => last = error,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("reads fail: {last}");
}

/// A started child and the lines that it printed.
struct Running {
    process: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    fn start(dir: &Path, work: &str) -> Self {
        let mut process = command_of_test(module_path!(), "child")
            .env(DIR_VARIABLE, dir)
            .env(WORK_VARIABLE, work)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).split(b'\n');
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in output.map_while(Result::ok) {
                if let Some(line) = String::from_utf8_lossy(&line).strip_prefix("child ") {
                    kept.lock().unwrap().push(line.to_owned());
                }
            }
        });
        Self { process, lines, reader: Some(reader) }
    }

    fn has_said(&self, what: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line == what)
    }

    /// Waits until the process is at the point, and a random time in addition; then kills it. Returns its lines.
    fn kill_at(mut self, point: impl Fn(&Self) -> bool, random: &mut fastrand::Rng, delay_ms: u64) -> Vec<String> {
        let begun = tokio::time::Instant::now();
        while !point(&self) {
            assert!(begun.elapsed() < 10 * PATIENCE, "the point is not reached");
            assert!(self.process.try_wait().unwrap().is_none(), "the process ended by itself");
            std::thread::sleep(Duration::from_micros(200));
        }
        // This sleep waits for no condition: the kill should hit any moment after the point.
        std::thread::sleep(Duration::from_micros(random.u64(..delay_ms * 1_000)));
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The number of the newest journal.
fn journal_number(dir: &Path) -> u64 {
    let numbers = journals(dir).into_iter().filter_map(|file| file.file_stem()?.to_str()?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// The table files of all generations.
fn tables(dir: &Path) -> Vec<PathBuf> {
    let mut found = files(dir);
    found.retain(|file| file.parent().is_some_and(|parent| parent.ends_with("tables")));
    found
}

/// The largest number of a table file.
fn table_number(dir: &Path) -> u64 {
    let numbers = tables(dir).into_iter().filter_map(|file| file.file_name()?.to_str()?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// A store that is killed repeatedly, and what it acknowledged.
struct Victim {
    dir: tempfile::TempDir,
    random: fastrand::Rng,
    stored: Contents,
    /// Number of the last acknowledged write of each client.
    last: BTreeMap<u64, u64>,
    /// Maximum number of keys that damage has cost.
    lost: usize,
}

impl Victim {
    fn note(&mut self, client: u64, number: u64) {
        self.stored.insert((client, number % SLOTS), number);
        self.last.insert(client, number);
    }

    /// Kills the store while it writes.
    fn write_until(&mut self, point: impl Fn(&Path) -> bool, delay_ms: u64) {
        let running = Running::start(self.dir.path(), "write");
        let lines = running.kill_at(|_| point(self.dir.path()), &mut self.random, delay_ms);
        for line in lines {
            let words: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let [client, number] = words[..] else { panic!("{line}") };
            self.note(client, number);
        }
    }

    fn at_rotation(&mut self) {
        let number = journal_number(self.dir.path());
        self.write_until(|dir| journal_number(dir) > number, 30);
    }

    fn at_compaction(&mut self) {
        let number = table_number(self.dir.path()) + self.random.u64(1..8);
        self.write_until(|dir| table_number(dir) >= number, 30);
    }

    /// Adds damage behind the last batch of the journal, which costs no write, and kills the repair.
    fn at_repair(&mut self) {
        damage_journal(self.dir.path(), &mut self.random);
        let is_repairing = |dir: &Path| {
            let is_copy = |file: &Path| file.extension().is_some_and(|extension| extension == "repaired");
            let is_mark = |file: &PathBuf| is_copy(file) || file.ends_with("RECONCILE");
            files(dir).iter().any(is_mark)
        };
        self.write_until(is_repairing, 400);
    }

    /// Damages a block of a table in two copies of the store, and kills the rebuild of one of them. Each of them loses keys of
    /// the damaged block only.
    async fn at_rebuild(&mut self) {
        let tables = tables(self.dir.path());
        let Some(table) = tables.get(self.random.usize(..tables.len().max(1))) else { return self.at_compaction() };
        let at = self.random.u64(..fs::metadata(table).unwrap().len() / 2);
        let copies = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for copy in &copies {
            for file in files(self.dir.path()) {
                let target = copy.path().join(file.strip_prefix(self.dir.path()).unwrap());
                fs::create_dir_all(target.parent().unwrap()).unwrap();
                fs::copy(&file, target).unwrap();
            }
            let table = copy.path().join(table.strip_prefix(self.dir.path()).unwrap());
            let mut bytes = fs::read(&table).unwrap();
            bytes[at as usize] ^= 1;
            fs::write(table, bytes).unwrap();
        }
        let [undisturbed, killed] = copies;
        let is_at = |running: &Running| running.has_said("damaged") || running.has_said("read all");
        Running::start(killed.path(), "read").kill_at(is_at, &mut self.random, 400);
        for (copy, what) in [(undisturbed, "a rebuild"), (killed, "a killed rebuild")] {
            let contents = found_finally(&open_embedded(copy.path(), Clock::real()).unwrap()).await;
            let is_acknowledged = |(place, number): (&(u64, u64), &u64)| self.stored.get(place) == Some(number);
            assert!(contents.iter().all(is_acknowledged), "{what} has other values");
            let lost = self.stored.len() - contents.len();
            assert!(lost <= LOST_MAX, "{what} lost {lost} keys by byte {at} of {}", table.display());
            self.lost = self.lost.max(lost);
        }
    }

    /// Compares the store with the acknowledged writes.
    async fn check(&mut self) {
        let store = open_embedded(self.dir.path(), Clock::real()).unwrap();
        for client in 0..CLIENTS {
            let (last, stored) = (
                self.last.get(&client).copied().unwrap_or(0),
                stored_number(&store, &format!("counter:{client}")).await,
            );
            // The last write may have been executed without an acknowledgement.
            assert!((last..=last + 1).contains(&stored), "client {client}: {last} acknowledged, {stored} stored");
            if stored > last {
                self.note(client, stored);
            }
        }
        assert_eq!(found_finally(&store).await, self.stored);
        assert_eq!(store.count().await.unwrap(), (self.stored.len() + self.last.len()) as u64);
        let is_mark = |file: &PathBuf| file.ends_with("RECONCILE");
        assert!(!files(self.dir.path()).iter().any(is_mark), "the repair is complete");
    }
}

#[tokio::test]
async fn a_store_that_is_killed_at_any_point_has_all_it_acknowledged() {
    let mut victim = Victim {
        dir: tempfile::tempdir().unwrap(),
        random: seeded(),
        stored: Contents::new(),
        last: BTreeMap::new(),
        lost: 0,
    };
    let kills = kills() - kills() / KINDS;
    for kill in 0..kills {
        match kill % (KINDS - 1) {
            0 => victim.at_compaction(),
            1 => victim.at_repair(),
            2 => victim.at_rebuild().await,
            _ => victim.at_rotation(),
        }
        victim.check().await;
    }
    let written: u64 = victim.last.values().sum();
    println!("{kills} kills, {written} writes acknowledged, at most {} keys lost by a damaged block", victim.lost);
}

/// Returns whether a file of a snapshot is being written: `learned.1234`, `hot-keys.1234`.
fn is_partial(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix("learned.").or_else(|| name.strip_prefix("hot-keys."));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

#[test]
fn a_server_that_is_killed_while_it_saves_snapshots_starts_with_all_it_acknowledged() {
    let (mut random, dir) = (seeded(), tempfile::tempdir().unwrap());
    let (mut written, mut partial) = (0_u64, 0);
    let kills = kills() / KINDS;
    for _ in 0..=kills {
        let every = ["--learn-snapshot-every", "1s", "--data-hot-keys-every", "1s", "--l1-size", "1MiB"];
        let args: Vec<&str> = PATIENT.into_iter().chain(every).collect();
        let server = Process::start(dir.path(), &args);
        assert!(!server.log().contains("set aside"), "{}", server.log());
        let has_partial = || fs::read_dir(dir.path()).unwrap().flatten().any(|entry| is_partial(&entry.path()));
        assert!(!has_partial(), "a partial file of a killed process remains");
        let mut client = connection(&server.resp);
        for number in written.saturating_sub(SAVED_SLOTS)..written {
            let slot = number % SAVED_SLOTS;
            assert_eq!(client.get::<_, Option<u64>>(format!("n:{slot}")).unwrap(), Some(number));
        }
        let begun = tokio::time::Instant::now();
        while !has_partial() {
            assert!(begun.elapsed() < PATIENCE, "no snapshot");
            client.set::<_, _, ()>(format!("n:{}", written % SAVED_SLOTS), written).unwrap();
            written += 1;
            // Reads in the same order teach the associations that a snapshot contains.
            let _read: Option<u64> = client.get(format!("n:{}", written * 7 % SAVED_SLOTS)).unwrap();
        }
        // This sleep waits for no condition: the kill should hit any moment of the save.
        std::thread::sleep(Duration::from_micros(random.u64(..3_000)));
        server.kill();
        partial += usize::from(has_partial());
    }
    println!("{kills} kills, {partial} of them left a partial file, {written} writes acknowledged");
}
