//! How much L1 holds, over all shards: room is reserved here before an entry goes in, so the bound holds at every step.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

use super::types::{Removals, Settings, Usage};
use crate::model::RemovalCause;

/// Bytes and entries held, their bounds, and what was removed.
pub(super) struct Budget {
    bytes: CachePadded<AtomicU64>,
    entries: CachePadded<AtomicU64>,
    capacity_bytes: u64,
    max_entries: u64,
    removals: [AtomicU64; 4],
}

impl Budget {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            bytes: CachePadded::default(),
            entries: CachePadded::default(),
            capacity_bytes: settings.capacity_bytes,
            max_entries: settings.max_entries.unwrap_or(u64::MAX),
            removals: Default::default(),
        }
    }

    /// Reserves room for one entry, if there is any.
    pub(super) fn try_reserve(&self, weight: u64) -> bool {
        if !add_within(&self.bytes, weight, self.capacity_bytes) {
            return false;
        }
        if !add_within(&self.entries, 1, self.max_entries) {
            self.bytes.fetch_sub(weight, Relaxed);
            return false;
        }
        true
    }

    /// Entries left, together of this weight.
    pub(super) fn release(&self, entries: u64, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.entries.fetch_sub(entries, Relaxed);
    }

    pub(super) fn count(&self, cause: RemovalCause, entries: u64) {
        self.removals[cause as usize].fetch_add(entries, Relaxed);
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            entries: self.entries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            capacity_bytes: self.capacity_bytes,
        }
    }

    pub(super) fn removals(&self) -> Removals {
        let at = |cause: RemovalCause| self.removals[cause as usize].load(Relaxed);
        Removals {
            size: at(RemovalCause::Size),
            expired: at(RemovalCause::Expired),
            invalidated: at(RemovalCause::Invalidated),
            replaced: at(RemovalCause::Replaced),
        }
    }
}

/// Adds unless the sum would pass `bound`; never shows a sum past it.
fn add_within(sum: &AtomicU64, add: u64, bound: u64) -> bool {
    sum.fetch_update(Relaxed, Relaxed, |now| now.checked_add(add).filter(|&next| next <= bound)).is_ok()
}
