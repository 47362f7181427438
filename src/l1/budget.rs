//! How much L1 holds, over all shards: room is reserved here before an entry goes in, so the bound holds at every step.

use std::sync::atomic::Ordering::Relaxed;

use crossbeam_utils::CachePadded;
use smallvec::SmallVec;

use super::{
    sync::AtomicU64,
    types::{Settings, Usage},
};
use crate::model::Record;

/// Bytes and entries held, and their bounds.
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

    /// Entries left, together of this weight.
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

/// Adds unless the sum would pass `bound`; never shows a sum past it.
fn add_within(sum: &AtomicU64, add: u64, bound: u64) -> bool {
    add == 0 || sum.fetch_update(Relaxed, Relaxed, |now| now.checked_add(add).filter(|&next| next <= bound)).is_ok()
}

/// What went during one call. Its room serves the entry that comes in, so that an exchange of equals touches no shared
/// count; what is left over is given back, and the records are freed, when this is dropped: after the lock.
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

    /// Takes what went.
    pub(super) fn add(&mut self, record: Record, weight: u64) {
        self.records.push(record);
        self.bytes += weight;
        self.entries += 1;
    }

    /// Reserves room for one entry out of what went, and the rest out of the budget, if there is enough.
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
