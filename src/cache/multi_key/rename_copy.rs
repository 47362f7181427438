//! Atomic writes to several keys: RENAME, COPY, MSETNX.
//!
//! For a store that only this process writes, they are a lookup and a batch under the exclusive lock. With Redis they
//! are Redis's own commands, for any type of value.

use std::time::Duration;

use bytes::Bytes;

use super::passthrough;
use crate::{
    access::Verbs,
    cache::{
        Batch, Cache, Passing, Read, ReadOptions, TagNames,
        op::{Condition, Op, SetExpiry},
        tags_of,
    },
    clock::UnixMs,
    error::{CacheError, Kind, Result},
    l2::{Flavor, codec},
    model::{Key, Value},
};

/// Treatment of a target key that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Replace the target.
    Replace,
    /// Keep the target and do nothing.
    Keep,
}

/// The result of a RENAME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renamed {
    /// The key was renamed.
    Done,
    /// The source does not exist.
    NoSource,
    /// The target exists and `Target::Keep` was requested.
    TargetExists,
}

/// A value with its expiry.
struct Whole {
    value: Value,
    expiry: SetExpiry,
}

/// Script that sets keys if all of them are absent. KEYS; ARGV: value and TTL in milliseconds (or empty) of each key.
const SET_ALL: &[u8] = b"for i = 1, #KEYS do if redis.call('EXISTS', KEYS[i]) == 1 then return 0 end end
for i = 1, #KEYS do
  if ARGV[2 * i] == '' then redis.call('SET', KEYS[i], ARGV[2 * i - 1])
  else redis.call('SET', KEYS[i], ARGV[2 * i - 1], 'PX', ARGV[2 * i]) end
end
return 1";

impl Cache {
    /// Renames a key, including its expiry.
    ///
    /// # Errors
    /// As for reads and writes.
    pub async fn rename(&self, from: Key, to: Key, target: Target) -> Result<Renamed> {
        self.principal.check(Verbs::READ.with(Verbs::WRITE).with(Verbs::DELETE), &from)?;
        self.principal.check(Verbs::WRITE, &to)?;
        if self.core.flavor == Flavor::Redis {
            return self.rename_in_redis(from, to, target).await;
        }
        let (inside, _guard) = self.exclusive().await;
        let Some(whole) = inside.whole(&from).await? else { return Ok(Renamed::NoSource) };
        if target == Target::Keep && inside.exists(&to).await? {
            return Ok(Renamed::TargetExists);
        }
        if from != to {
            let delete = (from.clone(), Op::Delete { want_old: false });
            inside.write_all(vec![whole.put(to.clone()), delete], &[whole.tags()?]).await?;
            self.tell_wrote("rename_from", &from);
            self.tell_wrote("rename_to", &to);
        }
        Ok(Renamed::Done)
    }

    async fn rename_in_redis(&self, from: Key, to: Key, target: Target) -> Result<Renamed> {
        let name: &[u8] = if target == Target::Keep { b"RENAMENX" } else { b"RENAME" };
        let request = passthrough::request(&[name, &from, &to]);
        let passing = Passing::write(vec![from.clone(), to.clone()]);
        let reply = self.pass(&request, passing).await?;
        if reply.starts_with(b"-ERR no such key") {
            return Ok(Renamed::NoSource);
        }
        let done = if target == Target::Keep { is_one(&reply)? } else { check(&reply).map(|()| true)? };
        if !done {
            return Ok(Renamed::TargetExists);
        }
        self.tell_wrote("rename_from", &from);
        self.tell_wrote("rename_to", &to);
        Ok(Renamed::Done)
    }

    /// Copies a key, including its expiry. Returns whether the key was copied.
    ///
    /// # Errors
    /// As for reads and writes.
    pub async fn copy(&self, from: Key, to: Key, target: Target) -> Result<bool> {
        self.principal.check(Verbs::READ, &from)?;
        self.principal.check(Verbs::WRITE, &to)?;
        if self.core.flavor == Flavor::Redis {
            let mut words: Vec<&[u8]> = vec![b"COPY", &from, &to];
            if target == Target::Replace {
                words.push(b"REPLACE");
            }
            let named = vec![from.clone(), to.clone()];
            let passing = Passing { named, ..Passing::write(vec![to.clone()]) };
            let done = is_one(&self.pass(&passthrough::request(&words), passing).await?)?;
            if done {
                self.tell_wrote("copy_to", &to);
            }
            return Ok(done);
        }
        let (inside, _guard) = self.exclusive().await;
        let Some(whole) = inside.whole(&from).await? else { return Ok(false) };
        if target == Target::Keep && inside.exists(&to).await? {
            return Ok(false);
        }
        inside.write_all(vec![whole.put(to.clone())], &[whole.tags()?]).await?;
        self.tell_wrote("copy_to", &to);
        Ok(true)
    }

