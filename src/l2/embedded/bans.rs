//! Pattern bans in the embedded store: the writer opens, sweeps and retires them.
//!
//! A ban takes the next write number and is stored in its own row. It hides matching records with smaller numbers, also
//! after a restart. Therefore, a rewrite of a key needs no note.

use std::{ops::Bound, sync::Arc};

use super::{
    disk::{
        rows::{BANS, RECORDS, Record, TALLY_ROW, ban_row, decode_ban, encode_ban, is_hidden, record_row},
        table::{Changes, Table},
    },
    write_group::WriteGroup,
    writer::Writer,
};
use crate::{
    clock::stopwatch_ns,
    error::Result,
    glob::Glob,
    l2::{
        Ban, Effort, SweepPage,
        bans::{OPEN_MAX, too_many},
        scan::PAGE_TIME_MAX,
    },
};

/// Records per page of a sweep while other clients use the store: 3 to 5 ms, during which writes wait.
const PAGE_YIELDING: usize = 500;
/// Records per page of a sweep while no other client uses the store.
const PAGE_FULL: usize = 1_000;

impl Writer {
    /// Publishes the bans that this table contains.
    pub(super) fn load_bans(&self, table: &Table) -> Result<()> {
        let view = table.view();
        let rows = view.range(Bound::Included(BANS.0), BANS.1);
        let bans = rows.map(|row| row.and_then(|(row, bytes)| decode_ban(&row, &bytes)).map(Arc::new));
        self.shared.bans.replace(bans.collect::<Result<_>>()?);
        Ok(())
    }

    /// Opens a ban. It replaces an earlier ban of the same pattern, because it hides all records that the earlier ban
    /// hides.
    pub(super) fn ban(&mut self, glob: Glob) -> Result<u64> {
        let table = self.table.clone().ok_or_else(|| self.rejection())?;
        let open = self.shared.bans.all().unwrap_or_default();
        let (same, mut bans): (Vec<_>, Vec<_>) = open.iter().cloned().partition(|ban| ban.glob == glob);
        if bans.len() >= OPEN_MAX {
            return Err(too_many());
        }
        // A load that began before the ban must not fill the key after it.
        self.shared.loads.forget_matching(&glob);
        let ban = Arc::new(Ban { number: self.tally.next_written, glob });
        let mut tally = self.tally;
        tally.next_written += 1;
        let mut changes = table.changes();
        same.iter().for_each(|ban| changes.remove(ban_row(ban.number)));
        changes.put(ban_row(ban.number), encode_ban(&ban.glob));
        changes.put(TALLY_ROW.into(), tally.encode());
        self.commit_bans(changes)?;
        self.tally = tally;
        bans.push(Arc::clone(&ban));
        self.shared.bans.replace(bans);
        self.shared.sink.banned(&ban);
        Ok(ban.number)
    }

    /// Removes the records that a ban hides in the next page.
    pub(super) fn sweep_banned(&mut self, ban: &Ban, cursor: u64, effort: Effort) -> Result<SweepPage> {
        let count = match effort {
            Effort::Yielding => PAGE_YIELDING,
            Effort::Full => PAGE_FULL,
        };
        let table = self.table.clone().ok_or_else(|| self.rejection())?;
        let prefix = record_row(ban.glob.literal_prefix());
        let after = self.shared.cursors.lock().position(cursor).filter(|row| row >= &prefix);
        let from = after.as_deref().map_or(Bound::Included(&prefix[..]), Bound::Excluded);
        let alone = [Arc::new(ban.clone())];
        let mut group = WriteGroup::new(&table, self.tally, &self.shared);
        let (mut page, mut last) = (SweepPage::default(), None);
        let begun = stopwatch_ns();
        for row in table.view().range(from, RECORDS.1) {
            let (row, bytes) = row?;
            if !row.starts_with(&prefix) {
                last = None;
                break;
            }
            page.scanned += 1;
            let record = Record::decode(&row, &bytes)?;
            if is_hidden(&alone, &record) && group.remove(&record.key, record.written)? {
                group.touched.push(record.key);
                page.removed += 1;
            }
            let is_late = stopwatch_ns() - begun > PAGE_TIME_MAX.as_nanos() as u64;
            last = (is_late || page.scanned as usize >= count).then_some(row);
            if last.is_some() {
                break;
            }
        }
        self.commit(group, self.swept())?;
        page.cursor = last.map_or(0, |row| self.shared.cursors.lock().remember(cursor, row));
        Ok(page)
    }

    /// Removes a ban that hides no record.
    pub(super) fn retire(&mut self, number: u64) -> Result<()> {
        let table = self.table.clone().ok_or_else(|| self.rejection())?;
        let mut changes = table.changes();
        changes.remove(ban_row(number));
        self.commit_bans(changes)?;
        let open = self.shared.bans.all().unwrap_or_default();
        self.shared.bans.replace(open.iter().filter(|ban| ban.number != number).cloned().collect());
        Ok(())
    }

    fn commit_bans(&mut self, changes: Changes) -> Result<()> {
        let committed = changes.commit(self.shared.sync_always);
        if let Err(error) = &committed {
            self.fail(error);
        }
        committed
    }
}
