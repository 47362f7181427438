//! Hashes of keys, seeded so that nobody outside can choose keys that collide.

use std::hash::{BuildHasher, Hasher as _};

use foldhash::{SharedSeed, fast::SeedableRandomState};

use super::slot::Slot;

/// Hashes keys: the low half picks the shard, the high half is what the shard files it under.
#[derive(Clone)]
pub(super) struct Hasher(SeedableRandomState);

impl Hasher {
    /// A hasher of its own, or one that follows from a seed.
    pub(super) fn new(seed: Option<u64>) -> Self {
        Self(match seed {
            Some(seed) => SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()),
            None => SeedableRandomState::random(),
        })
    }

    #[inline]
    pub(super) fn of(&self, key: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    /// What the key of a slot is filed under in its shard.
    pub(super) fn of_slot(&self, slot: &Slot) -> u32 {
        slot.record().map_or(0, |record| (self.of(record.key()) >> 32) as u32)
    }
}
