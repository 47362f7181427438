//! Repairs a journal whose last writes were torn by a power failure.
//!
//! Pages that were not synced reach the disk in any order, so a page in the middle of the last batches may be missing
//! while their end is present. fjall discards a batch without an end, but refuses a journal that contains a batch with
//! a wrong checksum. Writes since the last sync may be lost (see the module), so the journal is truncated before the
//! first such batch. If more data follows than one sync interval can have written, the journal counts as damaged.
//!
//! Only fjall can locate the start of that batch. A journal that is truncated anywhere inside the batch opens; a
//! journal that contains the whole batch does not. Therefore, a binary search finds the position: about 26 attempts,
//! which take seconds, only after a power failure.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::table::Table;

/// Maximum size of a damaged journal end that the store discards at start: more than a disk writes within a sync interval of
/// 100 ms. Larger damage is an error.
const TORN_MAX_BYTES: u64 = 16 << 20;

/// Opens the table. If its journal is torn, the writes after the damage are discarded.
pub(crate) fn open(path: &Path) -> Result<Arc<Table>, fjall::Error> {
    let opened = Table::open(path);
    if let Err(fjall::Error::JournalRecovery(reason)) = opened { repair(path, reason) } else { opened }
}

fn repair(path: &Path, reason: fjall::JournalRecoveryError) -> Result<Arc<Table>, fjall::Error> {
    let Some(journal) = active_journal(path)? else { return Err(fjall::Error::JournalRecovery(reason)) };
    // fjall does not treat this name as a journal; the file keeps the removed bytes for inspection.
    let whole = journal.with_extension("torn");
    fs::copy(&journal, &whole)?;
    let written = written_bytes(&whole)?;
    let (mut opens, mut fails) = (0, written);
    while fails - opens > 1 {
        let middle = opens + (fails - opens) / 2;
        match open_cut(path, &whole, &journal, middle) {
            Ok(_) => opens = middle,
            Err(fjall::Error::JournalRecovery(_)) => fails = middle,
            Err(error) => return Err(error),
        }
    }
    if written - opens > TORN_MAX_BYTES {
        fs::copy(&whole, &journal)?;
        return Err(fjall::Error::JournalRecovery(reason));
    }
    tracing::warn!(
        journal = %journal.display(),
        bytes = written - opens,
        "discarded the last writes before a power failure because the journal is torn; \
         the original journal is kept as a .torn file"
    );
    open_cut(path, &whole, &journal, opens)
}

fn open_cut(path: &Path, whole: &Path, journal: &Path, length: u64) -> Result<Arc<Table>, fjall::Error> {
    fs::copy(whole, journal)?;
    File::options().write(true).open(journal)?.set_len(length)?;
    Table::open(path)
}

/// Returns the journal with the highest number. The other journals were synced when they were sealed.
fn active_journal(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (true, Some(number)) = (is_journal, number) {
            newest = newest.into_iter().chain([(number, path)]).max();
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Returns the number of bytes up to the last nonzero byte, because journals are preallocated.
fn written_bytes(path: &Path) -> io::Result<u64> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1))
}
