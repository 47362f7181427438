//! Statistics. Counts each user read once, by key group and outcome, and other events of reads. Each worker has its own
//! counters, so counting shares no cache line between threads. Sums are computed on request.
//!
//! * [`requests`]: durations of requests, by port. [`histogram`]: the histogram of durations.
//! * [`groups`]: the group that a key is counted in. A read is counted in its group only: totals are sums over the
//!   groups.
//! * [`load_figures`]: loads of key groups, and the origin time that hits saved.
//! * `owner_thread`: the thread that counts hits without an atomic read-modify-write.
//! * `visible`: the part of the statistics for a client that may not know about all keys.
//! * [`top`]: the most expensive keys.
//! * [`windows`]: statistics of the last minute, five minutes and hour.
//! * [`whatif`]: estimated hit rates of L1 at other sizes.
//! * [`recording`]: user reads of sampled keys, for traces.
//!
//! [`Snapshot`] and [`Window`] are the only source of `GetStats`, `WatchStats`, `INFO`, `/metrics` and the command
//! line.

pub mod groups;
pub mod histogram;
pub mod load_figures;
mod owner_thread;
pub mod recording;
pub mod requests;
pub mod top;
mod visible;
pub mod whatif;
pub mod windows;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

pub use self::windows::{MARK_EVERY, Tally, Upkeep, Window};
use self::{
    groups::{GROUPS_MAX, Groups},
    histogram::{Histogram, Latency},
    load_figures::{LoadFigures, SavedTimes},
    owner_thread::OwnerThread,
    recording::{Recorded, Sampler},
    requests::{Requests, Timed},
    top::{By, Top, Tops},
    whatif::{Estimates, Touch},
    windows::{Totals, Windows},
};

use super::{
    Cache, Core, Health, State,
    coherence::fence::Coherence,
    prefetch::PrefetchReport,
    ttl::{touch_on_read::Touches, tuning::Followed},
};
use crate::{
    clock::Tick,
    l1::{GroupUsage, Removals, Usage},
    l2::Flavor,
    learn::recorder::{Caller, Event, Happened},
    model::Outcome,
};

/// Counters of one worker.
#[derive(Debug)]
pub struct Counters {
    owner: OwnerThread,
    /// By group number. Allocated separately, so that no two workers share a cache line.
    reads: Box<[ReadCounters]>,
    fills: CachePadded<FillCounters>,
    l2: L2Calls,
    pub(crate) tops: Tops,
    timed: Timed,
}

impl Default for Counters {
    fn default() -> Self {
        let reads = (0..GROUPS_MAX).map(|_| ReadCounters::default()).collect();
        Self {
            owner: OwnerThread::default(),
            reads,
            fills: CachePadded::default(),
            l2: L2Calls::default(),
            tops: Tops::default(),
            timed: Timed::default(),
        }
    }
}

/// Calls to L2.
#[derive(Debug, Default)]
struct L2Calls {
    keys_read: AtomicU64,
    ops_written: AtomicU64,
    errors: AtomicU64,
    read: Histogram,
    write: Histogram,
}

/// Events of reads, in addition to their outcomes.
#[derive(Debug, Default)]
struct FillCounters {
    bypassed: AtomicU64,
    promoted: AtomicU64,
    voided: AtomicU64,
}

/// User reads of one key group.
#[derive(Debug, Default)]
struct ReadCounters {
    /// L1 hits counted by the owner thread.
    hits: AtomicU64,
    /// Counts in the order of [`Outcome`].
    outcomes: [AtomicU64; 5],
    coalesced: AtomicU64,
}

impl Counters {
    /// Counts the outcome of one user read of a key of this group.
    #[inline]
    pub(crate) fn outcome(&self, group: u8, outcome: Outcome, coalesced: bool) {
        let reads = &self.reads[usize::from(group)];
        reads.outcomes[outcome as usize].fetch_add(1, Relaxed);
        if coalesced && matches!(outcome, Outcome::HitL2 | Outcome::Miss) {
            reads.coalesced.fetch_add(1, Relaxed);
        }
    }

    /// Counts a user read that L1 answered. Returns how many hits of the group this thread had counted before.
    #[inline]
    pub(crate) fn hit_l1(&self, group: u8) -> u64 {
        let reads = &self.reads[usize::from(group)];
        if !self.owner.is_here() {
            return reads.hit_elsewhere();
        }
        let before = reads.hits.load(Relaxed);
        reads.hits.store(before + 1, Relaxed);
        before
    }

    /// Counts a call that read `keys` keys from L2, `failed` of them with an error.
    pub(crate) fn l2_read(&self, keys: usize, failed: usize, us: u64) {
        self.l2.keys_read.fetch_add(keys as u64, Relaxed);
        self.l2.errors.fetch_add(failed as u64, Relaxed);
        self.l2.read.record_us(us);
    }

