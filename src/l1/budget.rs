//! The byte budget of L1 over all shards. Room is reserved before an entry is inserted, so the limit holds at every
//! step.

use std::sync::atomic::Ordering::Relaxed;

use crossbeam_utils::CachePadded;
use smallvec::SmallVec;

use super::{
    sync::AtomicU64,
    types::{Settings, Usage},
};
use crate::model::Record;

/// Bytes and entries in use, and their limits.
pub(super) struct Budget {
    bytes: CachePadded<AtomicU64>,
    entries: CachePadded<AtomicU64>,
    capacity_bytes: u64,
    max_entries: u64,
}

impl Budget {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            bytes: CachePadded::default(),
            entries: CachePadded::default(),
            capacity_bytes: settings.capacity_bytes,
            max_entries: settings.max_entries.unwrap_or(u64::MAX),
        }
    }

    /// Releases the room of removed entries: their number and total weight.
    pub(super) fn release(&self, entries: u64, bytes: u64) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Relaxed);
        }
        if entries > 0 {
            self.entries.fetch_sub(entries, Relaxed);
        }
    }

    pub(super) fn max_entries(&self) -> u64 {
        self.max_entries
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            entries: self.entries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            capacity_bytes: self.capacity_bytes,
        }
    }
}

/// Adds unless the sum would exceed `bound`; no other thread ever sees a larger sum.
fn add_within(sum: &AtomicU64, add: u64, bound: u64) -> bool {
    add == 0 || sum.fetch_update(Relaxed, Relaxed, |now| now.checked_add(add).filter(|&next| next <= bound)).is_ok()
}

/// Entries removed during one call. Their room is reused for the inserted entry, so that an exchange of equal sizes
/// changes no shared counter. On drop, which happens after the lock is released, the remaining room is returned and the
/// records are freed.
pub(super) struct Freed<'a> {
    budget: &'a Budget,
    records: SmallVec<[Record; 4]>,
    bytes: u64,
    entries: u64,
}

impl<'a> Freed<'a> {
    pub(super) fn new(budget: &'a Budget) -> Self {
        Self { budget, records: SmallVec::new(), bytes: 0, entries: 0 }
    }

    /// Adds a removed entry.
    pub(super) fn add(&mut self, record: Record, weight: u64) {
        self.records.push(record);
        self.bytes += weight;
        self.entries += 1;
    }

    /// Reserves room for one entry from the removed entries, and the remainder from the budget if it suffices.
    pub(super) fn try_reserve(&mut self, weight: u64) -> bool {
        let Budget { bytes, entries, capacity_bytes, max_entries } = self.budget;
        let more_bytes = weight.saturating_sub(self.bytes);
        if !add_within(bytes, more_bytes, *capacity_bytes) {
            return false;
        }
        if !add_within(entries, u64::from(self.entries == 0), *max_entries) {
            self.budget.release(0, more_bytes);
            return false;
        }
        self.bytes -= weight - more_bytes;
        self.entries = self.entries.saturating_sub(1);
        true
    }
}

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        self.records.clear();
        self.budget.release(self.entries, self.bytes);
    }
}
