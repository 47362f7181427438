//! What the operator said about groups of keys, and how it changes a write.

use std::time::Duration;

use bytes::Bytes;

use super::op::{NewExpiry, Op, SetExpiry, check_range};
use crate::{
    clock::{UnixMs, millis},
    error::{CacheError, Kind, Result},
    glob::Glob,
    learn::intervals,
    model::{Key, RESERVED_PREFIX},
};

/// One `[[policy]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which keys, by glob over the whole key.
    pub matches: Glob,
    /// Life of a write that brought none.
    pub default_ttl: Option<Duration>,
    /// Longest life of a write, also of one that brought none.
    pub max_ttl: Option<Duration>,
    /// Most bytes of a value.
    pub max_value: Option<u64>,
    /// A read gives a key with less life this much again.
    pub touch_on_read: Option<Duration>,
    /// Whether matching keys may live in L1.
    pub l1: bool,
    /// Where the TTL of a write comes from that brought none.
    pub ttl: Ttl,
    /// What prefetch may do with matching keys.
    pub prefetch: Prefetch,
}

/// Where the TTL of a write comes from that brought none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ttl {
    /// `default_ttl`.
    #[default]
    Fixed,
    /// `default_ttl`; what is learned is only told.
    Advise,
    /// What is learned, once enough is known.
    Tune,
}

/// What prefetch may do with a group of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// Nothing: they teach nothing and are not predicted.
    Off,
    /// Predictions are measured, and not fetched.
    Shadow,
    /// What has proven itself is fetched.
    #[default]
    Auto,
}

impl Policy {
    /// One that says nothing yet of the keys it matches.
    #[must_use]
    pub fn of(matches: Glob) -> Self {
        let (ttl, prefetch) = (Ttl::Fixed, Prefetch::Auto);
        Self {
            matches,
            default_ttl: None,
            max_ttl: None,
            max_value: None,
            touch_on_read: None,
            l1: true,
            ttl,
            prefetch,
        }
    }
}

/// All that a reload may change in the facade.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// First match wins.
    pub policies: Vec<Policy>,
    /// Most bytes of any value.
    pub value_max: u64,
    /// Over Redis, no copy in L1 is older.
    pub l1_max_age: Duration,
    /// How long after its fence a copy may still be answered, flagged as stale, where L2 cannot be asked.
    pub serve_stale_for: Duration,
    /// Where Redis refuses to announce changes, L1 opens all the same, bounded by `l1_max_age` alone.
    pub untracked: bool,
    /// Keys that may live in L1 begin with one of these; empty: all keys.
    pub l1_prefixes: Vec<Bytes>,
    /// Bounds of TTLs that are advised or tuned.
    pub ttl: intervals::Settings,
}

impl Rules {
    /// No policies.
    #[must_use]
    pub fn new(value_max: u64, l1_max_age: Duration) -> Self {
        Self {
            policies: Vec::new(),
            value_max,
            l1_max_age,
            serve_stale_for: Duration::ZERO,
            untracked: false,
            l1_prefixes: Vec::new(),
            ttl: intervals::Settings::default(),
        }
    }

