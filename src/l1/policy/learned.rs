//! Eviction by learned value: the value of an entry is learned from the traffic of this cache.
//!
//! A descendant of LHD (Beckmann, Chen, Cidon, NSDI 2018). Each entry stores its use count and the time of its last
//! use, counted in insertions of its shard. Tables that all shards share learn how likely an entry of a use class and
//! age is used again, per time that it stays; [`model`] turns them into values. Eviction examines [`SCAN`] entries and
//! removes the one of least value. Without differences between counts, the value depends on age alone, which is LRU:
//! therefore no traffic makes the policy much worse than LRU. It keeps no queues, and a hit writes at most two relaxed
//! words.
//!
//! A key that is used again within the *quiet* time after its last use writes nothing: such bursts say nothing about
//! later uses, and the cache line of a hot key stays shared between cores.

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

/// Number of entries compared at each eviction. 8 cost one percentage point of the mean miss ratio; 32 gain nothing.
const SCAN: usize = 16;
/// Number of these entries that are counted as samples of the cache contents.
const SAMPLES: usize = 4;
/// Quiet time in insertions: the number of entries of the shard divided by this.
const QUIET_PART: u32 = 32;
/// Values are recomputed after the number of cached entries, divided by this, has been inserted.
const PERIOD_PART: u64 = 4;
/// Minimum number of insertions between two computations: one takes about 10 µs.
const PERIOD_MIN: u64 = 256;

/// Maximum number of count tables of the learned eviction policy. Several tables reduce contention between threads, and 16
/// fit into the cache of a CPU core.
const TALLIES_MAX: usize = 16;
/// Work that is not needed at each insertion is done at every fourth one, for four.
const STRIDE: u32 = 4;

/// Counts of one shard since the last computation. Hits add under the shared lock, so one of two concurrent additions
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

/// State that all shards share.
pub(in crate::l1) struct Shared {
    values: Values,
    /// Factor of a value by size class.
    per_size: [f32; SIZE_CLASSES],
    model: Mutex<Model>,
    tallies: Box<[CachePadded<Tally>]>,
    /// Insertions since the last computation of values.
    insertions: CachePadded<AtomicU64>,
}

impl Shared {
    /// Counts insertions, and computes the values when they are due.
    fn count_insertions(&self, more: u64, entries: usize) {
        let insertions = self.insertions.fetch_add(more, Relaxed) + more;
        if insertions < (entries as u64 / PERIOD_PART).max(PERIOD_MIN) {
            return;
        }
        // If another thread is computing, this one continues with the old values.
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

/// State of the policy in one shard.
pub(in crate::l1) struct Learned {
    shard: usize,
    shards: usize,
    weighed: bool,
    /// Insertions so far.
    tick: u32,
    quiet: u32,
    hand: usize,
    /// The current arrival was used to sample the contents of the cache.
    has_sampled: bool,
    ghost: Ghost,
    rng: Rng,
}

/// Content of a slot's mark: use count (4 bits, saturating) and the tick of the last use (28 bits, wrapping).
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

    /// Returns the insertions from the last use to `tick`.
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

    /// Counts a sample of the ghosts: the room that they would take, by cell.
    fn sample_ghost(&mut self, shared: &Shared) {
        let Some(Seen { count, age }) = self.ghost.draw(&mut self.rng, self.tick) else { return };
        let room = self.ghost.places() as u64 * u64::from(STRIDE);
        add(&self.tally(shared).room[cell(count, age)], room);
    }

    fn sample_resident(&self, slots: &Slots, at: usize, shared: &Shared) {
        if let Some(slot) = slots.get(at).filter(|slot| !slot.is_staged()) {
            // Each of four samples represents a quarter of the entries.
            add(&self.tally(shared).room[Mark::of(slot).cell(self.tick)], (slots.len() / SAMPLES).max(1) as u64);
        }
    }

    /// Returns a number that orders entries by value, and by age among equal values. Values are not negative, so they
    /// order as their bits.
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
        // The scan wraps: from the hand to the end of the array, then from its start.
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

    fn place(&mut self, slots: &Slots, at: usize, count: u32, shared: &Shared) {
        if let Some(slot) = slots.get(at) {
            slot.mark.store(Mark::new(count, self.tick).0, Relaxed);
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
