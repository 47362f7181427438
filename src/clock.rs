//! The only place that reads a clock.
//!
//! There are two kinds of time. [`Tick`] is monotonic and includes suspend (`CLOCK_BOOTTIME`). Rust's `Instant` stops
//! while the machine sleeps, so an L1 copy could outlive its fence. [`UnixMs`] is the wall clock, used only where Redis
//! uses it too: absolute expiry times.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Monotonic time in milliseconds, never 0.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// Later than any tick that a clock returns.
    pub const FAR: Self = Self(u64::MAX);
    /// Earlier than any tick that a clock returns.
    pub const ZERO: Self = Self(0);

    /// Returns this tick plus `span`, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// Returns the time from `earlier` to this tick; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Wall-clock time in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub u64);

/// Returns a duration in whole milliseconds, saturating.
#[must_use]
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The clock of one server: the system's clock, or one that a test advances.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    manual: Option<Arc<ManualClock>>,
}

/// A clock that advances only when a test advances it.
#[derive(Debug)]
pub struct ManualClock {
    elapsed_ms: AtomicU64,
    /// Time by which the wall clock was set forward.
    wall_ahead_ms: AtomicU64,
}

impl ManualClock {
    /// Start of the manual wall clock: 2023-11-14, far from 0 and from today.
    const UNIX_START_MS: u64 = 1_700_000_000_000;

    /// Advances both times.
    pub fn advance(&self, span: Duration) {
        self.elapsed_ms.fetch_add(millis(span), Relaxed);
    }

    /// Sets the wall clock forward, without an effect on monotonic time.
    pub fn advance_wall(&self, span: Duration) {
        self.wall_ahead_ms.fetch_add(millis(span), Relaxed);
    }
}

impl Clock {
    /// Returns the system's clocks.
    #[must_use]
    pub fn real() -> Self {
        Self::default()
    }

    /// Returns a clock for tests and for the replay of traces, and the handle that advances it.
    #[must_use]
    pub fn manual() -> (Self, Arc<ManualClock>) {
        let manual = Arc::new(ManualClock { elapsed_ms: AtomicU64::new(1), wall_ahead_ms: AtomicU64::new(0) });
        (Self { manual: Some(Arc::clone(&manual)) }, manual)
    }

    /// Returns the current monotonic time. Costs about 20 ns.
    #[must_use]
    pub fn now(&self) -> Tick {
        match &self.manual {
            None => Tick(machine_ms(ClockId::Boottime).max(1)),
            Some(manual) => Tick(manual.elapsed_ms.load(Relaxed)),
        }
    }

    /// Returns the current wall-clock time.
    #[must_use]
    pub fn unix(&self) -> UnixMs {
        match &self.manual {
            None => UnixMs(machine_ms(ClockId::Realtime)),
            Some(manual) => {
                let elapsed_ms = manual.elapsed_ms.load(Relaxed) + manual.wall_ahead_ms.load(Relaxed);
                UnixMs(ManualClock::UNIX_START_MS + elapsed_ms)
            }
        }
    }

    /// Returns the current monotonic time, and the wall clock minus the monotonic clock in whole milliseconds, rounded up:
    /// [`Self::unix`] is never later than this tick plus the difference. Both clocks are truncated to milliseconds, so
    /// that their difference would alternate between two numbers.
    #[must_use]
    pub fn now_and_wall_ahead_ms(&self) -> (Tick, u64) {
        if self.manual.is_some() {
            let now = self.now();
            return (now, self.unix().0.saturating_sub(now.0));
        }
        let (now, wall_ns) = (machine_ns(ClockId::Boottime), machine_ns(ClockId::Realtime));
        (Tick((now / NS_PER_MS).max(1)), wall_ns.saturating_sub(now).div_ceil(NS_PER_MS))
    }
}

const NS_PER_MS: u64 = 1_000_000;

/// Returns monotonic time in nanoseconds, for measuring durations; unrelated to [`Tick`].
#[must_use]
pub fn stopwatch_ns() -> u64 {
    machine_ns(ClockId::Monotonic)
}

fn machine_ms(id: ClockId) -> u64 {
    machine_ns(id) / NS_PER_MS
}

fn machine_ns(id: ClockId) -> u64 {
    let time = clock_gettime(id);
    // Both parts are non-negative on a clock that counts up from boot or from 1970.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
