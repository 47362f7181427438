//! Where prefetched entries wait until somebody uses them: a queue of its own inside L1's bytes.
//!
//! Staged entries lie in the shards like any other, marked, and the policy does not know of them: what nobody has asked for
//! must not push out what somebody has. They leave in the order they came. The first use takes the mark away and gives
//! the entry to the policy, as if it had been filled on demand.
//!
//! How many may wait follows from what a place is worth on either side: one more when an entry was used late in its
//! turn, or asked for soon after it was dropped unused; three fewer when an entry is missed that the policy has just
//! dropped and that the places of half the queue would have kept.
//!
//! And what waits for longer than predictions take to come true goes as well: where next to nothing is prefetched any more,
//! no later arrival would ever push it out, and L1 would be smaller for nothing.
//!
//! Locks: `order` and `left` are leaves; no shard is locked while `order` is held.

use std::{collections::VecDeque, sync::OnceLock};

use super::{
    sync::{AtomicU64, Mutex, Ordering::Relaxed},
    types::Staged,
};
use crate::model::Record;

/// Entries that may wait at first, and at least: with fewer the queue cannot show what it is worth.
const START: u64 = 32;
const LEAST: u64 = 2;
/// Of L1's entries, and of its bytes, staged ones are at most this part.
const PART_MAX: u64 = 10;
/// What a missed entry, dropped by the policy just before, costs.
const DISPLACED_COST: u64 = 3;
/// Maximum number of removed, unused prefetched keys that wait for the prefetch learner. The oldest keys are dropped.
const LEFT_MAX: usize = 4_096;
/// Drops that are remembered, of each kind; 128 KB.
const DROPS: usize = 16_384;
/// How long an entry waits at most, in fills on demand: this part of L1's entries, in tenths, and at least so many. At
/// least twice as long as the learner waits.
const PATIENCE_TENTHS: u64 = 4;
const PATIENCE_MIN: u64 = 128;
/// It is looked for such with one fill in so many.
const LOOK_EVERY: u64 = 4;
/// Places in the queue that used entries left, per entry that may wait, before the oldest have to go all the same.
const SLACK: u64 = 8;

/// Where a staged entry lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) cell: usize,
    pub(super) hash: u32,
    /// Its number in the order of arrival; its slot's mark says the same.
    pub(super) serial: u32,
    /// Fills on demand before it came.
    pub(super) fills: u64,
}

/// The queue.
pub(super) struct Staging {
    order: Mutex<VecDeque<Waiting>>,
    entries: AtomicU64,
    bytes: AtomicU64,
    /// Entries that may wait.
    places: AtomicU64,
    /// Arrivals so far.
    serial: AtomicU64,
    /// Fills on demand while something waited.
    fills: AtomicU64,
    left: Mutex<VecDeque<Record>>,
    /// Misses of entries that places given to this queue would have kept.
    displaced: AtomicU64,
    drops: OnceLock<Drops>,
}

/// What was dropped lately: by the policy, and out of this queue.
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

/// How many turns ago this was dropped, told once.
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

    /// Whether anything was ever staged: if not, nothing is noted.
    fn drops(&self) -> Option<&Drops> {
        self.drops.get()
    }

    /// Entries that may wait where L1 has room for `room` entries.
    fn places(&self, room: u64) -> u64 {
        self.places.load(Relaxed).min(room / PART_MAX).max(LEAST)
    }

    /// Whether one more of this weight would be too much. `capacity_bytes` is all of L1's.
    pub(super) fn is_full(&self, weight: u64, room: u64, capacity_bytes: u64) -> bool {
        self.entries.load(Relaxed) >= self.places(room)
            || self.bytes.load(Relaxed).saturating_add(weight) > capacity_bytes / PART_MAX
    }

    /// The number of the next arrival.
    pub(super) fn next(&self) -> u32 {
        self.drops.get_or_init(Drops::default);
        self.serial.fetch_add(1, Relaxed) as u32
    }

    /// An entry came in, under its shard's lock.
    pub(super) fn came(&self, weight: u64) {
        self.entries.fetch_add(1, Relaxed);
        self.bytes.fetch_add(weight, Relaxed);
    }

    /// It stands in the queue. Returns one that has to go because used entries left too many places behind.
    pub(super) fn queue(&self, waiting: Waiting, room: u64) -> Option<Waiting> {
        let mut order = self.order.lock();
        order.push_back(waiting);
        let most = self.places(room) * SLACK + START;
        if order.len() as u64 > most { order.pop_front() } else { None }
    }

    /// The one that came first, if any; it may have gone already.
    pub(super) fn first(&self) -> Option<Waiting> {
        self.order.lock().pop_front()
    }

    /// Fills on demand so far, to say when an entry came.
    pub(super) fn fills(&self) -> u64 {
        self.fills.load(Relaxed)
    }

    /// One more fill on demand. Returns the entry that has waited for too long, if any; it may have gone already.
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

    /// An entry is staged no more.
    fn ended(&self, weight: u64) {
        self.entries.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(weight, Relaxed);
    }

    /// The first use of an entry.
    pub(super) fn used(&self, serial: u32, weight: u64, room: u64) {
        let (places, waiting) = (self.places(room), self.entries.load(Relaxed));
        let age = u64::from((self.serial.load(Relaxed) as u32).wrapping_sub(serial));
        if age >= places / 2 && waiting > places / 2 {
            self.grow(room);
        }
        self.ended(weight);
    }

    /// An entry goes unused, for whatever reason.
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

    /// The policy dropped an entry; `turn` counts its shard's evictions.
    #[inline]
    pub(super) fn dropped(&self, hash: u32, turn: u64) {
        if let Some(drops) = self.drops() {
            note(&drops.policy, hash, turn as u32);
        }
    }

    /// An entry is missed. `turn` counts the evictions of its shard, of which there are `shards`.
    #[inline]
    pub(super) fn missed(&self, hash: u32, turn: u64, shards: u64, room: u64) {
        let Some(drops) = self.drops() else { return };
        let half = self.places(room) / 2;
        let is_near = take(&drops.policy, hash, turn as u32).is_some_and(|ago| ago * shards <= half);
        // Where nothing is staged nothing had to make room.
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

    /// Hands over the keys of entries that left unused.
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
