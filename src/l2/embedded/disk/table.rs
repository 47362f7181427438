//! The ordered table of rows: the only file that uses fjall's API for data.
//!
//! One fjall database with one keyspace a generation of the store. One keyspace, because an idle one holds journals
//! back (fjall #288), and no `clear()` for the same reason: clearing the store begins a new generation.

use std::{
    fs, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, compaction::Leveled};

use crate::error::{CacheError, Kind, Result};

/// Blocks of the tree that are kept in memory, bytes. What does not fit stays in the page cache of the system.
const CACHE_BYTES: u64 = 64 << 20;
/// A write buffer of this size goes to the disk, bytes: at most five of them wait in memory.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Size of a sorted file, bytes. The upper levels are sized by it: at 64 MiB, fjall's default, they hold enough
/// tombstones to keep 3 times the live data on the disk under churn; at 8 MiB 1.6 times (measured, see the module).
const FILE_BYTES: u64 = 8 << 20;
/// Journals together, bytes: bounds the time of recovery and the disk they take.
const JOURNALS_BYTES: u64 = 128 << 20;
/// Less than this is left to the next writes, bytes.
const GARBAGE_BYTES: u64 = 32 << 20;
/// One flushes, one compacts.
const BACKGROUND_THREADS: usize = 2;
/// The keyspace.
const NAME: &str = "rows";

/// A generation of the store.
pub(crate) struct Table {
    path: PathBuf,
    database: Database,
    rows: Keyspace,
}

/// Rows to change in one commit.
pub(crate) struct Changes {
    batch: fjall::OwnedWriteBatch,
    rows: Keyspace,
}

impl Table {
    /// Opens the table in `path`, or creates it.
    ///
    /// # Errors
    /// What fjall says; a table that it cannot read may also make it panic.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, fjall::Error> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNALS_BYTES)
            .worker_threads(BACKGROUND_THREADS)
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
        Ok(Arc::new(Self { path: path.to_owned(), database, rows }))
    }

    /// Where it lives.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The newest value of a row. For the writer: half of a commit may be visible to others.
    pub(crate) fn get(&self, row: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.rows.get(row).map_err(|error| failed("read", &error))?.map(Bytes::from))
    }

    /// All rows at one instant, between two commits.
    pub(crate) fn view(&self) -> View<'_> {
        View { table: self, snapshot: self.database.snapshot() }
    }

    /// An empty list of changes.
    pub(crate) fn changes(&self) -> Changes {
        Changes { batch: self.database.batch(), rows: self.rows.clone() }
    }

    /// Hands what was committed to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncData).map_err(|error| failed("sync", &error))
    }

    /// Bytes on the disk, journals included.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }

    /// Whether files of compactions that are done take up room that [`Table::collect`] gives back.
    pub(crate) fn has_garbage(&self) -> bool {
        disk_bytes(self.rows.path()) > self.rows.disk_space() + GARBAGE_BYTES
    }

    /// fjall deletes the files that compactions have replaced only when a write buffer is full: after the last write
    /// of a busy time they would stay, up to twice the live data. So a buffer with little in it is made to count as
    /// full. What a write has put into the table before is needed for that.
    pub(crate) fn collect(&self) -> Result<()> {
        self.rows.rotate_memtable().map(|_| ()).map_err(|error| failed("flush", &error))
    }

    /// Whether writes come faster than the disk takes them: with four of these waiting fjall sleeps 100 ms a commit.
    pub(crate) fn is_behind(&self) -> bool {
        self.rows.sealed_memtable_count() >= 3
    }
}

/// Bytes of the files in a directory and its subdirectories; what vanishes meanwhile counts nothing.
fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        let file = entry.metadata()?;
        io::Result::Ok(if file.is_dir() { disk_bytes(&entry.path()) } else { file.len() })
    };
    entries.map(|entry| of(entry).unwrap_or(0)).sum()
}

fn failed(what: &str, error: &fjall::Error) -> CacheError {
    CacheError::new(Kind::Unavailable, format!("the embedded store could not {what}: {error}"))
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

    /// Makes all changes at one instant. They are in the hands of the system then; with `sync` they are on the disk.
    ///
    /// # Errors
    /// `Unknown` when the journal could not be written: the table takes no more writes until it is opened again, and
    /// what becomes of these changes shows then.
    pub(crate) fn commit(self, sync: bool) -> Result<()> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        self.batch.durability(Some(mode)).commit().map_err(|error| {
            if matches!(error, fjall::Error::Poisoned) {
                // It failed before: nothing was done now.
                return failed("write", &error);
            }
            CacheError::new(Kind::Unknown, format!("the embedded store failed in the middle of a write: {error}"))
        })
    }
}

/// All rows at one instant.
pub(crate) struct View<'a> {
    table: &'a Table,
    snapshot: fjall::Snapshot,
}

impl View<'_> {
    /// The value of a row.
    pub(crate) fn get(&self, row: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.snapshot.get(&self.table.rows, row).map_err(|error| failed("read", &error))?.map(Bytes::from))
    }

    /// Rows in ascending order.
    pub(crate) fn range(&self, from: Bound<&[u8]>, to: &[u8]) -> impl Iterator<Item = Result<(Bytes, Bytes)>> {
        self.snapshot.range::<&[u8], _>(&self.table.rows, (from, Bound::Excluded(to))).map(|row| {
            let (key, value) = row.into_inner().map_err(|error| failed("read", &error))?;
            Ok((Bytes::from(key), Bytes::from(value)))
        })
    }
}
