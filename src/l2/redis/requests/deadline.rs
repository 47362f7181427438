//! Deadlines of requests to Redis.

use std::time::Duration;

use tokio::time::Instant;

use crate::{clock::stopwatch_ns, l2::scan::PAGE_TIME_MAX};

/// Deadline of SCAN, DBSIZE and RANDOMKEY.
pub(crate) const INSPECTION_DEADLINE: Duration = Duration::from_secs(5);

/// Returns the instant `span` from now.
pub(crate) fn after(span: Duration) -> Instant {
    Instant::now() + span
}

/// The time for which a task has run since it last yielded. A task that compares many keys with patterns yields each time
/// it has run for [`PAGE_TIME_MAX`].
pub(crate) struct Turn(u64);

impl Turn {
    /// Starts a turn.
    pub(crate) fn begin() -> Self {
        Self(stopwatch_ns())
    }

    /// Yields to other tasks if the turn was long enough, and then starts the next one.
    pub(crate) async fn pause(&mut self) {
        if stopwatch_ns() - self.0 > PAGE_TIME_MAX.as_nanos() as u64 {
            tokio::task::yield_now().await;
            *self = Self::begin();
        }
    }
}
