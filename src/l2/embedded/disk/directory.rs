//! The directory of the store: its lock, its format version and its generations.
//!
//! ```text
//! LOCK          locked while a server has the store open
//! FORMAT        "terrace-store 1", the number of the current generation, and a checksum; replaced by rename
//! FORMAT.new    the next FORMAT
//! ID            the store id, 16 hexadecimal digits; replaced by rename
//! ID.new        the next ID
//! table-7/      the current generation
//! table-8/      the next generation: empty, prepared in advance
//! aside-v0-7/   a generation in an older, unreadable format, kept for the operator
//! aside-damaged-7/   a generation that could not be opened, kept for the operator
//! ```
//! The next generation is prepared next to the current one, with its FORMAT file; a clear renames that file. Generations
//! that are neither current nor set aside are removed when the store is opened.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_64;

use crate::l2::{
    codec::{hex_of, number_in_hex},
    embedded::errors::OpenError,
};

/// Format version that this code writes. Increment it when rows change, and handle the older version in
/// [`Directory::open`].
const FORMAT_VERSION: u32 = 1;
const FORMAT_NAME: &str = "terrace-store";
const LOCK_FILE: &str = "LOCK";
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_DRAFT: &str = "FORMAT.new";
const ID_FILE: &str = "ID";
const ID_DRAFT: &str = "ID.new";
/// File that [`Directory::probe`] writes.
const PROBE_FILE: &str = "PROBE";
/// Size in bytes of the probe: a few groups of writes.
const PROBE_BYTES: usize = 1 << 20;
const TABLE_PREFIX: &str = "table-";
const ASIDE_PREFIX: &str = "aside-";

/// A directory that only this process has open.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Dropping the file releases the lock.
    _lock: File,
    /// The current generation.
    generation: u64,
}

/// A FORMAT file that is not in effect.
#[derive(Debug)]
pub(crate) struct Draft {
    path: PathBuf,
    generation: u64,
}

impl Draft {
    /// Writes and syncs the draft.
    pub(crate) fn write(&self) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        let text = format!("{FORMAT_NAME} {FORMAT_VERSION} {}", self.generation);
        writeln!(file, "{text} {:016x}", xxh3_64(text.as_bytes()))?;
        file.sync_all()
    }
}

