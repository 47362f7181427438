//! [`Writer`]: the only thread that changes the store.
//!
//! The writer takes the queued operations, applies them in order to a [`WriteGroup`], commits the group with one write
//! to the journal, notifies L1 of the changed keys, and then replies. A caller receives its reply only after the
//! operating system has received the bytes. L1 copies are dropped even if the caller has disconnected. Between groups,
//! the writer removes expired entries and, if the store exceeds its maximum size, the entries written longest ago.

use std::{
    ops::Bound,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    disk::{
        generation::{Generations, Opened, Rebuild},
        reserve::Reserve,
        rows::{ORDER, RECORDS, TALLY_ROW, Tally, expiry_of, expiry_row, order_row, record_row, written_of},
        table::Table,
    },
    errors::{REOPEN_EVERY, disk_full, is_full, read_only, unavailable},
    state::StoreState,
    write_group::WriteGroup,
};
use crate::{
    clock::{UnixMs, stopwatch_ns},
    error::{CacheError, Kind, Result},
    glob::Glob,
    l2::{
        Applied, Ban, Batch, Effort, Op, Source, State, SweepPage,
        loads::{LoadOp, LoadResult},
        op::NewExpiry,
    },
    model::{Key, RESERVED_PREFIX},
};

/// Approximate number of operations per group, because their callers wait for one another, and a clear waits for the group.
/// At 15 µs per operation, a group takes about 2 ms. Larger groups are not faster.
const GROUP_OPS: usize = 128;
/// Approximate size of the values of a group in bytes: a journal write of this size takes a few ms.
const GROUP_BYTES: usize = 4 << 20;
/// Time between two sweeps. An expired entry is never returned, so the interval only bounds the time for which it
/// occupies space.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// Maximum number of expired entries that one sweep removes (5 to 10 ms).
const SWEEP_MAX: usize = 1_000;
/// Maximum number of entries that one group of writes evicts, in addition to two for each row it visits.
const EVICT_MAX: usize = 1_000;
/// Number of sweeps without a commit after which the table's garbage is collected: 5 s.
const COLLECT_SWEEPS: u64 = 50;
/// Maximum number of collections in one idle time: each may trigger a compaction that leaves garbage for the next.
const COLLECT_ATTEMPTS: u64 = 6;
/// Time between two attempts to rebuild a damaged table.
const REBUILD_EVERY: Duration = Duration::from_secs(10);
/// Time between two attempts to prepare the next generation.
const PREPARE_AGAIN: Duration = Duration::from_secs(10);
/// Length of one pause while the table is behind with flushing.
const THROTTLE_STEP: Duration = Duration::from_millis(2);
/// Maximum number of pauses per group.
const THROTTLE_STEPS: usize = 25;

/// A job for the writer.
pub(super) enum Job {
    /// Apply operations in order, without operations of another job between them.
    Apply { ops: Vec<(Key, Op)>, batch: Batch, answer: Answer },
    /// Run the waiting clears.
    Wake,
    /// Run an operation on the load lease of a key.
    Load { key: Key, op: Box<LoadOp>, answer: oneshot::Sender<Result<LoadResult>> },
    /// Open a ban; returns its number.
    Ban { glob: Glob, answer: oneshot::Sender<Result<u64>> },
    /// Remove the entries that a ban hides in the next page.
    Sweep { ban: Ban, cursor: u64, effort: Effort, answer: oneshot::Sender<Result<SweepPage>> },
    /// Retire a ban.
    Retire { ban: u64, answer: oneshot::Sender<Result<()>> },
}

/// A request to remove every key. Clears have a queue of their own, which the writer examines before each job.
pub(super) type Clear = oneshot::Sender<Result<()>>;

type Answer = oneshot::Sender<Vec<Result<Applied>>>;
/// The operations of one batch, and their isolation.
type Ops = (Vec<(Key, Op)>, Batch);

