//! Learned state survives a restart. A state file that cannot be used is set aside, and learning starts from nothing.

use std::{fs, path::Path};

use redis::Commands;
use terrace::cache::policy::Prefetch;

use crate::support::{
    self, eventually,
    http::metric,
    node::wait_until_open,
    prefetch::{fetched, over, predicted, read, redis_with_users, teach},
    process::Process,
    redis::RedisServer,
    resp::connection,
    terrace::Terrace,
};

const FILES: &str = "terrace_learn_snapshots_total";

fn file_metric(http: &str, result: &str) -> f64 {
    metric(http, &format!("{FILES}{{result=\"{result}\"}}")).unwrap_or_default()
}

/// A node that stores its learned state in `folder`.
fn node(redis: &RedisServer, folder: &Path) -> Terrace {
    let mut config = over(redis, Prefetch::Auto);
    config.data.dir = folder.to_owned();
    config.learn.snapshot_every = support::PATIENCE;
    let terrace = Terrace::start(config);
    wait_until_open(&terrace);
    terrace
}

#[test]
fn a_process_predicts_from_its_first_request_on() {
    let (redis, folder) = (redis_with_users(), tempfile::tempdir().expect("a folder"));
    let start = || {
        let args = ["--l2", &redis.url(), "--l2-read-timeout", "30s", "--server-workers", "1"];
        let node = Process::start(folder.path(), &args);
        eventually("L1 opens", || metric(&node.http, "terrace_coherence_open") == Some(1.0));
        node
    };
    let first = start();
    let mut client = connection(&first.resp);
    (10_000..10_300).for_each(|user| read(&mut client, user));
    let known = metric(&first.http, "terrace_learn_keys");
    first.stop();
    assert!(folder.path().join("learned").exists());
    let second = start();
    assert_eq!(metric(&second.http, "terrace_learn_keys"), known);
    assert_eq!(file_metric(&second.http, "loaded"), 1.0, "{}", second.log());
    let mut client = connection(&second.resp);
    // At most two of three consecutive users are in the control group.
    (20_000..20_003).for_each(|user| read(&mut client, user));
    let used = metric(&second.http, "terrace_prefetch_total{outcome=\"used\"}");
    assert!(used >= Some(1.0), "{used:?}");
}

#[test]
fn it_is_written_now_and_then_and_not_by_who_has_learned_nothing() {
    let (redis, folder) = (redis_with_users(), tempfile::tempdir().expect("a folder"));
    let args = ["--l2", &redis.url(), "--l2-read-timeout", "30s", "--learn-snapshot-every", "1s"];
    let node = Process::start(folder.path(), &args);
    eventually("L1 opens", || metric(&node.http, "terrace_coherence_open") == Some(1.0));
    let mut client = connection(&node.resp);
    read(&mut client, 20_000);
    eventually("it is written", || file_metric(&node.http, "written") >= 1.0);
    node.kill();
    let kept = fs::read(folder.path().join("learned")).expect("it is there");
    // Without an L2 a node learns nothing and keeps the existing file.
    let other = Process::start(folder.path(), &["--l2", "none", "--learn-snapshot-every", "1s"]);
    other.stop();
    assert_eq!(fs::read(folder.path().join("learned")).expect("it is there"), kept);
}

#[test]
fn a_file_that_cannot_be_used_is_set_aside() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (redis, folder) = (redis_with_users(), tempfile::tempdir().expect("a folder"));
    let (path, aside) = (folder.path().join("learned"), folder.path().join("learned.damaged"));
    let first = node(&redis, folder.path());
    drop(teach(&first));
    first.stop();
    let good = fs::read(&path).expect("it was kept");
    let version = good.iter().position(|&byte| byte == b'\n').expect("a line") - 1;
    let mut flipped = good.clone();
    flipped[rng.usize(version + 2..good.len())] ^= 1 << rng.u8(..8);
    let mut newer = good.clone();
    newer[version] = b'9';
    let garbage: Vec<u8> = (0..rng.usize(0..5_000)).map(|_| rng.u8(..)).collect();
    let cut = good[..rng.usize(..good.len())].to_vec();
    for bad in [flipped, newer, garbage, cut, Vec::new(), [&good[..], b"x"].concat()] {
        fs::write(&path, &bad).expect("written");
        let terrace = node(&redis, folder.path());
        assert_eq!(file_metric(terrace.http(), "set_aside"), 1.0);
        assert_eq!(metric(terrace.http(), "terrace_learn_keys"), Some(0.0), "it begins anew");
        let value: String = connection(terrace.resp()).get("user:20000").expect("an answer");
        assert_eq!((value.as_str(), fs::read(&aside).expect("set aside")), ("user of 20000", bad));
        terrace.stop();
        assert!(path.exists(), "it is written anew");
    }
    fs::write(&path, &good).expect("written");
    let terrace = node(&redis, folder.path());
    assert_eq!(file_metric(terrace.http(), "loaded"), 1.0);
    assert!(fetched(&terrace).next().and_then(|user| predicted(&terrace, user)).is_some());
}

#[test]
fn a_folder_that_cannot_be_written_is_told_of_and_no_more() {
    let (redis, folder) = (redis_with_users(), tempfile::tempdir().expect("a folder"));
    // Root may write into any directory, but nobody can create a file whose parent is a file.
    let no_folder = folder.path().join("file");
    fs::write(&no_folder, "").expect("written");
    let args = ["--l2", &redis.url(), "--l2-read-timeout", "30s", "--learn-snapshot-every", "1s"];
    let node = Process::start(&no_folder, &args);
    eventually("L1 opens", || metric(&node.http, "terrace_coherence_open") == Some(1.0));
    let mut client = connection(&node.resp);
    read(&mut client, 20_000);
    eventually("it has failed", || file_metric(&node.http, "failed") >= 2.0);
    assert!(node.log().contains("could not write learned state"), "{}", node.log());
    read(&mut client, 20_001);
    assert_eq!(file_metric(&node.http, "written"), 0.0);
    node.stop();
}

#[test]
fn partial_files_of_a_killed_process_are_removed_at_start() {
    let (redis, folder) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    for name in ["learned.4000001", "hot-keys.4000001", "learned.damaged", "other.4000001"] {
        fs::write(folder.path().join(name), "partial").expect("a file");
    }
    drop(node(&redis, folder.path()));
    let exists = |name: &str| folder.path().join(name).exists();
    assert!(!exists("learned.4000001") && !exists("hot-keys.4000001"));
    assert!(exists("learned.damaged") && exists("other.4000001"));
}
