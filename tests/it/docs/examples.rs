//! `console` blocks: the commands of each page run against a fresh server and print what the page shows.
//!
//! A command is a line that begins with `$ `; a trailing backslash continues it. The subsequent lines are its output,
//! in which a line `...` matches any number of lines. Addresses and ports of a default server are replaced by those of
//! the test server and restored in the output. A `terrace` subcommand that calls a server gets `--server`. Blocks in
//! other languages (`sh`) do not run.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use terrace::{
    grpc::client::CacheClient,
    proto::{GetRequest, ReadOptions, get_response::Result::Found},
};

use crate::support::{
    grpc::{block_on, connect},
    markdown::{Page, documentation},
    process::Process,
};

/// A command and its output.
#[derive(Debug, PartialEq)]
struct Example {
    command: String,
    output: String,
}

fn examples(page: &Page) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for block in page.blocks_of("console") {
        let block = block.replace("\\\n", " ");
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => examples.push(Example { command: command.into(), output: String::new() }),
                None => examples.last_mut().expect("output follows a command").output += &format!("{line}\n"),
            }
        }
    }
    examples
}

/// Subcommands that call a server.
const CALLERS: [&str; 7] = ["explain", "health", "invalidate", "replay", "stats", "top", "warm"];

/// Returns the output with the addresses of a default server.
fn restored(output: &str, server: &Process) -> String {
    output
        .replace(&server.grpc, "127.0.0.1:7400")
        .replace(&server.resp, "127.0.0.1:7401")
        .replace(&server.http, "127.0.0.1:7402")
}

/// Returns the command with the addresses of `server`.
fn adapted(command: &str, server: &Process) -> String {
    let port = server.resp.rsplit(':').next().unwrap();
    let command = command
        .replace("127.0.0.1:7400", &server.grpc)
        .replace("127.0.0.1:7402", &server.http)
        .replace("-p 7401", &format!("-p {port}"));
    let is_caller = command
        .strip_prefix("terrace ")
        .is_some_and(|rest| CALLERS.contains(&rest.split(' ').next().unwrap_or_default()));
    if !is_caller || command.contains("--server") {
        return command;
    }
    let (call, rest) =
        command.split_once(" | ").map_or((&*command, String::new()), |(call, rest)| (call, format!(" | {rest}")));
    format!("{call} --server {}{rest}", server.grpc)
}

fn run(command: &str, folder: &Path) -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_terrace")).parent().unwrap().display().to_string();
    let script = format!("PATH={programs}:$PATH; {command}");
    let output = Command::new("sh").args(["-c", &script]).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns whether `output` matches the page, on which a line `...` matches any lines.
fn matches(shown: &str, output: &str) -> bool {
    let parts: Vec<&str> = shown.split("...\n").collect();
    let [first, middle @ .., last] = &parts[..] else { return shown == output };
    let Some(mut rest) = output.strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn has_grpcurl() -> bool {
    Command::new("sh").args(["-c", "command -v grpcurl"]).stdout(Stdio::null()).status().unwrap().success()
}

#[test]
fn console_blocks_print_what_the_pages_show() {
    for page in documentation() {
        let examples = examples(&page);
        if examples.is_empty() {
            continue;
        }
        let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let server = Process::start(data.path(), &[]);
        for Example { command, output } in examples {
            let printed = if command.starts_with("grpcurl ") && !has_grpcurl() {
                as_grpcurl(&server, &command)
            } else {
                restored(&run(&adapted(&command, &server), folder.path()), &server)
            };
            assert!(matches(&output, &printed), "{}: {command}\nshows:\n{output}\nprinted:\n{printed}", page.path);
        }
    }
}

/// Makes the call of the example with the generated client, and prints the response as grpcurl does.
fn as_grpcurl(server: &Process, command: &str) -> String {
    const CALL: &str =
        r#"'{"key": "Z3JlZXRpbmc=", "options": {"want_meta": true}}' 127.0.0.1:7400 terrace.v1.Cache/Get"#;
    assert!(command.ends_with(CALL), "grpcurl is not installed, and this test can only make another call: {command}");
    let options = Some(ReadOptions { want_meta: true, ..ReadOptions::default() });
    let request = GetRequest { key: "greeting".into(), options };
    let answer = block_on(async { CacheClient::new(connect(&server.grpc).await).get(request).await });
    let Some(Found(found)) = answer.unwrap().into_inner().result else { panic!("the key is missing") };
    assert_eq!((&found.value[..], found.stale, found.ttl_ms), (&b"hello"[..], false, None));
    let tier = found.tier().as_str_name();
    let (age, size, hits) = (found.age_ms.unwrap(), found.size.unwrap(), found.l1_hits.unwrap());
    let fields = [
        "\"value\": \"aGVsbG8=\"".to_owned(),
        format!("\"tier\": \"{tier}\""),
        format!("\"ageMs\": \"{age}\""),
        format!("\"size\": \"{size}\""),
        format!("\"l1Hits\": \"{hits}\""),
    ];
    let fields = fields.map(|field| format!("    {field}")).join(",\n") + "\n";
    format!("{{\n  \"found\": {{\n{fields}  }}\n}}\n")
}

#[test]
fn examples_are_found_and_compared() {
    let text = "```sh\n$ no\n```\n```console\n$ a \\\nb\none\n...\n$ c\n```\n";
    let page = Page { path: "a.md".into(), text: text.into() };
    let first = Example { command: "a  b".into(), output: "one\n...\n".into() };
    assert_eq!(examples(&page), [first, Example { command: "c".into(), output: String::new() }]);
    for (shown, output, is_same) in [
        ("a\n", "a\n", true),
        ("a\n", "a\nb\n", false),
        ("", "", true),
        ("a\n...\n", "a\nb\nc\n", true),
        ("a\n...\n", "b\n", false),
        ("a\n...\nc\n", "a\nb\nc\n", true),
        ("a\n...\nc\n", "a\nb\nc\nd\n", false),
        ("...\nb\n...\n", "a\nb\nc\n", true),
    ] {
        assert_eq!(matches(shown, output), is_same, "{shown:?} {output:?}");
    }
}
