//! Disk space that is reserved for removals: a file that is deleted when the disk is full.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Size in bytes of the reserve: the journal entries of about 500,000 removals.
const RESERVE_BYTES: u64 = 64 << 20;
/// Free space in bytes, in addition to the reserve, at which a full disk counts as usable again. Less would fill at once.
const USABLE_BYTES: u64 = 64 << 20;
/// Share of the maximum size of the store that the reserve takes at most.
const RESERVE_SHARE: u64 = 16;
/// Name of the file in the store's directory.
const NAME: &str = "RESERVE";

/// The reserve of a store.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// Returns the reserve of the store in `dir` with this maximum size. It is not allocated.
    pub(crate) fn new(dir: &Path, size_max: u64) -> Self {
        Self { path: dir.join(NAME), bytes: RESERVE_BYTES.min(size_max / RESERVE_SHARE) }
    }

    /// Allocates the reserve, unless it is allocated.
    pub(crate) fn allocate(&self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|file| file.len() == self.bytes) {
            return Ok(());
        }
        let allocated = File::create(&self.path).and_then(|file| {
            match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
                // The file system cannot reserve space: removals fail on a full disk.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
                result => Ok(result?),
            }
        });
        if allocated.is_err() {
            self.release();
        }
        allocated
    }

    /// Allocates the reserve if the disk has enough other free space for writes.
    pub(crate) fn refill(&self) -> io::Result<()> {
        let needed = self.bytes + USABLE_BYTES.min(self.bytes);
        let disk = statvfs(self.path.parent().unwrap_or(&self.path))?;
        // Checked first, because an allocation that fails may take all space for a moment.
        if disk.f_bavail.saturating_mul(disk.f_frsize) < needed {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.allocate()
    }

    /// Frees the space. Returns whether there was any.
    pub(crate) fn release(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }
}

impl Drop for Reserve {
    /// A store that is closed needs no reserve.
    fn drop(&mut self) {
        self.release();
    }
}
