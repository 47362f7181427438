//! Client commands with TLS and with a token.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use terrace::config::TlsMode;

use super::Files;
use crate::support::{
    certificates::Authority,
    command::{printed, terrace},
    terrace::Terrace,
};

/// Checks the exit code and a part of the output.
fn expect(output: &Output, code: i32, text: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", printed(output));
    assert!(printed(output).contains(text), "{text} is missing in {}", printed(output));
}

#[test]
fn every_client_command_connects_by_tls() {
    let files = Files::new();
    let mut config = files.config(TlsMode::On);
    config.l2.url = "embedded".into();
    config.data.dir = files.path("data");
    let server = Terrace::start(config);
    let (ca, keys, trace) = (files.path("ca.pem"), files.path("keys"), files.path("trace.csv"));
    fs::write(&keys, "a\n").unwrap();
    fs::write(&trace, "0,a,1\n").unwrap();
    let (ca, keys, trace) = (ca.to_str().unwrap(), keys.to_str().unwrap(), trace.to_str().unwrap());
    let recorded = files.path("recorded.csv");
    let recorded = recorded.to_str().unwrap();
    let by_name = server.grpc().replace("127.0.0.1", "localhost");
    for command in [
        &["stats"][..],
        &["explain", "a"],
        &["warm", keys],
        &["invalidate", "a*"],
        &["replay", trace],
        &["record", "--output", recorded, "--for", "1s"],
        &["health", "--ready"],
    ] {
        let run = |flags: &[&str]| terrace(&[command, &["--server", &by_name], flags].concat()).output().unwrap();
        let output = run(&["--tls", "--tls-ca", ca]);
        assert!(output.status.success(), "{command:?}: {}", printed(&output));
        let output = run(&[]);
        assert_eq!(output.status.code(), Some(1), "{command:?} without TLS: {}", printed(&output));
    }
    let stats = |flags: &[&str]| terrace(&[&["stats", "--server", &by_name][..], flags].concat()).output().unwrap();
    // The authority is unknown to this machine.
    expect(&stats(&["--tls"]), 1, "the certificate of the server was rejected");
    expect(&stats(&["--tls", "--tls-ca", "/nowhere"]), 64, "/nowhere: cannot read: No such file");
    expect(&stats(&["--tls-ca", ca]), 64, "--tls");
    expect(
        &terrace(&["stats", "--server", "unix:/nowhere", "--tls", "--tls-ca", ca]).output().unwrap(),
        64,
        "Unix sockets have no TLS",
    );
}

/// Runs `terrace health` in a container with this configuration.
fn health(server: &str, certificate: &Path, key: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_terrace"))
        .args(["health", "--ready", "--server", server])
        .args(args)
        .env("TERRACE_TLS_MODE", "on")
        .env("TERRACE_TLS_CERT_FILE", certificate)
        .env("TERRACE_TLS_KEY_FILE", key)
        .output()
        .unwrap()
}

#[test]
fn health_trusts_the_certificate_of_its_own_configuration_on_loopback() {
    let files = Files::new();
    let server = Terrace::start(files.config(TlsMode::On));
    let key = files.path("server.key");
    expect(&health(server.grpc(), &files.path("server.crt"), &key, &[]), 0, "ready, L2 ");
    let (other, _) = Authority::new().issue(None).write(files.folder.path(), "other");
    expect(&health(server.grpc(), &other, &key, &[]), 1, "the certificate of the server was rejected");
    let ca = files.path("ca.pem");
    let flags = ["--tls", "--tls-ca", ca.to_str().unwrap()];
    expect(&health(server.grpc(), &other, &key, &flags), 0, "ready, L2 ");
}

/// A server that records the `authorization` headers of calls and answers none.
fn headers() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (address, seen) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(Vec::new())));
    let keep = Arc::clone(&seen);
    let serve = async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let keep = Arc::clone(&keep);
            let answer = service_fn(move |request: Request<Incoming>| {
                let header = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
                keep.lock().unwrap().push(header.unwrap_or_default());
                let response = Response::builder().header("grpc-status", "7").header("grpc-message", "refused");
                let body = http_body_util::Empty::<bytes::Bytes>::new();
                async move { Ok::<_, hyper::Error>(response.header("content-type", "application/grpc").body(body).unwrap()) }
            });
            let connection = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
        }
    };
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve)
    });
    (address, seen)
}

#[test]
fn a_token_is_sent_to_local_servers_and_by_tls_only() {
    let (address, seen) = headers();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "s3cret\r\nsecond line\n").unwrap();
    let file = file.to_str().unwrap();
    expect(&terrace(&["stats", "--server", &address, "--token-file", file]).output().unwrap(), 1, "refused");
    let by_variable =
        terrace(&["explain", "k", "--server", &address]).env("TERRACE_TOKEN_FILE", file).output().unwrap();
    expect(&by_variable, 1, "refused");
    expect(&terrace(&["explain", "k", "--server", &address]).output().unwrap(), 1, "refused");
    assert_eq!(*seen.lock().unwrap(), ["Bearer s3cret", "Bearer s3cret", ""]);
    // Addresses for documentation: nothing is sent to them.
    for remote in ["192.0.2.1:7400", "cache.example:7400"] {
        let output = terrace(&["stats", "--server", remote, "--token-file", file]).output().unwrap();
        expect(&output, 64, "a token is sent only with --tls, to a loopback address or to a Unix socket");
        assert!(!printed(&output).contains("s3cret"));
    }
    fs::write(file, "\n").unwrap();
    let empty = terrace(&["stats", "--server", &address, "--token-file", file]).output().unwrap();
    expect(&empty, 1, "is empty; expected a token of 1 to 1024 bytes");
    // The server does not warn of the variable.
    let config = terrace(&["config"]).env("TERRACE_TOKEN_FILE", file).output().unwrap();
    assert!(!printed(&config).contains("TERRACE_TOKEN_FILE"), "{}", printed(&config));
}
