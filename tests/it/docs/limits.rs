//! Generates the reference of limits from the constants in the code.
//!
//! A constant is a limit if its name contains the word `MAX`, `TIMEOUT`, `DEADLINE` or `LINGER`, with few exceptions.
//! The first paragraph of its doc comment is its description. The test fails for a new limit without a doc comment, or
//! with a value that this file cannot read.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use super::{assert_generated, cell};
use crate::support::markdown::root;

/// A limit: a constant of the source.
#[derive(Debug, Clone)]
struct Limit {
    name: String,
    value: String,
    doc: String,
    /// Path relative to the root of the repository.
    path: String,
}

/// Sections of the page, and the folders or files of `src` that belong to each section. The first match counts.
const SECTIONS: [(&str, &[&str]); 11] = [
    ("Keys and configuration", &["src/model", "src/glob", "src/config", "src/cache/tags", "src/cache/invalidate/tags"]),
    ("gRPC port", &["src/grpc"]),
    ("RESP port", &["src/resp"]),
    ("HTTP port", &["src/http"]),
    ("TLS", &["src/tls", "src/socket/tls_stream"]),
    ("L2: Redis", &["src/l2/redis"]),
    ("L2: embedded store", &["src/l2/embedded"]),
    ("L1", &["src/l1"]),
    ("Cache, invalidation and statistics", &["src/cache", "src/l2", "src/server", "src/node", "src/socket"]),
    ("Learning and prefetch", &["src/learn"]),
    ("Background jobs, files and command line", &["src/jobs", "src/hot", "src/kept", "src/persist", "src/cli", "src"]),
];

/// Constants with the name of a limit that do not concern readers of the page: widths of bit fields, saturation of
/// counters, lock hold times, defaults.
const NO_LIMITS: [&str; 21] = [
    "ALL_MAX",
    "COUNTED_MAX",
    "COUNT_MAX",
    "DECIMAL_EXPONENT_MAX",
    "DUE_MAX",
    "EMBEDDED_MAX_BYTES",
    "EXPIRY_MAX",
    "EXPONENT_MAX",
    "HELD_MAX",
    "HORIZON_MAX",
    "LINGER_BUFFER_BYTES",
    "MAX",
    "MAX_VALUE",
    "PAIR_MAX",
    "PART_MAX",
    "REMOVED_MAX",
    "RULE_SEEN_MAX",
    "SIZE_MAX_DEFAULT",
    "SIZE_MAX_LEAST",
    "STAMP_MAX",
    "TRIALS_MAX",
];

/// Limits whose names do not contain such a word.
const ALSO_LIMITS: [&str; 6] = ["AUTH_TIME", "BACKLOG", "FENCE_SPAN", "HEARTBEAT", "ID_LIFE", "WINDOW"];

/// Returns whether a constant of this name is a limit.
fn is_limit(name: &str) -> bool {
    let words = || name.split('_');
    let says_so = words().any(|word| ["MAX", "TIMEOUT", "DEADLINE", "LINGER"].contains(&word));
    ALSO_LIMITS.contains(&name) || (says_so && !NO_LIMITS.contains(&name))
}

/// Returns the parts of `const NAME: TYPE = VALUE;`.
fn constant(line: &str) -> Option<(&str, &str, &str)> {
    let line = line.trim_start();
    let rest = line.strip_prefix("pub ").or(line.strip_prefix("pub(super) ")).or(line.strip_prefix("pub(crate) "));
    let (name, rest) = rest.unwrap_or(line).strip_prefix("const ")?.split_once(": ")?;
    let (kind, value) = rest.split_once(" = ")?;
    Some((name, kind, value.strip_suffix(';')?))
}

/// Values of constants by name; `None` for a name with several values.
type Known = HashMap<String, Option<u64>>;

/// Returns the code of a file without its tests.
fn code(text: &str) -> Vec<&str> {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines().collect()
}

