//! Everything that this node knows of one key, for people who ask why it was or was not there.
//!
//! Looking is no read: nothing is counted, promoted or learned, and the policy of L1 sees no use. What is not known is said
//! to be so: the memory of what was is bounded ([`fates`](super::fates), departures of L1), and Redis does not tell who wrote.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Cache,
    ahead::Prediction,
    fates::{LastRead, LastWrite, Writer},
    inspect::KeyInfo,
};
use crate::{
    clock::Tick,
    error::Result,
    l1::{Departure, Left, Residence, Resident},
    l2::{Ban, Described, Flavor},
    learn::recorder::Wrote,
    model::{Key, Outcome},
};

/// Why a tier did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// This node does not know, or has forgotten.
    Unknown,
    /// Nothing of it was seen here: no write, no copy.
    NeverSeen,
    /// Room was needed.
    Evicted,
    /// The key's own time was over.
    Expired,
    /// The copy was as old as `l1.max_age` allows.
    TooOld,
    /// It was written or deleted through this node.
    Written,
    /// It was deleted through this node.
    Deleted,
    /// Redis announced a change that did not come from here; that may have been its expiry.
    Announced,
    /// A pattern that it matches was invalidated.
    Banned,
    /// A tag that it was written under was invalidated.
    TagGone,
    /// All copies were ended: a flush, a failover, a link that was lost.
    Ended,
    /// L1 was closed: all changes are not known to have been heard.
    Closed,
    /// A policy, `l2.prefixes` or a limit keeps it out of L1.
    NotAllowed,
}

impl Why {
    /// As it stands in answers for programs.
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

/// The last user read that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRead {
    /// When; of a hit in L1 approximate.
    pub at: Tick,
    /// What came of it.
    pub outcome: Outcome,
    /// Why L1 did not answer; `None` if it did.
    pub not_l1: Option<Why>,
    /// Why L2 did not answer either, of a miss.
    pub not_l2: Option<Why>,
}

/// What the policy of a key gives it.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its pattern; `None`: no policy matches.
    pub pattern: Option<Bytes>,
    /// What the key is counted to.
    pub group: Arc<str>,
    /// Its template.
    pub template: String,
    /// Life of a write that brings none, as of now; a tuned one is up to a tenth off.
    pub write_ttl: Option<Duration>,
    /// Longest life of a write.
    pub max_ttl: Option<Duration>,
    /// What a read extends the life to.
    pub touch_on_read: Option<Duration>,
    /// Whether it may be in L1.
    pub l1: bool,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct Explained {
    /// When.
    pub now: Tick,
    /// The copy in L1.
    pub resident: Option<Resident>,
    /// It was prefetched, and nobody has used it yet.
    pub is_staged: bool,
    /// Why L1 has no copy that it would answer with; `None` if it has one.
    pub not_l1: Option<Why>,
    /// Whether L1 may answer anything.
    pub l1_open: bool,
    /// What L2 has; where there is none, what L1 as the store has.
    pub below: Result<Option<Described>>,
    /// Its tags, and whether each is as it was when the key was written.
    pub tags: Vec<(Bytes, bool)>,
    /// Open patterns that match.
    pub bans: Vec<Arc<Ban>>,
    /// See [`LastWrite`].
    pub write: Option<LastWrite>,
    /// See [`UserRead`].
    pub read: Option<UserRead>,
    /// What holds for keys like this one.
    pub rule: Rule,
    /// What would be fetched if it were missed now.
    pub predictions: Vec<Prediction>,
}

