//! The embedded store: an ordered, crash-safe table in a directory that this process alone writes.
//!
//! # How it works
//! * One thread, the `writer`, makes all changes: it takes the calls that wait, applies them in order to a `group`,
//!   commits the group with one write to the journal, tells L1 which keys changed, and answers. That is what makes
//!   conditions, increments and batches atomic: there are no key locks to take. Many callers share one commit.
//! * Reads see the table between two commits. They run on the caller's thread while the data proves to be in memory
//!   (4 µs each), else on the two threads of the `pool`; so do scans and calls with more than 16 keys.
//! * `rows` says what is stored: each entry with the number of its write, a queue by that number for eviction, a
//!   calendar for expiry, and a tally of entries and bytes in the same commits. So [`count`](Backend::count) is one
//!   load, opening counts nothing, and what is over the bound or out of time is found without a search.
//! * A ban (`bans`) takes a number as a write does: it hides matching entries with smaller numbers until they are swept.
//! * `table` is all that knows fjall. [`clear`](Backend::clear) begins a new `generation` and deletes the old one.
//!
//! # What it promises
//! * An answered write is in the hands of the system: a killed process loses none. With [`Sync::Interval`] a thread
//!   forces the journal to the disk each interval, so a power cut loses at most that; with [`Sync::Always`] none. A
//!   journal whose last pages a power cut tore is cut before them (`mend`).
//! * [`Stats::bytes`] counts what is alive: key, value and everything stored beside them. It is within
//!   [`Settings::size_max_bytes`] after every commit (a store that is opened with a smaller bound comes down to it in
//!   the background); the oldest written go first. On the disk there is more: see below.
//! * An expired entry is never returned; its space is taken back within a second (10,000 a second, 1,000 at a time).
//! * When the disk is full or fails, calls end `Unavailable` and the table is opened again each second until it works.
//! * Deadlines: [`Tunables`]. A read on the caller's thread cannot be cut short; the second slow one sends the
//!   others to the pool.
//!
//! # Why fjall, in figures
//! Measured with 100 B values, 21 B keys and these rows in both, half a million entries, on 2 cores that others used,
//! on a virtual disk whose fsync takes 0.2 ms (a real one: 1 to 10). redb can only make a commit that survives a kill
//! by fsync, so each write waits for one; the third column is redb with commits that do not, a journal of our own
//! beside it and a durable commit each second.
//!
//! | | fjall 3.1 | redb 4.4 | redb 4.4 and a journal |
//! |---|---|---|---|
//! | overwrites/s, groups of 1 / 16 / 128 | 52 k / 67 k / 66 k | 2.2 k / 4.2 k / 10 k | 14 k / 38 k / 36 k |
//! | CPU of an overwrite, groups of 16 | 19 µs | 53 µs | 24 µs |
//! | new keys/s, groups of 128 | 190 k | 169 k | 101 k |
//! | get, cached / of an absent key | 4.0 / 1.3 µs | 3.7 / 3.3 µs | 3.8 / 3.4 µs |
//! | kill -9 among writes, 60 times: keys lost | 0 of 2.98 M | 0 of 0.32 M | |
//! | open after a kill, median / worst | 0.51 / 0.95 s | 0.03 / 0.06 s | |
//! | churn at 256 MiB alive: ops/s, disk | 42 to 82 k, 424 MB | (512 MiB:) 17 to 43 k, 573 MB | 24 to 45 k, 835 MB |
//! | longest commit, resident memory in that churn | 220 ms, 213 MB | 34 ms, 70 MB | 310 ms, 75 MB |
//!
//! fjall does what is promised with a write and no fsync, and is fastest; redb is the steadier one on the disk and in
//! memory. Files of 8 MiB instead of 64 (685 MB in the churn above), ordinary tombstones, a pause of the writer before
//! fjall halts it (100 ms at a time) and a flush in quiet times make up for most of that.
//!
//! # What it takes
//! * On the disk: with new keys at full speed for minutes at most 2.6 times the bound (334 MB at 128 MiB of 100 B values,
//!   640 MB at 256 MiB of 4 KiB values), journals of 64 to 128 MiB included; 1.4 to 1.8 times in quiet times. What is
//!   dead goes when its files are compacted, and tombstones of large values are too small to call for that early.
//! * In memory: 160 to 240 MB under that load, whatever the size: 64 MiB of blocks, up to five write buffers of 16 MiB.
//! * To open: an empty store 0.2 s on a machine with six busy neighbours, most of it some ten fsyncs; after a kill the
//!   journal is read again, up to 64 MiB, 0.5 s.
//! * CPU: 20 µs for a write, shared between the writer and compaction; 4 to 6 µs for a read.

