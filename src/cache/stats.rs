//! Counts each user read once, by outcome, and what happens around reads. Each worker has counters of its own, so that
//! counting shares no cache line between threads; sums are made when somebody asks.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use super::{
    Cache, Health, State,
    gate::Coherence,
    latency::{Histogram, Latency},
};
use crate::{
    l1::{Removals, Usage},
    l2::Flavor,
    model::Outcome,
};

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct Counters {
    reads: CachePadded<ReadCounters>,
    below: Below,
}

/// Calls to L2.
#[derive(Debug, Default)]
struct Below {
    keys_read: AtomicU64,
    ops_written: AtomicU64,
    errors: AtomicU64,
    read: Histogram,
    write: Histogram,
}

#[derive(Debug, Default)]
struct ReadCounters {
    hit_l1: AtomicU64,
    stale: AtomicU64,
    hit_l2: AtomicU64,
    miss: AtomicU64,
    error: AtomicU64,
    coalesced: AtomicU64,
    bypassed: AtomicU64,
    promoted: AtomicU64,
    fills_voided: AtomicU64,
}

impl Counters {
    /// One user read of one key has ended so.
    #[inline]
    pub(crate) fn outcome(&self, outcome: Outcome, coalesced: bool) {
        let reads = &self.reads;
        let counter = match outcome {
            Outcome::HitL1 => &reads.hit_l1,
            Outcome::Stale => &reads.stale,
            Outcome::HitL2 => &reads.hit_l2,
            Outcome::Miss => &reads.miss,
            Outcome::Error => &reads.error,
        };
        counter.fetch_add(1, Relaxed);
        if coalesced && matches!(outcome, Outcome::HitL2 | Outcome::Miss) {
            reads.coalesced.fetch_add(1, Relaxed);
        }
    }

    /// A user read was answered by L1; how many had been before.
    #[inline]
    pub(crate) fn hit_l1(&self) -> u64 {
        self.reads.hit_l1.fetch_add(1, Relaxed)
    }

    /// One call that read `keys` from L2 has ended, `failed` of them in an error.
    pub(crate) fn read_below(&self, keys: usize, failed: usize, us: u64) {
        self.below.keys_read.fetch_add(keys as u64, Relaxed);
        self.below.errors.fetch_add(failed as u64, Relaxed);
        self.below.read.record_us(us);
    }

    /// One call that wrote `ops` to L2 has ended, `failed` of them in an error.
    pub(crate) fn written_below(&self, ops: usize, failed: usize, us: u64) {
        self.below.ops_written.fetch_add(ops as u64, Relaxed);
        self.below.errors.fetch_add(failed as u64, Relaxed);
        self.below.write.record_us(us);
    }

    pub(crate) fn bypassed(&self, keys: u64) {
        self.reads.bypassed.fetch_add(keys, Relaxed);
    }

    pub(crate) fn promoted(&self) {
        self.reads.promoted.fetch_add(1, Relaxed);
    }

    pub(crate) fn fill_voided(&self) {
        self.reads.fills_voided.fetch_add(1, Relaxed);
    }
}

/// All counters of a server.
#[derive(Debug, Default)]
pub struct Stats {
    workers: Mutex<Vec<Arc<Counters>>>,
}

impl Stats {
    pub(crate) fn register(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.workers.lock().push(Arc::clone(&counters));
        counters
    }

    /// Sums over all workers.
    #[must_use]
    pub fn reads(&self) -> Reads {
        let mut sum = Reads::default();
        for worker in self.workers.lock().iter() {
            let reads = &worker.reads;
            sum.hit_l1 += reads.hit_l1.load(Relaxed);
            sum.stale += reads.stale.load(Relaxed);
            sum.hit_l2 += reads.hit_l2.load(Relaxed);
            sum.miss += reads.miss.load(Relaxed);
            sum.error += reads.error.load(Relaxed);
            sum.coalesced += reads.coalesced.load(Relaxed);
            sum.bypassed += reads.bypassed.load(Relaxed);
            sum.promoted += reads.promoted.load(Relaxed);
            sum.fills_voided += reads.fills_voided.load(Relaxed);
        }
        sum
    }

    /// Calls to L2, sums over all workers.
    #[must_use]
    pub fn calls(&self) -> Calls {
        let mut sum = Calls::default();
        for worker in self.workers.lock().iter() {
            let below = &worker.below;
            sum.keys_read += below.keys_read.load(Relaxed);
            sum.ops_written += below.ops_written.load(Relaxed);
            sum.errors += below.errors.load(Relaxed);
            below.read.add_to(&mut sum.read);
            below.write.add_to(&mut sum.write);
        }
        sum
    }
}

/// Calls to L2 since start.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    /// Keys read.
    pub keys_read: u64,
    /// Operations written.
    pub ops_written: u64,
    /// Keys and operations that ended in an error.
    pub errors: u64,
    /// How long a read call took.
    pub read: Latency,
    /// How long a write call took.
    pub write: Latency,
}

/// Outcomes of user reads since start, one a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reads {
    /// L1 answered.
    pub hit_l1: u64,
    /// L1 answered past its bound.
    pub stale: u64,
    /// L2 answered.
    pub hit_l2: u64,
    /// In no tier.
    pub miss: u64,
    /// Failed.
    pub error: u64,
    /// Those of `hit_l2` and `miss` that joined another's flight.
    pub coalesced: u64,
    /// Keys read while the gate was closed.
    pub bypassed: u64,
    /// Copies brought up from L2.
    pub promoted: u64,
    /// Fills that an invalidation overtook.
    pub fills_voided: u64,
}

impl Reads {
    /// (`hit_l1` + stale) / (`hit_l1` + stale + `hit_l2` + miss); `None` before the first.
    #[must_use]
    pub fn l1_hit_rate(&self) -> Option<f64> {
        let hits = self.hit_l1 + self.stale;
        ratio(hits, hits + self.hit_l2 + self.miss)
    }

    /// `hit_l2` / (`hit_l2` + miss); `None` before the first.
    #[must_use]
    pub fn l2_hit_rate(&self) -> Option<f64> {
        ratio(self.hit_l2, self.hit_l2 + self.miss)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of counters far under 2^53")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// All numbers of a server, taken at one time.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Outcomes of reads.
    pub reads: Reads,
    /// Size of L1.
    pub l1: Usage,
    /// Why entries left L1.
    pub removals: Removals,
    /// Which L2.
    pub flavor: Flavor,
    /// Calls to it.
    pub calls: Calls,
    /// Whether it answers.
    pub l2: State,
    /// Primaries and circuit breakers.
    pub health: Health,
    /// How L1 is kept true.
    pub coherence: Coherence,
    /// Flights under way.
    pub flights: u64,
}

impl Cache {
    /// All numbers, now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            reads: self.core.stats.reads(),
            l1: self.core.l1.usage(),
            removals: self.core.l1.removals(),
            flavor: self.core.flavor,
            calls: self.core.stats.calls(),
            l2: self.l2_state(),
            health: self.l2.health(),
            coherence: self.core.gate.report(self.now()),
            flights: self.core.flights.len() as u64,
        }
    }
}
