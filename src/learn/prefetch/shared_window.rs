//! Finds keys that belong together while many callers share a connection and none of them is identified.
//!
//! The last events of such a connection come from different callers, so the key before another says nothing about it. But a
//! key that came soon after another key *each of the last two times* did not come by chance. Events of all callers are kept
//! in one ring. When a key recurs, the keys that came within [`WINDOW`] events of both of its last two occurrences are
//! predicted. Outcomes show how good such predictions are, by distance and by how common the predicted key is.
//!
//! This costs more than following the associations of a key. It therefore runs only while associations explain few events
//! and while its predictions are likely enough; otherwise it is tried periodically.

use hashbrown::HashMap;

use super::associations::NodeRef;

/// Events that are remembered: 1 MB, and about as much again for the index. A key recurs once it has left L1, so two
/// recurrences take several times as many events as L1 has entries.
const RING: usize = 65_536;
/// Maximum distance, in events of all callers, between a key and its successor.
const WINDOW: u64 = 256;
/// Part of known keys that associations explain, above which the search is only tried.
const EXPLAINED_MAX: f32 = 0.25;
/// Weight of one event in that part.
const STEP: f32 = 1.0 / 512.0;
/// Events without a likely prediction after which the search is only tried.
const USELESS_AFTER: u64 = 4_096;
/// The search is tried for 1 event in this many.
const TRY_EVERY: u64 = 16;

#[derive(Clone, Copy)]
struct Occurrence {
    node: NodeRef,
    /// Number of the previous event of this key; 0 for none.
    before: u64,
}

/// The ring of events of all callers.
pub(super) struct SharedWindow {
    ring: Vec<Occurrence>,
    /// Number of the last event; the first is 1.
    event: u64,
    /// The last event of each key in the ring.
    last: HashMap<u32, u64, foldhash::fast::FixedState>,
    /// Distances from the last occurrence; emptied after each use.
    near: HashMap<u32, u64, foldhash::fast::FixedState>,
    explained: f32,
    likely_at: u64,
}

impl Default for SharedWindow {
    fn default() -> Self {
        let (last, near) = (HashMap::default(), HashMap::default());
        Self { ring: Vec::new(), event: 0, last, near, explained: 0.0, likely_at: 0 }
    }
}

impl SharedWindow {
    /// Adds an event. Returns the two previous events of its key, if both are in the ring.
    pub(super) fn note(&mut self, node: NodeRef) -> Option<[u64; 2]> {
        self.event += 1;
        let before = self
            .last
            .insert(node.at, self.event)
            .filter(|&before| self.at(before).is_some_and(|seen| seen.node == node));
        let seen = Occurrence { node, before: before.unwrap_or(0) };
        let place = self.event as usize % RING;
        if place >= self.ring.len() {
            // Event 1 is stored at place 1; the place before it is never read.
            self.ring.resize(place + 1, seen);
        }
        let replaced = std::mem::replace(&mut self.ring[place], seen);
        if self.last.get(&replaced.node.at).is_some_and(|&last| last + RING as u64 <= self.event) {
            self.last.remove(&replaced.node.at);
        }
        let first = before?;
        let second = self.at(first)?.before;
        self.at(second)?;
        Some([first, second])
    }

    fn at(&self, event: u64) -> Option<&Occurrence> {
        if event == 0 || event + RING as u64 <= self.event {
            return None;
        }
        self.ring.get(event as usize % RING)
    }

    /// Notes whether an association had predicted a key that recurred.
    pub(super) fn note_explained(&mut self, is_explained: bool) {
        self.explained += (f32::from(u8::from(is_explained)) - self.explained) * STEP;
    }

    /// Notes that the last event had a likely prediction.
    pub(super) fn note_likely(&mut self) {
        self.likely_at = self.event;
    }

    /// Returns whether to search for predictions at the last event.
    pub(super) fn is_due(&self) -> bool {
        self.event.is_multiple_of(TRY_EVERY)
            || self.explained < EXPLAINED_MAX && self.event < self.likely_at + USELESS_AFTER
    }

    /// Calls `take` with each key that came after both events, and with the larger of its two distances.
    pub(super) fn common(&mut self, [first, second]: [u64; 2], mut take: impl FnMut(NodeRef, u64)) {
        for distance in 1..=WINDOW.min(self.event - first - 1) {
            if let Some(seen) = self.at(first + distance) {
                let at = seen.node.at;
                self.near.entry(at).or_insert(distance);
            }
        }
        for distance in 1..=WINDOW.min(first - second - 1) {
            let Some(&Occurrence { node, .. }) = self.at(second + distance) else { continue };
            if let Some(other) = self.near.remove(&node.at) {
                take(node, other.max(distance));
            }
        }
        self.near.clear();
    }

    pub(super) fn bytes(&self) -> usize {
        self.ring.capacity() * size_of::<Occurrence>() + self.last.allocation_size() + self.near.allocation_size()
    }
}
