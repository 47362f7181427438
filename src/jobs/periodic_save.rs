//! Saves to the data directory: periodically while the server runs, and once more when it drains.

use std::{future::Future, time::Duration};

use tokio::time::timeout;

/// Maximum duration of the last write of a snapshot or of the hot key list. The write delays the end of the process.
const LAST_SAVE_MAX: Duration = Duration::from_secs(5);

/// Calls `save` once per `period` until the future is dropped. The first call comes after one period.
pub(super) async fn save_every<F: Future<Output = ()>>(period: Duration, save: impl Fn() -> F) {
    let mut ticks = super::ticks(period);
    // The first tick comes at once.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        save().await;
    }
}

/// Saves for the last time. Returns `false` if the save took too long and was abandoned.
pub(super) async fn save_last(save: impl Future<Output = ()>) -> bool {
    timeout(LAST_SAVE_MAX, save).await.is_ok()
}
