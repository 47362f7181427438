//! The operations of [`Backend`] on Redis.

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all, try_join_all};
use tokio::time::Instant;

use super::{
    command::{
        batch::{Commands, Replies, fail_all, word},
        read::{self, Look},
    },
    connection::passthrough::RawConnection,
    requests::{
        circuit_breaker::CircuitBreaker,
        deadline::{INSPECTION_DEADLINE, after},
        pipelined_connection::Access,
        route::Answered,
        spread,
    },
    worker::RedisBackend,
};
use crate::{
    error::Result,
    l2::{Applied, Backend, Batch, Described, Flavor, Health, Op, ScanPage, ScanRequest, Source, State, Stored},
    model::Key,
};

/// Deadline of FLUSHDB ASYNC.
const CLEAR_DEADLINE: Duration = Duration::from_secs(10);

impl RedisBackend {
    /// Reads the values of keys. `one` decodes the replies for a key that was asked alone, `all` those of one pipeline for all
    /// keys.
    async fn read_values<T: From<Result<Option<Stored>>>>(
        &self,
        keys: &[Key],
        questions: Commands,
        one: impl Fn(Answered) -> T,
        all: impl FnOnce(Replies) -> Vec<T>,
    ) -> Vec<T> {
        if keys.is_empty() {
            return Vec::new();
        }
        let fail = |error| fail_all(keys.len(), &error).into_iter().map(T::from).collect();
        let deadline = after(self.tunables().deadlines().read);
        let known = match self.bans().await {
            Ok(known) => known,
            Err(error) => return fail(error),
        };
        if self.is_spread() || known.open.is_some() {
            let answers = self.ask_each(keys, questions, known.open(), deadline).await;
            let read = |answer: Result<Option<Answered>>| match answer {
                Ok(Some(answered)) => one(answered),
                Ok(None) => T::from(Ok(None)),
                Err(error) => T::from(Err(error)),
            };
            return answers.into_iter().map(read).collect();
        }
        self.ask(questions, Access::Read, deadline).await.map_or_else(fail, all)
    }
}

impl Backend for RedisBackend {
    fn flavor(&self) -> Flavor {
        Flavor::Redis
    }

    fn get<'a>(&'a self, keys: &'a [Key], with_life: bool) -> BoxFuture<'a, Vec<Result<Option<Stored>>>> {
        Box::pin(async move {
            let value_max = self.tunables().value_max();
            let one = |answered: Answered| spread::read_one(answered, with_life, value_max);
            let all = |replies| read::answers(replies, with_life, value_max);
            self.read_values(keys, read::questions(keys, with_life), one, all).await
        })
    }

