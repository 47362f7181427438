//! Passes the events that workers recorded to the components that learn from them.

use std::{sync::Arc, time::Duration};

use crate::cache::Core;

/// Interval: the ring of a worker holds 4,096 events, enough for 200,000 per second.
const PERIOD: Duration = Duration::from_millis(20);

/// Learns until the future is dropped.
pub async fn run(core: Arc<Core>) {
    let mut ticks = super::ticks(PERIOD);
    let mut events = Vec::new();
    loop {
        ticks.tick().await;
        core.learn(&mut events);
    }
}
