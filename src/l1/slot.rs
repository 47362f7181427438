//! The dense array of a shard's entries: what the index points to and a victim search compares, 16 bytes an entry.
//!
//! Entries stand without gaps: a removal moves the last one into the hole. So sampling needs no second try, memory can
//! shrink, and a scan from the top down meets every entry that stays (a move only ever goes downwards).
//!
//! Expiry needs no list: each block of 64 entries knows its soonest deadline or an earlier time. A sweep looks at these
//! and opens the blocks that are due; a million entries that expire together are found without a step per entry before.
//! What a slot knows of its deadline is for the sweep alone; whether an entry may be answered, its record says.

use std::{sync::atomic::AtomicU32, time::Duration};

use crate::{
    clock::Tick,
    l1::epochs::{Epoch, Epochs},
    model::{Lifetime, Record},
};

/// Entries that share one soonest deadline. 64: a block is read in half a microsecond, and the deadlines cost 1 bit
/// an entry.
pub(super) const BLOCK: usize = 64;
/// `due` counts units of 1,024 ms.
const UNIT_SHIFT: u32 = 10;
/// Furthest `due` from now, units: half of what wrapping comparison in 15 bits can tell, 2.3 h. A sweep that finds an
/// entry alive then sets it anew.
const DUE_MAX: u64 = 1 << 13;
/// One entry.
pub(super) struct Slot {
    record: Option<Record>,
    /// What the policy keeps of it; of a staged entry its number in the queue.
    pub(super) mark: AtomicU32,
    /// From the low end: deadline in units, wrapping, rounded down (15 bits), whether it is staged, epoch (8), size class
    /// (7), whether it has a deadline.
    state: u32,
}

const DUE_BITS: u32 = 0x7FFF;
const STAGED: u32 = 1 << 15;
const EPOCH_SHIFT: u32 = 16;
const SIZE_SHIFT: u32 = 24;
/// Size classes that a slot tells apart.
pub(super) const SIZE_CLASSES: usize = 128;
const TIMED: u32 = 1 << 31;

impl Slot {
    /// A slot for a record; `size_class` as [`size_class`] gives it.
    pub(super) fn new(record: Record, epoch: Epoch, size_class: u8, now: Tick) -> Self {
        let state = (u32::from(size_class.min(SIZE_CLASSES as u8 - 1)) << SIZE_SHIFT)
            | u32::from(epoch.number()) << EPOCH_SHIFT;
        let mut slot = Self { record: Some(record), mark: AtomicU32::new(0), state };
        slot.rearm(now);
        slot
    }

    /// Notes anew when a sweep has to look at it.
    fn rearm(&mut self, now: Tick) {
        let deadline = self.record.as_ref().map_or(Tick::FAR, |record| record.deadline(now));
        self.state &= !(TIMED | DUE_BITS);
        if deadline != Tick::FAR {
            let due = (deadline.0 >> UNIT_SHIFT).min((now.0 >> UNIT_SHIFT) + DUE_MAX);
            self.state |= TIMED | due as u32 & DUE_BITS;
        }
    }

    /// Whether it may be answered at `now`.
    #[inline]
    pub(super) fn is_live(&self, now: Tick, epochs: &Epochs) -> bool {
        epochs.is_open(self.epoch(), now) && self.record.as_ref().is_some_and(|record| !record.is_over(now))
    }

    /// Whether it may be answered as stale, `grace` after what was proven of it last. Only the key's own expiry ends it.
    pub(super) fn is_stale_allowed(&self, now: Tick, grace: Duration, epochs: &Epochs) -> bool {
        epochs.is_stale_allowed(self.epoch(), now, grace)
            && self.record.as_ref().is_some_and(|record| now < record.expires_at())
    }

    /// Whether nobody may ever be answered with it again, so that a sweep takes it.
    #[inline]
    pub(super) fn is_useless(&self, now: Tick, epochs: &Epochs) -> bool {
        if epochs.has_ended(self.epoch()) {
            return true;
        }
        let held = || epochs.is_suspended(self.epoch());
        self.is_over(now) && (!held() || self.record.as_ref().is_none_or(|record| now >= record.expires_at()))
    }

    /// Whether it was prefetched and nobody has used it yet.
    #[inline]
    pub(super) fn is_staged(&self) -> bool {
        self.state & STAGED != 0
    }

    /// It is prefetched, the so manieth.
    pub(super) fn stage(&mut self, serial: u32) {
        self.state |= STAGED;
        *self.mark.get_mut() = serial;
    }

    fn unstage(&mut self) {
        self.state &= !STAGED;
    }

    /// Number of the epoch it was made in.
    #[inline]
    pub(super) fn epoch(&self) -> u8 {
        (self.state >> EPOCH_SHIFT) as u8
    }

    /// Units until it is due; not positive when that may have passed.
    #[inline]
    fn units_left(&self, now: Tick) -> i16 {
        // Both shifted up by the one bit that is not theirs, so that they wrap where 16 bits do.
        let (due, now) = ((self.state as u16) << 1, ((now.0 >> UNIT_SHIFT) as u16) << 1);
        (due.wrapping_sub(now) as i16) >> 1
    }

    /// Whether its deadline has passed. Reads the record only if that may be.
    #[inline]
    pub(super) fn is_over(&self, now: Tick) -> bool {
        self.state & TIMED != 0
            && self.units_left(now) <= 0
            && self.record.as_ref().is_some_and(|record| record.is_over(now))
    }

    /// When a sweep has to look at it: never after its deadline.
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

    /// Its size in quarter doublings.
    #[inline]
    pub(super) fn size_class(&self) -> usize {
        (self.state >> SIZE_SHIFT) as usize % SIZE_CLASSES
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

    /// Lets two entries change places.
    pub(super) fn exchange(&mut self, a: usize, b: usize) {
        self.slots.swap(a, b);
        self.note_deadline(a);
        self.note_deadline(b);
    }

    /// Somebody has used it.
    pub(super) fn unstage(&mut self, at: usize) {
        self.slots[at].unstage();
    }

    /// Changes when an entry ends.
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
        *soonest = Tick::FAR;
        for slot in &mut self.slots[block * BLOCK..end] {
            if slot.units_left(now) <= 0 {
                slot.rearm(now);
            }
            *soonest = slot.due_at(now).min(*soonest);
        }
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
