//! Redis's glob patterns: `*`, `?`, `[classes]`, `[^negated]`, ranges and `\` escapes, over bytes.
//!
//! A pattern is parsed once into the runs between its stars. The first run must begin the text, the last run must end
//! it, and each run between them is found at its first position after the previous run, so that a match never goes back
//! to an earlier star. A run without `?` and classes is found by `memmem`, in linear time. Any other run is found by
//! [`search::find`], which compares 64 elements at a time. The time of a match is therefore at most proportional to
//! text length times pattern length / 64 (CVE-2022-36021 and CVE-2024-31228 were repeated backtracking and recursion).

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

pub(crate) use self::search::ByteSet;
use self::search::Element;
use crate::error::{CacheError, Kind, Result};

mod search;

/// Maximum size of a glob pattern. The size bounds the time of a match.
pub const PATTERN_MAX_BYTES: usize = 1024;

/// A pattern over whole keys.
#[derive(Debug, Clone)]
pub struct Glob {
    pattern: Bytes,
    program: Arc<Program>,
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Glob {}

/// A parsed pattern. Redis accepts every byte sequence as a pattern, and so does Terrace.
#[derive(Debug)]
struct Program {
    /// The elements of all runs. Each matches one byte, so their number is the least length of a match.
    elements: Vec<Element>,
    /// The byte of each element that matches only one byte; 0 for other elements.
    literals: Vec<u8>,
    sets: Vec<ByteSet>,
    /// Number of elements before the first star that match only one byte each.
    prefix: usize,
    /// The runs between the stars: one run more than there are stars, where adjacent stars count as one.
    runs: Vec<Run>,
}

/// Elements without a star between them.
#[derive(Debug)]
struct Run {
    range: Range<usize>,
    is_literal: bool,
}

impl Glob {
    /// Checks a pattern.
    ///
    /// # Errors
    /// `InvalidArgument` when it is longer than [`PATTERN_MAX_BYTES`]. Redis accepts every byte sequence, and so does
    /// Terrace.
    pub fn new(pattern: &[u8]) -> Result<Self> {
        if pattern.len() > PATTERN_MAX_BYTES {
            let message = format!("the pattern has {} bytes; at most {PATTERN_MAX_BYTES} are allowed", pattern.len());
            return Err(CacheError::new(Kind::InvalidArgument, message));
        }
        Ok(Self { pattern: Bytes::copy_from_slice(pattern), program: Arc::new(Program::parse(pattern)) })
    }

    /// Creates the pattern that matches every key that starts with `prefix`; special characters are escaped.
    ///
    /// # Errors
    /// As [`Glob::new`], for the prefix with its special bytes escaped.
    pub fn of_prefix(prefix: &[u8]) -> Result<Self> {
        Self::new(&pattern_of_prefix(prefix))
    }

    /// Returns the pattern as the caller passed it.
    #[must_use]
    pub fn pattern(&self) -> &Bytes {
        &self.pattern
    }

    /// Returns whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.may_match(text) && self.program.matches(text)
    }

    /// Returns whether `text` has the literal prefix of the pattern and at least the length of the shortest match. Takes
    /// no longer than a comparison of keys, so that it may run under a lock.
    #[must_use]
    pub fn may_match(&self, text: &[u8]) -> bool {
        text.len() >= self.program.elements.len() && text.starts_with(self.literal_prefix())
    }

    /// Returns the literal prefix of every match: the bytes before the first `*`, `?` or class with several members,
    /// with escapes resolved.
    #[must_use]
    pub fn literal_prefix(&self) -> &[u8] {
        &self.program.literals[..self.program.prefix]
    }

    /// Returns the pattern to send to Redis, which compares keys one by one on its only thread, and whether it is this
    /// pattern. Otherwise it matches more keys, and the caller has to compare the keys that Redis returns.
    ///
    /// Redis compares in time proportional to pattern length times key length, because it tries the rest of the pattern
    /// at every position after a star. A pattern of 64 bytes with one star thus takes milliseconds for one key of 64 KiB,
    /// and one page of a scan has thousands of keys. Therefore, only a pattern whose time does not depend on the length
    /// of the key is sent as it is: one without a star, or with a star at its end only. Any other pattern is replaced by
    /// its literal prefix and a star.
    #[must_use]
    pub fn for_redis(&self) -> (Bytes, bool) {
        if self.ends_after_first_run() {
            return (self.pattern.clone(), true);
        }
        (pattern_of_prefix(self.literal_prefix()).into(), false)
    }

