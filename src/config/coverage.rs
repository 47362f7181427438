//! Compares policy patterns: a policy has no effect if an earlier one matches all of its keys.

use crate::glob::{Part, Parts};

/// Returns the parts of a pattern, or the offset of a class without an end.
fn parts(pattern: &[u8]) -> Result<Vec<Part>, usize> {
    let mut parts = Parts::of(pattern);
    let found = parts.by_ref().collect();
    parts.unclosed_class().map_or(Ok(found), Err)
}

/// Returns the offset of a class that has no end. Redis would match it, but not as its author meant.
pub(super) fn unclosed_class(pattern: &[u8]) -> Option<usize> {
    parts(pattern).err()
}

/// Returns true if `earlier` certainly matches every key that `later` matches. False may mean that this is unknown.
pub(super) fn covers(earlier: &[u8], later: &[u8]) -> bool {
    let (Ok(earlier), Ok(later)) = (parts(earlier), parts(later)) else { return false };
    // reached[n]: the parts of `earlier` so far match the first n parts of `later`.
    let mut reached = vec![false; later.len() + 1];
    reached[0] = true;
    for part in &earlier {
        let mut next = vec![false; later.len() + 1];
        for at in 0..=later.len() {
            next[at] = match part {
                Part::Star => reached[at] || (at > 0 && next[at - 1]),
                Part::One(_) => at > 0 && reached[at - 1] && covers_one(part, &later[at - 1]),
            };
        }
        reached = next;
    }
    reached[later.len()]
}

fn covers_one(earlier: &Part, later: &Part) -> bool {
    matches!((earlier, later), (Part::One(earlier), Part::One(later)) if earlier.contains_all(later))
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
            ("[a-c]", "b"),
            ("[^x]", "[ab]"),
            ("[a-c]*", "[ab][cd]"),
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
            ("[ab]", "?"),
            ("[^a]", "[ab]"),
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
