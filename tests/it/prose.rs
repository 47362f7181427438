//! Texts that people read use plain technical English: none of the phrases in [`PHRASES`], and descriptions that stand alone.
//!
//! The list holds phrases of two or more words, never single common words. A line with `prose: allow REASON` is exempt. User-visible
//! texts must be free of the phrases; of the strings and comments in `src` at most 3 lines in 1,000 may have one. The count prints
//! each hit (`cargo test --test it prose -- --nocapture`); `TERRACE_PROSE_ROOT` counts in another tree.

mod extract;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use terrace::{
    config::{POLICY_ROWS, Row},
    metrics::ALL,
};

use crate::support::{
    markdown::{Page, pages, root},
    setting_from_environment,
};

/// Phrases to replace, in lower case. `...` stands for words of the same sentence.
const PHRASES: [&str; 47] = [
    "is told",
    "are told",
    "was told",
    "were told",
    "be told",
    "tells of",
    "asked for",
    "asks for",
    "is gone",
    "are gone",
    "has gone",
    "have gone",
    "goes by",
    "taken up",
    "takes up",
    "taken back",
    "let go",
    "lets go",
    "given up",
    "gives up",
    "not to be had",
    "to be had",
    "has it not",
    "is no read",
    "how it is",
    "whether it is well",
    "by and by",
    "now and then",
    "again and again",
    "the former",
    "what is left of",
    "the rest of it",
    "under way",
    "that of",
    "the one ... the other",
    "most bytes of",
    "kind of key",
    "kinds of key",
    "kinds of keys",
    "who asks",
    "may live in",
    "that brought none",
    "brought no ttl",
    "what repeats",
    "in vain",
    "of warming up",
    "what was learned",
];

/// Words that no description of a metric, setting or flag begins with.
const FIRST_WORDS: [&str; 5] = ["Whether", "What", "Who", "How", "Of"];

/// A line of text that people read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    number: usize,
    text: String,
}

/// A phrase that was found.
#[derive(Debug, PartialEq, Eq)]
struct Hit {
    /// Number of the line on which the phrase begins.
    line: usize,
    phrase: &'static str,
}

/// Splits a text into words in lower case; ends of sentences are separate words.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for part in text.split_whitespace() {
        let word: String =
            part.to_lowercase().chars().filter(|c| c.is_alphanumeric() || matches!(c, '\'' | '_' | '-')).collect();
        if !word.is_empty() {
            words.push(word);
        }
        if part.ends_with(['.', ':', ';', '!', '?', ',']) || part.ends_with(".)") {
            words.push(".".into());
        }
    }
    words
}

/// Finds all phrases in consecutive lines; a phrase may span several lines.
fn find(lines: &[Line]) -> Vec<Hit> {
    let allowed = |line: &&Line| !line.text.contains("prose: allow ");
    let words: Vec<(usize, String)> = lines
        .iter()
        .filter(allowed)
        .flat_map(|line| words(&line.text).into_iter().map(move |word| (line.number, word)))
        .collect();
    let mut hits = Vec::new();
    for (at, (line, _)) in words.iter().enumerate() {
        for phrase in PHRASES {
            if begins(&words[at..], *line, phrase) {
                hits.push(Hit { line: *line, phrase });
            }
        }
    }
    hits
}

/// Returns whether words begin with a phrase. Lines that are not consecutive are not a sentence.
fn begins(words: &[(usize, String)], first: usize, phrase: &str) -> bool {
    let (start, end) = phrase.split_once(" ... ").unwrap_or((phrase, ""));
    let follows = |words: &[(usize, String)], part: &str| {
        let parts = part.split(' ');
        let count = parts.clone().count();
        words.len() >= count && parts.zip(words).all(|(part, (line, word))| part == word && *line <= first + 2)
    };
    if !follows(words, start) {
        return false;
    }
    let rest = &words[start.split(' ').count()..];
    let sentence = rest.iter().take_while(|(line, word)| word != "." && *line <= first + 2).count();
    end.is_empty() || (0..sentence).any(|at| follows(&rest[at..sentence], end))
}

/// Returns the hits of a text as `path:line: phrase`.
fn report(path: &str, lines: &[Line]) -> Vec<String> {
    find(lines).into_iter().map(|hit| format!("{path}:{}: {}", hit.line, hit.phrase)).collect()
}

fn one_line(text: &str) -> Vec<Line> {
    vec![Line { number: 1, text: text.to_owned() }]
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Returns the descriptions of metrics, settings, policies, subcommands and flags, each with its name.
fn descriptions() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> =
        ALL.iter().map(|metric| (metric.name.to_owned(), metric.doc.to_owned())).collect();
    all.extend(Row::all().iter().map(|row| (row.key.to_owned(), row.doc.trim().to_owned())));
    all.extend(POLICY_ROWS.iter().map(|row| (format!("policy {}", row.key), row.doc.to_owned())));
    for command in terrace::cli::command().get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        all.push((format!("terrace {}", command.get_name()), about));
        for arg in command.get_arguments() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            all.push((format!("terrace {} {}", command.get_name(), arg.get_id()), help));
        }
    }
    all
}

