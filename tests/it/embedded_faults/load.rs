//! Clients that write, remove and read keys of their own, and know which values each key may have.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use redis::{Commands, Connection, RedisResult};

use crate::support::{eventually, resp::connection};

/// Number of clients.
const CLIENTS: u64 = 4;
/// Number of keys of each client: more than L1 of the server has room for.
const KEYS: u64 = 100;
/// Maximum number of repetitions of its number in a value of about 7 bytes each.
const REPEATED_MAX: u64 = 4_000;

/// The values that a key may have, by their numbers; `None` if the key may be absent. Several values are possible if the
/// result of a write is unknown.
pub(super) type Known = BTreeMap<String, Vec<Option<u64>>>;

/// The value of this number. Values have different lengths.
fn value(number: u64) -> String {
    format!("{number:06}-").repeat((number % REPEATED_MAX) as usize + 1)
}

/// Numbers of answers to one client.
#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    removed: AtomicU64,
    read: AtomicU64,
    refused_writes: AtomicU64,
    refused_removals: AtomicU64,
    refused_reads: AtomicU64,
    unknown: AtomicU64,
}

/// A copy of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) written: u64,
    pub(super) removed: u64,
    pub(super) read: u64,
    pub(super) refused_writes: u64,
    pub(super) refused_removals: u64,
    pub(super) refused_reads: u64,
    pub(super) unknown: u64,
}

impl Counts {
    fn copied(&self) -> Answers {
        Answers {
            written: self.written.load(Relaxed),
            removed: self.removed.load(Relaxed),
            read: self.read.load(Relaxed),
            refused_writes: self.refused_writes.load(Relaxed),
            refused_removals: self.refused_removals.load(Relaxed),
            refused_reads: self.refused_reads.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
        }
    }
}

/// The running clients.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<(Arc<Counts>, JoinHandle<Known>)>,
}

impl Load {
    /// Starts the clients of a server.
    pub(super) fn start(address: &str, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |number| {
            let counts = Arc::new(Counts::default());
            let client = Client {
                number,
                connection: connection(address),
                random: fastrand::Rng::with_seed(seed + number),
                known: Known::new(),
                counts: Arc::clone(&counts),
                next: 0,
            };
            let stop = Arc::clone(&stop);
            (counts, std::thread::spawn(move || client.run(&stop)))
        };
        Self { clients: (0..CLIENTS).map(start).collect(), stop }
    }

    /// The answers to each client so far.
    pub(super) fn answers(&self) -> Vec<Answers> {
        self.clients.iter().map(|(counts, _)| counts.copied()).collect()
    }

    /// Waits until each client has received this many more answers of a kind. Returns all answers until then.
    pub(super) fn until(&self, what: &str, more: u64, kind: impl Fn(&Answers) -> u64) -> Vec<Answers> {
        let before = self.answers();
        let has_more = |(now, before): (&Answers, &Answers)| kind(now) >= kind(before) + more;
        let is_running = || self.clients.iter().all(|(_, client)| !client.is_finished());
        eventually(what, || !is_running() || self.answers().iter().zip(&before).all(has_more));
        assert!(is_running(), "a client failed");
        self.answers()
    }

    /// Stops the clients. Returns the values of their keys.
    pub(super) fn stop(self) -> Known {
        self.stop.store(true, Relaxed);
        self.clients.into_iter().flat_map(|(_, client)| client.join().expect("no failed client")).collect()
    }
}

struct Client {
    number: u64,
    connection: Connection,
    random: fastrand::Rng,
    known: Known,
    counts: Arc<Counts>,
    /// Number of the next value.
    next: u64,
}

/// The answer to a call.
enum Answer<T> {
    Done(T),
    /// The call was not executed.
    Refused,
    /// The call may be executed, now or later.
    Unknown,
}

fn answer<T>(result: RedisResult<T>) -> Answer<T> {
    match result {
        Ok(value) => Answer::Done(value),
        Err(error) => match error.code() {
            Some("UNAVAILABLE") => Answer::Refused,
            Some("UNKNOWN") => Answer::Unknown,
            _ => panic!("{error}"),
        },
    }
}

impl Client {
    fn run(mut self, stop: &AtomicBool) -> Known {
        while !stop.load(Relaxed) {
            let name = format!("{}:{}", self.number, self.random.u64(..KEYS));
            match self.random.u8(..4) {
                0 | 1 => self.write(name),
                2 => self.remove(name),
                _ => self.read(&name),
            }
        }
        self.known
    }

    fn write(&mut self, name: String) {
        let number = self.next;
        self.next += 1;
        let written = answer(self.connection.set::<_, _, ()>(&name, value(number)));
        let counts = Arc::clone(&self.counts);
        self.note(name, &written, Some(number), &counts.written, &counts.refused_writes);
    }

    fn remove(&mut self, name: String) {
        let removed = answer(self.connection.del::<_, u64>(&name));
        let counts = Arc::clone(&self.counts);
        self.note(name, &removed, None, &counts.removed, &counts.refused_removals);
    }

    fn note<T>(&mut self, name: String, answer: &Answer<T>, now: Option<u64>, done: &AtomicU64, refused: &AtomicU64) {
        let possible = self.known.entry(name).or_insert_with(|| vec![None]);
        let count = match answer {
            Answer::Done(_) => {
                *possible = vec![now];
                done
            }
            Answer::Refused => refused,
            Answer::Unknown => {
                possible.push(now);
                &self.counts.unknown
            }
        };
        count.fetch_add(1, Relaxed);
    }

    fn read(&mut self, name: &str) {
        match answer(self.connection.get::<_, Option<String>>(name)) {
            Answer::Done(found) => {
                assert_possible(&self.known, name, found);
                self.counts.read.fetch_add(1, Relaxed);
            }
            Answer::Refused => {
                self.counts.refused_reads.fetch_add(1, Relaxed);
            }
            Answer::Unknown => panic!("the result of a read is unknown"),
        }
    }
}

fn assert_possible(known: &Known, name: &str, found: Option<String>) {
    let possible = known.get(name).map_or(&[None][..], Vec::as_slice);
    let is_possible = possible.iter().any(|number| number.map(value) == found);
    let shown = found.map(|value| (value.len(), value.chars().take(7).collect::<String>()));
    assert!(is_possible, "{name} has {shown:?}, expected one of {possible:?}");
}

/// The server has one of the possible values of each key.
pub(super) fn check(address: &str, known: &Known) {
    let mut client = connection(address);
    for name in known.keys() {
        let mut found = None;
        eventually("a read is answered", || {
            let Answer::Done(value) = answer(client.get::<_, Option<String>>(name)) else { return false };
            found = value;
            true
        });
        assert_possible(known, name, found);
    }
}
