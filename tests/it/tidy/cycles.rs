//! Finds import cycles between the files of `src`.
//!
//! An edge leads from a file to each module file that its code names, by a `use` line or by an inline path. A path
//! resolves to the deepest module file that exists; a re-export resolves to the module that re-exports. Code under
//! `#[cfg(test)]` does not count.
//!
//! A module and its own descendants may import each other: an edge from a descendant to its ancestor is left out. The edge
//! from the ancestor stays, because others reach the descendant through it.

use std::collections::{BTreeMap, BTreeSet};

use super::Source;

/// A module path relative to the crate root: `["resp", "exec"]`.
type Module = Vec<String>;

/// Returns one line per import cycle: its files and the edges between them.
pub(super) fn cycles(sources: &[Source]) -> Vec<String> {
    let graph = Graph::new(sources);
    graph.components().iter().filter(|files| files.len() > 1).map(|files| graph.report(files)).collect()
}

/// Returns the files that each file imports, by path, except for a module and its own parents.
pub(super) fn imports(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    Graph::new(sources).edges
}

/// Returns the edges between files, by path.
struct Graph {
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn new(sources: &[Source]) -> Self {
        let parsed: Vec<(Module, &Source, Vec<Token>)> = sources
            .iter()
            .filter(|source| source.path != "main.rs")
            .map(|source| (module_of(&source.path), source, without_tests(&tokens(&source.text))))
            .collect();
        let test_modules: BTreeSet<Module> = parsed
            .iter()
            .flat_map(|(module, source, _)| {
                test_modules(&tokens(&source.text)).into_iter().map(|name| child(module, &name))
            })
            .collect();
        let is_test = |module: &Module| (1..=module.len()).any(|len| test_modules.contains(&module[..len]));
        let files: BTreeMap<Module, String> = parsed
            .iter()
            .filter(|(module, ..)| !is_test(module))
            .map(|(module, source, _)| (module.clone(), source.path.clone()))
            .collect();
        let mut edges = BTreeMap::new();
        for (module, source, code) in parsed.iter().filter(|(module, ..)| !is_test(module)) {
            let targets = targets(module, code, &files);
            let others =
                targets.iter().filter(|target| !module.starts_with(target)).map(|target| files[target].clone());
            edges.insert(source.path.clone(), others.collect());
        }
        Self { edges }
    }

    fn reachable(&self, from: &str) -> BTreeSet<&str> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            for next in self.edges.get(file).into_iter().flatten() {
                if seen.insert(next.as_str()) {
                    open.push(next);
                }
            }
        }
        seen
    }

    /// Returns the strongly connected components, by path of the file.
    fn components(&self) -> Vec<Vec<&str>> {
        let reachable: BTreeMap<&str, BTreeSet<&str>> =
            self.edges.keys().map(|file| (file.as_str(), self.reachable(file))).collect();
        let (mut done, mut components) = (BTreeSet::new(), Vec::new());
        for (file, others) in &reachable {
            if done.contains(file) {
                continue;
            }
            let back = others.iter().filter(|other| *other != file && reachable[*other].contains(file));
            let component: Vec<&str> = std::iter::once(*file).chain(back.copied()).collect();
            done.extend(component.iter().copied());
            components.push(component);
        }
        components
    }

    fn report(&self, files: &[&str]) -> String {
        let edge = |from: &str| -> Vec<String> {
            let to = self.edges[from].iter().filter(|to| files.contains(&to.as_str()));
            to.map(|to| format!("    {from} -> {to}")).collect()
        };
        let edges: Vec<String> = files.iter().flat_map(|from| edge(from)).collect();
        format!("{} files import each other in a cycle:\n{}", files.len(), edges.join("\n"))
    }
}

