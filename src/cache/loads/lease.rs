//! [`Cache::get_or_lease`]: a read that takes the load lease of a key that is absent or needs a refresh.
//!
//! | L1 | known load | answer | trips to L2 |
//! |---|---|---|---|
//! | fresh | | the value | 0 |
//! | needs a refresh | yes | the value | 0 |
//! | needs a refresh | no | the value, and the lease if no client holds it | 1 |
//! | absent | yes | the value that the other client loads | the read after it |
//! | absent | no | L2 decides: a value, or the lease | 1, then 1 |
//!
//! One caller of a node asks the store at a time; the others wait for its answer.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    WAITING_MAX,
    interest::{Asking, Known, KnownState, Seat},
    is_of_client, limits,
    times::LoadOutcome,
};
use crate::{
    access::Verbs,
    cache::{Cache, Found, Read, ReadOptions, TagNames, policy::Policy},
    clock::{Tick, millis},
    error::{CacheError, Kind, Result},
    l1::{Epoch, Hit},
    l2::{
        Stored,
        codec::{self, Tag},
        loads::{
            Acquire, Acquired, End, EndLoad, Holder, LeaseFence, LoadOp, LoadResult,
            local::is_fresh,
            token::{LeaseToken, checksum_of},
        },
    },
    model::{Key, Life, Tier},
};

/// Time that a caller waits for the load of another client, unless it specifies one.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(3);
/// Time after which a caller asks the store again if the store does not announce changes.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Maximum number of times that a request asks the store at once because a tag of the store's answer was invalid. It then waits
/// like a request for a key that another client loads.
const ACQUIRES_MAX: usize = 3;
/// Early refresh: nothing is drawn while the remaining fresh time is more than this multiple of β and the duration of
/// loads. The probability is then below 1 in 485 million.
const EARLY_SPAN: f64 = 20.0;

/// Request of one client for one key.
#[derive(Debug, Clone, Default)]
pub struct LeaseRequest {
    /// Last part of the key's life, in which the value needs a refresh. `None`: `stale` of the policy, otherwise zero.
    pub stale: Option<Duration>,
    /// Exclusive time of the lease, within [`limits::LEASE`]. `None`: by the policy, otherwise learned.
    pub lease: Option<Duration>,
    /// Maximum time to wait for the load of another client. `None`: [`WAIT_DEFAULT`].
    pub wait: Option<Duration>,
    /// Tags of the value to come.
    pub tags: TagNames,
    /// Treat a fresh value as stale.
    pub refresh: bool,
    /// Nonce of the client: a request with the same nonce receives the same lease. `None`: a random one.
    pub nonce: Option<Holder>,
    /// Accept a copy past the coherence bound while L2 is unavailable.
    pub stale_ok: bool,
    /// Maximum number of callers of this connection that may wait at a time.
    pub waiting_max: usize,
}

/// The part of a [`LeaseRequest`] that decides whether a value in L1 is the answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeaseNeeds {
    /// [`LeaseRequest::stale`].
    pub stale: Option<Duration>,
    /// [`LeaseRequest::refresh`].
    pub refresh: bool,
    /// [`LeaseRequest::nonce`].
    pub nonce: Option<Holder>,
}

impl LeaseRequest {
    /// Returns the part that decides whether a value in L1 is the answer.
    #[must_use]
    pub fn needs(&self) -> LeaseNeeds {
        LeaseNeeds { stale: self.stale, refresh: self.refresh, nonce: self.nonce }
    }
}

/// Permission to load a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Token for the fill; empty if the result of the load cannot be stored now.
    pub token: Bytes,
    /// Exclusive time.
    pub lease: Duration,
    /// Reason of the grant.
    pub reason: GrantReason,
}

/// Reason of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantReason {
    /// The key is absent.
    Miss,
    /// The value needs a refresh.
    Stale,
    /// The value will soon need a refresh.
    Early,
    /// The client requested a refresh.
    Forced,
    /// The exclusive time of another client has ended.
    Takeover,
}

