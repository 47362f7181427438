//! Takes up what workers told of their requests, for all who learn from it.

use std::{sync::Arc, time::Duration};

use crate::cache::Core;

/// How often: a worker's ring holds 4,096 events, so that 200,000 a second find room.
const PERIOD: Duration = Duration::from_millis(20);

/// Learns until it is dropped.
pub async fn run(core: Arc<Core>) {
    let mut ticks = super::ticks(PERIOD);
    let mut events = Vec::new();
    loop {
        ticks.tick().await;
        core.learn(&mut events);
    }
}
