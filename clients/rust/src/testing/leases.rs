//! Load leases of the fake, with the rules of the server.

use std::{collections::HashMap, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use terrace_proto::{
    Absent, FillRequest, FillResponse, Grant, GrantReason, LeaseAbsent, LeaseBusy, LeaseFailed, LeaseHit, LeaseItem,
    LeaseLoad, NotFilled, NotFilledReason, ReleaseRequest, ReleaseResponse, fill_request::Loaded, fill_response,
    get_or_lease_response::Result as Leased,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    limits::{self, Checked, invalid},
    state::{Meta, State},
};
use crate::{glob::Glob, operations::to_ms};

/// Exclusive time of a lease unless the request has one: that of a server that does not know the duration of loads.
const LEASE_DEFAULT: Duration = Duration::from_secs(10);
/// Time that a record outlives the exclusive time of its lease.
const GRACE: Duration = Duration::from_secs(60);
/// Time after the first failed load in which no client may load the key; it doubles with each further failure.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Maximum time after a failed load in which no client may load the key, unless the client specifies a longer one.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Size in bytes of a token without tag ids.
const TOKEN_BYTES: usize = 32;

/// The nonce of a client that holds a lease.
type Holder = [u8; 16];

/// Records of keys that are or were loaded.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<Bytes, Record>);

#[derive(Debug)]
struct Record {
    state: RecordState,
    /// Time at which the record is forgotten.
    until: Duration,
}

#[derive(Debug)]
enum RecordState {
    Loading(Loading),
    Absent { tags: Vec<Bytes> },
    Failed { failures: u32, message: String, retry_at: Duration },
}

#[derive(Debug, Clone, Copy)]
struct Loading {
    generation: u64,
    holder: Holder,
    granted_at: Duration,
    exclusive_until: Duration,
    failures: u32,
}

impl Leases {
    pub(super) fn expire(&mut self, now: Duration) {
        self.0.retain(|_, record| now < record.until);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Ends the lease of a key that is written.
    pub(super) fn forget(&mut self, key: &[u8]) {
        self.0.remove(key);
    }

    pub(super) fn forget_matching(&mut self, glob: &Glob) {
        self.0.retain(|key, _| !glob.matches(key));
    }

    /// Ends the negative answers with a tag.
    pub(super) fn forget_tag(&mut self, tag: &Bytes) {
        self.0.retain(|_, record| !matches!(&record.state, RecordState::Absent { tags } if tags.contains(tag)));
    }
}

/// A validated request for a lease.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) key: Bytes,
    pub(super) wait: Duration,
    stale: Duration,
    lease: Duration,
    holder: Holder,
    /// Sorted.
    tags: Vec<Bytes>,
    refresh: bool,
    want_meta: bool,
}

impl Plan {
    pub(super) fn new(request: terrace_proto::GetOrLeaseRequest) -> Checked<Self> {
        limits::check_key(&request.key)?;
        let tags = limits::entry_tags(request.tags)?;
        let wait = limits::within(&limits::WAIT, "wait_ms", request.wait_ms)?;
        let stale = limits::within(&limits::STALE, "stale_ms", request.stale_ms)?;
        let lease = limits::within(&limits::LEASE, "lease_ms", request.lease_ms)?;
        let holder = limits::nonce(request.nonce.as_ref())?;
        Ok(Self {
            key: request.key,
            wait: wait.unwrap_or(Duration::from_secs(3)),
            stale: stale.unwrap_or_default(),
            lease: lease.unwrap_or(LEASE_DEFAULT),
            holder: holder.unwrap_or_else(|| fastrand::u128(..).to_be_bytes()),
            tags,
            refresh: request.refresh,
            want_meta: request.want_meta,
        })
    }

    /// Returns the request for one key of many, which never waits.
    pub(super) fn of_item(item: LeaseItem, common: &terrace_proto::GetOrLeaseManyRequest) -> Checked<Self> {
        Self::new(terrace_proto::GetOrLeaseRequest {
            key: item.key,
            tags: item.tags,
            nonce: item.nonce,
            wait_ms: Some(0),
            stale_ms: common.stale_ms,
            lease_ms: common.lease_ms,
            refresh: common.refresh,
            want_meta: common.want_meta,
        })
    }
}

/// What a grant carries to its fill.
struct Token {
    generation: u64,
    holder: Holder,
    /// Hash of the names of the tags.
    names: u64,
    /// Ids of the tags at the time of the grant, in the order of the names.
    ids: Vec<u64>,
}

impl Token {
    fn encode(&self) -> Bytes {
        let mut token = BytesMut::with_capacity(TOKEN_BYTES + 8 * self.ids.len());
        token.put_u64(self.generation);
        token.put_slice(&self.holder);
        token.put_u64(self.names);
        self.ids.iter().for_each(|id| token.put_u64(*id));
        token.freeze()
    }

    fn decode(token: &[u8]) -> Option<Self> {
        let (numbers, rest) = token.as_chunks::<8>();
        let [generation, first, second, names, ids @ ..] = numbers else { return None };
        let mut holder = [0; 16];
        holder[..8].copy_from_slice(first);
        holder[8..].copy_from_slice(second);
        let ids = ids.iter().map(|id| u64::from_be_bytes(*id)).collect();
        let token =
            Self { generation: u64::from_be_bytes(*generation), holder, names: u64::from_be_bytes(*names), ids };
        rest.is_empty().then_some(token)
    }
}

fn hash_of(tags: &[Bytes]) -> u64 {
    let names: Vec<u8> = tags.iter().flat_map(|tag| [&[tag.len() as u8][..], tag].concat()).collect();
    xxh3_64(&names)
}

impl State {
    /// Reads a key, and takes its lease if it is absent or needs a refresh. Returns `None` if the caller has to wait for
    /// the load of another client; with `is_late`, the answer is `busy` instead.
    pub(super) fn take_lease(&mut self, plan: &Plan, is_late: bool) -> Option<Leased> {
        let Some(reason) = self.reason(plan) else {
            return Some(self.hit(plan, false, None));
        };
        let has_value = reason != GrantReason::Miss;
        let now = self.now;
        match self.leases.0.get(&plan.key).map(|record| (&record.state, record.until)) {
            Some((RecordState::Absent { .. }, until)) if !has_value && !plan.refresh => {
                self.counts.leases.absent += 1;
                Some(Leased::Absent(LeaseAbsent { ttl_ms: to_ms(until.saturating_sub(now)) }))
            }
            Some((RecordState::Absent { .. }, _)) | None => Some(self.grant(plan, reason, 0)),
            Some((RecordState::Failed { failures, message, retry_at }, _)) => {
                let (failures, message, left) = (*failures, message.clone(), retry_at.saturating_sub(now));
                Some(self.after_failure(plan, reason, failures, message, left))
            }
            Some((RecordState::Loading(loading), _)) => {
                let loading = *loading;
                self.during_load(plan, loading, reason, is_late)
            }
        }
    }

    /// Returns the reason to load a key; `None` for a value that needs no refresh.
    fn reason(&self, plan: &Plan) -> Option<GrantReason> {
        let Some(entry) = self.entries.get(&plan.key) else { return Some(GrantReason::Miss) };
        if entry.left(self.now).is_some_and(|left| left < plan.stale) {
            return Some(GrantReason::Stale);
        }
        plan.refresh.then_some(GrantReason::Forced)
    }

    /// Answers a request for a key whose last load failed. `left` is the remaining time without loads.
    fn after_failure(
        &mut self,
        plan: &Plan,
        reason: GrantReason,
        failures: u32,
        message: String,
        left: Duration,
    ) -> Leased {
        if left.is_zero() {
            return self.grant(plan, reason, failures);
        }
        if reason != GrantReason::Miss {
            return self.hit(plan, true, None);
        }
        self.counts.leases.failed += 1;
        Leased::Failed(LeaseFailed { message, retry_after_ms: to_ms(left) })
    }

    /// Answers a request for a key with a lease.
    fn during_load(&mut self, plan: &Plan, loading: Loading, reason: GrantReason, is_late: bool) -> Option<Leased> {
        if self.now >= loading.exclusive_until {
            return Some(self.grant(plan, GrantReason::Takeover, loading.failures));
        }
        if loading.holder == plan.holder {
            // The client repeats its request.
            let left = loading.exclusive_until.saturating_sub(self.now);
            return Some(self.granted(plan, loading.generation, left, reason));
        }
        if reason != GrantReason::Miss {
            return Some(self.hit(plan, true, None));
        }
        if !is_late {
            return None;
        }
        self.counts.leases.busy += 1;
        let leader_age_ms = to_ms(self.now.saturating_sub(loading.granted_at));
        Some(Leased::Busy(LeaseBusy { leader_age_ms, expected_ms: None }))
    }

    /// Begins a lease. A takeover keeps the number of the lease, so that the first fill of both clients is stored.
    fn grant(&mut self, plan: &Plan, reason: GrantReason, failures: u32) -> Leased {
        let known = match self.leases.0.get(&plan.key).map(|record| &record.state) {
            Some(RecordState::Loading(loading)) => Some(loading.generation),
            Some(RecordState::Absent { .. } | RecordState::Failed { .. }) | None => None,
        };
        let generation = known.unwrap_or_else(|| self.new_id());
        let exclusive_until = self.now + plan.lease;
        let loading = Loading { generation, holder: plan.holder, granted_at: self.now, exclusive_until, failures };
        let record = Record { state: RecordState::Loading(loading), until: exclusive_until + GRACE };
        self.leases.0.insert(plan.key.clone(), record);
        let counts = &mut self.counts.leases;
        let count = match reason {
            GrantReason::Stale => &mut counts.granted_stale,
            GrantReason::Early => &mut counts.granted_early,
            GrantReason::Forced => &mut counts.granted_forced,
            GrantReason::Takeover => &mut counts.granted_takeover,
            GrantReason::Miss | GrantReason::Unspecified => &mut counts.granted_miss,
        };
        *count += 1;
        self.granted(plan, generation, plan.lease, reason)
    }

    fn granted(&mut self, plan: &Plan, generation: u64, lease: Duration, reason: GrantReason) -> Leased {
        let ids = plan.tags.iter().map(|tag| self.tag_id(tag)).collect();
        let token = Token { generation, holder: plan.holder, names: hash_of(&plan.tags), ids }.encode();
        let grant = Grant { token, lease_ms: to_ms(lease), reason: reason.into() };
        if self.entries.contains_key(&plan.key) {
            self.hit(plan, true, Some(grant))
        } else {
            self.reads.miss += 1;
            Leased::Load(LeaseLoad { grant: Some(grant) })
        }
    }

    fn hit(&mut self, plan: &Plan, needs_refresh: bool, grant: Option<Grant>) -> Leased {
        let left = self.entries.get(&plan.key).and_then(|entry| entry.left(self.now));
        let fresh_ms = left.map(|left| to_ms(left.saturating_sub(plan.stale)));
        let meta = if plan.want_meta { Meta::With } else { Meta::Without };
        let mut found = self.read(&plan.key, meta, true);
        if let Some(found) = found.as_mut().filter(|_| plan.want_meta) {
            found.fresh_ms = fresh_ms;
        }
        Leased::Hit(LeaseHit { found, needs_refresh, grant, fresh_ms })
    }

    /// Stores the result of a load, if the lease is still valid.
    pub(super) fn fill(&mut self, request: FillRequest) -> Checked<FillResponse> {
        limits::check_key(&request.key)?;
        let ttl = limits::ttl(request.ttl_ms)?;
        let stale = limits::within(&limits::STALE, "stale_ms", request.stale_ms)?;
        let tags = limits::entry_tags(request.tags)?;
        limits::check_token(&request.token)?;
        match &request.loaded {
            None => return Err(invalid("loaded is not set; set value or absent")),
            Some(Loaded::Absent(_)) if ttl.is_none() => {
                return Err(invalid("a negative answer requires a TTL, or negative_ttl in the policy of the key"));
            }
            Some(Loaded::Value(value)) => limits::check_value(value)?,
            Some(Loaded::Absent(_)) => {}
        }
        self.counts.add_load(&request.key);
        let Some(token) = Token::decode(&request.token) else { return Ok(self.lease_lost()) };
        if token.names != hash_of(&tags) {
            return Err(invalid("tags differ from the tags of the request that returned the token"));
        }
        if !self.end_lease(&request.key, |loading| loading.generation == token.generation) {
            return Ok(self.lease_lost());
        }
        if !self.have_ids(&tags, &token.ids) {
            // The server replaces the entry by one whose tags are not valid.
            self.remove(&request.key);
            self.counts.leases.invalidated += 1;
            return Ok(not_filled(NotFilledReason::Invalidated));
        }
        match request.loaded {
            Some(Loaded::Absent(Absent {})) => self.store_absence(&request.key, tags, ttl),
            Some(Loaded::Value(value)) => {
                let life = ttl.map(|ttl| ttl.saturating_add(stale.unwrap_or_default()));
                self.put(&request.key, value, tags, life);
            }
            None => {}
        }
        self.counts.leases.stored += 1;
        Ok(FillResponse { result: Some(fill_response::Result::Stored(terrace_proto::Stored {})) })
    }

    fn store_absence(&mut self, key: &Bytes, tags: Vec<Bytes>, ttl: Option<Duration>) {
        self.remove(key);
        let until = self.now.saturating_add(ttl.unwrap_or_default());
        self.leases.0.insert(key.clone(), Record { state: RecordState::Absent { tags }, until });
    }

    fn lease_lost(&mut self) -> FillResponse {
        self.counts.leases.lease_lost += 1;
        not_filled(NotFilledReason::LeaseLost)
    }

    /// Ends the lease of a key if it is the expected one.
    fn end_lease(&mut self, key: &[u8], is_expected: impl Fn(&Loading) -> bool) -> bool {
        let is_held = matches!(
            self.leases.0.get(key).map(|record| &record.state),
            Some(RecordState::Loading(loading)) if is_expected(loading)
        );
        if is_held {
            self.leases.0.remove(key);
        }
        is_held
    }

    /// Ends a lease without a value.
    pub(super) fn release(&mut self, request: ReleaseRequest) -> Checked<ReleaseResponse> {
        limits::check_key(&request.key)?;
        limits::check_token(&request.token)?;
        let retry = request.failed.as_ref().and_then(|failed| failed.retry_after_ms);
        let retry = limits::within(&limits::RETRY, "failed.retry_after_ms", retry)?;
        let done = Ok(ReleaseResponse {});
        if let Some(failed) = &request.failed {
            limits::check_message(&failed.message)?;
            self.counts.add_load(&request.key);
        }
        let Some(token) = Token::decode(&request.token) else { return done };
        let failures = match self.leases.0.get(&request.key).map(|record| &record.state) {
            Some(RecordState::Loading(loading)) if loading.holder == token.holder => loading.failures,
            Some(RecordState::Loading(_) | RecordState::Absent { .. } | RecordState::Failed { .. }) | None => {
                return done;
            }
        };
        self.leases.forget(&request.key);
        let Some(failed) = request.failed else {
            self.counts.leases.released += 1;
            return done;
        };
        self.counts.leases.load_failed += 1;
        let failures = failures.saturating_add(1);
        let retry_at = self.now + retry.unwrap_or_else(|| backoff(failures));
        let state = RecordState::Failed { failures, message: failed.message, retry_at };
        self.leases.0.insert(request.key, Record { state, until: retry_at + GRACE });
        done
    }

    /// Returns whether a client holds the lease of a key.
    pub(super) fn is_loading(&self, key: &[u8]) -> bool {
        matches!(
            self.leases.0.get(key).map(|record| &record.state),
            Some(RecordState::Loading(loading)) if self.now < loading.exclusive_until
        )
    }
}

fn not_filled(reason: NotFilledReason) -> FillResponse {
    FillResponse { result: Some(fill_response::Result::NotFilled(NotFilled { reason: reason.into() })) }
}

/// Returns the time after the `failures`th failed load in a row in which no client may load the key. The server adds
/// jitter.
fn backoff(failures: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(5)).min(BACKOFF_MAX)
}
