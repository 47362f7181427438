//! Operations on keys that lie on several primaries: each key's commands become a [`Unit`], and `route` sends it.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    RedisBackend, after, errors, executed, fail_all,
    lane::{Access, Commands},
    ops::{self, Reading},
    read, read_all,
    route::{Answered, Unit},
    scripts::By,
    topology::slot,
    transaction,
};
use crate::{
    error::Result,
    l2::{Applied, Op, Stored},
    model::{Key, Life},
};

impl RedisBackend {
    /// In a cluster: each key's commands as a unit.
    pub(super) async fn ask_each(
        &self,
        keys: &[Key],
        commands: Commands,
        access: Access,
        deadline: Instant,
    ) -> Vec<Result<Answered>> {
        let each = commands.len() / keys.len().max(1);
        let mut commands = commands.into_iter();
        let units = keys.iter().map(|key| Unit::new(key, commands.by_ref().take(each).collect())).collect();
        self.ask_units(units, access, deadline).await
    }

    pub(super) async fn apply_each_spread(&self, ops: &[(Key, Op)], by: By) -> Vec<Result<Applied>> {
        let deadline = after(self.tunables().deadlines().write);
        let (units, readings): (Vec<Unit>, Vec<Reading>) = ops
            .iter()
            .map(|(key, op)| {
                let (command, reading) = ops::command(key, op, by);
                (Unit::new(key, vec![command]), reading)
            })
            .unzip();
        let answers = self.ask_units(units, Access::Write, deadline).await;
        let read = |(reading, answer): (Reading, Result<Answered>)| {
            let reply = answer?.replies.pop().ok_or_else(|| errors::unexpected("a command"))?;
            ops::read(reading, reply)
        };
        readings.into_iter().zip(answers).map(read).collect()
    }

    /// Each slot's operations happen at one instant; a cluster has no instant for several primaries.
    pub(super) async fn apply_atomically_spread(&self, ops: &[(Key, Op)]) -> Vec<Result<Applied>> {
        let deadline = after(self.tunables().deadlines().write);
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
                places.iter().map(|&at| ops::command(&ops[at].0, &ops[at].1, By::Text)).unzip();
            readings.push(read);
            Unit { slot: *slot, commands: transaction(inner) }
        });
        let units = units.collect();
        let mut results: Vec<Option<Result<Applied>>> = ops.iter().map(|_| None).collect();
        let answers = self.ask_units(units, Access::Write, deadline).await;
        for (((_, places), read), answer) in slots.iter().zip(readings).zip(answers) {
            let applied = match answer.and_then(|answered| executed(answered.replies, places.len())) {
                Ok(replies) => read_all(read, replies),
                Err(error) => fail_all(places.len(), &error),
            };
            places.iter().zip(applied).for_each(|(&at, applied)| results[at] = Some(applied));
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(errors::unexpected("EXEC")))).collect()
    }
}

/// What a unit of [`read::questions`] was answered. By way of ASK it lives 0: nobody may keep it.
pub(super) fn read_one(answered: Answered, with_life: bool, value_max: usize) -> Result<Option<Stored>> {
    let mut stored = read::answers(answered.replies, with_life, value_max).pop().unwrap_or(Ok(None))?;
    if let Some(stored) = stored.as_mut().filter(|_| answered.by_ask) {
        stored.life = Life::For(Duration::ZERO);
    }
    Ok(stored)
}