/// State of the writer's thread.
pub(super) struct Writer {
    /// Disk space for removals. The first field, because it is dropped while the directory is locked.
    reserve: Reserve,
    pub(super) shared: Arc<StoreState>,
    generations: Generations,
    /// `None` while a failed table is not open again.
    pub(super) table: Option<Arc<Table>>,
    /// The failed table, until it is closed.
    failed: Option<Arc<Table>>,
    /// True while the disk is full: the store accepts removals only, which use the reserve.
    is_full: bool,
    /// Error of writes while the disk rejects them; `None` if the disk accepts writes, or before that is known.
    rejection: Option<CacheError>,
    /// Whether the failed table has to be rebuilt.
    rebuild: Rebuild,
    pub(super) tally: Tally,
    /// Lower bound of the numbers in order rows: eviction starts here and skips the rows that it removed before.
    oldest: u64,
    /// Lower bound of the times in expiry rows: the sweep starts here.
    soonest: UnixMs,
    /// [`stopwatch_ns`] of the next sweep.
    sweep_at_ns: u64,
    /// Number of sweeps since the last commit.
    idle_sweeps: u64,
    /// [`stopwatch_ns`] before which no further generation is prepared, after a failure.
    prepare_at_ns: u64,
}

/// Progress of the sweeps, stored in the writer when their group is committed.
pub(super) struct Swept {
    oldest: u64,
    soonest: UnixMs,
    evicted: u64,
    expired: u64,
}

impl Writer {
    /// Creates a writer for the current generation, which must be open.
    pub(super) fn new(
        shared: Arc<StoreState>,
        generations: Generations,
        opened: Opened,
        reserve: Reserve,
    ) -> Result<Self> {
        let mut writer = Self {
            shared,
            generations,
            table: None,
            failed: None,
            is_full: false,
            rejection: None,
            reserve,
            rebuild: Rebuild::No,
            tally: Tally::EMPTY,
            oldest: 0,
            soonest: UnixMs(0),
            sweep_at_ns: 0,
            idle_sweeps: 0,
            prepare_at_ns: 0,
        };
        writer.adopt_or_rebuild(opened)?;
        if let Err(error) = writer.reserve.allocate() {
            tracing::warn!(%error, "cannot reserve disk space for removals from the embedded store");
            writer.is_full = is_full(&error);
            writer.publish_state();
        }
        Ok(writer)
    }

