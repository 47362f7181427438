//! [`WriteGroup`]: writes that are committed together. Each write sees the writes before it in the group.
//!
//! Only the writer's thread creates groups, one after another. Other threads see reading, deciding and committing as
//! one step, so conditions, increments and batches are atomic without locks of their own.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    disk::{
        rows::{Record, TALLY_ROW, Tally, expiry_row, is_hidden, order_row, record_row},
        table::{Changes, Table},
    },
    state::StoreState,
};
use crate::{
    clock::UnixMs,
    error::{CacheError, Kind, Result},
    l2::{
        Ban,
        loads::{LoadOp, LoadResult, local::LocalLoads},
        op::{self, Applied, EntryChange, Op, Present},
    },
    model::{Key, RESERVED_PREFIX},
};

/// Writes that take effect together.
pub(super) struct WriteGroup<'a> {
    table: &'a Table,
    staged: HashMap<Bytes, Staged, foldhash::fast::RandomState>,
    /// Tally of the table after the commit.
    pub(super) tally: Tally,
    /// Keys whose copies in L1 are outdated after the commit.
    pub(super) touched: Vec<Bytes>,
    /// Earliest expiry that this group sets.
    pub(super) soonest: UnixMs,
    bans: Arc<Vec<Arc<Ban>>>,
    loads: Arc<LocalLoads>,
}

/// A record as stored in the table, and as it will be after the commit.
struct Staged {
    before: Option<Stamp>,
    now: Option<Record>,
    changed: bool,
}

/// The numbers that determine the order and expiry rows of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    written: u64,
    expires_at: Option<UnixMs>,
}

impl Stamp {
    fn of(record: &Record) -> Self {
        Self { written: record.written, expires_at: record.expires_at }
    }
}

impl<'a> WriteGroup<'a> {
    /// Creates an empty group for `table`, whose current tally is `tally`.
    pub(super) fn new(table: &'a Table, tally: Tally, shared: &StoreState) -> Self {
        let (staged, bans) = (HashMap::default(), shared.bans.all().unwrap_or_default());
        let loads = Arc::clone(&shared.loads);
        Self { table, staged, tally, touched: Vec::new(), soonest: UnixMs(u64::MAX), bans, loads }
    }

    /// Stages one operation. `weight_max` is the maximum weight of one record in bytes.
    pub(super) fn apply(&mut self, key: &Key, op: &Op, now: UnixMs, weight_max: u64) -> Result<Applied> {
        let loads = Arc::clone(&self.loads);
        self.change(key, now, weight_max, |present| {
            let decided = op::apply(op, present, now)?;
            loads.before(key, op);
            Ok(decided)
        })
    }

    /// Stages an operation on the load lease of a key.
    pub(super) fn apply_load(&mut self, key: &Key, op: &LoadOp, now: UnixMs, weight_max: u64) -> Result<LoadResult> {
        let loads = Arc::clone(&self.loads);
        self.change(key, now, weight_max, |present| Ok(loads.decide(key, op, present, now)))
    }