/// Answer to a [`LeaseRequest`].
#[derive(Debug, Clone)]
pub enum LeaseAnswer {
    /// The key has a value.
    Hit {
        /// The value.
        found: Found,
        /// The value is in the last part of its life. With a grant, the client loads the key; without one, another client
        /// does.
        needs_refresh: bool,
        /// Permission to load the key.
        grant: Option<Grant>,
        /// Remaining time until the value needs a refresh; `None` without an expiry.
        fresh: Option<Duration>,
    },
    /// The key is absent and the client loads it.
    Load(Grant),
    /// Another client loads the key, and the waiting time is over.
    Busy {
        /// Time since the other client received its lease.
        leader_age: Duration,
        /// Mean duration of loads of the key's group, if it is known.
        expected: Option<Duration>,
    },
    /// The origin does not have the key.
    Absent {
        /// Remaining time of this answer.
        life: Duration,
    },
    /// The last load failed, and there is no value.
    Failed {
        /// Message of the failed load.
        message: Bytes,
        /// Time until a client may load the key.
        retry_after: Duration,
    },
}

/// What a request does with a value in L1.
#[derive(Debug, Clone, Copy)]
pub enum HitLook {
    /// The value is the answer. The fields are those of [`LeaseAnswer::Hit`].
    Answered {
        /// Another client refreshes the value.
        needs_refresh: bool,
        /// Remaining time until the value needs a refresh.
        fresh: Option<Duration>,
    },
    /// A lease may have to be taken, for this reason.
    Due(GrantReason),
}

/// A value in L1 for which a lease may have to be taken.
#[derive(Debug, Clone)]
pub struct Due {
    /// The value.
    pub found: Found,
    /// Reason of the load. An early refresh is drawn once per request: a second draw would square its probability.
    pub reason: GrantReason,
}

/// A request with the settings of the key's policy.
struct Plan<'a> {
    key: &'a Key,
    group: u8,
    freshness: Freshness,
    lease: Duration,
    holder: Holder,
    tags: &'a TagNames,
    /// True if the client may write the key with these tags.
    may_fill: bool,
}

/// The settings that decide whether a value needs a refresh.
#[derive(Debug, Clone, Copy, Default)]
pub struct Freshness {
    /// Last part of the key's life, in which the value needs a refresh.
    stale: Duration,
    /// Factor of the mean load time in the distribution of early refreshes.
    early: f64,
    /// Treat a fresh value as stale.
    refresh: bool,
}

/// Result of one attempt.
enum Step {
    Answer(LeaseAnswer),
    /// Wait for a change of the key, at most until this time.
    Wait {
        until: Option<Tick>,
        since: Tick,
    },
}

impl Cache {
    /// Reads a key, and takes its load lease if the key is absent or needs a refresh and no other client loads it. Waits
    /// for the load of another client if there is no value.
    ///
    /// The call counts as one user read.
    ///
    /// # Errors
    /// As [`Cache::get`]; `InvalidArgument` for a `lease` out of range, or for `stale` and a key whose policy has
    /// `touch_on_read`.
    pub async fn get_or_lease(&self, key: Key, request: LeaseRequest) -> Result<LeaseAnswer> {
        let now = self.now();
        let Some(hit) = self.get_from_l1(&key, now) else { return self.lease_missed(key, request, None).await };
        let look = self.look_at_hit(&key, &request.needs(), &hit, now)?;
        let found = Found::in_l1(hit, now);
        match look {
            HitLook::Answered { needs_refresh, fresh } => {
                Ok(LeaseAnswer::Hit { found, needs_refresh, grant: None, fresh })
            }
            HitLook::Due(reason) => self.lease_missed(key, request, Some(Due { found, reason })).await,
        }
    }

    /// Decides about a value that [`Cache::get_from_l1`] found. This is the hot path and never waits: it computes only what
    /// decides about the value.
    ///
    /// # Errors
    /// `InvalidArgument` for a stale part and a key whose policy has `touch_on_read`.
    #[inline]
    pub fn look_at_hit(&self, key: &Key, needs: &LeaseNeeds, hit: &Hit, now: Tick) -> Result<HitLook> {
        let freshness = self.freshness_of(key, needs)?;
        let life = hit.life(now);
        match self.reason_of_life(freshness, hit.group, life) {
            None => Ok(HitLook::Answered { needs_refresh: false, fresh: freshness.fresh_time(life) }),
            Some(reason) => Ok(self.look_at_due(key, needs, freshness.fresh_time(life), reason, now)),
        }
    }

