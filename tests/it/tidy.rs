//! Checks the architecture: permitted imports between modules, the home of each external crate, and required or
//! forbidden contents of files.
//!
//! Faults fail the test. Functions of more than 70 lines and files of more than 500 lines are only printed (`cargo test
//! tidy -- --nocapture`).

mod cycles;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Permitted imports, from higher to lower modules. Types of `config` reach constructors through `server`.
const MAY_IMPORT: [(&str, &[&str]); 27] = [
    ("main", &["cli"]),
    ("lib", &[]),
    (
        "cli",
        &[
            "access", "server", "config", "node", "grpc", "tls", "socket", "proto", "persist", "model", "error",
            "clock", "glob",
        ],
    ),
    (
        "server",
        &[
            "access", "grpc", "resp", "http", "jobs", "cache", "l1", "l2", "learn", "config", "node", "tls", "socket",
            "metrics", "model", "error", "clock", "glob",
        ],
    ),
    // Imports for the types of the settings.
    (
        "config",
        &["access", "clock", "cache", "l1", "l2", "node", "tls", "socket", "model", "error", "glob", "secret", "files"],
    ),
    (
        "grpc",
        &[
            "access", "cache", "node", "budget", "tls", "secret", "socket", "proto", "metrics", "model", "error",
            "clock", "glob",
        ],
    ),
    ("resp", &["access", "cache", "node", "budget", "socket", "metrics", "model", "error", "clock", "glob", "secret"]),
    ("http", &["access", "cache", "node", "budget", "tls", "socket", "metrics", "model", "error", "clock", "glob"]),
    ("jobs", &["access", "cache", "node", "budget", "tls", "persist", "metrics", "model", "error", "clock", "glob"]),
    ("cache", &["access", "l1", "l2", "learn", "persist", "budget", "metrics", "model", "error", "clock", "glob"]),
    ("access", &["socket", "model", "error", "clock", "secret", "files"]),
    ("l1", &["metrics", "model", "error", "clock", "glob"]),
    ("l2", &["tls", "metrics", "model", "error", "clock", "glob", "secret", "files"]),
    ("learn", &["persist", "metrics", "model", "error", "clock", "glob"]),
    ("node", &["budget", "tls", "model", "error", "clock"]),
    ("budget", &["error", "clock"]),
    ("model", &["error", "clock"]),
    ("glob", &["error"]),
    ("error", &[]),
    ("secret", &[]),
    ("files", &[]),
    ("clock", &[]),
    ("metrics", &[]),
    ("socket", &[]),
    // Certificates, handshakes and PEM files of both sides.
    ("tls", &["socket", "files", "clock"]),
    ("persist", &["model", "error"]),
    ("allocator", &[]),
];

/// Folders, or files with their folders, that must not import others of the same module, and the reason.
const MUST_NOT_IMPORT: [(&str, &[&str]); 4] = [
    // A row of the table names the function that runs the command: functions find rows in the table of their edge.
    ("resp/exec", &["resp/table", "resp/connection"]),
    ("resp/table", &["resp/connection"]),
    // The state of connections is a lower layer than the commands that change it.
    ("resp/session", &["resp/command", "resp/exec", "resp/table", "resp/connection"]),
    ("resp/port_state", &["resp/command", "resp/exec", "resp/table", "resp/connection", "resp/session"]),
];

/// Files with additional permitted imports, and the reason.
const EXCEPTIONS: [(&str, &[&str]); 3] = [
    // A capacity planner: it plays a trace through L1 and the learner alone, in process.
    ("cli/simulate.rs", &["l1", "learn"]),
    ("cli/simulate/engine.rs", &["l1", "learn"]),
    ("cli/simulate/ttl.rs", &["learn"]),
];

