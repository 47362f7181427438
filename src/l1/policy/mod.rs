//! What goes when room is needed: one trait, chosen when L1 is made, without dynamic calls.
//!
//! A policy sees a shard's dense slots. A hit happens under the shared lock and may only touch atomics; all else happens
//! under the exclusive one. The order of one insertion: [`Policy::arrive`], then [`Policy::victim`] and
//! [`Policy::gone`] as often as room is lacking, then [`Policy::place`]. Staged entries are not the policy's: it hears of them
//! only where they move, and never names one as a victim while there is another.

mod learned;
mod lru;

pub(super) use learned::Learned;
pub(super) use lru::Lru;

use super::slot::{Slot, Slots};

/// What the shards of one L1 have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    /// Shards.
    pub(super) shards: usize,
    /// Whether entries differ in weight; if not, only their number counts.
    pub(super) weighed: bool,
    /// For what is drawn by lot.
    pub(super) seed: u64,
}

/// What goes when room is needed.
pub(super) trait Policy: Send + Sync + Sized + 'static {
    /// What the shards share.
    type Shared: Send + Sync;

    /// Memory the policy keeps per entry, bytes; counted in each weight.
    const OVERHEAD_BYTES: u64;

    /// The shared part.
    fn share(frame: Frame) -> Self::Shared;

    /// The part of one shard.
    fn new(frame: Frame, shard: usize) -> Self;

    /// An entry was used. Under the shared lock.
    fn hit(&self, slot: &Slot, shared: &Self::Shared);

    /// An entry with this hash is about to come in; `carried` is the mark of the one it replaces. Returns what
    /// [`Policy::place`] is to be told.
    fn arrive(&mut self, hash: u32, carried: Option<u32>, slots: &Slots, shared: &Self::Shared) -> u32;

    /// The entry to go; `is_dead` tells those that are of no use already. `None` only if there is none.
    fn victim(&mut self, slots: &Slots, shared: &Self::Shared, is_dead: impl Fn(&Slot) -> bool) -> Option<usize>;

    /// This entry goes, for whatever reason but a newer value of the same key.
    fn gone(&mut self, hash: u32, slot: &Slot, slots: &Slots);

    /// The entry that arrived stands at `at`; `told` is what [`Policy::arrive`] returned.
    fn place(&mut self, slots: &Slots, at: usize, told: u32, shared: &Self::Shared);

    /// An entry was moved to `to`.
    fn moved(&mut self, slots: &Slots, to: usize);

    /// The shard was emptied.
    fn clear(&mut self);

    /// Checks what must hold.
    fn validate(&self, slots: &Slots) -> Result<(), String>;
}
