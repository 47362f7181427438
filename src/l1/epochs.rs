//! Epochs: the periods in which copies are made, and the time until which L1 may answer with them.
//!
//! A copy stores the number of its epoch: 8 bits in its slot. The fence is stored once for all copies of an epoch.
//! Therefore a flush, a lost link or an expired fence visits no entries. A hit loads the fence of its epoch from a
//! table of 2 KiB.
//!
//! An epoch is *open* while its fence is in the future. It is *suspended* when its link is lost: nothing fills it, and
//! its copies may still be returned as stale for a limited time. It has *ended* when its copies may never be returned.
//! After a sweep has removed all copies, a new epoch reuses the number. A generation distinguishes a lease of an ended
//! epoch from a lease of a later epoch with the same number.
//!
//! Ordering: ending an epoch stores the new state first and sweeps afterward; a fill checks the state while it holds
//! the lock of the shard. A fill that did not see the end is therefore found by the sweep, which takes the lock later.

use std::time::Duration;

use super::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering};
use crate::clock::Tick;

/// Number of epochs that slots can distinguish.
pub(super) const EPOCHS: usize = 256;

/// A period in which copies are made: its number and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    number: u8,
    generation: u32,
}

impl Epoch {
    /// The first epoch of each L1.
    #[cfg(all(test, not(feature = "shuttle")))]
    pub(super) const FIRST: Self = Self { number: 0, generation: 1 };

    #[inline]
    pub(super) fn number(self) -> u8 {
        self.number
    }

    /// Packs the epoch into one word, never 0.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 8 | u64::from(self.number)
    }

    /// Unpacks the epoch from one word; `None` for 0.
    #[inline]
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self { number: bits as u8, generation: (bits >> 8) as u32 })
    }
}

/// State of one epoch number.
struct Entry {
    /// Time until which its copies may be returned, in ms.
    fence: AtomicU64,
    /// Same as the fence, but unchanged when the link is lost; 0 after the epoch has ended.
    proven: AtomicU64,
    /// Generation of the epoch that may be filled; 0 if none.
    live: AtomicU32,
}

/// Free and ended epoch numbers.
struct Numbers {
    free: Vec<u8>,
    /// Numbers of ended epochs that may have copies left.
    ended: Vec<u8>,
    generation: u32,
}

/// All epochs of one L1.
pub(super) struct Epochs {
    entries: Box<[Entry; EPOCHS]>,
    numbers: Mutex<Numbers>,
    /// Number of suspended epochs.
    suspended: AtomicU32,
    /// Some ended epochs were not freed by a sweep yet. Otherwise, checks need not look at the epoch of each entry.
    any_ended: AtomicBool,
}

impl Epochs {
    pub(super) fn new() -> Self {
        let none = |_| Entry { fence: AtomicU64::new(0), proven: AtomicU64::new(0), live: AtomicU32::new(0) };
        let numbers = Numbers { free: (0..=u8::MAX).rev().collect(), ended: Vec::new(), generation: 0 };
        Self {
            entries: Box::new(std::array::from_fn(none)),
            numbers: Mutex::new(numbers),
            suspended: AtomicU32::new(0),
            any_ended: AtomicBool::new(false),
        }
    }

    /// Starts an epoch with this fence. Returns `None` while no number is free.
    pub(super) fn begin(&self, fence: Tick) -> Option<Epoch> {
        let mut numbers = self.numbers.lock();
        let number = numbers.free.pop()?;
        numbers.generation = numbers.generation.wrapping_add(1).max(1);
        let entry = &self.entries[usize::from(number)];
        entry.proven.store(fence.0, Ordering::Relaxed);
        entry.live.store(numbers.generation, Ordering::Release);
        entry.fence.store(fence.0, Ordering::Release);
        Some(Epoch { number, generation: numbers.generation })
    }

    /// Moves the fence of the epoch to `fence`. Does nothing if the epoch is suspended or has ended.
    pub(super) fn extend(&self, epoch: Epoch, fence: Tick) {
        let _numbers = self.numbers.lock();
        if self.is_live(epoch) {
            let entry = &self.entries[usize::from(epoch.number)];
            entry.proven.store(fence.0, Ordering::Release);
            entry.fence.store(fence.0, Ordering::Release);
        }
    }

    /// Closes the fence; copies remain as stale ones. Returns whether the epoch was live.
    pub(super) fn suspend(&self, epoch: Epoch) -> bool {
        let _numbers = self.numbers.lock();
        let was_live = self.is_live(epoch);
        if was_live {
            let entry = &self.entries[usize::from(epoch.number)];
            entry.fence.store(0, Ordering::Release);
            entry.live.store(0, Ordering::Release);
            self.suspended.fetch_add(1, Ordering::Relaxed);
        }
        was_live
    }

