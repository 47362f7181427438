//! Eviction by learned value: what an entry is worth is learned from what really happens in this cache.
//!
//! A descendant of LHD (Beckmann, Chen, Cidon, NSDI 2018). Each entry carries when it was last used, counted in
//! insertions of its shard, and how often. Tables pooled over all shards learn how likely an entry of that use class and
//! age is to be used again for the time it stays; [`model`] turns them into values. Eviction looks at [`SCAN`] entries
//! and drops the one of least value. Where counts say nothing, the value depends on age alone, which is LRU: that is why
//! no traffic makes it much worse than LRU. It keeps no queues, and a hit writes at most two relaxed words.
//!
//! A key that is used again within the *quiet* time after its last use writes nothing: such bursts say nothing about
//! the time after, and a hot key's line stays shared between cores.

mod ghost;
mod model;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;
use fastrand::Rng;

use self::{
    ghost::{Ghost, Seen},
    model::{CELLS, Model, Values, cell},
};
use super::{Frame, Policy};
use crate::l1::{
    slot::{SIZE_CLASSES, Slot, Slots},
    sync::Mutex,
};

/// Entries that compete for staying at each eviction. 8 cost one point of the mean miss ratio, 32 gain none.
const SCAN: usize = 16;
/// Of these, how many are counted as samples of what lies in the cache.
const SAMPLES: usize = 4;
/// Quiet time: this part of the shard's entries, in insertions.
const QUIET_PART: u32 = 32;
/// Values are computed anew each time so many insertions happened, per cached entry: a quarter.
const PERIOD_PART: u64 = 4;
/// But not more often than this: it takes some 10 µs.
const PERIOD_MIN: u64 = 256;

/// Maximum number of count tables of the learned eviction policy. Several tables reduce contention between threads, and 16
/// fit into the cache of a CPU core.
const TALLIES_MAX: usize = 16;
/// What need not happen at each insertion happens at every fourth, for four.
const STRIDE: u32 = 4;

/// What one shard has seen since the last computation. Hits add under the shared lock, so one of two concurrent ones
/// may be lost.
struct Tally {
    hit: [AtomicU64; CELLS],
    room: [AtomicU64; CELLS],
}

impl Default for Tally {
    fn default() -> Self {
        Self { hit: std::array::from_fn(|_| AtomicU64::new(0)), room: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

/// Adds without a locked instruction: the counts are statistics.
#[inline]
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Relaxed).wrapping_add(more), Relaxed);
}

/// What all shards share.
pub(in crate::l1) struct Shared {
    values: Values,
    /// What a value is multiplied by, by size class.
    per_size: [f32; SIZE_CLASSES],
    model: Mutex<Model>,
    tallies: Box<[CachePadded<Tally>]>,
    /// Insertions since the values were computed.
    insertions: CachePadded<AtomicU64>,
}

impl Shared {
    /// Counts insertions; computes the values when it is time.
    fn count_insertions(&self, more: u64, entries: usize) {
        let insertions = self.insertions.fetch_add(more, Relaxed) + more;
        if insertions < (entries as u64 / PERIOD_PART).max(PERIOD_MIN) {
            return;
        }
        // Whoever comes second goes on with the old values.
        if let Some(mut model) = self.model.try_lock() {
            self.insertions.store(0, Relaxed);
            for tally in &self.tallies {
                model.take_in(
                    tally.hit.iter().map(|count| count.swap(0, Relaxed)),
                    tally.room.iter().map(|count| count.swap(0, Relaxed)),
                );
            }
            model.publish(&self.values);
        }
    }
}

/// The policy's part in one shard.
pub(in crate::l1) struct Learned {
    shard: usize,
    shards: usize,
    weighed: bool,
    /// Insertions so far.
    tick: u32,
    quiet: u32,
    hand: usize,
    /// Whether the arrival under way has been used to sample what lies in the cache.
    has_sampled: bool,
    ghost: Ghost,
    rng: Rng,
}

/// What a slot's mark holds: use count (4 bits, saturating) and the tick of the last use (28 bits, wrapping).
#[derive(Clone, Copy)]
struct Mark(u32);

impl Mark {
    const COUNT_MAX: u32 = 0xF;

    #[inline]
    fn new(count: u32, tick: u32) -> Self {
        Self(tick << 4 | count.min(Self::COUNT_MAX))
    }

    #[inline]
    fn of(slot: &Slot) -> Self {
        Self(slot.mark.load(Relaxed))
    }

    #[inline]
    fn count(self) -> u32 {
        self.0 & Self::COUNT_MAX
    }

    /// Insertions from the last use to `tick`.
    #[inline]
    fn age(self, tick: u32) -> u32 {
        tick.wrapping_sub(self.0 >> 4) & (u32::MAX >> 4)
    }

    #[inline]
    fn cell(self, tick: u32) -> usize {
        cell(self.count(), self.age(tick))
    }
}

