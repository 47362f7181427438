//! The sweep of a ban: one node at a time removes hidden keys page by page, each page within a time limit.
//!
//! One server finds the keys, compares them with the notes and removes them in one script, so that only counts are
//! transferred. If Redis could take long to compare the pattern ([`Glob::for_redis`](crate::glob::Glob::for_redis)),
//! Terrace fetches the keys of a page, compares them, and a script removes those that match. In a cluster, notes are stored in the slots of their keys, whose names no script can compute. There,
//! the keys of a page are fetched, and each key is removed by a separate script.

use std::{collections::HashMap, time::Duration};

use ::redis::{Cmd, Value as Reply};
use futures_util::future::try_join_all;

use super::{
    log::LOOK_APART,
    records::{LOG, number},
};
use crate::{
    error::{CacheError, Kind, Result},
    l2::{
        Ban, Effort, ScanRequest, Source, SweepPage,
        redis::{
            command::{
                batch::word,
                errors, ops,
                scripts::{By, KEEP_SWEEP, SWEEP_KEY, SWEEP_LISTED, SWEEP_PAGE},
            },
            requests::{
                deadline::{INSPECTION_DEADLINE, after},
                pipelined_connection::Access,
                route::Unit,
            },
            topology::slots::{SLOTS, slot},
            worker::RedisBackend,
        },
    },
    model::{Key, RESERVED_PREFIX},
};

/// Time for which a note outlives its ban. Nodes that do not know the end of the ban still check the note, and so does
/// a delayed page of a sweep within its time limit.
const NOTE_AFTER_BAN: Duration = Duration::from_secs(10);
/// Time after which a sweeper that does not renew its claim counts as stopped.
const SWEEPER_LIFE: Duration = Duration::from_secs(5);
/// Time limit of a page after the claim, by the clock of the server that sweeps. It is shorter than the claim: a page
/// that is delayed until another sweeper has retired the ban finds no notes, and must remove nothing.
const PAGE_WITHIN: Duration = Duration::from_secs(4);
/// Number of keys per page while other clients use Redis: about 80 µs, as long as a few of their own commands.
const PAGE_YIELDING: usize = 50;
/// Number of keys per page while no other client uses Redis: about 3 ms.
const PAGE_FULL: usize = 2_000;
/// Number of commands that Redis counts per page: the script with TIME, SCAN, SMISMEMBER and UNLINK, and the query
/// after it.
const COMMANDS_OF_PAGE: u64 = 6;
/// Number of commands that Redis counts per key in a cluster: the commands of a page except SCAN.
const COMMANDS_OF_KEY: u64 = 5;
/// Maximum number of keys that one script of a sweep removes after Terrace has compared them: about 300 µs.
const LISTED_MAX: usize = 500;
/// Number of notes whose expiry is set with one request.
const NOTES_AT_ONCE: usize = 1_024;

impl RedisBackend {
    /// Acquires or renews the right to sweep.
    pub(in crate::l2::redis) async fn keep_sweep(&self, ban: u64, token: u64) -> Result<bool> {
        // Computed before the claim, so that it ends before the claim ends.
        let until = self.sweep_until().await?;
        let key = format!("__terrace:sweep:{ban}");
        let mut command = KEEP_SWEEP.call(By::Text, key.as_bytes());
        command.arg(token).arg(SWEEPER_LIFE.as_millis() as u64);
        let reply = self.ask_key(key.as_bytes(), command, Access::Write, after(INSPECTION_DEADLINE)).await?;
        let is_ours = ops::integer(&reply, "a script")? == 1;
        if is_ours {
            *self.sweep_until.lock() = until;
        }
        Ok(is_ours)
    }

    /// Returns the time limit of pages on each primary, by its own clock, in microseconds.
    async fn sweep_until(&self) -> Result<HashMap<Source, u64>> {
        let groups = self.all_groups()?;
        let deadline = after(INSPECTION_DEADLINE);
        let asked = groups.iter().map(|group| group.ask_one(word("TIME"), Access::Read, deadline));
        let mut until = HashMap::new();
        for (group, reply) in groups.iter().zip(try_join_all(asked).await?) {
            let now = time_us(&reply).ok_or_else(|| errors::unexpected("TIME"))?;
            until.insert(group.primary.source, now + PAGE_WITHIN.as_micros() as u64);
        }
        Ok(until)
    }

    /// Sweeps one page.
    pub(in crate::l2::redis) async fn sweep_page(&self, ban: &Ban, cursor: u64, effort: Effort) -> Result<SweepPage> {
        let count = match effort {
            Effort::Yielding => PAGE_YIELDING,
            Effort::Full => PAGE_FULL,
        };
        match (self.is_spread(), ban.glob.for_redis()) {
            (true, _) => self.sweep_keys_of_page(ban, cursor, count).await,
            (false, (pattern, true)) => self.sweep_within_redis(ban, &pattern, cursor, count).await,
            (false, (_, false)) => self.sweep_listed(ban, cursor, count).await,
        }
    }

