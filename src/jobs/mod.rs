//! Background jobs: callers of the cache that serve no client.

pub mod access;
pub mod ban_sweep;
pub mod byte_budget;
pub mod coherence_check;
pub mod expiry_sweep;
pub mod l2_state_log;
pub mod learned_snapshot;
pub mod learning;
mod periodic_save;
pub mod prefetch;
pub mod start_clean_up;
pub mod stats_windows;
pub mod store_id;
pub mod tls_files;
pub mod touch_on_read;
pub mod warm_start;

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Returns the ticks of a job; the first tick comes at once. A late tick delays the next ones, because a job that fell
/// behind has nothing to catch up on.
fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
