//! From a key's hash to the place of its slot: four bytes and a control byte an entry.
//!
//! The index keeps no hashes; whoever changes it says how to find an entry's hash by its place.

use hashbrown::HashTable;

/// Places by hash.
#[derive(Default)]
pub(super) struct Index(HashTable<u32>);

/// The table takes its bucket from the low bits and its tag from the high ones; 32 bits are spread over both.
#[inline]
pub(super) fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The place with this hash that `is_it`.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(usize) -> bool) -> Option<usize> {
        self.0.find(spread(hash), |&at| is_it(at as usize)).map(|&at| at as usize)
    }

    /// Adds a place that is not there.
    pub(super) fn insert(&mut self, hash: u32, at: usize, hash_of: impl Fn(usize) -> u32) {
        self.0.insert_unique(spread(hash), at as u32, |&at| spread(hash_of(at as usize)));
    }

    /// Removes a place.
    pub(super) fn remove(&mut self, hash: u32, at: usize) {
        if let Ok(found) = self.0.find_entry(spread(hash), |&there| there as usize == at) {
            found.remove();
        }
    }

    /// An entry moved.
    pub(super) fn relocate(&mut self, hash: u32, from: usize, to: usize) {
        if let Some(at) = self.0.find_mut(spread(hash), |&there| there as usize == from) {
            *at = to as u32;
        }
    }

    /// Gives memory back that `len` entries do not need.
    pub(super) fn shrink(&mut self, hash_of: impl Fn(usize) -> u32) {
        self.0.shrink_to(self.0.len(), |&at| spread(hash_of(at as usize)));
    }
}
