//! [`Embedded`]: opens the store, starts and stops its threads, and hands calls to them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
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
    disk::{generation::Generations, reserve::Reserve},
    errors::{OpenError, overloaded, stopped, unavailable},
    read_pool::ReadPool,
    settings::{EmbeddedSettings, SIZE_MAX_LEAST, Sync},
    state::{Counters, StoreState},
    writer::{Clear, Job, Writer},
};
use crate::{
    clock::Clock,
    error::{CacheError, Kind, Result},
    glob::Glob,
    l2::{
        Applied, Backend, Ban, BanStore, Batch, ChangeSink, Described, Effort, Flavor, Health, LoadStore, Op, ScanPage,
        ScanRequest, State, Stored, SweepPage, Tunables,
        bans::OpenBans,
        loads::{LoadOp, LoadResult, local::LocalLoads},
    },
    model::Key,
};

/// Maximum number of calls that wait for the writer. Further writes are rejected as overloaded. At 50,000 writes per second
/// the last of them waits 80 ms, much less than the default write deadline.
const WRITES_WAITING_MAX: usize = 4096;
/// Maximum number of clears that wait for the writer.
const CLEARS_WAITING_MAX: usize = 64;
/// Deadline of an operation that clears the store.
const CLEAR_DEADLINE: Duration = Duration::from_secs(5);

/// Contents of the store and its counters since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Number of entries, including expired entries that are not removed yet.
    pub entries: u64,
    /// Size of these entries in bytes: key twice, value, 74 B, and 33 B more for an entry with an expiry.
    pub bytes: u64,
    /// Maximum of `bytes`.
    pub size_max_bytes: u64,
    /// Current size of all files in bytes, including journals.
    pub disk_bytes: u64,
    /// Number of entries evicted to keep the store within its maximum size.
    pub evicted: u64,
    /// Number of expired entries that were removed.
    pub expired: u64,
    /// Number of committed write groups.
    pub commits: u64,
    /// Number of reads that blocked the caller's thread for more than 1 ms.
    pub slow_reads: u64,
}

/// The embedded store.
pub struct Embedded {
    pub(super) shared: Arc<StoreState>,
    pub(super) pool: Option<ReadPool>,
    id: u64,
    writes: Option<SyncSender<Job>>,
    /// Clears have a queue of their own: they do not wait for the queued writes, which are concurrent to them.
    clears: Option<SyncSender<Clear>>,
    writer: Option<JoinHandle<()>>,
    syncer: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Embedded {
    /// Opens the store, or creates it, and starts its threads.
    ///
    /// # Errors
    /// See [`OpenError`]; each error names the directory and the remedy.
    pub fn open(
        settings: EmbeddedSettings,
        clock: Clock,
        tunables: Arc<Tunables>,
        sink: Arc<dyn ChangeSink>,
    ) -> Result<Arc<Self>, OpenError> {
        let size_max = settings.size_max_bytes.max(SIZE_MAX_LEAST);
        let reserve = Reserve::new(&settings.dir, size_max);
        // On a full disk, the store may need the space that a killed process has reserved.
        let opened = match Generations::open(&settings.dir) {
            Err(error) if error.is_full() && reserve.release() => Generations::open(&settings.dir),
            opened => opened,
        };
        let (generations, opened) = opened?;
        let id = generations.store_id();
        let shared = Arc::new(StoreState {
            loads: Arc::new(LocalLoads::new(clock.clone())),
            clock,
            tunables,
            sink,
            table: ArcSwapOption::empty(),
            cursors: Mutex::default(),
            bans: OpenBans::default(),
            state: Mutex::new(State::Connecting),
            counters: Counters::default(),
            size_max,
            sync_always: settings.sync == Sync::Always,
        });
        let writer = Writer::new(Arc::clone(&shared), generations, opened, reserve)
            .map_err(|error| OpenError::Damaged { dir: settings.dir.clone(), reason: error.to_string() })?;
        Self::start(shared, writer, settings.sync, id)
            .map(Arc::new)
            .map_err(|source| OpenError::NotUsable { dir: settings.dir, source })
    }

    fn start(shared: Arc<StoreState>, writer: Writer, sync: Sync, id: u64) -> io::Result<Self> {
        let (writes, jobs) = sync_channel(WRITES_WAITING_MAX);
        let (clears, clearing) = sync_channel(CLEARS_WAITING_MAX);
        let work = move || writer.run(&jobs, &clearing);
        let writing = std::thread::Builder::new().name("l2-write".into()).spawn(work)?;
        let syncer = match sync {
            Sync::Always => None,
            Sync::Interval(interval) => Some(start_syncer(Arc::clone(&shared), interval)?),
        };
        Ok(Self {
            shared,
            pool: Some(ReadPool::start()?),
            id,
            writes: Some(writes),
            clears: Some(clears),
            writer: Some(writing),
            syncer,
        })
    }

    /// Returns the current figures. Takes about 1 ms, because it reads the sizes of the files.
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

    /// Runs an administrative job on the writer's thread and waits for its result.
    async fn change<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let deadline = self.shared.tunables.deadlines().write.max(CLEAR_DEADLINE);
        self.write(job(answer), answered, deadline).await?
    }