    /// Sweeps one page on a server that holds all keys, with a pattern that only Terrace may compare.
    async fn sweep_listed(&self, ban: &Ban, cursor: u64, count: usize) -> Result<SweepPage> {
        let request = ScanRequest { cursor, pattern: Some(ban.glob.pattern().clone()), count, type_name: None };
        let page = self.scan_all(request).await?;
        let (mut removed, mut commands) = (0, 1);
        for keys in page.keys.chunks(LISTED_MAX) {
            let note = self.note(ban.number, 0);
            let names = std::iter::once(note.as_bytes()).chain(keys.iter().map(|key| &key[..]));
            let mut command = SWEEP_LISTED.call_with(By::Text, names);
            command.arg(self.sweep_ends(0));
            let reply = self.ask_key(LOG, command, Access::Write, after(INSPECTION_DEADLINE)).await?;
            removed += u64::try_from(ops::integer(&reply, "a script")?).map_err(|_| too_late())?;
            commands += COMMANDS_OF_PAGE - 1;
        }
        Ok(SweepPage { cursor: page.cursor, scanned: count as u64, removed, commands })
    }

    /// Sweeps one page on a server that holds all keys.
    async fn sweep_within_redis(&self, ban: &Ban, pattern: &[u8], cursor: u64, count: usize) -> Result<SweepPage> {
        let mut command = SWEEP_PAGE.call(By::Text, self.note(ban.number, 0).as_bytes());
        command.arg(self.sweep_ends(0)).arg(cursor).arg(pattern).arg(count).arg(RESERVED_PREFIX);
        let reply = self.ask_key(LOG, command, Access::Write, after(INSPECTION_DEADLINE)).await?;
        let Reply::Array(parts) = reply else { return Err(too_late()) };
        let [Reply::BulkString(cursor), Reply::Int(removed)] = &parts[..] else {
            return Err(errors::unexpected("a script"));
        };
        let cursor = number(cursor).ok_or_else(|| errors::unexpected("SCAN"))?;
        let removed = removed.unsigned_abs();
        Ok(SweepPage { cursor, scanned: count as u64, removed, commands: COMMANDS_OF_PAGE })
    }

    /// Sweeps one page on one primary of a cluster.
    async fn sweep_keys_of_page(&self, ban: &Ban, cursor: u64, count: usize) -> Result<SweepPage> {
        let request = ScanRequest { cursor, pattern: Some(ban.glob.pattern().clone()), count, type_name: None };
        let page = self.scan_all(request).await?;
        let units: Vec<Unit> = page.keys.iter().map(|key| Unit::single(key, self.sweeping(ban, key))).collect();
        let commands = 1 + units.len() as u64 * COMMANDS_OF_KEY;
        let mut removed = 0;
        for answer in self.ask_units(units, Access::Write, after(INSPECTION_DEADLINE)).await {
            let reply = answer?.replies.pop().ok_or_else(|| errors::unexpected("a script"))?;
            removed += u64::try_from(ops::integer(&ops::checked(reply)?, "a script")?).map_err(|_| too_late())?;
        }
        Ok(SweepPage { cursor: page.cursor, scanned: count as u64, removed, commands })
    }

    fn sweeping(&self, ban: &Ban, key: &Key) -> Cmd {
        let slot = slot(key);
        let note = self.note(ban.number, slot);
        let mut command = SWEEP_KEY.call_with(By::Text, [note.as_bytes(), &key[..]].into_iter());
        command.arg(self.sweep_ends(slot));
        command
    }

    /// Returns the time limit of pages on the primary of a slot.
    fn sweep_ends(&self, slot: u16) -> u64 {
        let source = self.redis.topology().map().of_slot(slot).map(|primary| primary.source);
        source.and_then(|source| self.sweep_until.lock().get(&source).copied()).unwrap_or(0)
    }

    /// Removes a ban from the log and lets its notes expire.
    pub(in crate::l2::redis) async fn retire_ban(&self, ban: u64) -> Result<()> {
        let mut command = ops::plain("HDEL", LOG);
        command.arg(ban);
        self.ask_log(command, Access::Write).await?;
        self.log().changed();
        self.look().await?;
        let slots = if self.is_spread() { SLOTS as u16 } else { 1 };
        let ends = (0..slots).map(|slot| {
            let note = self.note(ban, slot);
            let mut command = ops::plain("PEXPIRE", note.as_bytes());
            command.arg(NOTE_AFTER_BAN.as_millis() as u64);
            Unit::single(note.as_bytes(), command)
        });
        let mut units: Vec<Unit> = ends.collect();
        while !units.is_empty() {
            let later = units.split_off(units.len().min(NOTES_AT_ONCE));
            // If the request fails, the note expires by its original TTL.
            let _told = self.ask_units(units, Access::Write, after(INSPECTION_DEADLINE)).await;
            units = later;
        }
        Ok(())
    }

    /// Returns the number of commands that all primaries have processed since they started.
    pub(in crate::l2::redis) async fn total_commands(&self) -> Option<u64> {
        let mut command = word("INFO");
        command.arg("stats");
        let replies = self.inspect_all(command).await.ok()?;
        let total = |reply: Reply| -> Option<u64> {
            let text = ops::optional(reply, "INFO").ok()??.into_bytes();
            text.split(|byte| *byte == b'\n')
                .find_map(|line| line.strip_prefix(b"total_commands_processed:"))
                .and_then(|digits| number(digits.trim_ascii()))
        };
        replies.into_iter().map(total).sum()
    }
}

/// Decodes the reply of TIME in microseconds.
pub(in crate::l2::redis) fn time_us(reply: &Reply) -> Option<u64> {
    let Reply::Array(parts) = reply else { return None };
    let [Reply::BulkString(seconds), Reply::BulkString(micros)] = &parts[..] else { return None };
    Some(number(seconds)? * 1_000_000 + number(micros)?)
}

fn too_late() -> CacheError {
    CacheError::new(Kind::Unavailable, "the sweep page exceeded its time limit and will be repeated")
        .retry_after(LOOK_APART)
}
