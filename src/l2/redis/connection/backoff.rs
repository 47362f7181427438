//! [`Backoff`]: the wait before the next attempt to connect.

use std::time::Duration;

/// First wait: a restart of Redis takes about this long.
const FIRST: Duration = Duration::from_millis(50);
/// Longest wait. One attempt a second per connection costs nothing, and an outage that ends is noticed within it.
const LONGEST: Duration = Duration::from_secs(1);

/// Doubling waits between [`FIRST`] and [`LONGEST`], each cut by up to half at random, so that connections lost
/// together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self::up_to(LONGEST)
    }

    /// With another longest wait.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { next: FIRST, longest }
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// The wait before the next attempt.
    pub(crate) fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait.mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_longest_and_start_over() {
        let mut backoff = Backoff::new();
        for expected in [50, 100, 200, 400, 800, 1000, 1000] {
            let expected = Duration::from_millis(expected);
            let wait = backoff.step();
            assert!(wait > expected / 2 - Duration::from_millis(1) && wait <= expected, "{wait:?} of {expected:?}");
        }
        backoff.reset();
        assert!(backoff.step() <= FIRST);
    }
}
