//! Hashes of keys. A random seed prevents clients from choosing keys that collide.

use std::hash::{BuildHasher, Hasher as _};

use foldhash::{SharedSeed, fast::SeedableRandomState};

use super::slot::Slot;

/// Hashes keys: the low half selects the shard, and the shard indexes the key by the high half.
#[derive(Clone)]
pub(super) struct Hasher(SeedableRandomState);

impl Hasher {
    /// Returns a hasher with a random seed, or with a given one.
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

    /// Returns the hash by which the shard indexes the key of a slot.
    pub(super) fn of_slot(&self, slot: &Slot) -> u32 {
        slot.record().map_or(0, |record| (self.of(record.key()) >> 32) as u32)
    }
}
