//! The circuit breaker in front of one primary, shared by all workers.
//!
//! *Closed*: calls pass. It opens when calls have failed one after another, without a success between them, for long
//! enough that it was not one slow moment. *Open*: calls are refused at once, so nobody waits for a Redis that does not
//! answer; whoever opened it sends a PING now and then (`group`). The first answer closes it.
//!
//! A failure is a call that was sent and not answered by its deadline. Error replies are answers, and a lost connection
//! refuses by itself.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crate::clock::stopwatch_ns;

/// Failures must last this long before it opens: one slow command of somebody else, or a pause of our own, is no outage.
const SPAN: Duration = Duration::from_millis(100);

/// The state of one circuit breaker.
#[derive(Debug, Default)]
pub(crate) struct CircuitBreaker {
    open: AtomicBool,
    failures: AtomicUsize,
    /// When the first of them was, by the stopwatch.
    first_ns: AtomicU64,
    /// How often it opened since start.
    opened: AtomicU64,
}

impl CircuitBreaker {
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// How often it opened since start.
    pub(crate) fn times_opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// A call was answered.
    #[inline]
    pub(crate) fn succeeded(&self) {
        // Read first: the line stays shared between workers.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// A call was not answered in time. True if this opened the breaker: the caller then probes.
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

    /// A probe was answered.
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