    /// Runs until the job channel is closed.
    pub(super) fn run(mut self, jobs: &Receiver<Job>, clears: &Receiver<Clear>) {
        let mut kept = None;
        loop {
            self.run_clears(clears);
            let next = match kept.take() {
                Some(job) => Ok(job),
                None => jobs.recv_timeout(self.until_sweep()),
            };
            match next {
                Ok(Job::Apply { ops, batch, answer }) => kept = self.serve((ops, batch), answer, jobs),
                Ok(Job::Wake) => {}
                Ok(Job::Load { key, op, answer }) => {
                    let _ = answer.send(self.load(&key, &op));
                }
                Ok(Job::Ban { glob, answer }) => {
                    let _ = answer.send(self.ban(glob));
                }
                Ok(Job::Sweep { ban, cursor, effort, answer }) => {
                    let _ = answer.send(self.sweep_banned(&ban, cursor, effort));
                    self.throttle();
                }
                Ok(Job::Retire { ban, answer }) => {
                    let _ = answer.send(self.retire(ban));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.until_sweep().is_zero() {
                self.tick();
            }
        }
        self.close();
    }

    /// Runs the waiting clears. The first one answers all of them.
    fn run_clears(&mut self, clears: &Receiver<Clear>) {
        let waiting: Vec<Clear> = clears.try_iter().collect();
        if waiting.is_empty() {
            return;
        }
        self.shared.counters.clears_waiting.fetch_sub(waiting.len(), Relaxed);
        let cleared = self.clear();
        for answer in waiting {
            let _ = answer.send(cleared.clone());
        }
        if cleared.is_ok() {
            self.prepare();
        }
    }

    fn until_sweep(&self) -> Duration {
        Duration::from_nanos(self.sweep_at_ns.saturating_sub(stopwatch_ns()))
    }

    /// Takes queued operations up to the maximum group size, commits them and replies. Returns a job that cannot be
    /// part of a group.
    fn serve(&mut self, ops: Ops, answer: Answer, jobs: &Receiver<Job>) -> Option<Job> {
        let (mut count, mut bytes) = (ops.0.len(), size(&ops.0));
        let mut batches = vec![(ops, answer)];
        let mut kept = None;
        while count < GROUP_OPS && bytes < GROUP_BYTES && !self.has_clears() {
            match jobs.try_recv() {
                Ok(Job::Apply { ops, batch, answer }) => {
                    count += ops.len();
                    bytes += size(&ops);
                    batches.push(((ops, batch), answer));
                }
                Ok(Job::Wake) => {}
                Ok(job @ (Job::Load { .. } | Job::Ban { .. } | Job::Sweep { .. } | Job::Retire { .. })) => {
                    kept = Some(job);
                    break;
                }
                Err(_) => break,
            }
        }
        let (ops, answers): (Vec<_>, Vec<_>) = batches.into_iter().unzip();
        for (answer, result) in answers.into_iter().zip(self.commit_ops(&ops)) {
            // Fails if the caller has disconnected; the write has taken effect anyway.
            let _ = answer.send(result);
        }
        self.throttle();
        kept
    }

    fn commit_ops(&mut self, batches: &[Ops]) -> Vec<Vec<Result<Applied>>> {
        let fail_all = |error: &CacheError| {
            batches.iter().map(|(ops, _)| ops.iter().map(|_| Err(error.clone())).collect()).collect()
        };
        let Some(table) = self.table.clone() else { return fail_all(&self.rejection()) };
        let mut group = WriteGroup::new(&table, self.tally, &self.shared);
        let now = self.shared.clock.unix();
        let weight_max = self.shared.size_max;
        let results = batches
            .iter()
            .map(|(ops, batch)| {
                let is_refused = |op: &Op| self.is_full && !is_removal(op, now);
                let all_refused = *batch == Batch::Atomic && ops.iter().any(|(_, op)| is_refused(op));
                let mut apply = |(key, op): &(Key, Op)| {
                    if all_refused || is_refused(op) {
                        return Err(disk_full());
                    }
                    group.apply(key, op, now, weight_max)
                };
                ops.iter().map(&mut apply).collect()
            })
            .collect();
        match self.evict(&mut group, now).and_then(|swept| self.commit(group, swept)) {
            Ok(()) => results,
            Err(error) => fail_all(&error),
        }
    }

    /// Runs an operation on the load lease of a key.
    fn load(&mut self, key: &Key, op: &LoadOp) -> Result<LoadResult> {
        let table = self.table.clone().ok_or_else(|| self.rejection())?;
        if self.is_full && matches!(op, LoadOp::Fill(_)) {
            return Err(disk_full());
        }
        let mut group = WriteGroup::new(&table, self.tally, &self.shared);
        let now = self.shared.clock.unix();
        let result = group.apply_load(key, op, now, self.shared.size_max)?;
        let swept = self.evict(&mut group, now)?;
        self.commit(group, swept)?;
        Ok(result)
    }

    /// Commits the group and notifies L1.
    pub(super) fn commit(&mut self, mut group: WriteGroup<'_>, swept: Swept) -> Result<()> {
        let touched = std::mem::take(&mut group.touched);
        let (tally, soonest) = (group.tally, group.soonest);
        let Some(changes) = group.changes() else { return Ok(()) };
        let committed = changes.commit(self.shared.sync_always);
        // Also if the result of the commit is unknown: L1 must not keep copies that may be outdated.
        touched.iter().for_each(|key| self.shared.sink.invalidated(key));
        if let Err(error) = committed {
            self.fail(&error);
            return Err(error);
        }
        self.tally = tally;
        self.oldest = swept.oldest;
        self.soonest = swept.soonest.min(soonest);
        self.idle_sweeps = 0;
        let counters = &self.shared.counters;
        counters.dirty.store(true, Relaxed);
        counters.commits.fetch_add(1, Relaxed);
        counters.evicted.fetch_add(swept.evicted, Relaxed);
        counters.expired.fetch_add(swept.expired, Relaxed);
        self.publish();
        Ok(())
    }

    /// Stages the removal of the oldest entries until the store is within its maximum size or the budget is exhausted.
    fn evict(&self, group: &mut WriteGroup<'_>, now: UnixMs) -> Result<Swept> {
        let mut swept = self.swept();
        if group.tally.bytes <= self.shared.size_max {
            return Ok(swept);
        }
        let Some(table) = &self.table else { return Err(unavailable()) };
        let budget = EVICT_MAX + 2 * group.len();
        let view = table.view();
        for row in view.range(Bound::Included(&order_row(self.oldest)), ORDER.1).take(budget) {
            let (row, key) = row?;
            let written = written_of(&row)?;
            swept.oldest = written + 1;
            let expired = group.expiry_of(&key, written)?.is_some_and(|at| at <= now);
            if group.remove(&key, written)? {
                *(if expired { &mut swept.expired } else { &mut swept.evicted }) += 1;
                group.touched.push(key);
            }
            if group.tally.bytes <= self.shared.size_max {
                break;
            }
        }
        Ok(swept)
    }

    /// Stages the removal of expired entries, within the budget.
    fn expire(&self, group: &mut WriteGroup<'_>, now: UnixMs) -> Result<Swept> {
        let mut swept = self.swept();
        let Some(table) = &self.table else { return Err(unavailable()) };
        let view = table.view();
        let until = expiry_row(UnixMs(now.0.saturating_add(1)), 0);
        let from = expiry_row(self.soonest, 0);
        for row in view.range(Bound::Included(&from), &until).take(SWEEP_MAX) {
            let (at, written) = expiry_of(&row?.0)?;
            swept.soonest = at;
            let Some(key) = view.get(&order_row(written))? else { continue };
            if group.expiry_of(&key, written)? == Some(at) && group.remove(&key, written)? {
                swept.expired += 1;
            }
        }
        Ok(swept)
    }

    pub(super) fn swept(&self) -> Swept {
        Swept { oldest: self.oldest, soonest: self.soonest, evicted: 0, expired: 0 }
    }

    /// Runs the periodic work: the sweeps, or an attempt to reopen a failed table.
    fn tick(&mut self) {
        self.sweep_at_ns = stopwatch_ns() + SWEEP_EVERY.as_nanos() as u64;
        let Some(table) = self.table.clone() else { return self.reopen() };
        self.leave_full();
        if table.is_damaged() {
            drop(table);
            self.fail(&CacheError::new(Kind::Unavailable, "the embedded store has damaged data"));
            return self.reopen();
        }
        let now = self.shared.clock.unix();
        let mut group = WriteGroup::new(&table, self.tally, &self.shared);
        let swept = self.expire(&mut group, now).and_then(|expired| {
            let evicted = self.evict(&mut group, now)?;
            Ok(Swept {
                oldest: evicted.oldest,
                evicted: evicted.evicted,
                expired: expired.expired + evicted.expired,
                ..expired
            })
        });
        let full = swept.as_ref().is_ok_and(|swept| swept.expired >= SWEEP_MAX as u64 || swept.evicted > 0);
        match swept.and_then(|swept| self.commit(group, swept)) {
            // More entries remain: the next sweep runs right after the queued writes.
            Ok(()) if full => self.sweep_at_ns = 0,
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, "the embedded store cannot remove expired or evicted entries; retrying")
            }
        }
        self.collect(&table);
        if self.tally.entries > 0 {
            self.prepare();
        }
    }

