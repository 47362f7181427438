//! SIGKILL of a server during writes: every acknowledged key is present after each restart.
//!
//! `TERRACE_KILLS` sets the number of rounds (default 8, 200 for the long run).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use redis::Commands;

use crate::support::{eventually, node::PATIENT, process::Process, resp::try_connection, setting_from_environment};

const WRITERS: usize = 4;

/// Writes until the server is killed; returns the acknowledged writes.
fn write(address: &str, round: usize, writer: usize, begun: &AtomicBool) -> HashMap<String, String> {
    let mut acknowledged = HashMap::new();
    // The server may be killed before this writer connects.
    let Ok(mut connection) = try_connection(address) else { return acknowledged };
    for count in 0.. {
        // Some keys are new, others are overwritten.
        let key = if count % 2 == 0 { format!("k:{round}:{writer}:{count}") } else { format!("hot:{writer}") };
        let value = format!("{round}-{writer}-{count}-{}", "x".repeat(count % 300));
        let written: redis::RedisResult<()> = connection.set(&key, &value);
        if written.is_err() {
            break;
        }
        acknowledged.insert(key, value);
        begun.store(true, Relaxed);
    }
    acknowledged
}

fn check(address: &str, expected: &HashMap<String, String>, unsure: &str) {
    let mut connection = try_connection(address).expect("it accepts");
    let keys: Vec<&String> = expected.keys().collect();
    for keys in keys.chunks(500) {
        let values: Vec<Option<String>> = redis::cmd("MGET").arg(keys).query(&mut connection).expect("it answers");
        for (key, value) in keys.iter().zip(values) {
            // The write that was in flight when the server was killed may have been executed.
            let newer = value.as_ref().is_some_and(|value| key.starts_with(unsure) && is_newer(value, &expected[*key]));
            assert!(newer || value.as_ref() == Some(&expected[*key]), "{key}: {value:?}, not {:?}", expected[*key]);
        }
    }
}

/// Returns whether the same writer wrote `value` after `known`.
fn is_newer(value: &str, known: &str) -> bool {
    let order = |text: &str| -> (usize, usize) {
        let mut parts = text.split('-').map(|part| part.parse().unwrap_or(0));
        let (round, _, count) = (parts.next(), parts.next(), parts.next());
        (round.unwrap_or(0), count.unwrap_or(0))
    };
    order(value) > order(known)
}

#[test]
fn acknowledged_writes_outlive_kill_9() {
    let rounds: usize = setting_from_environment("TERRACE_KILLS", 8);
    let seed = setting_from_environment("TERRACE_SEED", fastrand::u64(..));
    println!("{rounds} rounds, TERRACE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let mut all: HashMap<String, String> = HashMap::new();
    for round in 0..rounds {
        let server = Process::start(directory.path(), &PATIENT);
        check(&server.resp, &all, "hot:");
        let begun = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (address, begun) = (server.resp.clone(), Arc::clone(&begun));
                thread::spawn(move || write(&address, round, writer, &begun))
            })
            .collect();
        eventually("the first write", || begun.load(Relaxed));
        // This sleep waits for no condition: the kill should hit any moment of the writes.
        thread::sleep(Duration::from_millis(random.u64(0..60)));
        server.kill();
        for writer in writers {
            all.extend(writer.join().expect("the writer ends"));
        }
    }
    let server = Process::start(directory.path(), &PATIENT);
    check(&server.resp, &all, "hot:");
    println!("{} acknowledged keys after {rounds} kills, none lost", all.len());
    assert!(all.len() > rounds);
}
