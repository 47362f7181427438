//! Notes the counters now and then, for what is said of the last minute, five minutes, hour.

use std::sync::Arc;

use crate::cache::{Core, stats::MARK_EVERY};

/// Notes until it is dropped.
pub async fn run(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(MARK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        core.mark_stats();
    }
}
