//! The learned state of prefetch: reports, snapshots in the data directory, and queries for inspection.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{Evidence, FetchCounts, Learner, Prediction};
use crate::{
    access::Principal,
    cache::{Cache, Core, stats::groups::is_seen_by},
    learn::{
        prefetch::{PrefixGroup, RuleView, Successor},
        snapshot::Cursor,
    },
};

/// Statistics of prefetch: since start, and now.
#[derive(Debug, Clone, Default)]
pub struct PrefetchReport {
    /// Results for all keys.
    pub counts: FetchCounts,
    /// Results by key prefix.
    pub groups: Vec<PrefixGroup>,
    /// Results by key group, for groups that have any, by name. `shadow` is not counted by group.
    pub key_groups: Vec<(Arc<str>, FetchCounts)>,
    /// Evidence for the benefit of prefetch.
    pub evidence: Evidence,
    /// Staged entries: prefetched and not used yet.
    pub staged_entries: u64,
    /// Weight in bytes of the staged entries.
    pub staged_bytes: u64,
    /// Keys with learned associations.
    pub keys: u64,
    /// Memory of the learned state in bytes.
    pub bytes: u64,
    /// Events that were not learned, because the learner was busy and the list of notes was full.
    pub busy: u64,
    /// Events that the recorder dropped.
    pub dropped: u64,
    /// Current minimum probability of a prediction; above 1 no key is prefetched.
    pub floor: f32,
    /// Snapshots of the learned state.
    pub snapshots: SnapshotFiles,
}

/// Results of loading and writing the learned state since start.
#[derive(Debug, Clone, Copy, Default)]
pub struct SnapshotFiles {
    /// Snapshots loaded.
    pub loaded: u64,
    /// Snapshots set aside, because they were unusable.
    pub set_aside: u64,
    /// Snapshots written.
    pub written: u64,
    /// Snapshots that could not be read or written.
    pub failed: u64,
    /// Size in bytes of the last snapshot.
    pub bytes: u64,
}

impl PrefetchReport {
    /// Returns the part for a client: results by key group, and their sums. Results by key prefix are counted by the hash of
    /// the prefix, so that one of them may include keys of others.
    pub(in crate::cache) fn seen_by(self, principal: &Principal) -> Self {
        if principal.sees_all() {
            return self;
        }
        let key_groups: Vec<_> = self.key_groups.into_iter().filter(|(name, _)| is_seen_by(principal, name)).collect();
        let mut counts = FetchCounts::default();
        key_groups.iter().for_each(|(_, group)| counts.add(group));
        let named = |(name, counts): &(Arc<str>, FetchCounts)| PrefixGroup { name: name.to_string(), counts: *counts };
        Self {
            counts,
            groups: key_groups.iter().map(named).collect(),
            key_groups,
            floor: self.floor,
            ..Self::default()
        }
    }
}

impl Cache {
    /// Returns the statistics of prefetch, or the part about the key groups that the client may know about.
    #[must_use]
    pub fn prefetch_report(&self) -> PrefetchReport {
        self.core.prefetch().seen_by(&self.principal)
    }
}

impl Core {
    /// Returns the statistics of prefetch.
    #[must_use]
    pub fn prefetch(&self) -> PrefetchReport {
        let staged = self.l1.staged();
        let learner = self.prefetcher.learner.lock();
        PrefetchReport {
            counts: learner.counts(),
            groups: learner.groups().cloned().collect(),
            key_groups: self.prefetch_groups(),
            evidence: learner.evidence(),
            staged_entries: staged.entries,
            staged_bytes: staged.bytes,
            keys: learner.keys() as u64,
            bytes: learner.bytes() as u64,
            busy: self.prefetcher.busy.load(Relaxed),
            dropped: self.events_dropped(),
            floor: learner.floor(),
            snapshots: *self.prefetcher.files.lock(),
        }
    }

    /// Returns the results of prefetches since start.
    #[must_use]
    pub fn prefetch_counts(&self) -> FetchCounts {
        self.prefetcher.learner.lock().counts()
    }

    fn prefetch_groups(&self) -> Vec<(Arc<str>, FetchCounts)> {
        let names = self.stats.groups.names().into_iter();
        let all = names.zip(&self.prefetcher.groups).map(|(name, group)| (name, group.counts()));
        all.filter(|(_, counts)| *counts != FetchCounts::default()).collect()
    }

    /// Returns the next block of the learned state; `None` after the last.
    #[must_use]
    pub fn keep_learned(&self, cursor: &mut Cursor) -> Option<Vec<u8>> {
        self.prefetcher.learner.lock().next_block(cursor)
    }

    /// Returns an empty learner with this node's settings, to load a snapshot into.
    #[must_use]
    pub fn new_learner(&self) -> Learner {
        Learner::new(self.prefetcher.settings)
    }

    /// Replaces the learner. Results of prefetches in flight for the previous learner are ignored.
    pub fn set_learner(&self, learner: Learner) {
        let _previous = std::mem::replace(&mut *self.prefetcher.learner.lock(), learner);
    }

    /// Returns the maximum size in bytes of a snapshot. A snapshot is smaller than the memory of the learned state.
    #[must_use]
    pub fn learned_max_bytes(&self) -> u64 {
        self.prefetcher.settings.memory_bytes as u64
    }

    /// Counts the result of loading or writing a snapshot.
    pub fn note_learned(&self, note: impl FnOnce(&mut SnapshotFiles)) {
        note(&mut self.prefetcher.files.lock());
    }

    /// Returns the keys that a miss of this key would prefetch now, and the reasons.
    #[must_use]
    pub fn predict(&self, key: &[u8]) -> Vec<Prediction> {
        self.with_l1_view(self.clock.now(), |l1| self.prefetcher.learner.lock().predict(key, l1))
    }

    /// Returns the associations of a key; `None` if none are known.
    #[must_use]
    pub fn successors(&self, key: &[u8]) -> Option<Vec<Successor>> {
        self.prefetcher.learner.lock().successors(key)
    }

    /// Returns the rules of all key templates.
    #[must_use]
    pub fn template_rules(&self) -> Vec<(String, Vec<RuleView>)> {
        self.prefetcher.learner.lock().rules()
    }

    /// Returns up to `count` keys with associations, starting at position `from`, and the position to continue from.
    #[must_use]
    pub fn known_keys(&self, from: usize, count: usize) -> (Vec<Vec<u8>>, Option<usize>) {
        self.prefetcher.learner.lock().page(from, count)
    }
}
