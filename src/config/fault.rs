//! Faults of the configuration, and the places where values are given.

use std::{fmt, path::PathBuf, sync::Arc};

/// Place where a value was specified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ValueSource {
    Default,
    File { path: Arc<PathBuf>, line: usize },
    Variable(String),
    Flag(String),
}

impl ValueSource {
    /// Returns the name of the place for fault messages.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Default => "default".into(),
            Self::File { path, line } => format!("{}:{line}", path.display()),
            Self::Variable(name) => name.clone(),
            Self::Flag(name) => format!("--{name}"),
        }
    }

    /// Returns a fault of the value that was specified here.
    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        let line = if let Self::File { line, .. } = self { *line } else { 0 };
        Fault { at: self.place(), message: message.into(), line }
    }
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { .. } => write!(f, "file {}", self.place()),
            Self::Variable(_) => write!(f, "env {}", self.place()),
            Self::Flag(_) => write!(f, "flag {}", self.place()),
        }
    }
}

/// One fault of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Place of the fault: file and line, variable or flag.
    pub at: String,
    /// Description of the fault, with the accepted values.
    pub message: String,
    /// Line in the file, used to sort faults; 0 for other sources.
    pub(super) line: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

/// All faults, one per line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Faults(pub Vec<Fault>);

/// Returns `; did you mean X?` if a known word is similar enough.
pub(super) fn nearest(word: &str, known: impl Iterator<Item = String>) -> String {
    let near = known.map(|known| (strsim::damerau_levenshtein(word, &known), known)).min();
    match near {
        // Tolerates about one wrong character in four.
        Some((distance, known)) if distance * 4 <= known.len() => format!("; did you mean {known}?"),
        Some(_) | None => String::new(),
    }
}
