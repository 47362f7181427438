//! The log: text or JSON, sampled requests, repeated messages.

use std::io::Write;

use redis::Commands;
use serde_json::Value;
use terrace::{
    grpc::client::CacheClient,
    proto::{GetRequest, TouchRequest},
};

use crate::support::{
    eventually,
    grpc::{block_on, connect},
    process::Process,
    resp::connection,
};

fn server(args: &[&str]) -> (Process, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    (Process::start(data.path(), &[&["--l2", "none"], args].concat()), data)
}

fn config_set(client: &mut redis::Connection, key: &str, value: &str) {
    redis::cmd("CONFIG").arg("SET").arg(key).arg(value).exec(client).unwrap();
}

/// The logged requests so far.
fn requests(server: &Process) -> Vec<String> {
    server.log().lines().filter(|line| line.contains("terrace::request")).map(str::to_owned).collect()
}

#[test]
fn json_is_one_object_a_line() {
    let (server, _data) = server(&["--server-log-format", "json", "--server-log-requests", "1"]);
    let mut client = connection(&server.resp);
    client.set::<_, _, ()>("quotes\"", "\n").unwrap();
    config_set(&mut client, "server.max_value", "1MiB");
    eventually("the last line is there", || server.log().contains("CONFIG SET"));
    for line in server.log().lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "message", "target"] {
            assert!(event[field].is_string(), "{field}: {line}");
        }
    }
}

#[test]
fn the_first_line_names_version_l2_and_configuration_without_secrets() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("terrace.toml");
    std::fs::write(&file, "[l1]\nsize = \"64MiB\"\n").unwrap();
    let args = ["--l2", "redis://user:hunter2@127.0.0.1:1", "--config", file.to_str().unwrap()];
    let server = Process::start(data.path(), &args);
    let line = || server.log().lines().find(|line| line.contains("starting")).map(str::to_owned);
    eventually("the line is there", || line().is_some());
    let line = line().unwrap();
    for wanted in [
        &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")),
        "l2=\"redis://user:***@127.0.0.1:1/0\"",
        &format!("configuration=\"file {}, ", file.display()),
        "flags ",
        " --l2",
    ] {
        assert!(line.contains(wanted), "{wanted}: {line}");
    }
    assert!(!server.log().contains("hunter2"));
}

#[test]
fn drawn_requests_are_logged_with_how_they_ended_and_without_keys() {
    let (server, _data) = server(&["--server-log-requests", "1"]);
    let mut client = connection(&server.resp);
    client.set::<_, _, ()>("secret-key", "secret-value").unwrap();
    let _found: String = client.get("secret-key").unwrap();
    let refused = redis::cmd("INCR").arg("secret-key").query::<i64>(&mut client);
    assert!(refused.is_err());
    block_on(async {
        let mut cache = CacheClient::new(connect(&server.grpc).await);
        cache.get(GetRequest { key: "secret-key".into(), options: None }).await.unwrap();
        let touch = TouchRequest { key: "secret-key".into(), ttl_ms: Some(-1), ..TouchRequest::default() };
        cache.touch(touch).await.unwrap_err();
    });
    for wanted in [
        "port=\"resp\" command=\"set\" requests=1 failed=false",
        "port=\"resp\" command=\"get\" requests=1 failed=false",
        "port=\"resp\" command=\"incr\" requests=1 failed=true",
        "port=\"grpc\" method=\"/terrace.v1.Cache/Get\" status=\"0\"",
        "port=\"grpc\" method=\"/terrace.v1.Cache/Touch\" status=\"3\"",
    ] {
        eventually(wanted, || requests(&server).iter().any(|line| line.contains(wanted)));
    }
    assert!(!server.log().contains("secret"), "{}", server.log());
    // From here on no request is logged; requests before the marker are logged before it.
    config_set(&mut client, "server.log_requests", "0");
    let _found: String = client.get("secret-key").unwrap();
    config_set(&mut client, "server.log_requests", "1");
    redis::cmd("ECHO").arg("marker").exec(&mut client).unwrap();
    eventually("the marker is logged", || requests(&server).iter().any(|line| line.contains("\"echo\"")));
    let gets = requests(&server).iter().filter(|line| line.contains("command=\"get\"")).count();
    assert_eq!(gets, 1, "{}", server.log());
}

#[test]
fn a_message_that_repeats_is_written_a_few_times() {
    let (server, _data) = server(&[]);
    let mut client = connection(&server.resp);
    for _ in 0..25 {
        for value in ["1MiB", "2MiB"] {
            config_set(&mut client, "server.max_value", value);
        }
    }
    // Another message of the same place is logged.
    config_set(&mut client, "grpc.timeout", "7s");
    eventually("the last message is there", || server.log().contains("grpc.timeout"));
    let repeated = server.log().lines().filter(|line| line.contains("server.max_value")).count();
    assert_eq!(repeated, 5, "{}", server.log());
}

/// grpcio sends such an authority for `unix:` targets. HTTP/2 rejects the call before any service sees it.
#[test]
fn an_invalid_authority_is_logged_with_its_remedy() {
    let (server, _data) = server(&[]);
    let mut stream = std::net::TcpStream::connect(&server.grpc).unwrap();
    let mut headers = vec![0x83, 0x86]; // POST, http
    for (name, value) in [(4, "/terrace.v1.Cache/Get"), (1, "tmp%2Fterrace%2Fgrpc.sock")] {
        headers.extend([name, u8::try_from(value.len()).unwrap()]);
        headers.extend(value.bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // SETTINGS
    bytes.extend([0, 0, u8::try_from(headers.len()).unwrap(), 1, 5, 0, 0, 0, 1]); // HEADERS, all of stream 1
    bytes.extend(headers);
    stream.write_all(&bytes).unwrap();
    eventually("the warning is logged", || {
        server.log().lines().any(|line| line.contains("WARN") && line.contains("grpc.default_authority"))
    });
}