/// External crates and the folders that may use each: replacing a crate affects only these folders.
const HOMES: [(&str, &[&str]); 34] = [
    ("redis", &["l2/redis"]),
    ("fjall", &["l2/embedded"]),
    ("xxhash_rust", &["l2/embedded"]),
    ("redb", &["l2/embedded"]),
    ("bincode", &["l2/codec", "l2/loads/token", "learn/snapshot"]),
    ("tokio_rustls", &["tls", "socket", "grpc/client", "l2/redis/connection"]),
    ("rustls_native_certs", &["tls"]),
    ("webpki", &["tls"]),
    ("tonic", &["grpc", "cli", "lib.rs"]),
    ("tonic_health", &["grpc", "cli"]),
    ("tonic_reflection", &["grpc"]),
    ("prost", &["grpc", "lib.rs"]),
    ("axum", &["http"]),
    ("metrics", &["metrics.rs"]),
    ("metrics_exporter_prometheus", &["metrics.rs"]),
    ("metrics_process", &["metrics.rs"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("ratatui", &["cli"]),
    ("zstd", &["cli"]),
    ("opentelemetry", &["grpc/trace", "cli/traces"]),
    ("opentelemetry_sdk", &["grpc/trace", "cli/traces"]),
    ("opentelemetry_otlp", &["cli/traces"]),
    ("tracing_opentelemetry", &["grpc/trace", "cli/log"]),
    ("sd_listen_fds", &["cli"]),
    ("sd_notify", &["cli"]),
    ("toml", &["config", "access"]),
    ("ring", &["access", "tls", "grpc/client", "l2/redis"]),
    ("subtle", &["access"]),
    ("base64", &["access", "resp/lease_token"]),
    ("bytesize", &["config", "cli"]),
    ("strsim", &["config"]),
    ("terrace_client", &["cli"]),
    ("tikv_jemallocator", &["main.rs"]),
];

/// Crates with the name of a module of Terrace: only `use name` and `::name` refer to the crate.
const NAMED_AS_MODULES: [&str; 2] = ["redis", "metrics"];

/// Synchronous parts, which are tested with values.
const SYNCHRONOUS: [&str; 5] = ["l1/", "learn/", "glob.rs", "resp/frame", "l2/codec"];

const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 500;
/// Maximum number of files directly in a folder of the modules in [`NARROW`].
const FOLDER_FILES: usize = 15;
const NARROW: [&str; 3] = ["cache", "learn", "l2"];

/// A source file, with its path relative to `src` or `tests`.
struct Source {
    path: String,
    text: String,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the sources are there") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(read(&root, path));
            }
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    found
}

fn read(root: &Path, path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).expect("UTF-8");
    let path = path.strip_prefix(root).expect("below the root").to_str().expect("UTF-8").to_owned();
    Source { path, text }
}

impl Source {
    /// Returns the code without comments and without the tests at its end, which may import any module.
    fn code(&self) -> String {
        if self.path.ends_with("tests.rs") {
            return String::new();
        }
        let code = self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code = code.lines().map(|line| line.split("//").next().unwrap_or_default());
        code.collect::<Vec<_>>().join("\n")
    }

    /// Returns the module of the file: the first folder, or the file itself.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn word(text: &str) -> &str {
    &text[..text.find(|character| !is_word(character)).unwrap_or(text.len())]
}

/// Returns the modules of this crate that a piece of code names: `crate::a::...` and `crate::{a::..., b}`.
fn imports(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => modules.extend(listed(list)),
            None => modules.push(word(rest).to_owned()),
        }
    }
    modules.retain(|module| !module.is_empty() && module.chars().all(|letter| !letter.is_uppercase()));
    modules
}

/// Returns the first words of the items of a braced list.
fn listed(list: &str) -> Vec<String> {
    let (mut depth, mut item, mut items) = (0, String::new(), Vec::new());
    for character in list.chars() {
        match character {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ => {
                depth += i32::from(character == '{') - i32::from(character == '}');
                item.push(character);
            }
        }
    }
    items.push(item);
    items.iter().map(|item| word(item.trim()).to_owned()).collect()
}

fn forbidden_imports(source: &Source) -> Vec<String> {
    let module = source.module();
    let row = MAY_IMPORT.iter().find(|(name, _)| *name == module);
    let Some((_, allowed)) = row else { return vec![format!("{}: tidy.rs does not know {module}", source.path)] };
    let more = EXCEPTIONS.iter().find(|(path, _)| *path == source.path).map_or(&[][..], |(_, more)| more);
    let code = source.code();
    let imported = imports(&code).into_iter();
    let forbidden =
        imported.filter(|name| name != module && !allowed.contains(&name.as_str()) && !more.contains(&name.as_str()));
    forbidden.map(|name| format!("{}: {module} may not import {name}", source.path)).collect()
}

