//! The locks and atomics that threads meet in: the real ones, or with the feature `shuttle` those of a scheduler that
//! chooses when each thread goes on (`interleavings`).
//!
//! What only holds statistics or is written under the shard's exclusive lock stays a plain atomic: no schedule changes
//! what it means.

#[cfg(not(feature = "shuttle"))]
pub(super) use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
#[cfg(feature = "shuttle")]
pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
#[cfg(feature = "shuttle")]
pub(super) use shuttle_parking_lot::{Mutex, RwLock, RwLockWriteGuard};
pub(super) use std::sync::atomic::Ordering;
#[cfg(not(feature = "shuttle"))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// The lock, if it is to be had within `wait`.
pub(super) fn write_within<T>(lock: &RwLock<T>, wait: std::time::Duration) -> Option<RwLockWriteGuard<'_, T>> {
    #[cfg(not(feature = "shuttle"))]
    return lock.try_write_for(wait);
    // Time stands still there: it is to be had now, or not.
    #[cfg(feature = "shuttle")]
    return lock.try_write().filter(|_| !wait.is_zero());
}