mod bans;
mod cursors;
mod directory;
mod generation;
mod group;
mod mend;
mod pool;
mod reader;
mod rows;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Applied, Backend, Ban, Batch, ChangeSink, Described, Effort, Flavor, Op, ScanPage, ScanRequest, State, Stored,
    SweepPage, Tunables, bans::OpenBans,
};
use crate::{
    clock::Clock,
    error::{CacheError, Kind, Result},
    glob::Glob,
    model::Key,
};
use cursors::Cursors;
use generation::Generations;
use pool::{Pool, overloaded, stopped};
use table::Table;
use writer::{Job, Writer};

/// Calls with writes that wait for the writer. At 50 thousand a second the last of them waits 80 ms, less than the
/// deadline of a write.
const WRITES_WAITING_MAX: usize = 4096;
/// A clear may take longer than other writes: it creates files and waits for the disk some ten times.
const CLEAR_DEADLINE: Duration = Duration::from_secs(5);
/// The default of [`Settings::size_max_bytes`].
pub const SIZE_MAX_DEFAULT: u64 = 4 << 30;
/// The default interval of [`Sync::Interval`].
pub const SYNC_INTERVAL_DEFAULT: Duration = Duration::from_millis(100);
/// The smallest bound that is accepted, bytes: write buffers and journals take more than a smaller store would.
pub const SIZE_MAX_LEAST: u64 = 1 << 20;

/// Where the store is and what it may use.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its directory; created where missing.
    pub dir: PathBuf,
    /// Most bytes of entries, as [`Stats::bytes`] counts them.
    pub size_max_bytes: u64,
    /// When writes are forced to the disk.
    pub sync: Sync,
}

impl Settings {
    /// The defaults, in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), size_max_bytes: SIZE_MAX_DEFAULT, sync: Sync::Interval(SYNC_INTERVAL_DEFAULT) }
    }
}

/// When writes are forced to the disk. A killed process loses no answered write either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Again and again after this time, at least 1 ms: a power cut loses no more than the writes since.
    Interval(Duration),
    /// Before each answer; concurrent writes share one.
    Always,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store in {dir} is in use by another server; give each server a directory of its own")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It cannot be created, read or written.
    #[error("the store directory {dir} cannot be used: {source}; it must be a directory that this user may write")]
    NotUsable {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{dir} is not empty and holds no store (it contains {found}); name an empty directory or a new one")]
    NotAStore {
        /// The directory.
        dir: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// A newer version of Terrace wrote it.
    #[error(
        "the store in {dir} has format {found}, this version reads format {known}; start the newer version of Terrace, \
         or move the directory away to begin with an empty store"
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// The format that was found.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// Its files cannot be read.
    #[error(
        "the store in {dir} is damaged ({reason}); move the directory away to begin with an empty store, or restore a copy"
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What was found.
        reason: String,
    },
}

/// What the store holds and has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Entries, expired ones included that were not removed yet.
    pub entries: u64,
    /// Bytes of these entries: key twice, value, 74 B, and 33 B more with an expiry.
    pub bytes: u64,
    /// The bound on them.
    pub size_max_bytes: u64,
    /// Bytes on the disk now, journals included.
    pub disk_bytes: u64,
    /// Entries removed because the store was over its bound.
    pub evicted: u64,
    /// Entries removed because their time had passed.
    pub expired: u64,
    /// Groups of writes committed.
    pub commits: u64,
    /// Reads that waited for the disk for longer than 1 ms on the thread of their caller.
    pub slow_reads: u64,
}