/// Returns whether code names an external crate: `name::` that is not part of a longer path, or `use name`.
fn names_crate(code: &str, name: &str) -> bool {
    let absolute = |at: usize| {
        let before = &code[..at];
        let outer = before.strip_suffix("::");
        match outer {
            Some(outer) => !outer.ends_with(|last| is_word(last) || last == '>'),
            None if NAMED_AS_MODULES.contains(&name) => before.trim_end().ends_with("use"),
            None => !before.ends_with(is_word),
        }
    };
    code.match_indices(&format!("{name}::")).any(|(at, _)| absolute(at))
}

fn homeless_crates(source: &Source) -> Vec<String> {
    let code = source.code();
    let away = HOMES
        .iter()
        .filter(|(name, homes)| names_crate(&code, name) && !homes.iter().any(|home| source.path.starts_with(home)));
    away.map(|(name, homes)| format!("{}: {name} lives in {}", source.path, homes.join(", "))).collect()
}

fn forbidden_words(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    if !source.text.starts_with("//!") {
        faults.push(format!("{}: begins without //!", source.path));
    }
    // Composed so that this file does not contain them.
    for word in [concat!("#[", "ignore"), concat!("db", "g!("), concat!("to", "do!("), concat!("unimple", "mented!(")] {
        if source.text.contains(word) {
            faults.push(format!("{}: holds {word}", source.path));
        }
    }
    if source.text.to_uppercase().contains(concat!("TO", "DO:")) || source.text.contains(concat!("FIX", "ME")) {
        faults.push(format!("{}: holds a note of unfinished work", source.path));
    }
    faults
}

fn asynchronous_code(source: &Source) -> Vec<String> {
    let synchronous = SYNCHRONOUS.iter().any(|part| source.path.starts_with(part));
    let code = if synchronous && source.path != "learn/recorder.rs" { source.code() } else { String::new() };
    let named = ["tokio::", "std::fs", "std::net", "async fn"].into_iter().filter(|name| code.contains(name));
    named.map(|name| format!("{}: is synchronous and without I/O, but holds {name}", source.path)).collect()
}

/// Returns functions and files that exceed the recommended length.
fn long(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    if lines.len() > FILE_LINES {
        found.push(format!("{}: {} lines", source.path, lines.len()));
    }
    for (start, line) in lines.iter().enumerate() {
        let begins = line.trim_start().split("fn ").next().is_some_and(|before| {
            line.contains("fn ")
                && before.split(' ').all(|word| "pub pub(super) pub(crate) async const ".contains(word))
        });
        let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let length = lines[start..].iter().position(|line| *line == end).map_or(0, |at| at + 1);
        // A method of a trait may have no body.
        let signature = lines[start..].iter().find(|line| line.ends_with('{') || line.ends_with(';'));
        if begins && signature.is_some_and(|line| line.ends_with('{')) && length > FUNCTION_LINES {
            found.push(format!("{}:{}: a function of {length} lines", source.path, start + 1));
        }
    }
    found
}

/// Returns whether a file belongs to this module: `resp/exec` has `resp/exec.rs` and all of `resp/exec/`.
fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

fn forbidden_edges(sources: &[Source]) -> Vec<String> {
    let edges = cycles::imports(sources);
    let forbidden = |from: &str, to: &str| {
        let mut rows = MUST_NOT_IMPORT.iter().filter(|(module, _)| is_within(from, module));
        rows.any(|(_, others)| others.iter().any(|other| is_within(to, other)))
    };
    let edges = edges.iter().flat_map(|(from, targets)| targets.iter().map(move |to| (from, to)));
    edges.filter(|(from, to)| forbidden(from, to)).map(|(from, to)| format!("{from} may not import {to}")).collect()
}

