//! Reads below what prefetch wants in the background: a chain of keys is followed before it is missed.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::cache::Cache;

/// Keys of one read below.
const KEYS: usize = 64;
/// Reads under way: beyond it the queue waits, and what does not fit there is not fetched.
const READS: usize = 8;

/// Fetches until it is dropped.
pub async fn run(cache: Cache) {
    let reads = Arc::new(Semaphore::new(READS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&reads).acquire_owned().await else { return };
        let batch = cache.next_ahead(KEYS).await;
        let cache = cache.clone();
        tokio::spawn(async move {
            cache.fetch_ahead(batch).await;
            drop(permit);
        });
    }
}
