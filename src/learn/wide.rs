//! What follows what where nobody says whose request it is.
//!
//! Many callers on one connection make the window of a caller's last events worthless: what stands next to a key there is
//! somebody else's. But what came soon after a key *each of the last two times* is no chance. Events of all callers stand in
//! one ring; when a key comes again, what came within [`WINDOW`] events of both of its last two occurrences is predicted. How
//! much that is worth, by distance and by how common the other key is, says what came of it, as with every prediction.
//!
//! It costs more than looking at a key's successors, so it goes on only while those explain little of what comes, and while
//! there is something to be gained; else it is tried now and then.

use hashbrown::HashMap;

use super::{
    BARRED, Candidate, Learner, Presence, Source, World, associations::NodeRef, budget::FLOOR, pair_of, proof::State,
};

/// Events that are remembered: 1 MB, and about as much again for where keys stand in them. A key comes again once it has left L1: it
/// takes several times L1's entries until it has done so twice.
const RING: usize = 65_536;
/// Events after a key that may belong to it: five of each of fifty callers.
const WINDOW: u64 = 256;
/// Predictions for one event at most.
const SAID_MAX: usize = 8;
/// Part of known keys that callers' windows explain, above which there is no need for this.
const EXPLAINED: f32 = 0.25;
/// Weight of one event in that part.
const STEP: f32 = 1.0 / 512.0;
/// Events without a likely prediction after which it is only tried, and how often.
const USELESS_AFTER: u64 = 4_096;
const TRY_EVERY: u64 = 16;

#[derive(Clone, Copy)]
struct Seen {
    node: NodeRef,
    /// The event before at which this key came; 0 for none.
    before: u64,
}

/// The ring.
pub(super) struct Wide {
    ring: Vec<Seen>,
    /// Number of the last event; the first is 1.
    event: u64,
    /// The last event of each key in the ring.
    last: HashMap<u32, u64, foldhash::fast::FixedState>,
    /// Distances from the last occurrence; emptied after each use.
    near: HashMap<u32, u64, foldhash::fast::FixedState>,
    explained: f32,
    likely_at: u64,
}

impl Default for Wide {
    fn default() -> Self {
        let (last, near) = (HashMap::default(), HashMap::default());
        Self { ring: Vec::new(), event: 0, last, near, explained: 0.0, likely_at: 0 }
    }
}

impl Wide {
    /// Notes an event. The last two events of its key before, if both are in the ring.
    fn note(&mut self, node: NodeRef) -> Option<[u64; 2]> {
        self.event += 1;
        let before = self
            .last
            .insert(node.at, self.event)
            .filter(|&before| self.at(before).is_some_and(|seen| seen.node == node));
        let seen = Seen { node, before: before.unwrap_or(0) };
        let place = self.event as usize % RING;
        if place >= self.ring.len() {
            // Event 1 stands at place 1: what stands before it is never looked at.
            self.ring.resize(place + 1, seen);
        }
        let gone = std::mem::replace(&mut self.ring[place], seen);
        if self.last.get(&gone.node.at).is_some_and(|&last| last + RING as u64 <= self.event) {
            self.last.remove(&gone.node.at);
        }
        let first = before?;
        let second = self.at(first)?.before;
        self.at(second)?;
        Some([first, second])
    }

    fn at(&self, event: u64) -> Option<&Seen> {
        if event == 0 || event + RING as u64 <= self.event {
            return None;
        }
        self.ring.get(event as usize % RING)
    }

    /// Whether a key that came again was expected.
    fn explained(&mut self, is_explained: bool) {
        self.explained += (f32::from(u8::from(is_explained)) - self.explained) * STEP;
    }

    fn is_wanted(&self) -> bool {
        self.event.is_multiple_of(TRY_EVERY)
            || self.explained < EXPLAINED && self.event < self.likely_at + USELESS_AFTER
    }

    /// What came after both events, and how far after the later of them it did.
    fn common(&mut self, [first, second]: [u64; 2], mut take: impl FnMut(NodeRef, u64)) {
        for distance in 1..=WINDOW.min(self.event - first - 1) {
            if let Some(seen) = self.at(first + distance) {
                let at = seen.node.at;
                self.near.entry(at).or_insert(distance);
            }
        }
        for distance in 1..=WINDOW.min(first - second - 1) {
            let Some(&Seen { node, .. }) = self.at(second + distance) else { continue };
            if let Some(other) = self.near.remove(&node.at) {
                take(node, other.max(distance));
            }
        }
        self.near.clear();
    }

    pub(super) fn bytes(&self) -> usize {
        self.ring.capacity() * size_of::<Seen>() + self.last.allocation_size() + self.near.allocation_size()
    }
}

impl Learner {
    /// Collects what came after both of a key's last two occurrences, whoever asked for it. `is_explained`: the key was among the
    /// successors of what its caller asked for before.
    pub(super) fn look_wide(&mut self, node: NodeRef, is_explained: bool, world: &World<'_>) {
        let Self { wide, graph, proof, candidates, .. } = self;
        let Some((form, own_seen)) = graph.get(node).map(|node| (node.form, node.seen)) else { return };
        if own_seen > 1 {
            wide.explained(is_explained);
        }
        let Some(last_two) = wide.note(node).filter(|_| wide.is_wanted()) else { return };
        let (mut said, mut is_likely) = (0, false);
        wide.common(last_two, |other, distance| {
            let Some(target) = graph.get(other).filter(|_| said < SAID_MAX && other != node) else { return };
            if candidates.iter().any(|known| known.hash == target.hash) {
                return;
            }
            let presence = (world.presence)(&target.key);
            if !matches!(presence, Presence::Absent | Presence::Barred) {
                return;
            }
            said += 1;
            let is_common = target.seen > own_seen.saturating_mul(2);
            let state = State::apart(pair_of(form, target.form), distance.ilog2(), is_common);
            let known = proof.of(state);
            is_likely |= known >= FLOOR;
            let p = if presence == Presence::Barred { BARRED } else { known };
            let (hash, key) = (target.hash, target.key.clone());
            candidates.push(Candidate { p, hash, key, source: Source::Edge(state), lag: u8::MAX });
        });
        if is_likely {
            wide.likely_at = wide.event;
        }
    }
}
