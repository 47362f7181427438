//! Several commands as one pipeline or one transaction, and their replies.

use ::redis::{Cmd, Value as Reply};

use super::{
    errors,
    ops::{self, Reading},
    scripts::By,
};
use crate::{
    error::{CacheError, Result},
    l2::{Applied, Op},
    model::Key,
};

/// The commands of one call; nearly always one or two. (Inline storage costs 9 % more, because a call is moved often.)
pub(crate) type Commands = Vec<Cmd>;
/// The replies to [`Commands`], in order, including error replies.
pub(crate) type Replies = Vec<Reply>;

/// Wraps commands in MULTI and EXEC.
pub(crate) fn transaction(inner: Commands) -> Commands {
    let mut commands = Commands::with_capacity(inner.len() + 2);
    commands.push(word("MULTI"));
    commands.extend(inner);
    commands.push(word("EXEC"));
    commands
}

/// Decodes the replies to operations.
pub(crate) fn read_all(readings: Vec<Reading>, replies: impl IntoIterator<Item = Reply>) -> Vec<Result<Applied>> {
    readings.into_iter().zip(replies).map(|(reading, reply)| ops::read(reading, reply)).collect()
}

/// Returns the replies inside the reply of EXEC, which is the last one, or the first error reply if the transaction did
/// not run.
pub(crate) fn executed(mut replies: Replies, count: usize) -> Result<Replies> {
    match replies.pop() {
        Some(Reply::Array(inner)) if inner.len() == count => return Ok(inner),
        last => replies.extend(last),
    }
    // EXECABORT comes last and only reports that an earlier command was rejected.
    let is_error =
        |reply: &Reply| if let Reply::ServerError(error) = reply { Some(errors::from_reply(error)) } else { None };
    Err(replies.iter().find_map(is_error).unwrap_or_else(|| errors::unexpected("EXEC")))
}

/// Encodes operations as commands; the result includes the decoder of each reply.
pub(crate) fn compile(ops: &[(Key, Op)], by: By) -> (Commands, Vec<Reading>) {
    ops.iter().map(|(key, op)| ops::command(key, op, by, ops.len() == 1)).unzip()
}

/// Returns the same error for each of `count` operations.
pub(crate) fn fail_all<T>(count: usize, error: &CacheError) -> Vec<Result<T>> {
    (0..count).map(|_| Err(error.clone())).collect()
}

/// Returns a command without arguments.
pub(crate) fn word(name: &str) -> Cmd {
    let mut command = Cmd::with_capacity(1, name.len());
    command.arg(name);
    command
}
