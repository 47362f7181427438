//! Parses a TOML file into entries with their line numbers. The entries are interpreted elsewhere.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::de::{DeArray, DeTable, DeValue};

use super::{
    fault::{Fault, ValueSource},
    form::Raw,
};
use crate::files::read_any;

/// Maximum size of the configuration file.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// A key and its value as written.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Full key such as `l1.size`; inside a policy, a key such as `max_ttl`.
    pub key: String,
    pub raw: Raw,
    pub source: ValueSource,
}

/// One `[[policy]]` table.
#[derive(Debug, Clone)]
pub(super) struct PolicyTable {
    pub entries: Vec<Entry>,
    pub source: ValueSource,
}

/// Contents of a configuration file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub entries: Vec<Entry>,
    pub policies: Vec<PolicyTable>,
    /// Tables without keys, which may be unknown.
    pub empty_tables: Vec<Entry>,
    /// Syntax errors and values of an unexpected type.
    pub faults: Vec<Fault>,
}

/// Reads `path`. The result contains all entries that can be parsed, and the faults.
pub(super) fn read(path: &Path) -> Contents {
    text_of(path).map_or_else(
        |message| {
            let fault = Fault { at: path.display().to_string(), message, line: 0 };
            Contents { faults: vec![fault], ..Contents::default() }
        },
        |text| parse(&text, path),
    )
}

fn text_of(path: &Path) -> Result<String, String> {
    let contents = read_any(path, FILE_MAX_BYTES).map_err(|why| format!("cannot read the file: {why}"))?;
    String::from_utf8(contents).map_err(|error| format!("cannot read the file: {error}"))
}

/// Maps byte offsets of the text to line numbers.
struct Lines<'a> {
    text: &'a str,
    path: Arc<PathBuf>,
}

impl Lines<'_> {
    fn source(&self, span: &Range<usize>) -> ValueSource {
        let before = self.text.as_bytes().iter().take(span.start);
        ValueSource::File { path: Arc::clone(&self.path), line: 1 + before.filter(|byte| **byte == b'\n').count() }
    }

    fn fault(&self, span: &Range<usize>, message: impl Into<String>) -> Fault {
        self.source(span).fault(message)
    }
}

fn parse(text: &str, path: &Path) -> Contents {
    let lines = Lines { text, path: Arc::new(path.to_path_buf()) };
    let (document, errors) = DeTable::parse_recoverable(text);
    let fault =
        |error: &toml::de::Error| lines.fault(&error.span().unwrap_or_default(), error.message().replace('\n', ", "));
    let mut contents = Contents { faults: errors.iter().map(fault).collect(), ..Contents::default() };
    for (key, value) in document.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("policy", DeValue::Array(tables)) => contents.policies = policies(tables, &lines, &mut contents.faults),
            ("policy", _) => contents
                .faults
                .push(lines.fault(&value.span(), "policy is not an array of tables; expected [[policy]]")),
            (section, DeValue::Table(table)) if table.is_empty() => {
                contents.empty_tables.push(entry(section.into(), value.get_ref(), &key.span(), &lines));
            }
            (section, DeValue::Table(table)) => flatten(section, table, &lines, &mut contents.entries),
            (key, other) => contents.entries.push(entry(key.into(), other, &value.span(), &lines)),
        }
    }
    contents
}

fn policies(tables: &DeArray<'_>, lines: &Lines<'_>, faults: &mut Vec<Fault>) -> Vec<PolicyTable> {
    let mut policies = Vec::new();
    for item in tables {
        let DeValue::Table(table) = item.get_ref() else {
            faults.push(lines.fault(&item.span(), "a policy is not a table; expected [[policy]]"));
            continue;
        };
        let entries =
            table.iter().map(|(key, value)| entry(key.get_ref().to_string(), value.get_ref(), &key.span(), lines));
        policies.push(PolicyTable { entries: entries.collect(), source: lines.source(&item.span()) });
    }
    policies
}

fn flatten(section: &str, table: &DeTable<'_>, lines: &Lines<'_>, entries: &mut Vec<Entry>) {
    for (key, value) in table {
        entries.push(entry(format!("{section}.{}", key.get_ref()), value.get_ref(), &key.span(), lines));
    }
}

fn entry(key: String, value: &DeValue<'_>, span: &Range<usize>, lines: &Lines<'_>) -> Entry {
    Entry { key, raw: raw(value), source: lines.source(span) }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("number of more than 64 bits"), Raw::Integer),
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Float(number) => number.as_str().parse().map_or(Raw::Other("number"), Raw::Float),
        DeValue::Datetime(_) | DeValue::Table(_) => Raw::Other(value.type_str()),
    }
}