    /// Decides about a value in L1 and a reason to load the key: another client may hold the lease.
    fn look_at_due(
        &self,
        key: &Key,
        needs: &LeaseNeeds,
        fresh: Option<Duration>,
        reason: GrantReason,
        now: Tick,
    ) -> HitLook {
        match self.core.loads.known(key, now) {
            Some(known) if needs.nonce.is_none_or(|nonce| !known.is_of(&nonce)) => {
                HitLook::Answered { needs_refresh: reason != GrantReason::Early, fresh }
            }
            Some(_) | None => HitLook::Due(reason),
        }
    }

    /// Returns the settings that decide whether a value of the key needs a refresh, for reads without options of their own.
    #[must_use]
    pub fn freshness(&self, key: &Key) -> Freshness {
        // The only error is a stale part of a key with a sliding TTL, which a policy cannot have.
        self.freshness_of(key, &LeaseNeeds::default()).unwrap_or_default()
    }

    #[inline]
    fn freshness_of(&self, key: &Key, needs: &LeaseNeeds) -> Result<Freshness> {
        if self.core.has_policies.load(Ordering::Acquire) {
            return Freshness::new(self.core.rules.load().policy(key), needs.stale, needs.refresh);
        }
        Freshness::new(None, needs.stale, needs.refresh)
    }

    /// Continues a request after [`Cache::get_from_l1`] and [`Cache::look_at_hit`] did not answer it.
    ///
    /// # Errors
    /// As [`Cache::get_or_lease`].
    pub async fn lease_missed(&self, key: Key, request: LeaseRequest, first: Option<Due>) -> Result<LeaseAnswer> {
        self.principal().check(Verbs::READ, &key)?;
        let plan = self.plan(&key, &request)?;
        self.lease_slowly(&plan, first, &request).await
    }

    /// Returns the request with the settings of the policy.
    fn plan<'a>(&self, key: &'a Key, request: &'a LeaseRequest) -> Result<Plan<'a>> {
        let rules = self.core.rules.load();
        let policy = rules.policy(key);
        let group = self.core.group_of(key);
        let lease = request.lease.map(|lease| limits::LEASE.check("lease", lease)).transpose()?;
        let freshness = Freshness::new(policy, request.stale, request.refresh)?;
        let lease = lease.or_else(|| policy.and_then(|policy| policy.lease));
        let may_fill = is_of_client(key)
            && self.principal().may(Verbs::WRITE, key)
            && request.tags.iter().all(|tag| self.principal().check_tag(tag).is_ok());
        Ok(Plan {
            key,
            group,
            freshness,
            lease: lease.unwrap_or_else(|| self.core.loads.times.lease(group)),
            holder: request.nonce.unwrap_or_else(|| fastrand::u128(..).to_be_bytes()),
            tags: &request.tags,
            may_fill,
        })
    }

    /// Answers a request that a fresh copy in L1 did not answer.
    async fn lease_slowly(
        &self,
        plan: &Plan<'_>,
        mut first: Option<Due>,
        request: &LeaseRequest,
    ) -> Result<LeaseAnswer> {
        let begun = Instant::now();
        let until = begun + request.wait.unwrap_or(WAIT_DEFAULT);
        let (mut waits, mut is_counted) = (None, first.is_some());
        loop {
            let mut seat = self.core.loads.attend(plan.key, self.now());
            let changed = Arc::clone(&seat.changed);
            let mut changed = pin!(changed.notified());
            changed.as_mut().enable();
            seat.watch();
            let (found, reason) = match first.take() {
                Some(Due { found, reason }) => (Some(found), Some(reason)),
                None => {
                    let is_first = !std::mem::replace(&mut is_counted, true);
                    let found = self.look(plan.key, request.stale_ok, is_first).await?;
                    let reason = self.reason(plan.freshness, plan.group, found.as_ref());
                    (found, reason)
                }
            };
            match self.step(plan, &seat, found, reason).await? {
                Step::Answer(answer) => {
                    if waits.is_some() && matches!(answer, LeaseAnswer::Hit { .. }) {
                        self.core.loads.times.count(plan.group, LoadOutcome::Waited);
                    }
                    return Ok(answer);
                }
                Step::Wait { until: known, since } => {
                    let now = Instant::now();
                    if waits.is_none() {
                        waits = Waiting::begin(self, request.waiting_max);
                    }
                    if now >= until || waits.is_none() || self.core.loads.is_draining() {
                        return Ok(self.busy(plan, since));
                    }
                    let ask_at = self.ask_again_at(plan.key, known, now).min(until);
                    // Either way, the next step decides.
                    let _changed_or_late = tokio::time::timeout_at(ask_at, changed).await;
                }
            }
        }
    }

