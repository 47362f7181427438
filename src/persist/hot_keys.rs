//! The list of hot keys that is saved for the next process: keys with their heat, hottest first, never a value.
//!
//! The file `hot-keys` has a line with format and version, then counts and a checksum, then the keys. A crash leaves
//! the previous file intact. A damaged file, or a file of a newer version, is set aside, and the node starts cold.

use std::{
    io::{self, Read},
    path::Path,
};

pub use super::file::Loaded;
use super::file::{self, CHECKSUM};
use crate::model::Key;

/// Name of the file in the data directory.
pub const NAME: &str = "hot-keys";
/// First bytes of the file; the number is the version.
const MAGIC: &[u8; 16] = b"terrace-hot v01\n";
/// Size of the magic bytes, the number of keys, and the checksum of the remaining bytes.
const HEAD_BYTES: usize = MAGIC.len() + 8 + 4;
/// Maximum size of the hot key list: several million keys of usual length.
const FILE_MAX_BYTES: usize = 512 << 20;

/// A key and its heat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotKey {
    /// The key.
    pub key: Key,
    /// Relative heat: higher is hotter. Only the order has a meaning.
    pub heat: u32,
}

/// Saves `keys` in `folder`, which is created if it is missing.
///
/// # Errors
/// I/O errors. The previous file stays intact.
pub fn save(folder: &Path, keys: &[HotKey]) -> io::Result<()> {
    file::save(folder, NAME, |file| file.write_all(&encode(keys)))
}

/// Reads a file that [`save`] wrote. An unusable file is renamed, so that the next save does not overwrite it.
///
/// # Errors
/// I/O errors.
pub fn load(folder: &Path) -> io::Result<Loaded<Vec<HotKey>>> {
    file::load(folder, NAME, |file| {
        let mut bytes = Vec::new();
        file.take(FILE_MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(decode(&bytes))
    })
}

/// Returns whether `bytes` starts as such a file does.
#[must_use]
pub fn is_hot_keys(bytes: &[u8]) -> bool {
    bytes.starts_with(b"terrace-hot ")
}

/// Returns the bytes of the file. The coldest keys are left out if they do not fit.
#[must_use]
pub fn encode(keys: &[HotKey]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut count = 0_u64;
    for HotKey { key, heat } in keys {
        // A key has at most 64 KiB.
        let Ok(len) = u32::try_from(key.len()) else { continue };
        if HEAD_BYTES + body.len() + 8 + key.len() > FILE_MAX_BYTES {
            break;
        }
        body.extend_from_slice(&heat.to_le_bytes());
        body.extend_from_slice(&len.to_le_bytes());
        body.extend_from_slice(key);
        count += 1;
    }
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&CHECKSUM.checksum(&body).to_le_bytes());
    bytes.append(&mut body);
    bytes
}

/// Parses the bytes of a file.
///
/// # Errors
/// The reason why the file is unusable.
pub fn decode(bytes: &[u8]) -> Result<Vec<HotKey>, String> {
    if bytes.len() > FILE_MAX_BYTES {
        return Err(format!("the file is larger than {FILE_MAX_BYTES} bytes"));
    }
    if is_hot_keys(bytes) && !bytes.starts_with(MAGIC) {
        return Err("the file has an unsupported version".to_owned());
    }
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else { return Err("the file is not a list of hot keys".to_owned()) };
    let cut = || "the file is truncated".to_owned();
    let count = u64::from_le_bytes(take(&mut rest).ok_or_else(cut)?);
    let checksum = u32::from_le_bytes(take(&mut rest).ok_or_else(cut)?);
    if CHECKSUM.checksum(rest) != checksum {
        return Err("the file has a wrong checksum".to_owned());
    }
    let mut keys = Vec::new();
    while !rest.is_empty() {
        let heat = u32::from_le_bytes(take(&mut rest).ok_or_else(cut)?);
        let len = u32::from_le_bytes(take(&mut rest).ok_or_else(cut)?) as usize;
        let (key, behind) = rest.split_at_checked(len).ok_or_else(cut)?;
        rest = behind;
        let key = Key::copied(key).map_err(|error| error.to_string())?;
        keys.push(HotKey { key, heat });
    }
    if keys.len() as u64 != count {
        return Err(format!("the file declares {count} keys but contains {}", keys.len()));
    }
    Ok(keys)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn keys() -> Vec<HotKey> {
        (0..100_u32)
            .map(|number| HotKey { key: Key::copied(format!("k:{number}").as_bytes()).unwrap(), heat: 100 - number })
            .collect()
    }

    #[test]
    fn what_was_kept_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("made/for/it");
        assert_eq!(load(&inner).unwrap(), Loaded::None);
        save(&inner, &keys()).unwrap();
        save(&inner, &keys()[..50]).unwrap();
        assert_eq!(load(&inner).unwrap(), Loaded::Kept(keys()[..50].to_vec()));
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1, "no temporary file remains");
    }

    #[test]
    fn a_changed_or_cut_file_is_set_aside_and_never_half_read() {
        let bytes = encode(&keys());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(decode(&changed).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), &bytes[..bytes.len() - 1]).unwrap();
        let aside = folder.path().join("hot-keys.damaged");
        assert_eq!(
            load(folder.path()).unwrap(),
            Loaded::Damaged("the file has a wrong checksum".to_owned(), aside.clone())
        );
        assert_eq!(fs::read(aside).unwrap(), bytes[..bytes.len() - 1]);
        assert_eq!(load(folder.path()).unwrap(), Loaded::None);
        let newer = [b"terrace-hot v02\n", &bytes[16..]].concat();
        assert_eq!(decode(&newer), Err("the file has an unsupported version".to_owned()));
    }
}
