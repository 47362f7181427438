//! The exclusive lock: atomic changes to several keys, for a store that only this process writes.
//!
//! With the embedded store and `none`, every read and write through the facade holds the lock shared, and a transaction
//! holds it exclusively. Reads that L1 answers do not take the lock. While the lock is held exclusively, these reads
//! use the flight path, which takes it. With Redis nothing is locked: Redis executes the transaction.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard};

use crate::{cache::Cache, l2::Flavor};

/// The lock, and a flag for readers that do not take the lock.
#[derive(Debug, Default)]
pub(crate) struct ExclusiveLock {
    lock: Arc<RwLock<()>>,
    held: Arc<AtomicBool>,
}

/// Exclusive access until the guard is dropped.
#[derive(Debug)]
pub struct ExclusiveGuard {
    held: Arc<AtomicBool>,
    _guard: OwnedRwLockWriteGuard<()>,
}

impl Drop for ExclusiveGuard {
    fn drop(&mut self) {
        self.held.store(false, Ordering::Release);
    }
}

impl ExclusiveLock {
    /// Returns whether the lock is held exclusively.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }
}

impl Cache {
    /// Takes the lock shared. Returns `None` for a handle with exclusive access, and with Redis.
    pub(in crate::cache) async fn shared_access(&self) -> Option<RwLockReadGuard<'_, ()>> {
        if self.is_exclusive || self.core.flavor == Flavor::Redis {
            return None;
        }
        Some(self.core.exclusive_lock.lock.read().await)
    }

    /// Takes the lock exclusively. Returns a handle for the work under the lock. With Redis the lock excludes nobody.
    pub async fn exclusive(&self) -> (Self, Option<ExclusiveGuard>) {
        let mut inside = self.clone();
        inside.is_exclusive = true;
        if self.is_exclusive || self.core.flavor == Flavor::Redis {
            return (inside, None);
        }
        let guard = Arc::clone(&self.core.exclusive_lock.lock).write_owned().await;
        let held = Arc::clone(&self.core.exclusive_lock.held);
        held.store(true, Ordering::Release);
        (inside, Some(ExclusiveGuard { held, _guard: guard }))
    }
}