    /// Returns the memory of the pattern in bytes, which its clones share.
    pub(crate) fn memory_bytes(&self) -> usize {
        let Program { elements, literals, sets, runs, .. } = &*self.program;
        let lists = size_of_val(&elements[..]) + literals.len() + size_of_val(&sets[..]) + size_of_val(&runs[..]);
        self.pattern.len() + size_of::<Program>() + lists
    }

    /// Returns whether the pattern is a literal text, with or without a star at its end.
    #[must_use]
    pub fn is_prefix(&self) -> bool {
        self.ends_after_first_run() && self.program.runs[0].is_literal
    }

    /// Returns whether the pattern has no star, or stars at its end only.
    fn ends_after_first_run(&self) -> bool {
        let runs = &self.program.runs;
        runs.len() == 1 || (runs.len() == 2 && runs[1].range.is_empty())
    }
}

fn pattern_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for &byte in prefix {
        if matches!(byte, b'*' | b'?' | b'[' | b'\\') {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.push(b'*');
    pattern
}

impl Program {
    fn parse(pattern: &[u8]) -> Self {
        let mut program =
            Self { elements: Vec::new(), literals: Vec::new(), sets: Vec::new(), prefix: 0, runs: Vec::new() };
        let (mut start, mut is_after_star) = (0, false);
        for part in Parts::of(pattern) {
            match part {
                Part::Star if is_after_star => {}
                Part::Star => {
                    program.close_run(start);
                    start = program.elements.len();
                }
                Part::One(set) => program.add(set),
            }
            is_after_star = part == Part::Star;
        }
        program.close_run(start);
        let first = &program.elements[program.runs[0].range.clone()];
        program.prefix = first.iter().take_while(|element| matches!(element, Element::Byte(_))).count();
        program.shrink();
        program
    }

    /// Releases unused memory: a client may have thousands of patterns.
    fn shrink(&mut self) {
        self.elements.shrink_to_fit();
        self.literals.shrink_to_fit();
        self.sets.shrink_to_fit();
        self.runs.shrink_to_fit();
    }

    fn close_run(&mut self, start: usize) {
        let range = start..self.elements.len();
        let is_literal = self.elements[range.clone()].iter().all(|element| matches!(element, Element::Byte(_)));
        self.runs.push(Run { range, is_literal });
    }

    /// Adds the element that matches one byte of a set.
    fn add(&mut self, set: ByteSet) {
        let element = match (set.len(), set.first()) {
            (1, Some(byte)) => Element::Byte(byte),
            (256, _) => Element::Any,
            _ => {
                self.sets.push(set);
                Element::Set(self.sets.len() as u16 - 1)
            }
        };
        self.literals.push(if let Element::Byte(byte) = element { byte } else { 0 });
        self.elements.push(element);
    }

    /// Compares a text that may match.
    fn matches(&self, text: &[u8]) -> bool {
        let [head, between @ .., tail] = &self.runs[..] else {
            // Without a star, the length must be equal.
            return text.len() == self.elements.len() && self.fits(&self.runs[0], text);
        };
        // Redis's loop over the pattern does not begin with an empty text: not even a star matches it.
        if text.is_empty() || !self.fits(head, text) {
            return false;
        }
        let (text, end) = text[head.range.len()..].split_at(text.len() - head.range.len() - tail.range.len());
        if !self.fits(tail, end) {
            return false;
        }
        let mut rest = text;
        between.iter().all(|run| {
            let found = self.find(run, rest);
            if let Some(at) = found {
                rest = &rest[at + run.range.len()..];
            }
            found.is_some()
        })
    }

    /// Returns whether the text begins with a match of the run.
    fn fits(&self, run: &Run, text: &[u8]) -> bool {
        if run.is_literal {
            return text.starts_with(&self.literals[run.range.clone()]);
        }
        search::fits(&self.elements[run.range.clone()], &self.sets, text)
    }

    /// Returns the first position of the run in the text.
    fn find(&self, run: &Run, text: &[u8]) -> Option<usize> {
        if run.is_literal {
            return memchr::memmem::find(text, &self.literals[run.range.clone()]);
        }
        search::find(&self.elements[run.range.clone()], &self.sets, text)
    }
}

/// A part of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Matches any text.
    Star,
    /// Matches one byte of the set: a literal byte, `?` or a class.
    One(ByteSet),
}

