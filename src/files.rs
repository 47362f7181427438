//! Reads of small files that an operator names: with a size limit and a deadline.
//!
//! A path may name a device, a FIFO or a file of a dead network share. Each of them can block a read, and the caller is
//! often the thread that also handles signals.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use rustix::fs::OFlags;

/// Deadline for reading a configuration file, password, certificate or private key.
const FILE_DEADLINE: Duration = Duration::from_secs(2);
/// Maximum size of a file that contains a password.
const SECRET_FILE_MAX_BYTES: u64 = 64 * 1024;
/// Maximum number of files that are read at the same time; further reads are refused. A read that never returns keeps its
/// thread.
const READS_MAX: usize = 32;

/// Number of reads that have not returned.
static READS: AtomicUsize = AtomicUsize::new(0);

/// State of a path. Kubernetes replaces a mounted secret by switching a symbolic link, which changes the resolved path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stamp {
    /// A file.
    There {
        /// Path without symbolic links.
        resolved: PathBuf,
        /// Number of the file system.
        device: u64,
        /// Number of the file.
        inode: u64,
        /// Seconds and nanoseconds of the last change of the contents.
        modified: (i64, i64),
        /// Seconds and nanoseconds of the last change of contents, owner or permissions.
        changed: (i64, i64),
        /// Length.
        bytes: u64,
    },
    /// No readable file.
    Missing(io::ErrorKind),
}

impl Stamp {
    /// Returns the current state of a path.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let found = std::fs::canonicalize(path).and_then(|resolved| {
            let there = std::fs::metadata(&resolved)?;
            Ok(Self::There {
                resolved,
                device: there.dev(),
                inode: there.ino(),
                modified: (there.mtime(), there.mtime_nsec()),
                changed: (there.ctime(), there.ctime_nsec()),
                bytes: there.len(),
            })
        });
        found.unwrap_or_else(|error| Self::Missing(error.kind()))
    }
}

/// Reads a regular file of at most `most_bytes`. Symbolic links are followed; devices, FIFOs and sockets are not opened.
///
/// # Errors
/// The reason, without the path.
pub fn read_regular(path: &Path, most_bytes: u64) -> Result<Vec<u8>, String> {
    within_deadline(path, most_bytes, open_regular)
}

/// Reads a secret: the first line of a regular file, of at most `most_bytes`. `name` is the kind of secret, for errors.
///
/// # Errors
/// The path and the reason, never a part of the file.
pub fn read_secret(path: &Path, most_bytes: usize, name: &str) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let text = read_regular(path, SECRET_FILE_MAX_BYTES).map_err(|why| format!("cannot read {shown}: {why}"))?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() || line.len() > most_bytes {
        let seen = if line.is_empty() { "is empty" } else { "is too long" };
        return Err(format!("the first line of {shown} {seen}; expected a {name} of 1 to {most_bytes} bytes"));
    }
    Ok(line.to_vec())
}

/// Reads a file of any type and of at most `most_bytes`, such as the pipe that a shell substitutes for a command.
///
/// # Errors
/// The reason, without the path.
pub fn read_any(path: &Path, most_bytes: u64) -> Result<Vec<u8>, String> {
    within_deadline(path, most_bytes, |path| File::open(path))
}

fn open_regular(path: &Path) -> io::Result<File> {
    let check = |metadata: &std::fs::Metadata| {
        if metadata.is_file() { Ok(()) } else { Err(io::Error::other("it is not a regular file")) }
    };
    // To open a device can have an effect. The second check is for a path that was replaced in between.
    check(&std::fs::metadata(path)?)?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// Counts a read until it returns.
struct Reading;

impl Reading {
    fn begin() -> Result<Self, String> {
        if READS.fetch_add(1, Relaxed) < READS_MAX {
            return Ok(Self);
        }
        READS.fetch_sub(1, Relaxed);
        Err(format!("{READS_MAX} earlier reads of files have not returned"))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        READS.fetch_sub(1, Relaxed);
    }
}

fn within_deadline(path: &Path, most_bytes: u64, open: fn(&Path) -> io::Result<File>) -> Result<Vec<u8>, String> {
    let reading = Reading::begin()?;
    let (path, (answer, answered)) = (path.to_owned(), mpsc::channel());
    let read = move || {
        let contents = open(&path).and_then(|file| {
            let mut contents = Vec::new();
            file.take(most_bytes + 1).read_to_end(&mut contents).map(|_| contents)
        });
        drop(reading);
        // Fails only when the deadline has passed.
        let _awaited = answer.send(contents);
    };
    thread::Builder::new().name("file".into()).spawn(read).map_err(|error| error.to_string())?;
    match answered.recv_timeout(FILE_DEADLINE) {
        Ok(Ok(contents)) if contents.len() as u64 > most_bytes => Err(format!("it is larger than {most_bytes} bytes")),
        Ok(contents) => contents.map_err(|error| error.to_string()),
        Err(_elapsed) => Err(format!("no end of the file within {} s", FILE_DEADLINE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command};

    use super::*;

    #[test]
    fn regular_files_only_after_symbolic_links() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "secret").unwrap();
        symlink(path("file"), path("link")).unwrap();
        symlink("/dev/ptmx", path("device")).unwrap();
        assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        assert_eq!(read_regular(&path("link"), 6).unwrap(), b"secret");
        assert_eq!(read_regular(&path("link"), 5).unwrap_err(), "it is larger than 5 bytes");
        for name in ["device", "fifo", "."] {
            assert_eq!(read_regular(&path(name), 100).unwrap_err(), "it is not a regular file", "{name}");
        }
        assert!(read_regular(&path("nowhere"), 100).unwrap_err().starts_with("No such file"));
        // A FIFO that nobody writes to never opens.
        assert_eq!(read_any(&path("fifo"), 100).unwrap_err(), "no end of the file within 2 s");
    }
}
