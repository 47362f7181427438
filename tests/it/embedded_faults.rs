//! The disk of a server stops accepting writes while several clients write, remove and read: it is full, read-only, or
//! its directories are forbidden. Reads go on, removals use the reserve of a full disk, no acknowledged write is lost, no
//! write is acknowledged that is lost, and the server recovers without a restart.

mod faults;
mod load;

use std::path::Path;

use redis::Commands;

use self::{
    faults::{Fault, Forbidden, Full, Immutable, Preloaded, ReadOnlyMount},
    load::{Answers, Load, check},
};
use crate::support::{
    command::{printed, terrace},
    disk::{SmallDisk, damage_journal},
    eventually,
    http::get,
    node::PATIENT,
    process::{Process, User},
    resp::connection,
    setting_from_environment,
};

/// Number of times that the disk fails and recovers.
const ROUNDS: usize = 2;
/// Numbers of the errors that a kernel returns for a read-only file system and for missing permissions.
const EROFS: i32 = 30;
const EACCES: i32 = 13;

fn start(dir: &Path, user: User, environment: &[(&str, String)]) -> Process {
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // A small L1, so that most reads are of the store.
    let args: Vec<&str> = PATIENT.into_iter().chain(["--l1-size", "1MiB"]).collect();
    Process::start_as(user, dir, &args, &environment)
}

/// Lets the disk fail under load. `removes` states that removals go on.
fn fails_and_recovers(mut fault: impl Fault, removes: bool) {
    let seed = setting_from_environment("TERRACE_SEED", fastrand::u64(..1 << 32));
    println!("TERRACE_SEED={seed}");
    let server = start(fault.dir(), fault.user(), &fault.environment());
    let load = Load::start(&server.resp, seed);
    for _ in 0..ROUNDS {
        load.until("writes and removals", 50, |answers| answers.written.min(answers.removed));
        fault.begin();
        // After its third refused call, no earlier call of a client is counted late.
        load.until("writes are refused", 3, |answers| answers.refused_writes);
        if removes {
            load.until("reads and removals go on", 20, |answers| answers.read.min(answers.removed));
        } else {
            only_reads_go_on(&load);
        }
        let readiness = get(&server.http, "/readyz").1;
        assert!(readiness.starts_with("degraded"), "{readiness}");
        fault.end();
        load.until("writes are accepted again", 20, |answers| answers.written);
    }
    println!("{:?}", load.answers());
    let known = load.stop();
    check(&server.resp, &known);
    eventually("it is no longer degraded", || get(&server.http, "/readyz").1.starts_with("ready"));
    server.kill();
    let server = start(fault.dir(), fault.user(), &fault.environment());
    check(&server.resp, &known);
}

fn only_reads_go_on(load: &Load) {
    load.until("removals are refused", 3, |answers| answers.refused_removals);
    let before = load.answers();
    let after = load.until("reads go on", 50, |answers| answers.read);
    for (before, after) in before.iter().zip(after) {
        let changed = |answers: &Answers| (answers.written, answers.removed, answers.unknown, answers.refused_reads);
        assert_eq!(changed(before), changed(&after), "an answer of a disk without writes");
    }
}

#[test]
fn a_read_only_file_system() {
    let Some(fault) = Preloaded::new(EROFS) else { return };
    fails_and_recovers(fault, false);
}

#[test]
fn missing_permissions_for_open_files_too() {
    let Some(fault) = Preloaded::new(EACCES) else { return };
    fails_and_recovers(fault, false);
}

#[test]
fn immutable_files() {
    let Some(fault) = Immutable::new() else { return };
    fails_and_recovers(fault, false);
}

#[test]
fn a_read_only_mount() {
    let Some(fault) = ReadOnlyMount::new() else { return };
    fails_and_recovers(fault, false);
}

#[test]
fn forbidden_directories() {
    let Some(fault) = Forbidden::new() else { return };
    fails_and_recovers(fault, false);
}

