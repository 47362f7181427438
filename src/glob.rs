//! Redis's glob patterns: `*`, `?`, `[classes]`, `[^negated]`, ranges and `\` escapes, over bytes.
//!
//! Matching is iterative and takes at most pattern length times text length steps, because it backtracks only to the
//! last `*` (CVE-2022-36021 and CVE-2024-31228 were recursion and repeated backtracking).

use bytes::Bytes;

use crate::error::{CacheError, Kind, Result};

/// Maximum size of a glob pattern. The size bounds the time of a match.
pub const PATTERN_MAX_BYTES: usize = 1024;

/// A pattern over whole keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    pattern: Bytes,
    /// The literal prefix of every match, and the offset in the pattern where the remaining pattern begins.
    prefix: Bytes,
    rest_at: usize,
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
        let (prefix, rest_at) = literal_start(pattern);
        Ok(Self { pattern: Bytes::copy_from_slice(pattern), prefix: prefix.into(), rest_at })
    }

    /// Creates the pattern that matches every key that starts with `prefix`; special characters are escaped.
    ///
    /// # Errors
    /// As [`Glob::new`], for the prefix with its special bytes escaped.
    pub fn of_prefix(prefix: &[u8]) -> Result<Self> {
        let mut pattern = Vec::with_capacity(prefix.len() + 1);
        for &byte in prefix {
            if matches!(byte, b'*' | b'?' | b'[' | b'\\') {
                pattern.push(b'\\');
            }
            pattern.push(byte);
        }
        pattern.push(b'*');
        Self::new(&pattern)
    }

    /// Returns the pattern as the caller passed it.
    #[must_use]
    pub fn pattern(&self) -> &Bytes {
        &self.pattern
    }

    /// Returns whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        text.strip_prefix(&self.prefix[..]).is_some_and(|text| matches(&self.pattern[self.rest_at..], text))
    }

    /// Returns the literal prefix of every match: the bytes before the first `*`, `?` or class with several members,
    /// with escapes resolved.
    #[must_use]
    pub fn literal_prefix(&self) -> &[u8] {
        &self.prefix
    }
}

/// Returns the literal prefix of the pattern, and the offset where the remaining pattern begins.
fn literal_start(pattern: &[u8]) -> (Vec<u8>, usize) {
    let (mut prefix, mut at) = (Vec::new(), 0);
    while let Some((byte, next)) = literal_at(pattern, at) {
        prefix.push(byte);
        at = next;
    }
    (prefix, at)
}

/// Returns the byte that the element at `at` matches, if it matches only one, and the offset of the next element.
fn literal_at(pattern: &[u8], at: usize) -> Option<(u8, usize)> {
    match *pattern.get(at..)? {
        [] | [b'*' | b'?', ..] | [b'[', b']' | b'^', ..] => None,
        [b'[', b'\\', byte, b']', ..] => Some((byte, at + 4)),
        [b'[', byte, b']', ..] if byte != b'\\' => Some((byte, at + 3)),
        [b'[', ..] => None,
        [b'\\', byte, ..] => Some((byte, at + 2)),
        [byte, ..] => Some((byte, at + 1)),
    }
}

fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to resume after the last star: the pattern offset after it, and the text offset it has not consumed yet.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        let step = match (text.get(t), pattern.get(p)) {
            (None, None) => return true,
            (Some(&byte), Some(_)) => match_one(pattern, p, byte),
            (None, Some(_)) => return false,
            (Some(_), None) => None,
        };
        match (step, retry) {
            (Some(next), _) => (p, t) = (next, t + 1),
            (None, Some((after_star, from))) => {
                (p, t) = (after_star, from + 1);
                retry = Some((after_star, from + 1));
            }
            (None, None) => return false,
        }
        if t > text.len() {
            return false;
        }
    }
}

/// Matches one byte against the element at `p`. Returns the offset of the next element.
fn match_one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match pattern[p] {
        b'?' => Some(p + 1),
        b'[' => {
            let (hit, next) = match_class(pattern, p + 1, byte);
            hit.then_some(next)
        }
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        literal => (literal == byte).then_some(p + 1),
    }
}

/// Matches one byte against the class whose content begins at `p`. As in Redis, an unclosed class ends with the
/// pattern, and the bounds of a range may be in either order. Bytes are compared as C's `char`, which is signed on most
/// platforms of Redis: 0x80 to 0xFF sort before 0x00.
fn match_class(pattern: &[u8], mut p: usize, byte: u8) -> (bool, usize) {
    let negated = pattern.get(p) == Some(&b'^');
    if negated {
        p += 1;
    }
    let mut hit = false;
    loop {
        match pattern.get(p) {
            Some(b'\\') if p + 1 < pattern.len() => {
                hit |= pattern[p + 1] == byte;
                p += 2;
            }
            Some(b']') => return (hit != negated, p + 1),
            None => return (hit != negated, p),
            Some(&low) if p + 2 < pattern.len() && pattern[p + 1] == b'-' => {
                let (low, high) = (low.cast_signed(), pattern[p + 2].cast_signed());
                hit |= (low.min(high)..=low.max(high)).contains(&byte.cast_signed());
                p += 3;
            }
            Some(&literal) => {
                hit |= literal == byte;
                p += 1;
            }
        }
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
            ("*", ""),
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
        for (pattern, text) in [("", "a"), ("a", ""), ("a*b", "ac"), ("h[^e]llo", "hello"), ("?", ""), ("a\\*c", "abc")]
        {
            assert!(!case(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn work_is_bounded() {
        let pattern = "a*".repeat(500) + "b";
        assert!(!case(&pattern, &"a".repeat(60_000)));
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
            ("a[b-b]", "a"),
            ("a[b", "a"),
            ("a[\\]", "a"),
        ] {
            assert_eq!(Glob::new(pattern.as_bytes()).unwrap().literal_prefix(), prefix.as_bytes(), "{pattern}");
        }
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
