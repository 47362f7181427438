//! Client libraries of other languages, over the embedded store and over Redis. They come from their registries, so
//! this runs only with `TERRACE_TEST_CLIENTS=1`; `tests/clients/run.sh` does the work and can be run by hand.

use std::{path::Path, process::Command};

use terrace::config::Config;

use crate::support::{
    PATIENCE,
    redis::RedisServer,
    setting_from_environment,
    terrace::{Terrace, config},
};

fn run_clients(mut config: Config) {
    config.l2.read_timeout = PATIENCE;
    config.l2.write_timeout = PATIENCE;
    let terrace = Terrace::start(config);
    let (host, port) = terrace.resp().rsplit_once(':').unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/run.sh");
    let output = Command::new(script).args([host, port]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.matches(": ok").count() == 4, "{text}");
    print!("{text}");
}

#[test]
fn client_libraries_work_with_their_defaults() {
    if setting_from_environment("TERRACE_TEST_CLIENTS", 0) == 0 {
        println!("not run: TERRACE_TEST_CLIENTS=1 installs the libraries and runs it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut embedded = config();
    embedded.l2.url = "embedded".into();
    embedded.data.dir = dir.path().into();
    run_clients(embedded);
    let redis = RedisServer::start();
    let mut over = config();
    over.l2.url = redis.url();
    run_clients(over);
}
