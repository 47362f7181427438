//! Faults of the configuration, and the places where values are given.

use std::{fmt, path::PathBuf, sync::Arc};

/// The place where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ValueSource {
    Default,
    File { path: Arc<PathBuf>, line: usize },
    Variable(String),
    Flag(String),
}

impl ValueSource {
    /// Returns the place as a fault names it.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Default => "default".into(),
            Self::File { path, line } => format!("{}:{line}", path.display()),
            Self::Variable(name) => name.clone(),
            Self::Flag(name) => format!("--{name}"),
        }
    }

    /// Returns a fault of the value that was given there.
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
    /// File and line, variable or flag.
    pub at: String,
    /// What is wrong, and what is accepted.
    pub message: String,
    /// Line of the file, to put faults in their order; 0 elsewhere.
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
        // About one slip in four letters.
        Some((distance, known)) if distance * 4 <= known.len() => format!("; did you mean {known}?"),
        Some(_) | None => String::new(),
    }
}
