//! Wrong uses of `#[cached]`: the errors of the compiler, and the code that they mark.
//!
//! Each case is compiled with the macro alone: its errors occur before the compiler looks for types.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// A function that is correct, for cases about the options.
const FUNCTION: &str = "async fn user(client: &Client, id: u64) -> Result<Option<User>, AppError> { load() }";

/// Wrong options for [`FUNCTION`]: the options, the marked code, and a part of the message.
const OPTIONS: [(&str, &str, &str); 32] = [
    ("", "#[cached()]", "the option `key` is missing"),
    ("ttl = \"5m\"", "#[cached(ttl = \"5m\")]", "the option `key` is missing"),
    ("key = \"\"", "\"\"", "the template is empty"),
    ("key = 7", "7", "expected string literal"),
    ("key = \"user:{id\"", "\"user:{id\"", "a `{` of \"user:{id\" has no `}`"),
    ("key = \"user:id}\"", "\"user:id}\"", "a `}` of \"user:id}\" has no `{`"),
    ("key = \"user:{}\"", "\"user:{}\"", "the name \"\" in \"user:{}\" is not valid"),
    ("key = \"user:{name}\"", "\"user:{name}\"", "the function has no parameter `name`; it has id"),
    ("key = \"user:{client}\"", "\"user:{client}\"", "`client` is the client of the cache"),
    ("key = \"user:{id}{id}\"", "\"user:{id}{id}\"", "have no text between them"),
    ("key = \"u:{id}\", key = \"v:{id}\"", "key", "the option `key` is set twice"),
    ("key = \"u:{id}\", tll = \"5m\"", "tll", "unknown option `tll`; expected one of key, ttl, stale"),
    ("key = \"u:{id}\", ttl = \"5\"", "\"5\"", "\"5\" is not a duration; expected a duration with a unit"),
    ("key = \"u:{id}\", ttl = 300", "300", "300 is not a duration"),
    ("key = \"u:{id}\", ttl = \"5M\"", "\"5M\"", "has the unit M, which is a month"),
    ("key = \"u:{id}\", ttl = \"0s\"", "\"0s\"", "expected at least 1ms"),
    ("key = \"u:{id}\", stale = \"10us\"", "\"10us\"", "not a multiple of 1ms"),
    ("key = \"u:{id}\", wait = \"10m\"", "\"10m\"", "expected at most 5m"),
    ("key = \"u:{id}\", lease = \"10ms\"", "\"10ms\"", "expected at least 100ms"),
    ("key = \"u:{id}\", tags = \"a\"", "\"a\"", "expected square brackets"),
    ("key = \"u:{id}\", tags = [TEAM]", "TEAM", "a tag is a text such as"),
    ("key = \"u:{id}\", tags = [\"\"]", "\"\"", "the template is empty"),
    ("key = \"u:{id}\", tags = [\"team:{team}\"]", "\"team:{team}\"", "no parameter `team`; it has id"),
    ("key = \"u:{id}\", skip(name)", "name", "the function has no parameter `name`; it has id"),
    ("key = \"u:{id}\", skip(id)", "id", "`id` is in the key or in a tag, and cannot be skipped"),
    ("key = \"u:{id}\", on_unavailable = \"fail\"", "\"fail\"", "expected \"load\", \"stale\" or \"error\""),
    ("key = \"u:{id}\", on_unavailable = Stale", "Stale", "expected string literal"),
    ("key = \"u:{id}\", share_errors = 1", "1", "expected boolean literal"),
    ("key = \"u:{id}\", client", "#[cached(key = \"u:{id}\", client)]", "expected `=`"),
    ("key = \"u:{id}\" ttl = \"5m\"", "ttl", "expected `,`"),
    ("key = \"all\"", "id", "`id` is not in the key: calls with different values of `id` would share one result"),
    (
        "key = \"{id}\", tags = [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\"]",
        "[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\"]",
        "17 tags; expected at most 16",
    ),
];

