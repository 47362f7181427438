//! [`Backoff`]: the wait before the next attempt to connect.

use std::time::Duration;

/// First pause; a restart of Redis takes about this long.
const FIRST: Duration = Duration::from_millis(50);
/// Maximum pause. One attempt per second and connection has negligible cost, and the end of an outage is noticed within
/// a second.
const LONGEST: Duration = Duration::from_secs(1);

/// Pauses that double from [`FIRST`] to [`LONGEST`]. Each pause is shortened by up to half at random, so that
/// connections lost at the same time do not reconnect at the same time.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self::up_to(LONGEST)
    }

    /// Creates a back-off with another maximum pause.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { next: FIRST, longest }
    }

    /// Resets the pause after a success.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Returns the pause before the next attempt.
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
