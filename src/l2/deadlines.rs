//! Deadlines and limits of L2 calls, which a configuration reload can change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::clock::millis;

/// Deadlines of L2 calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Deadline of reads; later reads fail with [`Kind::DeadlineExceeded`](crate::error::Kind::DeadlineExceeded).
    pub read: Duration,
    /// Deadline of writes; later writes fail with [`Kind::Unknown`](crate::error::Kind::Unknown).
    pub write: Duration,
}

/// Settings that a configuration reload changes while the backend runs.
#[derive(Debug)]
pub struct Tunables {
    read_ms: AtomicU64,
    write_ms: AtomicU64,
    value_max: AtomicU64,
}

impl Tunables {
    /// Creates the settings from the deadlines and the maximum value size in bytes.
    #[must_use]
    pub fn new(deadlines: Deadlines, value_max: u64) -> Arc<Self> {
        let tunables = Self { read_ms: AtomicU64::new(0), write_ms: AtomicU64::new(0), value_max: AtomicU64::new(0) };
        tunables.set(deadlines, value_max);
        Arc::new(tunables)
    }

    /// Changes the settings with effect from the next call.
    pub fn set(&self, deadlines: Deadlines, value_max: u64) {
        self.read_ms.store(millis(deadlines.read), Relaxed);
        self.write_ms.store(millis(deadlines.write), Relaxed);
        self.value_max.store(value_max, Relaxed);
    }

    /// Returns the current deadlines.
    #[must_use]
    pub fn deadlines(&self) -> Deadlines {
        let of = |ms: &AtomicU64| Duration::from_millis(ms.load(Relaxed));
        Deadlines { read: of(&self.read_ms), write: of(&self.write_ms) }
    }

    /// Returns the current maximum value size in bytes.
    #[must_use]
    pub fn value_max(&self) -> usize {
        usize::try_from(self.value_max.load(Relaxed)).unwrap_or(usize::MAX)
    }
}
