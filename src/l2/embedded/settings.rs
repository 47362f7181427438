//! [`EmbeddedSettings`]: where the store is, how large it may become, when it syncs.

use std::{path::PathBuf, time::Duration};

/// The default of [`EmbeddedSettings::size_max_bytes`].
pub const SIZE_MAX_DEFAULT: u64 = 4 << 30;
/// The default interval of [`Sync::Interval`].
pub const SYNC_INTERVAL_DEFAULT: Duration = Duration::from_millis(100);
/// The smallest bound that is accepted, bytes: write buffers and journals take more than a smaller store would.
pub const SIZE_MAX_LEAST: u64 = 1 << 20;

/// Settings of the embedded store.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// Its directory; created where missing.
    pub dir: PathBuf,
    /// Most bytes of entries, as [`Stats::bytes`](super::Stats::bytes) counts them.
    pub size_max_bytes: u64,
    /// When writes are forced to the disk.
    pub sync: Sync,
}

impl EmbeddedSettings {
    /// The defaults, in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), size_max_bytes: SIZE_MAX_DEFAULT, sync: Sync::Interval(SYNC_INTERVAL_DEFAULT) }
    }
}

/// When writes are forced to the disk. A killed process loses no answered write either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Again and again after this time, at least 1 ms: a power cut loses no more than the writes since.
    Interval(Duration),
    /// Before each answer; concurrent writes share one.
    Always,
}
