//! The operations of [`BanStore`] on Redis.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::records::RETIRE_AFTER;
use crate::{
    error::Result,
    glob::Glob,
    l2::{Ban, BanStore, Effort, SweepPage, redis::worker::RedisBackend},
    model::Key,
};

impl BanStore for RedisBackend {
    fn ban(&self, glob: Glob) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { self.open_ban(&glob).await })
    }

    fn open_bans(&self) -> Arc<Vec<Arc<Ban>>> {
        self.redis.log().open.all().unwrap_or_default()
    }

    fn retire_after(&self) -> Duration {
        RETIRE_AFTER
    }

    fn claim_sweep(&self, ban: u64, token: u64) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.keep_sweep(ban, token))
    }

    fn sweep<'a>(&'a self, ban: &'a Ban, cursor: u64, effort: Effort) -> BoxFuture<'a, Result<SweepPage>> {
        Box::pin(self.sweep_page(ban, cursor, effort))
    }

    fn retire(&self, ban: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.retire_ban(ban))
    }

    fn clear_banned<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.clear_keys(keys))
    }

    fn ban_question(&self, key: &[u8]) -> Option<Vec<u8>> {
        Some(self.question_for(key))
    }

    fn ban_answer<'a>(
        &'a self,
        known: u64,
        answer: &'a [u8],
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<HashMap<Key, bool>>> {
        Box::pin(self.after_question(known, answer, keys))
    }

    fn commands_done(&self) -> BoxFuture<'_, Option<u64>> {
        Box::pin(self.total_commands())
    }
}
