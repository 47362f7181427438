//! The queue of staged entries: prefetched entries in L1 that were not used yet.
//!
//! Staged entries are stored in the shards like other entries, with a mark, and the policy does not know them: entries
//! that nobody has requested must not evict entries that were requested. They leave in order of arrival. The first use
//! removes the mark and passes the entry to the policy, as if it had been filled on demand.
//!
//! The number of places adapts to the benefit of a place on each side. It grows by one when a staged entry is used late
//! in its stay, or is requested soon after it was removed unused. It shrinks by three when a request misses an entry
//! that the policy has just evicted and that half of the places would have kept.
//!
//! Entries that wait longer than predictions take to come true are removed as well. Otherwise, when prefetch almost
//! stops, no later arrival would remove them, and L1 would be smaller for no benefit.
//!
//! Locks: `order` and `left` are leaf locks; no shard is locked while `order` is held.

use std::{collections::VecDeque, sync::OnceLock};

use super::{
    sync::{AtomicU64, Mutex, Ordering::Relaxed},
    types::Staged,
};
use crate::model::Record;

/// Initial number of places, and the minimum: with fewer places, the benefit of the queue cannot be measured.
const START: u64 = 32;
const LEAST: u64 = 2;
/// Maximum fraction of L1's entries and bytes that may be staged: 1 in this many.
const PART_MAX: u64 = 10;
/// Number of places removed for a miss of an entry that the policy has just evicted.
const DISPLACED_COST: u64 = 3;
/// Maximum number of removed, unused prefetched keys that wait for the prefetch learner. The oldest keys are dropped.
const LEFT_MAX: usize = 4_096;
/// Number of removals of each kind that are remembered; 128 KB.
const DROPS: usize = 16_384;
/// Maximum wait of an entry, in fills on demand: this many tenths of the number of entries in L1, and at least
/// `PATIENCE_MIN`. The learner waits at most half as long.
const PATIENCE_TENTHS: u64 = 4;
const PATIENCE_MIN: u64 = 128;
/// The search for overdue entries runs at 1 fill in this many.
const LOOK_EVERY: u64 = 4;
/// Queue positions of used entries, per place, before the oldest positions are removed.
const SLACK: u64 = 8;

/// A position in the queue of staged entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) cell: usize,
    pub(super) hash: u32,
    /// Serial number in order of arrival; the mark of the slot is the same number.
    pub(super) serial: u32,
    /// Fills on demand before the arrival.
    pub(super) fills: u64,
}

/// The queue of staged entries.
pub(super) struct Staging {
    order: Mutex<VecDeque<Waiting>>,
    entries: AtomicU64,
    bytes: AtomicU64,
    /// Maximum number of staged entries.
    places: AtomicU64,
    /// Arrivals since start.
    serial: AtomicU64,
    /// Fills on demand while an entry was staged.
    fills: AtomicU64,
    left: Mutex<VecDeque<Record>>,
    /// Misses of entries that the places of this queue would have kept.
    displaced: AtomicU64,
    drops: OnceLock<Drops>,
}

/// Recent removals by the policy and from this queue.
struct Drops {
    policy: Box<[AtomicU64]>,
    staged: Box<[AtomicU64]>,
}

impl Default for Drops {
    fn default() -> Self {
        let empty = || (0..DROPS).map(|_| AtomicU64::new(0)).collect();
        Self { policy: empty(), staged: empty() }
    }
}

fn note(drops: &[AtomicU64], hash: u32, turn: u32) {
    drops[hash as usize % DROPS].store(u64::from(hash) << 32 | u64::from(turn), Relaxed);
}

/// Returns how many turns ago this entry was removed, once.
fn take(drops: &[AtomicU64], hash: u32, turn: u32) -> Option<u64> {
    let drop = &drops[hash as usize % DROPS];
    let known = drop.load(Relaxed);
    if known == 0 || (known >> 32) as u32 != hash {
        return None;
    }
    drop.store(0, Relaxed);
    Some(u64::from(turn.wrapping_sub(known as u32)))
}

impl Staging {
    pub(super) fn new() -> Self {
        Self {
            order: Mutex::new(VecDeque::new()),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            places: AtomicU64::new(START),
            serial: AtomicU64::new(0),
            fills: AtomicU64::new(0),
            left: Mutex::new(VecDeque::new()),
            displaced: AtomicU64::new(0),
            drops: OnceLock::new(),
        }
    }

    /// Returns the recent removals. `None` if nothing was ever staged: removals are not noted then.
    fn drops(&self) -> Option<&Drops> {
        self.drops.get()
    }

    /// Returns the maximum number of staged entries if L1 has room for `room` entries.
    fn places(&self, room: u64) -> u64 {
        self.places.load(Relaxed).min(room / PART_MAX).max(LEAST)
    }