    /// Reads the key; only the first read of a call is counted.
    async fn look(&self, key: &Key, stale_ok: bool, is_counted: bool) -> Result<Option<Found>> {
        let read = if is_counted {
            let options = ReadOptions { want_meta: true, stale_ok, ..ReadOptions::default() };
            self.read_missed(key.clone(), options).await?
        } else {
            self.read_again(key.clone()).await?
        };
        Ok(match read {
            Read::Found(found) => Some(found),
            Read::Missing => None,
        })
    }

    /// Returns the time at which a waiting caller asks again if nothing is announced until then.
    fn ask_again_at(&self, key: &Key, known_until: Option<Tick>, now: Instant) -> Instant {
        let known = known_until.map(|until| now + until.since(self.now()));
        let is_announced = self.fill_epoch(key, self.now()).is_some() && !self.core.rules.load().untracked;
        match known {
            // One more millisecond, because the store rounds down.
            Some(until) if is_announced => until + Duration::from_millis(1),
            Some(until) => until.min(now + ASK_EVERY),
            None => now + ASK_EVERY,
        }
    }

    fn busy(&self, plan: &Plan<'_>, since: Tick) -> LeaseAnswer {
        self.core.loads.times.count(plan.group, LoadOutcome::Busy);
        let expected = self.core.loads.times.mean(plan.group);
        LeaseAnswer::Busy { leader_age: self.now().since(since), expected }
    }

    /// Decides about one read and the reason to load the key: an answer, or a wait.
    async fn step(
        &self,
        plan: &Plan<'_>,
        seat: &Seat<'_>,
        found: Option<Found>,
        reason: Option<GrantReason>,
    ) -> Result<Step> {
        let Some(reason) = reason else {
            // Without a reason, there is a value.
            return Ok(
                found.map_or(Step::Wait { until: None, since: self.now() }, |found| Step::Answer(plan.fresh(found)))
            );
        };
        let now = self.now();
        if let Some(known) = self.core.loads.known(plan.key, now)
            && let Some(step) = self.step_known(plan, known, found.as_ref(), reason, now)
        {
            return Ok(step);
        }
        if !plan.may_fill {
            return Ok(Step::Answer(self.without_lease(plan, found, reason)));
        }
        match seat.ask() {
            Some(asking) => self.step_asking(plan, &asking, found, reason).await,
            // Another caller of this node asks.
            None => Ok(found.map_or(Step::Wait { until: None, since: now }, |found| {
                Step::Answer(plan.hit(found, reason != GrantReason::Early, None))
            })),
        }
    }

    /// Returns the reason to load the key; `None` for a value that needs no refresh.
    fn reason(&self, freshness: Freshness, group: u8, found: Option<&Found>) -> Option<GrantReason> {
        let Some(found) = found else { return Some(GrantReason::Miss) };
        if found.stale {
            // L2 is away: nothing can be stored.
            return None;
        }
        self.reason_of_life(freshness, group, found.life)
    }

    /// Returns the reason to load a key with a value of this remaining life.
    #[inline]
    fn reason_of_life(&self, freshness: Freshness, group: u8, life: Life) -> Option<GrantReason> {
        if !is_fresh(life, freshness.stale) {
            return Some(GrantReason::Stale);
        }
        if freshness.refresh {
            return Some(GrantReason::Forced);
        }
        freshness.is_early(life, self.core.loads.times.mean(group)).then_some(GrantReason::Early)
    }

