//! Notes of the keys that were written since a ban, and the repair of writes during which a ban was opened.

use std::{collections::HashMap, sync::Arc};

use ::redis::{Cmd, Value as Reply};
use tokio::time::Instant;

use super::{
    mark::WRITE_LONGEST,
    records::{greatest_question, number},
};
use crate::{
    error::{CacheError, Kind, Result},
    l2::{
        Applied, Ban, Batch, Op, Turn,
        bans::{matching, overtaken},
        redis::{
            command::{
                batch::Commands,
                errors, ops,
                scripts::{By, CLEAR_BANNED},
            },
            requests::{deadline::after, pipelined_connection::Access, route::Unit},
            topology::slots::{TAGS, slot},
            worker::RedisBackend,
        },
    },
    model::Key,
};

impl RedisBackend {
    /// Returns the key of the set that notes the keys written since a ban.
    pub(in crate::l2::redis) fn note(&self, ban: u64, slot: u16) -> String {
        match self.is_spread() {
            true => format!("__terrace:fresh:{ban}:{{{}}}", TAGS[usize::from(slot)]),
            false => format!("__terrace:fresh:{ban}"),
        }
    }

    /// Returns the queries for the notes of a key, one per matching ban.
    pub(in crate::l2::redis) fn note_questions(&self, open: &[Arc<Ban>], key: &[u8]) -> Commands {
        let questions = matching(open, key).map(|ban| {
            let mut command = ops::plain("SISMEMBER", self.note(ban.number, slot(key)).as_bytes());
            command.arg(key);
            command
        });
        questions.collect()
    }

    /// Returns the script that removes a value from before the matching bans and notes the key; `None` if no ban
    /// matches.
    pub(in crate::l2::redis) fn clearing(&self, open: &[Arc<Ban>], key: &[u8]) -> Option<Cmd> {
        let notes: Vec<String> = matching(open, key).map(|ban| self.note(ban.number, slot(key))).collect();
        if notes.is_empty() {
            return None;
        }
        Some(CLEAR_BANNED.call_with(By::Text, std::iter::once(key).chain(notes.iter().map(String::as_bytes))))
    }

    /// Returns the commands that must run before an operation on a key: the removal of a value from before a ban, and of
    /// the load lease.
    pub(in crate::l2::redis) fn preparations(&self, open: &[Arc<Ban>], key: &Key, op: &Op) -> Commands {
        self.clearing(open, key).into_iter().chain(self.forgetting_for(key, op)).collect()
    }

    /// Returns the commands that must run before the operations.
    pub(in crate::l2::redis) fn all_preparations(&self, open: &[Arc<Ban>], ops: &[(Key, Op)]) -> Commands {
        ops.iter().flat_map(|(key, op)| self.preparations(open, key, op)).collect()
    }

    /// Returns the query that must accompany a write request for this key on a connection that is not pipelined.
    pub(in crate::l2::redis) fn question_for(&self, key: &[u8]) -> Vec<u8> {
        let map = self.redis.topology().map();
        let source = map.of_key(key).map(|primary| primary.source);
        greatest_question(source.and_then(|source| map.stamp(source))).get_packed_command()
    }

    /// Processes the reply to that query, with [`RedisBackend::catch_up`] if a newer ban exists.
    pub(in crate::l2::redis) async fn after_question(
        &self,
        known: u64,
        answer: &[u8],
        keys: &[Key],
    ) -> Result<HashMap<Key, bool>> {
        // The answer is `$N\r\nDIGITS\r\n` or nil.
        let digits = answer.split(|byte| *byte == b'\n').nth(1).map(<[u8]>::trim_ascii_end);
        self.log().saw(digits.and_then(number).unwrap_or(0));
        if !self.has_newer_ban(known) {
            return Ok(HashMap::new());
        }
        self.catch_up(known, None, keys, after(self.tunables().deadlines().write)).await
    }

    /// Removes the values from before the open bans and notes the keys.
    pub(in crate::l2::redis) async fn clear_keys(&self, keys: &[Key]) -> Result<u64> {
        let known = self.bans().await?;
        let units = keys.iter().flat_map(|key| {
            let commands = self.clearing(known.open(), key).into_iter().chain(self.forgetting(key));
            commands.map(|command| Unit::single(key, command))
        });
        let units: Vec<Unit> = units.collect();
        if units.is_empty() {
            return Ok(known.greatest);
        }
        let deadline = after(self.tunables().deadlines().write);
        for answer in self.ask_units(units, Access::Write, deadline).await {
            answer?.replies.into_iter().try_for_each(|reply| ops::checked(reply).map(drop))?;
        }
        Ok(known.greatest)
    }

