//! Reads the store id when L2 becomes reachable, and restores its record if another client removed it.

use std::time::Duration;

use tokio::time::timeout;

use crate::cache::Cache;

/// Interval of checks while L2 announces no change of the record.
const PERIOD: Duration = Duration::from_secs(10);
/// Interval of attempts while the id cannot be read.
const RETRY: Duration = Duration::from_secs(1);

/// Watches until the future is dropped.
pub async fn run(cache: Cache) {
    loop {
        let next = match cache.keep_store_id().await {
            Ok(()) => PERIOD,
            Err(error) => {
                tracing::debug!(%error, "cannot read the store id; retrying");
                RETRY
            }
        };
        // Either way, the record is read.
        let _doubtful_or_late = timeout(next, cache.core().store_id_doubtful()).await;
    }
}