impl Learned {
    fn tally<'a>(&self, shared: &'a Shared) -> &'a Tally {
        &shared.tallies[self.shard % shared.tallies.len()]
    }

    /// A sample of the ghosts: how much room they would take, by cell.
    fn sample_ghost(&mut self, shared: &Shared) {
        let Some(Seen { count, age }) = self.ghost.draw(&mut self.rng, self.tick) else { return };
        let room = self.ghost.places() as u64 * u64::from(STRIDE);
        add(&self.tally(shared).room[cell(count, age)], room);
    }

    fn sample_resident(&self, slots: &Slots, at: usize, shared: &Shared) {
        if let Some(slot) = slots.get(at).filter(|slot| !slot.is_staged()) {
            // Each of four samples stands for a quarter of the entries.
            add(&self.tally(shared).room[Mark::of(slot).cell(self.tick)], (slots.len() / SAMPLES).max(1) as u64);
        }
    }

    /// Orders entries by what they are worth, the older first among equals: a value that is not negative orders as its
    /// bits do.
    #[inline]
    fn rank(&self, slot: &Slot, shared: &Shared) -> u64 {
        let mark = Mark::of(slot);
        let age = mark.age(self.tick);
        let value = shared.values.at(cell(mark.count(), age));
        let worth = if self.weighed { value * shared.per_size[slot.size_class()] } else { value };
        u64::from(worth.to_bits()) << 32 | u64::from(!age)
    }
}

impl Policy for Learned {
    type Shared = Shared;

    const OVERHEAD_BYTES: u64 = ghost::BYTES_PER_ENTRY;

    fn share(frame: Frame) -> Shared {
        let mut model = Model::default();
        let values = Values::default();
        model.publish(&values);
        Shared {
            values,
            per_size: model::per_size(),
            model: Mutex::new(model),
            tallies: (0..frame.shards.min(TALLIES_MAX)).map(|_| CachePadded::default()).collect(),
            insertions: CachePadded::default(),
        }
    }

    fn new(frame: Frame, shard: usize) -> Self {
        Self {
            shard,
            shards: frame.shards,
            weighed: frame.weighed,
            tick: 0,
            quiet: 0,
            hand: 0,
            has_sampled: false,
            ghost: Ghost::default(),
            rng: Rng::with_seed(frame.seed.wrapping_add(shard as u64)),
        }
    }

    #[inline]
    fn hit(&self, slot: &Slot, shared: &Shared) {
        let mark = Mark::of(slot);
        let age = mark.age(self.tick);
        if age < self.quiet {
            return;
        }
        add(&self.tally(shared).hit[cell(mark.count(), age)], 1);
        slot.mark.store(Mark::new(mark.count() + 1, self.tick).0, Relaxed);
    }

    fn arrive(&mut self, hash: u32, carried: Option<u32>, slots: &Slots, shared: &Shared) -> u32 {
        self.tick = self.tick.wrapping_add(1);
        self.quiet = slots.len() as u32 / QUIET_PART;
        self.has_sampled = false;
        let seen = self.ghost.take(hash, self.tick);
        if let Some(Seen { count, age }) = seen {
            add(&self.tally(shared).hit[cell(count, age)], 1);
        }
        if self.tick.is_multiple_of(STRIDE) {
            self.sample_ghost(shared);
            shared.count_insertions(u64::from(STRIDE), slots.len() * self.shards);
        }
        seen.map(|seen| seen.count + 1).or(carried.map(|mark| Mark(mark).count())).unwrap_or(0)
    }

    fn victim(&mut self, slots: &Slots, shared: &Shared, is_dead: impl Fn(&Slot) -> bool) -> Option<usize> {
        let length = slots.len();
        let first = if self.hand < length { self.hand } else { 0 };
        let scanned = SCAN.min(length);
        self.hand = first + scanned;
        if !self.has_sampled {
            self.has_sampled = true;
            (first..first + SAMPLES.min(length)).for_each(|at| self.sample_resident(slots, at % length, shared));
        }
        // The array wraps: what is left of it from the hand on, then its beginning.
        let upto = (first + scanned).min(length);
        let wrapped = first + scanned - upto;
        let parts = [(first, &slots.all()[first..upto]), (0, &slots.all()[..wrapped])];
        let mut least = (u64::MAX, None);
        for (start, part) in parts {
            for (step, slot) in part.iter().enumerate() {
                if is_dead(slot) {
                    return Some(start + step);
                }
                let rank = if slot.is_staged() { u64::MAX } else { self.rank(slot, shared) };
                if rank < least.0 || least.1.is_none() {
                    least = (rank, Some(start + step));
                }
            }
        }
        if wrapped > 0 {
            self.hand = wrapped;
        }
        least.1
    }

    fn gone(&mut self, hash: u32, slot: &Slot, slots: &Slots) {
        let mark = Mark::of(slot);
        let seen = Seen { count: mark.count(), age: mark.age(self.tick) };
        self.ghost.put(hash, seen, self.tick, slots.len());
    }

    fn place(&mut self, slots: &Slots, at: usize, told: u32, shared: &Shared) {
        if let Some(slot) = slots.get(at) {
            slot.mark.store(Mark::new(told, self.tick).0, Relaxed);
        }
        if !self.has_sampled {
            for _ in 0..SAMPLES {
                let drawn = self.rng.usize(..slots.len().max(1));
                self.sample_resident(slots, drawn, shared);
            }
        }
    }

    fn moved(&mut self, _slots: &Slots, _to: usize) {}

    fn clear(&mut self) {
        self.ghost = Ghost::default();
        self.hand = 0;
    }

    fn validate(&self, _slots: &Slots) -> Result<(), String> {
        self.ghost.validate()
    }
}