/// Returns folders with more files than a reader can survey.
fn wide_folders(sources: &[Source]) -> Vec<String> {
    let mut files: BTreeMap<&str, usize> = BTreeMap::new();
    for source in sources {
        if let Some((folder, _)) = source.path.rsplit_once('/')
            && NARROW.contains(&source.module())
        {
            *files.entry(folder).or_default() += 1;
        }
    }
    let wide = files.into_iter().filter(|(_, count)| *count > FOLDER_FILES);
    wide.map(|(folder, count)| format!("{folder}: {count} files directly in it, at most {FOLDER_FILES}")).collect()
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn modules_import_only_downwards() {
    assert_none(sources("src").iter().flat_map(forbidden_imports).collect());
}

#[test]
fn folders_import_only_what_they_may() {
    assert_none(forbidden_edges(&sources("src")));
}

#[test]
fn no_files_import_each_other_in_a_cycle() {
    assert_none(cycles::cycles(&sources("src")));
}

#[test]
fn folders_stay_narrow() {
    assert_none(wide_folders(&sources("src")));
}

#[test]
fn outside_crates_stay_at_home() {
    assert_none(sources("src").iter().flat_map(homeless_crates).collect());
}

#[test]
fn synchronous_parts_stay_synchronous() {
    assert_none(sources("src").iter().flat_map(asynchronous_code).collect());
}

#[test]
fn every_file_says_what_it_is_and_nothing_is_left_over() {
    let all = ["src", "tests", "benches", "examples", "clients"]
        .into_iter()
        .filter(|folder| Path::new(folder).exists())
        .flat_map(sources);
    assert_none(all.flat_map(|source| forbidden_words(&source)).collect());
}

#[test]
fn long_functions_and_files_are_reported() {
    let all = ["src", "tests", "benches", "examples", "clients"]
        .into_iter()
        .filter(|folder| Path::new(folder).exists())
        .flat_map(sources);
    for line in all.flat_map(|source| long(&source)) {
        println!("long: {line}");
    }
}

fn sample(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.into() }
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    for text in [
        "use crate::l1::L1;",
        "use crate::{\n    cache::Cache,\n    l1::{A, B},\n};",
        "use crate::{model::{Key, Value}, l1};",
        "fn f() { crate::l1::fetch(); }",
    ] {
        let faults = forbidden_imports(&sample("resp/exec.rs", text));
        assert_eq!(faults, ["resp/exec.rs: resp may not import l1"], "{text}");
    }
    let in_tests = "use crate::cache::Cache;\n#[cfg(test)]\nmod tests {\n    use crate::l1::L1;\n}";
    assert!(forbidden_imports(&sample("resp/exec.rs", in_tests)).is_empty());
    assert!(forbidden_imports(&sample("cli/simulate.rs", "use crate::l1::L1;")).is_empty());
    assert!(!forbidden_imports(&sample("cli/replay.rs", "use crate::l1::L1;")).is_empty());
}

#[test]
fn a_forbidden_import_within_a_module_is_found() {
    let sources = [
        sample("resp/exec/a.rs", "use crate::resp::table::ROWS; use super::super::command;"),
        sample("resp/table/a.rs", "use crate::resp::exec::a;"),
        sample("resp/table.rs", ""),
        sample("resp/exec/mod.rs", ""),
        sample("resp/command.rs", "use super::table;"),
    ];
    assert_eq!(forbidden_edges(&sources), ["resp/exec/a.rs may not import resp/table.rs"]);
}

#[test]
fn a_wide_folder_is_found() {
    let files =
        |folder: &str, count: usize| (0..count).map(|at| sample(&format!("{folder}/{at}.rs"), "")).collect::<Vec<_>>();
    assert!(wide_folders(&files("l2/redis", FOLDER_FILES)).is_empty());
    assert!(wide_folders(&files("resp/exec", FOLDER_FILES + 1)).is_empty());
    assert_eq!(wide_folders(&files("l2/redis", FOLDER_FILES + 1)).len(), 1);
}

#[test]
fn a_crate_away_from_home_is_found() {
    for text in ["use redis::Cmd;", "let a = ::redis::cmd();"] {
        assert_eq!(homeless_crates(&sample("cache/read.rs", text)).len(), 1, "{text}");
        assert!(homeless_crates(&sample("l2/redis/mod.rs", text)).is_empty(), "{text}");
    }
    assert_eq!(homeless_crates(&sample("cache/read.rs", "fn f(_: tonic::Status) {}")).len(), 1);
    // Modules of Terrace with the same name.
    for text in ["let a = redis::RedisSettings::new();", "use crate::l2::redis::url;", "use crate::metrics::Metrics;"] {
        assert!(homeless_crates(&sample("server/l2_tier.rs", text)).is_empty(), "{text}");
    }
}

#[test]
fn leftovers_and_long_functions_are_found() {
    let text = format!("fn f() {{ {}1); }}", concat!("db", "g!("));
    assert_eq!(forbidden_words(&sample("a.rs", &text)).len(), 2, "no //!, and a leftover");
    let body = "    g();\n".repeat(FUNCTION_LINES);
    assert_eq!(long(&sample("a.rs", &format!("pub fn f() {{\n{body}}}\n"))).len(), 1);
    assert!(long(&sample("a.rs", "pub fn f() {\n    g();\n}\n")).is_empty());
}