    /// The policy of a key.
    #[must_use]
    pub fn policy(&self, key: &[u8]) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.matches.matches(key))
    }

    /// Whether this value of this key may live in L1.
    #[must_use]
    pub fn may_promote(&self, key: &[u8], value: &[u8]) -> bool {
        // Terrace's own records are always announced, and no policy speaks of them.
        if key.starts_with(RESERVED_PREFIX) {
            return true;
        }
        let announced = self.l1_prefixes.is_empty() || self.l1_prefixes.iter().any(|prefix| key.starts_with(prefix));
        announced && value.len() as u64 <= self.value_max && self.policy(key).is_none_or(|policy| policy.l1)
    }

    /// What prefetch may do with a key like this one. What may not live in L1 cannot wait there either.
    #[must_use]
    pub fn prefetch_of(&self, key: &[u8]) -> Prefetch {
        let policy = self.policy(key);
        if !self.may_promote(key, b"") {
            return Prefetch::Off;
        }
        policy.map_or(Prefetch::Auto, |policy| policy.prefetch)
    }

    /// Whether a policy gives keys like this one a life: the one of a write without any, and the longest.
    #[must_use]
    pub fn lives_of(&self, key: &[u8]) -> (Option<Duration>, Option<Duration>) {
        self.policy(key).map_or((None, None), |policy| (policy.default_ttl, policy.max_ttl))
    }

    /// What a read extends the life of a key like this one to, if it does.
    #[must_use]
    pub fn slide_of(&self, key: &[u8]) -> Option<Duration> {
        let policy = self.policy(key)?;
        policy.touch_on_read.map(|window| policy.max_ttl.map_or(window, |max| window.min(max)))
    }

    /// Most bytes of the value of a key like this one.
    #[must_use]
    pub fn value_max_of(&self, key: &[u8]) -> u64 {
        self.policy(key).and_then(|policy| policy.max_value).map_or(self.value_max, |own| own.min(self.value_max))
    }

    /// Gives a write the life that the policy of its key says, and checks its size.
    ///
    /// The client's life, else the `tuned` one, else `default_ttl`, else none; then `max_ttl` caps it, also where there was none.
    ///
    /// # Errors
    /// `TooLarge` for a value over `max_value`.
    pub fn resolve(&self, key: &Key, op: &mut Op, now: UnixMs, tuned: Option<Duration>) -> Result<()> {
        let policy = self.policy(key);
        let value_max = self.value_max_of(key);
        let default = tuned.or(policy.and_then(|policy| policy.default_ttl));
        let lives = Lives { default, max: policy.and_then(|p| p.max_ttl), now };
        match op {
            Op::Set { value, expiry, .. } => {
                check_size(value.len(), value_max)?;
                *expiry = lives.of_set(*expiry);
            }
            Op::Expire { expiry, .. } => *expiry = lives.of_expire(*expiry),
            Op::Increment { life_if_new, .. } | Op::IncrementFloat { life_if_new, .. } => {
                *life_if_new = lives.of_new(*life_if_new);
            }
            Op::Append { suffix, life_if_new, length_max } => {
                check_size(suffix.len(), value_max)?;
                *length_max = value_max;
                *life_if_new = lives.of_new(*life_if_new);
            }
            Op::SetRange { offset, bytes, life_if_new, length_max } => {
                *length_max = value_max;
                *life_if_new = lives.of_new(*life_if_new);
                if !bytes.is_empty() {
                    check_range(*offset, bytes.len(), value_max)?;
                }
            }
            Op::Delete { .. } | Op::Bury { .. } => {}
        }
        Ok(())
    }
}

fn check_size(len: usize, max: u64) -> Result<()> {
    if len as u64 > max {
        let message = format!("value of {len} bytes exceeds max_value ({max} bytes)");
        return Err(CacheError::new(Kind::TooLarge, message));
    }
    Ok(())
}

/// The lives a policy gives.
#[derive(Clone, Copy)]
struct Lives {
    default: Option<Duration>,
    max: Option<Duration>,
    now: UnixMs,
}

impl Lives {
    fn capped(self, life: Duration) -> Duration {
        self.max.map_or(life, |max| life.min(max))
    }

    fn capped_at(self, at: UnixMs) -> UnixMs {
        self.max.map_or(at, |max| at.min(UnixMs(self.now.0.saturating_add(millis(max)))))
    }

    /// The life of a key that a write creates.
    fn of_new(self, asked: Option<Duration>) -> Option<Duration> {
        match asked.or(self.default) {
            Some(life) => Some(self.capped(life)),
            None => self.max,
        }
    }

    fn of_set(self, asked: SetExpiry) -> SetExpiry {
        match asked {
            SetExpiry::Never => self.of_new(None).map_or(SetExpiry::Never, SetExpiry::In),
            SetExpiry::In(life) => SetExpiry::In(self.capped(life)),
            SetExpiry::At(at) => SetExpiry::At(self.capped_at(at)),
            SetExpiry::Keep { life_if_new } => SetExpiry::Keep { life_if_new: self.of_new(life_if_new) },
        }
    }

    fn of_expire(self, asked: NewExpiry) -> NewExpiry {
        match asked {
            NewExpiry::Never => self.max.map_or(NewExpiry::Never, NewExpiry::In),
            NewExpiry::In(life) => NewExpiry::In(self.capped(life)),
            NewExpiry::At(at) => NewExpiry::At(self.capped_at(at)),
            NewExpiry::Keep => NewExpiry::Keep,
        }
    }
}
