//! Removes keys of pattern bans from L1 and from L2.

use std::time::Duration;

use crate::cache::Cache;

/// Interval of checks for bans whose sweeper has died.
const PERIOD: Duration = Duration::from_millis(200);

/// Sweeps until the future is dropped.
pub async fn run(cache: Cache) {
    let sweep = async {
        loop {
            cache.bans_to_sweep(PERIOD).await;
            cache.sweep_bans().await;
        }
    };
    tokio::join!(cache.purge_banned(), sweep);
}
