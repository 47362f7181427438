//! Records the counters periodically, for the statistics of the last minute, five minutes and hour.

use std::sync::Arc;

use crate::cache::{Core, stats::MARK_EVERY};

/// Records until the future is dropped.
pub async fn run(core: Arc<Core>) {
    let mut ticks = super::ticks(MARK_EVERY);
    loop {
        ticks.tick().await;
        core.mark_stats();
    }
}
