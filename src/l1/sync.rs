//! The locks and atomics through which threads interact. With the feature `shuttle`, they belong to a scheduler that
//! decides which thread runs next (`interleavings`).
//!
//! Atomics that hold only statistics, or that are written under the exclusive lock of the shard, are always those of
//! the standard library: no schedule changes their meaning.

#[cfg(not(feature = "shuttle"))]
pub(super) use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(feature = "shuttle")]
pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
#[cfg(feature = "shuttle")]
pub(super) use shuttle_parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub(super) use std::sync::atomic::Ordering;
#[cfg(not(feature = "shuttle"))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// Returns the lock if it can be acquired within `wait`.
pub(super) fn write_within<T>(lock: &RwLock<T>, wait: std::time::Duration) -> Option<RwLockWriteGuard<'_, T>> {
    #[cfg(not(feature = "shuttle"))]
    return lock.try_write_for(wait);
    // The scheduler has no time: either the lock is free now, or it is not.
    #[cfg(feature = "shuttle")]
    return lock.try_write().filter(|_| !wait.is_zero());
}
