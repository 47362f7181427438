//! Compares policy patterns: a policy has no effect if an earlier one matches all of its keys.

/// One element of a Redis glob pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element<'p> {
    /// Any sequence of bytes.
    Star,
    /// Any byte.
    Any,
    /// One of a class, with its brackets.
    Class(&'p [u8]),
    /// One byte.
    Byte(u8),
}

/// Returns the elements of a pattern, or the offset of a class without an end.
fn elements(pattern: &[u8]) -> Result<Vec<Element<'_>>, usize> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(&byte) = pattern.get(at) {
        let (element, length) = match byte {
            b'*' => (Element::Star, 1),
            b'?' => (Element::Any, 1),
            b'[' => {
                let length = class_length(&pattern[at..]).ok_or(at)?;
                (Element::Class(&pattern[at..at + length]), length)
            }
            b'\\' if at + 1 < pattern.len() => (Element::Byte(pattern[at + 1]), 2),
            byte => (Element::Byte(byte), 1),
        };
        found.push(element);
        at += length;
    }
    Ok(found)
}

/// Returns the length of the class at the start of `text`, as Redis reads it.
fn class_length(text: &[u8]) -> Option<usize> {
    let mut at = if text.get(1) == Some(&b'^') { 2 } else { 1 };
    loop {
        at += match text.get(at..)? {
            [] => return None,
            [b']', ..] => return Some(at + 1),
            [b'\\', _, ..] => 2,
            [_, b'-', _, ..] => 3,
            [_, ..] => 1,
        };
    }
}

/// Returns the offset of a class that has no end. Redis would match it, but not as its author meant.
pub(super) fn unclosed_class(pattern: &[u8]) -> Option<usize> {
    elements(pattern).err()
}

/// Returns true if `earlier` certainly matches every key that `later` matches. False may mean that this is unknown:
/// classes are only compared with equal classes.
pub(super) fn covers(earlier: &[u8], later: &[u8]) -> bool {
    let (Ok(earlier), Ok(later)) = (elements(earlier), elements(later)) else { return false };
    // reached[n]: the elements of `earlier` so far match the first n elements of `later`.
    let mut reached = vec![false; later.len() + 1];
    reached[0] = true;
    for element in &earlier {
        let mut next = vec![false; later.len() + 1];
        for at in 0..=later.len() {
            next[at] = match element {
                Element::Star => reached[at] || (at > 0 && next[at - 1]),
                Element::Any | Element::Class(_) | Element::Byte(_) => {
                    at > 0 && reached[at - 1] && covers_one(*element, later[at - 1])
                }
            };
        }
        reached = next;
    }
    reached[later.len()]
}

fn covers_one(earlier: Element<'_>, later: Element<'_>) -> bool {
    match (earlier, later) {
        (_, Element::Star) | (Element::Star, _) => false,
        (Element::Any, _) => true,
        (earlier, later) => earlier == later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_those_whose_keys_it_matches() {
        for (earlier, later) in [
            ("*", "a"),
            ("*", "a[bc]?*"),
            ("user:*", "user:*:cart"),
            ("user:*", "user:1"),
            ("user:*", "user:\\*"),
            ("a?c", "abc"),
            ("a?", "a[bc]"),
            ("a*c", "ab*c"),
            ("**", "*"),
            ("[ab]", "[ab]"),
            ("\\a", "a"),
        ] {
            assert!(covers(earlier.as_bytes(), later.as_bytes()), "{earlier} covers {later}");
        }
        for (earlier, later) in [
            ("user:*:cart", "user:*"),
            ("a", "*"),
            ("a?", "a*"),
            ("?", ""),
            ("\\*", "*"),
            ("*b]y", "x[ab]y"),
            ("[ab]", "[abc]"),
            ("a*", "A*"),
            ("a[", "a["),
        ] {
            assert!(!covers(earlier.as_bytes(), later.as_bytes()), "{earlier} does not cover {later}");
        }
    }

    #[test]
    fn classes_end_where_redis_ends_them() {
        for closed in ["[a]", "[]", "[^]", "[\\]]", "[a-]]", "a\\[b", "x[a-z]*[^0-9]"] {
            assert_eq!(unclosed_class(closed.as_bytes()), None, "{closed}");
        }
        for (open, at) in [("[", 0), ("ab[cd", 2), ("[a-]", 0), ("[a]x[^", 4), ("[\\]", 0)] {
            assert_eq!(unclosed_class(open.as_bytes()), Some(at), "{open}");
        }
    }
}