    /// Returns whether one more entry of this weight exceeds the limits. `capacity_bytes` is the capacity of L1.
    pub(super) fn is_full(&self, weight: u64, room: u64, capacity_bytes: u64) -> bool {
        self.entries.load(Relaxed) >= self.places(room)
            || self.bytes.load(Relaxed).saturating_add(weight) > capacity_bytes / PART_MAX
    }

    /// Returns the serial number of the next arrival.
    pub(super) fn next(&self) -> u32 {
        self.drops.get_or_init(Drops::default);
        self.serial.fetch_add(1, Relaxed) as u32
    }

    /// Notes that an entry was inserted, under the lock of its shard.
    pub(super) fn inserted(&self, weight: u64) {
        self.entries.fetch_add(1, Relaxed);
        self.bytes.fetch_add(weight, Relaxed);
    }

    /// Appends an entry to the queue. Returns the oldest one if used entries left too many positions.
    pub(super) fn queue(&self, waiting: Waiting, room: u64) -> Option<Waiting> {
        let mut order = self.order.lock();
        order.push_back(waiting);
        let most = self.places(room) * SLACK + START;
        if order.len() as u64 > most { order.pop_front() } else { None }
    }

    /// Returns the oldest position, if any. Its entry may have left already.
    pub(super) fn first(&self) -> Option<Waiting> {
        self.order.lock().pop_front()
    }

    /// Returns the number of fills on demand, to note it at an arrival.
    pub(super) fn fills(&self) -> u64 {
        self.fills.load(Relaxed)
    }

    /// Notes a fill on demand. Returns the entry that has waited too long, if any; it may have left already.
    pub(super) fn filled(&self, room: impl FnOnce() -> u64) -> Option<Waiting> {
        if self.entries.load(Relaxed) == 0 {
            return None;
        }
        let fills = self.fills.fetch_add(1, Relaxed);
        if !fills.is_multiple_of(LOOK_EVERY) {
            return None;
        }
        let patience = (room() * PATIENCE_TENTHS / 10).max(PATIENCE_MIN);
        let mut order = self.order.lock();
        let is_overdue = order.front().is_some_and(|first| first.fills + patience < fills);
        if is_overdue { order.pop_front() } else { None }
    }

    /// Notes that an entry is no longer staged.
    fn ended(&self, weight: u64) {
        self.entries.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(weight, Relaxed);
    }

    /// Notes the first use of an entry.
    pub(super) fn used(&self, serial: u32, weight: u64, room: u64) {
        let (places, waiting) = (self.places(room), self.entries.load(Relaxed));
        let age = u64::from((self.serial.load(Relaxed) as u32).wrapping_sub(serial));
        if age >= places / 2 && waiting > places / 2 {
            self.grow(room);
        }
        self.ended(weight);
    }

    /// Notes that an entry left unused, for any reason.
    pub(super) fn unused(&self, hash: u32, record: &Record, weight: u64) {
        self.ended(weight);
        if let Some(drops) = self.drops() {
            note(&drops.staged, hash, self.serial.load(Relaxed) as u32);
        }
        let mut left = self.left.lock();
        if left.len() >= LEFT_MAX {
            left.pop_front();
        }
        left.push_back(record.clone());
    }

    /// Notes that the policy evicted an entry; `turn` is the number of evictions of its shard.
    #[inline]
    pub(super) fn dropped(&self, hash: u32, turn: u64) {
        if let Some(drops) = self.drops() {
            note(&drops.policy, hash, turn as u32);
        }
    }

    /// Notes a miss. `turn` is the number of evictions of its shard; there are `shards` shards.
    #[inline]
    pub(super) fn missed(&self, hash: u32, turn: u64, shards: u64, room: u64) {
        let Some(drops) = self.drops() else { return };
        let half = self.places(room) / 2;
        let is_near = take(&drops.policy, hash, turn as u32).is_some_and(|ago| ago * shards <= half);
        // If nothing is staged, no entry was evicted in favor of staged ones.
        if is_near && self.entries.load(Relaxed) > 0 {
            self.displaced.fetch_add(1, Relaxed);
            let places = self.places(room);
            self.places.store(places.saturating_sub(DISPLACED_COST).max(LEAST), Relaxed);
        }
        if take(&drops.staged, hash, self.serial.load(Relaxed) as u32).is_some_and(|ago| ago <= half) {
            self.grow(room);
        }
    }

    fn grow(&self, room: u64) {
        let most = (room / PART_MAX).max(LEAST);
        self.places.store((self.places(room) + 1).min(most), Relaxed);
    }

    /// Passes on the keys of entries that left unused.
    pub(super) fn take_unused(&self, mut take: impl FnMut(&[u8])) {
        if self.serial.load(Relaxed) == 0 {
            return;
        }
        let left = std::mem::take(&mut *self.left.lock());
        left.iter().for_each(|record| take(record.key()));
    }

    pub(super) fn report(&self, room: u64) -> Staged {
        Staged {
            entries: self.entries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            places: self.places(room),
            displaced: self.displaced.load(Relaxed),
        }
    }
}
