//! The directory of the store: its lock, its format version, its generations.
//!
//! ```text
//! LOCK          held while a server has the store open
//! FORMAT        "terrace-store 1" and the number of the current generation; replaced by rename
//! table-7/      the current generation
//! aside-v0-7/   one of an older format that cannot be read any more; left to the operator
//! ```
//! A clear builds the next generation beside the current one and then names it in FORMAT. What is neither current nor
//! set aside is removed when the store is opened.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::l2::embedded::errors::OpenError;

/// The format that this version writes. Bump it when rows change, and say in [`Directory::open`] what becomes of the
/// older one.
const FORMAT_VERSION: u32 = 1;
const FORMAT_NAME: &str = "terrace-store";
const LOCK_FILE: &str = "LOCK";
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_DRAFT: &str = "FORMAT.new";
const TABLE_PREFIX: &str = "table-";
const ASIDE_PREFIX: &str = "aside-";

/// A directory that this process alone has open.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// The lock goes with the file.
    _lock: File,
    /// The current generation.
    generation: u64,
}

impl Directory {
    /// Creates the directory where it is missing, locks it, reads its version and removes what is left over.
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

    /// Where the current generation lives.
    pub(crate) fn table(&self) -> PathBuf {
        self.table_of(self.generation)
    }

    /// Where the next generation will live.
    pub(crate) fn next_table(&self) -> PathBuf {
        self.table_of(self.generation + 1)
    }

    /// Makes the next generation, which stands in its place already, the current one.
    pub(crate) fn advance(&mut self) -> io::Result<()> {
        self.write_format(self.generation + 1)?;
        self.generation += 1;
        Ok(())
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn table_of(&self, generation: u64) -> PathBuf {
        self.path.join(format!("{TABLE_PREFIX}{generation}"))
    }

    /// Version and generation; `None` in a directory that holds no store yet.
    fn read_format(&self) -> Result<Option<(u32, u64)>, OpenError> {
        let text = match fs::read_to_string(self.path.join(FORMAT_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(self.damaged("FORMAT is not text")),
            Err(error) => return Err(self.unusable(error)),
        };
        let mut words = text.split_ascii_whitespace();
        let name = words.next();
        let version = words.next().and_then(|word| word.parse().ok());
        let generation = words.next().and_then(|word| word.parse().ok());
        match (name, version, generation) {
            (Some(FORMAT_NAME), Some(version), Some(generation)) => Ok(Some((version, generation))),
            // A newer version may have put something else behind its number.
            (Some(FORMAT_NAME), Some(version), None) if version > FORMAT_VERSION => Ok(Some((version, 0))),
            _ => Err(self.damaged("FORMAT does not say which version this is")),
        }
    }

    /// Makes an empty directory a store; any other is not ours.
    fn begin(&self) -> Result<(), OpenError> {
        for name in self.names().map_err(|error| self.unusable(error))? {
            if name != LOCK_FILE && name != FORMAT_DRAFT {
                return Err(OpenError::NotAStore { dir: self.path.clone(), found: name });
            }
        }
        self.write_format(1).map_err(|error| self.unusable(error))
    }

    /// Puts what an older version wrote out of the way and begins anew.
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
            "the embedded store was written in format {version}, which is no longer read; it was set aside and can be deleted"
        );
        Ok(())
    }

    fn write_format(&self, generation: u64) -> io::Result<()> {
        let draft = self.path.join(FORMAT_DRAFT);
        let mut file = File::create(&draft)?;
        writeln!(file, "{FORMAT_NAME} {FORMAT_VERSION} {generation}")?;
        file.sync_all()?;
        fs::rename(&draft, self.path.join(FORMAT_FILE))?;
        File::open(&self.path)?.sync_all()
    }

    /// Generations that are not current: of a clear, or of a start that was killed.
    fn remove_leftovers(&self) {
        let current = self.table();
        for name in self.names().unwrap_or_default() {
            let path = self.path.join(&name);
            if name.starts_with(TABLE_PREFIX) && path != current {
                let removed = fs::remove_dir_all(&path);
                tracing::info!(path = %path.display(), ok = removed.is_ok(), "removed what an earlier run left over");
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

/// Creates and locks; held until the file is dropped, also by a crash.
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
