//! The reference of errors: gRPC status and RESP reply of each error kind, and the texts of other RESP errors.

use std::fs;

use terrace::{
    error::{CacheError, Kind},
    grpc, resp,
};

use super::{assert_generated, cell};
use crate::support::markdown::{Page, root};

/// All error kinds. [`is_listed`] does not compile if one is added.
const KINDS: [Kind; 15] = [
    Kind::InvalidArgument,
    Kind::ReservedPrefix,
    Kind::TooLarge,
    Kind::Overloaded,
    Kind::OutOfMemory,
    Kind::Unavailable,
    Kind::DeadlineExceeded,
    Kind::Unknown,
    Kind::WrongType,
    Kind::NotANumber,
    Kind::Overflow,
    Kind::NoAccess,
    Kind::Denied,
    Kind::Unsupported,
    Kind::Internal,
];

fn is_listed(kind: Kind) -> bool {
    match kind {
        Kind::InvalidArgument
        | Kind::ReservedPrefix
        | Kind::TooLarge
        | Kind::Overloaded
        | Kind::OutOfMemory
        | Kind::Unavailable
        | Kind::DeadlineExceeded
        | Kind::Unknown
        | Kind::WrongType
        | Kind::NotANumber
        | Kind::Overflow
        | Kind::NoAccess
        | Kind::Denied
        | Kind::Unsupported
        | Kind::Internal => KINDS.contains(&kind),
    }
}

/// Converts `DeadlineExceeded` to `DEADLINE_EXCEEDED`.
fn upper(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_uppercase());
    }
    text
}

/// Returns the doc comment of a kind.
fn meaning(source: &str, kind: &str) -> String {
    let (above, _) = source.split_once(&format!("\n    {kind},\n")).unwrap_or_else(|| panic!("no kind {kind}"));
    let mut lines: Vec<&str> = above.lines().rev().map_while(|line| line.trim_start().strip_prefix("///")).collect();
    lines.reverse();
    lines.into_iter().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn table() -> String {
    let source = fs::read_to_string(root().join("src/error.rs")).unwrap();
    let mut table = String::from("| kind | gRPC status | RESP reply | retry | meaning |\n|---|---|---|---|---|\n");
    for kind in KINDS {
        assert!(is_listed(kind));
        let (name, error) = (format!("{kind:?}"), CacheError::new(kind, "<message>"));
        let (code, text) = (upper(&format!("{:?}", grpc::code(kind))), resp::error_text(&error));
        let retry = if error.is_retryable() { "yes" } else { "no" };
        table +=
            &format!("| {name} | `{code}` | `-{}` | {retry} | {} |\n", cell(&text), cell(&meaning(&source, &name)));
    }
    table
}

#[test]
fn kinds_are_up_to_date() {
    assert_generated("docs/reference/errors.md", "kinds", &table());
}

/// Each text of the second table begins like a text in the code.
#[test]
fn other_texts_are_those_of_the_code() {
    let mut source = String::new();
    let mut folders = vec![root().join("src/resp")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                source += &fs::read_to_string(entry).unwrap();
            }
        }
    }
    let page = Page::read("docs/reference/errors.md");
    let section = page.section("other-resp-errors").expect("a section for other texts");
    let texts: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `-")?.split('`').next()).collect();
    assert!(texts.len() > 10, "{texts:?}");
    for text in texts {
        let known = text.split('<').next().unwrap().trim_end_matches('\'');
        assert!(source.contains(known), "docs/reference/errors.md shows {text:?}, which src/resp does not have");
    }
}