    /// Counts a call that wrote `ops` operations to L2, `failed` of them with an error.
    pub(crate) fn l2_written(&self, ops: usize, failed: usize, us: u64) {
        self.l2.ops_written.fetch_add(ops as u64, Relaxed);
        self.l2.errors.fetch_add(failed as u64, Relaxed);
        self.l2.write.record_us(us);
    }

    pub(crate) fn bypassed(&self, keys: u64) {
        self.fills.bypassed.fetch_add(keys, Relaxed);
    }

    pub(crate) fn promoted(&self) {
        self.fills.promoted.fetch_add(1, Relaxed);
    }

    pub(crate) fn fill_voided(&self) {
        self.fills.voided.fetch_add(1, Relaxed);
    }
}

/// All counters of a server.
#[derive(Debug, Default)]
pub struct Stats {
    workers: Mutex<Vec<Arc<Counters>>>,
    pub(crate) groups: Groups,
    windows: Windows,
    saved: SavedTimes,
}

impl Stats {
    pub(crate) fn register(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.workers.lock().push(Arc::clone(&counters));
        counters
    }

    /// Returns user reads by group number, summed over all workers.
    fn reads(&self) -> Vec<Reads> {
        let mut sums = vec![Reads::default(); self.groups.names().len()];
        for worker in self.workers.lock().iter() {
            for (sum, group) in sums.iter_mut().zip(&worker.reads) {
                sum.add(&group.load());
            }
        }
        sums
    }

    /// Returns the events of reads, summed over all workers.
    #[must_use]
    pub fn fills(&self) -> Fills {
        let mut sum = Fills::default();
        for worker in self.workers.lock().iter() {
            sum.bypassed += worker.fills.bypassed.load(Relaxed);
            sum.promoted += worker.fills.promoted.load(Relaxed);
            sum.voided += worker.fills.voided.load(Relaxed);
        }
        sum
    }

    /// Returns the calls to L2, summed over all workers.
    #[must_use]
    pub fn calls(&self) -> Calls {
        let mut sum = Calls::default();
        for worker in self.workers.lock().iter() {
            let l2 = &worker.l2;
            sum.keys_read += l2.keys_read.load(Relaxed);
            sum.ops_written += l2.ops_written.load(Relaxed);
            sum.errors += l2.errors.load(Relaxed);
            l2.read.add_to(&mut sum.read);
            l2.write.add_to(&mut sum.write);
        }
        sum
    }

    /// Returns the durations of requests, summed over all workers.
    #[must_use]
    fn requests(&self) -> Requests {
        let mut sum = Requests::default();
        self.workers.lock().iter().for_each(|worker| worker.timed.add_to(&mut sum));
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
    /// Durations of read calls.
    pub read: Latency,
    /// Durations of write calls.
    pub write: Latency,
}

/// Outcomes of user reads, one per key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reads {
    /// L1 answered.
    pub hit_l1: u64,
    /// L1 answered past the coherence bound.
    pub stale: u64,
    /// L2 answered.
    pub hit_l2: u64,
    /// No tier had the key.
    pub miss: u64,
    /// The read failed.
    pub error: u64,
    /// Reads of `hit_l2` and `miss` that joined the flight of another read.
    pub coalesced: u64,
}

/// Events of reads since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fills {
    /// Keys read while the fence of their source was not valid.
    pub bypassed: u64,
    /// Copies that reads inserted into L1 from L2.
    pub promoted: u64,
    /// Fills that an invalidation voided.
    pub voided: u64,
}

impl ReadCounters {
    /// Like [`Counters::hit_l1`], if this thread is not the owner.
    #[cold]
    fn hit_elsewhere(&self) -> u64 {
        self.outcomes[Outcome::HitL1 as usize].fetch_add(1, Relaxed)
    }

    fn load(&self) -> Reads {
        let count = |outcome: Outcome| self.outcomes[outcome as usize].load(Relaxed);
        Reads {
            hit_l1: self.hits.load(Relaxed) + count(Outcome::HitL1),
            stale: count(Outcome::Stale),
            hit_l2: count(Outcome::HitL2),
            miss: count(Outcome::Miss),
            error: count(Outcome::Error),
            coalesced: self.coalesced.load(Relaxed),
        }
    }
}

