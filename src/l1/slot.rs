//! The dense array of a shard's entries: what a hit checks and a victim search compares, 24 bytes an entry.
//!
//! Entries stand without gaps: a removal moves the last one into the hole. So sampling needs no second try, memory can
//! shrink, and a scan from the top down meets every entry that stays (a move only ever goes downwards).
//!
//! Expiry needs no list: each block of 64 entries knows its soonest deadline or an earlier time. A sweep looks at these
//! and opens the blocks that are due; a million entries that expire together are found without a step per entry before.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::{clock::Tick, l1::types::Epoch, model::Record};

/// Entries that share one soonest deadline. 64: a block is read in half a microsecond, and the deadlines cost 1 bit
/// an entry.
pub(super) const BLOCK: usize = 64;
/// `due` counts units of 16 ms, so that 32 bits reach half a year both ways; the fraction stands in the record.
const UNIT_SHIFT: u32 = 4;
/// Furthest `due` from now, units: half the range that wrapping comparison has.
const DUE_MAX: u64 = 1 << 30;

/// One entry.
pub(super) struct Slot {
    record: Option<Record>,
    /// The policy's: when it was last used, in the policy's count.
    pub(super) last: AtomicU32,
    /// [`STATE`] fields.
    state: AtomicU32,
    /// Deadline in units, wrapping, rounded down.
    due: u32,
    /// What the index files it under.
    pub(super) hash: u32,
}

// Fields of `state`, from the low end: use count (4 bits), size class (8), epoch (16), flags.
const COUNT_MASK: u32 = 0xF;
const SIZE_SHIFT: u32 = 4;
const EPOCH_SHIFT: u32 = 12;
/// It has a deadline at all.
const TIMED: u32 = 1 << 28;
/// Its deadline is the key's own expiry, which the record has in full.
const OWN_EXPIRY: u32 = 1 << 29;

/// When a copy ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetime {
    pub(super) expires_at: Tick,
    pub(super) deadline: Tick,
}

impl Slot {
    /// A slot for a record; `size_class` as [`size_class`] gives it.
    pub(super) fn new(record: Record, hash: u32, epoch: Epoch, size_class: u8) -> Self {
        let state = u32::from(size_class) << SIZE_SHIFT | (epoch.0 & 0xFFFF) << EPOCH_SHIFT;
        Self { record: Some(record), last: AtomicU32::new(0), state: AtomicU32::new(state), due: 0, hash }
    }

    /// Sets when it ends.
    pub(super) fn set_lifetime(&mut self, life: Lifetime, now: Tick) {
        let deadline = life.deadline.min(life.expires_at);
        let state = self.state.get_mut();
        *state &= !(TIMED | OWN_EXPIRY);
        if deadline != Tick::FAR {
            *state |= TIMED;
        }
        if deadline == life.expires_at {
            *state |= OWN_EXPIRY;
        }
        let due = (deadline.0 >> UNIT_SHIFT).min((now.0 >> UNIT_SHIFT) + DUE_MAX);
        self.due = due as u32;
        if let Some(record) = &self.record {
            record.set_life(life.expires_at, deadline.0);
        }
    }

    /// Whether it may be answered at `now` in `epoch`.
    #[inline]
    pub(super) fn is_live(&self, now: Tick, epoch: Epoch) -> bool {
        let state = self.state.load(Relaxed);
        (state >> EPOCH_SHIFT) & 0xFFFF == epoch.0 & 0xFFFF && !self.is_over_with(state, now)
    }

    /// Whether it was made in another epoch than this.
    #[inline]
    pub(super) fn is_of_other_epoch(&self, epoch: Epoch) -> bool {
        self.state.load(Relaxed) >> EPOCH_SHIFT & 0xFFFF != epoch.0 & 0xFFFF
    }

    /// Whether its deadline has passed.
    #[inline]
    pub(super) fn is_over(&self, now: Tick) -> bool {
        self.is_over_with(self.state.load(Relaxed), now)
    }

    #[inline]
    fn is_over_with(&self, state: u32, now: Tick) -> bool {
        let units_left = self.due.wrapping_sub((now.0 >> UNIT_SHIFT) as u32) as i32;
        if state & TIMED == 0 || units_left > 0 {
            return false;
        }
        now >= self.deadline(now)
    }

