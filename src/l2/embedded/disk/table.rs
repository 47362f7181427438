//! The ordered table of rows: the only file that uses fjall's API for data.
//!
//! Each generation of the store is one fjall database with one keyspace. There is only one keyspace because an idle
//! keyspace prevents the deletion of journals (fjall #288). For the same reason, clearing the store does not use
//! `clear()` but starts a new generation.

use std::{
    fs, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, compaction::Leveled};

use crate::error::{CacheError, Kind, Result};

/// Maximum number of table files that are kept open.
const CACHED_FILES_MAX: usize = 512;
/// Size in bytes of the cache for blocks of the tree. Other blocks may be in the page cache of the operating system.
const CACHE_BYTES: u64 = 64 << 20;
/// Size in bytes at which a write buffer is flushed to disk; at most five write buffers are in memory.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Size in bytes of a sorted file, which also determines the size of the upper levels. At 64 MiB, fjall's default, they
/// contain enough tombstones to use 3 times the live data on disk under churn; at 8 MiB 1.6 times (measured, see the
/// module).
const FILE_BYTES: u64 = 8 << 20;
/// Maximum size in bytes of all journals; bounds the recovery time and the disk space.
const JOURNALS_BYTES: u64 = 128 << 20;
/// Garbage in bytes that is too small for a collection; the next writes will remove it.
const GARBAGE_BYTES: u64 = 32 << 20;
/// Number of background threads: one flushes, the other compacts.
const BACKGROUND_THREADS: usize = 2;
/// Maximum number of damaged blocks in a row after which the rest of a file is skipped: its index is damaged.
const DAMAGED_BLOCKS_MAX: u64 = 10_000;
/// Name of the keyspace.
const NAME: &str = "rows";

/// A generation of the store.
pub(crate) struct Table {
    path: PathBuf,
    database: Database,
    rows: Keyspace,
    /// True once a read has found damage, or a background thread has failed.
    damaged: AtomicBool,
}

/// Row changes that are committed together.
pub(crate) struct Changes {
    batch: fjall::OwnedWriteBatch,
    rows: Keyspace,
}

impl Table {
    /// Opens the table in `path`, or creates it.
    ///
    /// # Errors
    /// The error of fjall; a table that fjall cannot read may also make it panic.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, fjall::Error> {
        Self::open_with(path, BACKGROUND_THREADS)
    }

    /// Opens the table in `path` without compaction, which ends at the first damaged block and then rejects all writes.
    pub(crate) fn open_still(path: &Path) -> Result<Arc<Self>, fjall::Error> {
        Self::open_with(path, 0)
    }

    fn open_with(path: &Path, threads: usize) -> Result<Arc<Self>, fjall::Error> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNALS_BYTES)
            .max_cached_files(Some(CACHED_FILES_MAX))
            .worker_threads_unchecked(threads)
            .manual_journal_persist(true)
            .open()?;
        let compaction = Leveled::default().with_table_target_size(FILE_BYTES);
        let options = || {
            KeyspaceCreateOptions::default()
                .manual_journal_persist(true)
                .max_memtable_size(MEMTABLE_BYTES)
                .compaction_strategy(Arc::new(compaction))
        };
        let rows = database.keyspace(NAME, options)?;
        Ok(Arc::new(Self { path: path.to_owned(), database, rows, damaged: AtomicBool::new(false) }))
    }

    /// Returns the path of the table.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the newest value of a row. Only for the writer: other threads could see half of a commit.
    pub(crate) fn get(&self, row: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.rows.get(row).map_err(|error| self.read_failed(&error))?.map(Bytes::from))
    }

    /// Returns true once a read has found damaged data.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Relaxed)
    }

    fn read_failed(&self, error: &fjall::Error) -> CacheError {
        if is_damage(error) {
            self.damaged.store(true, Relaxed);
        }
        failed("read", error)
    }

    /// Passes all readable rows to `take`, older writes of a row before newer ones; `None` is a removal. Returns the number
    /// of damaged blocks, whose rows are skipped: 4 KiB of rows each, before compression. The table must be opened with
    /// [`open_still`](Self::open_still).
    pub(crate) fn each_readable(&self, mut take: impl FnMut(Bytes, Option<Bytes>) -> Result<()>) -> Result<u64> {
        let tree = &self.rows.tree;
        // The rows of the journal are in memory only: they become the newest file.
        tree.rotate_memtable();
        let flushed = tree.flush(&tree.get_flush_lock(), 0);
        flushed.map_err(|error| failed("flush", &fjall::Error::Storage(error)))?;
        let version = tree.current_version();
        // The newest files come first.
        let files: Vec<_> = version.iter_tables().collect();
        let mut damaged = 0;
        for file in files.into_iter().rev() {
            let (mut last, mut in_a_row) = (None, 0);
            for item in file.iter() {
                let Ok(item) = item else {
                    (damaged, in_a_row) = (damaged + 1, in_a_row + 1);
                    if in_a_row < DAMAGED_BLOCKS_MAX { continue } else { break }
                };
                in_a_row = 0;
                let row = Bytes::from(item.key.user_key.clone());
                // Versions of a row follow one another, newest first.
                if last.as_ref() == Some(&row) {
                    continue;
                }
                last = Some(row.clone());
                take(row, (!item.is_tombstone()).then(|| Bytes::from(item.value)))?;
            }
        }
        Ok(damaged)
    }

    /// Writes the rows in memory to a file and waits for it.
    #[cfg(test)]
    pub(crate) fn flush(&self) {
        self.rows.rotate_memtable_and_wait().expect("a flush");
    }

    /// Returns a consistent view of all rows, between two commits.
    pub(crate) fn view(&self) -> View<'_> {
        View { table: self, snapshot: self.database.snapshot() }
    }

    /// Returns an empty list of changes.
    pub(crate) fn changes(&self) -> Changes {
        Changes { batch: self.database.batch(), rows: self.rows.clone() }
    }

    /// Syncs all committed changes to disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncData).map_err(|error| failed("sync", &error))
    }

    /// Returns the size of all files in bytes, including journals.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }

    /// Returns true if outdated files occupy enough space for a [`Table::collect`].
    pub(crate) fn has_garbage(&self) -> bool {
        disk_bytes(self.rows.path()) > self.rows.disk_space() + GARBAGE_BYTES
    }

    /// Flushes a write buffer early to reclaim disk space. fjall deletes files that a compaction has replaced only when
    /// a write buffer is full. After the last write of a busy time, they would occupy up to twice the live data. The
    /// buffer must contain at least one write.
    pub(crate) fn collect(&self) -> Result<()> {
        self.rows.rotate_memtable().map(|_| ()).map_err(|error| failed("flush", &error))
    }

    /// Returns true if writes arrive faster than the disk accepts them. With four sealed buffers, fjall sleeps 100 ms
    /// per commit.
    pub(crate) fn is_behind(&self) -> bool {
        self.rows.sealed_memtable_count() >= 3
    }
}