    /// Decides by what this node knows about the load of the key.
    fn step_known(
        &self,
        plan: &Plan<'_>,
        known: Known,
        found: Option<&Found>,
        reason: GrantReason,
        now: Tick,
    ) -> Option<Step> {
        // The client repeats its request: the store returns its lease again.
        if known.is_of(&plan.holder) {
            return None;
        }
        if let Some(found) = found {
            return Some(Step::Answer(plan.hit(found.clone(), reason != GrantReason::Early, None)));
        }
        match known.state {
            KnownState::Loading { since, .. } => Some(Step::Wait { until: Some(known.until), since }),
            KnownState::Failed { message } => {
                self.core.loads.times.count(plan.group, LoadOutcome::Failed);
                Some(Step::Answer(LeaseAnswer::Failed { message, retry_after: known.until.since(now) }))
            }
            KnownState::Absent { head, epoch, ends_at } => {
                let is_valid =
                    !plan.freshness.refresh && self.core.l1.is_open(epoch, now) && self.knows_tags(&head, now);
                if !is_valid {
                    return None;
                }
                self.core.loads.times.count(plan.group, LoadOutcome::Absent);
                Some(Step::Answer(LeaseAnswer::Absent { life: ends_at.since(now) }))
            }
        }
    }

    /// Returns whether L1 has all tag ids of a header with the same values.
    fn knows_tags(&self, head: &[u8], now: Tick) -> bool {
        head.is_empty() || self.core.has_valid_head(head, now)
    }

    /// Asks the store for the lease.
    async fn step_asking(
        &self,
        plan: &Plan<'_>,
        asking: &Asking<'_>,
        found: Option<Found>,
        reason: GrantReason,
    ) -> Result<Step> {
        let asked_at = self.now();
        let epoch = self.fill_epoch(plan.key, asked_at);
        let mut request = Acquire {
            stale: plan.freshness.stale,
            lease: plan.lease,
            holder: plan.holder,
            generation: fastrand::u64(1..),
            force: matches!(reason, GrantReason::Forced | GrantReason::Early),
            ignore_absent: false,
        };
        if reason == GrantReason::Early
            && !self.core.loads.times.begin_refresh(plan.group, asked_at, asked_at.plus(plan.lease))
        {
            return Ok(
                found.map_or(Step::Wait { until: None, since: asked_at }, |found| Step::Answer(plan.fresh(found)))
            );
        }
        for _ in 0..ACQUIRES_MAX {
            let tag_ids = match self.tag_ids(plan).await {
                Ok(ids) => ids,
                Err(error) => return self.refused(plan, found, reason, error),
            };
            let acquired = match self.acquire(plan, request.clone()).await {
                Ok(acquired) => acquired,
                Err(error) => return self.refused(plan, found, reason, error),
            };
            if let Acquired::Absent { head, .. } = &acquired
                && !self.has_valid_tags_now(head).await?
            {
                request.ignore_absent = true;
                continue;
            }
            let Some(acquired) = self.without_dead_value(acquired).await? else { continue };
            return Ok(self.settle(plan, asking, acquired, found, reason, (asked_at, epoch, &tag_ids)));
        }
        Ok(Step::Wait { until: None, since: asked_at })
    }

    /// Removes a value with an invalidated tag from an answer of the store: another node can store such a value after this
    /// node has removed what was invalid ([`Cache::bury_dead`]). Returns `None` if the store must be asked
    /// again.
    async fn without_dead_value(&self, mut acquired: Acquired) -> Result<Option<Acquired>> {
        let stored = match &mut acquired {
            Acquired::Fresh(stored) => {
                let is_valid = self.has_valid_tags_now(stored.value.head()).await?;
                return Ok(is_valid.then_some(acquired));
            }
            Acquired::Granted { stored, .. } | Acquired::Busy { stored, .. } | Acquired::Failed { stored, .. } => {
                stored
            }
            Acquired::Absent { .. } => return Ok(Some(acquired)),
        };
        if let Some(value) = stored
            && !self.has_valid_tags_now(value.value.head()).await?
        {
            *stored = None;
        }
        Ok(Some(acquired))
    }

    /// Returns whether the tags in a header still have their ids.
    async fn has_valid_tags_now(&self, head: &[u8]) -> Result<bool> {
        Ok(self.tags_now(head).await?.iter().all(|(_, is_valid)| *is_valid))
    }

