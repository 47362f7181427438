//! Opens and closes the generations of the store.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use super::{
    directory::Directory,
    journal_repair::{self, RECONCILE},
    reconcile::reconcile,
    rows::{TALLY_ROW, Tally},
    table::{Table, is_damage},
    table_lists,
};
use crate::{error::CacheError, l2::embedded::errors::OpenError};

/// Maximum number of steps to wait for reads that still use a table before it is closed; reads take milliseconds.
const RELEASE_STEPS: usize = 2_000;
const RELEASE_STEP: Duration = Duration::from_millis(5);
/// File that marks an incomplete table.
const UNFINISHED: &str = "UNFINISHED";
/// Number of rows that a rebuild commits at once.
const COPY_ROWS: usize = 512;

/// An open table.
pub(crate) struct Opened {
    pub(crate) table: Arc<Table>,
    /// Number of damaged pieces that were found and removed: blocks, ranges of journals, unreadable tables.
    pub(crate) damage: u64,
}

/// Whether a table has to be rebuilt from its readable rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rebuild {
    No,
    /// A background thread of fjall failed, for a reason that fjall does not report: damage, or a full disk.
    IfDamaged,
    /// A read has found damage.
    Always,
}

/// Reason why a table cannot be opened.
enum Failure {
    /// Its files are damaged.
    Damaged(String),
    /// The operating system refuses access. The table may open later.
    Other(String),
}

/// The directory, the next generation, and the threads that remove outdated generations.
pub(crate) struct Generations {
    directory: Directory,
    /// The next generation. A clear that had to create it would take about ten fsyncs: 50 to 220 ms.
    next: Option<Arc<Table>>,
    /// The thread that prepares the next generation.
    preparing: Option<JoinHandle<io::Result<Arc<Table>>>>,
    removing: Vec<JoinHandle<()>>,
}

impl Generations {
    /// Opens the directory and its current generation.
    pub(crate) fn open(path: &Path) -> Result<(Self, Opened), OpenError> {
        let mut generations =
            Self { directory: Directory::open(path)?, next: None, preparing: None, removing: Vec::new() };
        let opened = generations.open_current(Rebuild::No).map_err(|reason| {
            let dir = generations.directory.path().to_owned();
            match generations.probe() {
                Ok(()) => OpenError::Damaged { dir, reason },
                // Nothing is damaged: the disk is full or read-only.
                Err(source) => OpenError::NotUsable { dir, source },
            }
        })?;
        Ok((generations, opened))
    }

    /// Returns the id of the store.
    pub(crate) fn store_id(&self) -> u64 {
        self.directory.store_id()
    }

    /// Opens the current generation, or creates it if it is missing. Damage costs the damaged blocks of a table, the
    /// damaged batches of a journal, or, if fjall cannot open the table, all rows that are not in its journals.
    pub(crate) fn open_current(&mut self, rebuild: Rebuild) -> Result<Opened, String> {
        let path = self.directory.table();
        if !path.exists() || path.join(UNFINISHED).exists() {
            let table = build(&path).map_err(|error| error.to_string())?;
            return Ok(Opened { table, damage: 0 });
        }
        let damage = journal_repair::repair(&path).map_err(|error| error.to_string())?;
        let found = match rebuild {
            Rebuild::No => None,
            Rebuild::IfDamaged | Rebuild::Always => self.rebuild(&path, rebuild == Rebuild::Always)?,
        };
        let opened = match found {
            Some(opened) => opened,
            None => self.open_whole(&path)?,
        };
        Ok(Opened { damage: opened.damage + damage, ..opened })
    }

    /// Opens the current generation without background threads, which needs no disk space. Only for reads.
    pub(crate) fn open_for_reads(&self) -> Result<Arc<Table>, String> {
        open_table(&self.directory.table(), Table::open_still).map_err(|failure| match failure {
            Failure::Damaged(reason) | Failure::Other(reason) => reason,
        })
    }

