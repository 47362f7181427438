//! The circuit breaker in front of one primary, shared by all workers.
//!
//! *Closed*: calls pass. The breaker opens after consecutive failures that last long enough to be more than one slow
//! moment. *Open*: calls fail immediately, so no caller waits for a Redis that does not answer. The worker that opened
//! the breaker sends PING periodically (`group`). The first answer closes the breaker.
//!
//! A call counts as a failure if it was sent and not answered by its deadline. Error replies count as answers, and
//! calls on a lost connection fail immediately anyway.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crate::clock::stopwatch_ns;

/// Minimum duration of failures before the breaker opens: one slow command of another client, or a pause of this
/// process, is no outage.
const SPAN: Duration = Duration::from_millis(100);

/// The state of one circuit breaker.
#[derive(Debug, Default)]
pub(crate) struct CircuitBreaker {
    open: AtomicBool,
    failures: AtomicUsize,
    /// Stopwatch time of the first consecutive failure.
    first_ns: AtomicU64,
    /// Number of times that the breaker has opened since the start.
    opened: AtomicU64,
}

impl CircuitBreaker {
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// Returns the number of times that the breaker has opened since the start.
    pub(crate) fn times_opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Records an answered call.
    #[inline]
    pub(crate) fn succeeded(&self) {
        // The load comes first, so that the cache line stays shared between workers.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Records a call that was not answered in time. Returns true if this opened the breaker: the caller must then
    /// start probing.
    pub(crate) fn failed(&self, failures_max: usize) -> bool {
        let now = stopwatch_ns();
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        if failures == 1 {
            self.first_ns.store(now, Relaxed);
        }
        let lasted = Duration::from_nanos(now.saturating_sub(self.first_ns.load(Relaxed)));
        let opens = failures >= failures_max && lasted >= SPAN && !self.open.swap(true, Relaxed);
        if opens {
            self.opened.fetch_add(1, Relaxed);
        }
        opens
    }

    /// Closes the breaker after an answered probe.
    pub(crate) fn close(&self) {
        self.failures.store(0, Relaxed);
        self.open.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_ago(breaker: &CircuitBreaker) {
        breaker.first_ns.store(stopwatch_ns().saturating_sub(2 * SPAN.as_nanos() as u64), Relaxed);
    }

    #[test]
    fn it_opens_after_failures_in_a_row_that_last() {
        let breaker = CircuitBreaker::default();
        assert!((0..50).all(|_| !breaker.failed(5)), "all of one moment");
        long_ago(&breaker);
        assert!(breaker.failed(5) && breaker.is_open());
        assert!(!breaker.failed(5), "one caller probes");
        breaker.close();
        assert!(!breaker.is_open() && breaker.times_opened() == 1);
    }

    #[test]
    fn a_success_begins_the_count_anew() {
        let breaker = CircuitBreaker::default();
        (0..4).for_each(|_| assert!(!breaker.failed(5)));
        long_ago(&breaker);
        breaker.succeeded();
        (0..4).for_each(|_| assert!(!breaker.failed(5)));
        assert!(!breaker.is_open());
    }
}
