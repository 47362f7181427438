//! Ranges of the durations of load leases: the same for the requests of all protocols and for policies.

use std::{fmt::Display, time::Duration};

use crate::error::{CacheError, Kind, Result};

/// Minimum exclusive time of a lease in milliseconds.
const LEASE_MIN_MS: i64 = 100;
/// Maximum exclusive time of a lease in milliseconds, and maximum time that a caller waits for the load of another client.
const LEASE_MAX_MS: i64 = 300_000;
/// Maximum time without a load in milliseconds that a client may request after a failure.
const RETRY_MAX_MS: i64 = 3_600_000;
/// Maximum TTL and maximum stale part in milliseconds: far from an overflow of the arithmetic of Redis and Terrace.
const SPAN_MAX_MS: i64 = 100 * 365 * 86_400_000;

/// Exclusive time of a lease.
pub const LEASE: Range = Range(LEASE_MIN_MS, LEASE_MAX_MS);
/// Time that a caller waits for the load of another client.
pub const WAIT: Range = Range(0, LEASE_MAX_MS);
/// Last part of a key's life, in which the value needs a refresh.
pub const STALE: Range = Range(0, SPAN_MAX_MS);
/// TTL of a fill.
pub const TTL: Range = Range(1, SPAN_MAX_MS);
/// Time without a load after a failure.
pub const RETRY: Range = Range(0, RETRY_MAX_MS);

/// Range of a duration in milliseconds, inclusive.
#[derive(Debug, Clone, Copy)]
pub struct Range(i64, i64);

impl Range {
    /// Returns the minimum.
    #[must_use]
    pub const fn min(self) -> Duration {
        Duration::from_millis(self.0.unsigned_abs())
    }

    /// Returns the maximum.
    #[must_use]
    pub const fn max(self) -> Duration {
        Duration::from_millis(self.1.unsigned_abs())
    }

    /// Converts milliseconds of a request. `name` is the name of the field or option.
    ///
    /// # Errors
    /// `InvalidArgument` for a number out of range.
    #[inline]
    pub fn of_ms(self, name: &str, ms: i64) -> Result<Duration> {
        if (self.0..=self.1).contains(&ms) {
            Ok(Duration::from_millis(ms.unsigned_abs()))
        } else {
            Err(self.refused(name, ms))
        }
    }

    /// Like [`Range::of_ms`], for a field that may be absent.
    ///
    /// # Errors
    /// As [`Range::of_ms`].
    #[inline]
    pub fn of_field(self, name: &str, ms: Option<i64>) -> Result<Option<Duration>> {
        ms.map(|ms| self.of_ms(name, ms)).transpose()
    }

    /// Checks a duration.
    ///
    /// # Errors
    /// As [`Range::of_ms`].
    pub fn check(self, name: &str, span: Duration) -> Result<Duration> {
        self.of_ms(name, i64::try_from(span.as_millis()).unwrap_or(i64::MAX))
    }

    /// Returns the error for a value that is not a number within the range.
    #[cold]
    pub fn refused(self, name: &str, seen: impl Display) -> CacheError {
        let Self(min, max) = self;
        CacheError::new(Kind::InvalidArgument, format!("{name} is {seen}; expected {min} to {max} milliseconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_out_of_range_are_refused() {
        for (range, min, max) in [(LEASE, 100, 300_000), (WAIT, 0, 300_000), (RETRY, 0, 3_600_000)] {
            assert_eq!(range.of_ms("x", min).unwrap(), range.min());
            assert_eq!(range.of_ms("x", max).unwrap(), range.max());
            for ms in [min - 1, max + 1, i64::MIN, i64::MAX] {
                let message = format!("x is {ms}; expected {min} to {max} milliseconds");
                assert_eq!(range.of_ms("x", ms).unwrap_err().message(), message);
            }
        }
        assert_eq!(STALE.of_field("x", None), Ok(None));
        assert!(LEASE.check("x", Duration::MAX).is_err());
    }
}
