//! Checks the structure of the tests: helpers are in `tests/support`, and no test file imports another one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// All Rust files of a folder and its subfolders.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The code of a file without its comments and without white space.
fn condensed(text: &str) -> String {
    let code = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    code.flat_map(str::chars).filter(|character| !character.is_whitespace()).collect()
}

/// The first path segment after each `root` (such as `crate::`), also within one pair of braces.
fn segments_after(code: &str, root: &str) -> BTreeSet<String> {
    let mut segments = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let rest = &code[at + root.len()..];
        let (mut depth, mut starts) = (0, !rest.starts_with('{'));
        if starts {
            segments.insert(identifier(rest).to_owned());
            continue;
        }
        for (at, character) in rest.char_indices() {
            if starts {
                segments.insert(identifier(&rest[at..]).to_owned());
            }
            depth += i32::from(character == '{') - i32::from(character == '}');
            starts = depth == 1 && matches!(character, '{' | ',');
            if depth == 0 {
                break;
            }
        }
    }
    segments
}

fn identifier(text: &str) -> &str {
    let end = text.find(|character: char| !character.is_alphanumeric() && character != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The test modules that a file of `tests/it` imports although it belongs to another one. `path` is relative to `tests/it`.
fn imported_tests(path: &Path, text: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let own = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
    let code = condensed(text);
    let mut segments = segments_after(&code, "crate::");
    // In a file at the top level, `super` is the crate; in a subfolder, it is a module of the same test.
    if path.iter().count() == 1 {
        segments.extend(segments_after(&code, "super::"));
    }
    segments.retain(|segment| modules.contains(segment) && segment != own);
    segments
}

/// The test modules that `main.rs` declares.
fn test_modules(main: &str) -> BTreeSet<String> {
    let declared = main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    declared.filter(|module| *module != "support").map(str::to_owned).collect()
}

#[test]
fn no_test_file_imports_another_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let modules = test_modules(&fs::read_to_string(folder.join("main.rs")).unwrap());
    assert!(modules.len() > 40 && modules.contains("tidy_tests"), "{modules:?}");
    let mut faults = Vec::new();
    // This file has samples of forbidden imports as text.
    for file in rust_files(&folder).into_iter().filter(|file| !file.ends_with("tidy_tests.rs")) {
        let path = file.strip_prefix(&folder).unwrap();
        let imported = imported_tests(path, &fs::read_to_string(&file).unwrap(), &modules);
        faults.extend(imported.iter().map(|module| format!("{}: {module}", path.display())));
    }
    assert!(faults.is_empty(), "move what these files share to tests/support: {faults:#?}");
}

#[test]
fn the_check_finds_each_form_of_import() {
    let modules = test_modules("mod support;\n\nmod bans;\nmod http;\nmod tags;\n");
    assert_eq!(modules.len(), 3);
    let imported = |path: &str, text: &str| Vec::from_iter(imported_tests(Path::new(path), text, &modules));
    assert_eq!(imported("tags.rs", "use crate::bans::node;"), ["bans"]);
    assert_eq!(
        imported("tags.rs", "use crate::{\n    bans,\n    http::{get, tags},\n    support::http,\n};"),
        ["bans", "http"]
    );
    assert_eq!(imported("tags.rs", "fn f() { super::bans::node(); }"), ["bans"]);
    assert_eq!(imported("tags/rows.rs", "use crate::bans;"), ["bans"]);
    assert!(imported("tags/rows.rs", "use super::bans;").is_empty(), "a module of the same test");
    assert!(imported("tags.rs", "use crate::{support::{http, bans}, tags::rows}; // crate::bans").is_empty());
}