impl Reads {
    /// Returns the total number of reads.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.hit_l1 + self.stale + self.hit_l2 + self.miss + self.error
    }

    /// Returns the number of reads that any tier answered.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hit_l1 + self.stale + self.hit_l2
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.hit_l1 += other.hit_l1;
        self.stale += other.stale;
        self.hit_l2 += other.hit_l2;
        self.miss += other.miss;
        self.error += other.error;
        self.coalesced += other.coalesced;
    }

    /// Returns the reads since `before`, an earlier count.
    #[must_use]
    pub fn less(&self, before: &Self) -> Self {
        Self {
            hit_l1: self.hit_l1.saturating_sub(before.hit_l1),
            stale: self.stale.saturating_sub(before.stale),
            hit_l2: self.hit_l2.saturating_sub(before.hit_l2),
            miss: self.miss.saturating_sub(before.miss),
            error: self.error.saturating_sub(before.error),
            coalesced: self.coalesced.saturating_sub(before.coalesced),
        }
    }

    /// Returns (`hit_l1` + stale) / (`hit_l1` + stale + `hit_l2` + miss); `None` without such reads.
    #[must_use]
    pub fn l1_hit_rate(&self) -> Option<f64> {
        let hits = self.hit_l1 + self.stale;
        ratio(hits, hits + self.hit_l2 + self.miss)
    }

    /// Returns `hit_l2` / (`hit_l2` + miss); `None` without such reads.
    #[must_use]
    pub fn l2_hit_rate(&self) -> Option<f64> {
        ratio(self.hit_l2, self.hit_l2 + self.miss)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of counters far under 2^53")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// One key group.
#[derive(Debug, Clone)]
pub struct Group {
    /// A policy's pattern, a template, or `other`.
    pub name: Arc<str>,
    /// Entries of the group in L1.
    pub entries: u64,
    /// Weight in bytes of these entries.
    pub bytes: u64,
    /// Counts since start.
    pub tally: Tally,
    /// Loads from the origin; `None` without any.
    pub loads: Option<LoadFigures>,
}

/// All statistics of a server at one time.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Outcomes of reads: the sum over the groups.
    pub reads: Reads,
    /// Events of reads.
    pub fills: Fills,
    /// Size of L1: the sum over the groups.
    pub l1: Usage,
    /// Removals from L1 by cause: the sum over the groups.
    pub removals: Removals,
    /// The kind of L2.
    pub flavor: Flavor,
    /// Calls to L2.
    pub calls: Calls,
    /// Durations of requests since start.
    pub requests: Requests,
    /// State of L2.
    pub l2: State,
    /// Primaries and circuit breakers.
    pub health: Health,
    /// Coherence of L1.
    pub coherence: Coherence,
    /// Flights in progress.
    pub flights: u64,
    /// Key groups, by number.
    pub groups: Vec<Group>,
    /// The last minute, five minutes, hour, and the time since start.
    pub windows: Vec<Window>,
    /// Estimated hit rates of L1 at other sizes.
    pub what_if: Estimates,
    /// The learned state and its use.
    pub learning: Learning,
    /// Loads from the origin: the sum over the groups.
    pub loads: LoadFigures,
    /// Callers that wait for the loads of others.
    pub load_waiters: u64,
}

/// The learned state and its use.
#[derive(Debug, Clone, Default)]
pub struct Learning {
    /// Prefetch.
    pub prefetch: PrefetchReport,
    /// TTL learning.
    pub ttl: Followed,
    /// Touches on read.
    pub touches: Touches,
}

/// Returns the reads that the hit rate includes.
fn answered(reads: &Reads) -> u64 {
    reads.total() - reads.error
}

impl Core {
    /// Passes invalidated copies to the size estimate.
    pub(crate) fn invalidate_ghosts(&self, events: &[Event]) {
        let is_change = |event: &&Event| matches!(event.happened, Happened::Written(_) | Happened::Invalidated);
        for event in events.iter().filter(is_change) {
            let hash = self.l1.hash_of(&event.key);
            if !self.what_if.wants(hash) {
                continue;
            }
            match (self.flavor, self.l1.peek(&event.key, event.at)) {
                (Flavor::None, Some(there)) => {
                    let (weight, deadline) = (Some(there.weight_bytes), there.deadline);
                    self.what_if.put(Touch { hash, weight, deadline, at: event.at });
                }
                (Flavor::None, None) | (Flavor::Redis | Flavor::Embedded, _) => self.what_if.changed(hash, event.at),
            }
        }
    }

    /// Processes the sampled reads in the size estimate.
    pub(crate) fn play_ghosts(&self) {
        let mut reads = Reads::default();
        self.stats.reads().iter().for_each(|group| reads.add(group));
        self.what_if.play(self.clock.now(), answered(&reads));
        self.read_gate.set(Sampler::SizeEstimate, self.what_if.threshold());
    }