    /// Ends a live epoch or a suspended one.
    pub(super) fn end(&self, epoch: Epoch) {
        let mut numbers = self.numbers.lock();
        let entry = &self.entries[usize::from(epoch.number)];
        let live = entry.live.load(Ordering::Acquire);
        let is_free = numbers.free.contains(&epoch.number) || numbers.ended.contains(&epoch.number);
        if is_free || (live != 0 && live != epoch.generation) {
            return;
        }
        if live == 0 {
            self.suspended.fetch_sub(1, Ordering::Relaxed);
        }
        entry.fence.store(0, Ordering::Release);
        entry.live.store(0, Ordering::Release);
        entry.proven.store(0, Ordering::Release);
        numbers.ended.push(epoch.number);
        self.any_ended.store(true, Ordering::Release);
    }

    /// Returns the numbers of ended epochs that may have copies left.
    pub(super) fn ended(&self) -> Vec<u8> {
        self.numbers.lock().ended.clone()
    }

    /// Frees these numbers, which have no copies left.
    pub(super) fn free(&self, swept: &[u8]) {
        let mut numbers = self.numbers.lock();
        numbers.ended.retain(|number| !swept.contains(number));
        numbers.free.extend_from_slice(swept);
        self.any_ended.store(!numbers.ended.is_empty(), Ordering::Release);
    }

    /// Returns whether a copy of this epoch may be returned.
    #[inline]
    pub(super) fn is_open(&self, number: u8, now: Tick) -> bool {
        now.0 < self.entries[usize::from(number)].fence.load(Ordering::Acquire)
    }

    /// Returns whether a copy of this epoch may be returned as stale, up to `grace` after its fence.
    pub(super) fn is_stale_allowed(&self, number: u8, now: Tick, grace: Duration) -> bool {
        let proven = self.entries[usize::from(number)].proven.load(Ordering::Acquire);
        proven != 0 && now < Tick(proven).plus(grace)
    }

    /// Returns whether a fill in this epoch may be inserted.
    pub(super) fn is_live(&self, epoch: Epoch) -> bool {
        self.entries[usize::from(epoch.number)].live.load(Ordering::Acquire) == epoch.generation
    }

    /// Returns whether there may be copies of ended epochs.
    #[inline]
    pub(super) fn any_ended(&self) -> bool {
        self.any_ended.load(Ordering::Acquire)
    }

    /// Returns whether copies of this epoch are useless.
    #[inline]
    pub(super) fn has_ended(&self, number: u8) -> bool {
        self.entries[usize::from(number)].proven.load(Ordering::Acquire) == 0
            && self.entries[usize::from(number)].live.load(Ordering::Acquire) == 0
    }

    /// Returns whether the link of this epoch is lost. The maximum age then does not end its copies.
    pub(super) fn is_suspended(&self, number: u8) -> bool {
        let entry = &self.entries[usize::from(number)];
        entry.live.load(Ordering::Acquire) == 0 && entry.proven.load(Ordering::Acquire) != 0
    }

    /// Returns whether an epoch is suspended.
    pub(super) fn any_suspended(&self) -> bool {
        self.suspended.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(50);

    #[test]
    fn an_epoch_is_open_until_its_fence_and_closed_by_its_end() {
        let epochs = Epochs::new();
        let first = epochs.begin(Tick(10)).expect("a number");
        assert!(epochs.is_open(first.number(), Tick(9)) && !epochs.is_open(first.number(), Tick(10)));
        epochs.extend(first, Tick(20));
        assert!(epochs.is_open(first.number(), Tick(19)) && epochs.is_live(first));
        epochs.end(first);
        epochs.extend(first, Tick(90));
        assert!(!epochs.is_open(first.number(), Tick(1)) && !epochs.is_live(first));
        assert!(epochs.has_ended(first.number()) && !epochs.is_stale_allowed(first.number(), Tick(1), GRACE));
    }

    #[test]
    fn a_suspended_epoch_may_be_answered_as_stale_and_not_be_filled() {
        let epochs = Epochs::new();
        let lost = epochs.begin(Tick(10)).expect("a number");
        assert!(epochs.suspend(lost) && !epochs.suspend(lost));
        assert!(!epochs.is_open(lost.number(), Tick(5)) && !epochs.is_live(lost) && !epochs.has_ended(lost.number()));
        assert!(epochs.is_suspended(lost.number()) && epochs.any_suspended());
        assert!(epochs.is_stale_allowed(lost.number(), Tick(59), GRACE));
        assert!(!epochs.is_stale_allowed(lost.number(), Tick(60), GRACE));
        epochs.end(lost);
        epochs.end(lost);
        assert!(epochs.has_ended(lost.number()) && !epochs.any_suspended());
    }

    #[test]
    fn a_number_is_used_again_only_when_it_was_swept_and_then_under_a_new_generation() {
        let epochs = Epochs::new();
        let all: Vec<Epoch> = std::iter::from_fn(|| epochs.begin(Tick::FAR)).collect();
        assert_eq!(all.len(), EPOCHS);
        epochs.end(all[7]);
        assert!(epochs.begin(Tick::FAR).is_none());
        epochs.free(&epochs.ended());
        let again = epochs.begin(Tick::FAR).expect("the number that was freed");
        assert_eq!(again.number(), all[7].number());
        assert!(epochs.is_live(again) && !epochs.is_live(all[7]));
        epochs.end(all[7]);
        assert!(epochs.is_live(again), "whoever ends an old epoch does not end its successor");
    }
}
