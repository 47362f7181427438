//! The README tells the truth: its tables are those of the code, its examples run and print what it shows.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use terrace::{
    config::{POLICY_ROWS, Row, Sources, load},
    grpc::client::CacheClient,
    metrics::{ALL, Kind},
    proto::{GetRequest, ReadOptions, get_response::Result::Found},
};

use crate::support::{
    grpc::{block_on, connect},
    process::Process,
};

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The text between two marks.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("README.md holds {begin}"));
    rest.split_once(end).unwrap_or_else(|| panic!("README.md holds {end}")).0
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// A table must not end a cell early.
fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|")
}

fn settings_table() -> String {
    let mut table = String::from("| setting | default | what may be written | meaning |\n|---|---|---|---|\n");
    for row in Row::all() {
        let name =
            row.short_flag().map_or_else(|| format!("`{}`", row.key), |flag| format!("`{}`, `--{flag}`", row.key));
        let reloadable = if row.reloadable { " ↻" } else { "" };
        let (form, doc) = (cell(&(row.form)()), cell(row.doc));
        table += &format!("| {name}{reloadable} | `{}` | {form} | {doc} |\n", row.default_value().replace('"', ""));
    }
    table
}

fn policies_table() -> String {
    let mut table = String::from("| of a policy | default | what may be written | meaning |\n|---|---|---|---|\n");
    for row in POLICY_ROWS {
        let default = if row.default.is_empty() { "required".into() } else { format!("`{}`", row.default) };
        table += &format!("| `{}` | {default} | {} | {} |\n", row.key, cell(&(row.form)()), cell(row.doc));
    }
    table
}

fn metrics_table() -> String {
    let mut table = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        table += &format!("| `{}` | {kind} | {} | {} |\n", metric.name, metric.labels.join(", "), cell(metric.doc));
    }
    table
}

#[test]
fn its_tables_are_those_of_the_code() {
    let text = readme();
    let tables = [("settings", settings_table()), ("policies", policies_table()), ("metrics", metrics_table())];
    for (name, table) in tables {
        let begin = format!("<!-- {name}: ");
        let (_, shown) = between(&text, &begin, &format!("<!-- /{name} -->")).split_once("-->\n").unwrap();
        assert!(shown == table, "between the marks of {name} in README.md is to stand:\n{table}");
    }
}

#[test]
fn its_configuration_is_valid() {
    for block in blocks(&readme(), "toml") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("terrace.toml");
        fs::write(&path, block).unwrap();
        load(&Sources { file: Some(path), ..Sources::default() }).unwrap();
    }
}

#[test]
fn its_first_screen_names_the_two_commands_and_they_are_there() {
    let text = readme();
    let commands = &blocks(&text, "sh")[0];
    let commands: Vec<_> = commands.lines().map(|line| line.split(" #").next().unwrap().trim()).collect();
    assert_eq!(commands, ["cargo run --release -- serve", "tests/run.sh"]);
    let ci = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run")).unwrap();
    assert!(ci.contains("tests/run.sh"), "CI runs what the README names");
}

#[test]
fn its_subcommands_are_all_there_are() {
    let help = Command::new(env!("CARGO_BIN_EXE_terrace")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    // Long descriptions go on in further lines, deeper.
    let listed = between(&help, "Commands:\n", "\n\n").lines().filter(|line| !line.starts_with("   "));
    let listed = listed.map(|line| line.split_whitespace().next().unwrap());
    for command in listed.filter(|command| *command != "help") {
        assert!(readme().contains(&format!("| `terrace {command}")), "README.md tells of terrace {command}");
    }
}

/// A command and what it prints.
struct Example {
    command: String,
    output: String,
}

fn examples(text: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for line in blocks(text, "console").iter().flat_map(|block| block.lines()) {
        match line.strip_prefix("$ ") {
            Some(command) => examples.push(Example { command: command.into(), output: String::new() }),
            None => examples.last_mut().unwrap().output += &format!("{line}\n"),
        }
    }
    examples
}

fn installed(command: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {command}")]).stdout(Stdio::null()).status();
    found.unwrap().success()
}

#[test]
fn its_examples_print_what_it_shows() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(folder.path(), &[]);
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    let examples = examples(&readme());
    assert!(examples.len() >= 4);
    for Example { command, output } in examples {
        if command.starts_with("grpcurl ") && !installed("grpcurl") {
            assert_eq!(as_grpcurl(&server, &command), output, "{command}");
            continue;
        }
        let here = command
            .replace("127.0.0.1:7400", &server.grpc)
            .replace("127.0.0.1:7402", &server.http)
            .replace("-p 7401", &format!("-p {}", port(&server.resp)));
        assert_eq!(run(&here), output, "{command}");
    }
}

/// Makes the call of the example with the generated client, and prints the answer as grpcurl does.
fn as_grpcurl(server: &Process, command: &str) -> String {
    const CALL: &str =
        r#"'{"key": "Z3JlZXRpbmc=", "options": {"want_meta": true}}' 127.0.0.1:7400 terrace.v1.Cache/Get"#;
    assert!(command.ends_with(CALL), "another call: {command}");
    let options = Some(ReadOptions { want_meta: true, ..ReadOptions::default() });
    let request = GetRequest { key: "greeting".into(), options };
    let answer = block_on(async { CacheClient::new(connect(&server.grpc).await).get(request).await });
    let Some(Found(found)) = answer.unwrap().into_inner().result else { panic!("it is missing") };
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

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
