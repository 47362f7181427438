//! The coherence checker: load on nodes and on Redis, and a judge of each read.
//!
//! The value of each key is a number that only grows. Writers go through each node (RESP and gRPC) and directly to
//! Redis, in turn, one at a time per key, so that the order of writes is known. Readers query all nodes over both
//! protocols, in batches. A read that began at t must return at least the last write that was acknowledged before t −
//! Δ.
//!
//! * [`run`] runs a plan under faults and checks the result.
//! * [`history`] records writes and judges reads. It does no I/O and is tested with histories of its own.
//! * [`load`] writes and reads.
//! * [`direct`] bypasses Terrace, to a standalone Redis, through Sentinels or to a Cluster.
//! * [`faults`] is the seeded schedule of faults, and the faults of a standalone Redis; [`failovers`] has those of
//!   Sentinels and Clusters.
//!
//! Keys that may be removed are written under tags through gRPC, and tags are invalidated. A read that began Δ after an
//! acknowledged invalidation must not return a value that was acknowledged under the tag before the invalidation was
//! sent.
//!
//! Reads directly from Redis are judged as well; a violation there is a fault of the checker. A standalone Redis is
//! never stale (Δ = 0). A replaced primary may be stale until it learns of its demotion.

pub mod direct;
pub mod failovers;
pub mod faults;
pub mod history;
pub mod load;
pub mod run;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{task::JoinSet, time::Instant};

use self::{
    direct::Direct,
    history::{History, Refuted},
};

/// Δ of the contract.
pub const BOUND: Duration = Duration::from_secs(1);
/// Label of reads that bypass all nodes.
const DIRECT: &str = "direct";
/// Maximum number of violations that are reported in full; all are counted.
const TOLD_MAX: usize = 20;

/// The load and the limits of a run.
pub struct Plan {
    /// RESP and gRPC address of each node.
    pub nodes: Vec<(String, String)>,
    /// The Redis behind the nodes.
    pub direct: Direct,
    /// Maximum age of an answer directly from Redis.
    pub direct_bound: Duration,
    /// Additional age allowed for an answer that a node flags as stale.
    pub stale_for: Duration,
    /// True if some writes through the RESP port are scripts, with declared and with undeclared keys.
    pub scripts: bool,
    /// Number of keys under test.
    pub keys: usize,
    /// Writing tasks of each path (each node over each protocol, and directly to Redis).
    pub writers: usize,
    /// Reading tasks of each node and protocol.
    pub readers: usize,
    /// Seed of all random choices.
    pub seed: u64,
}

/// Counts of one path.
#[derive(Debug, Default)]
pub struct Count {
    /// Reads with a value or a miss.
    pub reads: AtomicU64,
    /// Misses among them.
    pub missing: AtomicU64,
    /// Values among them that were flagged stale.
    pub stale: AtomicU64,
    /// Reads without an answer.
    pub read_errors: AtomicU64,
    /// Acknowledged writes.
    pub writes: AtomicU64,
    /// Writes without an answer.
    pub doubtful: AtomicU64,
}

/// Counts and findings of a run.
pub struct Tally {
    started: Instant,
    /// By path: `resp`, `grpc`, `direct`.
    pub resp: Count,
    pub grpc: Count,
    pub direct: Count,
    /// Acknowledged writes by scripts that declare their key, and by scripts that declare another key.
    pub scripts: [AtomicU64; 2],
    /// Acknowledged invalidations of tags.
    pub invalidations: AtomicU64,
    /// Age of the oldest value that was read through a node, microseconds since its successor was acknowledged.
    oldest_us: AtomicU64,
    violations: AtomicU64,
    told: Mutex<Vec<String>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            resp: Count::default(),
            grpc: Count::default(),
            direct: Count::default(),
            scripts: Default::default(),
            invalidations: AtomicU64::new(0),
            oldest_us: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            told: Mutex::new(Vec::new()),
        }
    }
}

impl Tally {
    /// Judges a read and records the result.
    pub fn judge(&self, history: &History, way: &str, read: &history::Read) {
        match history.judge(read) {
            Ok(age) if way != DIRECT && read.bound == BOUND => {
                self.oldest_us.fetch_max(micros(age), Relaxed);
            }
            Ok(_) => {}
            Err(refuted) => self.refute(way, &refuted),
        }
    }

    fn refute(&self, way: &str, refuted: &Refuted) {
        self.violations.fetch_add(1, Relaxed);
        let mut told = self.told.lock();
        if told.len() < TOLD_MAX {
            told.push(format!("{:?} {way}: {refuted}", self.started.elapsed()));
        }
    }

    /// Reads of all nodes.
    pub fn reads(&self) -> u64 {
        self.resp.reads.load(Relaxed) + self.grpc.reads.load(Relaxed)
    }

    /// Acknowledged writes of all paths.
    pub fn writes(&self) -> u64 {
        [&self.resp, &self.grpc, &self.direct].iter().map(|count| count.writes.load(Relaxed)).sum()
    }

    /// Age of the oldest value read through a node without being flagged.
    pub fn oldest(&self) -> Duration {
        Duration::from_micros(self.oldest_us.load(Relaxed))
    }

    /// Reads that broke the contract.
    pub fn violations(&self) -> u64 {
        self.violations.load(Relaxed)
    }

    /// The first violations, as text.
    pub fn told(&self) -> Vec<String> {
        self.told.lock().clone()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in [("resp", &self.resp), ("grpc", &self.grpc), ("direct", &self.direct)] {
            let of = |count: &AtomicU64| count.load(Relaxed);
            writeln!(
                f,
                "{name}: {} reads ({} missing, {} flagged stale), {} errors; {} writes, {} doubtful",
                of(&count.reads),
                of(&count.missing),
                of(&count.stale),
                of(&count.read_errors),
                of(&count.writes),
                of(&count.doubtful),
            )?;
        }
        let [declared, undeclared] = self.scripts.each_ref().map(|count| count.load(Relaxed));
        writeln!(f, "{declared} writes of declared keys by scripts, {undeclared} of undeclared keys")?;
        writeln!(f, "{} invalidations of tags", self.invalidations.load(Relaxed))?;
        write!(f, "oldest value {:?} past its successor, {} violations", self.oldest(), self.violations())
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Load that runs until it is stopped.
pub struct Checker {
    pub history: Arc<History>,
    pub tally: Arc<Tally>,
    stop_writing: Arc<AtomicBool>,
    stop_reading: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Checker {
    /// Starts the load on a thread of its own.
    pub fn start(plan: Plan) -> Self {
        let history = Arc::new(History::new(plan.keys));
        let tally = Arc::new(Tally::default());
        let (stop_writing, stop_reading) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let part = load::Part {
            history: Arc::clone(&history),
            tally: Arc::clone(&tally),
            stale_for: plan.stale_for,
            stop_writing: Arc::clone(&stop_writing),
            stop_reading: Arc::clone(&stop_reading),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                load::spawn(&plan, &part, &mut tasks);
                while let Some(ended) = tasks.join_next().await {
                    ended.expect("no task of the load panics");
                }
            });
        });
        Self { history, tally, stop_writing, stop_reading, thread: Some(thread) }
    }

    /// Stops new writes; writes in flight continue.
    pub fn stop_writing(&self) {
        self.stop_writing.store(true, Relaxed);
    }

    /// Stops, and waits until all tasks have ended.
    pub fn stop(mut self) -> Arc<Tally> {
        self.end();
        Arc::clone(&self.tally)
    }

    fn end(&mut self) {
        self.stop_writing();
        self.stop_reading.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the load ended in a panic");
        }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.end();
    }
}
