//! Checks fjall's lists of table files before fjall reads them, and corrects a damaged byte.
//!
//! Each tree has its list in the file `v{id}`. Its file `current` holds that id (u64), the xxh3-128 of the list (u128) and
//! the type of the checksum (u8), little-endian (lsm-tree 3.1, `src/version/persist.rs`). lsm-tree does not compare the
//! checksum. A damaged byte could hide writes of the journal, lose all tables without an error, or cause a panic in a
//! destructor, which ends the process.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

/// Name of the file with the id and the checksum of the list.
const CURRENT: &str = "current";
/// Length of that file in bytes.
const CURRENT_BYTES: usize = 25;
/// Maximum length of a list whose damaged byte is searched, in bytes: about 490 table files. The search computes the
/// checksum once per byte and other value of it, at most about 10 s for the maximum.
const SEARCHED_MAX_BYTES: usize = 16 << 10;

/// Checks the lists of all trees of the table in `table`. Corrects a list, or its checksum, in which one byte is damaged.
///
/// # Errors
/// `InvalidData` for damage that cannot be corrected; other kinds for I/O errors.
pub(super) fn mend(table: &Path) -> io::Result<()> {
    let trees = match fs::read_dir(table.join("keyspaces")) {
        Ok(trees) => trees,
        // fjall creates the directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for tree in trees {
        mend_tree(&tree?.path())?;
    }
    Ok(())
}

fn mend_tree(tree: &Path) -> io::Result<()> {
    let current = match fs::read(tree.join(CURRENT)) {
        Ok(current) => current,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return has_no_tables(tree),
        Err(error) => return Err(error),
    };
    let Ok(current) = <[u8; CURRENT_BYTES]>::try_from(current.as_slice()) else {
        return Err(damaged(tree, &format!("{CURRENT} has {} bytes, not {CURRENT_BYTES}", current.len())));
    };
    let (id, sum) = (&current[..8], u128::from_le_bytes(current[8..24].try_into().expect("16 bytes")));
    let path = tree.join(format!("v{}", u64::from_le_bytes(id.try_into().expect("8 bytes"))));
    let list = match fs::read(&path) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return mend_id(tree, current),
        Err(error) => return Err(error),
    };
    let found = xxh3_128(&list);
    if found == sum {
        return Ok(());
    }
    if differ_in_one_byte(&found.to_le_bytes(), &sum.to_le_bytes()) {
        return replace(&tree.join(CURRENT), &entry(id, found));
    }
    match corrected(&list, sum) {
        Some(list) => replace(&path, &list),
        // The id may name the list of an earlier write that is still there.
        None => mend_id(tree, current),
    }
}

/// Corrects the id in `current` if a list has the checksum.
fn mend_id(tree: &Path, current: [u8; CURRENT_BYTES]) -> io::Result<()> {
    for file in fs::read_dir(tree)? {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix('v'));
        let Some(id) = name.and_then(|id| id.parse::<u64>().ok()) else {
            continue;
        };
        let sum = xxh3_128(&fs::read(&path)?);
        if sum.to_le_bytes() == current[8..24] {
            return replace(&tree.join(CURRENT), &entry(&id.to_le_bytes(), sum));
        }
    }
    Err(damaged(tree, "its list of table files has another checksum"))
}

/// A tree without `current` is new. fjall would create it, and delete its table files.
fn has_no_tables(tree: &Path) -> io::Result<()> {
    let mut tables = match fs::read_dir(tree.join("tables")) {
        Ok(tables) => tables,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match tables.next() {
        Some(_) => Err(damaged(tree, &format!("{CURRENT} is missing"))),
        None => Ok(()),
    }
}

/// The contents of `current`; the type of xxh3 is 0.
fn entry(id: &[u8], sum: u128) -> Vec<u8> {
    [id, &sum.to_le_bytes(), &[0]].concat()
}

fn differ_in_one_byte(left: &[u8], right: &[u8]) -> bool {
    left.iter().zip(right).filter(|(left, right)| left != right).count() == 1
}

/// Returns the list that has the checksum and differs from `list` in one byte.
fn corrected(list: &[u8], sum: u128) -> Option<Vec<u8>> {
    if list.len() > SEARCHED_MAX_BYTES {
        return None;
    }
    let mut tried = list.to_vec();
    for at in 0..list.len() {
        for mask in 1..=u8::MAX {
            tried[at] = list[at] ^ mask;
            if xxh3_128(&tried) == sum {
                return Some(tried);
            }
        }
        tried[at] = list[at];
    }
    None
}

/// Replaces a file with one rename, so that a kill leaves the damaged or the corrected file.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft: PathBuf = path.with_extension("corrected");
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    if let Some(tree) = path.parent() {
        File::open(tree)?.sync_all()?;
    }
    tracing::error!(
        file = %path.display(),
        "a byte in a list of table files of the embedded store was damaged; corrected it, nothing is lost"
    );
    Ok(())
}

fn damaged(tree: &Path, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", tree.display()))
}