    fn has_clears(&self) -> bool {
        self.shared.counters.clears_waiting.load(Relaxed) > 0
    }

    /// Prepares the next generation, so that a clear takes one rename.
    fn prepare(&mut self) {
        if stopwatch_ns() < self.prepare_at_ns {
            return;
        }
        if let Err(error) = self.generations.prepare_next() {
            self.prepare_at_ns = stopwatch_ns() + PREPARE_AGAIN.as_nanos() as u64;
            tracing::debug!(%error, "cannot prepare the next generation of the embedded store; retrying");
        }
    }

    /// Reclaims disk space while no writes arrive: see [`Table::collect`].
    fn collect(&mut self, table: &Table) {
        self.idle_sweeps += 1;
        let due =
            self.idle_sweeps.is_multiple_of(COLLECT_SWEEPS) && self.idle_sweeps <= COLLECT_SWEEPS * COLLECT_ATTEMPTS;
        if !due || !table.has_garbage() {
            return;
        }
        let mut same = table.changes();
        same.put(Bytes::from_static(TALLY_ROW), self.tally.encode());
        if let Err(error) = same.commit(false).and_then(|()| table.collect()) {
            tracing::error!(%error, "the embedded store cannot reclaim disk space");
        }
    }

    /// Pauses until the table has caught up; otherwise the table would halt writes for 100 ms at a time.
    fn throttle(&self) {
        let Some(table) = &self.table else { return };
        for _ in 0..THROTTLE_STEPS {
            if !table.is_behind() || self.has_clears() {
                return;
            }
            std::thread::sleep(THROTTLE_STEP);
        }
    }

