//! Background work: a third client of the cache.

pub mod ahead;
pub mod bans;
pub mod check;
pub mod learn;
pub mod learned;
pub mod marks;
pub mod slide;
pub mod sweep;
pub mod warm;
pub mod watch;

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Ticks of a job, the first at once. One that comes late puts off those after it: a job that fell behind has nothing to catch
/// up on.
fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
