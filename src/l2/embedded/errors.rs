//! Errors of the embedded store: why it cannot be opened, and why it refuses calls.

use std::{io, path::PathBuf, time::Duration};

use crate::error::{CacheError, Kind};

/// Time between two attempts to open a table that failed.
pub(super) const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store in {dir} is in use by another server; give each server a directory of its own")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It cannot be created, read or written.
    #[error("the store directory {dir} cannot be used: {source}; it must be a directory that this user may write")]
    NotUsable {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{dir} is not empty and holds no store (it contains {found}); name an empty directory or a new one")]
    NotAStore {
        /// The directory.
        dir: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// A newer version of Terrace wrote it.
    #[error(
        "the store in {dir} has format {found}, this version reads format {known}; start the newer version of Terrace, \
         or move the directory away to begin with an empty store"
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// The format that was found.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// Its files cannot be read.
    #[error(
        "the store in {dir} is damaged ({reason}); move the directory away to begin with an empty store, or restore a copy"
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What was found.
        reason: String,
    },
}

/// Error of a call that meets a full queue.
pub(super) fn overloaded() -> CacheError {
    CacheError::new(Kind::Overloaded, "too many calls wait for the embedded store")
        .retry_after(Duration::from_millis(20))
}

/// Error of a call after the store was closed.
pub(super) fn stopped() -> CacheError {
    CacheError::new(Kind::Unavailable, "the embedded store is closed")
}

/// Error of a call while a failed table is not open again.
pub(super) fn unavailable() -> CacheError {
    let message = "the embedded store has failed and is being opened again";
    CacheError::new(Kind::Unavailable, message).retry_after(REOPEN_EVERY)
}
