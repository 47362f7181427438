//! Touches keys that were read, where a policy sets `touch_on_read`: one batch after the other, so that L2 sets the pace.

use crate::cache::Cache;

/// Touches until it is dropped.
pub async fn run(cache: Cache) {
    loop {
        let batch = cache.next_touches().await;
        cache.touch(batch).await;
    }
}