    /// Starts a new, empty generation, whose numbers follow those of the previous one.
    fn clear(&mut self) -> Result<()> {
        if self.table.is_none() {
            return Err(self.rejection());
        }
        self.shared.loads.forget_all();
        if self.tally.entries == 0 {
            // There is nothing to remove. Open bans hide nothing; their sweeps end by themselves.
            self.shared.sink.flushed(Source::ONLY);
            return Ok(());
        }
        let table = self.generations.begin_next(self.tally.cleared(), self.shared.sync_always).map_err(|error| {
            CacheError::new(Kind::Unavailable, format!("the embedded store cannot be cleared: {error}"))
        })?;
        let old = self.table.take();
        self.adopt(Arc::clone(&table))?;
        self.shared.sink.flushed(Source::ONLY);
        if let Some(old) = old {
            self.generations.retire(old, &table);
        }
        Ok(())
    }

    /// Makes a table that was just opened the current one; rebuilds it if its first rows are damaged.
    fn adopt_or_rebuild(&mut self, opened: Opened) -> Result<()> {
        self.shared.counters.damage.fetch_add(opened.damage, Relaxed);
        let adopted = self.adopt(Arc::clone(&opened.table));
        if adopted.is_ok() || !opened.table.is_damaged() {
            return adopted;
        }
        self.generations.release(opened.table);
        let rebuilt = self.generations.open_current(Rebuild::Always);
        let rebuilt = rebuilt.map_err(|reason| CacheError::new(Kind::Unavailable, reason))?;
        self.shared.counters.damage.fetch_add(rebuilt.damage, Relaxed);
        self.adopt(rebuilt.table)
    }

    /// Makes this table the current table for reads and writes.
    fn adopt(&mut self, table: Arc<Table>) -> Result<()> {
        self.tally = match table.get(TALLY_ROW)? {
            Some(bytes) => Tally::decode(&bytes)?,
            None => Tally::EMPTY,
        };
        self.tally.own = count_own(&table)?;
        self.load_bans(&table)?;
        self.oldest = first_written(&table, &self.tally)?;
        self.soonest = UnixMs(0);
        self.shared.table.store(Some(Arc::clone(&table)));
        self.table = Some(table);
        self.rejection = None;
        self.publish_state();
        self.publish();
        Ok(())
    }

    /// Returns the error of writes while no table accepts them.
    pub(super) fn rejection(&self) -> CacheError {
        self.rejection.clone().unwrap_or_else(unavailable)
    }

    /// Publishes the state of an open table.
    fn publish_state(&self) {
        *self.shared.state.lock() = if self.is_full { State::Down(disk_full().to_string()) } else { State::Up };
    }

    fn publish(&self) {
        let counters = &self.shared.counters;
        counters.entries.store(self.tally.entries, Relaxed);
        counters.own.store(self.tally.own, Relaxed);
        counters.bytes.store(self.tally.bytes, Relaxed);
        counters.oldest.store(self.oldest, Relaxed);
        counters.next_written.store(self.tally.next_written, Relaxed);
    }

    /// Handles a table that accepts no more writes: it is closed, and later reopened from its journal.
    pub(super) fn fail(&mut self, error: &CacheError) {
        tracing::error!(%error, "the embedded store failed; rejecting calls until it is reopened");
        *self.shared.state.lock() = State::Down(error.to_string());
        // Reads go on: the table rejects writes only. It is closed when the disk accepts writes again.
        self.failed = self.table.take();
        self.rebuild = match &self.failed {
            Some(table) if table.is_damaged() => Rebuild::Always,
            // fjall rejected the write before it began: a background thread has failed.
            _ if error.kind() == Kind::Unavailable => Rebuild::IfDamaged,
            _ => self.rebuild,
        };
        self.sweep_at_ns = stopwatch_ns() + REOPEN_EVERY.as_nanos() as u64;
    }

    fn reopen(&mut self) {
        self.sweep_at_ns = stopwatch_ns() + REOPEN_EVERY.as_nanos() as u64;
        if !self.is_writable() {
            return;
        }
        self.shared.table.store(None);
        if let Some(failed) = self.failed.take() {
            self.generations.release(failed);
        }
        if self.rebuild != Rebuild::No {
            self.sweep_at_ns = stopwatch_ns() + REBUILD_EVERY.as_nanos() as u64;
        }
        // Rebuilding may take minutes; calls are rejected meanwhile instead of waiting.
        self.shared.counters.rebuilding.store(self.rebuild != Rebuild::No, Relaxed);
        let opened = self.generations.open_current(self.rebuild);
        self.shared.counters.rebuilding.store(false, Relaxed);
        let opened = opened.and_then(|opened| self.adopt_or_rebuild(opened).map_err(|error| error.to_string()));
        // The last writes before the failure may have taken effect.
        self.shared.sink.flushed(Source::ONLY);
        match opened {
            Ok(()) => {
                self.rebuild = Rebuild::No;
                self.sweep_at_ns = 0;
                tracing::info!("the embedded store is reopened and serves calls");
            }
            Err(error) => {
                tracing::error!(error, "the embedded store cannot be reopened; retrying");
                *self.shared.state.lock() = State::Down(error);
                self.serve_reads();
            }
        }
    }

