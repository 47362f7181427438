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
    journal_repair,
    rows::{TALLY_ROW, Tally},
    table::Table,
};
use crate::l2::embedded::errors::OpenError;

/// Maximum number of steps to wait for reads that still use a table before it is closed; reads take milliseconds.
const RELEASE_STEPS: usize = 2_000;
const RELEASE_STEP: Duration = Duration::from_millis(5);
/// File that marks an incomplete table.
const UNFINISHED: &str = "UNFINISHED";

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
    pub(crate) fn open(path: &Path) -> Result<(Self, Arc<Table>), OpenError> {
        let generations = Self { directory: Directory::open(path)?, next: None, preparing: None, removing: Vec::new() };
        let table = generations
            .open_current()
            .map_err(|reason| OpenError::Damaged { dir: generations.directory.path().to_owned(), reason })?;
        Ok((generations, table))
    }

    /// Opens the current generation, or creates it if it is missing.
    pub(crate) fn open_current(&self) -> Result<Arc<Table>, String> {
        let path = self.directory.table();
        if path.exists() && !path.join(UNFINISHED).exists() {
            return open_table(&path);
        }
        build(&path).map_err(|error| error.to_string())
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
    let table = open_table(path).map_err(io::Error::other)?;
    fs::remove_file(&mark)?;
    // If the mark reappeared after a power failure, a table full of writes would count as incomplete.
    File::open(path)?.sync_all()?;
    Ok(table)
}

/// Opens a table. Returns an error for an unreadable table, also if fjall panics.
fn open_table(path: &Path) -> Result<Arc<Table>, String> {
    match catch_unwind(AssertUnwindSafe(|| journal_repair::open(path))) {
        Ok(Ok(table)) => Ok(table),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(panic_text(panic.as_ref())),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("its files are inconsistent").to_owned()
}