    fn get_within<'a>(
        &'a self,
        keys: &'a [Key],
        part_max: usize,
    ) -> BoxFuture<'a, Vec<Option<Result<Option<Stored>>>>> {
        Box::pin(async move {
            let value_max = self.tunables().value_max();
            let one = |answered: Answered| spread::read_part(answered, part_max, value_max);
            let all = |replies| read::parts(replies, part_max, value_max);
            self.read_values(keys, read::part_questions(keys, part_max), one, all).await
        })
    }

    fn apply<'a>(&'a self, ops: Vec<(Key, Op)>, batch: Batch) -> BoxFuture<'a, Vec<Result<Applied>>> {
        Box::pin(async move {
            // One command is atomic by itself.
            let batch = if ops.len() > 1 { batch } else { Batch::Independent };
            let begun = Instant::now();
            let deadline = begun + self.tunables().deadlines().write;
            let known = match self.bans().await {
                Ok(known) => known,
                Err(error) => return fail_all(ops.len(), &error),
            };
            let results = self.apply_under(&ops, batch, known.open(), deadline).await;
            if !self.has_newer_ban(known.greatest) {
                return results;
            }
            self.apply_late(ops, batch, results, (known.greatest, begun), deadline).await
        })
    }

    fn describe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Option<Described>>>> {
        Box::pin(async move {
            if keys.is_empty() {
                return Vec::new();
            }
            let deadline = after(self.tunables().deadlines().read);
            let known = match self.bans().await {
                Ok(known) => known,
                Err(error) => return fail_all(keys.len(), &error),
            };
            let mut described = self.describe_with(keys, Look::Mark, known.open(), deadline).await;
            // Headers are rare, so a second query reads the bytes of a header only for values that start with the magic
            // bytes. It repeats all fields, because the entry may have changed meanwhile.
            let is_marked = |at: &usize| matches!(&described[*at], Ok(Some(known)) if !known.head.is_empty());
            let marked: Vec<usize> = (0..keys.len()).filter(is_marked).collect();
            if !marked.is_empty() {
                let keys: Vec<Key> = marked.iter().map(|&at| keys[at].clone()).collect();
                let again = self.describe_with(&keys, Look::Head, known.open(), deadline).await;
                marked.into_iter().zip(again).for_each(|(at, again)| described[at] = again);
            }
            described
        })
    }

    fn scan(&self, request: ScanRequest) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move {
            let known = self.bans().await?;
            let mut page = self.scan_all(request).await?;
            if let Some(open) = &known.open {
                page.keys = self.unhidden(open, page.keys, after(INSPECTION_DEADLINE)).await?;
            }
            Ok(page)
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let deadline = after(INSPECTION_DEADLINE);
            let groups = self.all_groups()?;
            let counts = try_join_all(groups.iter().map(|group| self.count_shown(group, deadline))).await?;
            Ok(counts.into_iter().sum())
        })
    }

    fn random_key(&self) -> BoxFuture<'_, Result<Option<Key>>> {
        Box::pin(async move {
            let deadline = after(INSPECTION_DEADLINE);
            let known = self.bans().await?;
            let mut groups = self.all_groups()?;
            // A primary may be empty; then the next primary is queried.
            fastrand::shuffle(&mut groups);
            for group in groups {
                if let Some(key) = self.random_key_of(&group, known.open(), deadline).await? {
                    return Ok(Some(key));
                }
            }
            Ok(None)
        })
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            // ASYNC replaces the database with an empty one immediately and frees the previous one in the background:
            // readers see the same result, and Redis is not blocked while memory is freed. Terrace's own records are
            // removed, too, which never makes a value valid again. The ban log is restored, because its numbers go on.
            let mut command = word("FLUSHDB");
            command.arg("ASYNC");
            let deadline = after(CLEAR_DEADLINE);
            // Fails if Redis is unavailable, which the flush reports, or if no ban can exist.
            let _known = self.look().await;
            let groups = self.all_groups()?;
            let asked = groups.iter().map(|group| group.ask_one(command.clone(), Access::Write, deadline));
            let flushed = join_all(asked).await.into_iter().try_for_each(|reply| reply.map(drop));
            self.keep_log_after_flush().await;
            flushed
        })
    }

    fn source(&self, key: &[u8]) -> Source {
        self.redis.topology().map().of_key(key).map_or(Source::ONLY, |primary| primary.source)
    }

    fn raw_connection<'a>(&'a self, key: Option<&'a [u8]>, resp3: bool) -> BoxFuture<'a, Result<RawConnection>> {
        Box::pin(async move {
            let endpoint = {
                let map = self.redis.topology().map();
                let primary = match key {
                    Some(key) => map.of_key(key),
                    None => map.primaries.first(),
                };
                primary.map(|primary| primary.endpoint.clone()).ok_or_else(|| self.no_primary())?
            };
            self.raw_pool.connection(&endpoint, resp3).await
        })
    }

    fn raw_connections(&self, resp3: bool) -> BoxFuture<'_, Result<Vec<RawConnection>>> {
        Box::pin(async move {
            let endpoints: Vec<_> = {
                let map = self.redis.topology().map();
                map.primaries.iter().map(|primary| primary.endpoint.clone()).collect()
            };
            if endpoints.is_empty() {
                return Err(self.no_primary());
            }
            try_join_all(endpoints.iter().map(|endpoint| self.raw_pool.connection(endpoint, resp3))).await
        })
    }

    fn state(&self) -> State {
        self.connect();
        let states: Vec<State> = self.groups.lock().of.iter().map(|group| group.state()).collect();
        let worst = states.iter().find(|state| matches!(state, State::Down(_)));
        worst
            .or_else(|| states.iter().find(|state| **state == State::Connecting))
            .or(states.first())
            .cloned()
            .unwrap_or(State::Connecting)
    }

    fn reached(&self) -> bool {
        self.groups.lock().of.iter().any(|group| group.reached())
    }

    fn health(&self) -> Health {
        let map = self.redis.topology().map();
        let breakers = || map.primaries.iter().map(|primary| &primary.breaker);
        Health {
            primaries: map.primaries.len(),
            breakers_open: breakers().filter(|breaker| breaker.is_open()).count(),
            breaker_opened: breakers().map(CircuitBreaker::times_opened).sum(),
            damage: 0,
            deadlines: Some(self.tunables().deadlines()),
        }
    }
}
