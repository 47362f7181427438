//! Files that outlive the process. A file is written under a temporary name and renamed, so a crash leaves the previous
//! file intact. A damaged file, or a file of another version, is set aside and never partly read.
//!
//! The [hot keys](super::hot_keys) have their own format. The learned state is a file of blocks: a line with format and
//! version, then blocks of bytes, each preceded by its length and a checksum over its number and its bytes, and an
//! empty block at the end. The file is therefore written and read block by block, and a changed, missing or misplaced
//! block is detected.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use crc::{CRC_32_ISO_HDLC, Crc};

/// Checksum algorithm of all these files.
pub(crate) const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// Maximum size of a block in a file of the data directory.
pub const BLOCK_MAX_BYTES: usize = 8 << 20;

/// The result of loading a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// The file does not exist.
    None,
    /// Content of the file.
    Kept(T),
    /// The reason why the file is unusable, and the path it was renamed to.
    Damaged(String, PathBuf),
}

/// Writes a file named `name` into `folder`, which is created if it is missing.
///
/// # Errors
/// I/O errors. The previous file stays intact.
pub fn save<T>(folder: &Path, name: &str, write: impl FnOnce(&mut dyn Write) -> io::Result<T>) -> io::Result<T> {
    fs::create_dir_all(folder)?;
    // The process id keeps nodes that share the folder from writing to the same temporary file.
    let temporary = folder.join(format!("{name}.{}", std::process::id()));
    let written = File::create(&temporary).and_then(|file| {
        // Other processes recognize by the lock that the file is in use. Without lock support, they remove no file.
        let _locked = file.try_lock();
        let mut file = BufWriter::new(file);
        let written = write(&mut file)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok((written, file))
    });
    let kept = written.and_then(|(written, _locked_until_renamed)| {
        fs::rename(&temporary, folder.join(name))?;
        // Without this, a power failure may restore the previous name.
        File::open(folder)?.sync_all()?;
        Ok(written)
    });
    if kept.is_err() {
        // Only a partial file is lost.
        let _removed = fs::remove_file(&temporary);
    }
    kept
}

/// Removes the temporary files that killed processes left in `folder`: `name` with the process id of a [`save`] that did
/// not end. The files of a running process are locked and remain. Returns how many were removed.
pub fn remove_partial(folder: &Path, name: &str) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let is_partial = |path: &Path| {
        let suffix = path.file_name()?.to_str()?.strip_prefix(name)?.strip_prefix('.')?;
        (!suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit())).then_some(())
    };
    let remove = |path: &Path| {
        let file = File::open(path).ok()?;
        file.try_lock().ok()?;
        fs::remove_file(path).ok()
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| is_partial(path).is_some() && remove(path).is_some()).count()
}

/// Reads a file that [`save`] wrote. An unusable file is renamed, so that the next save does not overwrite it.
///
/// # Errors
/// I/O errors.
pub fn load<T>(
    folder: &Path,
    name: &str,
    read: impl FnOnce(&mut BufReader<File>) -> io::Result<Result<T, String>>,
) -> io::Result<Loaded<T>> {
    let path = folder.join(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::None),
        Err(error) => return Err(error),
    };
    match read(&mut BufReader::new(file))? {
        Ok(kept) => Ok(Loaded::Kept(kept)),
        Err(why) => {
            let aside = folder.join(format!("{name}.damaged"));
            fs::rename(&path, &aside)?;
            Ok(Loaded::Damaged(why, aside))
        }
    }
}

/// The format of a file of blocks.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// The first bytes of every version of the format.
    pub name: &'static str,
    /// The version and a line end, which follow the name.
    pub version: &'static str,
}

fn sum_of(number: u64, block: &[u8]) -> u32 {
    let mut digest = CHECKSUM.digest();
    digest.update(&number.to_le_bytes());
    digest.update(block);
    digest.finalize()
}

impl Form {
    /// Writes blocks until `next` returns `None`. Returns the size of the file in bytes. Blocks are not empty, and have
    /// at most [`BLOCK_MAX_BYTES`].
    ///
    /// # Errors
    /// I/O errors.
    pub fn write(self, file: &mut dyn Write, mut next: impl FnMut() -> Option<Vec<u8>>) -> io::Result<u64> {
        let head = [self.name, self.version].concat();
        file.write_all(head.as_bytes())?;
        let (mut bytes, mut number) = (head.len() as u64, 0);
        loop {
            let block = next().unwrap_or_default();
            let length = u32::try_from(block.len()).ok().filter(|_| block.len() <= BLOCK_MAX_BYTES);
            let length = length.ok_or_else(|| io::Error::other("a block exceeds the maximum block size"))?;
            file.write_all(&length.to_le_bytes())?;
            file.write_all(&sum_of(number, &block).to_le_bytes())?;
            file.write_all(&block)?;
            bytes += 8 + u64::from(length);
            number += 1;
            if block.is_empty() {
                return Ok(bytes);
            }
        }
    }