fn child(module: &[String], name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// Returns the module path of a file: `resp::exec` for `resp/exec/mod.rs`, the crate root for `lib.rs`.
fn module_of(path: &str) -> Module {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// Returns the module files that the code of `module` names.
fn targets(module: &[String], code: &[Token], files: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let paths = paths(code);
    // Names that use lines bind, for inline paths that begin with them.
    let bound: BTreeMap<&str, &Path> = paths.iter().filter_map(|path| Some((path.binds.as_deref()?, path))).collect();
    let mut found = BTreeSet::new();
    for path in &paths {
        let begin = path.segments.first().and_then(|first| bound.get(first.as_str()));
        let whole = match begin {
            Some(begin) if path.binds.is_none() => {
                let absolute = absolute(module, &begin.scope, &begin.segments, files);
                absolute.map(|begin| begin.into_iter().chain(path.segments[1..].iter().cloned()).collect())
            }
            Some(_) | None => absolute(module, &path.scope, &path.segments, files),
        };
        found.extend(whole.map(|path| deepest(&path, files)));
    }
    found
}

/// Returns a path from the crate root; `None` for a path into another crate or to an item of the same file.
fn absolute(module: &[String], scope: &[String], path: &[String], files: &BTreeMap<Module, String>) -> Option<Module> {
    let mut at: Module = module.iter().chain(scope).cloned().collect();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => (at, rest) = (Vec::new(), &path[1..]),
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|first| first == "super") {
                at.pop();
                rest = &rest[1..];
            }
        }
        name if files.contains_key(&child(&at, name)) => {}
        _ => return None,
    }
    at.extend(rest.iter().cloned());
    Some(at)
}

/// Returns the deepest module on the path that has a file.
fn deepest(path: &[String], files: &BTreeMap<Module, String>) -> Module {
    let known = (0..=path.len()).rev().find(|len| files.contains_key(&path[..*len]));
    path[..known.unwrap_or(0)].to_vec()
}

/// A token: a word, or another character (`::` is one token).
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    PathSeparator,
    Sign(char),
}

impl Token {
    fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own == word)
    }

    fn word(&self) -> Option<&str> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }
}

/// Returns the code without comments, texts and blanks.
fn tokens(text: &str) -> Vec<Token> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            '"' => text_length(rest),
            'r' | 'b' | 'c' if raw_text_length(rest).is_some() => raw_text_length(rest).unwrap_or(1),
            '\'' => character_length(rest),
            _ if super::is_word(first) => {
                let word = super::word(rest);
                tokens.push(Token::Word(word.to_owned()));
                word.len()
            }
            _ if rest.starts_with("::") => {
                tokens.push(Token::PathSeparator);
                2
            }
            blank if blank.is_whitespace() => blank.len_utf8(),
            sign => {
                tokens.push(Token::Sign(sign));
                sign.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    tokens
}

/// Returns the length of a text that begins with a quotation mark.
fn text_length(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Returns the length of a raw text such as `br#"..."#`.
fn raw_text_length(rest: &str) -> Option<usize> {
    let begin = rest.trim_start_matches(['b', 'c']).strip_prefix('r')?;
    let quoted = begin.trim_start_matches('#');
    let marks = begin.len() - quoted.len();
    let content = quoted.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(marks));
    let length = content.find(&end)? + end.len();
    Some(rest.len() - content.len() + length)
}

