//! Exact LRU without a list that hits would have to lock.
//!
//! Every use stamps the entry with a counter of its shard. A heap holds at least one pair of stamp and place for each
//! entry, with a stamp that is at most the stamp of the entry. The smallest pair whose stamp equals its entry's stamp
//! identifies the least recently used entry. An outdated pair is inserted again with the current stamp.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{Frame, Policy};
use crate::l1::slot::{Slot, Slots};

/// Stamps are renumbered when the counter reaches this value, because it must never wrap. The remaining range suffices
/// for any number of hits between two insertions.
const STAMP_MAX: u32 = 1 << 30;

/// Evicts the least recently used entry.
pub(in crate::l1) struct Lru {
    clock: AtomicU32,
    queue: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Lru {
    fn file(&mut self, slots: &Slots, at: usize) {
        if self.queue.len() > 2 * slots.len() + 64 {
            self.refile(slots);
        }
        if let Some(slot) = slots.get(at).filter(|slot| !slot.is_staged()) {
            self.queue.push(Reverse((slot.mark.load(Relaxed), at as u32)));
        }
    }

    /// Reduces the heap to one pair per entry.
    fn refile(&mut self, slots: &Slots) {
        let pairs = slots.all().iter().enumerate().filter(|(_, slot)| !slot.is_staged());
        self.queue = pairs.map(|(at, slot)| Reverse((slot.mark.load(Relaxed), at as u32))).collect();
    }

    /// Gives the entries the stamps 0, 1, 2 ... in order.
    fn renumber(&mut self, slots: &Slots) {
        let mut order: Vec<&Slot> = slots.all().iter().filter(|slot| !slot.is_staged()).collect();
        order.sort_by_key(|slot| slot.mark.load(Relaxed));
        for (stamp, slot) in order.iter().enumerate() {
            slot.mark.store(stamp as u32, Relaxed);
        }
        self.clock.store(order.len() as u32, Relaxed);
        self.refile(slots);
    }

    fn stamp(&self, slot: &Slot) {
        // At the end of the range, hits are not stamped until the next insertion renumbers. The margin is for threads
        // that pass the check at the same time.
        if self.clock.load(Relaxed) < u32::MAX - 65_536 {
            slot.mark.store(self.clock.fetch_add(1, Relaxed), Relaxed);
        }
    }
}

impl Policy for Lru {
    type Shared = ();

    /// Up to two pairs per entry.
    const OVERHEAD_BYTES: u64 = 12;

    fn share(_frame: Frame) {}

    fn new(_frame: Frame, _shard: usize) -> Self {
        Self { clock: AtomicU32::new(0), queue: BinaryHeap::new() }
    }

    #[inline]
    fn hit(&self, slot: &Slot, _shared: &()) {
        self.stamp(slot);
    }

    fn arrive(&mut self, _hash: u32, _carried: Option<u32>, slots: &Slots, _shared: &()) -> u32 {
        if self.clock.load(Relaxed) > STAMP_MAX {
            self.renumber(slots);
        }
        0
    }

    fn victim(&mut self, slots: &Slots, _shared: &(), _is_dead: impl Fn(&Slot) -> bool) -> Option<usize> {
        while let Some(Reverse((stamp, place))) = self.queue.pop() {
            let at = place as usize;
            let Some(slot) = slots.get(at).filter(|slot| !slot.is_staged()) else { continue };
            if slot.mark.load(Relaxed) == stamp {
                return Some(at);
            }
            self.file(slots, at);
        }
        None
    }

    fn gone(&mut self, _hash: u32, _slot: &Slot, _slots: &Slots) {}

    fn place(&mut self, slots: &Slots, at: usize, _mark: u32, _shared: &()) {
        if let Some(slot) = slots.get(at) {
            self.stamp(slot);
        }
        self.file(slots, at);
    }

    fn moved(&mut self, slots: &Slots, to: usize) {
        self.file(slots, to);
    }

    fn clear(&mut self) {
        self.queue = BinaryHeap::new();
    }

    fn validate(&self, slots: &Slots) -> Result<(), String> {
        let mut filed: Vec<bool> = slots.all().iter().map(Slot::is_staged).collect();
        for Reverse((stamp, place)) in &self.queue {
            let at = *place as usize;
            if let Some(slot) = slots.get(at)
                && *stamp <= slot.mark.load(Relaxed)
            {
                filed[at] = true;
            }
        }
        filed.iter().position(|&is| !is).map_or(Ok(()), |at| Err(format!("entry {at} is not in the queue")))
    }
}
