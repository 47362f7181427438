//! `terrace replay` against a running server.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::terrace::{Terrace, config};

fn trace(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".csv").tempfile().expect("a file");
    file.write_all(content).expect("written");
    file
}

fn replay(server: &str, content: &[u8], args: &[&str]) -> Output {
    let file = trace(content);
    Command::new(env!("CARGO_BIN_EXE_terrace"))
        .args(["replay", "--server", server])
        .arg(file.path())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn result(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn a_trace_is_played_and_counted_as_the_server_counts() {
    let server = Terrace::start(config());
    let lines: String = (0..3000).map(|n| format!("{}.5,key:{},{}\n", n / 100, n % 700, n % 50)).collect();
    let result = result(&replay(server.grpc(), lines.as_bytes(), &["--format", "json"]));
    assert_eq!((&result["requests"], &result["errors"], &result["skipped"]), (&3000.into(), &0.into(), &0.into()));
    assert_eq!((&result["miss"], &result["hit_l1"], &result["hit_l2"]), (&700.into(), &2300.into(), &0.into()));
    let bytes: u64 = (0..3000).map(|n| u64::from(n % 700 % 50_u32)).sum();
    assert_eq!(result["bytes"], bytes);
    for name in ["trace", "seconds", "per_second", "mean_us", "p50_us", "p99_us", "p999_us"] {
        assert!(!result[name].is_null(), "{name} is missing in {result}");
    }
}

#[test]
fn callers_and_connections_change_nothing_about_the_counts() {
    let server = Terrace::start(config());
    let lines: String = (0..2000).map(|n| format!("0,key:{}:{},9,,caller-{}\n", n % 20, n / 20 % 50, n % 20)).collect();
    let packed = zstd::encode_all(lines.as_bytes(), 3).expect("packed");
    let args = ["--connections", "4", "--in-flight", "3", "--format", "json"];
    let result = result(&replay(server.grpc(), &packed, &args));
    // Each key belongs to one caller, whose requests stay in order: exactly the first of each misses.
    assert_eq!((&result["miss"], &result["hit_l1"]), (&1000.into(), &1000.into()));
}

#[test]
fn what_is_over_a_limit_is_counted_and_skipped() {
    let server = Terrace::start(config());
    let long = "k".repeat(65_537);
    let lines = format!("0,a,1\n0,{long},1\n0,b,8388609\n0,__terrace:x,1\n0,a,1\n");
    let result = result(&replay(server.grpc(), lines.as_bytes(), &["--format", "json"]));
    assert_eq!((&result["requests"], &result["skipped"], &result["errors"]), (&2.into(), &3.into(), &0.into()));
}

#[test]
fn real_time_takes_as_long_as_the_trace() {
    let server = Terrace::start(config());
    let result = result(&replay(server.grpc(), b"100,a,1\n100.4,b,1\n", &["--speed", "1", "--format", "json"]));
    assert!(result["seconds"].as_f64().expect("a number") >= 0.4, "{result}");
}

#[test]
fn text_names_every_figure() {
    let server = Terrace::start(config());
    let output = replay(server.grpc(), b"0,a,1\n", &[]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let wanted =
        "trace requests errors skipped seconds per_second mean_us p50_us p99_us p999_us hit_l1 hit_l2 miss bytes";
    assert_eq!(names.join(" "), wanted);
}

#[test]
fn a_damaged_trace_is_refused_before_the_server_is_asked() {
    let server = Terrace::start(config());
    let packed = zstd::encode_all("0,a,1\n".repeat(10_000).as_bytes(), 3).expect("packed");
    for (content, naming) in
        [(&b"0,a,1\n0,b\n"[..], ":2:"), (&packed[..packed.len() - 7], "compressed data is incomplete")]
    {
        let output = replay(server.grpc(), content, &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(naming), "{told}");
    }
    let output = replay("127.0.0.1:1", b"0,a,1\n", &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("cannot connect to 127.0.0.1:1"), "{told}");
}
