//! Removes expired entries from L1, so that their memory is freed although nobody reads them.

use std::{sync::Arc, time::Duration};

use crate::cache::Core;

/// Interval of sweeps: an expired entry stays for about this long at most.
const PERIOD: Duration = Duration::from_millis(100);
/// While copies are kept as stale ones beyond their deadlines, every sweep meets them again: then this many rounds make
/// one.
const ROUNDS_WHILE_HELD: u32 = 10;
/// Entries removed before the task yields.
const BUDGET: usize = 4096;

/// Sweeps until it is dropped.
pub async fn run(core: Arc<Core>) {
    let mut ticks = super::ticks(PERIOD);
    for round in (0..ROUNDS_WHILE_HELD).cycle() {
        ticks.tick().await;
        if core.holds_stale() && round > 0 {
            continue;
        }
        while core.sweep(BUDGET) == BUDGET {
            tokio::task::yield_now().await;
        }
    }
}