    /// When it ends; exact unless that is half a year away.
    pub(super) fn deadline(&self, now: Tick) -> Tick {
        let state = self.state.load(Relaxed);
        let (true, Some(record)) = (state & TIMED != 0, &self.record) else { return Tick::FAR };
        if state & OWN_EXPIRY != 0 {
            return record.expires_at();
        }
        let now_units = now.0 >> UNIT_SHIFT;
        let ahead = i64::from(self.due.wrapping_sub(now_units as u32) as i32);
        Tick(now_units.saturating_add_signed(ahead) << UNIT_SHIFT | record.fraction())
    }

    /// The block's soonest deadline is never after this: when a sweep must look at it again.
    fn due_at(&self, now: Tick) -> Tick {
        let deadline = self.deadline(now);
        if deadline == Tick::FAR { deadline } else { deadline.min(Tick(now.0 + (DUE_MAX << UNIT_SHIFT))) }
    }

    #[inline]
    pub(super) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// How often it was used, saturating at 15.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        self.state.load(Relaxed) & COUNT_MASK
    }

    /// Adds a use. One of two concurrent ones may be lost.
    #[inline]
    pub(super) fn count_up(&self) {
        let state = self.state.load(Relaxed);
        if state & COUNT_MASK != COUNT_MASK {
            self.state.store(state + 1, Relaxed);
        }
    }

    pub(super) fn set_count(&mut self, count: u32) {
        let state = self.state.get_mut();
        *state = *state & !COUNT_MASK | count.min(COUNT_MASK);
    }

    /// Its size in quarter doublings.
    #[inline]
    pub(super) fn size_class(&self) -> usize {
        (self.state.load(Relaxed) >> SIZE_SHIFT & 0xFF) as usize
    }
}

/// A weight in quarter doublings, rounded up: 1 B is 0, 4 MiB is 88.
pub(super) fn size_class(weight: u64) -> u8 {
    let weight = weight.max(1);
    let doublings = 63 - weight.leading_zeros();
    let rest = if doublings < 2 { 0 } else { weight >> (doublings - 2) & 3 };
    (doublings * 4 + rest as u32) as u8
}

/// The entries of a shard.
pub(super) struct Slots {
    slots: Vec<Slot>,
    /// For each block a time not after its soonest deadline.
    soonest: Vec<Tick>,
    /// Latest time that a caller named; deadlines are kept relative to it.
    now: Tick,
}

impl Default for Slots {
    fn default() -> Self {
        Self { slots: Vec::new(), soonest: Vec::new(), now: Tick::ZERO }
    }
}

impl Slots {
    /// Time goes on. It never goes back, whatever threads race here.
    pub(super) fn advance(&mut self, now: Tick) {
        self.now = self.now.max(now);
    }

