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

use super::{directory::Directory, journal_repair, table::Table};
use crate::l2::embedded::errors::OpenError;

/// Maximum number of steps to wait for reads that still use a table before it is closed; reads take milliseconds.
const RELEASE_STEPS: usize = 2_000;
const RELEASE_STEP: Duration = Duration::from_millis(5);
/// File that marks an incomplete table.
const UNFINISHED: &str = "UNFINISHED";

/// The directory, and the threads that remove outdated generations.
pub(crate) struct Generations {
    directory: Directory,
    removing: Vec<JoinHandle<()>>,
}

impl Generations {
    /// Opens the directory and its current generation.
    pub(crate) fn open(path: &Path) -> Result<(Self, Arc<Table>), OpenError> {
        let generations = Self { directory: Directory::open(path)?, removing: Vec::new() };
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

    /// Creates the next generation and makes it the current one.
    pub(crate) fn begin_next(&mut self) -> io::Result<Arc<Table>> {
        let table = build(&self.directory.next_table())?;
        self.directory.advance()?;
        Ok(table)
    }

    /// Closes and deletes a generation that is no longer current, without blocking the caller.
    pub(crate) fn retire(&mut self, table: Arc<Table>) {
        let path = table.path().to_owned();
        let remove = move || {
            close(table);
            if let Err(error) = fs::remove_dir_all(&path) {
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
