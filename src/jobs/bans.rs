//! Sweeps what bans hide.

use std::time::Duration;

use crate::cache::Cache;

/// How often it looks for a ban whose sweeper has died, or whose time has come.
const PERIOD: Duration = Duration::from_millis(200);

/// Sweeps until it is dropped.
pub async fn run(cache: Cache) {
    loop {
        cache.bans_to_sweep(PERIOD).await;
        cache.sweep_bans().await;
    }
}
