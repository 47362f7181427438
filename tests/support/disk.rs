//! A small file system of its own that a test can fill, and the files of an embedded store.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// A small tmpfs, unmounted on drop.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a message, where mounting is not permitted.
    pub fn mount(mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let options = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        println!("left out: a small tmpfs cannot be mounted without root");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all free space.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.path().join("filler")).expect("a file");
        let bytes = vec![1; 64 << 10];
        while file.write_all(&bytes).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
    }

    pub fn free(&self) {
        fs::remove_file(self.path().join("filler")).expect("a file");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// All files of a directory and its subdirectories.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // Directories may disappear meanwhile.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The journals of the embedded store in `dir`.
pub fn journals(dir: &Path) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "jnl")).collect()
}

/// Adds damage behind the last batch of the newest journal: the next start has to repair it, and no write is lost.
pub fn damage_journal(dir: &Path, random: &mut fastrand::Rng) {
    let written = |file: &PathBuf| fs::metadata(file).expect("a file").modified().expect("a time");
    let journal = journals(dir).into_iter().max_by_key(written).expect("a journal");
    let mut bytes = fs::read(&journal).expect("a journal");
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    let length = random.usize(10..2_000);
    bytes.extend((0..length).map(|_| random.u8(1..)));
    bytes.extend(b"FJL\x03");
    fs::write(&journal, bytes).expect("a journal");
}