/// Parses a pattern, part by part.
pub(crate) struct Parts<'p> {
    pattern: &'p [u8],
    at: usize,
    /// Offset of the class without an end, which the iterator has passed.
    unclosed: Option<usize>,
}

impl<'p> Parts<'p> {
    pub(crate) fn of(pattern: &'p [u8]) -> Self {
        Self { pattern, at: 0, unclosed: None }
    }

    /// Returns the offset of a class without an end among the parts so far. Redis matches it, but not as its author meant.
    pub(crate) fn unclosed_class(&self) -> Option<usize> {
        self.unclosed
    }

    /// Parses the class whose `[` is at `start`. As in Redis, an unclosed class ends with the pattern, and the bounds of a
    /// range may be in either order. Bytes are compared as C's `char`, which is signed on most platforms of Redis: 0x80 to
    /// 0xFF sort before 0x00.
    fn class(&mut self, start: usize) -> ByteSet {
        let pattern = self.pattern;
        let negated = pattern.get(start + 1) == Some(&b'^');
        let (mut set, mut p) = (ByteSet::default(), start + 1 + usize::from(negated));
        self.at = loop {
            match pattern.get(p) {
                Some(b'\\') if p + 1 < pattern.len() => {
                    set.insert(pattern[p + 1]);
                    p += 2;
                }
                Some(b']') => break p + 1,
                None => {
                    self.unclosed = Some(start);
                    break p;
                }
                Some(&low) if p + 2 < pattern.len() && pattern[p + 1] == b'-' => {
                    let (low, high) = (low.cast_signed(), pattern[p + 2].cast_signed());
                    (low.min(high)..=low.max(high)).for_each(|byte| set.insert(byte.cast_unsigned()));
                    p += 3;
                }
                Some(&literal) => {
                    set.insert(literal);
                    p += 1;
                }
            }
        };
        if negated { set.complement() } else { set }
    }
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let start = self.at;
        let (set, length) = match self.pattern[start..] {
            [] => return None,
            [b'*', ..] => {
                self.at += 1;
                return Some(Part::Star);
            }
            [b'[', ..] => return Some(Part::One(self.class(start))),
            [b'?', ..] => (ByteSet::ALL, 1),
            [b'\\', escaped, ..] => (ByteSet::of(escaped), 2),
            [literal, ..] => (ByteSet::of(literal), 1),
        };
        self.at += length;
        Some(Part::One(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(pattern: &str, text: &str) -> bool {
        Glob::new(pattern.as_bytes()).unwrap().matches(text.as_bytes())
    }

    #[test]
    fn matches_as_redis_does() {
        for (pattern, text) in [
            ("", ""),
            ("*", "anything"),
            ("user:*", "user:1"),
            ("h?llo", "hello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[a-b]llo", "hbllo"),
            ("h[b-a]llo", "hbllo"),
            ("a\\*c", "a*c"),
            ("a[\\]]c", "a]c"),
            ("a**b*c", "axxbyyc"),
            ("[a", "a"),
            ("a\\", "a\\"),
        ] {
            assert!(case(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("a*b", "ac"),
            ("h[^e]llo", "hello"),
            ("?", ""),
            ("a\\*c", "abc"),
            // Channels may be empty, and no pattern of stars matches them in Redis.
            ("*", ""),
            ("**", ""),
            ("ab*bc", "abc"),
            ("*[", "x"),
        ] {
            assert!(!case(pattern, text), "{pattern} {text}");
        }
    }

    /// Every way to search, with each result: in a literal run, by single steps, by a table of one word and of several.
    #[test]
    fn long_texts_are_searched_in_every_way() {
        for length in [1, 2, 3, 63, 64, 65, 127, 128, 129, 1000] {
            let text = "a".repeat(5_000);
            for class in ["a", "?", "[ab]"] {
                let run = "a".repeat(length - 1) + class;
                let Ok(glob) = Glob::new(format!("*{run}b*").as_bytes()) else { continue };
                assert!(!glob.matches(text.as_bytes()), "{run}");
                assert!(glob.matches((text.clone() + "b").as_bytes()), "{run}");
                assert!(glob.matches((text.clone() + "b" + &text).as_bytes()), "{run}");
            }
        }
        assert!(!case(&("a*".repeat(500) + "b"), &"a".repeat(60_000)));
        assert!(case(&("?a*".repeat(300) + "b"), &("a".repeat(60_000) + "b")));
    }

    #[test]
    fn redis_receives_patterns_whose_time_does_not_depend_on_the_key() {
        for (pattern, sent, is_same) in [
            ("user:*", "user:*", true),
            ("user:**", "user:**", true),
            ("a?[bc]", "a?[bc]", true),
            ("a?[bc]*", "a?[bc]*", true),
            ("*", "*", true),
            ("*x", "*", false),
            ("a\\*b*c", "a\\*b*", false),
            ("u?er*x", "u*", false),
        ] {
            let glob = Glob::new(pattern.as_bytes()).unwrap();
            assert_eq!(glob.for_redis(), (sent.as_bytes().into(), is_same), "{pattern}");
        }
    }

    #[test]
    fn literal_texts_and_prefixes() {
        for (pattern, is_prefix) in
            [("", true), ("a", true), ("a*", true), ("[a]\\***", true), ("*", true), ("a?", false), ("*a", false)]
        {
            assert_eq!(Glob::new(pattern.as_bytes()).unwrap().is_prefix(), is_prefix, "{pattern}");
        }
    }

    #[test]
    fn the_literal_prefix_ends_where_more_than_one_byte_may_stand() {
        for (pattern, prefix) in [
            ("user:?x*", "user:"),
            ("plain", "plain"),
            ("", ""),
            ("a\\*b*", "a*b"),
            ("a\\", "a\\"),
            ("[u]ser[\\*][:]x[12]", "user*:x"),
            ("a[]b]c", "a"),
            ("a[^b]", "a"),
            ("a[b-b]*", "ab"),
            ("a[bb]c", "abc"),
            ("a[b", "ab"),
            ("a[\\]", "a]"),
        ] {
            assert_eq!(Glob::new(pattern.as_bytes()).unwrap().literal_prefix(), prefix.as_bytes(), "{pattern}");
        }
    }

    #[test]
    fn the_memory_of_a_pattern_includes_its_lists() {
        let bytes = |pattern: &str| Glob::new(pattern.as_bytes()).unwrap().memory_bytes();
        let empty = bytes("");
        assert!(bytes(&"a".repeat(1_000)) >= empty + 6 * 1_000);
        assert!(bytes(&"*a".repeat(500)) >= empty + 12 * 1_000);
        assert!(bytes(&"[]".repeat(500)) >= empty + 19 * 1_000);
    }

    #[test]
    fn a_prefix_is_taken_as_it_is_written() {
        let glob = Glob::of_prefix(b"a*[b]\\?").unwrap();
        assert_eq!((&glob.pattern()[..], glob.literal_prefix()), (&b"a\\*\\[b]\\\\\\?*"[..], &b"a*[b]\\?"[..]));
        assert!(glob.matches(b"a*[b]\\?") && glob.matches(b"a*[b]\\?x") && !glob.matches(b"axb\\?"));
        assert!(Glob::of_prefix(b"").unwrap().matches(b"anything"));
        assert!(Glob::of_prefix(&[b'a'; PATTERN_MAX_BYTES]).is_err());
    }
}
