//! Counts the answered and the canceled calls of one connection.
//!
//! A client may cancel all its calls at once, even repeatedly. A client that cancels most of its calls makes the server
//! work for nothing beyond the limit of concurrent streams (HTTP/2 rapid reset, CVE-2023-44487). The server closes such
//! connections.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Maximum number of canceled calls of a connection beyond the number of answered calls.
const CANCELED_MAX: u64 = 1_000;

/// Counts the calls of one connection. All its calls run on one thread, so the counters need no atomic addition.
#[derive(Debug, Default)]
pub(super) struct Tally {
    answered: AtomicU64,
    canceled: AtomicU64,
}

impl Tally {
    /// Counts a call that has a response.
    #[inline]
    pub(super) fn answer(&self) {
        self.answered.store(self.answered.load(Relaxed) + 1, Relaxed);
    }

    /// Counts a call that was dropped without a response.
    pub(super) fn cancel(&self) {
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
        let tally = Tally::default();
        (0..CANCELED_MAX).for_each(|_| tally.cancel());
        assert!(!tally.is_over());
        tally.cancel();
        assert!(tally.is_over());
        tally.answer();
        assert!(!tally.is_over());
    }
}
