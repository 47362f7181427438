//! Counts the answered and the canceled calls of one connection.
//!
//! A client may cancel all its calls at once, even repeatedly, and clients cancel calls whose deadline is exceeded. A client
//! that cancels most of its calls as soon as it has sent them makes the server work beyond the limit of concurrent streams
//! (HTTP/2 rapid reset, CVE-2023-44487). The server closes such connections.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::clock::{Clock, Tick};

/// Maximum number of calls of a connection that are canceled at once, beyond the number of answered calls.
const CANCELED_MAX: u64 = 1_000;
/// Age from which the cancellation of a call is not counted: such a call occupied one of the concurrent streams.
const RAPID: Duration = Duration::from_millis(5);

/// Counts the calls of one connection. All its calls run on one thread, so the counters need no atomic addition.
#[derive(Debug)]
pub(super) struct Tally {
    clock: Clock,
    answered: AtomicU64,
    canceled: AtomicU64,
}

impl Tally {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, answered: AtomicU64::new(0), canceled: AtomicU64::new(0) }
    }

    /// Returns the time, for a call that has to wait.
    pub(super) fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Counts a call that has a response.
    #[inline]
    pub(super) fn answer(&self) {
        self.answered.store(self.answered.load(Relaxed) + 1, Relaxed);
    }

    /// Counts a call that was dropped without a response, unless it had waited for a while. `since`: when it began to wait.
    pub(super) fn cancel(&self, since: Option<Tick>) {
        if since.is_some_and(|since| self.now().since(since) >= RAPID) {
            return;
        }
        self.canceled.store(self.canceled.load(Relaxed) + 1, Relaxed);
    }

    /// Returns the number of answered calls.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Returns the number of canceled calls.
    pub(super) fn canceled(&self) -> u64 {
        self.canceled.load(Relaxed)
    }

    /// Returns whether the client has canceled too many calls.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.canceled() > CANCELED_MAX.saturating_add(self.answered())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_grows_with_answered_calls() {
        let tally = Tally::new(Clock::real());
        let long_ago = Tick(tally.now().0 - 100);
        (0..2 * CANCELED_MAX).for_each(|_| tally.cancel(Some(long_ago)));
        assert_eq!(tally.canceled(), 0, "calls that waited");
        (0..CANCELED_MAX).for_each(|_| tally.cancel(None));
        assert!(!tally.is_over());
        tally.cancel(Some(tally.now()));
        assert!(tally.is_over());
        tally.answer();
        assert!(!tally.is_over());
    }
}