    pub(super) fn now(&self) -> Tick {
        self.now
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<&Slot> {
        self.slots.get(at)
    }

    #[inline]
    pub(super) fn all(&self) -> &[Slot] {
        &self.slots
    }

    /// Appends an entry and says where.
    pub(super) fn push(&mut self, slot: Slot) -> usize {
        if self.slots.len() == self.slots.capacity() {
            // A quarter more: doubling would leave up to half of the array unused, and it is counted as memory.
            self.slots.reserve_exact(self.slots.len() / 4 + 16);
        }
        let at = self.slots.len();
        if at.is_multiple_of(BLOCK) {
            self.soonest.push(Tick::FAR);
        }
        self.slots.push(slot);
        self.note_deadline(at);
        at
    }

    /// Takes a victim's record and leaves a hole, which [`Slots::refill`] or [`Slots::close`] must end.
    pub(super) fn hollow(&mut self, at: usize) -> Option<Record> {
        self.slots[at].record.take()
    }

    /// Puts an entry into a hole.
    pub(super) fn refill(&mut self, at: usize, slot: Slot) {
        self.slots[at] = slot;
        self.note_deadline(at);
    }

    /// Removes the hole (or entry) at `at`; says where the entry that now stands there came from, if one was moved.
    pub(super) fn close(&mut self, at: usize) -> Option<usize> {
        self.slots.swap_remove(at);
        let from = self.slots.len();
        self.soonest.truncate(from.div_ceil(BLOCK));
        if at == from {
            return None;
        }
        self.note_deadline(at);
        Some(from)
    }

    /// Changes when an entry ends.
    pub(super) fn set_lifetime(&mut self, at: usize, life: Lifetime) {
        self.slots[at].set_lifetime(life, self.now);
        self.note_deadline(at);
    }

    fn note_deadline(&mut self, at: usize) {
        let due = self.slots[at].due_at(self.now);
        let soonest = &mut self.soonest[at / BLOCK];
        *soonest = due.min(*soonest);
    }

    /// A block from `from` downwards with a deadline that may have passed.
    pub(super) fn due_block(&self, from: usize, now: Tick) -> Option<usize> {
        let upto = from.min(self.soonest.len());
        self.soonest[..upto].iter().rposition(|&soonest| soonest <= now)
    }

    /// Recounts a block's soonest deadline.
    pub(super) fn refresh_block(&mut self, block: usize) {
        let now = self.now;
        let Some(soonest) = self.soonest.get_mut(block) else { return };
        let end = ((block + 1) * BLOCK).min(self.slots.len());
        *soonest = self.slots[block * BLOCK..end].iter().map(|slot| slot.due_at(now)).min().unwrap_or(Tick::FAR);
    }

    /// Gives memory back when less than a quarter of it is used. Returns whether it did.
    pub(super) fn shrink(&mut self) -> bool {
        let small = self.slots.capacity() > 4 * BLOCK && self.slots.len() < self.slots.capacity() / 4;
        if small {
            self.slots.shrink_to(self.slots.len() * 3 / 2);
            self.soonest.shrink_to_fit();
        }
        small
    }

    /// Checks what must hold between the parts.
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.soonest.len() != self.slots.len().div_ceil(BLOCK) {
            return Err(format!("{} entries have {} blocks", self.slots.len(), self.soonest.len()));
        }
        for (at, slot) in self.slots.iter().enumerate() {
            if slot.record.is_none() {
                return Err(format!("a hole at {at}"));
            }
            if self.soonest[at / BLOCK] > slot.due_at(self.now) {
                return Err(format!("the block of {at} is due after its entry"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(expires_at: u64, deadline: u64, now: u64) -> Slot {
        let mut slot = Slot::new(Record::new(b"k", b"v", Tick(now)), 1, Epoch(3), 0);
        slot.set_lifetime(Lifetime { expires_at: Tick(expires_at), deadline: Tick(deadline) }, Tick(now));
        slot
    }

    #[test]
    fn deadlines_hold_to_the_millisecond() {
        for (expires_at, deadline) in [(1_005, 1_005), (9_999, 1_005), (u64::MAX, 1_023), (1_024, 1_024)] {
            let slot = slot(expires_at, deadline, 10);
            assert_eq!(slot.deadline(Tick(500)), Tick(deadline));
            assert!(!slot.is_over(Tick(deadline - 1)), "{deadline}");
            assert!(slot.is_over(Tick(deadline)), "{deadline}");
            assert!(slot.is_over(Tick(deadline + 1_000_000)), "{deadline}");
        }
    }

    #[test]
    fn what_never_ends_and_what_ends_in_a_thousand_years_lives() {
        let year_ms = 365 * 86_400_000;
        assert!(!slot(u64::MAX, u64::MAX, 10).is_over(Tick(u64::MAX - 1)));
        let far = slot(400 * year_ms, 400 * year_ms, 10);
        assert!(!far.is_over(Tick(10)) && !far.is_over(Tick(year_ms)));
        assert!(far.due_at(Tick(10)) < Tick(year_ms), "a sweep looks at it in time to set it anew");
    }

    #[test]
    fn another_epoch_is_not_live() {
        let slot = slot(u64::MAX, u64::MAX, 10);
        assert!(slot.is_live(Tick(11), Epoch(3)) && !slot.is_live(Tick(11), Epoch(4)));
    }

    #[test]
    fn size_classes_rise_with_size() {
        assert_eq!((size_class(0), size_class(1), size_class(4 << 20)), (0, 0, 88));
        let mut last = 0;
        for weight in 1..100_000 {
            let class = size_class(weight);
            assert!(class >= last, "{weight}");
            last = class;
        }
    }
}
