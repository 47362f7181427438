//! Operations on keys that are distributed over several primaries: the commands of each key become a [`Unit`], which
//! `route` sends.

use std::{sync::Arc, time::Duration};

use ::redis::Cmd;
use tokio::time::Instant;

use super::{
    apply::without_head,
    pipelined_connection::Access,
    route::{Answered, Unit},
};
use crate::{
    error::Result,
    l2::{
        Applied, Ban, Op, Stored, Turn,
        redis::{
            bans::notes::is_noted,
            command::{
                batch::{Commands, Replies, fail_all, read_all},
                errors,
                ops::{self, Reading},
                read,
                scripts::By,
            },
            topology::slots::slot,
            worker::RedisBackend,
        },
    },
    model::{Key, Life},
};

impl RedisBackend {
    /// Sends queries about keys, one unit per key; returns `None` for keys that open bans hide.
    pub(in crate::l2::redis) async fn ask_each(
        &self,
        keys: &[Key],
        questions: Commands,
        open: &[Arc<Ban>],
        deadline: Instant,
    ) -> Vec<Result<Option<Answered>>> {
        let each = questions.len() / keys.len().max(1);
        let mut questions = questions.into_iter();
        let (mut units, mut turn) = (Vec::with_capacity(keys.len()), Turn::begin());
        for key in keys {
            let mut commands = self.note_questions(open, key);
            commands.extend(questions.by_ref().take(each));
            units.push(Unit::queries(key, commands));
            if !open.is_empty() {
                turn.pause().await;
            }
        }
        let answers = self.ask_units(units, Access::Read, deadline).await;
        let without_notes = |answer: Result<Answered>| {
            let mut answered = answer?;
            let mut notes = answered.replies.drain(..answered.replies.len() - each);
            let is_hidden = !notes.all(|note| is_noted(&note));
            drop(notes);
            Ok((!is_hidden).then_some(answered))
        };
        answers.into_iter().map(without_notes).collect()
    }

    pub(in crate::l2::redis) async fn apply_each_spread(
        &self,
        ops: &[(Key, Op)],
        open: &[Arc<Ban>],
        deadline: Instant,
    ) -> Vec<Result<Applied>> {
        let (units, readings): (Vec<Unit>, Vec<Reading>) = ops
            .iter()
            .map(|(key, op)| {
                let (command, reading) = ops::command(key, op, By::Text, ops.len() == 1);
                (self.write_unit(key, op, command, open), reading)
            })
            .unzip();
        let answers = self.ask_units(units, Access::Write, deadline).await;
        let read = |(reading, answer): (Reading, Result<Answered>)| {
            let mut replies = of_writes(answer?.replies, 1)?;
            ops::read(reading, replies.pop().ok_or_else(|| errors::unexpected("a command"))?)
        };
        readings.into_iter().zip(answers).map(read).collect()
    }

    /// Returns the unit of one write. While a ban is open, the value from before the ban is removed in the same
    /// transaction: during a slot migration the two commands can be redirected independently. The load lease is removed
    /// before.
    fn write_unit(&self, key: &Key, op: &Op, write: Cmd, open: &[Arc<Ban>]) -> Unit {
        let unit = match self.clearing(open, key) {
            Some(clearing) => Unit::transaction(slot(key), vec![clearing, write]),
            None => Unit::single(key, write),
        };
        unit.prepared_by(self.forgetting_for(key, op).into_iter().collect())
    }

    /// Applies the operations of each slot atomically; a cluster has no transactions over several primaries.
    pub(in crate::l2::redis) async fn apply_atomically_spread(
        &self,
        ops: &[(Key, Op)],
        open: &[Arc<Ban>],
        deadline: Instant,
    ) -> Vec<Result<Applied>> {
        let mut slots: Vec<(u16, Vec<usize>)> = Vec::new();
        for (at, (key, _)) in ops.iter().enumerate() {
            let slot = slot(key);
            match slots.iter_mut().find(|(known, _)| *known == slot) {
                Some((_, places)) => places.push(at),
                None => slots.push((slot, vec![at])),
            }
        }
        let mut readings = Vec::with_capacity(slots.len());
        let units = slots.iter().map(|(slot, places)| {
            let (inner, read): (Commands, Vec<Reading>) =
                places.iter().map(|&at| ops::command(&ops[at].0, &ops[at].1, By::Text, false)).unzip();
            readings.push(read);
            let clearings = places.iter().filter_map(|&at| self.clearing(open, &ops[at].0));
            let forgettings = places.iter().filter_map(|&at| self.forgetting_for(&ops[at].0, &ops[at].1));
            Unit::transaction(*slot, clearings.chain(inner).collect()).prepared_by(forgettings.collect())
        });
        let units = units.collect();
        let mut results: Vec<Option<Result<Applied>>> = ops.iter().map(|_| None).collect();
        let answers = self.ask_units(units, Access::Write, deadline).await;
        for (((_, places), read), answer) in slots.iter().zip(readings).zip(answers) {
            let applied = match answer.and_then(|answered| of_writes(answered.replies, places.len())) {
                Ok(replies) => read_all(read, replies),
                Err(error) => fail_all(places.len(), &error),
            };
            places.iter().zip(applied).for_each(|(&at, applied)| results[at] = Some(applied));
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(errors::unexpected("EXEC")))).collect()
    }
}

/// Returns the last `writes` replies of a unit, as [`without_head`].
fn of_writes(replies: Replies, writes: usize) -> Result<Replies> {
    let head = replies.len().saturating_sub(writes);
    without_head(replies, head)
}

/// Decodes the replies to a unit of [`read::part_questions`], as [`read_one`].
pub(crate) fn read_part(answered: Answered, part_max: usize, value_max: usize) -> Option<Result<Option<Stored>>> {
    let read = read::parts(answered.replies, part_max, value_max).pop().unwrap_or(Some(Ok(None)))?;
    Some(read.map(|stored| kept_briefly(stored, answered.by_ask)))
}

/// Decodes the replies to a unit of [`read::questions`]. A value read through ASK gets the TTL 0, so that no caller
/// keeps it.
pub(crate) fn read_one(answered: Answered, with_life: bool, value_max: usize) -> Result<Option<Stored>> {
    let stored = read::answers(answered.replies, with_life, value_max).pop().unwrap_or(Ok(None))?;
    Ok(kept_briefly(stored, answered.by_ask))
}

fn kept_briefly(mut stored: Option<Stored>, by_ask: bool) -> Option<Stored> {
    if let Some(stored) = stored.as_mut().filter(|_| by_ask) {
        stored.life = Life::For(Duration::ZERO);
    }
    stored
}
