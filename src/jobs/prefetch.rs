//! Reads predicted keys from L2 in the background, so that Terrace follows a chain of keys before its keys are missed.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::cache::Cache;

/// Maximum keys per L2 read.
const KEYS: usize = 64;
/// Maximum number of L2 reads in flight. Further keys wait in the queue. Keys are dropped if the queue is full.
const READS: usize = 8;

/// Prefetches until the future is dropped.
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