/// The store.
pub struct Embedded {
    shared: Arc<Shared>,
    pool: Option<Pool>,
    writes: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
    syncer: Option<(SyncSender<()>, JoinHandle<()>)>,
}

/// What all threads of the store see.
struct Shared {
    clock: Clock,
    tunables: Arc<Tunables>,
    sink: Arc<dyn ChangeSink>,
    /// `None` while it has failed and is not open again.
    table: ArcSwapOption<Table>,
    cursors: Mutex<Cursors>,
    bans: OpenBans,
    state: Mutex<State>,
    counters: Counters,
    size_max: u64,
    sync_always: bool,
}

#[derive(Default)]
struct Counters {
    entries: AtomicU64,
    bytes: AtomicU64,
    /// No order row is below this number ...
    oldest: AtomicU64,
    /// ... or at this one and above.
    next_written: AtomicU64,
    evicted: AtomicU64,
    expired: AtomicU64,
    commits: AtomicU64,
    slow_reads: AtomicU64,
    /// How slow the last reads were.
    slow_score: AtomicU64,
    /// [`stopwatch_ns`](crate::clock::stopwatch_ns) until when reads go to the pool.
    slow_until_ns: AtomicU64,
    /// Something was committed since the last sync.
    dirty: AtomicBool,
}

impl Embedded {
    /// Opens the store, or creates it, and starts its threads.
    ///
    /// # Errors
    /// See [`OpenError`]; each names the directory and what to do.
    pub fn open(
        settings: Settings,
        clock: Clock,
        tunables: Arc<Tunables>,
        sink: Arc<dyn ChangeSink>,
    ) -> Result<Arc<Self>, OpenError> {
        let (generations, table) = Generations::open(&settings.dir)?;
        let shared = Arc::new(Shared {
            clock,
            tunables,
            sink,
            table: ArcSwapOption::empty(),
            cursors: Mutex::default(),
            bans: OpenBans::default(),
            state: Mutex::new(State::Connecting),
            counters: Counters::default(),
            size_max: settings.size_max_bytes.max(SIZE_MAX_LEAST),
            sync_always: settings.sync == Sync::Always,
        });
        let writer = Writer::new(Arc::clone(&shared), generations, table)
            .map_err(|error| OpenError::Damaged { dir: settings.dir.clone(), reason: error.to_string() })?;
        Self::start(shared, writer, settings.sync)
            .map(Arc::new)
            .map_err(|source| OpenError::NotUsable { dir: settings.dir, source })
    }

    fn start(shared: Arc<Shared>, writer: Writer, sync: Sync) -> io::Result<Self> {
        let (writes, jobs) = sync_channel(WRITES_WAITING_MAX);
        let writing = std::thread::Builder::new().name("l2-write".into()).spawn(move || writer.run(&jobs))?;
        let syncer = match sync {
            Sync::Always => None,
            Sync::Interval(interval) => Some(start_syncer(Arc::clone(&shared), interval)?),
        };
        Ok(Self { shared, pool: Some(Pool::start()?), writes: Some(writes), writer: Some(writing), syncer })
    }

    /// Counts of now. About 1 ms, because the files are looked at.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        Stats {
            entries: of(&counters.entries),
            bytes: of(&counters.bytes),
            size_max_bytes: self.shared.size_max,
            disk_bytes: self.shared.table.load().as_ref().map_or(0, |table| table.disk_bytes()),
            evicted: of(&counters.evicted),
            expired: of(&counters.expired),
            commits: of(&counters.commits),
            slow_reads: of(&counters.slow_reads),
        }
    }

    /// Has the writer do something that is not on a request's path.
    async fn change<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let deadline = self.shared.tunables.deadlines().write.max(CLEAR_DEADLINE);
        self.write(job(answer), answered, deadline).await?
    }

    /// Hands a job to the writer and waits for its answer no longer than `deadline`.
    async fn write<T>(&self, job: Job, answered: oneshot::Receiver<T>, deadline: Duration) -> Result<T> {
        match self.writes.as_ref().map(|writes| writes.try_send(job)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => return Err(overloaded()),
            Some(Err(TrySendError::Disconnected(_))) | None => return Err(stopped()),
        }
        match timeout(deadline, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CacheError::new(Kind::Unknown, "the embedded store stopped in the middle of a write")),
            Err(_) => {
                let message =
                    format!("the embedded store did not answer within {deadline:?}; the write may still happen");
                Err(CacheError::new(Kind::Unknown, message))
            }
        }
    }
}