    /// Publishes the current generation for reads only, because it cannot be opened for writes; for example, a full disk
    /// has no space for the repair.
    fn serve_reads(&mut self) {
        match self.generations.open_for_reads() {
            Ok(table) => {
                self.shared.table.store(Some(Arc::clone(&table)));
                self.failed = Some(table);
            }
            Err(error) => tracing::error!(error, "the embedded store cannot be opened for reads either"),
        }
    }

    /// Returns whether the disk accepts writes, after freeing the reserve if the disk is full.
    fn is_writable(&mut self) -> bool {
        let Err(error) = self.generations.probe() else { return true };
        if is_full(&error) && self.reserve.release() && self.generations.probe().is_ok() {
            self.is_full = true;
            tracing::error!(%error, "the disk of the embedded store is full; accepting removals only");
            return true;
        }
        tracing::error!(%error, "the disk of the embedded store rejects writes; serving reads and retrying");
        let rejection = read_only(&error);
        *self.shared.state.lock() = State::Down(rejection.to_string());
        self.rejection = Some(rejection);
        false
    }

    /// Accepts all writes again once the disk has space for the reserve and for writes.
    fn leave_full(&mut self) {
        if self.is_full && self.reserve.refill().is_ok() {
            self.is_full = false;
            self.publish_state();
            tracing::info!("the disk of the embedded store has space again; accepting all writes");
        }
    }

    fn close(mut self) {
        self.shared.table.store(None);
        if let Some(table) = self.table.take() {
            if let Err(error) = table.sync() {
                tracing::error!(%error, "the embedded store cannot sync its last writes; a power failure may lose them");
            }
            self.generations.release(table);
        }
        if let Some(failed) = self.failed.take() {
            self.generations.release(failed);
        }
    }
}

/// Returns whether an operation writes no value, whatever the store has: removals, expiries that have passed, and GETEX
/// without an option. Any other expiry writes the entry again with its value.
fn is_removal(op: &Op, now: UnixMs) -> bool {
    match op {
        Op::Delete { .. } | Op::Bury { .. } => true,
        Op::Expire { expiry: NewExpiry::In(life), .. } => life.is_zero(),
        Op::Expire { expiry: NewExpiry::At(at), .. } => *at <= now,
        Op::Expire { expiry: NewExpiry::Keep, .. } => true,
        Op::Expire { expiry: NewExpiry::Never, .. }
        | Op::Set { .. }
        | Op::Append { .. }
        | Op::SetRange { .. }
        | Op::Increment { .. }
        | Op::IncrementFloat { .. } => false,
    }
}

/// Returns the smallest write number in the table; the next one if the table is empty.
fn first_written(table: &Table, tally: &Tally) -> Result<u64> {
    let first = table.view().range(Bound::Included(ORDER.0), ORDER.1).next().transpose()?;
    first.map_or(Ok(tally.next_written), |(row, _)| written_of(&row))
}

fn size(ops: &[(Key, Op)]) -> usize {
    let of = |op: &Op| match op {
        Op::Set { value, .. } => value.len(),
        Op::Append { suffix: bytes, .. } | Op::SetRange { bytes, .. } => bytes.len(),
        Op::Delete { .. } | Op::Bury { .. } | Op::Expire { .. } | Op::Increment { .. } | Op::IncrementFloat { .. } => 0,
    };
    ops.iter().map(|(key, op)| key.len() + of(op)).sum()
}

/// Returns the number of Terrace's own records in a table (about 1 µs each).
fn count_own(table: &Table) -> Result<u64> {
    let prefix = record_row(RESERVED_PREFIX);
    let mut own = 0;
    for row in table.view().range(Bound::Included(&prefix[..]), RECORDS.1) {
        if !row?.0.starts_with(&prefix) {
            break;
        }
        own += 1;
    }
    Ok(own)
}