    /// Passes a read to the size estimate and the recordings if its key is in their samples. `found` holds the length of
    /// the value and the expiry of the key.
    pub(crate) fn note_sampled(&self, key: &[u8], hash: u32, found: Option<(usize, Tick)>, caller: Caller, at: Tick) {
        if self.what_if.wants(hash) {
            let weight = found.map(|(bytes, _)| self.l1.weigh(key.len(), bytes));
            let expires_at = found.map_or(Tick::FAR, |(_, expires_at)| expires_at);
            self.what_if.read(Touch { hash, weight, deadline: self.deadline_of(key, expires_at, at), at });
        }
        let recorded = found.map_or(Recorded::Absent, |(bytes, expires_at)| Recorded::Found(bytes as u64, expires_at));
        self.recordings.note(key, hash, recorded, caller, at);
    }

    /// Records the counters for the windows, if a record is due.
    pub fn mark_stats(&self) {
        let now = self.clock.now();
        if self.stats.windows.is_due(now) {
            let totals = self.totals(&self.l1.groups());
            self.load_figures(&totals.groups);
            self.stats.windows.mark(now, &totals);
        }
    }

    fn totals(&self, usage: &[GroupUsage]) -> Totals {
        let mut reads = self.stats.reads();
        // A group may have been added meanwhile.
        reads.resize(reads.len().max(usage.len()), Reads::default());
        let removals = usage.iter().map(|group| group.removals).chain(std::iter::repeat(Removals::default()));
        let groups = reads.into_iter().zip(removals).map(|(reads, removals)| Tally { reads, removals });
        let (coherence, fills) = (self.fence.report(self.clock.now()), self.stats.fills());
        let upkeep = Upkeep {
            invalidations: coherence.invalidations,
            flushes: coherence.flushes,
            reconnects: coherence.reconnects,
            bypassed: fills.bypassed,
            fills_voided: fills.voided,
        };
        let (prefetch, requests) = (self.prefetch_counts(), self.stats.requests());
        Totals { groups: groups.collect(), calls: self.stats.calls(), requests, prefetch, upkeep }
    }
}

impl Cache {
    /// Returns the most expensive keys of the last five to ten minutes that the client may know about.
    #[must_use]
    pub fn top(&self, by: By, count: usize) -> Top {
        let workers = self.core.stats.workers.lock().clone();
        let sees_all = self.principal.sees_all();
        // All counted keys are candidates if keys of others have to be left out.
        let candidates = if sees_all { count } else { usize::MAX };
        let mut top = top::top(workers.iter().map(|worker| &worker.tops), by, candidates, self.now());
        if !sees_all {
            top.keys.retain(|(key, _)| self.principal.sees(key));
            top.keys.truncate(count);
        }
        top
    }

    /// Returns all statistics, or the part about the key groups that the client may know about.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        visible::of_snapshot(self.whole_snapshot(), &self.principal)
    }

    fn whole_snapshot(&self) -> Snapshot {
        let (core, now) = (&self.core, self.now());
        let usage = core.l1.groups();
        let totals = core.totals(&usage);
        let windows = core.stats.windows.up_to(now, core.started_at, &totals);
        let mut groups = groups(&core.stats.groups.names(), &usage, &totals);
        let mut tally = Tally::default();
        groups.iter().for_each(|group| tally.add(&group.tally));
        let mut loads = LoadFigures::default();
        for (number, figures) in core.load_figures(&totals.groups) {
            loads.add(&figures);
            if let Some(group) = groups.get_mut(usize::from(number)) {
                group.loads = Some(figures);
            }
        }
        let l1 = Usage {
            entries: groups.iter().map(|group| group.entries).sum(),
            bytes: groups.iter().map(|group| group.bytes).sum(),
            ..core.l1.usage()
        };
        Snapshot {
            reads: tally.reads,
            fills: core.stats.fills(),
            l1,
            removals: tally.removals,
            flavor: core.flavor,
            calls: totals.calls,
            requests: totals.requests,
            l2: self.l2_state(),
            health: self.l2.health(),
            coherence: core.fence.report(now),
            flights: core.flights.len() as u64,
            what_if: core.what_if.estimates(now, answered(&tally.reads)),
            learning: Learning { prefetch: core.prefetch(), ttl: core.followed(), touches: core.touches() },
            groups,
            windows,
            loads,
            load_waiters: self.load_waiters() as u64,
        }
    }
}

fn groups(names: &[Arc<str>], usage: &[GroupUsage], totals: &Totals) -> Vec<Group> {
    let usage = usage.iter().copied().chain(std::iter::repeat(GroupUsage::default()));
    let known = names.iter().zip(&totals.groups).zip(usage);
    let group = |((name, tally), usage): ((&Arc<str>, &Tally), GroupUsage)| Group {
        name: Arc::clone(name),
        entries: usage.entries,
        bytes: usage.bytes,
        tally: *tally,
        loads: None,
    };
    known.map(group).collect()
}
