//! The recent events that a rule may be mined from, indexed by the values in their keys.

use std::collections::VecDeque;

use hashbrown::HashMap;
use smallvec::SmallVec;

/// Maximum number of events.
const RECENT: usize = 4_096;
/// Maximum number of events that are returned for a value, from each half of the index.
const SHARING: usize = 4;
/// Values in each half of the index.
const VALUES: usize = 8_192;

type Index = HashMap<u64, SmallVec<[u64; SHARING]>, foldhash::fast::FixedState>;

/// Keys of recent events. The index has two halves: when the newer half is full, the older half is dropped.
#[derive(Default)]
pub(super) struct RecentEvents {
    keys: VecDeque<Box<[u8]>>,
    /// Number of the oldest event.
    first: u64,
    young: Index,
    old: Index,
}

impl RecentEvents {
    /// Returns the numbers of events whose keys share one of these values.
    pub(super) fn sharing(&self, values: &[u64]) -> SmallVec<[u64; 2 * SHARING]> {
        let mut sharing = SmallVec::new();
        for value in values {
            let known = [&self.young, &self.old].into_iter().filter_map(|half| half.get(value));
            for &event in known.flatten() {
                if event >= self.first && !sharing.contains(&event) && sharing.len() < 2 * SHARING {
                    sharing.push(event);
                }
            }
        }
        sharing
    }

    /// Returns the key of an event.
    pub(super) fn key(&self, event: u64) -> Option<&[u8]> {
        let place = event.checked_sub(self.first)?;
        self.keys.get(place as usize).map(AsRef::as_ref)
    }

    /// Adds an event.
    pub(super) fn push(&mut self, key: &[u8], values: &[u64]) {
        if self.keys.len() >= RECENT {
            self.keys.pop_front();
            self.first += 1;
        }
        let number = self.first + self.keys.len() as u64;
        self.keys.push_back(key.into());
        if self.young.len() >= VALUES {
            self.old = std::mem::take(&mut self.young);
        }
        for &value in values {
            let events = self.young.entry(value).or_default();
            if events.len() >= SHARING {
                events.remove(0);
            }
            events.push(number);
        }
    }

    /// Returns an estimate of the memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        (self.young.len() + self.old.len()) * 64 + self.keys.len() * 64
    }
}
