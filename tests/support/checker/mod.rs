//! The coherence checker: load on nodes and on Redis itself, and a judge of each read.
//!
//! Each key's value is a number that only grows. Writers go through each node (RESP and gRPC) and straight to Redis, in
//! turn, one at a time per key, so that the order of writes is known; readers ask all nodes over both protocols, in
//! batches. A read that began at t must see at least what was acknowledged before t − Δ.
//!
//! * [`truth`] keeps what was written and judges reads: pure, tested with histories of its own.
//! * [`load`] writes and reads.
//! * [`straight`] is the way past Terrace, to a standalone Redis or through a Cluster's slots.
//! * [`faults`] is the seeded schedule of what goes wrong, and a standalone Redis's faults; [`failovers`] those of Sentinels
//!   and Clusters.
//!
//! Keys that may go are written under a few tags through gRPC, and tags are invalidated: a read that began Δ after an
//! acknowledged invalidation must see nothing that was acknowledged under the tag before it was sent.
//!
//! What a reader straight to Redis sees is judged as well: a violation there would be a fault of the checker. A standalone
//! Redis is never stale (Δ = 0); a primary that has been replaced may be, until it hears of it.

pub mod failovers;
pub mod faults;
pub mod load;
pub mod straight;
pub mod truth;

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
    straight::Straight,
    truth::{Refuted, Truth},
};

/// Δ of the contract.
pub const BOUND: Duration = Duration::from_secs(1);
/// The way past all nodes.
const STRAIGHT: &str = "straight";
/// Violations that are told in full; all are counted.
const TOLD_MAX: usize = 20;

/// What to check.
pub struct Plan {
    /// The nodes: addresses of RESP and gRPC.
    pub nodes: Vec<(String, String)>,
    /// The way past them.
    pub straight: Straight,
    /// How old an answer straight from Redis may be.
    pub straight_bound: Duration,
    /// How much older an answer may be that a node flags as stale.
    pub stale_for: Duration,
    /// Keys under test.
    pub keys: usize,
    /// Writing tasks of each way (each node over each protocol, and straight).
    pub writers: usize,
    /// Reading tasks of each node and protocol.
    pub readers: usize,
    /// Of all random choices.
    pub seed: u64,
}

/// What one way in has done.
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
    /// Writes whose fate is not known.
    pub doubtful: AtomicU64,
}

/// Counts and findings of a run.
pub struct Tally {
    started: Instant,
    /// By way: `resp`, `grpc`, `straight`.
    pub resp: Count,
    pub grpc: Count,
    pub straight: Count,
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
            straight: Count::default(),
            invalidations: AtomicU64::new(0),
            oldest_us: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            told: Mutex::new(Vec::new()),
        }
    }
}

impl Tally {
    /// Judges a read and keeps what is to be told of it.
    pub fn judge(&self, truth: &Truth, way: &str, read: &truth::Read) {
        match truth.judge(read) {
            Ok(age) if way != STRAIGHT && read.bound == BOUND => {
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

    /// Acknowledged writes by all ways.
    pub fn writes(&self) -> u64 {
        [&self.resp, &self.grpc, &self.straight].iter().map(|count| count.writes.load(Relaxed)).sum()
    }

    /// Age of the oldest value read through a node without being flagged.
    pub fn oldest(&self) -> Duration {
        Duration::from_micros(self.oldest_us.load(Relaxed))
    }

    /// Reads that broke the contract.
    pub fn violations(&self) -> u64 {
        self.violations.load(Relaxed)
    }

    /// The first of them.
    pub fn told(&self) -> Vec<String> {
        self.told.lock().clone()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in [("resp", &self.resp), ("grpc", &self.grpc), ("straight", &self.straight)] {
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
        writeln!(f, "{} invalidations of tags", self.invalidations.load(Relaxed))?;
        write!(f, "oldest value {:?} past its successor, {} violations", self.oldest(), self.violations())
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Load that runs until it is stopped.
pub struct Checker {
    pub truth: Arc<Truth>,
    pub tally: Arc<Tally>,
    stop_writing: Arc<AtomicBool>,
    stop_reading: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Checker {
    /// Starts the load on a thread of its own.
    pub fn start(plan: Plan) -> Self {
        let truth = Arc::new(Truth::new(plan.keys));
        let tally = Arc::new(Tally::default());
        let (stop_writing, stop_reading) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let part = load::Part {
            truth: Arc::clone(&truth),
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
        Self { truth, tally, stop_writing, stop_reading, thread: Some(thread) }
    }

    /// No more writes from now on, but for those under way.
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
