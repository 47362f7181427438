//! Reads predicted keys from L2 in the background, so that a chain of keys is followed before it is missed.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::cache::Cache;

/// Keys per read of L2.
const KEYS: usize = 64;
/// Limit on reads in flight: beyond it keys wait in the queue, and keys that find it full are not fetched.
const READS: usize = 8;

/// Fetches until it is dropped.
pub async fn run(cache: Cache) {
    let reads = Arc::new(Semaphore::new(READS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&reads).acquire_owned().await else { return };
        let batch = cache.next_prefetch(KEYS).await;
        let cache = cache.clone();
        tokio::spawn(async move {
            cache.fetch_batch(batch).await;
            drop(permit);
        });
    }
}
