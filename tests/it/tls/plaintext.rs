//! Clients without TLS on ports with TLS, and the reverse: both end quickly, with a reason.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::Command,
};

use terrace::config::TlsMode;

use super::Files;
use crate::support::{
    PATIENCE,
    certificates::connect,
    command::printed,
    eventually,
    grpc::block_on,
    http::exchange,
    process::Process,
    terrace::{Terrace, config},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Sends bytes and returns everything that the server sends until it closes the connection.
fn answer(address: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn a_client_without_tls_gets_the_reason_in_its_own_protocol() {
    let files = Files::new();
    let server = Terrace::start(files.config(TlsMode::On));
    let resp = String::from_utf8(answer(server.resp(), b"*1\r\n$4\r\nPING\r\n")).unwrap();
    assert_eq!(resp, "-ERR this port requires TLS; connect with TLS (redis-cli --tls)\r\n");
    let port = server.resp().rsplit_once(':').unwrap().1;
    let cli = Command::new("redis-cli").args(["-p", port, "PING"]).output().unwrap();
    assert!(printed(&cli).contains("requires TLS"), "{cli:?}");
    let http = exchange(server.http(), b"GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(http.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{http}");
    assert!(http.ends_with("\r\n\r\nthis port requires TLS; use an https:// URL\n"), "{http}");
    assert!(answer(server.grpc(), PREFACE).ends_with(b"this port requires TLS"));
    assert_eq!(answer(server.grpc(), b"GET / HTTP/1.1\r\n\r\n"), b"");
    // A gRPC client reports the reason.
    let error = block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.grpc())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        terrace::grpc::client::AdminClient::new(channel).get_config(terrace::proto::GetConfigRequest {}).await
    });
    let error = format!("{:?}", error.unwrap_err());
    assert!(error.contains("INADEQUATE_SECURITY") || error.contains("requires TLS"), "{error}");
}

#[test]
fn a_client_with_tls_is_closed_by_a_port_without() {
    let files = Files::new();
    let server = Terrace::start(config());
    // The start of a handshake is enough.
    let hello = |address: &str| exchange(address, b"\x16\x03\x01");
    assert_eq!(hello(server.resp()), "-ERR this port has no TLS\r\n");
    assert!(hello(server.http()).starts_with("HTTP/1.1 400 Bad Request\r\n"));
    for address in [server.grpc(), server.resp(), server.http()] {
        let error = connect(address, &files.client()).err().unwrap();
        // An answer that is no TLS record, or the end of the connection.
        let ends = [ErrorKind::InvalidData, ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
        assert!(ends.contains(&error.kind()), "{address}: {error:?}");
    }
}

#[test]
fn the_log_names_the_port_at_most_five_times_a_minute() {
    let files = Files::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path(name).display().to_string();
    let (cert, key) = (path("server.crt"), path("server.key"));
    let process = Process::start(
        folder.path(),
        &["--resp-tls-mode", "on", "--tls-cert-file", &cert, "--tls-key-file", &key, "--l2", "none"],
    );
    for _ in 0..20 {
        assert!(answer(&process.resp, b"PING\r\n").starts_with(b"-ERR"));
        for plain in [&process.grpc, &process.http] {
            assert!(connect(plain, &files.client()).is_err());
        }
    }
    let lines = |words: &str| process.log().lines().filter(|line| line.contains(words)).count();
    let resp = "closed a connection without TLS on a port that requires TLS port=\"resp\" peer=\"127.0.0.1\"";
    eventually("the lines are logged", || lines(resp) == 5);
    for port in ["grpc", "http"] {
        let line = format!("closed a TLS connection on a port without TLS; set {port}.tls_mode");
        eventually("the lines are logged", || lines(&line) == 5);
    }
}