impl Cache {
    /// Everything that this node knows of a key. Changes nothing.
    pub async fn explain(&self, key: &Key) -> Explained {
        let below = self.l2.describe(std::slice::from_ref(key)).await.pop().unwrap_or(Ok(None));
        let head = match &below {
            Ok(Some(described)) => described.head.clone(),
            Ok(None) | Err(_) => Bytes::new(),
        };
        let resident = self.resident(key);
        let tags = match self.tags_now(&head).await {
            Ok(tags) => tags,
            // Their ids are not to be had now; those of a copy that L1 answers with are right.
            Err(_) => {
                let info = KeyInfo { below: below.clone(), resident: resident.clone() };
                let is_valid = resident.is_some();
                info.tags().into_iter().map(|tag| (tag, is_valid)).collect()
            }
        };
        let (core, now) = (&self.core, self.now());
        let bans: Vec<_> = self.open_bans().iter().filter(|ban| ban.matches(key)).cloned().collect();
        let (fate, rule) = (core.fates.of(key), self.rule_of(key));
        let context = Context {
            rule: &rule,
            flavor: core.flavor,
            tags_gone: tags.iter().any(|(_, is_valid)| !is_valid),
            banned_at: core.sweeps.last_matching(key),
        };
        let departure = core.l1.departure(key, now);
        let not_l1 = resident.is_none().then(|| context.not_l1(departure, fate.write, !fate.is_unread()));
        let read = context.last_read(resident.as_ref(), departure, fate.read);
        Explained {
            is_staged: core.l1.residence(key, now) == Residence::Staged,
            l1_open: core.gate.open(now),
            predictions: core.predict(key),
            write: fate.write,
            now,
            resident,
            not_l1,
            below,
            tags,
            bans,
            read,
            rule,
        }
    }

    fn rule_of(&self, key: &[u8]) -> Rule {
        let (core, rules) = (&self.core, self.core.rules.load());
        let policy = rules.policy(key);
        let (default, max_ttl) = rules.lives_of(key);
        let (_, template) = core.stats.groups.template_of(key);
        Rule {
            pattern: policy.map(|policy| policy.matches.pattern().clone()),
            group: core.stats.groups.name_of(key, &rules),
            template,
            write_ttl: core
                .tuned_mean(&rules, key)
                .or(default)
                .map_or(max_ttl, |ttl| Some(max_ttl.map_or(ttl, |max| ttl.min(max)))),
            max_ttl,
            touch_on_read: rules.slide_of(key),
            l1: rules.may_promote(key, b""),
        }
    }
}

/// What an explanation rests on beside the key's own fate.
struct Context<'a> {
    rule: &'a Rule,
    flavor: Flavor,
    tags_gone: bool,
    /// When a pattern that matches was invalidated last.
    banned_at: Option<Tick>,
}

impl Context<'_> {
    /// Why L1 did not answer, where this was the last write. `was_read`: there may have been a copy since.
    fn not_l1(&self, departure: Option<Departure>, write: Option<LastWrite>, was_read: bool) -> Why {
        let by_write = || match write {
            Some(LastWrite { what: Some(Wrote::Deletion), .. }) => Why::Deleted,
            Some(LastWrite { by: Writer::ThisNode, .. }) => Why::Written,
            Some(LastWrite { by: Writer::Elsewhere, .. }) => Why::Announced,
            None => Why::Unknown,
        };
        match departure.map(|departure| departure.left) {
            _ if !self.rule.l1 => Why::NotAllowed,
            // What left before the write is not why. Where L1 is the store, a write brings the copy.
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
            // There is a live copy that is not answered: its tags are gone or not known.
            None if self.tags_gone => Why::TagGone,
            None if !was_read && write.is_none() => Why::NeverSeen,
            None => Why::Unknown,
        }
    }

    fn is_store(&self) -> bool {
        self.flavor == Flavor::None
    }

    /// Why L2 had nothing at the read.
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

    /// The latest read that is known: one that L1 answered, or one that it did not.
    fn last_read(
        &self,
        resident: Option<&Resident>,
        departure: Option<Departure>,
        below: Option<LastRead>,
    ) -> Option<UserRead> {
        let used_at = match resident {
            Some(resident) => (resident.hit.hits > 0).then_some(resident.used_at),
            None => departure.and_then(|departure| departure.used_at),
        };
        match (used_at, below) {
            (Some(at), below) if below.is_none_or(|below| below.at <= at) => {
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