    /// Returns the ids of the tags of the value to come, in the order of their names.
    async fn tag_ids(&self, plan: &Plan<'_>) -> Result<Vec<Tag>> {
        if plan.tags.is_empty() { Ok(Vec::new()) } else { self.tags_for_writing(plan.tags).await }
    }

    /// Sends the request to the store. If the caller leaves before the answer, the lease is released.
    async fn acquire(&self, plan: &Plan<'_>, request: Acquire) -> Result<Acquired> {
        let _access = self.shared_access().await;
        self.bury_dead(std::slice::from_ref(plan.key)).await?;
        let mut release = ReleaseOnDrop { cache: self, key: plan.key, holder: Some(plan.holder) };
        let result = self.l2.load(plan.key.clone(), LoadOp::Acquire(request)).await;
        if !result.as_ref().is_err_and(|error| error.kind() == Kind::Unknown) {
            release.holder = None;
        }
        match result? {
            LoadResult::Acquired(acquired) => Ok(acquired),
            LoadResult::Filled(_) | LoadResult::Ended(_) => Err(unexpected()),
        }
    }

    /// Converts the store's reply into a step, and keeps what this node learned.
    fn settle(
        &self,
        plan: &Plan<'_>,
        asking: &Asking<'_>,
        acquired: Acquired,
        found: Option<Found>,
        reason: GrantReason,
        (asked_at, epoch, tags): (Tick, Option<Epoch>, &[Tag]),
    ) -> Step {
        let now = self.now();
        let counted = |outcome| self.core.loads.times.count(plan.group, outcome);
        if reason == GrantReason::Early && !matches!(acquired, Acquired::Granted { .. }) {
            self.core.loads.times.end_refresh(plan.group);
        }
        // Another client may have changed the value since it was read.
        let newest = |stored: Option<Stored>| stored.map(in_l2).or(found.clone());
        let hit = |stored: Option<Stored>| {
            newest(stored).map(|found| Step::Answer(plan.hit(found, reason != GrantReason::Early, None)))
        };
        match acquired {
            Acquired::Fresh(stored) => Step::Answer(plan.fresh(in_l2(stored))),
            Acquired::Granted { stored, fence, lease, taken_over } => {
                let reason = if taken_over { GrantReason::Takeover } else { reason };
                counted(if fence.is_some() { LoadOutcome::of_grant(reason) } else { LoadOutcome::Unfenced });
                if fence.is_some() {
                    let state = KnownState::Loading { since: now, holder: plan.holder };
                    asking.learn(Known { state, until: now.plus(lease) });
                    self.leases.add(plan.key, plan.holder, now.plus(lease), now);
                }
                let grant = plan.grant(fence, lease, reason, tags);
                Step::Answer(match newest(stored) {
                    Some(value) => plan.hit(value, reason != GrantReason::Early, Some(grant)),
                    None => LeaseAnswer::Load(grant),
                })
            }
            Acquired::Busy { stored, age, left, holder } => {
                let since = Tick(now.0.saturating_sub(millis(age)));
                let until = now.plus(left.max(Duration::from_millis(1)));
                asking.learn(Known { state: KnownState::Loading { since, holder }, until });
                hit(stored).unwrap_or(Step::Wait { until: Some(until), since })
            }
            Acquired::Failed { stored, message, retry_after } => {
                let state = KnownState::Failed { message: message.clone() };
                asking.learn(Known { state, until: now.plus(retry_after) });
                hit(stored).unwrap_or_else(|| {
                    counted(LoadOutcome::Failed);
                    Step::Answer(LeaseAnswer::Failed { message, retry_after })
                })
            }
            Acquired::Absent { life, head } => {
                let ends_at = asked_at.plus(life);
                if let Some(epoch) = epoch {
                    let until = self.core.deadline_of(plan.key, ends_at, asked_at).min(ends_at);
                    asking.learn(Known { state: KnownState::Absent { head, epoch, ends_at }, until });
                }
                hit(None).unwrap_or_else(|| {
                    counted(LoadOutcome::Absent);
                    Step::Answer(LeaseAnswer::Absent { life })
                })
            }
        }
    }

