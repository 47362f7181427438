//! [`EmbeddedSettings`]: the directory, maximum size and synchronization of the store.

use std::{path::PathBuf, time::Duration};

/// Default of [`EmbeddedSettings::size_max_bytes`].
pub const SIZE_MAX_DEFAULT: u64 = 4 << 30;
/// Default interval of [`Sync::Interval`].
pub const SYNC_INTERVAL_DEFAULT: Duration = Duration::from_millis(100);
/// Minimum size limit in bytes; write buffers and journals use more space than a smaller store would.
pub const SIZE_MAX_LEAST: u64 = 1 << 20;

/// Settings of the embedded store.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// Directory of the store; created if missing.
    pub dir: PathBuf,
    /// Maximum size of all entries in bytes, as counted by [`Stats::bytes`](super::Stats::bytes).
    pub size_max_bytes: u64,
    /// Disk synchronization.
    pub sync: Sync,
}

impl EmbeddedSettings {
    /// Returns the default settings for `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), size_max_bytes: SIZE_MAX_DEFAULT, sync: Sync::Interval(SYNC_INTERVAL_DEFAULT) }
    }
}

/// Disk synchronization. A killed process loses no acknowledged write in either mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Periodic synchronization with this interval, at least 1 ms: a power failure loses at most the writes of one
    /// interval.
    Interval(Duration),
    /// Synchronization before each acknowledgment; concurrent writes share one.
    Always,
}