/// Returns the length of a character literal, or of the apostrophe of a lifetime.
fn character_length(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            rest[escaped + 1..].find('\'').map_or(rest.len(), |at| escaped + 1 + at + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// Returns the positions of the items with `#[cfg(test)]` or `#[cfg(all(test, ...))]` among the tokens.
fn test_items(tokens: &[Token]) -> Vec<std::ops::Range<usize>> {
    let begins = |at: usize| {
        let words: Vec<&str> = tokens[at..].iter().take(7).filter_map(Token::word).collect();
        tokens[at] == Token::Sign('#') && tokens.get(at + 1) == Some(&Token::Sign('[')) && {
            words.starts_with(&["cfg", "test"]) || words.starts_with(&["cfg", "all", "test"])
        }
    };
    let (mut items, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if !begins(at) {
            at += 1;
            continue;
        }
        let end = end_of_item(tokens, at);
        items.push(at..end);
        at = end;
    }
    items
}

/// Returns the end of the item that begins here, including its attributes.
fn end_of_item(tokens: &[Token], begin: usize) -> usize {
    let mut at = begin;
    while tokens.get(at) == Some(&Token::Sign('#')) {
        at = end_of_group(tokens, at + 1);
    }
    let is_use = tokens[at..].iter().take(6).any(|token| token.is_word("use"));
    while let Some(token) = tokens.get(at) {
        match token {
            Token::Sign(';') => return at + 1,
            Token::Sign('{') if !is_use => return end_of_group(tokens, at),
            Token::Sign('(' | '[' | '{') => at = end_of_group(tokens, at),
            // The last field of a struct.
            Token::Sign('}') => return at,
            Token::Sign(_) | Token::Word(_) | Token::PathSeparator => at += 1,
        }
    }
    at
}

/// Returns the end of the group whose opening bracket is here.
fn end_of_group(tokens: &[Token], begin: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(begin) {
        match token {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
            Token::Sign(_) | Token::Word(_) | Token::PathSeparator => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let items = test_items(tokens);
    let kept = tokens.iter().enumerate().filter(|(at, _)| !items.iter().any(|item| item.contains(at)));
    kept.map(|(_, token)| token.clone()).collect()
}

/// Returns the names of the modules with `#[cfg(test)]` that are separate files.
fn test_modules(tokens: &[Token]) -> Vec<String> {
    let name = |item: std::ops::Range<usize>| match &tokens[item] {
        [.., Token::Word(word), Token::Word(name), Token::Sign(';')] if word == "mod" => Some(name.clone()),
        _ => None,
    };
    test_items(tokens).into_iter().filter_map(name).collect()
}

/// A path that the code names.
#[derive(Debug, PartialEq, Eq)]
struct Path {
    segments: Vec<String>,
    /// The inline modules around it.
    scope: Vec<String>,
    /// The name that a use line binds; `None` for an inline path.
    binds: Option<String>,
}

/// Returns all paths in the code: those of use lines, and inline paths of at least two segments.
fn paths(code: &[Token]) -> Vec<Path> {
    let mut paths = Vec::new();
    let mut scopes: Vec<Option<String>> = Vec::new();
    let mut at = 0;
    while at < code.len() {
        let scope = || scopes.iter().flatten().cloned().collect::<Vec<String>>();
        match &code[at..] {
            [Token::Word(word), ..] if word == "use" => {
                at = use_tree(code, at + 1, &[], &scope(), &mut paths);
                continue;
            }
            [Token::Word(word), Token::Word(name), Token::Sign('{'), ..] if word == "mod" => {
                scopes.push(Some(name.clone()));
                at += 3;
                continue;
            }
            [Token::Sign('{'), ..] => scopes.push(None),
            [Token::Sign('}'), ..] => drop(scopes.pop()),
            // Visibility names an ancestor and imports nothing.
            [Token::Sign('('), Token::Word(word), ..] if word == "in" => {
                at = end_of_group(code, at);
                continue;
            }
            [Token::Word(first), Token::PathSeparator, ..] => {
                let (segments, end) = inline_path(code, at, first);
                paths.push(Path { segments, scope: scope(), binds: None });
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    paths
}

fn inline_path(code: &[Token], begin: usize, first: &str) -> (Vec<String>, usize) {
    let (mut segments, mut at) = (vec![first.to_owned()], begin + 1);
    while let [Token::PathSeparator, Token::Word(word), ..] = &code[at..] {
        segments.push(word.clone());
        at += 2;
    }
    (segments, at)
}

/// Reads one tree of a use line; returns where it ends.
fn use_tree(code: &[Token], begin: usize, prefix: &[String], scope: &[String], paths: &mut Vec<Path>) -> usize {
    let (mut segments, mut at) = (prefix.to_vec(), begin);
    let mut add = |segments: &[String], name: Option<&str>| {
        let name = name.filter(|name| *name != "self").or_else(|| segments.last().map(String::as_str));
        let binds = Some(name.unwrap_or_default().to_owned());
        paths.push(Path { segments: segments.to_vec(), scope: scope.to_vec(), binds });
    };
    loop {
        match code.get(at) {
            Some(Token::Word(word)) if word == "as" => {
                add(&segments, code.get(at + 1).and_then(Token::word));
                return at + 2;
            }
            Some(Token::Word(word)) if word == "self" && !segments.is_empty() => {}
            Some(Token::Word(word)) => segments.push(word.clone()),
            Some(Token::PathSeparator) => {}
            Some(Token::Sign('*')) => {
                add(&segments, Some("*"));
                return at + 1;
            }
            Some(Token::Sign('{')) => {
                at += 1;
                while code.get(at).is_some_and(|token| *token != Token::Sign('}')) {
                    at = use_tree(code, at, &segments, scope, paths);
                    at += usize::from(code.get(at) == Some(&Token::Sign(',')));
                }
                return at + 1;
            }
            Some(Token::Sign(_)) | None => {
                add(&segments, None);
                return at;
            }
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        cycles(&files.iter().map(|(path, text)| super::super::sample(path, text)).collect::<Vec<_>>())
    }

    const A_TO_B: &str = "a.rs -> b.rs";

    #[test]
    fn a_cycle_is_found_however_it_is_written() {
        for text in [
            "use crate::b::f;",
            "use crate::{c, b::{self, f}};",
            "pub use super::b as other;",
            "fn f() { crate::b::f(); }",
            "fn f() -> super::b::B { g() }",
            "use crate::{self as root, c}; fn f() { root::b::f(); }",
            "mod inner { fn f() { super::super::b::f(); } }",
            "fn f<'a>(a: &'a str) { let _quote = ('\"', \"\\\"\"); crate::b::f(); }",
        ] {
            let found =
                found(&[("lib.rs", "mod a; mod b; mod c;"), ("a.rs", text), ("b.rs", "use crate::a;"), ("c.rs", "")]);
            assert_eq!(found.len(), 1, "{text}");
            assert!(found[0].contains(A_TO_B) && found[0].contains("b.rs -> a.rs"), "{}", found[0]);
        }
    }

    #[test]
    fn a_path_that_begins_with_an_imported_module_resolves_through_it() {
        let found = found(&[
            ("a.rs", "use crate::b; fn f() { b::c::f(); }"),
            ("b/mod.rs", "pub mod c;"),
            ("b/c.rs", "use crate::a::f;"),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("a.rs -> b/c.rs"), "{}", found[0]);
    }

    #[test]
    fn a_cycle_of_three_is_one_component_without_the_files_beside_it() {
        let found = found(&[
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "use crate::{a::A, d::D};"),
            ("d.rs", ""),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("3 files") && !found[0].contains("d.rs"), "{}", found[0]);
    }

    #[test]
    fn a_module_and_its_descendants_may_import_each_other() {
        let own = [
            ("a/mod.rs", "mod b; use b::c::f; use self::b::C;"),
            ("a/b.rs", "pub mod c; use super::A; pub(in crate::a) struct B;"),
            ("a/b/c.rs", "use crate::a::{A, b::B};"),
        ];
        assert!(found(&own).is_empty());
        let siblings = [("a/mod.rs", ""), ("a/b.rs", "use super::c::C;"), ("a/c.rs", "use super::b::B;")];
        assert_eq!(found(&siblings).len(), 1);
    }

    #[test]
    fn a_cycle_through_the_parent_of_a_file_is_found() {
        let found = found(&[
            ("table.rs", "mod rows; const ALL: u8 = rows::ROWS;"),
            ("table/rows.rs", "use crate::exec; use super::Macro; pub const ROWS: u8 = exec::run();"),
            ("exec.rs", "use crate::table::find;"),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("3 files"), "{}", found[0]);
    }

    #[test]
    fn tests_comments_and_texts_import_nothing() {
        for text in [
            "#[cfg(test)]\nmod tests {\n    use crate::b::f;\n}",
            "#[cfg(test)]\nuse crate::{b::f, c};\n#[cfg(test)]\nfn f() { crate::b::f(); }",
            "#[cfg(all(test, not(feature = \"x\")))]\nmod tests { use crate::b; }",
            "// use crate::b;\n/* crate::b::f() */",
            "const A: [&str; 2] = [\"crate::b::f()\", r#\"use \"crate::b\";\"#];",
            "use std::b; use other::b::f;",
        ] {
            let found = found(&[("a.rs", text), ("b.rs", "use crate::a;"), ("c.rs", "")]);
            assert!(found.is_empty(), "{text}: {found:?}");
        }
        let in_a_file =
            [("a.rs", "#[cfg(test)]\nmod tests;"), ("a/tests.rs", "use crate::b;"), ("b.rs", "use crate::a::f;")];
        assert!(found(&in_a_file).is_empty());
    }
}