/// Adds the constants of a file.
fn collect(known: &mut Known, lines: &[&str]) {
    for (name, _, value) in lines.iter().filter_map(|line| constant(line)) {
        let Some(number) = number(value, known) else { continue };
        let same = known.entry(name.to_owned()).or_insert(Some(number));
        *same = same.filter(|same| *same == number);
    }
}

/// Reads all limits of one file. Faults name the constants that cannot be read. `elsewhere` contains the constants of
/// all files.
fn limits(path: &str, text: &str, elsewhere: &Known, faults: &mut Vec<String>) -> Vec<Limit> {
    let lines = code(text);
    let mut known = Known::new();
    // A constant may depend on a later one.
    for _round in 0..2 {
        collect(&mut known, &lines);
    }
    for (name, value) in elsewhere {
        known.entry(name.clone()).or_insert(*value);
    }
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((name, kind, value)) = constant(line).filter(|(name, ..)| is_limit(name)) else { continue };
        let doc = description(&lines[..at]);
        let shown = match kind {
            "Duration" => duration(value),
            "f32" | "f64" => continue,
            _ => number(value, &known).map(|number| amount(name, number)),
        };
        match (doc.is_empty(), shown) {
            (false, Some(value)) => found.push(Limit { name: name.into(), value, doc, path: path.into() }),
            (true, _) => faults.push(format!("{path}:{}: {name} has no doc comment", at + 1)),
            (_, None) => faults.push(format!("{path}:{}: the value of {name} cannot be read: {value}", at + 1)),
        }
    }
    found
}

