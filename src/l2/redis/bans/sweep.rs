//! The sweep of a ban: one node at a time removes hidden keys page by page, each page within a time limit.
//!
//! One server looks for the keys, compares them with the notes and removes them in one script, so that nothing but counts
//! travels. In a cluster notes lie in the slots of their keys, whose names no script can compute: there the keys of a page are
//! fetched and each is removed by itself.

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
                scripts::{By, KEEP_SWEEP, SWEEP_KEY, SWEEP_PAGE},
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

/// How long a note outlives its ban: nodes that have not heard of the end still look for it, and a page of a sweep that is
/// late, but not too late, as well.
const NOTE_AFTER_BAN: Duration = Duration::from_secs(10);
/// A sweeper that is not heard of for this long has died.
const SWEEPER_LIFE: Duration = Duration::from_secs(5);
/// How long after the sweeper was heard of a page may still be swept, by the clock of the server that does it. Less than the
/// sweeper's life: what was held up until another sweeper has retired the ban finds no notes, and must do nothing.
const PAGE_WITHIN: Duration = Duration::from_secs(4);
/// Keys of a page of a sweep while others use Redis: some 80 us, as long as a few of their own commands ...
const PAGE_YIELDING: usize = 50;
/// ... and while nobody does: some 3 ms.
const PAGE_FULL: usize = 2_000;
/// What Redis counts for a page: the script, TIME, SCAN, SMISMEMBER and UNLINK in it, the question behind it ...
const COMMANDS_OF_PAGE: u64 = 6;
/// ... and for a key in a cluster: all of these but SCAN.
const COMMANDS_OF_KEY: u64 = 5;
/// Notes whose end is told in one go.
const NOTES_AT_ONCE: usize = 1_024;

impl RedisBackend {
    /// Takes or keeps the right to sweep.
    pub(in crate::l2::redis) async fn keep_sweep(&self, ban: u64, token: u64) -> Result<bool> {
        // Before the claim, so that it is over before the claim is.
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

    /// Until when each primary may sweep a page, by its own clock, microseconds.
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
        match self.is_spread() {
            true => self.sweep_keys_of_page(ban, cursor, count).await,
            false => self.sweep_within_redis(ban, cursor, count).await,
        }
    }

    /// A page where one server holds all keys.
    async fn sweep_within_redis(&self, ban: &Ban, cursor: u64, count: usize) -> Result<SweepPage> {
        let mut command = SWEEP_PAGE.call(By::Text, self.note(ban.number, 0).as_bytes());
        command.arg(self.sweep_ends(0)).arg(cursor).arg(&ban.glob.pattern()[..]).arg(count).arg(RESERVED_PREFIX);
        let reply = self.ask_key(LOG, command, Access::Write, after(INSPECTION_DEADLINE)).await?;
        let Reply::Array(parts) = reply else { return Err(too_late()) };
        let [Reply::BulkString(cursor), Reply::Int(removed)] = &parts[..] else {
            return Err(errors::unexpected("a script"));
        };
        let cursor = number(cursor).ok_or_else(|| errors::unexpected("SCAN"))?;
        let removed = removed.unsigned_abs();
        Ok(SweepPage { cursor, scanned: count as u64, removed, commands: COMMANDS_OF_PAGE })
    }

    /// A page of one of a cluster's primaries.
    async fn sweep_keys_of_page(&self, ban: &Ban, cursor: u64, count: usize) -> Result<SweepPage> {
        let request = ScanRequest { cursor, pattern: Some(ban.glob.pattern().clone()), count, type_name: None };
        let page = self.scan_all(request).await?;
        let units: Vec<Unit> = page.keys.iter().map(|key| Unit::new(key, vec![self.sweeping(ban, key)])).collect();
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

    /// Until when a slot's primary may sweep.
    fn sweep_ends(&self, slot: u16) -> u64 {
        let source = self.redis.topology().map().of_slot(slot).map(|primary| primary.source);
        source.and_then(|source| self.sweep_until.lock().get(&source).copied()).unwrap_or(0)
    }

    /// Takes a ban out of the log; its notes go by themselves.
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
            Unit::new(note.as_bytes(), vec![command])
        });
        let mut units: Vec<Unit> = ends.collect();
        while !units.is_empty() {
            let later = units.split_off(units.len().min(NOTES_AT_ONCE));
            // A note that stays goes by its own expiry.
            let _told = self.ask_units(units, Access::Write, after(INSPECTION_DEADLINE)).await;
            units = later;
        }
        Ok(())
    }

    /// Commands that all primaries together have done since they started.
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

/// TIME's answer, microseconds.
fn time_us(reply: &Reply) -> Option<u64> {
    let Reply::Array(parts) = reply else { return None };
    let [Reply::BulkString(seconds), Reply::BulkString(micros)] = &parts[..] else { return None };
    Some(number(seconds)? * 1_000_000 + number(micros)?)
}

fn too_late() -> CacheError {
    CacheError::new(Kind::Unavailable, "the page of a sweep came too late; it is swept again").retry_after(LOOK_APART)
}