    /// Repairs the results of operations during which an unknown ban was opened: repeats the writes whose values were
    /// removed.
    pub(in crate::l2::redis) async fn apply_late(
        &self,
        ops: Vec<(Key, Op)>,
        batch: Batch,
        mut results: Vec<Result<Applied>>,
        (known, begun): (u64, Instant),
        deadline: Instant,
    ) -> Vec<Result<Applied>> {
        let keys: Vec<Key> = ops.iter().map(|(key, _)| key.clone()).collect();
        let cleared = match self.catch_up(known, Some(begun), &keys, deadline).await {
            Ok(cleared) => cleared,
            Err(_) => return results.into_iter().map(|result| result.and_then(|_| Err(overtaken()))).collect(),
        };
        let is_open = |at: &usize| !matches!(&results[*at], Err(error) if is_inconclusive(error));
        let again: Vec<usize> = match batch {
            Batch::Independent => {
                (0..ops.len()).filter(is_open).filter(|at| cleared.get(&keys[*at]) == Some(&true)).collect()
            }
            // All or nothing: if other clients have written some of the keys already, the outcome is unknown.
            Batch::Atomic if cleared.values().all(|gone| *gone) && !cleared.is_empty() => (0..ops.len()).collect(),
            Batch::Atomic => Vec::new(),
        };
        for at in 0..ops.len() {
            // A removal has the same result whatever value the key had.
            let is_removal = matches!(ops[at].1, Op::Delete { want_old: false } | Op::Bury { .. });
            let depends = !is_removal && (batch == Batch::Atomic || ops[at].1.depends_on_present());
            let is_doubtful = depends && cleared.get(&keys[at]) == Some(&false);
            if is_doubtful && results[at].is_ok() {
                results[at] = Err(overtaken());
            }
        }
        let repeated: Vec<(Key, Op)> = again.iter().map(|&at| ops[at].clone()).collect();
        let open = self.log().open.all().unwrap_or_default();
        for (at, result) in again.iter().zip(self.apply_under(&repeated, batch, &open, deadline).await) {
            results[*at] = result;
        }
        results
    }

    /// Returns the keys whose values were written after the bans.
    pub(in crate::l2::redis) async fn unhidden(
        &self,
        open: &[Arc<Ban>],
        keys: Vec<Key>,
        deadline: Instant,
    ) -> Result<Vec<Key>> {
        let (mut suspects, mut shown, mut turn) = (Vec::new(), Vec::new(), Turn::begin());
        for key in keys {
            let is_suspect = matching(open, &key).next().is_some();
            if is_suspect { &mut suspects } else { &mut shown }.push(key);
            turn.pause().await;
        }
        let units = suspects.iter().map(|key| Unit::queries(key, self.note_questions(open, key))).collect();
        let answers = self.ask_units(units, Access::Read, deadline).await;
        for (key, answer) in suspects.into_iter().zip(answers) {
            if answer?.replies.iter().all(is_noted) {
                shown.push(key);
            }
        }
        Ok(shown)
    }

    /// Returns true if a newer ban is known to exist than at the beginning of a call.
    pub(in crate::l2::redis) fn has_newer_ban(&self, known: u64) -> bool {
        self.log().greatest_seen() > known
    }

    /// Reads the log after writes during which a ban was opened, and clears the keys that match bans opened since
    /// `known`, in a call that began at `begun`. For each key that matches such a ban, the result is true if its value was removed, so that the write
    /// must be repeated.
    pub(in crate::l2::redis) async fn catch_up(
        &self,
        known: u64,
        begun: Option<Instant>,
        keys: &[Key],
        deadline: Instant,
    ) -> Result<HashMap<Key, bool>> {
        self.look().await?;
        let open = self.log().open.all().unwrap_or_default();
        let new: Vec<Arc<Ban>> = open.iter().filter(|ban| ban.number > known).cloned().collect();
        // A write that removed no load lease may have overtaken a fill, unless it ended before any lease was fenced.
        let is_late = self.log().mark().is_some_and(|mark| mark.number > known)
            && begun.is_none_or(|begun| begun.elapsed() > WRITE_LONGEST);
        if is_late {
            return Err(overtaken());
        }
        let marks = u64::from(self.log().mark().is_some_and(|mark| mark.number > known));
        if new.len() as u64 + marks != self.log().known().saturating_sub(known) {
            // One of the bans is closed already, and its pattern is unknown.
            return Err(overtaken());
        }
        let mut cleared: HashMap<Key, bool> = HashMap::new();
        let (mut matched, mut units) = (Vec::new(), Vec::new());
        for key in keys {
            if !matched.contains(&key)
                && let Some(clearing) = self.clearing(&new, key)
            {
                matched.push(key);
                units.push(Unit::single(key, clearing));
            }
        }
        for (key, answer) in matched.into_iter().zip(self.ask_units(units, Access::Write, deadline).await) {
            let reply = answer?.replies.pop().ok_or_else(|| errors::unexpected("a script"))?;
            cleared.insert(key.clone(), ops::integer(&ops::checked(reply)?, "a script")? == 1);
        }
        Ok(cleared)
    }
}

/// Returns true if nothing was written, or if the outcome is unknown.
fn is_inconclusive(error: &CacheError) -> bool {
    error.says_away() || error.kind() == Kind::Unknown
}

/// Decodes the reply to one of [`RedisBackend::note_questions`]. A reply of another type counts as no note.
pub(crate) fn is_noted(reply: &Reply) -> bool {
    matches!(reply, Reply::Int(1))
}
