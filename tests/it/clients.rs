//! Client libraries of other languages, over the embedded store and over Redis. The libraries are downloaded from their
//! registries, so the test runs only with `TERRACE_TEST_CLIENTS=1`. `tests/clients/run.sh` can also be run by hand.

use std::{path::Path, process::Command};

use terrace::config::Config;

use crate::support::{
    command::printed,
    redis::RedisServer,
    setting_from_environment,
    terrace::{Terrace, config, config_embedded, config_patient},
};

fn run_clients(tested: Config) {
    let terrace = Terrace::start(tested);
    let (host, port) = terrace.resp().rsplit_once(':').unwrap();
    let (_, grpc_port) = terrace.grpc().rsplit_once(':').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("grpc.sock");
    let mut on_socket = config();
    on_socket.grpc.addr = format!("unix:{}", socket.display());
    let _on_socket = Terrace::start(on_socket);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/run.sh");
    let output = Command::new(script).args([host, port, grpc_port]).arg(&socket).output().unwrap();
    let text = printed(&output);
    assert!(output.status.success() && text.matches(": ok").count() == 6, "{text}");
    print!("{text}");
}

#[test]
fn client_libraries_work_with_their_defaults() {
    if setting_from_environment("TERRACE_TEST_CLIENTS", 0) == 0 {
        println!("not run: TERRACE_TEST_CLIENTS=1 installs the libraries and runs it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    run_clients(config_embedded(dir.path()));
    let redis = RedisServer::start();
    run_clients(config_patient(redis.url()));
}