    fn open_whole(&mut self, path: &Path) -> Result<Opened, String> {
        let table = match open_table(path, Table::open) {
            Ok(table) => table,
            Err(Failure::Damaged(reason)) => return self.begin_from_journals(&reason),
            Err(Failure::Other(reason)) => return Err(reason),
        };
        let mark = path.join(RECONCILE);
        if !mark.exists() {
            return Ok(Opened { table, damage: 0 });
        }
        match reconcile(&table).and_then(|removed| table.sync().map(|()| removed)) {
            Ok(removed) => {
                tracing::warn!(removed, "removed rows of the embedded store that contradicted others after damage");
                fs::remove_file(mark).map_err(|error| error.to_string())?;
                Ok(Opened { table, damage: 0 })
            }
            Err(_) if table.is_damaged() => {
                close(table);
                let rebuilt = self.rebuild(path, true)?;
                rebuilt.ok_or_else(|| "the table cannot be rebuilt".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Replaces the current generation by one with its readable rows. Returns `None` if nothing is damaged and `always` is
    /// false. Takes about 30 µs per entry.
    fn rebuild(&mut self, path: &Path, always: bool) -> Result<Option<Opened>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let old = match open_table(path, Table::open_still) {
            Ok(table) => table,
            Err(Failure::Damaged(reason)) => return self.begin_from_journals(&reason).map(Some),
            Err(Failure::Other(reason)) => return Err(reason),
        };
        let damage = old.each_readable(|_, _| Ok(())).map_err(|error| text(&error))?;
        if damage == 0 && !always {
            return Ok(None);
        }
        tracing::error!(
            blocks = damage,
            table = %path.display(),
            "the embedded store has damaged blocks; rebuilding it from the readable rows"
        );
        let new = self.take_next().map_err(|error| text(&error))?;
        let removed = copy(&old, &new).and_then(|()| reconcile(&new)).and_then(|removed| new.sync().map(|()| removed));
        let removed = removed.map_err(|error| text(&error))?;
        close(old);
        self.directory.advance().and_then(|()| self.directory.sync()()).map_err(|error| text(&error))?;
        if let Err(error) = fs::remove_dir_all(path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove a damaged table; it remains until the next start");
        }
        tracing::warn!(blocks = damage, removed, "rebuilt the embedded store; the keys of the damaged blocks are lost");
        Ok(Some(Opened { table: new, damage: damage.max(1) }))
    }

    /// Begins the next generation with the rows of the journals of a table that fjall cannot open. The table is set aside.
    fn begin_from_journals(&mut self, reason: &str) -> Result<Opened, String> {
        let (old, aside) = (self.directory.table(), self.directory.aside_damaged());
        if let Some(next) = self.next.take().or_else(|| self.prepared()?.ok()) {
            close(next);
        }
        let began = from_journals(&old, &self.directory.next_table()).and_then(|table| {
            self.directory.draft_of_next().write()?;
            Ok(table)
        });
        let table = began.map_err(|error| error.to_string())?;
        self.directory.advance().and_then(|()| self.directory.sync()()).map_err(|error| error.to_string())?;
        let moved = fs::rename(&old, &aside);
        tracing::error!(
            reason,
            aside = %aside.display(),
            is_kept = moved.is_ok(),
            "the embedded store is damaged and cannot be opened; set it aside and started with the writes of its journals"
        );
        Ok(Opened { table, damage: 1 })
    }

    /// Starts to prepare the next generation on another thread, unless it is prepared.
    ///
    /// # Errors
    /// The error of the last preparation, once; the caller decides when to try again.
    pub(crate) fn prepare_next(&mut self) -> io::Result<()> {
        if self.next.is_some() || self.preparing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(());
        }
        if let Some(prepared) = self.prepared() {
            self.next = Some(prepared?);
            return Ok(());
        }
        let (path, draft) = (self.directory.next_table(), self.directory.draft_of_next());
        let prepare = move || {
            let table = build(&path)?;
            draft.write()?;
            Ok(table)
        };
        self.preparing = Some(std::thread::Builder::new().name("l2-next".into()).spawn(prepare)?);
        Ok(())
    }

    /// Checks that the disk accepts writes.
    pub(crate) fn probe(&self) -> io::Result<()> {
        self.directory.probe()
    }

    /// Waits for the preparation; `None` if there is none.
    fn prepared(&mut self) -> Option<io::Result<Arc<Table>>> {
        let joined = self.preparing.take()?.join();
        Some(joined.unwrap_or_else(|panic| Err(io::Error::other(panic_text(panic.as_ref())))))
    }

    /// Returns the next generation: prepared, or created now.
    fn take_next(&mut self) -> io::Result<Arc<Table>> {
        if let Some(next) = self.next.take().or_else(|| self.prepared()?.ok()) {
            return Ok(next);
        }
        let table = build(&self.directory.next_table())?;
        self.directory.draft_of_next().write()?;
        Ok(table)
    }

    /// Makes the next generation the current one. It starts with `tally`, which the operating system has received before
    /// the generation is current: write numbers and ban numbers never restart, not even if the process is killed here.
    /// With `sync`, the change survives a power failure when this returns; otherwise, when the generation before has
    /// been [retired](Self::retire), at the latest.
    pub(crate) fn begin_next(&mut self, tally: Tally, sync: bool) -> io::Result<Arc<Table>> {
        let table = self.take_next()?;
        let mut changes = table.changes();
        changes.put(TALLY_ROW.into(), tally.encode());
        changes.commit(sync).map_err(io::Error::other)?;
        self.directory.advance()?;
        if sync {
            self.directory.sync()()?;
        }
        Ok(table)
    }

    /// Closes and deletes a generation that `current` has replaced, without blocking the caller.
    pub(crate) fn retire(&mut self, table: Arc<Table>, current: &Arc<Table>) {
        let path = table.path().to_owned();
        let (current, sync_directory) = (Arc::clone(current), self.directory.sync());
        let remove = move || {
            // In this order: after a power failure, FORMAT names a generation whose files and tally are on disk.
            let synced = current.sync().map_err(io::Error::other).and_then(|()| sync_directory());
            drop(current);
            close(table);
            if let Err(error) = synced.and_then(|()| fs::remove_dir_all(&path)) {
                tracing::warn!(
                    %error,
                    path = %path.display(),
                    "cannot remove an outdated generation of the embedded store; it remains until the next start"
                );
            }
        };
        self.removing.retain(|thread| !thread.is_finished());
        match std::thread::Builder::new().name("l2-retire".into()).spawn(remove) {
            Ok(thread) => self.removing.push(thread),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot start the removal of an outdated generation of the store; it remains until the next start"
                )
            }
        }
    }