/// Functions that cannot be cached: options, function, marked code, and a part of the message.
const FUNCTIONS: [(&str, &str, &str, &str); 21] = [
    ("key = \"a\"", "fn f(client: &Client) -> Result<u8, E> { load() }", "fn", "`f` is not async"),
    ("key = \"a\"", "struct S;", "struct", "expected"),
    ("key = \"a\"", "impl S { async fn f(&self) -> Result<u8, E> { load() } }", "impl", "expected"),
    ("key = \"a\"", "async fn f() -> Result<u8, E> { load() }", "f", "`f` has no parameter of type &Client"),
    (
        "key = \"a\"",
        "async fn f(http: &reqwest::Client) -> Result<u8, E> { load() }",
        "f",
        "`f` has no parameter of type &Client; add one, or set client = EXPRESSION",
    ),
    (
        "key = \"a\"",
        "async fn f(a: &Client, b: &terrace_client::Client) -> Result<u8, E> { load() }",
        "&terrace_client::Client",
        "`a` and `b` have the type &Client; select one with client = a",
    ),
    (
        "key = \"a\", client = C",
        "async fn f((a, b): (u8, u8)) -> Result<u8, E> { load() }",
        "(a, b)",
        "is a name, not a pattern",
    ),
    (
        "key = \"a\", client = C",
        "async fn f(db: &mut Db) -> Result<u8, E> { load() }",
        "&mut Db",
        "a mutable reference",
    ),
    ("key = \"a\", client = C", "async fn f(db: &dyn Db) -> Result<u8, E> { load() }", "&dyn Db", "take an Arc of it"),
    (
        "key = \"a\", client = C",
        "async fn f(db: &impl Db) -> Result<u8, E> { load() }",
        "&impl Db",
        "a generic parameter with a name",
    ),
    (
        "key = \"{a}\", client = C",
        "async fn f(a: impl Display) -> Result<u8, E> { load() }",
        "impl Display",
        "anonymous type",
    ),
    (
        "key = \"{a}\", client = C",
        "async fn f(a: u8, b: Option<&str>) -> Result<u8, E> { load() }",
        "Option<&str>",
        "`b` contains a reference, which the loader cannot keep",
    ),
    (
        "key = \"{a}\", client = C",
        "async fn f(a: Cow<'_, str>) -> Result<u8, E> { load() }",
        "Cow<'_, str>",
        "contains a reference",
    ),
    (
        "key = \"{a}\", client = C",
        "async fn f(a: u8, b: &str) -> Result<u8, E> { load() }",
        "b",
        "`b` is not in the key",
    ),
    (
        "key = \"{a}\", client = C",
        "async fn f(a: u8, b: &[u8]) -> Result<u8, E> { load() }",
        "b",
        "`b` is not in the key",
    ),
    (
        "key = \"{a}\", client = C",
        "async fn f(a: u8, db: Db) -> Result<u8, E> { load() }",
        "db",
        "or skip(db) if the result does not",
    ),
    (
        "key = \"a\", client = C",
        "async fn f() { load() }",
        "#[cached(key = \"a\", client = C)]",
        "returns Result<Option<T>, E>",
    ),
    ("key = \"a\", client = C", "async fn f() -> Option<u8> { load() }", "Option<u8>", "returns Result<Option<T>, E>"),
    (
        "key = \"a\", client = C",
        "async fn f() -> fmt::Result { load() }",
        "fmt::Result",
        "returns Result<Option<T>, E>",
    ),
    (
        "key = \"a\", client = C, negative_ttl = \"5s\"",
        "async fn f() -> Result<u8, E> { load() }",
        "negative_ttl",
        "negative_ttl requires a function that returns Result<Option<T>, E>",
    ),
    (
        "key = \"a\"",
        "async fn f(self, client: &Client) -> Result<u8, E> { load() }",
        "self",
        "a method cannot be cached",
    ),
];

