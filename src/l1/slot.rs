//! The dense array of the entries of a shard, 16 bytes per entry. The index refers to it, and the search for victims
//! scans it.
//!
//! There are no gaps: a removal moves the last entry into the hole. Therefore sampling needs no second attempt, memory
//! can shrink, and a scan from the top down visits every entry that stays, because moves only go down.
//!
//! Expiration needs no list: each block of 64 entries has a lower bound of its soonest deadline. A sweep reads these
//! bounds and opens the blocks that are due. A million entries that expire together cost no step per entry before. The
//! deadline in a slot serves only the sweep; the record decides whether an entry may be returned.

use std::{sync::atomic::AtomicU32, time::Duration};

use crate::{
    clock::Tick,
    l1::epochs::{Epoch, Epochs},
    model::{Lifetime, Record},
};

/// Number of entries that share one soonest deadline. With 64, a block is read in half a microsecond, and the deadlines
/// cost 1 bit per entry.
pub(super) const BLOCK: usize = 64;
/// `due` is in units of 1,024 ms.
const UNIT_SHIFT: u32 = 10;
/// Maximum distance of `due` from now, in units: half of the range of a wrapping comparison in 15 bits, 2.3 h. A sweep
/// that finds a live entry sets it again.
const DUE_MAX: u64 = 1 << 13;
/// One entry.
pub(super) struct Slot {
    record: Option<Record>,
    /// Mark of the policy; for a staged entry, its serial number in the queue.
    pub(super) mark: AtomicU32,
    /// From the low end: deadline in units, wrapping, rounded down (15 bits); is staged (1); epoch (8); size class (7);
    /// has a deadline (1).
    state: u32,
}

const DUE_BITS: u32 = 0x7FFF;
const STAGED: u32 = 1 << 15;
const EPOCH_SHIFT: u32 = 16;
const SIZE_SHIFT: u32 = 24;
/// Number of size classes.
pub(super) const SIZE_CLASSES: usize = 128;
const TIMED: u32 = 1 << 31;

impl Slot {
    /// Returns a slot for a record; `size_class` comes from [`size_class`].
    pub(super) fn new(record: Record, epoch: Epoch, size_class: u8, now: Tick) -> Self {
        let state = (u32::from(size_class.min(SIZE_CLASSES as u8 - 1)) << SIZE_SHIFT)
            | u32::from(epoch.number()) << EPOCH_SHIFT;
        let mut slot = Self { record: Some(record), mark: AtomicU32::new(0), state };
        slot.rearm(now);
        slot
    }

    /// Sets the time at which a sweep has to examine the slot.
    fn rearm(&mut self, now: Tick) {
        let deadline = self.record.as_ref().map_or(Tick::FAR, |record| record.deadline(now));
        self.state &= !(TIMED | DUE_BITS);
        if deadline != Tick::FAR {
            let due = (deadline.0 >> UNIT_SHIFT).min((now.0 >> UNIT_SHIFT) + DUE_MAX);
            self.state |= TIMED | due as u32 & DUE_BITS;
        }
    }

    /// Returns whether the entry may be returned at `now`.
    #[inline]
    pub(super) fn is_live(&self, now: Tick, epochs: &Epochs) -> bool {
        epochs.is_open(self.epoch(), now) && self.record.as_ref().is_some_and(|record| !record.is_over(now))
    }

    /// Returns whether the entry may be returned as stale, up to `grace` after its fence. Only the expiration of the
    /// key ends it.
    pub(super) fn is_stale_allowed(&self, now: Tick, grace: Duration, epochs: &Epochs) -> bool {
        epochs.is_stale_allowed(self.epoch(), now, grace)
            && self.record.as_ref().is_some_and(|record| now < record.expires_at())
    }

    /// Returns whether the entry can never be returned again, so that a sweep may remove it.
    #[inline]
    pub(super) fn is_useless(&self, now: Tick, epochs: &Epochs) -> bool {
        if epochs.has_ended(self.epoch()) {
            return true;
        }
        let held = || epochs.is_suspended(self.epoch());
        self.is_over(now) && (!held() || self.record.as_ref().is_none_or(|record| now >= record.expires_at()))
    }

    /// Returns whether the entry was prefetched and not used yet.
    #[inline]
    pub(super) fn is_staged(&self) -> bool {
        self.state & STAGED != 0
    }

    /// Marks the entry as staged, with this serial number.
    pub(super) fn stage(&mut self, serial: u32) {
        self.state |= STAGED;
        *self.mark.get_mut() = serial;
    }

