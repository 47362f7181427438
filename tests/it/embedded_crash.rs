//! The embedded store is repeatedly killed with SIGKILL during writes: every acknowledged write is present afterwards.
//!
//! The killed process is this test binary, started again to run [`child`] alone. `TERRACE_KILLS=200` makes the run
//! long.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::future::join_all;
use terrace::{
    clock::Clock,
    l2::{
        Applied, Backend, Batch, Op, ScanRequest,
        embedded::Embedded,
        op::{Condition, SetExpiry},
    },
    model::Key,
};

use crate::support::{
    backend::{key, open_embedded},
    process::command_of_test,
    setting_from_environment,
};

/// Environment variable of the killed process: the directory of its store.
const DIR_VARIABLE: &str = "TERRACE_TEST_CRASH_DIR";
/// Environment variable of the killed process: its number.
const ROUND_VARIABLE: &str = "TERRACE_TEST_CRASH_ROUND";
/// Environment variable for the number of kills.
const KILLS_VARIABLE: &str = "TERRACE_KILLS";
const KILLS_DEFAULT: u64 = 10;
/// Number of concurrent clients, so that the store commits groups.
const CLIENTS: u64 = 8;
/// Maximum number of acknowledged writes before the process is killed.
const ACKNOWLEDGED_MAX: u64 = 3_000;

/// The value of a key. Values of different keys differ, also in length.
fn value(name: &str) -> Bytes {
    let length = 20 + name.bytes().map(usize::from).sum::<usize>() % 400;
    Bytes::from(name.repeat(length / name.len() + 1))
}

fn set(name: &str) -> Op {
    Op::Set { value: value(name), expiry: SetExpiry::Never, condition: Condition::Always, want_old: false }
}

/// Writes until it is killed, and prints the acknowledged writes. Does nothing in an ordinary run.
#[tokio::test]
async fn child() {
    let dir: String = setting_from_environment(DIR_VARIABLE, String::new());
    if dir.is_empty() {
        return;
    }
    let store = open_embedded(Path::new(&dir), Clock::real()).unwrap();
    let round: String = setting_from_environment(ROUND_VARIABLE, String::new());
    join_all((0..CLIENTS).map(|client| write_for_ever(&store, &round, client))).await;
}

async fn write_for_ever(store: &Arc<Embedded>, round: &str, client: u64) {
    for number in 0u64.. {
        let name = format!("{round}:{client}:{number}");
        let counter = key(&format!("counter:{client}"));
        let ops = vec![(key(&name), set(&name)), (counter, Op::Increment { delta: 1, life_if_new: None })];
        let results = store.apply(ops, Batch::Atomic).await;
        let [Ok(Applied::Set { stored: true, .. }), Ok(Applied::Number(count))] = results[..] else {
            panic!("{results:?}")
        };
        // One write for the whole line, so that no line is received in part.
        std::io::stdout().lock().write_all(format!("\nacknowledged {name} {client} {count}\n").as_bytes()).unwrap();
    }
}

/// Acknowledged writes of the killed processes.
#[derive(Default)]
struct Acknowledged {
    names: Vec<String>,
    /// Last count of each client.
    counts: BTreeMap<String, i64>,
}

impl Acknowledged {
    /// Records a line; returns whether it reports an acknowledged write.
    fn take(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split(' ').collect();
        let ["acknowledged", name, client, count] = words[..] else { return false };
        self.names.push(name.to_owned());
        self.counts.insert(client.to_owned(), count.parse().unwrap());
        true
    }
}

fn start(dir: &Path, round: u64) -> Child {
    command_of_test(module_path!(), "child")
        .env(DIR_VARIABLE, dir)
        .env(ROUND_VARIABLE, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Kills the process once it has acknowledged `after` writes, and reads all of its output.
fn run_and_kill(dir: &Path, round: u64, after: u64, acknowledged: &mut Acknowledged) {
    let mut process = start(dir, round);
    let lines = BufReader::new(process.stdout.take().unwrap()).split(b'\n');
    let (mut count, mut killed) = (0, false);
    for line in lines {
        count += u64::from(acknowledged.take(&String::from_utf8_lossy(&line.unwrap())));
        if count == after && !killed {
            process.kill().unwrap();
            killed = true;
        }
    }
    process.wait().unwrap();
    assert!(killed, "round {round} ended by itself after {count} writes");
}

async fn check(store: &Embedded, names: &[String]) {
    for chunk in names.chunks(1_000) {
        let keys: Vec<Key> = chunk.iter().map(|name| key(name)).collect();
        let found = store.get(&keys, false).await;
        for (name, found) in chunk.iter().zip(found) {
            let found = found.unwrap().map(|stored| stored.value.into_bytes());
            assert_eq!(found, Some(value(name)), "{name} was acknowledged");
        }
    }
}

async fn count_by_scan(store: &Embedded) -> u64 {
    let mut request = ScanRequest { cursor: 0, pattern: None, count: 10_000, type_name: None };
    let mut count = 0;
    loop {
        let page = store.scan(request.clone()).await.unwrap();
        count += page.keys.len() as u64;
        request.cursor = page.cursor;
        if page.cursor == 0 {
            return count;
        }
    }
}

#[tokio::test]
async fn a_killed_store_has_all_it_acknowledged() {
    let kills = setting_from_environment(KILLS_VARIABLE, KILLS_DEFAULT);
    let dir = tempfile::tempdir().unwrap();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut acknowledged = Acknowledged::default();
    for round in 0..kills {
        let before = acknowledged.names.len();
        run_and_kill(dir.path(), round, random.u64(1..ACKNOWLEDGED_MAX), &mut acknowledged);
        let store = open_embedded(dir.path(), Clock::real()).unwrap();
        check(&store, &acknowledged.names[before..]).await;
        for (client, acknowledged) in &acknowledged.counts {
            let stored = store.get(&[key(&format!("counter:{client}"))], false).await.remove(0).unwrap().unwrap();
            let stored: i64 = String::from_utf8_lossy(&stored.value).parse().unwrap();
            // The last increment may have been executed without an acknowledgement.
            assert!((*acknowledged..=acknowledged + 1).contains(&stored), "{client}: {acknowledged}, {stored}");
        }
    }
    let store = open_embedded(dir.path(), Clock::real()).unwrap();
    check(&store, &acknowledged.names).await;
    assert_eq!(store.count().await.unwrap(), count_by_scan(&store).await);
    println!("{kills} kills, {} writes acknowledged, {:?}", acknowledged.names.len(), store.stats());
}
