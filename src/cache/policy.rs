//! Policies: the operator's settings for groups of keys, and their effect on a write.

use std::time::Duration;

use bytes::Bytes;

use super::op::{NewExpiry, Op, SetExpiry, check_range};
use crate::{
    clock::{UnixMs, millis},
    error::{CacheError, Kind, Result},
    glob::Glob,
    learn::ttl::TtlSettings,
    model::{Key, RESERVED_PREFIX},
};

/// One `[[policy]]` of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Glob over the whole key.
    pub matches: Glob,
    /// TTL applied to writes that specify none.
    pub default_ttl: Option<Duration>,
    /// Maximum TTL of writes, including writes that specify none.
    pub max_ttl: Option<Duration>,
    /// Maximum value size in bytes.
    pub max_value: Option<u64>,
    /// TTL that a read extends a shorter TTL to.
    pub touch_on_read: Option<Duration>,
    /// Last part of a key's life, in which a get-or-load refreshes the value.
    pub stale: Option<Duration>,
    /// TTL of the answer that the origin does not have a key.
    pub negative_ttl: Option<Duration>,
    /// β of early refreshes, the factor of the duration of loads; 0 = no early refresh.
    pub early: f64,
    /// Maximum random reduction of a TTL in percent.
    pub jitter: u8,
    /// Exclusive time of load leases; `None` = learned.
    pub lease: Option<Duration>,
    /// True if matching keys may be cached in L1.
    pub l1: bool,
    /// Source of the TTL of writes that specify none.
    pub ttl: Ttl,
    /// Mode of prefetch for matching keys.
    pub prefetch: Prefetch,
}

/// Source of the TTL of writes that specify none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ttl {
    /// The policy's `default_ttl`.
    #[default]
    Fixed,
    /// The policy's `default_ttl`; the advised TTL is only reported.
    Advise,
    /// The advised TTL, once it has enough evidence.
    Tune,
}

/// Mode of prefetch for a group of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// Matching keys are neither learned from nor predicted.
    Off,
    /// Predictions are measured, but the keys are not prefetched.
    Shadow,
    /// Predicted keys are prefetched, if such predictions have proven right.
    #[default]
    Auto,
}

impl Policy {
    /// Creates a policy for matching keys, without settings.
    #[must_use]
    pub fn of(matches: Glob) -> Self {
        let (ttl, prefetch) = (Ttl::Fixed, Prefetch::Auto);
        Self {
            matches,
            default_ttl: None,
            max_ttl: None,
            max_value: None,
            touch_on_read: None,
            stale: None,
            negative_ttl: None,
            early: 1.0,
            jitter: 0,
            lease: None,
            l1: true,
            ttl,
            prefetch,
        }
    }
}

impl Policy {
    /// Returns the stale part of a key: the requested one, otherwise `stale` of the policy, otherwise zero.
    ///
    /// # Errors
    /// `InvalidArgument` for a stale part and a sliding TTL.
    pub fn stale_part(&self, requested: Option<Duration>) -> Result<Duration> {
        let stale = requested.or(self.stale).unwrap_or_default();
        if self.touch_on_read.is_some() && !stale.is_zero() {
            let message = "the request has a stale part, but the policy of the key has touch_on_read; a sliding TTL has no stale part";
            return Err(CacheError::new(Kind::InvalidArgument, message));
        }
        Ok(stale)
    }
}

/// The settings of the facade that a reload may change.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Policies; the first match applies.
    pub policies: Vec<Policy>,
    /// Maximum size of any value in bytes.
    pub value_max: u64,
    /// Maximum age of an L1 copy, with Redis as L2.
    pub l1_max_age: Duration,
    /// Time after the end of the fence during which a copy may be returned as stale while L2 is unavailable.
    pub serve_stale_for: Duration,
    /// True if L1 is used although Redis refuses to announce changes; only `l1_max_age` then limits the age of copies.
    pub untracked: bool,
    /// Prefixes of keys that may be cached in L1; empty for all keys.
    pub l1_prefixes: Vec<Bytes>,
    /// Deadline of a script that runs in Redis.
    pub script_timeout: Duration,
    /// Limits of advised and tuned TTLs.
    pub ttl: TtlSettings,
}

/// Default deadline of a script that runs in Redis.
pub const SCRIPT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

impl Rules {
    /// Creates rules without policies.
    #[must_use]
    pub fn new(value_max: u64, l1_max_age: Duration) -> Self {
        Self {
            policies: Vec::new(),
            value_max,
            l1_max_age,
            serve_stale_for: Duration::ZERO,
            untracked: false,
            l1_prefixes: Vec::new(),
            script_timeout: SCRIPT_TIMEOUT_DEFAULT,
            ttl: TtlSettings::default(),
        }
    }

