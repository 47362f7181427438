//! Operations on all shards: clear, sweep, scan, random keys, validation.

use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use super::{Cell, Freed, Tier};
use crate::{
    clock::Tick,
    l1::{
        epochs::Epoch,
        policy::Policy,
        shard::Gone,
        slot::{BLOCK, Slot},
        types::{Left, Resident, Staged},
    },
    model::{Key, RESERVED_PREFIX, Record, RemovalCause},
};

/// Maximum number of entries that one hold of a shard's lock copies: about 10 µs.
pub(super) const HELD_MAX: usize = 2 * BLOCK;
/// Maximum number of entries that one hold of a shard's lock removes: under 1 µs, during which a waiting reader spins.
/// With 128, readers were put to sleep, and the p99 of reads during a mass expiration was 100 µs.
pub(super) const REMOVED_MAX: usize = 2;
/// Maximum number of slots that the search for a random key visits in an L1 shard.
const DRAWS_MAX: usize = 4_096;
/// Bits of a scan cursor that store the number of slots of the shard that are not visited yet, plus one.
const CURSOR_SLOT_BITS: u32 = 40;
const CURSOR_TOP: u64 = (1 << CURSOR_SLOT_BITS) - 1;

impl<P: Policy> Tier<P> {
    pub(in crate::l1) fn clear(&self) {
        for cell in 0..self.cells.len() {
            let mut shard = self.write(cell);
            let (slots, bytes) = shard.clear();
            let entries = slots.len() as u64;
            self.note(cell, &shard);
            let staged = slots.all().iter().filter(|slot| slot.is_staged());
            let staged: Vec<_> = staged
                .filter_map(|slot| {
                    Some((self.hasher.of_slot(slot), slot.record()?.clone(), shard.weight_of(slot.record()?)))
                })
                .collect();
            drop(shard);
            for (hash, record, weight) in &staged {
                self.staging.unused(*hash, record, *weight);
            }
            // The room is released only after the memory is freed.
            drop(slots);
            self.budget.release(entries, bytes);
        }
    }

    /// Starts an epoch. If all numbers are in use, which requires a flood of flushes between two sweeps, L1 is emptied.
    pub(in crate::l1) fn begin(&self, fence: Tick) -> Option<Epoch> {
        self.epochs.begin(fence).or_else(|| {
            let ended = self.epochs.ended();
            self.clear();
            self.epochs.free(&ended);
            self.epochs.begin(fence)
        })
    }

    /// Sweeps a part of one shard, then a part of the next, and starts where the last call ended. A reader therefore
    /// waits for one short hold of the lock and not for all removals of a shard. After an epoch has ended, all blocks
    /// are examined once for its copies; then its number is free again.
    pub(in crate::l1) fn sweep(&self, now: Tick, budget: usize) -> usize {
        let ended = self.epochs.ended();
        let mut cell = self.sweep_from.load(Relaxed);
        // The block below which each shard has to be examined; `None` when the shard is done.
        let mut from: SmallVec<[Option<usize>; 16]> = SmallVec::from_elem(Some(usize::MAX), self.cells.len());
        let (mut removed, mut open) = (0, self.cells.len());
        while open > 0 && removed < budget {
            cell = (cell + 1) & (self.cells.len() - 1);
            let Some(below) = from[cell] else { continue };
            let room = (budget - removed).min(REMOVED_MAX);
            from[cell] = next_block(&self.cells[cell], below, now, !ended.is_empty()).map(|block| {
                let taken = self.sweep_block(cell, block, now, room);
                removed += taken;
                // A block that was not completed is opened again.
                if taken == room { block + 1 } else { block }
            });
            open -= usize::from(from[cell].is_none());
        }
        self.sweep_from.store(cell, Relaxed);
        if open == 0 && !ended.is_empty() {
            self.epochs.free(&ended);
        }
        removed
    }

    /// Removes up to `room` useless entries of one block, in one hold of the lock.
    fn sweep_block(&self, cell: usize, block: usize, now: Tick, room: usize) -> usize {
        let mut gone: SmallVec<[Gone; REMOVED_MAX]> = SmallVec::new();
        let mut freed = Freed::new(&self.budget);
        let mut shard = self.write(cell);
        shard.advance(now);
        shard.sweep_block(block, room, |slot: &Slot| slot.is_useless(now, &self.epochs), |entry| gone.push(entry));
        shard.shrink();
        self.note(cell, &shard);
        let removed = gone.len();
        for gone in gone {
            if gone.was_over {
                self.account(&mut shard, gone, RemovalCause::Expired, &mut freed);
            } else {
                self.account_as(Left::Ended, &mut shard, gone, RemovalCause::Invalidated, &mut freed);
            }
        }
        // Releases the lock before the memory is freed.
        drop(shard);
        drop(freed);
        removed
    }

