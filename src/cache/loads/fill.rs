//! [`Cache::fill`] and [`Cache::release`]: the ends of a load lease.

use std::time::Duration;

use bytes::Bytes;

use super::{
    lease::{head_of, unexpected},
    times::LoadOutcome,
};
pub use crate::l2::loads::Filled;
use crate::{
    access::Verbs,
    cache::{Cache, Op, SetExpiry, TagNames, invalidate::events::ChangeEvent, op::Condition, write::Dropped},
    clock::{Tick, stopwatch_ns},
    error::{CacheError, Kind, Result},
    l2::{
        Flavor,
        codec::{self, Tag},
        loads::{
            End, EndLoad, Fill, LoadOp, LoadResult, Loaded, MESSAGE_MAX_BYTES,
            token::{LeaseToken, TOKEN_MAX_BYTES, checksum_of},
        },
    },
    learn::recorder::{Happened, Wrote},
    model::Key,
};

/// The result of a load.
#[derive(Debug, Clone)]
pub struct FillRequest {
    /// The token of the grant.
    pub token: Bytes,
    /// What the origin has.
    pub loaded: LoadedValue,
    /// TTL without the stale part; `None`: the default of the policy.
    pub ttl: Option<Duration>,
    /// Part of the key's life after `ttl` in which the value needs a refresh; `None`: `stale` of the policy.
    pub stale: Option<Duration>,
    /// The tags of the request that returned the token.
    pub tags: TagNames,
}

/// What a load found in the origin.
#[derive(Debug, Clone)]
pub enum LoadedValue {
    /// A value.
    Value(Bytes),
    /// The origin does not have the key.
    Absent,
}

impl Cache {
    /// Stores the result of a load, unless the key was changed or invalidated since the grant.
    ///
    /// # Errors
    /// As [`Cache::write`]; `InvalidArgument` for a token over 512 bytes, for tags that differ from the tags of the
    /// grant, and for a negative answer without a TTL. A token that no longer permits the fill is a result.
    pub async fn fill(&self, key: Key, request: FillRequest) -> Result<Filled> {
        self.principal().check(Verbs::WRITE, &key)?;
        request.tags.iter().try_for_each(|tag| self.principal().check_tag(tag))?;
        check_token(&request.token)?;
        let group = self.core.group_of(&key);
        let (expiry, size_checked) = self.fill_expiry(&key, &request)?;
        let Some(token) = LeaseToken::decode(&request.token) else {
            return Ok(self.counted_fill(group, Filled::LeaseLost));
        };
        if token.tag_names != checksum_of(request.tags.iter()) {
            let message = "tags differ from the tags of the request that returned the token";
            return Err(CacheError::new(Kind::InvalidArgument, message));
        }
        let tags: Vec<Tag> =
            request.tags.iter().zip(&token.tag_ids).map(|(name, id)| Tag { name: name.clone(), id: *id }).collect();
        let head = head_of(&tags);
        let loaded = match size_checked {
            Some(value) => Loaded::Value { stored: codec::joined(&head, value), expiry },
            None => Loaded::Absent { life: life_of(expiry), head: head.clone() },
        };
        let mut filled = self.store_fill(&key, Fill { fence: token.fence, loaded }, expiry).await?;
        if matches!(filled, Filled::Stored { .. }) && !self.has_valid_tags(&head).await {
            filled = Filled::Invalidated;
        }
        self.leases.remove(&key, &token.holder);
        Ok(self.counted_fill(group, filled))
    }

    /// Returns whether no tag of a stored entry was invalidated since the grant. An invalidated tag makes the entry a miss
    /// from its first read; the client learns it, so that it does not share the value.
    async fn has_valid_tags(&self, head: &Bytes) -> bool {
        head.is_empty()
            || self.are_valid(std::slice::from_ref(head)).await.iter().all(|valid| matches!(valid, Ok(true)))
    }

    /// Returns the expiry of a fill, and its value; `None` for a negative answer.
    fn fill_expiry(&self, key: &Key, request: &FillRequest) -> Result<(SetExpiry, Option<Bytes>)> {
        let rules = self.core.rules.load();
        let policy = rules.policy(key);
        let unix = self.core.clock.unix();
        let LoadedValue::Value(value) = &request.loaded else {
            let life = request.ttl.or_else(|| policy.and_then(|policy| policy.negative_ttl)).ok_or_else(|| {
                let message = "a negative answer requires a TTL, or negative_ttl in the policy of the key";
                CacheError::new(Kind::InvalidArgument, message)
            })?;
            let max = policy.and_then(|policy| policy.max_ttl);
            return Ok((SetExpiry::In(max.map_or(life, |max| life.min(max))), None));
        };
        let stale = policy.map_or(Ok(request.stale.unwrap_or_default()), |policy| policy.stale_part(request.stale))?;
        let ttl = request.ttl.or_else(|| rules.lives_of(key).0);
        let asked = ttl.map_or(SetExpiry::Never, |ttl| SetExpiry::In(ttl.saturating_add(stale)));
        let mut resolved =
            Op::Set { value: value.clone(), expiry: asked, condition: Condition::Always, want_old: false };
        let tuned = self.core.tuned_ttl(&rules, key, &resolved);
        rules.resolve(key, &mut resolved, unix, tuned)?;
        let Op::Set { value, expiry, .. } = resolved else { return Err(unexpected()) };
        Ok((expiry, Some(value)))
    }

