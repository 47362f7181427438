//! Writes to a single primary that holds all keys: as a pipeline or as a MULTI. `spread` implements writes to several
//! primaries.

use std::sync::Arc;

use tokio::time::Instant;

use super::{pipelined_connection::Access, route::Unit};
use crate::{
    error::{Kind, Result},
    l2::{
        Applied, Ban, Batch, Op,
        redis::{
            command::{
                batch::{Replies, compile, executed, fail_all, read_all, transaction},
                errors,
                ops::{self, Reading},
                scripts::By,
            },
            worker::RedisBackend,
        },
    },
    model::Key,
};

impl RedisBackend {
    /// Applies operations, taking the open bans into account.
    pub(in crate::l2::redis) async fn apply_under(
        &self,
        ops: &[(Key, Op)],
        batch: Batch,
        open: &[Arc<Ban>],
        deadline: Instant,
    ) -> Vec<Result<Applied>> {
        match batch {
            _ if ops.is_empty() => Vec::new(),
            Batch::Atomic if self.is_spread() => self.apply_atomically_spread(ops, open, deadline).await,
            Batch::Atomic => self.apply_atomically(ops, open, deadline).await,
            Batch::Independent => {
                let results = if self.is_spread() {
                    self.apply_each_spread(ops, open, deadline).await
                } else {
                    self.apply_each(ops, open, deadline).await
                };
                self.behind_head(ops, results, deadline).await
            }
        }
    }

    /// INCRBY of Redis rejects a payload with a header as not a number: then a script that supports headers increments
    /// it.
    async fn behind_head(
        &self,
        ops: &[(Key, Op)],
        results: Vec<Result<Applied>>,
        deadline: Instant,
    ) -> Vec<Result<Applied>> {
        let is_no_number = |result: &Result<Applied>| matches!(result, Err(error) if error.kind() == Kind::NotANumber);
        let ([(key, op)], [result]) = (ops, &results[..]) else { return results };
        let Some((command, reading)) = ops::behind_head(key, op).filter(|_| is_no_number(result)) else {
            return results;
        };
        let mut answers = self.ask_units(vec![Unit::single(key, command)], Access::Write, deadline).await;
        let reply = answers.pop().and_then(|answer| answer.map(|mut answered| answered.replies.pop()).transpose());
        let reply = reply.unwrap_or_else(|| Err(errors::unexpected("a script")));
        vec![reply.and_then(|reply| ops::read(reading, reply))]
    }

    async fn apply_each(&self, ops: &[(Key, Op)], open: &[Arc<Ban>], deadline: Instant) -> Vec<Result<Applied>> {
        // Several operations must not be sent twice: a repeated operation would run after a later operation on the same
        // key.
        let by = if ops.len() == 1 { By::Digest } else { By::Text };
        let mut ran = self.run(ops, by, open, deadline).await;
        if by == By::Digest && matches!(&ran, Ok((_, replies)) if replies.iter().any(ops::is_unknown_script)) {
            ran = self.run(ops, By::Text, open, deadline).await;
        }
        match ran {
            Ok((readings, replies)) => read_all(readings, replies),
            Err(error) => fail_all(ops.len(), &error),
        }
    }

    async fn run(
        &self,
        ops: &[(Key, Op)],
        by: By,
        open: &[Arc<Ban>],
        deadline: Instant,
    ) -> Result<(Vec<Reading>, Replies)> {
        let (commands, readings) = compile(ops, by);
        let mut all = self.all_preparations(open, ops);
        let preparations = all.len();
        all.extend(commands);
        let replies = self.ask(all, Access::Write, deadline).await?;
        Ok((readings, without_head(replies, preparations)?))
    }

    async fn apply_atomically(&self, ops: &[(Key, Op)], open: &[Arc<Ban>], deadline: Instant) -> Vec<Result<Applied>> {
        let (inner, readings) = compile(ops, By::Text);
        let mut all = self.all_preparations(open, ops);
        let preparations = all.len();
        all.extend(transaction(inner));
        let asked =
            self.ask(all, Access::Write, deadline).await.and_then(|replies| without_head(replies, preparations));
        match asked.and_then(|replies| executed(replies, ops.len())) {
            Ok(replies) => read_all(readings, replies),
            Err(error) => fail_all(ops.len(), &error),
        }
    }
}

/// Removes the replies of the `count` commands before the writes; an error if one of these commands failed.
pub(super) fn without_head(mut replies: Replies, count: usize) -> Result<Replies> {
    replies.drain(..count).try_for_each(|reply| ops::checked(reply).map(drop))?;
    Ok(replies)
}
