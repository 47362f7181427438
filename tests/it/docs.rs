//! The documentation agrees with the code: generated tables are up to date, examples run, configurations are valid, links work.
//!
//! `TERRACE_BLESS=1 cargo test --test it docs` rewrites the generated tables of `docs/reference` instead of comparing them.

mod commands;
mod errors;
mod examples;
mod limits;
mod tables;

use std::{collections::BTreeSet, fs};

use terrace::config::{Sources, load};

use crate::support::{
    markdown::{Page, documentation, pages, root},
    setting_from_environment,
};

/// Maximum number of lines of the README.
const README_LINES_MAX: usize = 200;

/// Compares the region `name` of a page with text generated from the code; rewrites the region if `TERRACE_BLESS` is
/// set.
fn assert_generated(path: &str, name: &str, generated: &str) {
    let page = Page::read(path);
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), format!("<!-- /generated: {name} -->"));
    let (before, rest) = page.text.split_once(&begin).unwrap_or_else(|| panic!("{path} has no line {begin}"));
    let (shown, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{path} has no line {end}"));
    let wanted = format!("\n{}\n\n", generated.trim());
    if shown == wanted {
        return;
    }
    if setting_from_environment("TERRACE_BLESS", 0) == 1 {
        fs::write(root().join(path), format!("{before}{begin}{wanted}{end}{after}")).unwrap();
        return;
    }
    panic!(
        "{path} is out of date. Run TERRACE_BLESS=1 cargo test --test it docs, or paste into region {name}:\n{wanted}"
    );
}

/// Returns the text of a table cell.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[test]
fn toml_blocks_are_valid_configurations() {
    for page in documentation() {
        for block in page.blocks_of("toml") {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("terrace.toml");
            fs::write(&file, &block).unwrap();
            let loaded = load(&Sources { file: Some(file), ..Sources::default() });
            assert!(loaded.is_ok(), "{}: {}\n{block}", page.path, loaded.unwrap_err());
        }
    }
}

#[test]
fn links_and_anchors_exist() {
    let mut faults = Vec::new();
    for page in pages() {
        for (line, link) in page.links() {
            if let Some(fault) = fault(&page, &link) {
                faults.push(format!("{}:{line}: {link}: {fault}", page.path));
            }
        }
    }
    assert!(faults.is_empty(), "{} broken links:\n{}", faults.len(), faults.join("\n"));
}

/// Returns the reason why a link is broken, if it is.
fn fault(page: &Page, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = root().join(&page.path).parent().unwrap().to_owned();
    let target = if file.is_empty() { root().join(&page.path) } else { folder.join(file) };
    let Ok(target) = target.canonicalize() else { return Some("no such file".into()) };
    let Ok(target) = target.strip_prefix(root().canonicalize().unwrap()).map(|path| path.to_str().unwrap().to_owned())
    else {
        return Some("outside of the repository".into());
    };
    if anchor.is_empty() || !target.ends_with(".md") {
        return None;
    }
    let known = Page::read(&target).anchors();
    (!known.contains(anchor)).then(|| format!("no such anchor; {target} has {known:?}"))
}

#[test]
fn every_page_of_the_documentation_is_linked_from_its_index() {
    let index = Page::read("docs/README.md");
    let linked: BTreeSet<String> = index.links().into_iter().map(|(_, link)| link).collect();
    let pages = documentation().into_iter().filter(|page| page.path.starts_with("docs/") && page.path != index.path);
    let missing: Vec<_> =
        pages.map(|page| page.path["docs/".len()..].to_owned()).filter(|path| !linked.contains(path)).collect();
    assert!(missing.is_empty(), "docs/README.md does not link {missing:?}");
}

#[test]
fn the_readme_is_short_and_its_first_block_has_the_two_commands() {
    let readme = Page::read("README.md");
    let lines = readme.text.lines().count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines; at most {README_LINES_MAX} are allowed");
    let commands = readme.blocks_of("sh").first().cloned().unwrap_or_default();
    let commands: Vec<&str> = commands.lines().map(|line| line.split(" #").next().unwrap().trim()).collect();
    assert_eq!(commands, ["cargo run --release -- serve", "./tests/run.sh"]);
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.contains("tests/run.sh"), "CI runs the command that README.md names");
}

#[test]
fn every_path_of_the_code_tour_exists() {
    const FOLDERS: [&str; 8] = ["src/", "tests/", "benches/", "proto/", "docker/", "fuzz/", "clients/", "examples/"];
    let tour = Page::read("docs/development/code-tour.md");
    let spans = tour
        .prose()
        .into_iter()
        .flat_map(|(line, text)| text.split('`').skip(1).step_by(2).map(move |span| (line, span)));
    let paths: Vec<_> = spans.filter(|(_, span)| FOLDERS.iter().any(|folder| span.starts_with(folder))).collect();
    assert!(paths.len() > 50, "the tour names files");
    let missing: Vec<_> = paths.iter().filter(|(_, path)| !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "docs/development/code-tour.md names files that do not exist: {missing:?}");
}