    /// Returns the policy of a key.
    #[must_use]
    pub fn policy(&self, key: &[u8]) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.matches.matches(key))
    }

    /// Returns whether this value of this key may be cached in L1.
    #[must_use]
    pub fn may_promote(&self, key: &[u8], value: &[u8]) -> bool {
        // Internal records are always announced, and no policy applies to them.
        if key.starts_with(RESERVED_PREFIX) {
            return true;
        }
        let announced = self.l1_prefixes.is_empty() || self.l1_prefixes.iter().any(|prefix| key.starts_with(prefix));
        announced && value.len() as u64 <= self.value_max && self.policy(key).is_none_or(|policy| policy.l1)
    }

    /// Returns the prefetch mode of a key. Keys that may not be cached in L1 cannot be staged there either.
    #[must_use]
    pub fn prefetch_of(&self, key: &[u8]) -> Prefetch {
        let policy = self.policy(key);
        if !self.may_promote(key, b"") {
            return Prefetch::Off;
        }
        policy.map_or(Prefetch::Auto, |policy| policy.prefetch)
    }

    /// Returns the default TTL and the maximum TTL that the policy of a key specifies.
    #[must_use]
    pub fn lives_of(&self, key: &[u8]) -> (Option<Duration>, Option<Duration>) {
        self.policy(key).map_or((None, None), |policy| (policy.default_ttl, policy.max_ttl))
    }

    /// Returns the TTL that reads extend the key's TTL to, if there is one.
    #[must_use]
    pub fn touch_on_read_of(&self, key: &[u8]) -> Option<Duration> {
        let policy = self.policy(key)?;
        policy.touch_on_read.map(|window| policy.max_ttl.map_or(window, |max| window.min(max)))
    }

    /// Returns the maximum value size of a key in bytes.
    #[must_use]
    pub fn value_max_of(&self, key: &[u8]) -> u64 {
        self.policy(key).and_then(|policy| policy.max_value).map_or(self.value_max, |own| own.min(self.value_max))
    }

    /// Applies the TTLs of a key's policy to a write, and checks the value's size.
    ///
    /// The TTL is the client's, otherwise the `tuned` TTL, otherwise `default_ttl`, otherwise none. `max_ttl` then
    /// limits it, and applies to writes without a TTL as well.
    ///
    /// # Errors
    /// `TooLarge` for a value over `max_value`.
    pub fn resolve(&self, key: &Key, op: &mut Op, now: UnixMs, tuned: Option<Duration>) -> Result<()> {
        let policy = self.policy(key);
        let value_max = self.value_max_of(key);
        let default = tuned.or(policy.and_then(|policy| policy.default_ttl));
        let jitter = policy.map_or(0, |policy| policy.jitter);
        let lives = Lives { default, max: policy.and_then(|p| p.max_ttl), jitter, now };
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

/// The TTLs that a policy specifies.
#[derive(Clone, Copy)]
struct Lives {
    default: Option<Duration>,
    max: Option<Duration>,
    /// Maximum random reduction in percent.
    jitter: u8,
    now: UnixMs,
}

impl Lives {
    fn capped(self, life: Duration) -> Duration {
        self.max.map_or(life, |max| life.min(max))
    }

    /// Shortens a TTL randomly, so that keys that were written together do not expire together.
    fn jittered(self, life: Duration) -> Duration {
        if self.jitter == 0 {
            return life;
        }
        let shorter = life.mul_f64(1.0 - fastrand::f64() * f64::from(self.jitter) / 100.0);
        shorter.max(Duration::from_millis(1))
    }

    fn capped_at(self, at: UnixMs) -> UnixMs {
        self.max.map_or(at, |max| at.min(UnixMs(self.now.0.saturating_add(millis(max)))))
    }

    /// Returns the TTL of a key that a write creates.
    fn of_new(self, asked: Option<Duration>) -> Option<Duration> {
        match asked.or(self.default) {
            Some(life) => Some(self.capped(life)),
            None => self.max,
        }
    }

    fn of_set(self, asked: SetExpiry) -> SetExpiry {
        match asked {
            SetExpiry::Never => self.of_new(None).map_or(SetExpiry::Never, |life| SetExpiry::In(self.jittered(life))),
            SetExpiry::In(life) => SetExpiry::In(self.jittered(self.capped(life))),
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
