//! Deadlines of requests to Redis.

use std::time::Duration;

use tokio::time::Instant;

/// Deadline of SCAN, DBSIZE and RANDOMKEY.
pub(crate) const INSPECTION_DEADLINE: Duration = Duration::from_secs(5);

/// Returns the instant `span` from now.
pub(crate) fn after(span: Duration) -> Instant {
    Instant::now() + span
}