    /// Hands a job to the writer and waits for the answer for at most `deadline`.
    async fn write<T>(&self, job: Job, answered: oneshot::Receiver<T>, deadline: Duration) -> Result<T> {
        if self.shared.counters.rebuilding.load(Relaxed) {
            return Err(unavailable());
        }
        match self.writes.as_ref().map(|writes| writes.try_send(job)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => return Err(overloaded()),
            Some(Err(TrySendError::Disconnected(_))) | None => return Err(stopped()),
        }
        Self::answer(answered, deadline).await
    }

    /// Hands a clear to the writer and waits for its result.
    async fn clear_all(&self) -> Result<()> {
        if self.shared.counters.rebuilding.load(Relaxed) {
            return Err(unavailable());
        }
        let (answer, answered) = oneshot::channel();
        let waiting = &self.shared.counters.clears_waiting;
        waiting.fetch_add(1, Relaxed);
        if let Some(Err(error)) = self.clears.as_ref().map(|clears| clears.try_send(answer)) {
            waiting.fetch_sub(1, Relaxed);
            return Err(if matches!(error, TrySendError::Full(_)) { overloaded() } else { stopped() });
        }
        // Wakes the writer. If the queue is full, the writer is awake.
        let _full = self.writes.as_ref().map(|writes| writes.try_send(Job::Wake));
        let deadline = self.shared.tunables.deadlines().write.max(CLEAR_DEADLINE);
        Self::answer(answered, deadline).await?
    }

    /// Waits for the answer of the writer for at most `deadline`.
    async fn answer<T>(answered: oneshot::Receiver<T>, deadline: Duration) -> Result<T> {
        match timeout(deadline, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CacheError::new(
                Kind::Unknown,
                "the embedded store was closed during a write; the write may still happen",
            )),
            Err(_) => {
                let message =
                    format!("the embedded store did not answer within {deadline:?}; the write may still happen");
                Err(CacheError::new(Kind::Unknown, message))
            }
        }
    }
}

impl Drop for Embedded {
    /// Completes the queued writes, syncs them to disk and releases the directory. Blocks until that is done.
    fn drop(&mut self) {
        self.pool = None;
        (self.writes, self.clears) = (None, None);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        if let Some((stop, syncer)) = self.syncer.take() {
            drop(stop);
            let _ = syncer.join();
        }
    }
}

fn start_syncer(shared: Arc<StoreState>, interval: Duration) -> io::Result<(SyncSender<()>, JoinHandle<()>)> {
    let interval = interval.max(Duration::from_millis(1));
    let (stop, stopped) = sync_channel(1);
    let thread =
        std::thread::Builder::new().name("l2-sync".into()).spawn(move || sync_every(interval, &shared, &stopped))?;
    Ok((stop, thread))
}

fn sync_every(interval: Duration, shared: &StoreState, stopped: &Receiver<()>) {
    while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        if !shared.counters.dirty.swap(false, Relaxed) {
            continue;
        }
        let Some(table) = shared.table.load_full() else { continue };
        if let Err(error) = table.sync() {
            // The table accepts no more writes after this error; the next write fails and triggers a reopen.
            tracing::error!(%error, "the embedded store cannot sync writes to disk; a power failure may lose them");
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

    fn get_within<'a>(
        &'a self,
        keys: &'a [Key],
        _part_max: usize,
    ) -> BoxFuture<'a, Vec<Option<Result<Option<Stored>>>>> {
        async move {
            let read = self.read_each(keys, |shared, keys| shared.get_within(keys).into_iter().map(Ok).collect());
            read.await.into_iter().map(|result| result.unwrap_or_else(|error| Some(Err(error)))).collect()
        }
        .boxed()
    }

    /// Batches of both kinds are committed atomically. On a full disk, only the writes of an independent batch that need
    /// space fail; an atomic batch fails as a whole.
    fn apply<'a>(&'a self, ops: Vec<(Key, Op)>, batch: Batch) -> BoxFuture<'a, Vec<Result<Applied>>> {
        async move {
            let count = ops.len();
            let (answer, answered) = oneshot::channel();
            let deadline = self.shared.tunables.deadlines().write;
            match self.write(Job::Apply { ops, batch, answer }, answered, deadline).await {
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
        let counters = &self.shared.counters;
        let shown = counters.entries.load(Relaxed).saturating_sub(counters.own.load(Relaxed));
        std::future::ready(Ok(shown)).boxed()
    }

    fn random_key(&self) -> BoxFuture<'_, Result<Option<Key>>> {
        self.read_one(StoreState::random_key).boxed()
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        self.clear_all().boxed()
    }

    fn store_id(&self) -> Option<u64> {
        Some(self.id)
    }

    fn state(&self) -> State {
        self.shared.state.lock().clone()
    }

    fn health(&self) -> Health {
        let damage = self.shared.counters.damage.load(Relaxed);
        Health { deadlines: Some(self.shared.tunables.deadlines()), damage, ..Health::default() }
    }
}

impl LoadStore for Embedded {
    fn load(&self, key: Key, op: LoadOp) -> BoxFuture<'_, Result<LoadResult>> {
        let (answer, answered) = oneshot::channel();
        let deadline = self.shared.tunables.deadlines().write;
        let job = Job::Load { key, op: Box::new(op), answer };
        async move { self.write(job, answered, deadline).await? }.boxed()
    }
}

impl BanStore for Embedded {
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
}