    /// Passes each block of a file of at most `bytes_max` to `take`. The inner error is the reason why the file is
    /// unusable, or the error of `take`.
    ///
    /// # Errors
    /// I/O errors.
    pub fn read(
        self,
        file: &mut impl Read,
        bytes_max: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> io::Result<Result<(), String>> {
        let mut file = file.take(bytes_max.saturating_add(1));
        let mut head = vec![0; self.name.len() + self.version.len()];
        let whole = fill(&mut file, &mut head)?;
        if !whole || !head.starts_with(self.name.as_bytes()) {
            return Ok(Err("the file has an unknown format".to_owned()));
        }
        if !head.ends_with(self.version.as_bytes()) {
            return Ok(Err("the file has an unsupported version".to_owned()));
        }
        let mut block = Vec::new();
        for number in 0.. {
            match next_block(&mut file, number, &mut block)? {
                Err(_) if file.limit() == 0 => return Ok(Err(format!("the file is larger than {bytes_max} bytes"))),
                Err(why) => return Ok(Err(why)),
                Ok(()) if block.is_empty() => break,
                Ok(()) => {}
            }
            if let Err(why) = take(&block) {
                return Ok(Err(why));
            }
        }
        if file.limit() == 0 {
            return Ok(Err(format!("the file is larger than {bytes_max} bytes")));
        }
        let behind = fill(&mut file, &mut [0])?;
        Ok(if behind { Err("the file has data after its end mark".to_owned()) } else { Ok(()) })
    }
}

fn next_block(file: &mut impl Read, number: u64, block: &mut Vec<u8>) -> io::Result<Result<(), String>> {
    let cut = || Ok(Err("the file is truncated".to_owned()));
    let (mut length, mut sum) = ([0; 4], [0; 4]);
    if !fill(file, &mut length)? || !fill(file, &mut sum)? {
        return cut();
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > BLOCK_MAX_BYTES {
        return Ok(Err("a block has an invalid length".to_owned()));
    }
    block.resize(length, 0);
    if !fill(file, block)? {
        return cut();
    }
    let is_right = sum_of(number, block) == u32::from_le_bytes(sum);
    Ok(if is_right { Ok(()) } else { Err("a block has a wrong checksum".to_owned()) })
}

/// Fills `bytes`. Returns `false` if the file ends first.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Form = Form { name: "terrace-test ", version: "v01\n" };

    fn written(blocks: &[&[u8]]) -> Vec<u8> {
        let (mut file, mut blocks) = (Vec::new(), blocks.iter());
        let bytes = FORM.write(&mut file, || blocks.next().map(|block| block.to_vec())).unwrap();
        assert_eq!(bytes, file.len() as u64);
        file
    }

    fn read(form: Form, mut file: &[u8], bytes_max: u64) -> Result<Vec<Vec<u8>>, String> {
        let mut blocks = Vec::new();
        let read = form.read(&mut file, bytes_max, |block| {
            blocks.push(block.to_vec());
            Ok(())
        });
        read.unwrap().map(|()| blocks)
    }

    #[test]
    fn blocks_come_back_in_order() {
        let blocks: [&[u8]; 3] = [b"one", b"two", &[7; 100_000]];
        let file = written(&blocks);
        assert_eq!(read(FORM, &file, file.len() as u64).unwrap(), blocks);
        assert_eq!(read(FORM, &written(&[]), 1_000), Ok(Vec::new()));
    }

    #[test]
    fn whatever_is_wrong_with_a_file_is_said() {
        let file = written(&[b"one", b"another"]);
        let max = file.len() as u64;
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 0x10;
            assert!(read(FORM, &changed, max).is_err(), "byte {at}");
            assert!(read(FORM, &file[..at], max).is_err(), "cut at {at}");
        }
        assert_eq!(read(FORM, &file, max - 1), Err(format!("the file is larger than {} bytes", max - 1)));
        assert_eq!(
            read(FORM, &[&file[..], b"x"].concat(), max + 1),
            Err("the file has data after its end mark".to_owned())
        );
        assert_eq!(read(FORM, b"garbage", max), Err("the file has an unknown format".to_owned()));
        let newer = Form { version: "v02\n", ..FORM };
        assert_eq!(read(newer, &file, max), Err("the file has an unsupported version".to_owned()));
        let [first, second] = [written(&[b"one"]), written(&[b"two"])].map(|file| file[17..28].to_vec());
        let swapped = [&file[..17], &second[..], &first[..]].concat();
        assert_eq!(read(FORM, &swapped, max), Err("a block has a wrong checksum".to_owned()), "a misplaced block");
    }

    #[test]
    fn partial_files_of_killed_processes_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["it.1", "it.4294967295", "it", "it.damaged", "it.1.bak", "other.1", "it."] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let used = File::create(folder.path().join("it.77")).unwrap();
        used.try_lock().unwrap();
        assert_eq!(remove_partial(folder.path(), "it"), 2);
        let left = || {
            let mut names: Vec<_> =
                fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(left(), ["it", "it.", "it.1.bak", "it.77", "it.damaged", "other.1"]);
        // A save locks its file until it has renamed it.
        save(folder.path(), "it", |_| {
            assert_eq!(remove_partial(folder.path(), "it"), 0);
            Ok(())
        })
        .unwrap();
        drop(used);
        assert_eq!(remove_partial(folder.path(), "it"), 1);
        assert_eq!(remove_partial(&folder.path().join("missing"), "it"), 0);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let load = || load(folder.path(), "it", |_| Ok(Err::<(), _>("no good".to_owned()))).unwrap();
        assert_eq!(load(), Loaded::None);
        save(folder.path(), "it", |file| file.write_all(b"abc")).unwrap();
        let aside = folder.path().join("it.damaged");
        assert_eq!(load(), Loaded::Damaged("no good".to_owned(), aside.clone()));
        assert_eq!((fs::read(aside).unwrap(), load()), (b"abc".to_vec(), Loaded::None));
        let failed = save(folder.path(), "it", |_| Err::<(), _>(io::Error::other("full")));
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file remains");
    }
}
