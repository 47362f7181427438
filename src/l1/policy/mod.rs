//! What goes when room is needed: one trait, chosen when L1 is made, without dynamic calls.
//!
//! A policy sees a shard's dense slots. A hit happens under the shared lock and may only touch atomics; all else happens
//! under the exclusive one. The order of one insertion: [`Policy::arrive`], then [`Policy::victim`] and
//! [`Policy::evicted`] as often as room is lacking, then [`Policy::place`].

mod lru;

pub(super) use lru::Lru;

use super::slot::{Slot, Slots};

/// What goes when room is needed.
pub(super) trait Policy: Send + Sync + Sized + 'static {
    /// What the shards share.
    type Shared: Send + Sync;

    /// Memory the policy keeps per entry, bytes; counted in each weight.
    const OVERHEAD_BYTES: u64;

    /// The shared part.
    fn share() -> Self::Shared;

    /// The part of one shard.
    fn new() -> Self;

    /// An entry was used. Under the shared lock.
    fn hit(&self, slot: &Slot, shared: &Self::Shared);

    /// An entry with this hash is about to come in; `carried` is the count of the one it replaces. Returns the use
    /// count it comes in with.
    fn arrive(&mut self, hash: u32, carried: Option<u32>, slots: &Slots, shared: &Self::Shared) -> u32;

    /// The entry to go; `is_dead` tells those that are of no use already. `None` only if there is none.
    fn victim(&mut self, slots: &Slots, shared: &Self::Shared, is_dead: impl Fn(&Slot) -> bool) -> Option<usize>;

    /// This live entry goes for want of room.
    fn evicted(&mut self, slot: &Slot, shared: &Self::Shared);

    /// The entry that arrived stands at `at`.
    fn place(&mut self, slots: &Slots, at: usize, shared: &Self::Shared);

    /// An entry was moved to `to`.
    fn moved(&mut self, slots: &Slots, to: usize);

    /// The shard was emptied.
    fn clear(&mut self);

    /// Checks what must hold.
    fn validate(&self, slots: &Slots) -> Result<(), String>;
}
