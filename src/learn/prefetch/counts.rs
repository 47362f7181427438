//! Counts of prefetched keys by outcome: in total and by key prefix.

use crate::learn::key_class::{GROUPS, group_of, prefix_of};

/// Counts since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchCounts {
    /// Prefetched keys.
    pub issued: u64,
    /// Prefetched keys that were used while they waited in L1.
    pub used: u64,
    /// Prefetched keys that were requested before they arrived.
    pub late: u64,
    /// Prefetched keys that were never used, or that L2 did not have.
    pub wasted: u64,
    /// Predicted keys that were not prefetched.
    pub shadow: u64,
}

impl FetchCounts {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.issued += other.issued;
        self.used += other.used;
        self.late += other.late;
        self.wasted += other.wasted;
        self.shadow += other.shadow;
    }

    /// Returns the counts since `before`, an earlier value of the same counts.
    #[must_use]
    pub fn less(&self, before: &Self) -> Self {
        Self {
            issued: self.issued.saturating_sub(before.issued),
            used: self.used.saturating_sub(before.used),
            late: self.late.saturating_sub(before.late),
            wasted: self.wasted.saturating_sub(before.wasted),
            shadow: self.shadow.saturating_sub(before.shadow),
        }
    }
}

/// Counts of the keys that share a prefix group.
#[derive(Debug, Clone, Default)]
pub struct PrefixGroup {
    /// Prefix of the first key that was counted; empty before that.
    pub name: String,
    /// Counts of the group.
    pub counts: FetchCounts,
}

/// All counts of a learner.
pub(super) struct GroupedCounts {
    total: FetchCounts,
    groups: Vec<PrefixGroup>,
}

impl Default for GroupedCounts {
    fn default() -> Self {
        Self { total: FetchCounts::default(), groups: vec![PrefixGroup::default(); GROUPS] }
    }
}

impl GroupedCounts {
    /// Counts for the group of a key. The first key that is counted names its group.
    pub(super) fn count_for(&mut self, key: &[u8], add: impl Fn(&mut FetchCounts)) {
        let group = group_of(key);
        if let Some(known) = self.groups.get_mut(usize::from(group)).filter(|known| known.name.is_empty()) {
            known.name = String::from_utf8_lossy(prefix_of(key)).into_owned();
        }
        self.count(group, add);
    }

    /// Counts for a group.
    pub(super) fn count(&mut self, group: u8, add: impl Fn(&mut FetchCounts)) {
        add(&mut self.total);
        if let Some(group) = self.groups.get_mut(usize::from(group)) {
            add(&mut group.counts);
        }
    }

    pub(super) fn total(&self) -> FetchCounts {
        self.total
    }

    /// Groups that have counted a key.
    pub(super) fn groups(&self) -> impl Iterator<Item = &PrefixGroup> {
        self.groups.iter().filter(|group| !group.name.is_empty())
    }
}