    fn unstage(&mut self) {
        self.state &= !STAGED;
    }

    /// Returns the number of the epoch of the entry.
    #[inline]
    pub(super) fn epoch(&self) -> u8 {
        (self.state >> EPOCH_SHIFT) as u8
    }

    /// Returns the units until the entry is due. Not positive if the deadline may have passed.
    #[inline]
    fn units_left(&self, now: Tick) -> i16 {
        // Both are shifted by one bit, so that they wrap at 16 bits.
        let (due, now) = ((self.state as u16) << 1, ((now.0 >> UNIT_SHIFT) as u16) << 1);
        (due.wrapping_sub(now) as i16) >> 1
    }

    /// Returns whether the deadline has passed. Reads the record only if that is possible.
    #[inline]
    pub(super) fn is_over(&self, now: Tick) -> bool {
        self.state & TIMED != 0
            && self.units_left(now) <= 0
            && self.record.as_ref().is_some_and(|record| record.is_over(now))
    }

    /// Returns the time at which a sweep has to examine the entry, at most its deadline.
    fn due_at(&self, now: Tick) -> Tick {
        if self.state & TIMED == 0 {
            return Tick::FAR;
        }
        match self.units_left(now) {
            left if left > 0 => Tick(((now.0 >> UNIT_SHIFT) + left as u64) << UNIT_SHIFT),
            _ => self.record.as_ref().map_or(Tick::FAR, |record| record.deadline(now)),
        }
    }

    #[inline]
    pub(super) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Returns the size class: quarter doublings of the weight.
    #[inline]
    pub(super) fn size_class(&self) -> usize {
        (self.state >> SIZE_SHIFT) as usize % SIZE_CLASSES
    }
}

/// Returns the size class of a weight: quarter doublings, rounded up. 1 B is 0, 4 MiB is 88.
pub(super) fn size_class(weight: u64) -> u8 {
    let weight = weight.max(1);
    let doublings = 63 - weight.leading_zeros();
    let rest = if doublings < 2 { 0 } else { weight >> (doublings - 2) & 3 };
    (doublings * 4 + rest as u32) as u8
}

/// The entries of a shard.
pub(super) struct Slots {
    slots: Vec<Slot>,
    /// Lower bound of the soonest deadline of each block.
    soonest: Vec<Tick>,
    /// Latest time that a caller has passed; deadlines are relative to it.
    now: Tick,
}

impl Default for Slots {
    fn default() -> Self {
        Self { slots: Vec::new(), soonest: Vec::new(), now: Tick::ZERO }
    }
}

impl Slots {
    /// Advances the time. The time never goes back, even if threads race.
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

