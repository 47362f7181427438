//! Client libraries of other languages, over the embedded store and over Redis. The libraries are downloaded from their
//! registries, so the test runs only with `TERRACE_TEST_CLIENTS=1`. `tests/clients/run.sh` can also be run by hand.

use std::{fs, path::Path, process::Command};

use terrace::{
    access::SecretHash,
    config::{Config, TlsMode},
};

use crate::support::{
    certificates::Authority,
    command::printed,
    redis::RedisServer,
    setting_from_environment,
    terrace::{Terrace, config, config_embedded, config_patient},
};

/// A server with TLS and a user that may read and write keys with the prefix `app:`.
fn secured(authority: &Authority, folder: &Path) -> Terrace {
    let (certificate, key) = authority.issue(None).write(folder, "server");
    let users = folder.join("users.toml");
    let hash = SecretHash::of(b"token").to_text();
    let role = "[[role]]\nname = \"app\"\nkeys = [{ prefix = \"app:\", allow = [\"read\", \"write\"] }]\n";
    let user = format!("[[user]]\nname = \"app\"\nroles = [\"app\"]\nsecrets = [\"{hash}\"]\n");
    fs::write(&users, format!("{role}{user}")).unwrap();
    let mut secured = config();
    secured.tls.mode = TlsMode::On;
    secured.tls.cert_file = Some(certificate);
    secured.tls.key_file = Some(key);
    secured.auth.file = Some(users);
    Terrace::start(secured)
}

fn run_clients(tested: Config) {
    let terrace = Terrace::start(tested);
    let (host, port) = terrace.resp().rsplit_once(':').unwrap();
    let (_, grpc_port) = terrace.grpc().rsplit_once(':').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("grpc.sock");
    let mut on_socket = config();
    on_socket.grpc.addr = format!("unix:{}", socket.display());
    let _on_socket = Terrace::start(on_socket);
    let authority = Authority::new();
    let authority_file = authority.write(folder.path());
    let secured = secured(&authority, folder.path());
    let secured_port = |address: &str| address.rsplit_once(':').unwrap().1.to_owned();
    let secured_ports = [secured_port(secured.resp()), secured_port(secured.grpc())];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/run.sh");
    let mut command = Command::new(script);
    command.args([host, port, grpc_port]).arg(&socket).args(secured_ports).arg(authority_file).args(["app", "token"]);
    let output = command.output().unwrap();
    let text = printed(&output);
    assert!(output.status.success() && text.matches(": ok").count() == 12, "{text}");
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
