//! Reads the Markdown files of the repository: fenced blocks, headings and their anchors, links, generated regions.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

/// A Markdown file.
pub struct Page {
    /// Path relative to the root of the repository.
    pub path: String,
    pub text: String,
}

/// A fenced block.
pub struct Block {
    pub language: String,
    pub text: String,
}

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

impl Page {
    /// Reads a page, by its path relative to the root of the repository.
    pub fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), text }
    }

    /// Returns all lines with their numbers (from 1) that are outside of fenced blocks.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let mut is_inside = false;
        let mut lines = Vec::new();
        for (at, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_inside = !is_inside;
            } else if !is_inside {
                lines.push((at + 1, line));
            }
        }
        lines
    }

    /// Returns all fenced blocks.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for line in self.text.lines() {
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(language)) => {
                    open = Some(Block { language: language.trim().to_owned(), text: String::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.text += &format!("{line}\n"),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fenced block has no end", self.path);
        blocks
    }

    /// Returns the texts of all fenced blocks in this language.
    pub fn blocks_of(&self, language: &str) -> Vec<String> {
        self.blocks().into_iter().filter(|block| block.language == language).map(|block| block.text).collect()
    }

    /// Returns the anchors of all headings, by GitHub's rules.
    pub fn anchors(&self) -> BTreeSet<String> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let headings = self.prose().into_iter().filter_map(|(_, line)| heading(line));
        let anchor = |text: &str| {
            let slug = slug(text);
            let count = seen.entry(slug.clone()).or_default();
            let anchor = if *count == 0 { slug } else { format!("{slug}-{count}") };
            *count += 1;
            anchor
        };
        headings.map(anchor).collect()
    }

    /// Returns the text under the heading with this anchor, up to the next heading of the same or a higher level.
    pub fn section(&self, anchor: &str) -> Option<String> {
        let lines: Vec<&str> = self.text.lines().collect();
        let level = |line: &str| line.bytes().take_while(|byte| *byte == b'#').count();
        let start = lines.iter().position(|line| heading(line).is_some_and(|text| slug(text) == anchor))?;
        let depth = level(lines[start]);
        let is_end = |line: &&&str| heading(line).is_some() && level(line) <= depth;
        let rest = &lines[start + 1..];
        let end = rest.iter().position(|line| is_end(&line)).unwrap_or(rest.len());
        Some(rest[..end].join("\n"))
    }

    /// Returns the targets of all links and images, with the numbers of their lines.
    pub fn links(&self) -> Vec<(usize, String)> {
        self.prose().into_iter().flat_map(|(at, line)| links(line).into_iter().map(move |link| (at, link))).collect()
    }
}

/// Returns the text of a heading.
fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    ((1..=6).contains(&level) && text.starts_with(' ')).then(|| text.trim())
}

/// Returns the anchor that GitHub makes of a heading: lower case, no punctuation but `-` and `_`, hyphens for spaces.
pub fn slug(heading: &str) -> String {
    let text = without_targets(heading).to_lowercase();
    let kept = text.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_' | ' '));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

/// Replaces `[text](target)` by `text`.
fn without_targets(text: &str) -> String {
    let mut parts = text.split("](");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        result += part.split_once(')').map_or("", |(_, rest)| rest);
    }
    result
}

/// Returns the targets in a line: `[text](target)`, `![text](target)`, `[name]: target`. Code spans are skipped.
fn links(line: &str) -> Vec<String> {
    let line: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
    let mut found = Vec::new();
    if let Some((_, target)) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
        found.push(target.trim().to_owned());
    }
    for part in line.split("](").skip(1) {
        let target = part.split(')').next().unwrap_or_default();
        found.push(target.split(' ').next().unwrap_or_default().to_owned());
    }
    found
}

/// Returns all Markdown files of the repository, by path.
pub fn pages() -> Vec<Page> {
    const SKIPPED: [&str; 4] = ["target", ".git", "node_modules", "terrace-data"];
    let mut paths = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path()) {
            let name = entry.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
            if entry.is_dir() && !SKIPPED.contains(&&*name) {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "md") {
                paths.push(entry.strip_prefix(root()).ok().and_then(|path| path.to_str()).expect("UTF-8").to_owned());
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

/// Returns `README.md` and all pages of `docs/`.
pub fn documentation() -> Vec<Page> {
    pages().into_iter().filter(|page| page.path == "README.md" || page.path.starts_with("docs/")).collect()
}
