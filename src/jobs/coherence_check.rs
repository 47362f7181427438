//! Runs the self-check of coherence over Redis, and logs the violations it finds.

use std::time::Duration;

use crate::cache::Cache;

/// Interval of checks for samples that are due.
const PERIOD: Duration = Duration::from_millis(200);

/// Checks until the future is dropped.
pub async fn run(cache: Cache) {
    let mut ticks = super::ticks(PERIOD);
    loop {
        ticks.tick().await;
        let stale = cache.check_samples().await;
        if stale > 0 {
            tracing::error!(stale, "found L1 copies older than the coherence bound; removed them");
        }
    }
}