impl Drop for Embedded {
    /// Finishes the writes that were taken, hands them to the disk and releases the directory. Blocks meanwhile.
    fn drop(&mut self) {
        self.pool = None;
        self.writes = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        if let Some((stop, syncer)) = self.syncer.take() {
            drop(stop);
            let _ = syncer.join();
        }
    }
}

fn start_syncer(shared: Arc<Shared>, interval: Duration) -> io::Result<(SyncSender<()>, JoinHandle<()>)> {
    let interval = interval.max(Duration::from_millis(1));
    let (stop, stopped) = sync_channel(1);
    let thread =
        std::thread::Builder::new().name("l2-sync".into()).spawn(move || sync_every(interval, &shared, &stopped))?;
    Ok((stop, thread))
}

fn sync_every(interval: Duration, shared: &Shared, stopped: &Receiver<()>) {
    while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        if !shared.counters.dirty.swap(false, Relaxed) {
            continue;
        }
        let Some(table) = shared.table.load_full() else { continue };
        if let Err(error) = table.sync() {
            // The table takes no more writes after this; the next one finds out and opens it again.
            tracing::error!(%error, "writes could not be forced to the disk");
        }
    }
}

impl Backend for Embedded {
    fn flavor(&self) -> Flavor {
        Flavor::Embedded
    }

    fn get<'a>(&'a self, keys: &'a [Key], with_life: bool) -> BoxFuture<'a, Vec<Result<Option<Stored>>>> {
        self.read_each(keys, move |shared, keys| shared.get(keys, with_life)).boxed()
    }

    /// Batches of both kinds happen at one instant.
    fn apply<'a>(&'a self, ops: Vec<(Key, Op)>, _batch: Batch) -> BoxFuture<'a, Vec<Result<Applied>>> {
        async move {
            let count = ops.len();
            let (answer, answered) = oneshot::channel();
            let deadline = self.shared.tunables.deadlines().write;
            match self.write(Job::Apply { ops, answer }, answered, deadline).await {
                Ok(results) => results,
                Err(error) => vec![Err(error); count],
            }
        }
        .boxed()
    }

    fn describe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Option<Described>>>> {
        self.read_each(keys, |shared, keys| shared.describe(keys)).boxed()
    }

    fn scan(&self, request: ScanRequest) -> BoxFuture<'_, Result<ScanPage>> {
        self.read_one(move |shared| shared.scan(&request)).boxed()
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        std::future::ready(Ok(self.shared.counters.entries.load(Relaxed))).boxed()
    }

    fn random_key(&self) -> BoxFuture<'_, Result<Option<Key>>> {
        self.read_one(Shared::random_key).boxed()
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        self.change(|answer| Job::Clear { answer }).boxed()
    }

    fn ban(&self, glob: Glob) -> BoxFuture<'_, Result<u64>> {
        self.change(|answer| Job::Ban { glob, answer }).boxed()
    }

    fn open_bans(&self) -> Arc<Vec<Arc<Ban>>> {
        self.shared.bans.all().unwrap_or_default()
    }

    fn sweep<'a>(&'a self, ban: &'a Ban, cursor: u64, effort: Effort) -> BoxFuture<'a, Result<SweepPage>> {
        let ban = ban.clone();
        self.change(move |answer| Job::Sweep { ban, cursor, effort, answer }).boxed()
    }

    fn retire(&self, ban: u64) -> BoxFuture<'_, Result<()>> {
        self.change(move |answer| Job::Retire { ban, answer }).boxed()
    }

    fn state(&self) -> State {
        self.shared.state.lock().clone()
    }
}
