//! The owner of a worker's counters: the thread that counted first.
//!
//! A handle on the cache belongs to a worker, which is one thread. That thread counts hits without a locked
//! instruction, which would dominate the cost of counting. Other threads may use the handle as well: they add to
//! separate counters, with locked instructions. No count is lost, whichever thread counts.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

thread_local! {
    /// The address distinguishes this thread from all other live threads. A thread that starts after another has ended
    /// may have the same address: it then becomes the owner, and is still the only one.
    static HERE: u8 = const { 0 };
}

/// The thread that adds without a lock.
#[derive(Debug, Default)]
pub(super) struct OwnerThread(AtomicUsize);

impl OwnerThread {
    /// Returns whether this thread is the owner. If there is no owner yet, this thread becomes the owner.
    #[inline]
    pub(super) fn is_here(&self) -> bool {
        let here = HERE.with(|here| std::ptr::from_ref(here).addr());
        self.0.load(Relaxed) == here || self.claim(here)
    }

    #[cold]
    fn claim(&self, here: usize) -> bool {
        self.0.load(Relaxed) == 0 && self.0.compare_exchange(0, here, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use crate::cache::stats::Stats;

    #[test]
    fn no_hit_is_lost_whoever_counts() {
        const EACH: u64 = 200_000;
        let stats = Stats::default();
        let counters = stats.register();
        let count = || (0..EACH).fold(0, |_, _| counters.hit_l1(0));
        let ours = std::thread::scope(|scope| {
            assert_eq!(counters.hit_l1(0), 0);
            (0..3).for_each(|_| drop(scope.spawn(count)));
            count()
        });
        assert_eq!(ours, EACH, "the owner's counts are separate");
        assert_eq!(stats.reads()[0].hit_l1, 1 + 4 * EACH);
    }
}
