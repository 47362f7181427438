//! Predictions that were not fetched, and whether they would have been right.
//!
//! A ring, because all wait for the same number of events. Those of one key are chained, so that its coming settles them
//! without a search.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::{Source, budget::FLOOR};

/// Predictions that wait at most: 2 MB.
const WAITING_MAX: usize = 32_768;

struct Waiting {
    hash: u64,
    source: Source,
    /// It was likely enough to be fetched, but for the budget.
    is_likely: bool,
    /// Event at which it was made.
    event: u64,
    /// The one before it of the same key.
    before: Option<u64>,
    settled: bool,
}

/// The ring.
#[derive(Default)]
pub(super) struct Shadow {
    waiting: VecDeque<Waiting>,
    /// Number of the oldest.
    first: u64,
    /// The last of each key.
    last: HashMap<u64, u64, foldhash::fast::FixedState>,
}

impl Shadow {
    /// Predicted but not fetched.
    pub(super) fn add(&mut self, hash: u64, (source, p): (Source, f32), event: u64, wrong: impl FnMut(Source)) {
        if self.waiting.len() >= WAITING_MAX {
            self.drop_first(wrong);
        }
        let number = self.first + self.waiting.len() as u64;
        let before = self.last.insert(hash, number);
        self.waiting.push_back(Waiting { hash, source, is_likely: p >= FLOOR, event, before, settled: false });
    }

    /// A key came: all that was predicted of it was right. Whether any of that was likely.
    pub(super) fn settle(&mut self, hash: u64, mut right: impl FnMut(Source)) -> bool {
        let mut was_likely = false;
        let mut next = self.last.remove(&hash);
        while let Some(number) = next.filter(|&number| number >= self.first) {
            let Some(waiting) = self.waiting.get_mut((number - self.first) as usize) else { break };
            waiting.settled = true;
            was_likely |= waiting.is_likely;
            right(waiting.source);
            next = waiting.before;
        }
        was_likely
    }

    /// What was predicted more than `horizon` events ago and did not come was wrong.
    pub(super) fn expire(&mut self, event: u64, horizon: u64, mut wrong: impl FnMut(Source)) {
        while self.waiting.front().is_some_and(|first| first.event + horizon < event) {
            self.drop_first(&mut wrong);
        }
    }

    fn drop_first(&mut self, mut wrong: impl FnMut(Source)) {
        let Some(first) = self.waiting.pop_front() else { return };
        if !first.settled {
            wrong(first.source);
            if self.last.get(&first.hash) == Some(&self.first) {
                self.last.remove(&first.hash);
            }
        }
        self.first += 1;
    }

    pub(super) fn bytes(&self) -> usize {
        self.waiting.capacity() * size_of::<Waiting>() + self.last.allocation_size()
    }
}
