//! Eviction policies: one trait without dynamic calls. The policy is selected when L1 is created.
//!
//! A policy sees the dense slots of a shard. A hit runs under the shared lock and may only change atomics; all other
//! methods run under the exclusive lock. Order of one insertion: [`Policy::arrive`]; [`Policy::victim`] and
//! [`Policy::gone`] until there is enough room; [`Policy::place`]. Staged entries do not belong to the policy: it is
//! notified only when they move, and returns one as a victim only if there is no other entry.

mod learned;
mod lru;

pub(super) use learned::Learned;
pub(super) use lru::Lru;

use super::slot::{Slot, Slots};

/// Parameters that all shards of an L1 share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    /// Number of shards.
    pub(super) shards: usize,
    /// Entries have different weights. Otherwise, only their number counts.
    pub(super) weighed: bool,
    /// Seed of random choices.
    pub(super) seed: u64,
}

/// An eviction policy.
pub(super) trait Policy: Send + Sync + Sized + 'static {
    /// State that all shards share.
    type Shared: Send + Sync;

    /// Memory of the policy per entry in bytes; included in each weight.
    const OVERHEAD_BYTES: u64;

    /// Returns the shared state.
    fn share(frame: Frame) -> Self::Shared;

    /// Returns the state of one shard.
    fn new(frame: Frame, shard: usize) -> Self;

    /// Notes a use of an entry, under the shared lock.
    fn hit(&self, slot: &Slot, shared: &Self::Shared);

    /// Announces a new entry with this hash; `carried` is the mark of the entry that it replaces. Returns the mark for
    /// [`Policy::place`].
    fn arrive(&mut self, hash: u32, carried: Option<u32>, slots: &Slots, shared: &Self::Shared) -> u32;

    /// Returns the entry to evict; `is_dead` detects entries that are already useless. `None` only if there is no
    /// entry.
    fn victim(&mut self, slots: &Slots, shared: &Self::Shared, is_dead: impl Fn(&Slot) -> bool) -> Option<usize>;

    /// Notes that an entry leaves, for any reason except a newer value of its key.
    fn gone(&mut self, hash: u32, slot: &Slot, slots: &Slots);

    /// Notes that the new entry is stored at `at`; `mark` is the result of [`Policy::arrive`].
    fn place(&mut self, slots: &Slots, at: usize, mark: u32, shared: &Self::Shared);

    /// Notes that an entry was moved to `to`.
    fn moved(&mut self, slots: &Slots, to: usize);

    /// Notes that the shard was emptied.
    fn clear(&mut self);

    /// Checks the invariants.
    fn validate(&self, slots: &Slots) -> Result<(), String>;
}