    /// Closes a table when no thread reads from it any more.
    pub(crate) fn release(&self, table: Arc<Table>) {
        close(table);
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        if let Some(next) = self.next.take().or_else(|| self.prepared()?.ok()) {
            let path = next.path().to_owned();
            close(next);
            // It is empty; the next start removes it, too.
            let _removed = fs::remove_dir_all(path);
        }
        for thread in self.removing.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Waits for the other users of the table, so that it is closed on this thread and not on the thread of a reader.
fn close(mut table: Arc<Table>) {
    for _ in 0..RELEASE_STEPS {
        match Arc::try_unwrap(table) {
            Ok(last) => return drop(last),
            Err(used) => table = used,
        }
        std::thread::sleep(RELEASE_STEP);
    }
    tracing::warn!("a table of the embedded store is still being read and cannot be closed yet");
}

/// Creates an empty table. A mark file identifies an incomplete table: after a kill, the table is created again, not
/// opened.
fn build(path: &Path) -> io::Result<Arc<Table>> {
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    fs::create_dir(path)?;
    let mark = path.join(UNFINISHED);
    File::create(&mark)?;
    let table = open_table(path, Table::open).map_err(|failure| match failure {
        Failure::Damaged(reason) | Failure::Other(reason) => io::Error::other(reason),
    })?;
    fs::remove_file(&mark)?;
    // If the mark reappeared after a power failure, a table full of writes would count as incomplete.
    File::open(path)?.sync_all()?;
    Ok(table)
}

/// Opens a table. Returns an error for an unreadable table, also if fjall panics.
fn open_table(path: &Path, open: fn(&Path) -> Result<Arc<Table>, fjall::Error>) -> Result<Arc<Table>, Failure> {
    table_lists::mend(path).map_err(|error| match error.kind() == io::ErrorKind::InvalidData {
        true => Failure::Damaged(error.to_string()),
        false => Failure::Other(error.to_string()),
    })?;
    match catch_unwind(AssertUnwindSafe(|| open(path))) {
        Ok(Ok(table)) => Ok(table),
        Ok(Err(error)) if is_damage(&error) => Err(Failure::Damaged(error.to_string())),
        Ok(Err(error)) => Err(Failure::Other(error.to_string())),
        Err(panic) => Err(Failure::Damaged(panic_text(panic.as_ref()))),
    }
}

/// Creates a table in `new` with the rows of the journals of the table in `old`.
fn from_journals(old: &Path, new: &Path) -> io::Result<Arc<Table>> {
    close(build(new)?);
    for fresh in journal_repair::journals(new)? {
        fs::remove_file(fresh)?;
    }
    for journal in journal_repair::journals(old)? {
        if let Some(name) = journal.file_name() {
            fs::copy(&journal, new.join(name))?;
        }
    }
    let table = match open_table(new, Table::open) {
        Ok(table) => table,
        Err(Failure::Damaged(_)) => build(new)?,
        Err(Failure::Other(reason)) => return Err(io::Error::other(reason)),
    };
    reconcile(&table).and_then(|_removed| table.sync()).map_err(io::Error::other)?;
    Ok(table)
}

/// Copies the readable rows.
fn copy(old: &Table, new: &Table) -> Result<(), CacheError> {
    let (mut changes, mut pending) = (new.changes(), 0);
    old.each_readable(|row, value| {
        match value {
            Some(value) => changes.put(row, value),
            None => changes.remove(row),
        }
        pending += 1;
        if pending < COPY_ROWS {
            return Ok(());
        }
        pending = 0;
        std::mem::replace(&mut changes, new.changes()).commit(false)
    })?;
    changes.commit(false)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("its files are inconsistent").to_owned()
}
