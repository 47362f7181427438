//! Explains one key: why a read of the key was or was not answered, and its known state.
//!
//! Explaining does not count as a read: nothing is counted, promoted or learned, and L1's eviction policy sees no use.
//! Missing knowledge is reported as such: the history is bounded, and Redis does not report the writer of a key.
//!
//! * [`key_history`]: the last write and the last read of recently used keys.
//! * [`learned_keys`]: the learned state as keys (RESP database 2).

pub mod key_history;
pub mod learned_keys;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use self::key_history::{LastRead, LastWrite, Writer};
use crate::{
    cache::{Cache, LoadState, inspect::KeyInfo, prefetch::Prediction},
    clock::Tick,
    error::Result,
    l1::{Departure, Left, Residence, Resident},
    l2::{Ban, Described, Flavor},
    learn::recorder::Wrote,
    model::{Key, Outcome},
};

/// Reason why a tier did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The reason is not known to this node, or no longer known.
    Unknown,
    /// This node has seen neither a write nor a copy of the key.
    NeverSeen,
    /// The entry was evicted to free space.
    Evicted,
    /// The TTL of the key expired.
    Expired,
    /// The copy reached `l1.max_age`.
    TooOld,
    /// The key was written through this node.
    Written,
    /// The key was deleted through this node.
    Deleted,
    /// Redis announced a change by another writer; this may have been the expiry of the key.
    Announced,
    /// A pattern that matches the key was invalidated.
    Banned,
    /// A tag of the entry was invalidated.
    TagGone,
    /// All copies were dropped: a flush, a failover, or a lost link.
    Ended,
    /// L1 was bypassed: not all changes were known to be received.
    Closed,
    /// A policy, `l2.prefixes` or a limit excludes the key from L1.
    NotAllowed,
}

impl Why {
    /// Returns the name used in API responses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NeverSeen => "never seen",
            Self::Evicted => "evicted",
            Self::Expired => "expired",
            Self::TooOld => "too old",
            Self::Written => "written",
            Self::Deleted => "deleted",
            Self::Announced => "announced",
            Self::Banned => "banned",
            Self::TagGone => "tag invalidated",
            Self::Ended => "ended",
            Self::Closed => "closed",
            Self::NotAllowed => "not allowed",
        }
    }
}

/// The last known user read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRead {
    /// Time of the read; approximate for a hit in L1.
    pub at: Tick,
    /// Outcome of the read.
    pub outcome: Outcome,
    /// Reason why L1 did not answer; `None` if it did.
    pub not_l1: Option<Why>,
    /// Reason why L2 did not answer either, for a miss.
    pub not_l2: Option<Why>,
}

/// The policy of a key, and the settings that it specifies.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Pattern of the policy; `None` if no policy matches.
    pub pattern: Option<Bytes>,
    /// The group that the key is counted in.
    pub group: Arc<str>,
    /// The key template.
    pub template: String,
    /// Current TTL of a write that specifies none; a tuned TTL varies by up to 10%.
    pub write_ttl: Option<Duration>,
    /// Maximum TTL of a write.
    pub max_ttl: Option<Duration>,
    /// TTL that a read extends the key's TTL to.
    pub touch_on_read: Option<Duration>,
    /// True if the key may be cached in L1.
    pub l1: bool,
}

/// Everything known about one key.
#[derive(Debug, Clone)]
pub struct Explained {
    /// Time of the explanation.
    pub now: Tick,
    /// The copy in L1.
    pub resident: Option<Resident>,
    /// True if the copy was prefetched and has not been used yet.
    pub is_staged: bool,
    /// Reason why L1 would not answer; `None` if it would.
    pub not_l1: Option<Why>,
    /// True if the fence is valid, so L1 may answer.
    pub l1_available: bool,
    /// The entry in L2. Without an L2, this is the entry of L1.
    pub l2: Result<Option<Described>>,
    /// Tags of the key, and whether each id is unchanged since the key was written.
    pub tags: Vec<(Bytes, bool)>,
    /// Active pattern bans that match the key.
    pub bans: Vec<Arc<Ban>>,
    /// See [`LastWrite`].
    pub write: Option<LastWrite>,
    /// See [`UserRead`].
    pub read: Option<UserRead>,
    /// The policy of the key.
    pub rule: Rule,
    /// The keys that a miss of this key would prefetch now.
    pub predictions: Vec<Prediction>,
    /// The load of the key, as this node knows it.
    pub load: Option<LoadState>,
    /// Mean duration of the loads of the key's group; `None` before the first.
    pub group_load: Option<Duration>,
}

impl Cache {
    /// Returns everything that this node knows about a key. Changes nothing.
    pub async fn explain(&self, key: &Key) -> Explained {
        let l2 = self.l2.describe(std::slice::from_ref(key)).await.pop().unwrap_or(Ok(None));
        let head = match &l2 {
            Ok(Some(described)) => described.head.clone(),
            Ok(None) | Err(_) => Bytes::new(),
        };
        let resident = self.resident(key);
        let tags = match self.tags_now(&head).await {
            Ok(tags) => tags,
            // The current ids are unavailable. A copy that L1 would answer with has valid ids.
            Err(_) => {
                let info = KeyInfo { l2: l2.clone(), resident: resident.clone() };
                let is_valid = resident.is_some();
                info.tags().into_iter().map(|tag| (tag, is_valid)).collect()
            }
        };
        let (core, now) = (&self.core, self.now());
        let bans: Vec<_> = self.active_bans().iter().filter(|ban| ban.matches(key)).cloned().collect();
        let (history, (group, rule)) = (core.key_history.of(key), self.rule_of(key));
        let context = Context {
            rule: &rule,
            flavor: core.flavor,
            tags_gone: tags.iter().any(|(_, is_valid)| !is_valid),
            banned_at: core.ban_sweeps.last_matching(key),
        };
        let departure = core.l1.departure(key, now);
        let not_l1 = resident.is_none().then(|| context.not_l1(departure, history.write, !history.is_unread()));
        let read = context.last_read(resident.as_ref(), departure, history.read);
        Explained {
            is_staged: core.l1.residence(key, now) == Residence::Staged,
            l1_available: core.fence.is_valid(now),
            load: core.loads.state_of(key, now),
            group_load: core.loads.times.mean_since_start(group),
            predictions: core
                .predict(key)
                .into_iter()
                .filter(|predicted| self.principal.sees(&predicted.key))
                .collect(),
            write: history.write,
            now,
            resident,
            not_l1,
            l2,
            tags,
            bans,
            read,
            rule,
        }
    }