/// Returns the newest library of the macro: the one that was built with this test.
fn library() -> PathBuf {
    let folder = std::env::current_exe().expect("the path of this test").parent().expect("a folder").to_owned();
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libterrace_client_macros-") && (name.ends_with(".so") || name.ends_with(".dylib"))
    };
    let files = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("an entry").path());
    let modified = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).expect("a time");
    files.filter(is_library).max_by_key(modified).expect("the library was built")
}

/// Compiles code. Returns the messages of the macro and the code that each marks.
fn errors(library: &Path, options: &str, function: &str) -> Vec<(String, String)> {
    let mut externs = std::ffi::OsString::from("terrace_client_macros=");
    externs.push(library);
    let mut compiler = Command::new("rustc")
        .args([
            "--edition=2024",
            "--crate-type=lib",
            "--emit=metadata",
            "-o",
            "/dev/null",
            "--error-format=json",
            "-",
            "--extern",
        ])
        .arg(externs)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rustc starts");
    let code = format!("use terrace_client_macros::cached;\n#[cached({options})]\n{function}\n");
    compiler.stdin.take().expect("piped").write_all(code.as_bytes()).expect("rustc reads");
    let output = compiler.wait_with_output().expect("rustc ends");
    let lines = String::from_utf8(output.stderr).expect("UTF-8");
    let diagnostics = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    // Errors with a code are those of the compiler, about types that the case does not define.
    let is_summary = |diagnostic: &Value| diagnostic["spans"].as_array().is_none_or(Vec::is_empty);
    let of_macro = diagnostics
        .filter(|diagnostic| diagnostic["level"] == "error" && diagnostic["code"].is_null() && !is_summary(diagnostic));
    of_macro.map(|diagnostic| (diagnostic["message"].as_str().expect("text").to_owned(), marked(&diagnostic))).collect()
}

fn marked(diagnostic: &Value) -> String {
    let text = &diagnostic["spans"][0]["text"][0];
    let line: Vec<char> = text["text"].as_str().unwrap_or_default().chars().collect();
    let column = |name: &str| text[name].as_u64().and_then(|at| usize::try_from(at).ok()).map_or(0, |at| at - 1);
    line.get(column("highlight_start")..column("highlight_end")).unwrap_or_default().iter().collect()
}

fn check(library: &Path, options: &str, function: &str, marked: &str, has: &str) -> Result<(), String> {
    let errors = errors(library, options, function);
    match errors.first() {
        Some((message, code)) if message.contains(has) && code == marked => Ok(()),
        _ => Err(format!("#[cached({options})] {function}\nexpected {has:?} at {marked:?}, got {errors:?}")),
    }
}

#[test]
fn wrong_uses_are_explained_at_the_wrong_code() {
    let library = library();
    let options = OPTIONS.iter().map(|(options, marked, has)| (*options, FUNCTION, *marked, *has));
    let faults: Vec<String> = options
        .chain(FUNCTIONS)
        .filter_map(|(options, function, marked, has)| check(&library, options, function, marked, has).err())
        .collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n\n"));
}

#[test]
fn correct_uses_have_no_error_of_the_macro() {
    let library = library();
    for options in [
        "key = \"user:{id}\", ttl = \"5m\", stale = \"1h30m\", negative_ttl = TTL, tags = [\"u:{id}\", \"all\"]",
        "key = \"user:{id}\", codec = Text, wait = \"0s\", soft_timeout = \"100ms\", load_timeout = \"10s\", lease = \"5s\",",
        "key = \"user:{id}\", on_unavailable = \"stale\", share_errors, crate = crate::cache",
        "key = \"user:{id}\", share_errors = false, client = client",
    ] {
        assert_eq!(errors(&library, options, FUNCTION), [], "{options}");
    }
}

#[test]
fn the_function_exists_despite_an_error() {
    let code = "async fn f() -> Result<u8, ()> { Ok(1) }\nasync fn g() { let _ = f().await; }";
    let errors = errors(&library(), "key = \"a\"", code);
    assert_eq!(errors.len(), 1, "only the error of the macro: {errors:?}");
}
