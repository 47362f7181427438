//! Requests outside the request path: scans, random keys, descriptions, and one command to all primaries.

use std::sync::Arc;

use ::redis::{Cmd, Value as Reply};
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::{
    deadline::{INSPECTION_DEADLINE, after},
    group::ConnectionGroup,
    pipelined_connection::Access,
    route::Answered,
};
use crate::{
    error::{CacheError, Kind, Result},
    glob::Glob,
    l2::{
        Ban, Described, ScanPage, ScanRequest, Turn,
        redis::{
            command::{
                batch::{fail_all, word},
                ops,
                read::{self, Look},
            },
            worker::RedisBackend,
        },
    },
    model::Key,
};

/// Number of RANDOMKEY commands in the second attempt, which follows if the first key was one of Terrace's own records
/// or hidden by a ban.
const RANDOM_TRIES: usize = 32;
/// Bits of a SCAN cursor over several primaries that identify the current primary.
const CURSOR_SOURCE_BITS: u32 = 7;

impl RedisBackend {
    /// Sends one command to every primary. Not for request paths, because the deadline is long.
    pub(in crate::l2::redis) async fn inspect_all(&self, command: Cmd) -> Result<Vec<Reply>> {
        let deadline = after(INSPECTION_DEADLINE);
        let groups = self.all_groups()?;
        let asked = groups.iter().map(|group| group.ask_one(command.clone(), Access::Read, deadline));
        try_join_all(asked).await
    }

    /// Returns one page of keys, including keys that bans hide. Several primaries are scanned one after another; a key
    /// that moves between primaries meanwhile may be missed or returned twice, as with any client of a cluster.
    ///
    /// Redis receives only patterns that it compares fast ([`Glob::for_redis`]); the others are compared here.
    pub(in crate::l2::redis) async fn scan_all(&self, mut request: ScanRequest) -> Result<ScanPage> {
        let deadline = after(INSPECTION_DEADLINE);
        let glob = request.pattern.as_deref().map(Glob::new).transpose()?;
        let (sent, is_same) = glob.as_ref().map_or((None, true), |glob| {
            let (pattern, is_same) = glob.for_redis();
            (Some(pattern).filter(|pattern| pattern != &b"*"[..]), is_same)
        });
        request.pattern = sent;
        let mut page = self.scan_as_sent(request, deadline).await?;
        if let Some(glob) = glob.filter(|_| !is_same) {
            page.keys = matching(page.keys, &glob, deadline).await?;
        }
        Ok(page)
    }

    async fn scan_as_sent(&self, request: ScanRequest, deadline: Instant) -> Result<ScanPage> {
        if !self.is_spread() {
            let group = self.only().ok_or_else(|| self.no_primary())?;
            return read::page(group.ask_one(read::scan_question(&request), Access::Read, deadline).await?);
        }
        let wanted = (request.cursor & ((1 << CURSOR_SOURCE_BITS) - 1)) as usize;
        let mut later = self.all_groups()?.into_iter().filter(|group| group.primary.source.index() >= wanted);
        let Some(group) = later.next() else { return Ok(ScanPage::default()) };
        let source = group.primary.source.index();
        let cursor = if source == wanted { request.cursor >> CURSOR_SOURCE_BITS } else { 0 };
        let question = read::scan_question(&ScanRequest { cursor, ..request });
        let mut page = read::page(group.ask_one(question, Access::Read, deadline).await?)?;
        page.cursor = match (page.cursor, later.next()) {
            (0, None) => 0,
            (0, Some(next)) => next.primary.source.index() as u64,
            (inner, _) => inner << CURSOR_SOURCE_BITS | source as u64,
        };
        Ok(page)
    }

    /// Returns a random key of one primary that no open ban hides.
    pub(in crate::l2::redis) async fn random_key_of(
        &self,
        group: &ConnectionGroup,
        open: &[Arc<Ban>],
        deadline: Instant,
    ) -> Result<Option<Key>> {
        for tries in [1, RANDOM_TRIES] {
            let commands = (0..tries).map(|_| word("RANDOMKEY")).collect();
            let mut found = Vec::new();
            for reply in group.ask(commands, Access::Read, deadline).await? {
                let Some(key) = ops::optional(ops::checked(reply)?, "RANDOMKEY")? else { return Ok(None) };
                found.extend(read::shown(key));
            }
            if let Some(key) = self.unhidden(open, found, deadline).await?.into_iter().next() {
                return Ok(Some(key));
            }
        }
        // Nearly all keys are Terrace's own records, or hidden by a ban.
        Ok(None)
    }

    /// Describes keys; `look` determines how much of their values is read.
    pub(in crate::l2::redis) async fn describe_with(
        &self,
        keys: &[Key],
        look: Look,
        open: &[Arc<Ban>],
        deadline: Instant,
    ) -> Vec<Result<Option<Described>>> {
        let questions = read::description_questions(keys, look);
        if self.is_spread() || !open.is_empty() {
            let answers = self.ask_each(keys, questions, open, deadline).await;
            let one = |answer: Result<Option<Answered>>| match answer? {
                Some(answered) => read::descriptions(answered.replies, look).pop().unwrap_or(Ok(None)),
                None => Ok(None),
            };
            return answers.into_iter().map(one).collect();
        }
        match self.ask(questions, Access::Read, deadline).await {
            Ok(replies) => read::descriptions(replies, look),
            Err(error) => fail_all(keys.len(), &error),
        }
    }
}

/// Returns the keys that match.
async fn matching(keys: Vec<Key>, glob: &Glob, deadline: Instant) -> Result<Vec<Key>> {
    let (mut found, mut turn) = (Vec::new(), Turn::begin());
    for key in keys {
        if glob.matches(&key) {
            found.push(key);
        }
        turn.pause().await;
        if Instant::now() > deadline {
            let message = format!("comparing a page of keys with the pattern took longer than {INSPECTION_DEADLINE:?}");
            return Err(CacheError::new(Kind::DeadlineExceeded, message));
        }
    }
    Ok(found)
}