    /// Stores all pairs if none of the keys exists. Returns whether they were stored.
    ///
    /// # Errors
    /// As for writes.
    pub async fn set_all_if_absent(&self, pairs: Vec<(Key, Bytes)>) -> Result<bool> {
        pairs.iter().try_for_each(|(key, _)| self.principal.check(Verbs::WRITE, key))?;
        if self.core.flavor == Flavor::Redis {
            return self.set_all_in_redis(pairs).await;
        }
        let (inside, _guard) = self.exclusive().await;
        for (key, _) in &pairs {
            if inside.exists(key).await? {
                return Ok(false);
            }
        }
        let ops = pairs.into_iter().map(|(key, value)| (key, set(value, SetExpiry::Never))).collect();
        inside.write_all(ops, &[]).await?;
        Ok(true)
    }

    /// Uses one script, because each key has the TTL of its policy.
    async fn set_all_in_redis(&self, mut pairs: Vec<(Key, Bytes)>) -> Result<bool> {
        let (rules, now) = (self.core.rules.load_full(), self.core.clock.unix());
        let mut lives = Vec::with_capacity(pairs.len());
        for (key, value) in &pairs {
            let mut op = set(value.clone(), SetExpiry::Never);
            let tuned = self.core.tuned_ttl(&rules, key, &op);
            rules.resolve(key, &mut op, now, tuned)?;
            lives.push(life_of(&op));
        }
        for (_, value) in &mut pairs {
            *value = codec::guarded(std::mem::take(value));
        }
        let count = pairs.len().to_string();
        let mut words: Vec<&[u8]> = vec![b"EVAL", SET_ALL, count.as_bytes()];
        words.extend(pairs.iter().map(|(key, _)| &**key));
        for ((_, value), life) in pairs.iter().zip(&lives) {
            words.extend([&value[..], life.as_bytes()]);
        }
        let request = passthrough::request(&words);
        let written: Vec<Key> = pairs.iter().map(|(key, _)| key.clone()).collect();
        let passing = Passing::write(written.clone());
        let done = is_one(&self.pass(&request, passing).await?)?;
        if done {
            written.iter().for_each(|key| self.tell_wrote("set", key));
        }
        Ok(done)
    }

    /// Returns the value and expiry of a key without counting a use.
    async fn whole(&self, key: &Key) -> Result<Option<Whole>> {
        let look = ReadOptions { no_touch: true, ..ReadOptions::default() };
        let expires_at = self.expires_at(key).await?;
        match self.get(key.clone(), look).await? {
            Read::Missing => Ok(None),
            Read::Found(found) => {
                let expiry = expires_at.map_or(SetExpiry::Never, SetExpiry::At);
                Ok(Some(Whole { value: found.value, expiry }))
            }
        }
    }

    async fn expires_at(&self, key: &Key) -> Result<Option<UnixMs>> {
        let infos = self.describe(std::slice::from_ref(key)).await;
        let Some(info) = infos.into_iter().next() else { return Ok(None) };
        Ok(info.l2?.and_then(|described| described.expires_at_ms).map(UnixMs))
    }

    async fn exists(&self, key: &Key) -> Result<bool> {
        let infos = self.describe(std::slice::from_ref(key)).await;
        infos.into_iter().next().map_or(Ok(false), |info| info.l2.map(|entry| entry.is_some()))
    }

    async fn write_all(&self, ops: Vec<(Key, Op)>, tags: &[TagNames]) -> Result<()> {
        self.write_tagged(ops, tags, Batch::Atomic).await.into_iter().try_for_each(|result| result.map(drop))
    }
}

impl Whole {
    fn put(&self, key: Key) -> (Key, Op) {
        (key, set(self.value.clone().into_bytes(), self.expiry))
    }

    /// Returns the tags of the value, for the target. They were just validated under the same lock.
    fn tags(&self) -> Result<TagNames> {
        TagNames::new(tags_of(&self.value))
    }
}

fn set(value: Bytes, expiry: SetExpiry) -> Op {
    Op::Set { value, expiry, condition: Condition::Always, want_old: false }
}

/// Returns the TTL of a policy in milliseconds; empty for none.
fn life_of(op: &Op) -> String {
    if let Op::Set { expiry: SetExpiry::In(life), .. } = op {
        return crate::clock::millis((*life).max(Duration::from_millis(1))).to_string();
    }
    String::new()
}

fn check(reply: &[u8]) -> Result<()> {
    match reply.strip_prefix(b"-") {
        None => Ok(()),
        Some(text) if text.starts_with(b"OOM") => {
            Err(CacheError::new(Kind::OutOfMemory, "Redis is out of memory (OOM) and refused the write"))
        }
        Some(text) => {
            let text = String::from_utf8_lossy(text);
            Err(CacheError::new(Kind::Internal, format!("unexpected reply from Redis: {}", text.trim_end())))
        }
    }
}

fn is_one(reply: &[u8]) -> Result<bool> {
    check(reply)?;
    Ok(reply.starts_with(b":1"))
}
