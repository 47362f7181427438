//! Ways in which a disk stops accepting writes, below a running server.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{disk::SmallDisk, process::User};

/// A fault of the directory of a server.
pub(super) trait Fault {
    /// The data directory of the server.
    fn dir(&self) -> &Path;
    /// Environment variables of the server.
    fn environment(&self) -> Vec<(&str, String)> {
        Vec::new()
    }
    /// The user of the server.
    fn user(&self) -> User {
        User::Same
    }
    fn begin(&mut self);
    fn end(&mut self);
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// All directories of a tree.
fn directories(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(directories(&entry.path()));
        }
    }
    found
}

/// Every system call that changes a file fails with this error, also for open files: see `disk_faults.c`.
pub(super) struct Preloaded {
    folder: tempfile::TempDir,
    data: PathBuf,
    error: i32,
}

impl Preloaded {
    /// Returns `None`, with a message, where no C compiler is installed.
    pub(super) fn new(error: i32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/disk_faults.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(folder.path().join("faults.so")).arg(source).arg("-ldl");
        if !succeeds(&mut compile) {
            println!("left out: cc, which compiles the faults, is not installed");
            return None;
        }
        let data = folder.path().join("data");
        let fault = Self { data, folder, error };
        fault.set(0);
        Some(fault)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("fault")
    }

    fn set(&self, error: i32) {
        // The server has mapped the file, so that its length must not change.
        let file = fs::File::options().create(true).truncate(false).write(true).open(self.file()).expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&file, &error.to_ne_bytes(), 0).expect("a write");
    }
}

impl Fault for Preloaded {
    fn dir(&self) -> &Path {
        &self.data
    }

    fn environment(&self) -> Vec<(&str, String)> {
        let path = |path: PathBuf| path.display().to_string();
        vec![
            ("LD_PRELOAD", path(self.folder.path().join("faults.so"))),
            ("TERRACE_TEST_FAULT_DIR", path(self.data.clone())),
            ("TERRACE_TEST_FAULT_FILE", path(self.file())),
        ]
    }

    fn begin(&mut self) {
        self.set(self.error);
    }

    fn end(&mut self) {
        self.set(0);
    }
}

/// All files are immutable: the kernel rejects every change with EPERM, also of open files.
pub(super) struct Immutable {
    folder: tempfile::TempDir,
}

impl Immutable {
    /// Returns `None`, with a message, where files cannot be immutable.
    pub(super) fn new() -> Option<Self> {
        let fault = Self { folder: tempfile::tempdir().expect("a directory") };
        if fault.change("+i") && fault.change("-i") {
            return Some(fault);
        }
        println!("left out: files cannot be immutable here, or only for root");
        None
    }

    fn change(&self, attribute: &str) -> bool {
        succeeds(Command::new("chattr").args(["-R", attribute]).arg(self.folder.path()))
    }
}

impl Fault for Immutable {
    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn begin(&mut self) {
        // Fails for files that the server removes meanwhile; the directories become immutable before their files.
        let _status = self.change("+i");
    }

    fn end(&mut self) {
        assert!(self.change("-i"));
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        self.change("-i");
    }
}

/// A read-only mount covers the directory: files cannot be created, open files can be written.
pub(super) struct ReadOnlyMount {
    folder: tempfile::TempDir,
}

impl ReadOnlyMount {
    /// Returns `None`, with a message, where mounting is not permitted.
    pub(super) fn new() -> Option<Self> {
        let mut fault = Self { folder: tempfile::tempdir().expect("a directory") };
        if !fault.mount() {
            println!("left out: a read-only mount requires root");
            return None;
        }
        fault.end();
        Some(fault)
    }

    fn mount(&self) -> bool {
        let dir = self.folder.path();
        succeeds(Command::new("mount").arg("--bind").args([dir, dir]))
            && succeeds(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(dir))
    }
}

impl Fault for ReadOnlyMount {
    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn begin(&mut self) {
        assert!(self.mount());
    }

    fn end(&mut self) {
        assert!(succeeds(Command::new("umount").arg("--lazy").arg(self.folder.path())));
    }
}

impl Drop for ReadOnlyMount {
    fn drop(&mut self) {
        // Fails if the mount has ended already.
        succeeds(Command::new("umount").arg("--lazy").arg(self.folder.path()));
    }
}

/// The user of the server may not create files (EACCES): the permissions of the directories have changed.
pub(super) struct Forbidden {
    _folder: tempfile::TempDir,
    data: PathBuf,
}

/// The user and the group `nobody`.
const NOBODY: u32 = 65_534;

impl Forbidden {
    /// Returns `None`, with a message, where the server cannot run as another user.
    pub(super) fn new() -> Option<Self> {
        let program = env!("CARGO_BIN_EXE_terrace");
        if !succeeds(Command::new(program).arg("--version").uid(NOBODY).gid(NOBODY)) {
            println!("left out: the server can run as another user only if root starts it from a public directory");
            return None;
        }
        let folder = tempfile::tempdir().expect("a directory");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("a directory");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("new permissions");
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("another owner");
        Some(Self { _folder: folder, data })
    }

    fn set(&self, mode: u32) {
        for directory in directories(&self.data) {
            // The server may have removed it.
            let _result = fs::set_permissions(directory, fs::Permissions::from_mode(mode));
        }
    }
}

impl Fault for Forbidden {
    fn dir(&self) -> &Path {
        &self.data
    }

    fn user(&self) -> User {
        User::Id(NOBODY)
    }

    fn begin(&mut self) {
        self.set(0o500);
    }

    fn end(&mut self) {
        self.set(0o700);
    }
}

/// The disk is full.
pub(super) struct Full {
    disk: SmallDisk,
    data: PathBuf,
}

impl Full {
    /// Returns `None`, with a message, where mounting is not permitted.
    pub(super) fn new() -> Option<Self> {
        let disk = SmallDisk::mount(300)?;
        Some(Self { data: disk.path().join("data"), disk })
    }
}

impl Fault for Full {
    fn dir(&self) -> &Path {
        &self.data
    }

    fn begin(&mut self) {
        self.disk.fill();
    }

    fn end(&mut self) {
        self.disk.free();
    }
}
