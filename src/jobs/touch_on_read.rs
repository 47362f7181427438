//! Touches keys that were read, if a policy sets `touch_on_read`. Batches run one after another, so that L2 sets the
//! pace.

use crate::cache::Cache;

/// Touches until the future is dropped.
pub async fn run(cache: Cache) {
    loop {
        let batch = cache.next_touches().await;
        cache.touch(batch).await;
    }
}