impl Directory {
    /// Creates the directory if it is missing, locks it, reads its format version and removes leftovers.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let lock = lock(path)?;
        let mut directory = Self { path: path.to_owned(), _lock: lock, generation: 1 };
        match directory.read_format()? {
            None => directory.begin()?,
            Some((FORMAT_VERSION, generation)) => directory.generation = generation,
            Some((older, generation)) if older < FORMAT_VERSION => directory.set_aside(older, generation)?,
            Some((newer, _)) => {
                return Err(OpenError::Newer { dir: path.to_owned(), found: newer, known: FORMAT_VERSION });
            }
        }
        directory.remove_leftovers();
        Ok(directory)
    }

    /// Returns the path of the current generation.
    pub(crate) fn table(&self) -> PathBuf {
        self.table_of(self.generation)
    }

    /// Returns the path of the next generation.
    pub(crate) fn next_table(&self) -> PathBuf {
        self.table_of(self.generation + 1)
    }

    /// Makes the next generation, which must exist on disk, the current one. Its draft must have been written
    /// ([`draft_of_next`](Self::draft_of_next)). Takes one rename; [`sync`](Self::sync) makes it survive a power failure.
    pub(crate) fn advance(&mut self) -> io::Result<()> {
        fs::rename(self.path.join(FORMAT_DRAFT), self.path.join(FORMAT_FILE))?;
        self.generation += 1;
        Ok(())
    }

    /// Returns the draft of FORMAT for the next generation.
    pub(crate) fn draft_of_next(&self) -> Draft {
        Draft { path: self.path.join(FORMAT_DRAFT), generation: self.generation + 1 }
    }

    /// Returns the path to which the current generation is renamed if it is unreadable.
    pub(crate) fn aside_damaged(&self) -> PathBuf {
        self.path.join(format!("{ASIDE_PREFIX}damaged-{}", self.generation))
    }

    /// Returns a function that makes the last [`advance`](Self::advance) survive a power failure.
    pub(crate) fn sync(&self) -> impl FnOnce() -> io::Result<()> + Send + 'static {
        let path = self.path.clone();
        move || File::open(path)?.sync_all()
    }

    /// Checks that the disk accepts writes.
    pub(crate) fn probe(&self) -> io::Result<()> {
        let path = self.path.join(PROBE_FILE);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.sync_all()
        });
        let removed = fs::remove_file(&path);
        written.and(removed)
    }

    /// Returns the store id, which is drawn when the store is first opened.
    pub(crate) fn store_id(&self) -> u64 {
        let stored = fs::read(self.path.join(ID_FILE)).ok();
        if let Some(id) = stored.and_then(|text| number_in_hex(text.trim_ascii_end())).filter(|id| *id != 0) {
            return id;
        }
        let id = fastrand::u64(1..);
        if let Err(error) = self.write_id(id) {
            tracing::warn!(%error, "cannot write the store id; the next start draws another one");
        }
        id
    }

    fn write_id(&self, id: u64) -> io::Result<()> {
        let draft = self.path.join(ID_DRAFT);
        let mut file = File::create(&draft)?;
        writeln!(file, "{}", hex_of(id))?;
        file.sync_all()?;
        fs::rename(draft, self.path.join(ID_FILE))?;
        self.sync()()
    }

    /// Returns the path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn table_of(&self, generation: u64) -> PathBuf {
        self.path.join(format!("{TABLE_PREFIX}{generation}"))
    }

    /// Returns format version and generation; `None` for a directory without a store.
    fn read_format(&self) -> Result<Option<(u32, u64)>, OpenError> {
        let text = match fs::read_to_string(self.path.join(FORMAT_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(self.damaged("the FORMAT file is not text"));
            }
            Err(error) => return Err(self.unusable(error)),
        };
        if let Some((contents, sum)) = text.trim_end().rsplit_once(' ')
            && contents.split(' ').count() == 3
            && u64::from_str_radix(sum, 16) != Ok(xxh3_64(contents.as_bytes()))
        {
            // A different number would name another generation, and the current one would be removed.
            return Err(self.damaged("the FORMAT file has a wrong checksum"));
        }
        let mut words = text.split_ascii_whitespace();
        let name = words.next();
        let version = words.next().and_then(|word| word.parse().ok());
        let generation = words.next().and_then(|word| word.parse().ok());
        match (name, version, generation) {
            (Some(FORMAT_NAME), Some(version), Some(generation)) => Ok(Some((version, generation))),
            // A newer version may use another syntax after its version number.
            (Some(FORMAT_NAME), Some(version), None) if version > FORMAT_VERSION => Ok(Some((version, 0))),
            _ => Err(self.damaged("the FORMAT file contains no format version")),
        }
    }

    /// Initializes a store in an empty directory; returns an error for a directory with other files.
    fn begin(&self) -> Result<(), OpenError> {
        for name in self.names().map_err(|error| self.unusable(error))? {
            if ![LOCK_FILE, FORMAT_DRAFT, ID_FILE, ID_DRAFT].contains(&name.as_str()) {
                return Err(OpenError::NotAStore { dir: self.path.clone(), found: name });
            }
        }
        self.write_format(1).map_err(|error| self.unusable(error))
    }

    /// Renames the generation of an older version and starts an empty one.
    fn set_aside(&mut self, version: u32, generation: u64) -> Result<(), OpenError> {
        let aside = self.path.join(format!("{ASIDE_PREFIX}v{version}-{generation}"));
        let table = self.table_of(generation);
        if table.exists() {
            fs::rename(&table, &aside).map_err(|error| self.unusable(error))?;
        }
        self.generation = generation + 1;
        self.write_format(self.generation).map_err(|error| self.unusable(error))?;
        tracing::warn!(
            aside = %aside.display(),
            "set aside an embedded store of the unsupported format {version} and started an empty one; \
             the old files can be deleted"
        );
        Ok(())
    }

    fn write_format(&self, generation: u64) -> io::Result<()> {
        let path = self.path.join(FORMAT_DRAFT);
        Draft { path: path.clone(), generation }.write()?;
        fs::rename(path, self.path.join(FORMAT_FILE))?;
        self.sync()()
    }

    /// Removes generations that are not current: leftovers of a clear or of an interrupted start.
    fn remove_leftovers(&self) {
        let current = self.table();
        for name in self.names().unwrap_or_default() {
            let path = self.path.join(&name);
            if name.starts_with(TABLE_PREFIX) && path != current {
                let removed = fs::remove_dir_all(&path);
                tracing::info!(path = %path.display(), ok = removed.is_ok(), "cleanup of an outdated store generation");
            }
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn unusable(&self, source: io::Error) -> OpenError {
        OpenError::NotUsable { dir: self.path.clone(), source }
    }

    fn damaged(&self, reason: &str) -> OpenError {
        OpenError::Damaged { dir: self.path.clone(), reason: reason.to_owned() }
    }
}

/// Creates and locks the lock file. The lock is released when the file is dropped, also by a crash.
fn lock(path: &Path) -> Result<File, OpenError> {
    let unusable = |source| OpenError::NotUsable { dir: path.to_owned(), source };
    fs::create_dir_all(path).map_err(unusable)?;
    let file = File::options().create(true).truncate(false).write(true).open(path.join(LOCK_FILE)).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}
