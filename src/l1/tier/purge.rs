//! The walk that removes banned entries: see `l1/purge.rs`.

use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use super::{
    Freed, Tier,
    upkeep::{HELD_MAX, REMOVED_MAX},
};
use crate::{
    clock::Tick,
    glob::Glob,
    l1::{
        policy::Policy,
        purge::{PURGES_MAX, Purge},
        types::Left,
    },
    model::{Record, RemovalCause},
};

impl<P: Policy> Tier<P> {
    /// Hides the matching entries of every shard, one shard after the other.
    pub(in crate::l1) fn ban(&self, glob: Glob, now: Tick) -> Option<Purge> {
        let more = |open: usize| (open < PURGES_MAX).then_some(open + 1);
        self.purges_open.fetch_update(Relaxed, Relaxed, more).ok()?;
        let number = self.purges_begun.fetch_add(1, Relaxed);
        for cell in 0..self.cells.len() {
            self.write(cell).ban(number, &glob, now);
        }
        Some(Purge::new(glob, number))
    }

    /// Examines up to `budget` more entries. Returns the number of removed entries.
    pub(in crate::l1) fn purge(&self, purge: &mut Purge, now: Tick, budget: usize) -> usize {
        let (mut left, mut removed) = (budget, 0);
        while left > 0 && !purge.done {
            let (seen, page) = self.page_to_purge(purge, left.min(HELD_MAX));
            left -= seen.len().min(left);
            // Keys are compared without a lock, because the time depends on the pattern.
            let matching: SmallVec<[Record; HELD_MAX]> =
                page.into_iter().filter(|record| purge.glob.matches(record.key())).collect();
            removed += matching.chunks(REMOVED_MAX).map(|few| self.remove_hidden(purge, few, now)).sum::<usize>();
            self.step(purge, seen.start);
        }
        purge.removed += removed as u64;
        removed
    }

    /// Returns the range of the next slots, and those of their entries that may match.
    fn page_to_purge(&self, purge: &Purge, count: usize) -> (std::ops::Range<usize>, SmallVec<[Record; HELD_MAX]>) {
        let shard = self.cells[purge.cell].shard.read();
        let end = purge.upto.min(shard.len());
        let range = end.saturating_sub(count)..end;
        let prefix = purge.glob.literal_prefix();
        let records = range.clone().filter_map(|at| shard.slot(at)?.record());
        let page = records.filter(|record| record.key().starts_with(prefix)).cloned().collect();
        (range, page)
    }

    /// Removes those of these entries, which match, that are from before the ban, in one hold of the lock.
    fn remove_hidden(&self, purge: &Purge, few: &[Record], now: Tick) -> usize {
        let cell = purge.cell;
        let mut freed = Freed::new(&self.budget);
        let mut shard = self.write(cell);
        shard.advance(now);
        let mut removed = 0;
        for record in few {
            let hash = (self.hasher.of(record.key()) >> 32) as u32;
            let Some(at) = shard.find(hash, record.key()) else { continue };
            if shard.is_before_ban(purge.number, at, now)
                && let Some(gone) = shard.remove(at, true)
            {
                self.account_as(Left::Banned, &mut shard, gone, RemovalCause::Invalidated, &mut freed);
                removed += 1;
            }
        }
        shard.shrink();
        self.note(cell, &shard);
        removed
    }

    /// Notes that all slots from `start` on were examined.
    fn step(&self, purge: &mut Purge, start: usize) {
        purge.upto = start;
        if start > 0 {
            return;
        }
        self.write(purge.cell).lift(purge.number);
        (purge.cell, purge.upto) = (purge.cell + 1, usize::MAX);
        if purge.cell == self.cells.len() {
            purge.done = true;
            self.purges_open.fetch_sub(1, Relaxed);
        }
    }
}