    /// Appends an entry and returns its position.
    pub(super) fn push(&mut self, slot: Slot) -> usize {
        if self.slots.len() == self.slots.capacity() {
            // Grows by a quarter: doubling would leave up to half of the array unused, and its memory is counted.
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

    /// Removes the record of a victim and leaves a hole. [`Slots::refill`] or [`Slots::close`] must follow.
    pub(super) fn hollow(&mut self, at: usize) -> Option<Record> {
        self.slots[at].record.take()
    }

    /// Inserts an entry into a hole.
    pub(super) fn refill(&mut self, at: usize, slot: Slot) {
        self.slots[at] = slot;
        self.note_deadline(at);
    }

    /// Removes the hole or entry at `at`. Returns the old position of the entry that was moved there, if one was.
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

    /// Exchanges the positions of two entries.
    pub(super) fn exchange(&mut self, a: usize, b: usize) {
        self.slots.swap(a, b);
        self.note_deadline(a);
        self.note_deadline(b);
    }

    /// Marks an entry as used.
    pub(super) fn unstage(&mut self, at: usize) {
        self.slots[at].unstage();
    }

    /// Changes the lifetime of an entry.
    pub(super) fn set_lifetime(&mut self, at: usize, life: Lifetime) {
        let slot = &mut self.slots[at];
        if let Some(record) = &slot.record {
            record.set_life(life);
        }
        slot.rearm(self.now);
        self.note_deadline(at);
    }

    fn note_deadline(&mut self, at: usize) {
        let due = self.slots[at].due_at(self.now);
        let soonest = &mut self.soonest[at / BLOCK];
        *soonest = due.min(*soonest);
    }

    /// Returns a block below `from` whose soonest deadline may have passed.
    pub(super) fn due_block(&self, from: usize, now: Tick) -> Option<usize> {
        let upto = from.min(self.soonest.len());
        self.soonest[..upto].iter().rposition(|&soonest| soonest <= now)
    }

    /// Updates the soonest deadline of a block.
    pub(super) fn refresh_block(&mut self, block: usize) {
        let now = self.now;
        let Some(soonest) = self.soonest.get_mut(block) else { return };
        let end = ((block + 1) * BLOCK).min(self.slots.len());
        *soonest = Tick::FAR;
        for slot in &mut self.slots[block * BLOCK..end] {
            if slot.units_left(now) <= 0 {
                slot.rearm(now);
            }
            *soonest = slot.due_at(now).min(*soonest);
        }
    }

    /// Releases memory if less than a quarter is used. Returns whether it did.
    pub(super) fn shrink(&mut self) -> bool {
        let small = self.slots.capacity() > 4 * BLOCK && self.slots.len() < self.slots.capacity() / 4;
        if small {
            self.slots.shrink_to(self.slots.len() * 3 / 2);
            self.soonest.shrink_to_fit();
        }
        small
    }

    /// Checks the invariants.
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.soonest.len() != self.slots.len().div_ceil(BLOCK) {
            return Err(format!("{} entries have {} blocks", self.slots.len(), self.soonest.len()));
        }
        for (at, slot) in self.slots.iter().enumerate() {
            if slot.record.is_none() {
                return Err(format!("a hole at {at}"));
            }
            if self.soonest[at / BLOCK] > slot.due_at(self.now) {
                return Err(format!("the deadline of the block of entry {at} is too late"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot_of(epochs: &Epochs, expires_at: u64, deadline: u64, now: u64) -> (Slot, Epoch) {
        let life = Lifetime { expires_at: Tick(expires_at), deadline: Tick(deadline) };
        let epoch = epochs.begin(Tick::FAR).expect("a number");
        (Slot::new(Record::new(b"k", 0, b"v", life, Tick(now)), epoch, 0, Tick(now)), epoch)
    }

    fn slot(expires_at: u64, deadline: u64, now: u64) -> Slot {
        slot_of(&Epochs::new(), expires_at, deadline, now).0
    }

    #[test]
    fn a_slot_is_over_when_its_record_is_and_due_not_later() {
        for deadline in [1_005, 1_023, 1_024, 900_000] {
            let slot = slot(deadline, deadline, 10);
            assert!(!slot.is_over(Tick(deadline - 1)) && slot.is_over(Tick(deadline)), "{deadline}");
            assert!(slot.due_at(Tick(10)) <= Tick(deadline) && slot.due_at(Tick(deadline)) <= Tick(deadline));
        }
    }

    #[test]
    fn what_never_ends_and_what_ends_in_a_hundred_years_lives() {
        let year_ms = 365 * 86_400_000;
        assert!(!slot(u64::MAX, u64::MAX, 10).is_over(Tick(u64::MAX - 1)));
        let epochs = Epochs::new();
        let (far, _) = slot_of(&epochs, 100 * year_ms, 100 * year_ms, 10);
        for now in [10, 20_000_000, year_ms] {
            assert!(far.is_live(Tick(now), &epochs) && !far.is_over(Tick(now)), "{now}");
        }
        assert!(far.due_at(Tick(10)) < Tick(86_400_000), "a sweep looks at it in time to set it anew");
    }

    #[test]
    fn the_end_of_its_epoch_ends_a_slot() {
        let epochs = Epochs::new();
        let (slot, epoch) = slot_of(&epochs, u64::MAX, u64::MAX, 10);
        assert!(slot.is_live(Tick(11), &epochs) && !slot.is_useless(Tick(11), &epochs));
        epochs.end(epoch);
        assert!(!slot.is_live(Tick(11), &epochs) && slot.is_useless(Tick(11), &epochs));
    }

    #[test]
    fn while_its_epoch_is_suspended_only_the_keys_own_expiry_ends_a_slot() {
        let (epochs, grace) = (Epochs::new(), Duration::from_secs(9));
        let (slot, epoch) = slot_of(&epochs, 5_000, 1_000, 10);
        epochs.extend(epoch, Tick(900));
        assert!(slot.is_useless(Tick(1_001), &epochs));
        epochs.suspend(epoch);
        for (now, allowed) in [(20, true), (1_001, true), (4_999, true), (5_000, false)] {
            assert_eq!(slot.is_stale_allowed(Tick(now), grace, &epochs), allowed, "{now}");
            assert_eq!(slot.is_useless(Tick(now), &epochs), !allowed, "{now}");
            assert!(!slot.is_live(Tick(now), &epochs));
        }
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
