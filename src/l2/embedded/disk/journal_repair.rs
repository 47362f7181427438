//! Repairs damaged journals before fjall reads them: after a power failure whose last pages did not reach the disk, or
//! after bit rot.
//!
//! A damaged batch is removed and the later ones are kept. A damaged sequence number is corrected. The repaired journal is a copy that replaces the original with
//! one rename, so a kill at any time leaves the original or the complete copy. The original keeps the extension `torn`,
//! for inspection. The mark [`RECONCILE`] is created before: the rows of a lost batch may contradict the remaining rows,
//! which [`reconcile`](super::reconcile) corrects after the start, also after a start that was killed.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::journal::{self, Scan};

/// File that marks a table whose rows may contradict one another.
pub(super) const RECONCILE: &str = "RECONCILE";

/// Bytes of a journal that are compared with zeros at a time.
const CHUNK_BYTES: u64 = 64 << 10;

/// Repairs the journals of the table in `path`. Returns the number of damaged ranges.
///
/// # Errors
/// I/O errors. No journal is changed in part.
pub(super) fn repair(path: &Path) -> io::Result<u64> {
    let mut damage = 0;
    for journal in journals(path)? {
        let bytes = written(&journal)?;
        let scan = journal::scan(&bytes);
        if scan.damaged.is_empty() && scan.corrected.is_empty() {
            continue;
        }
        File::create(path.join(RECONCILE))?.sync_all()?;
        replace(path, &journal, &bytes, &scan)?;
        damage += scan.damaged.len() as u64;
        if !scan.corrected.is_empty() {
            tracing::error!(
                journal = %journal.display(),
                batches = scan.corrected.len(),
                "corrected damaged sequence numbers in a journal of the embedded store; nothing is lost by them"
            );
        }
        if scan.damaged.is_empty() {
            continue;
        }
        tracing::error!(
            journal = %journal.display(),
            lost_bytes = scan.damaged.iter().map(ExactSizeIterator::len).sum::<usize>(),
            lost_ranges = scan.damaged.len(),
            kept_batches = scan.batches.len(),
            "a journal of the embedded store is damaged; its damaged writes are lost, and the original is kept as a \
             .torn file"
        );
    }
    Ok(damage)
}

fn replace(path: &Path, journal: &Path, bytes: &[u8], scan: &Scan) -> io::Result<()> {
    let (copy, whole) = (journal.with_extension("repaired"), journal.with_extension("torn"));
    let mut bytes = bytes.to_vec();
    for (at, number) in &scan.corrected {
        bytes[*at..at + number.len()].copy_from_slice(number);
    }
    let mut file = File::create(&copy)?;
    for batch in &scan.batches {
        file.write_all(&bytes[batch.clone()])?;
    }
    file.sync_all()?;
    match fs::remove_file(&whole) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::hard_link(journal, &whole)?;
    fs::rename(&copy, journal)?;
    File::open(path)?.sync_all()
}

/// Reads a journal without most of the zeros at its end: journals are preallocated with 64 MiB.
fn written(journal: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(journal)?;
    let (mut end, mut chunk) = (file.metadata()?.len(), Vec::new());
    let zeros = vec![0; CHUNK_BYTES as usize];
    while end > 0 {
        let start = end.saturating_sub(CHUNK_BYTES);
        chunk.resize((end - start) as usize, 0);
        file.read_exact_at(&mut chunk, start)?;
        if chunk != zeros[..chunk.len()] {
            break;
        }
        end = start;
    }
    let mut bytes = vec![0; usize::try_from(end).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Returns the journals of a table, oldest first.
pub(super) fn journals(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (true, Some(number)) = (is_journal, number) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