    /// Answers a request whose lease the store refused. A read does not fail because L2 accepts no writes. Without L2 there
    /// is no answer for an absent key, as for a Get: otherwise all callers would load.
    fn refused(&self, plan: &Plan<'_>, found: Option<Found>, reason: GrantReason, error: CacheError) -> Result<Step> {
        let is_readable = matches!(error.kind(), Kind::OutOfMemory | Kind::NoAccess | Kind::Unsupported);
        if found.is_none() && !is_readable {
            return Err(error);
        }
        Ok(Step::Answer(self.without_lease(plan, found, reason)))
    }

    /// Returns the answer if no lease can be taken: the value, or a grant without a token.
    fn without_lease(&self, plan: &Plan<'_>, found: Option<Found>, reason: GrantReason) -> LeaseAnswer {
        match found {
            Some(found) => plan.hit(found, reason != GrantReason::Early, None),
            None => {
                self.core.loads.times.count(plan.group, LoadOutcome::Unfenced);
                LeaseAnswer::Load(plan.grant(None, plan.lease, reason, &[]))
            }
        }
    }

    /// Returns the number of callers that wait for the loads of other clients.
    #[must_use]
    pub fn load_waiters(&self) -> usize {
        self.core.loads.waiting()
    }
}

impl Freshness {
    /// Returns the settings for a request to a key with this policy.
    ///
    /// # Errors
    /// `InvalidArgument` for a stale part and a policy with `touch_on_read`.
    #[inline]
    fn new(policy: Option<&Policy>, stale: Option<Duration>, refresh: bool) -> Result<Self> {
        match policy {
            None => Ok(Self { stale: stale.unwrap_or_default(), early: 1.0, refresh }),
            Some(policy) => Self::by_policy(policy, stale, refresh),
        }
    }

    fn by_policy(policy: &Policy, stale: Option<Duration>, refresh: bool) -> Result<Self> {
        let stale = policy.stale_part(stale)?;
        let stale = policy.max_ttl.map_or(stale, |max| stale.min(max / 2));
        Ok(Self { stale, early: policy.early, refresh })
    }

    /// Draws whether a fresh value is refreshed early: with the probability exp(-remaining / (β δ)), where δ is the mean
    /// duration of loads.
    #[inline]
    fn is_early(self, life: Life, mean: Option<Duration>) -> bool {
        let (Life::For(left), Some(mean)) = (life, mean) else { return false };
        let scale = self.early * mean.as_secs_f64();
        let remaining = left.saturating_sub(self.stale).as_secs_f64();
        remaining <= EARLY_SPAN * scale && draws_early(remaining, scale)
    }

    /// Returns the time until a value needs a refresh; `None` without an expiry.
    #[inline]
    #[must_use]
    pub fn fresh_time(self, life: Life) -> Option<Duration> {
        match life {
            Life::Forever => None,
            Life::For(left) => Some(left.saturating_sub(self.stale)),
        }
    }
}

fn draws_early(remaining: f64, scale: f64) -> bool {
    scale > 0.0 && fastrand::f64() < (-remaining / scale).exp()
}

impl Plan<'_> {
    fn fresh(&self, found: Found) -> LeaseAnswer {
        self.hit(found, false, None)
    }

    fn hit(&self, found: Found, needs_refresh: bool, grant: Option<Grant>) -> LeaseAnswer {
        LeaseAnswer::Hit { fresh: self.freshness.fresh_time(found.life), found, needs_refresh, grant }
    }

    fn grant(&self, fence: Option<LeaseFence>, lease: Duration, reason: GrantReason, tags: &[Tag]) -> Grant {
        let token = fence.map_or_else(Bytes::new, |fence| {
            let tag_ids = tags.iter().map(|tag| tag.id).collect();
            LeaseToken { holder: self.holder, fence, tag_ids, tag_names: checksum_of(self.tags.iter()) }.encode()
        });
        Grant { token, lease, reason }
    }
}

impl LoadOutcome {
    fn of_grant(reason: GrantReason) -> Self {
        match reason {
            GrantReason::Miss => Self::Miss,
            GrantReason::Stale => Self::Stale,
            GrantReason::Early => Self::Early,
            GrantReason::Forced => Self::Forced,
            GrantReason::Takeover => Self::Takeover,
        }
    }
}