    pub(in crate::l1) fn scan(
        &self,
        cursor: u64,
        count: usize,
        now: Tick,
        mut visit: impl FnMut(&[u8], &Resident),
    ) -> u64 {
        let mut cell = (cursor >> CURSOR_SLOT_BITS) as usize;
        let mut upto = if cursor == 0 {
            usize::MAX
        } else {
            (cursor & CURSOR_TOP) as usize - usize::from(cursor & CURSOR_TOP > 0)
        };
        let mut left = count.max(1);
        while cell < self.cells.len() {
            if left == 0 {
                return (cell as u64) << CURSOR_SLOT_BITS | (upto as u64 + 1).min(CURSOR_TOP);
            }
            let (seen, page) = self.page(cell, upto, left.min(HELD_MAX), now);
            for (record, resident) in &page {
                visit(record.key(), resident);
            }
            left -= seen.len().min(left);
            upto = seen.start;
            if upto == 0 {
                cell += 1;
                upto = CURSOR_TOP as usize;
            }
        }
        0
    }

    /// Copies the live entries in up to `count` slots below `upto`. The scan goes down because removals move entries
    /// down: an entry that is not visited yet never moves to a visited position.
    fn page(
        &self,
        cell: usize,
        upto: usize,
        count: usize,
        now: Tick,
    ) -> (std::ops::Range<usize>, Vec<(Record, Resident)>) {
        let shard = self.cells[cell].shard.read();
        let end = upto.min(shard.len());
        let range = end.saturating_sub(count)..end;
        let live = range.clone().rev().filter_map(|at| shard.slot(at).filter(|slot| slot.is_live(now, &self.epochs)));
        let page = live.filter_map(|slot| Some((slot.record()?.clone(), shard.resident(slot, now)?)));
        let mut page: Vec<(Record, Resident)> = page.collect();
        let (bans, now) = shard.bans(now);
        drop(shard);
        page.retain(|(record, _)| !bans.compare(record, now));
        (range, page)
    }

    pub(in crate::l1) fn random_key(&self, seed: u64, now: Tick) -> Option<Key> {
        let first = seed as usize;
        (0..self.cells.len()).find_map(|step| {
            let shard = self.cells[first.wrapping_add(step) & (self.cells.len() - 1)].shard.read();
            let length = shard.len();
            let start = (seed >> 16) as usize % length.max(1);
            let places = (0..length.min(DRAWS_MAX)).map(|step| (start + step) % length);
            let live = places.filter_map(|at| shard.slot(at).filter(|slot| slot.is_live(now, &self.epochs))?.record());
            let live = live.filter(|record| !record.key().starts_with(RESERVED_PREFIX));
            // Without bans, the first live entry is the result.
            let most = if shard.has_bans() { DRAWS_MAX } else { 1 };
            let drawn: SmallVec<[Record; 4]> = live.take(most).cloned().collect();
            let (bans, now) = shard.bans(now);
            drop(shard);
            let shown = drawn.iter().find(|record| !bans.compare(record, now))?;
            Key::copied(shown.key()).ok()
        })
    }

    pub(in crate::l1) fn staged(&self) -> Staged {
        self.staging.report(self.room_entries())
    }

    pub(in crate::l1) fn take_unused(&self, take: impl FnMut(&[u8])) {
        self.staging.take_unused(take);
    }

    /// Recounts every shard and the budget from scratch. For tests without concurrent access.
    pub(in crate::l1) fn validate(&self) -> Result<(), String> {
        let (mut entries, mut bytes) = (0, 0);
        let (mut staged, mut staged_bytes) = (0, 0);
        for (cell, padded) in self.cells.iter().enumerate() {
            let shard = padded.shard.read();
            shard.validate(|key| self.place(key).cell == cell).map_err(|fault| format!("shard {cell}: {fault}"))?;
            let noted = (padded.entries.load(Relaxed), padded.bytes.load(Relaxed));
            if noted != (shard.len() as u64, shard.bytes()) {
                return Err(format!(
                    "shard {cell}: published sizes {noted:?}, actual sizes {:?}",
                    (shard.len(), shard.bytes())
                ));
            }
            if shard.has_bans() && self.purges_open.load(Relaxed) == 0 {
                return Err(format!("shard {cell}: a completed purge left a pattern"));
            }
            entries += shard.len() as u64;
            bytes += shard.bytes();
            for record in (0..shard.len()).filter_map(|at| shard.slot(at).filter(|slot| slot.is_staged())?.record()) {
                staged += 1;
                staged_bytes += shard.weight_of(record);
            }
        }
        let report = self.staged();
        if (report.entries, report.bytes) != (staged, staged_bytes) {
            return Err(format!("{report:?}, but {staged} entries of {staged_bytes} bytes are staged"));
        }
        let usage = self.budget.usage();
        if (usage.entries, usage.bytes) != (entries, bytes) {
            return Err(format!("the budget says {usage:?}, the shards hold {entries} entries of {bytes} bytes"));
        }
        if bytes > usage.capacity_bytes {
            return Err(format!("{bytes} bytes exceed the capacity of {}", usage.capacity_bytes));
        }
        Ok(())
    }
}

/// Returns the next block below `from` that a sweep has to open.
fn next_block<P: Policy>(cell: &Cell<P>, from: usize, now: Tick, all: bool) -> Option<usize> {
    let shard = cell.shard.read();
    if all { from.min(shard.len().div_ceil(BLOCK)).checked_sub(1) } else { shard.due_block(from, now) }
}