    /// Sends a fill to the store.
    async fn store_fill(&self, key: &Key, fill: Fill, expiry: SetExpiry) -> Result<Filled> {
        let _dropped = (self.core.flavor == Flavor::Redis).then(|| Dropped::new(&self.core, vec![key.clone()]));
        let _access = self.shared_access().await;
        let is_value = matches!(fill.loaded, Loaded::Value { .. });
        let begun = stopwatch_ns();
        let result = self.l2.load(key.clone(), LoadOp::Fill(fill)).await;
        self.counters.l2_written(1, usize::from(result.is_err()), (stopwatch_ns() - begun) / 1000);
        let filled = match result? {
            LoadResult::Filled(filled) => filled,
            LoadResult::Acquired(_) | LoadResult::Ended(_) => return Err(unexpected()),
        };
        if let Filled::Stored { took, differs } = filled {
            self.core.loads.times.record(self.core.group_of(key), took);
            let name = if is_value { "set" } else { "del" };
            self.core.events.emit(ChangeEvent::Wrote { name, key });
            // A load that confirms the value is no change of the key.
            if differs {
                let at = expires_at(expiry, self.now());
                let wrote = if is_value { Wrote::Value(at) } else { Wrote::Deletion };
                self.tap.record(key, Happened::Written(wrote), self.caller, self.now());
            }
        }
        // After the copies in L1 are dropped: the waiting callers read the key.
        drop(_dropped);
        self.core.loads.changed(key);
        Ok(filled)
    }

    fn counted_fill(&self, group: u8, filled: Filled) -> Filled {
        let outcome = match filled {
            Filled::Stored { .. } => LoadOutcome::Stored,
            Filled::LeaseLost => LoadOutcome::LeaseLost,
            Filled::Changed => LoadOutcome::Changed,
            Filled::Invalidated => LoadOutcome::Invalidated,
        };
        self.core.loads.times.count(group, outcome);
        self.core.loads.times.end_refresh(group);
        filled
    }

    /// Ends a lease without a result. `failed`: the message of the failed load, and the time in which no client may load
    /// the key. A lease that has ended already is not an error.
    ///
    /// # Errors
    /// As [`Cache::write`]; `InvalidArgument` for a token over 512 bytes, and for a message that is too long or has control
    /// characters.
    pub async fn release(&self, key: Key, token: &[u8], failed: Option<(Bytes, Option<Duration>)>) -> Result<()> {
        self.principal().check(Verbs::WRITE, &key)?;
        check_token(token)?;
        if let Some((message, _)) = &failed {
            check_message(message)?;
        }
        let Some(token) = LeaseToken::decode(token) else { return Ok(()) };
        let group = self.core.group_of(&key);
        let outcome = if failed.is_some() { LoadOutcome::LoadFailed } else { LoadOutcome::Released };
        let end = failed.map_or(End::Released, |(message, retry_after)| End::Failed { message, retry_after });
        let _access = self.shared_access().await;
        let ended = self.l2.load(key.clone(), LoadOp::End(EndLoad { holder: token.holder, end })).await?;
        self.leases.remove(&key, &token.holder);
        self.core.loads.times.end_refresh(group);
        if ended == LoadResult::Ended(true) {
            self.core.loads.times.count(group, outcome);
        }
        self.core.loads.changed(&key);
        Ok(())
    }
}

fn check_token(token: &[u8]) -> Result<()> {
    if token.len() > TOKEN_MAX_BYTES {
        let message = format!("the token has {} bytes; a token has at most {TOKEN_MAX_BYTES} bytes", token.len());
        return Err(CacheError::new(Kind::InvalidArgument, message));
    }
    Ok(())
}

fn check_message(message: &[u8]) -> Result<()> {
    let fault = if message.len() > MESSAGE_MAX_BYTES {
        format!("the message has {} bytes; a message has at most {MESSAGE_MAX_BYTES} bytes", message.len())
    } else if let Some(at) = message.iter().position(u8::is_ascii_control) {
        format!("the message has a control character at byte {at}; expected text without control characters")
    } else if std::str::from_utf8(message).is_err() {
        "the message is not UTF-8".to_owned()
    } else {
        return Ok(());
    };
    Err(CacheError::new(Kind::InvalidArgument, fault))
}

fn life_of(expiry: SetExpiry) -> Duration {
    match expiry {
        SetExpiry::In(life) => life,
        SetExpiry::Never | SetExpiry::At(_) | SetExpiry::Keep { .. } => Duration::ZERO,
    }
}

fn expires_at(expiry: SetExpiry, now: Tick) -> Option<Tick> {
    match expiry {
        SetExpiry::Never => Some(Tick::FAR),
        SetExpiry::In(life) => Some(now.plus(life)),
        SetExpiry::At(_) | SetExpiry::Keep { .. } => None,
    }
}
