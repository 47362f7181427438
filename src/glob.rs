//! Redis's glob patterns: `*`, `?`, `[classes]`, `[^negated]`, ranges and `\` escapes, over bytes.
//!
//! Iterative, with bounded work: at most pattern length times text length steps, because only the last `*` is ever
//! returned to (CVE-2022-36021 and CVE-2024-31228 were recursion and repeated backtracking).

use bytes::Bytes;

use crate::error::{CacheError, Kind, Result};

/// Longest pattern, bytes: bounds the work of a match.
pub const PATTERN_MAX_BYTES: usize = 1024;

/// A pattern over whole keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    pattern: Bytes,
}

impl Glob {
    /// Checks a pattern.
    ///
    /// # Errors
    /// `InvalidArgument` when it is longer than [`PATTERN_MAX_BYTES`]. Redis accepts every byte sequence, so do we.
    pub fn new(pattern: &[u8]) -> Result<Self> {
        if pattern.len() > PATTERN_MAX_BYTES {
            let message = format!("the pattern has {} bytes; at most {PATTERN_MAX_BYTES} are allowed", pattern.len());
            return Err(CacheError::new(Kind::InvalidArgument, message));
        }
        Ok(Self { pattern: Bytes::copy_from_slice(pattern) })
    }

    /// All texts that begin with `prefix`.
    ///
    /// # Errors
    /// `InvalidArgument` when the pattern is too long: never for a prefix of up to half of [`PATTERN_MAX_BYTES`] less one.
    pub fn of_prefix(prefix: &[u8]) -> Result<Self> {
        let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
        let escaped = prefix.iter().flat_map(|byte| special(byte).then_some(b'\\').into_iter().chain([*byte]));
        Self::new(&escaped.chain([b'*']).collect::<Vec<_>>())
    }

    /// The pattern as it was given.
    #[must_use]
    pub fn pattern(&self) -> &Bytes {
        &self.pattern
    }

    /// Whether `text` matches from its first to its last byte.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        matches(&self.pattern, text)
    }

    /// The bytes before the first special one: every match begins with them.
    #[must_use]
    pub fn literal_prefix(&self) -> &[u8] {
        let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
        let end = self.pattern.iter().position(special).unwrap_or(self.pattern.len());
        &self.pattern[..end]
    }
}

fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last star: behind it, and the text it has not swallowed yet.
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

/// Matches one byte against the element at `p`; returns where the next element begins.
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

/// Matches one byte against the class whose content begins at `p`. As in Redis, a class that is not closed ends with
/// the pattern, and a range may stand either way round.
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
                let high = pattern[p + 2];
                hit |= (low.min(high)..=low.max(high)).contains(&byte);
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
    fn literal_prefix_ends_at_the_first_special_byte() {
        assert_eq!(Glob::new(b"user:?x*").unwrap().literal_prefix(), b"user:");
        assert_eq!(Glob::new(b"plain").unwrap().literal_prefix(), b"plain");
    }
}