/// Returns the size in bytes of the files in a directory and its subdirectories; ignores files that disappear
/// meanwhile.
fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        let file = entry.metadata()?;
        io::Result::Ok(if file.is_dir() { disk_bytes(&entry.path()) } else { file.len() })
    };
    entries.map(|entry| of(entry).unwrap_or(0)).sum()
}

/// Returns true for an error that does not go away: the data is damaged. Errors of the operating system may go away,
/// except for failed sectors.
pub(crate) fn is_damage(error: &fjall::Error) -> bool {
    let of_io = |error: &io::Error| {
        const EIO: i32 = 5;
        const EINVAL: i32 = 22;
        // Errors without a number are of the decoder. A wrong position in a file is invalid.
        matches!(error.raw_os_error(), None | Some(EIO | EINVAL)) || error.kind() == io::ErrorKind::NotFound
    };
    if let fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) = error {
        return of_io(error);
    }
    !matches!(error, fjall::Error::Poisoned | fjall::Error::Locked)
}

fn failed(what: &str, error: &fjall::Error) -> CacheError {
    CacheError::new(Kind::Unavailable, format!("the embedded store cannot {what}: {error}"))
}

impl Changes {
    /// Sets a row.
    pub(crate) fn put(&mut self, row: Bytes, value: Bytes) {
        self.batch.insert(&self.rows, row, value);
    }

    /// Removes a row.
    pub(crate) fn remove(&mut self, row: Bytes) {
        self.batch.remove(&self.rows, row);
    }

    /// Commits all changes atomically. The operating system has received them when this returns; with `sync` they are
    /// on disk.
    ///
    /// # Errors
    /// `Unknown` if the journal cannot be written: the table accepts no more writes until it is reopened, which
    /// determines whether these changes took effect.
    pub(crate) fn commit(self, sync: bool) -> Result<()> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        self.batch.durability(Some(mode)).commit().map_err(|error| {
            if matches!(error, fjall::Error::Poisoned) {
                // An earlier commit failed: this one changed nothing.
                return failed("write", &error);
            }
            CacheError::new(Kind::Unknown, format!("the embedded store failed during a write: {error}"))
        })
    }
}

/// A consistent view of all rows at one instant.
pub(crate) struct View<'a> {
    table: &'a Table,
    snapshot: fjall::Snapshot,
}

impl View<'_> {
    /// Returns the value of a row.
    pub(crate) fn get(&self, row: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.snapshot.get(&self.table.rows, row).map_err(|error| self.table.read_failed(&error))?.map(Bytes::from))
    }

    /// Returns rows in ascending order.
    pub(crate) fn range(&self, from: Bound<&[u8]>, to: &[u8]) -> impl Iterator<Item = Result<(Bytes, Bytes)>> {
        self.snapshot.range::<&[u8], _>(&self.table.rows, (from, Bound::Excluded(to))).map(|row| {
            let (key, value) = row.into_inner().map_err(|error| self.table.read_failed(&error))?;
            Ok((Bytes::from(key), Bytes::from(value)))
        })
    }
}
