//! A clock that includes the time in which the machine is suspended.
//!
//! Rust's `Instant` stops during suspend on most systems. A laptop or a virtual machine that continues after an hour would
//! then use copies that are an hour old.

use std::time::Duration;

/// A point in time: nanoseconds since an arbitrary start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    /// Later than any time that the clock returns.
    pub(crate) const FAR: Self = Self(u64::MAX);
    /// Earlier than any time that the clock returns.
    pub(crate) const NEVER: Self = Self(0);

    /// Returns the current time.
    #[inline]
    pub(crate) fn now() -> Self {
        Self(elapsed_ns())
    }

    /// Returns this time plus `span`, saturating.
    #[inline]
    pub(crate) fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(span)))
    }

    /// Returns this time minus `span`, saturating.
    #[inline]
    pub(crate) fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(span)))
    }

    /// Returns whether this time is at most `span_ns` nanoseconds after `earlier`.
    #[inline]
    pub(crate) fn is_within(self, span_ns: u64, earlier: Self) -> bool {
        self.0.saturating_sub(earlier.0) <= span_ns
    }
}

/// Converts to nanoseconds, saturating.
pub(crate) fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
#[inline]
fn elapsed_ns() -> u64 {
    // The monotonic clock of Apple systems includes suspend.
    #[cfg(target_vendor = "apple")]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    #[cfg(not(target_vendor = "apple"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    let now = rustix::time::clock_gettime(CLOCK);
    // The clock begins at the start of the machine: neither part is negative. 1, so that no time equals NEVER.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs() + 1
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn elapsed_ns() -> u64 {
    static START: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
    nanoseconds(START.get_or_init(tokio::time::Instant::now).elapsed()) + 1
}