#[test]
fn descriptions_are_noun_phrases_or_begin_with_a_verb() {
    let first = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
    let faults: Vec<String> = descriptions()
        .iter()
        .filter(|(_, text)| text.is_empty() || FIRST_WORDS.contains(&&*first(text)))
        .map(|(name, text)| format!("{name}: {text:?}"))
        .collect();
    assert_none(&faults);
}

#[test]
fn descriptions_and_help_are_plain() {
    let mut faults: Vec<String> =
        descriptions().iter().flat_map(|(name, text)| report(name, &one_line(text))).collect();
    let mut cli = terrace::cli::command();
    cli.build();
    for command in cli.get_subcommands() {
        let help = command.clone().render_long_help().to_string();
        faults.extend(report(&format!("terrace {} --help", command.get_name()), &extract::lines(&help)));
    }
    assert_none(&faults);
}

#[test]
fn markdown_is_plain() {
    let faults: Vec<String> = pages().iter().flat_map(|page| report(&page.path, &extract::markdown(page))).collect();
    assert_none(&faults);
}

#[test]
fn protos_are_plain() {
    let faults: Vec<String> = files(&root(), "proto", "proto")
        .iter()
        .flat_map(|path| report(path, &extract::comments(&read(&root(), path))))
        .collect();
    assert_none(&faults);
}

#[test]
fn alerts_dashboard_and_page_are_plain() {
    let mut faults = Vec::new();
    for path in files(&root(), "docker", "yml") {
        faults.extend(report(&path, &extract::lines(&read(&root(), &path))));
    }
    let dashboard = "docker/grafana/dashboards/terrace.json";
    let texts = extract::json(&serde_json::from_str::<Value>(&read(&root(), dashboard)).unwrap());
    faults.extend(texts.iter().flat_map(|text| report(dashboard, &one_line(text))));
    for path in files(&root(), "src/http/assets", "html") {
        faults.extend(report(&path, &extract::lines(&read(&root(), &path))));
    }
    for path in files(&root(), "src/http/assets", "js").iter().filter(|path| !path.contains("/vendor/")) {
        faults.extend(report(path, &extract::code(&read(&root(), path), extract::Language::Script)));
    }
    assert_none(&faults);
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the sorted paths, relative to `root`, of all files in a folder with this extension.
fn files(root: &Path, folder: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|of| of == extension) {
                found.push(entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Returns all texts of a tree that people read: README, docs, proto comments, strings and comments of `src`.
fn tree(root: &Path) -> Vec<(String, Vec<Line>)> {
    let mut texts = Vec::new();
    let mut markdown = files(root, "docs", "md");
    markdown.push("README.md".to_owned());
    for path in markdown.into_iter().filter(|path| root.join(path).exists()) {
        let page = Page { text: read(root, &path), path: path.clone() };
        texts.push((path, extract::markdown(&page)));
    }
    for path in files(root, "proto", "proto") {
        let lines = extract::comments(&read(root, &path));
        texts.push((path, lines));
    }
    for path in files(root, "src", "rs") {
        let lines = extract::code(&read(root, &path), extract::Language::Rust);
        texts.push((path, lines));
    }
    texts
}

#[test]
fn at_most_3_of_1000_lines_of_the_tree_have_a_phrase() {
    const MOST_PER_THOUSAND: usize = 3;
    let other: String = setting_from_environment("TERRACE_PROSE_ROOT", String::new());
    let root = if other.is_empty() { root() } else { PathBuf::from(&other) };
    let (mut lines, mut hits) = (0, Vec::new());
    for (path, text) in tree(&root) {
        let mut numbers: Vec<usize> = text.iter().map(|line| line.number).collect();
        numbers.dedup();
        lines += numbers.len();
        let mut found = find(&text);
        found.dedup_by_key(|hit| hit.line);
        hits.extend(found.into_iter().map(|hit| format!("{path}:{}: {}", hit.line, hit.phrase)));
    }
    hits.iter().for_each(|hit| println!("{hit}"));
    println!("{} of {lines} lines", hits.len());
    let is_measured_only = !other.is_empty();
    assert!(
        is_measured_only || hits.len() * 1_000 <= MOST_PER_THOUSAND * lines,
        "{} of {lines} lines have a phrase of the list; at most {MOST_PER_THOUSAND} of 1,000 may",
        hits.len()
    );
}

#[test]
fn phrases_have_two_or_more_words() {
    assert!(PHRASES.iter().all(|phrase| phrase.contains(' ') && *phrase == phrase.to_lowercase()));
}

#[test]
fn the_finder_finds_phrases_and_nothing_else() {
    let found = |text: &str| -> Vec<(usize, &'static str)> {
        find(&extract::lines(text)).into_iter().map(|hit| (hit.line, hit.phrase)).collect()
    };
    for (text, wanted) in [
        ("Reads of L2 under way, each for one key.", vec![(1, "under way")]),
        ("Who watches is\ntold at once.", vec![(1, "is told")]),
        ("The one is read,\nwhile the other waits.", vec![]),
        ("Take the one key or the other.", vec![(1, "the one ... the other")]),
        ("A key. That\nof another.", vec![(1, "that of")]),
        ("Now. And then it ends.", vec![]),
        ("Understand in full; a gone key.", vec![]),
        ("Memory that a TTL holds IN VAIN", vec![(1, "in vain")]),
        ("It is under way. prose: allow quoted from Redis", vec![]),
        ("Reads in flight.", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(found(text), wanted, "{text}");
    }
}
