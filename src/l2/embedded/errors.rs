//! Errors of the embedded store: failures to open it and rejected calls.

use std::{io, path::PathBuf, time::Duration};

use crate::error::{CacheError, Kind};

/// Time between two attempts to open a table that failed.
pub(super) const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// Reason why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the store.
    #[error("the store in {dir} is in use by another server; each server needs its own directory")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory cannot be created, read or written.
    #[error(
        "the store directory {dir} cannot be used: {source}; expected a directory that this user can write to, with \
         free space"
    )]
    NotUsable {
        /// The directory.
        dir: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The directory contains other files.
    #[error("{dir} is not empty and contains no store (found {found}); expected an empty or nonexistent directory")]
    NotAStore {
        /// The directory.
        dir: PathBuf,
        /// Name of a file in the directory.
        found: String,
    },
    /// A newer version of Terrace wrote the store.
    #[error(
        "the store in {dir} has format {found}, this version reads formats up to {known}; start a newer version \
         of Terrace, or move the directory away to start with an empty store"
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Format version of the store.
        found: u32,
        /// Newest known format version.
        known: u32,
    },
    /// The files of the store cannot be read.
    #[error(
        "the store in {dir} is damaged ({reason}); move the directory away to start with an empty store, or \
         restore a backup"
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// Description of the damage.
        reason: String,
    },
}

impl OpenError {
    /// Returns whether the store cannot be opened because its disk is full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::NotUsable { source, .. } if is_full(source))
    }
}

/// Returns whether the error reports that the disk is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns the error of a call that finds the queue full.
pub(super) fn overloaded() -> CacheError {
    CacheError::new(Kind::Overloaded, "the queue of the embedded store is full").retry_after(Duration::from_millis(20))
}

/// Returns the error of a call after the store was closed.
pub(super) fn stopped() -> CacheError {
    CacheError::new(Kind::Unavailable, "the embedded store is closed")
}

/// Returns the error of a write that needs space while the disk is full.
pub(super) fn disk_full() -> CacheError {
    let message = "the disk of the embedded store is full; only reads and removals are accepted";
    CacheError::new(Kind::Unavailable, message).retry_after(REOPEN_EVERY)
}

/// Returns the error of a write while the disk rejects writes, for example because its file system became read-only.
pub(super) fn read_only(reason: &io::Error) -> CacheError {
    let message = format!("the disk of the embedded store rejects writes ({reason}); only reads are accepted");
    CacheError::new(Kind::Unavailable, message).retry_after(REOPEN_EVERY)
}

/// Returns the error of a call while a failed store is being reopened.
pub(super) fn unavailable() -> CacheError {
    let message = "the embedded store has failed and is being reopened";
    CacheError::new(Kind::Unavailable, message).retry_after(REOPEN_EVERY)
}

/// Returns the error of a call that reached its deadline.
pub(super) fn late(deadline: Duration) -> CacheError {
    CacheError::new(Kind::DeadlineExceeded, format!("the embedded store did not answer within {deadline:?}"))
}