    /// Returns the number of the key's group, and the rule.
    fn rule_of(&self, key: &[u8]) -> (u8, Rule) {
        let (core, rules) = (&self.core, self.core.rules.load());
        let policy = rules.policy(key);
        let (default, max_ttl) = rules.lives_of(key);
        let (_, template) = core.stats.groups.template_of(key);
        let (number, group) = core.stats.groups.look_with_name(key, &rules);
        let rule = Rule {
            pattern: policy.map(|policy| policy.matches.pattern().clone()),
            group,
            template,
            write_ttl: core
                .tuned_mean(&rules, key)
                .or(default)
                .map_or(max_ttl, |ttl| Some(max_ttl.map_or(ttl, |max| ttl.min(max)))),
            max_ttl,
            touch_on_read: rules.touch_on_read_of(key),
            l1: rules.may_promote(key, b""),
        };
        (number, rule)
    }
}

/// The facts that an explanation uses in addition to the key's history.
struct Context<'a> {
    rule: &'a Rule,
    flavor: Flavor,
    tags_gone: bool,
    /// Time at which a matching pattern was last invalidated.
    banned_at: Option<Tick>,
}

impl Context<'_> {
    /// Returns the reason why L1 did not answer after this last write. `was_read`: a copy may have existed since the
    /// write.
    fn not_l1(&self, departure: Option<Departure>, write: Option<LastWrite>, was_read: bool) -> Why {
        let by_write = || match write {
            Some(LastWrite { what: Some(Wrote::Deletion), .. }) => Why::Deleted,
            Some(LastWrite { by: Writer::ThisNode, .. }) => Why::Written,
            Some(LastWrite { by: Writer::Elsewhere, .. }) => Why::Announced,
            None => Why::Unknown,
        };
        match departure.map(|departure| departure.left) {
            _ if !self.rule.l1 => Why::NotAllowed,
            // A departure before the write is not the reason. If L1 is the store, a write creates the copy.
            _ if !was_read && write.is_some_and(|write| !self.is_store() || write.what == Some(Wrote::Deletion)) => {
                by_write()
            }
            Some(Left::Evicted) => Why::Evicted,
            Some(Left::Expired) => Why::Expired,
            Some(Left::TooOld) => Why::TooOld,
            Some(Left::Banned) => Why::Banned,
            Some(Left::Ended) => Why::Ended,
            Some(Left::Closed) => Why::Closed,
            Some(Left::Changed | Left::Replaced) => by_write(),
            // A live copy exists, but L1 does not answer with it, because its tags are invalid or unknown.
            None if self.tags_gone => Why::TagGone,
            None if !was_read && write.is_none() => Why::NeverSeen,
            None => Why::Unknown,
        }
    }

    fn is_store(&self) -> bool {
        self.flavor == Flavor::None
    }

    /// Returns the reason why L2 did not have the key at the read.
    fn not_l2(&self, read: &LastRead) -> Why {
        let expired = |ends: Tick| ends <= read.at;
        let was_before = |at: Tick| at <= read.at && read.write.is_none_or(|write| write.at <= at);
        match read.write {
            _ if self.is_store() => self.not_l1(read.departure, read.write, !read.is_first),
            _ if read.tag_gone => Why::TagGone,
            _ if self.banned_at.is_some_and(was_before) => Why::Banned,
            Some(LastWrite { what: Some(Wrote::Deletion), .. }) => Why::Deleted,
            Some(LastWrite { what: Some(Wrote::Value(Some(ends))), .. }) if expired(ends) => Why::Expired,
            Some(LastWrite { by: Writer::Elsewhere, .. }) => Why::Announced,
            Some(_) | None => match read.departure.map(|departure| departure.left) {
                Some(Left::Expired) => Why::Expired,
                None if read.write.is_none() => Why::NeverSeen,
                Some(_) | None => Why::Unknown,
            },
        }
    }

    /// Returns the latest known read, whether L1 answered it or not. `not_in_l1` is the last read that L1 did not
    /// answer.
    fn last_read(
        &self,
        resident: Option<&Resident>,
        departure: Option<Departure>,
        not_in_l1: Option<LastRead>,
    ) -> Option<UserRead> {
        let used_at = match resident {
            Some(resident) => (resident.hit.hits > 0).then_some(resident.used_at),
            None => departure.and_then(|departure| departure.used_at),
        };
        match (used_at, not_in_l1) {
            (Some(at), read) if read.is_none_or(|read| read.at <= at) => {
                Some(UserRead { at, outcome: Outcome::HitL1, not_l1: None, not_l2: None })
            }
            (_, Some(read)) => Some(UserRead {
                at: read.at,
                outcome: read.outcome,
                not_l1: Some(match read.tag_gone {
                    true => Why::TagGone,
                    false => self.not_l1(read.departure, read.write, !read.is_first),
                }),
                not_l2: (read.outcome == Outcome::Miss).then(|| self.not_l2(&read)),
            }),
            (_, None) => None,
        }
    }
}
