//! Notes the counters now and then, for what is said of the last minute, five minutes, hour.

use std::sync::Arc;

use crate::cache::{Core, stats::MARK_EVERY};

/// Notes until it is dropped.
pub async fn run(core: Arc<Core>) {
    let mut ticks = super::ticks(MARK_EVERY);
    loop {
        ticks.tick().await;
        core.mark_stats();
    }
}
