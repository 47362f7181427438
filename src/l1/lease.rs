//! Fill leases: at most one live lease per key, in the shard of the key and under its lock.

use bytes::Bytes;
use hashbrown::HashTable;

use super::{epochs::Epoch, types::Token};
use crate::{glob::Glob, model::Key};

/// Maximum number of fill leases in an L1 shard. Further L2 reads run without a lease, and their values are not inserted
/// into L1.
pub(super) const LEASES_MAX: usize = 16_384;

/// Maximum number of fill leases whose keys are compared with the prefix of an invalidated pattern at a time (about
/// 50 µs).
const LOOKS_MAX: usize = 1_024;

/// The permission to fill one key.
struct Lease {
    key: Bytes,
    hash: u32,
    token: Token,
    /// The epoch of the fill; `None` if nothing may be inserted.
    epoch: Option<Epoch>,
}

/// Spreads 32 bits over both halves: the table takes its bucket from the low bits and its tag from the high bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The leases of a shard.
#[derive(Default)]
pub(super) struct Leases(HashTable<Lease>);

impl Leases {
    /// Returns the leader of the flight of this key, if there is one.
    pub(super) fn holder(&self, hash: u32, key: &[u8]) -> Option<Token> {
        self.0.find(spread(hash), |lease| lease.key == key).map(|lease| lease.token)
    }

    /// Adds a lease for a key that has none.
    pub(super) fn grant(&mut self, hash: u32, key: &Key, token: Token, epoch: Option<Epoch>) {
        if self.0.len() < LEASES_MAX {
            let lease = Lease { key: key.bytes().clone(), hash, token, epoch };
            self.0.insert_unique(spread(hash), lease, |lease| spread(lease.hash));
        }
    }

    /// Ends the lease if this token holds it. Returns the epoch in which it was taken.
    pub(super) fn end(&mut self, hash: u32, key: &[u8], token: Token) -> Option<Option<Epoch>> {
        let is_it = |lease: &Lease| lease.token == token && lease.key == key;
        let found = self.0.find_entry(spread(hash), is_it).ok()?;
        Some(found.remove().0.epoch)
    }

    /// Voids the lease of a key, whoever holds it.
    pub(super) fn void(&mut self, hash: u32, key: &[u8]) {
        if let Ok(found) = self.0.find_entry(spread(hash), |lease| lease.key == key) {
            found.remove();
        }
    }

    /// Voids the leases whose keys may match: a full comparison takes too long under the lock. Voids all leases if there
    /// are too many. The values of voided leases are returned and not inserted.
    pub(super) fn void_matching(&mut self, glob: &Glob) {
        if self.0.len() > LOOKS_MAX {
            return self.clear();
        }
        self.0.retain(|lease| !glob.may_match(&lease.key));
    }

    /// Voids all leases.
    pub(super) fn clear(&mut self) {
        self.0 = HashTable::new();
    }
}