    /// Stages the change that `decide` returns for the present entry.
    fn change<T>(
        &mut self,
        key: &Key,
        now: UnixMs,
        weight_max: u64,
        decide: impl FnOnce(Option<Present<'_>>) -> Result<(EntryChange, T)>,
    ) -> Result<T> {
        let (row, bans) = (record_row(key), Arc::clone(&self.bans));
        let record = self.load(&row)?;
        // The row contains a record of another key if the tails of two long keys collide: then this key is absent.
        let live = record.filter(|record| record.key == **key && !record.is_expired(now) && !is_hidden(&bans, record));
        let present = live.map(|record| Present { value: &record.value, expires_at: record.expires_at });
        let (change, applied) = decide(present)?;
        let next = match change {
            EntryChange::Keep => return Ok(applied),
            EntryChange::Remove if record.is_some_and(|record| record.key != **key) => {
                // Set and removed at once; the record of the other key remains.
                self.touched.push(key.bytes().clone());
                return Ok(applied);
            }
            EntryChange::Remove => None,
            EntryChange::Reexpire(expires_at) => live.map(|record| Record { expires_at, ..record.clone() }),
            EntryChange::Put(value, expires_at) => {
                let record = Record { key: key.bytes().clone(), value, expires_at, written: self.tally.next_written };
                fits(&record, weight_max)?;
                self.tally.next_written += 1;
                Some(record)
            }
        };
        self.touched.push(key.bytes().clone());
        self.replace(&row, next);
        Ok(applied)
    }

    /// Removes the record with this write number; returns false if a later write has replaced it.
    pub(super) fn remove(&mut self, key: &[u8], written: u64) -> Result<bool> {
        let row = record_row(key);
        let found = self.load(&row)?.is_some_and(|record| record.written == written);
        if found {
            self.replace(&row, None);
        }
        Ok(found)
    }

    /// Returns the expiry of the record with this write number; `None` if a later write has replaced it or it does not
    /// expire.
    pub(super) fn expiry_of(&mut self, key: &[u8], written: u64) -> Result<Option<UnixMs>> {
        let record = self.load(&record_row(key))?;
        Ok(record.filter(|record| record.written == written).and_then(|record| record.expires_at))
    }

    /// Returns the number of rows that this group has visited.
    pub(super) fn len(&self) -> usize {
        self.staged.len()
    }

    /// Returns the rows to change; `None` if no row changes.
    pub(super) fn changes(&self) -> Option<Changes> {
        let mut changes = self.table.changes();
        let mut any = false;
        for (row, staged) in self.staged.iter().filter(|(_, staged)| staged.changed) {
            staged.write(row, &mut changes);
            any = true;
        }
        changes.put(Bytes::from_static(TALLY_ROW), self.tally.encode());
        any.then_some(changes)
    }

    /// Returns the record with the staged changes of this group.
    fn load(&mut self, row: &Bytes) -> Result<Option<&Record>> {
        if !self.staged.contains_key(row) {
            let record = self.table.get(row)?.map(|bytes| Record::decode(row, &bytes)).transpose()?;
            let before = record.as_ref().map(Stamp::of);
            self.staged.insert(row.clone(), Staged { before, now: record, changed: false });
        }
        Ok(self.staged.get(row).and_then(|staged| staged.now.as_ref()))
    }

    fn replace(&mut self, row: &Bytes, next: Option<Record>) {
        let Some(staged) = self.staged.get_mut(row) else { return };
        if let Some(old) = &staged.now {
            self.tally.entries = self.tally.entries.saturating_sub(1);
            self.tally.bytes = self.tally.bytes.saturating_sub(old.weight());
            self.tally.own = self.tally.own.saturating_sub(u64::from(old.key.starts_with(RESERVED_PREFIX)));
            if next.as_ref().is_some_and(|next| next.key != old.key) {
                self.touched.push(old.key.clone());
            }
        }
        if let Some(new) = &next {
            self.tally.entries += 1;
            self.tally.bytes += new.weight();
            self.tally.own += u64::from(new.key.starts_with(RESERVED_PREFIX));
            self.soonest = self.soonest.min(new.expires_at.unwrap_or(UnixMs(u64::MAX)));
        }
        staged.now = next;
        staged.changed = true;
    }
}

impl Staged {
    fn write(&self, row: &Bytes, changes: &mut Changes) {
        let now = self.now.as_ref().map(Stamp::of);
        if let Some(before) = self.before {
            if now.is_none_or(|now| now.written != before.written) {
                changes.remove(order_row(before.written));
            }
            if let (Some(at), true) = (before.expires_at, now != Some(before)) {
                changes.remove(expiry_row(at, before.written));
            }
        }
        match &self.now {
            None if self.before.is_some() => changes.remove(row.clone()),
            None => {}
            Some(record) => self.write_record(row, record, changes),
        }
    }

    fn write_record(&self, row: &Bytes, record: &Record, changes: &mut Changes) {
        changes.put(row.clone(), record.encode());
        if self.before.is_none_or(|before| before.written != record.written) {
            // A copy, because the key may share a larger buffer, which the row would keep in memory.
            changes.put(order_row(record.written), Bytes::copy_from_slice(&record.key));
        }
        if let Some(at) = record.expires_at
            && self.before != Some(Stamp::of(record))
        {
            changes.put(expiry_row(at, record.written), Bytes::new());
        }
    }
}

fn fits(record: &Record, weight_max: u64) -> Result<()> {
    let weight = record.weight();
    if weight > weight_max {
        let message = format!("entry of {weight} bytes exceeds data.size ({weight_max} bytes)");
        return Err(CacheError::new(Kind::TooLarge, message));
    }
    Ok(())
}