#[test]
fn a_full_disk() {
    let Some(fault) = Full::new() else { return };
    fails_and_recovers(fault, true);
}

/// Starts a server on a full disk: it serves reads and removals, and recovers.
fn start_on_a_full_disk(disk: &SmallDisk) {
    let dir = disk.path().join("data");
    let server = start(&dir, User::Same, &[]);
    let mut client = connection(&server.resp);
    assert_eq!(client.get::<_, Option<String>>("kept").unwrap().as_deref(), Some("1"));
    // The first write finds out that the disk is full if a reserve exists; its result is unknown.
    let is_refused =
        |error: redis::RedisError| error.code() == Some("UNAVAILABLE") && error.to_string().contains("full");
    eventually("writes are refused", || client.set::<_, _, ()>("new", "1").is_err_and(is_refused));
    eventually("a removal", || client.del::<_, u64>("removed").is_ok_and(|count| count == 1));
    let readiness = get(&server.http, "/readyz").1;
    assert!(readiness.starts_with("degraded"), "{readiness}");
    disk.free();
    eventually("writes are accepted", || client.set::<_, _, ()>("new", "1").is_ok());
    assert_eq!(client.get::<_, Option<String>>("kept").unwrap().as_deref(), Some("1"));
    client.set::<_, _, ()>("removed", "1").unwrap();
}

#[test]
fn a_start_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount(300) else { return };
    let dir = disk.path().join("data");
    let server = start(&dir, User::Same, &[]);
    connection(&server.resp).mset::<_, _, ()>(&[("kept", "1"), ("removed", "1")]).unwrap();
    // A killed server leaves its reserve, a stopped one frees it.
    disk.fill();
    server.kill();
    start_on_a_full_disk(&disk);
    let server = start(&dir, User::Same, &[]);
    let mut client = connection(&server.resp);
    assert_eq!(client.get::<_, Option<String>>("new").unwrap().as_deref(), Some("1"));
    server.stop();
    disk.fill();
    start_on_a_full_disk(&disk);
}

/// A start without a store ends with a message that names the directory and the reason.
fn refuses_to_start(dir: &Path, reason: &str) {
    let mut serve = terrace(&["serve", "--grpc", "127.0.0.1:0", "--resp", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let output = serve.arg("--data-dir").arg(dir).output().unwrap();
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(text.contains(&dir.display().to_string()) && text.contains(reason), "{text}");
    assert!(!text.contains("damaged"), "{text}");
}

#[test]
fn a_start_that_needs_space_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount(300) else { return };
    let (dir, mut random) = (disk.path().join("data"), fastrand::Rng::new());
    let server = start(&dir, User::Same, &[]);
    connection(&server.resp).mset::<_, _, ()>(&[("kept", "1"), ("removed", "1")]).unwrap();
    // The repair of the journal uses the reserve that the killed server has left.
    server.kill();
    damage_journal(&dir, &mut random);
    disk.fill();
    start_on_a_full_disk(&disk);
    // Without a reserve, the start ends. Nothing is damaged, and the next start has all keys.
    start(&dir, User::Same, &[]).stop();
    damage_journal(&dir, &mut random);
    disk.fill();
    refuses_to_start(&dir, "No space left on device");
    disk.free();
    let server = start(&dir, User::Same, &[]);
    assert_eq!(connection(&server.resp).get::<_, Option<String>>("kept").unwrap().as_deref(), Some("1"));
}

#[test]
fn a_first_start_on_a_full_disk_is_a_clear_error() {
    let Some(disk) = SmallDisk::mount(100) else { return };
    disk.fill();
    refuses_to_start(&disk.path().join("data"), "No space left on device");
}

#[test]
fn a_start_on_a_read_only_mount_is_a_clear_error() {
    let Some(mut fault) = ReadOnlyMount::new() else { return };
    start(fault.dir(), User::Same, &[]).stop();
    fault.begin();
    refuses_to_start(fault.dir(), "Read-only file system");
    fault.end();
    start(fault.dir(), User::Same, &[]);
}