/// Releases a lease whose request has no known result.
struct ReleaseOnDrop<'a> {
    cache: &'a Cache,
    key: &'a Key,
    holder: Option<Holder>,
}

impl Drop for ReleaseOnDrop<'_> {
    fn drop(&mut self) {
        let Some(holder) = self.holder else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (l2, core, key) = (self.cache.l2.clone(), self.cache.core.clone(), self.key.clone());
        runtime.spawn(async move {
            // Without an answer, the lease ends with its time.
            let _released = l2.load(key.clone(), LoadOp::End(EndLoad { holder, end: End::Released })).await;
            core.loads.changed(&key);
        });
    }
}

/// The place of a caller that waits.
struct Waiting {
    cache: Cache,
}

impl Waiting {
    /// Takes a place; `None` if the connection or the server has too many waiting callers.
    fn begin(cache: &Cache, most: usize) -> Option<Self> {
        let place = |count: &AtomicUsize, most: usize| {
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < most).then_some(now + 1)).is_ok()
        };
        if !place(&cache.leases.waiting, most) {
            return None;
        }
        if !place(&cache.core.loads.waiting, WAITING_MAX) {
            cache.leases.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self { cache: cache.clone() })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.cache.leases.waiting.fetch_sub(1, Ordering::Relaxed);
        self.cache.core.loads.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn in_l2(stored: Stored) -> Found {
    Found { value: stored.value, tier: Tier::L2, stale: false, life: stored.life, age: Duration::ZERO, l1_hits: 0 }
}

/// Returns the header of an entry with these tags.
pub(super) fn head_of(tags: &[Tag]) -> Bytes {
    if tags.is_empty() { Bytes::new() } else { codec::head_of(tags) }
}

pub(super) fn unexpected() -> CacheError {
    CacheError::new(Kind::Internal, "L2 answered a lease operation with the result of another operation")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{Condition, Core, Op, Rules, SetExpiry, l1_store::CoreStore},
        clock::Clock,
        l1::{PolicyKind, Settings},
        l2::{Backend, Flavor, none::NoneBackend},
    };

    /// Number of requests, and the probability of an early refresh of each.
    const REQUESTS: u32 = 2_000;
    const PROBABILITY: f64 = 0.3;

    /// Creates a cache without L2 whose key `k` has a value, with the TTL at which [`PROBABILITY`] of the requests are
    /// early refreshes. The clock stands still.
    async fn cache_with_early_refreshes() -> Cache {
        let (clock, _) = Clock::manual();
        let settings = Settings { capacity_bytes: 1 << 20, max_entries: None, policy: PolicyKind::Lru };
        let core = Core::new(settings, Flavor::None, Rules::new(1 << 20, Duration::MAX), clock);
        let mean = Duration::from_secs(100);
        for _ in 0..8 {
            core.loads.times.record(core.group_of(b"k"), mean);
        }
        let cache = Cache::new(core.clone(), NoneBackend::new(CoreStore::new(&core)) as Arc<dyn Backend>);
        let expiry = SetExpiry::In(mean.mul_f64(-PROBABILITY.ln()));
        let value = Bytes::from_static(b"v");
        let set = Op::Set { value, expiry, condition: Condition::Always, want_old: false };
        cache.write(Key::copied(b"k").unwrap(), set).await.unwrap();
        cache
    }

    #[tokio::test]
    async fn an_early_refresh_is_drawn_once_per_request() {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        fastrand::seed(seed);
        let cache = cache_with_early_refreshes().await;
        let key = Key::copied(b"k").unwrap();
        let mut early = 0;
        for _ in 0..REQUESTS {
            let answer = cache.get_or_lease(key.clone(), LeaseRequest::default()).await.unwrap();
            let LeaseAnswer::Hit { grant, .. } = answer else { panic!("no value: {answer:?}") };
            if let Some(grant) = grant {
                assert_eq!(grant.reason, GrantReason::Early);
                early += 1;
                cache.release(key.clone(), &grant.token, None).await.unwrap();
            }
        }
        // The expected number is 600, and 180 with two draws; the bounds are 9 standard deviations from both.
        assert!((400..800).contains(&early), "{early} early refreshes of {REQUESTS} requests");
    }
}
