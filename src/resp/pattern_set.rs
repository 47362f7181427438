//! Patterns of one client, and their comparison with channels, one pattern at a time.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{cache::Turn, glob::Glob};

/// Maximum number of patterns that one hold of the lock visits (about 50 µs).
const VISITED_MAX: usize = 1_024;

/// Patterns of one client. No pattern is compared under the lock, because a channel of the maximum size takes up to a
/// millisecond.
#[derive(Debug, Default)]
pub(super) struct PatternSet(Mutex<BTreeMap<Bytes, Glob>>);

/// A comparison of one channel with a set.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The next patterns that may match.
    candidates: VecDeque<Glob>,
    /// The last visited pattern.
    last: Option<Bytes>,
    is_complete: bool,
}

impl PatternSet {
    pub(super) fn insert(&self, glob: Glob) {
        self.0.lock().insert(glob.pattern().clone(), glob);
    }

    /// Removes a pattern. Returns `false` if the set does not have it.
    pub(super) fn remove(&self, pattern: &[u8]) -> bool {
        self.0.lock().remove(pattern).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Calls `found` for each pattern that matches, in their order. Yields to other tasks.
    pub(super) async fn each_match(&self, comparison: &mut Comparison, channel: &[u8], mut found: impl FnMut(&Glob)) {
        let mut turn = Turn::begin();
        while let Some(glob) = comparison.next(self, channel) {
            if glob.matches(channel) {
                found(&glob);
            }
            turn.pause().await;
        }
    }
}

impl Comparison {
    /// Returns the next pattern that may match.
    pub(super) fn next(&mut self, set: &PatternSet, channel: &[u8]) -> Option<Glob> {
        while self.candidates.is_empty() && !self.is_complete {
            self.visit(set, channel);
        }
        self.candidates.pop_front()
    }

    /// Makes a pattern the next one again.
    pub(super) fn put_back(&mut self, glob: Glob) {
        self.candidates.push_front(glob);
    }

    fn visit(&mut self, set: &PatternSet, channel: &[u8]) {
        let set = set.0.lock();
        let from = self.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut visited = 0;
        for (text, glob) in set.range((from, Bound::Unbounded)).take(VISITED_MAX) {
            visited += 1;
            if glob.may_match(channel) {
                self.candidates.push_back(glob.clone());
            }
            if visited == VISITED_MAX {
                self.last = Some(text.clone());
            }
        }
        self.is_complete = self.last.is_none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(patterns: impl Iterator<Item = String>) -> PatternSet {
        let set = PatternSet::default();
        patterns.for_each(|pattern| set.insert(Glob::new(pattern.as_bytes()).unwrap()));
        set
    }

    async fn found(set: &PatternSet, channel: &str) -> usize {
        let mut count = 0;
        set.each_match(&mut Comparison::default(), channel.as_bytes(), |_| count += 1).await;
        count
    }

    #[tokio::test]
    async fn each_pattern_is_compared_once() {
        for size in [0, 1, VISITED_MAX - 1, VISITED_MAX, VISITED_MAX + 1, 2 * VISITED_MAX, 2 * VISITED_MAX + 7] {
            let set = set((0..size).map(|number| format!("*{number:05}*")));
            assert_eq!(set.is_empty(), size == 0);
            let all: String = (0..size).map(|number| format!("{number:05},")).collect();
            assert_eq!((found(&set, &all).await, found(&set, "x").await), (size, 0));
            assert_eq!(found(&set, "00000").await, size.min(1));
        }
    }

    #[tokio::test]
    async fn only_patterns_with_the_prefix_of_the_channel_are_compared() {
        // Only the last one has it: no earlier hold of the lock finds any.
        let set = set((0..=2 * VISITED_MAX).map(|number| format!("{number:05}*x")));
        let last = format!("{:05}x", 2 * VISITED_MAX);
        let mut comparison = Comparison::default();
        assert_eq!(comparison.next(&set, last.as_bytes()), Some(Glob::new(b"02048*x").unwrap()));
        assert_eq!(comparison.next(&set, last.as_bytes()), None);
        assert_eq!(found(&set, &last).await, 1);
    }

    #[test]
    fn a_comparison_continues_where_it_was_interrupted() {
        let set = set((0..3).map(|number| format!("*{number}")));
        let mut comparison = Comparison::default();
        let first = comparison.next(&set, b"x").unwrap();
        comparison.put_back(first.clone());
        assert_eq!(comparison.next(&set, b"x"), Some(first));
        assert!(set.remove(b"*2") && !set.remove(b"*2"));
        assert!(comparison.next(&set, b"x").is_some() && comparison.next(&set, b"x").is_some());
        assert_eq!(comparison.next(&set, b"x"), None);
    }
}
