//! Extracts the texts of a file: strings and comments of code, comments of protos, Markdown without code, texts of a
//! dashboard.

use serde_json::Value;

use super::Line;
use crate::support::markdown::Page;

/// A language whose strings and comments can be extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Rust,
    /// JavaScript.
    Script,
}

/// Returns all lines that are not empty.
pub(super) fn lines(text: &str) -> Vec<Line> {
    let numbered = text.lines().enumerate().map(|(at, line)| Line { number: at + 1, text: line.trim().to_owned() });
    numbered.filter(|line| !line.text.is_empty()).collect()
}

/// Returns the lines outside of fenced blocks, without code spans and targets of links.
pub(super) fn markdown(page: &Page) -> Vec<Line> {
    let texts = page.prose().into_iter().map(|(number, line)| {
        let text: Vec<&str> = line.split('`').step_by(2).collect();
        Line { number, text: text.join(" ` ") }
    });
    texts.filter(|line| !line.text.trim().is_empty()).collect()
}

/// Returns the comments of a proto file.
pub(super) fn comments(text: &str) -> Vec<Line> {
    let comment =
        |line: Line| line.text.split_once("//").map(|(_, text)| Line { text: text.trim().to_owned(), ..line });
    lines(text).into_iter().filter_map(comment).filter(|line| !line.text.is_empty()).collect()
}

/// Returns the titles, descriptions and legends of a dashboard.
pub(super) fn json(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let is_text = |name: &str| ["title", "description", "legendFormat", "label"].contains(&name);
            let of = |(name, value): (&String, &Value)| match value.as_str() {
                Some(text) if is_text(name) => vec![text.to_owned()],
                Some(_) | None => json(value),
            };
            fields.iter().flat_map(of).collect()
        }
        Value::Array(items) => items.iter().flat_map(json).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// Returns the strings and comments of code in order.
pub(super) fn code(text: &str, language: Language) -> Vec<Line> {
    let mut reader = Reader { rest: text, line: 1, found: Vec::new(), language };
    while !reader.rest.is_empty() {
        reader.step();
    }
    reader.found
}

struct Reader<'t> {
    rest: &'t str,
    line: usize,
    found: Vec<Line>,
    language: Language,
}

impl Reader<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        if let Some(text) = rest.strip_prefix("//") {
            let end = text.find('\n').unwrap_or(text.len());
            let comment = text[..end].trim_start_matches(['/', '!']);
            self.keep(comment);
            self.skip(2 + end);
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").map_or(rest.len(), |end| end + 2);
            self.take(2, end.saturating_sub(2).max(2), end);
        } else if rest.starts_with('"') {
            self.quoted('"');
        } else if self.language == Language::Script && rest.starts_with(['\'', '`']) {
            self.quoted(if rest.starts_with('`') { '`' } else { '\'' });
        } else if self.language == Language::Rust && rest.starts_with(['r', '\'']) {
            self.raw_or_letter();
        } else {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            self.skip(word.max(rest.chars().next().map_or(1, char::len_utf8)));
        }
    }

    /// Reads a string up to the same quote.
    fn quoted(&mut self, quote: char) {
        let mut is_escaped = false;
        let inner = &self.rest[1..];
        let end = inner.char_indices().find(|(_, c)| {
            let ends = *c == quote && !is_escaped;
            is_escaped = *c == '\\' && !is_escaped;
            ends
        });
        let end = 1 + end.map_or(inner.len(), |(at, _)| at);
        self.take(1, end, (end + 1).min(self.rest.len()));
    }

    /// Reads `r"..."`, `r#"..."#`, a character, a lifetime, or a word that begins with r.
    fn raw_or_letter(&mut self) {
        let rest = self.rest;
        if let Some(raw) = rest.strip_prefix('r') {
            let hashes = raw.bytes().take_while(|byte| *byte == b'#').count();
            if raw[hashes..].starts_with('"') {
                let end = format!("\"{}", "#".repeat(hashes));
                let start = 2 + hashes;
                let at = rest[start..].find(&end).map_or(rest.len(), |at| start + at);
                return self.take(start, at, (at + end.len()).min(rest.len()));
            }
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            return self.skip(word);
        }
        let mut letters = rest.chars().skip(1);
        let (first, second) = (letters.next(), letters.next());
        match (first, second) {
            (Some('\\'), _) => {
                let end = rest[3..].find('\'').map_or(rest.len(), |at| at + 4);
                self.skip(end);
            }
            (Some(letter), Some('\'')) => self.skip(2 + letter.len_utf8()),
            (Some(_) | None, _) => self.skip(1),
        }
    }

    /// Keeps the text between two positions and continues after `end`.
    fn take(&mut self, from: usize, to: usize, end: usize) {
        let text = self.rest[from..to].to_owned();
        let line = self.line;
        for (at, part) in text.lines().enumerate() {
            self.line = line + at;
            self.keep(part.trim_end_matches('\\'));
        }
        self.line = line;
        self.skip(end);
    }

    fn keep(&mut self, text: &str) {
        let text = text.trim();
        // A string of one word is a name or a format.
        if text.contains(' ') {
            self.found.push(Line { number: self.line, text: text.to_owned() });
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.line += self.rest[..bytes].matches('\n').count();
        self.rest = &self.rest[bytes..];
    }
}

#[test]
fn strings_and_comments_are_found() {
    let text = "//! About this.\nfn f<'a>(c: char) { // And that.\n    if c == '\"' || c == '\\'' { g(\"a \\\"b\\\" \\\n      c d\"); }\n    \
                let r = r#\"raw \"text\" here\"#; let word = \"x\"; /* a block\n comment */ }\n";
    let found: Vec<(usize, String)> =
        code(text, Language::Rust).into_iter().map(|line| (line.number, line.text)).collect();
    let wanted = [
        (1, "About this."),
        (2, "And that."),
        (3, "a \\\"b\\\""),
        (4, "c d"),
        (5, "raw \"text\" here"),
        (5, "a block"),
    ];
    assert_eq!(found, wanted.map(|(line, text)| (line, text.to_owned())));
    let script = code("const a = `one ${b} two`; // said by it\nf('x y', \"z\");", Language::Script);
    assert_eq!(script.len(), 3, "{script:?}");
    assert_eq!(json(&serde_json::json!({"panels": [{"title": "A b", "expr": "no"}]})), ["A b"]);
    assert_eq!(comments("// One.\nmessage A {\n  int32 a = 1; // Two.\n}\n").len(), 2);
}