/// Returns the first paragraph of the doc comment that ends at this line.
fn description(above: &[&str]) -> String {
    let comment = |line: &&&str| line.trim_start().starts_with("///");
    let mut lines: Vec<&str> =
        above.iter().rev().take_while(comment).map(|line| line.trim_start()[3..].trim()).collect();
    lines.reverse();
    lines.into_iter().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Evaluates a sum or product of numbers, shifts and constants of the same file.
fn number(value: &str, known: &Known) -> Option<u64> {
    if let Some((left, right)) = value.split_once(" << ") {
        return number(left, known)?.checked_shl(u32::try_from(number(right, known)?).ok()?);
    }
    if let Some((left, right)) = value.split_once(" + ") {
        return number(left, known)?.checked_add(number(right, known)?);
    }
    if let Some((left, right)) = value.rsplit_once(" - ") {
        return number(left, known)?.checked_sub(number(right, known)?);
    }
    if let Some((left, right)) = value.split_once(" * ") {
        return number(left, known)?.checked_mul(number(right, known)?);
    }
    if let Some((left, right)) = value.rsplit_once(" / ") {
        return number(left, known)?.checked_div(number(right, known)?);
    }
    let value = value.trim().split(" as ").next()?;
    match value {
        "KEY_MAX_BYTES" => Some(terrace::model::KEY_MAX_BYTES as u64),
        "i64::MAX" => u64::try_from(i64::MAX).ok(),
        _ => value.replace('_', "").parse().ok().or(known.get(value).copied().flatten()),
    }
}

fn duration(value: &str) -> Option<String> {
    let (unit, amount) = value.strip_prefix("Duration::from_")?.strip_suffix(')')?.split_once('(')?;
    let amount = number(amount, &Known::new())?;
    let duration = match unit {
        "secs" => Duration::from_secs(amount),
        "millis" => Duration::from_millis(amount),
        "micros" => Duration::from_micros(amount),
        _ => return None,
    };
    Some(if duration.subsec_millis() == 0 && duration.as_secs() > 0 {
        match duration.as_secs() {
            secs if secs % 86_400 == 0 => format!("{} days", secs / 86_400),
            secs if secs % 60 == 0 => format!("{} min", secs / 60),
            secs => format!("{secs} s"),
        }
    } else {
        format!("{} ms", grouped(duration.as_millis()))
    })
}

/// Formats a number with the unit in the name of its constant.
fn amount(name: &str, number: u64) -> String {
    match name.split('_').next_back().unwrap() {
        "MS" => format!("{} ms", grouped(number.into())),
        "US" => format!("{} µs", grouped(number.into())),
        _ if name.contains("BYTES") || name == "BULK_LENGTH_MAX" || name == "BULK_BEFORE_AUTH_MAX" => bytes(number),
        _ => grouped(number.into()),
    }
}

fn bytes(number: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.into_iter().find(|(_, shift)| number >= 1 << shift && number.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{} B", grouped(number.into())), |(name, shift)| format!("{} {name}", number >> shift))
}

/// Formats `65536` as `65,536`.
fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            files(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

fn all() -> Vec<Limit> {
    let mut paths = Vec::new();
    files(&root().join("src"), &mut paths);
    paths.sort();
    let paths = paths.into_iter().filter(|path| !path.ends_with("tests.rs") && !path.ends_with("interleavings.rs"));
    let read = |path: String| (fs::read_to_string(root().join(&path)).unwrap(), path);
    let texts: Vec<(String, String)> = paths.map(read).collect();
    let mut known = Known::new();
    texts.iter().for_each(|(text, _)| collect(&mut known, &code(text)));
    let mut faults = Vec::new();
    let found = texts.iter().flat_map(|(text, path)| limits(path, text, &known, &mut faults)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    found
}

fn table() -> String {
    let mut left = all();
    let mut text = String::new();
    for (section, folders) in SECTIONS {
        let is_here = |limit: &Limit| folders.iter().any(|folder| limit.path.starts_with(folder));
        let (here, others) = left.into_iter().partition(is_here);
        left = others;
        text += &format!("### {section}\n\n| limit | value | description | source |\n|---|---|---|---|\n");
        for Limit { name, value, doc, path } in here {
            text += &format!(
                "| `{name}` | {value} | {} | [{}](../../{path}) |\n",
                cell(&linkless(&doc)),
                &path["src/".len()..]
            );
        }
        text.push('\n');
    }
    assert!(left.is_empty(), "no section for {left:?}");
    text
}

/// Converts links of rustdoc ([`Name`]) to code in Markdown.
fn linkless(doc: &str) -> String {
    doc.replace("[`", "`").replace("`]", "`")
}

#[test]
fn limits_are_up_to_date() {
    assert_generated("docs/reference/limits.md", "limits", &table());
}

#[test]
fn constants_are_read() {
    let text = "/// Longest of all.\n///\n/// More.\npub(super) const A_MAX: usize = 64 * 1024;\n/// Wait.\nconst B_TIMEOUT: \
                Duration = Duration::from_millis(500);\n/// Head.\nconst C_MAX_BYTES: usize = FIXED + 8 << 10;\n";
    let mut faults = Vec::new();
    let found = limits("src/a.rs", text, &Known::new(), &mut faults);
    let shown: Vec<_> = found.iter().map(|limit| (&*limit.name, &*limit.value, &*limit.doc)).collect();
    assert_eq!(shown, [("A_MAX", "65,536", "Longest of all."), ("B_TIMEOUT", "500 ms", "Wait.")]);
    assert_eq!(faults, ["src/a.rs:8: the value of C_MAX_BYTES cannot be read: FIXED + 8 << 10"]);
    limits("src/a.rs", "const A_MAX: usize = 1;\n", &Known::new(), &mut faults);
    assert_eq!(faults.pop().unwrap(), "src/a.rs:1: A_MAX has no doc comment");
    assert_eq!((bytes(16 << 20), bytes(107), grouped(1_000)), ("16 MiB".into(), "107 B".into(), "1,000".into()));
    assert_eq!(duration("Duration::from_secs(30 * 60)").unwrap(), "30 min");
}

#[test]
fn exceptions_exist() {
    let mut paths = Vec::new();
    files(&root().join("src"), &mut paths);
    let source: String = paths.iter().map(|path| fs::read_to_string(root().join(path)).unwrap()).collect();
    for name in NO_LIMITS.into_iter().chain(ALSO_LIMITS) {
        assert!(source.contains(&format!("const {name}: ")), "no constant {name} in src");
    }
}
