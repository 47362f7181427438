//! All shards under one policy: selects the shard, makes room, and runs frees and callbacks outside of the locks.
//!
//! All shards share one byte budget, so that a value as large as several shards can be inserted. Each shard has an
//! equal share. A shard above its share evicts its own entries; a shard below it evicts from the fullest other shard.
//! The second lock is only *tried*, so no lock order is needed.

use std::{
    ops::Deref,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crossbeam_utils::CachePadded;

use super::{
    budget::{Budget, Freed},
    epochs::{Epoch, Epochs},
    hash::Hasher,
    policy::{Frame, Policy},
    purge::Verdict,
    shard::{Arrival, Gone, Owner, Shard, Weights},
    staging::Staging,
    sync::{AtomicU64, RwLock, RwLockReadGuard, RwLockWriteGuard, write_within},
    types::{Fill, GroupUsage, Left, Settings, Usage},
};
use crate::{
    clock::Tick,
    model::{Lifetime, Record, RemovalCause},
};

mod ops;
mod purge;
mod upkeep;

/// Maximum time that an insertion waits for the lock of another shard when its own shard has nothing left to evict.
/// Locks are held for microseconds. A wait this long means that the machine is stalled; the value is then returned and
/// not inserted.
const OTHER_LOCK_WAIT: Duration = Duration::from_millis(20);

/// Number of other shards that are examined for a fuller one: enough to find one soon, whatever the number of shards.
const RELIEF_LOOKS: usize = 8;

/// One shard with its lock, and its sizes for lock-free reads.
struct Cell<P> {
    bytes: AtomicU64,
    entries: AtomicU64,
    shard: RwLock<Shard<P>>,
}

/// The memory tier with one policy.
pub(super) struct Tier<P: Policy> {
    cells: Box<[CachePadded<Cell<P>>]>,
    budget: Budget,
    shared: P::Shared,
    hasher: Hasher,
    share_bytes: u64,
    share_entries: u64,
    entry_max_bytes: u64,
    epochs: Epochs,
    staging: Staging,
    /// First shard of the next search for a fuller one.
    relief_from: AtomicUsize,
    /// First shard of the next sweep.
    sweep_from: AtomicUsize,
    /// Number of active pattern bans.
    purges_open: AtomicUsize,
    /// Number of pattern bans since start.
    purges_begun: AtomicU64,
    /// Number of key lookups by reads, for tests that limit them.
    #[cfg(test)]
    pub(super) lookups: AtomicUsize,
}

/// The shard and the hash of a key.
#[derive(Clone, Copy)]
struct Place {
    cell: usize,
    hash: u32,
}

impl<P: Policy> Tier<P> {
    pub(super) fn new(settings: Settings, shards: usize, seed: Option<u64>, weights: Weights) -> Self {
        let weighed = settings.capacity_bytes != u64::MAX;
        let frame = Frame { shards, weighed, seed: seed.unwrap_or_else(|| fastrand::u64(..)) };
        let hasher = Hasher::new(seed);
        let new_cell = |shard| Cell {
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            shard: RwLock::new(Shard::new(P::new(frame, shard), hasher.clone(), weights)),
        };
        Self {
            cells: (0..shards).map(|shard| CachePadded::new(new_cell(shard))).collect(),
            budget: Budget::new(&settings),
            shared: P::share(frame),
            hasher,
            share_bytes: (settings.capacity_bytes / shards as u64).max(1),
            share_entries: settings.max_entries.map_or(u64::MAX, |max| (max / shards as u64).max(1)),
            entry_max_bytes: settings.capacity_bytes / 8,
            epochs: Epochs::new(),
            staging: Staging::new(),
            relief_from: AtomicUsize::new(0),
            sweep_from: AtomicUsize::new(0),
            purges_open: AtomicUsize::new(0),
            purges_begun: AtomicU64::new(0),
            #[cfg(test)]
            lookups: AtomicUsize::new(0),
        }
    }

    #[inline]
    fn place(&self, key: &[u8]) -> Place {
        let hash = self.hasher.of(key);
        Place { cell: hash as usize & (self.cells.len() - 1), hash: (hash >> 32) as u32 }
    }

    pub(super) fn hash_of(&self, key: &[u8]) -> u32 {
        self.place(key).hash
    }

    pub(super) fn weigh(&self, key_bytes: usize, value_bytes: usize) -> u64 {
        Shard::<P>::weigh(key_bytes, value_bytes)
    }

    /// Locks a shard exclusively; `note` must follow a change.
    fn write(&self, cell: usize) -> RwLockWriteGuard<'_, Shard<P>> {
        self.cells[cell].shard.write()
    }

    /// Locks the shard of a key for reads. The verdict covers every pattern of the shard; patterns are compared before the
    /// lock is acquired, and again if the shard has another one by then.
    #[inline]
    fn read_for(&self, place: Place, key: &[u8]) -> (RwLockReadGuard<'_, Shard<P>>, Verdict) {
        let shard = self.cells[place.cell].shard.read();
        if !shard.has_bans() {
            return (shard, Verdict::default());
        }
        drop(shard);
        self.judged(key, || self.cells[place.cell].shard.read())
    }

    /// Same as [`Tier::read_for`] with an exclusive lock.
    fn write_for(&self, place: Place, key: &[u8]) -> (RwLockWriteGuard<'_, Shard<P>>, Verdict) {
        let shard = self.write(place.cell);
        if !shard.has_bans() {
            return (shard, Verdict::default());
        }
        drop(shard);
        self.judged(key, || self.write(place.cell))
    }

    #[cold]
    fn judged<G: Deref<Target = Shard<P>>>(&self, key: &[u8], lock: impl Fn() -> G) -> (G, Verdict) {
        let mut verdict = Verdict::default();
        loop {
            let shard = lock();
            let unjudged = shard.unjudged(key, &verdict);
            if unjudged.is_empty() {
                return (shard, verdict);
            }
            drop(shard);
            verdict.add(key, unjudged);
        }
    }

    /// Publishes the sizes of a shard after a change.
    fn note(&self, cell: usize, shard: &Shard<P>) {
        self.cells[cell].bytes.store(shard.bytes(), Relaxed);
        self.cells[cell].entries.store(shard.len() as u64, Relaxed);
    }

    /// Returns the size of a shard as a fraction of its share.
    fn fullness(&self, bytes: u64, entries: u64) -> f64 {
        (bytes as f64 / self.share_bytes as f64).max(entries as f64 / self.share_entries as f64)
    }

    /// Returns whether a shard exceeds its share with `weight` more bytes. A large entry counts as at most an eighth of
    /// the share, because all shards make room for it.
    fn is_over_share(&self, shard: &Shard<P>, weight: u64) -> bool {
        let bytes = shard.bytes().saturating_add(weight.min(self.share_bytes / 8));
        bytes > self.share_bytes || shard.is_full() || shard.len() as u64 >= self.share_entries
    }

    /// Makes room and inserts an entry. Returns `false` if the entry is too large, or if no room could be made.
    fn put(&self, place: Place, shard: &mut Shard<P>, incoming: &Incoming<'_>, freed: &mut Freed<'_>) -> bool {
        let Incoming { key, fill, there, now, epoch, staged, verdict } = *incoming;
        let weight = shard.weight_for(key, fill.value.stored());
        if weight > self.entry_max_bytes {
            return false;
        }
        shard.advance(now);
        let carried = there.and_then(|at| self.replace(shard, at, verdict, freed));
        let owner = match staged {
            Some(serial) => Owner::Staging(serial),
            None => Owner::Policy(shard.announce(place.hash, carried, &self.shared)),
        };
        let Some(hole) = self.make_room(place.cell, shard, weight, freed) else { return false };
        let life = Lifetime { expires_at: fill.expires_at, deadline: fill.deadline };
        let record = Record::new(key, fill.group, fill.value.stored(), life, now);
        let arrival = Arrival { record, hash: place.hash, epoch, weight, expires_at: fill.expires_at, owner };
        if staged.is_some() {
            self.staging.inserted(weight);
        }
        let at = shard.insert(arrival, hole.at, &self.shared);
        // The new value takes the position of the old one. Otherwise, a running scan that has not reached it could miss
        // the key.
        if let Some(before) = there {
            shard.exchange(at, before);
        }
        true
    }

    /// Removes the entry that a new one replaces. Returns its mark of the policy.
    fn replace(&self, shard: &mut Shard<P>, at: usize, verdict: &Verdict, freed: &mut Freed<'_>) -> Option<u32> {
        let slot = shard.slot(at)?;
        let mark = (!slot.is_staged()).then(|| slot.mark.load(Relaxed));
        // Entries that were invalid already are found only now, by their replacement.
        let dead = match () {
            () if shard.hides(slot, shard.now(), verdict) => Some(Left::Banned),
            () if self.epochs.has_ended(slot.epoch()) => Some(Left::Ended),
            () if !self.epochs.is_open(slot.epoch(), shard.now()) => Some(Left::Closed),
            () => None,
        };
        let gone = shard.remove(at, false)?;
        let cause = if gone.was_over { RemovalCause::Expired } else { RemovalCause::Replaced };
        match dead.filter(|_| !gone.was_over) {
            Some(left) => self.account_as(left, shard, gone, cause, freed),
            None => self.account(shard, gone, cause, freed),
        }
        mark
    }

    /// Reserves room for `weight`, with evictions if needed. Returns `None` if there is nothing to evict.
    fn make_room(&self, cell: usize, shard: &mut Shard<P>, weight: u64, freed: &mut Freed<'_>) -> Option<Room> {
        let mut hole = None;
        while shard.is_full() || !freed.try_reserve(weight) {
            if let Some(at) = hole.take() {
                shard.close(at);
            }
            if !self.is_over_share(shard, weight) && self.evict_elsewhere(cell, shard, freed) {
                continue;
            }
            match shard.evict(&self.epochs, &self.shared) {
                Some((at, gone)) => {
                    self.account_evicted(shard, gone, freed);
                    hole = Some(at);
                }
                None if self.evict_anywhere(cell, freed) => {}
                None => return None,
            }
        }
        Some(Room { at: hole })
    }

    /// Evicts one entry of the fullest of several other shards, if it is fuller than this one and its lock is free.
    fn evict_elsewhere(&self, cell: usize, shard: &Shard<P>, freed: &mut Freed<'_>) -> bool {
        let first = self.relief_from.fetch_add(1, Relaxed);
        let looked_at = (0..RELIEF_LOOKS).map(|step| (first + step) & (self.cells.len() - 1));
        let with_fullness = looked_at.filter(|&other| other != cell).map(|other| {
            let Cell { bytes, entries, .. } = &*self.cells[other];
            (self.fullness(bytes.load(Relaxed), entries.load(Relaxed)), other)
        });
        let own = self.fullness(shard.bytes(), shard.len() as u64);
        let fuller = with_fullness.filter(|(fullness, _)| *fullness > own);
        let Some((_, fullest)) = fuller.max_by(|(a, _), (b, _)| a.total_cmp(b)) else { return false };
        let Some(mut other) = self.cells[fullest].shard.try_write() else { return false };
        self.evict_one(fullest, &mut other, freed)
    }

    /// Evicts one entry of any other shard. Waits briefly for its lock.
    fn evict_anywhere(&self, cell: usize, freed: &mut Freed<'_>) -> bool {
        (1..self.cells.len()).map(|step| (cell + step) & (self.cells.len() - 1)).any(|other| {
            self.cells[other].entries.load(Relaxed) > 0
                && write_within(&self.cells[other].shard, OTHER_LOCK_WAIT)
                    .is_some_and(|mut shard| self.evict_one(other, &mut shard, freed))
        })
    }

    fn evict_one(&self, cell: usize, shard: &mut Shard<P>, freed: &mut Freed<'_>) -> bool {
        let Some((at, gone)) = shard.evict(&self.epochs, &self.shared) else { return false };
        shard.close(at);
        self.account_evicted(shard, gone, freed);
        self.note(cell, shard);
        true
    }

    fn account_evicted(&self, shard: &mut Shard<P>, gone: Gone, freed: &mut Freed<'_>) {
        let cause = if gone.was_over { RemovalCause::Expired } else { RemovalCause::Size };
        if !gone.is_unused {
            self.staging.dropped(gone.hash, shard.evicted());
        }
        self.account(shard, gone, cause, freed);
    }

    /// Counts a removed entry of `shard`, and keeps its memory until the lock is released.
    fn account(&self, shard: &mut Shard<P>, gone: Gone, cause: RemovalCause, freed: &mut Freed<'_>) {
        let left = match cause {
            RemovalCause::Size => Left::Evicted,
            RemovalCause::Expired if shard.now() < gone.record.expires_at() => Left::TooOld,
            RemovalCause::Expired => Left::Expired,
            RemovalCause::Invalidated => Left::Changed,
            RemovalCause::Replaced => Left::Replaced,
        };
        self.account_as(left, shard, gone, cause, freed);
    }

    /// Same as [`Tier::account`] with a more specific reason.
    fn account_as(&self, left: Left, shard: &mut Shard<P>, gone: Gone, cause: RemovalCause, freed: &mut Freed<'_>) {
        shard.count(&gone, cause, left);
        if gone.is_unused {
            self.staging.unused(gone.hash, &gone.record, gone.weight);
        }
        freed.add(gone.record, gone.weight);
    }

    /// Returns the number of entries that L1 has room for, estimated from the current mean weight.
    pub(super) fn room_entries(&self) -> u64 {
        let Usage { entries, bytes, capacity_bytes } = self.budget.usage();
        let by_bytes = if bytes == 0 { capacity_bytes } else { capacity_bytes / (bytes / entries.max(1)).max(1) };
        by_bytes.min(self.budget.max_entries())
    }

    #[inline]
    pub(super) fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    pub(super) fn usage(&self) -> Usage {
        self.budget.usage()
    }

    pub(super) fn shown_entries(&self) -> u64 {
        let of_shard = |cell: &CachePadded<Cell<P>>| {
            let shard = cell.shard.read();
            shard.len() as u64 - shard.own()
        };
        self.cells.iter().map(of_shard).sum()
    }

    pub(super) fn expiring_entries(&self) -> u64 {
        self.cells.iter().map(|cell| cell.shard.read().expiring()).sum()
    }

    pub(super) fn groups(&self) -> Vec<GroupUsage> {
        let mut all: Vec<GroupUsage> = Vec::new();
        for cell in &self.cells {
            let shard = cell.shard.read();
            let groups = shard.groups();
            all.resize(all.len().max(groups.len()), GroupUsage::default());
            for (sum, group) in all.iter_mut().zip(groups) {
                sum.entries += group.entries;
                sum.bytes += group.bytes;
                sum.removals.add(group.removals);
            }
        }
        all
    }
}

/// A copy to insert.
#[derive(Clone, Copy)]
struct Incoming<'a> {
    key: &'a [u8],
    fill: &'a Fill,
    /// Position of the current entry of the key, live or not.
    there: Option<usize>,
    now: Tick,
    epoch: Epoch,
    /// Serial number if the copy was prefetched.
    staged: Option<u32>,
    verdict: &'a Verdict,
}

/// Reserved room, and the hole that an eviction left, if any.
struct Room {
    at: Option<usize>,
}
