//! Redis's glob patterns over bytes: `*`, `?`, `[classes]`, `[^negated]`, ranges and `\` escapes.
//!
//! A match returns to the last star only, so its time is at most proportional to text length times pattern length. The
//! server has a faster matcher with the same results (`src/glob.rs` of the server).

/// A pattern over whole keys. Every byte sequence is a pattern.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    parts: Vec<Part>,
    /// Bytes before the first part that matches more than one byte.
    prefix: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Matches any text.
    Star,
    /// Matches one byte of the set.
    One(ByteSet),
}

/// A set of bytes, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct ByteSet([u64; 4]);

impl ByteSet {
    const ALL: Self = Self([u64::MAX; 4]);

    fn of(byte: u8) -> Self {
        let mut set = Self::default();
        set.insert(byte);
        set
    }

    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn contains(self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    /// Returns the byte of a set with one byte.
    fn single(self) -> Option<u8> {
        let count: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        (count == 1).then(|| (0..=u8::MAX).find(|byte| self.contains(*byte)))?
    }
}

impl Glob {
    /// Parses a pattern.
    pub(crate) fn new(pattern: &[u8]) -> Self {
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some((part, after)) = next(rest) {
            rest = after;
            if part != Part::Star || parts.last() != Some(&Part::Star) {
                parts.push(part);
            }
        }
        let single = |part: &Part| if let Part::One(set) = part { set.single() } else { None };
        let prefix = parts.iter().map_while(single).collect();
        Self { parts, prefix }
    }

    /// Returns the literal prefix of every match.
    pub(crate) fn literal_prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Returns whether the whole of `text` matches.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        // Redis's loop over the pattern does not begin with an empty text: not even a star matches it.
        if text.is_empty() {
            return self.parts.is_empty();
        }
        let (mut part, mut at) = (0, 0);
        // The part after the last star, and the text position at which it was tried last.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match (self.parts.get(part), text.get(at)) {
                (Some(Part::Star), _) => {
                    part += 1;
                    retry = Some((part, at));
                }
                (Some(Part::One(set)), Some(byte)) if set.contains(*byte) => (part, at) = (part + 1, at + 1),
                (None, None) => return true,
                (Some(Part::One(_)) | None, _) => {
                    let Some((after_star, tried)) = retry.filter(|(_, tried)| *tried < text.len()) else {
                        return false;
                    };
                    retry = Some((after_star, tried + 1));
                    (part, at) = (after_star, tried + 1);
                }
            }
        }
    }
}

/// Returns the pattern that matches every key with a prefix.
pub(crate) fn of_prefix(prefix: &[u8]) -> Vec<u8> {
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

/// Returns the first part of a pattern, and the pattern after it.
fn next(pattern: &[u8]) -> Option<(Part, &[u8])> {
    Some(match pattern {
        [] => return None,
        [b'*', rest @ ..] => (Part::Star, rest),
        [b'?', rest @ ..] => (Part::One(ByteSet::ALL), rest),
        [b'[', b'^', rest @ ..] => {
            let (set, rest) = class(rest);
            (Part::One(ByteSet(set.0.map(|word| !word))), rest)
        }
        [b'[', rest @ ..] => {
            let (set, rest) = class(rest);
            (Part::One(set), rest)
        }
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (Part::One(ByteSet::of(*literal)), rest),
    })
}

/// Parses a class after its opening. As in Redis, an unclosed class ends with the pattern, the bounds of a range may be in
/// either order, and bytes are compared as signed numbers.
fn class(mut pattern: &[u8]) -> (ByteSet, &[u8]) {
    let mut set = ByteSet::default();
    loop {
        pattern = match pattern {
            [] => return (set, pattern),
            [b'\\', literal, rest @ ..] => {
                set.insert(*literal);
                rest
            }
            [b']', rest @ ..] => return (set, rest),
            [low, b'-', high, rest @ ..] => {
                let (low, high) = (low.cast_signed(), high.cast_signed());
                (low.min(high)..=low.max(high)).for_each(|byte| set.insert(byte.cast_unsigned()));
                rest
            }
            [literal, rest @ ..] => {
                set.insert(*literal);
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("*ab", "aab"),
            ("[a", "a"),
            ("a\\", "a\\"),
        ] {
            assert!(Glob::new(pattern.as_bytes()).matches(text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("a*b", "ac"),
            ("h[^e]llo", "hello"),
            ("?", ""),
            ("a\\*c", "abc"),
            ("*", ""),
            ("ab*bc", "abc"),
            ("*[", "x"),
        ] {
            assert!(!Glob::new(pattern.as_bytes()).matches(text.as_bytes()), "{pattern} {text}");
        }
        assert!(!Glob::new(&b"a*".repeat(500)).matches(&[b"a".repeat(60_000), b"b".to_vec()].concat()[60_000..]));
    }

    #[test]
    fn the_literal_prefix_ends_where_more_than_one_byte_matches() {
        for (pattern, prefix) in [
            ("user:?x*", "user:"),
            ("plain", "plain"),
            ("a\\*b*", "a*b"),
            ("[u]ser[\\*]x[12]", "user*x"),
            ("a[^b]", "a"),
        ] {
            assert_eq!(Glob::new(pattern.as_bytes()).literal_prefix(), prefix.as_bytes(), "{pattern}");
        }
    }

    #[test]
    fn special_bytes_of_a_prefix_match_themselves() {
        let glob = Glob::new(&of_prefix(b"a*[b]\\?"));
        assert!(glob.matches(b"a*[b]\\?x") && !glob.matches(b"axb\\?"));
        assert!(Glob::new(&of_prefix(b"")).matches(b"anything"));
    }
}
