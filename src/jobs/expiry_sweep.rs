//! Removes expired entries from L1, so that their memory is freed even if they are never read, and removes copies whose
//! expiry is wrong because the wall clock was set.

use std::{sync::Arc, time::Duration};

use crate::cache::Core;

/// Interval of sweeps. An expired entry stays for at most about this long.
const PERIOD: Duration = Duration::from_millis(100);
/// Number of periods per sweep while copies are kept as stale past their deadlines. Every sweep visits these copies
/// again, so sweeps are rarer then.
const ROUNDS_WHILE_HELD: u32 = 10;
/// Entries removed before the task yields.
const BUDGET: usize = 4096;

/// Sweeps until the future is dropped.
pub async fn run(core: Arc<Core>) {
    let mut ticks = super::ticks(PERIOD);
    for round in (0..ROUNDS_WHILE_HELD).cycle() {
        ticks.tick().await;
        core.follow_wall_clock();
        if core.holds_stale() && round > 0 {
            continue;
        }
        while core.sweep(BUDGET) == BUDGET {
            tokio::task::yield_now().await;
        }
    }
}
