//! The methods of load leases: GetOrLease, GetOrLeaseMany, Fill, Release.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderMap;
use tokio::runtime::Handle;

use super::{Edge, convert, deadline::Deadline, service::check_batch, wire::LeaseReply};
use crate::{
    cache::{
        Cache, Caller, FillRequest, Found, Grant, GrantReason, HitLook, LeaseAnswer, LeaseNeeds, LeaseRequest,
        LoadedValue, TagNames,
        loads::{
            fill::Filled,
            lease::{Due, WAIT_DEFAULT},
            limits,
        },
    },
    clock::{Tick, millis},
    error::{CacheError, Kind, Result},
    model::Key,
    proto::{self, get_or_lease_many_result, get_or_lease_response},
};

/// Maximum number of unary calls of a connection that wait for the loads of other clients, of 256 streams.
const UNARY_WAITING_MAX: usize = 64;
/// Maximum number of operations of a connection's Pipeline streams that wait for the loads of other clients.
pub(super) const PIPELINE_WAITING_MAX: usize = 4_096;
/// Part of the deadline of a call that is left for the answer after a wait.
const ANSWER_SHARE: u32 = 10;

/// Result of the L1 lookup of a GetOrLease.
pub(super) enum FirstLease {
    /// L1 has the value, and no lease has to be taken.
    Answered(LeaseReply),
    /// The store decides.
    Missed(Box<MissedLease>),
}

/// A GetOrLease that L1 did not answer, with validated key and options.
pub(super) struct MissedLease {
    key: Key,
    /// The request without its key and tags.
    request: proto::GetOrLeaseRequest,
    tags: TagNames,
    limits: WaitLimits,
    first: Option<Due>,
}

/// Limits of the wait of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitLimits {
    /// Maximum time to wait; `None`: the default deadline of a call.
    wait_max: Option<Duration>,
    /// Maximum number of callers of the connection that wait.
    waiting_max: usize,
}

impl WaitLimits {
    /// Limits of an operation of a Pipeline stream.
    pub(super) const PIPELINE: Self = Self { wait_max: None, waiting_max: PIPELINE_WAITING_MAX };

    /// Returns the limits of a unary call: the wait ends before the deadline of the call.
    pub(super) fn of_call(edge: &Edge, headers: &HeaderMap) -> Self {
        let timeout = edge.settings.load().timeout;
        // A malformed deadline is reported when the call runs.
        let deadline = Deadline::new(timeout, headers).map_or(timeout, |deadline| deadline.timeout());
        Self { wait_max: Some(deadline - deadline / ANSWER_SHARE), waiting_max: UNARY_WAITING_MAX }
    }
}

impl Edge {
    /// Answers a GetOrLease of `caller` from L1, if L1 has the value and no lease has to be taken. This is the hot path.
    ///
    /// # Errors
    /// `InvalidArgument` for faulty options or a faulty key.
    #[inline]
    pub(super) fn lease_from_l1(
        &self,
        caller: Caller,
        mut request: proto::GetOrLeaseRequest,
        limits: WaitLimits,
        now: Tick,
    ) -> Result<FirstLease> {
        let key = Key::new(std::mem::take(&mut request.key))?;
        let tags = TagNames::new(std::mem::take(&mut request.tags))?;
        let needs = needs(&request)?;
        let want_meta = request.want_meta;
        let missed = |key, first| FirstLease::Missed(Box::new(MissedLease { key, request, tags, limits, first }));
        let Some(hit) = self.cache.get_from_l1_as(caller, &key, now) else { return Ok(missed(key, None)) };
        let look = self.cache.look_at_hit(&key, &needs, &hit, now)?;
        let found = Found::in_l1(hit, now);
        Ok(match look {
            HitLook::Answered { needs_refresh, fresh } if want_meta => {
                FirstLease::Answered(message(LeaseAnswer::Hit { found, needs_refresh, grant: None, fresh }, want_meta))
            }
            HitLook::Answered { needs_refresh, fresh } => {
                FirstLease::Answered(LeaseReply::hit(found, needs_refresh, fresh.map(to_ms)))
            }
            HitLook::Due(reason) => missed(key, Some(Due { found, reason })),
        })
    }

    /// Answers a GetOrLease that L1 did not answer.
    pub(super) async fn lease_missed(&self, missed: Box<MissedLease>) -> Result<LeaseReply> {
        let MissedLease { key, request, tags, limits, first } = *missed;
        let wait_max = limits.wait_max.unwrap_or_else(|| self.settings.load().timeout);
        let wait = limits::WAIT.of_field("wait_ms", request.wait_ms)?.unwrap_or(WAIT_DEFAULT);
        let LeaseNeeds { stale, refresh, nonce } = needs(&request)?;
        let want_meta = request.want_meta;
        let request = LeaseRequest {
            stale,
            lease: limits::LEASE.of_field("lease_ms", request.lease_ms)?,
            wait: Some(wait.min(wait_max)),
            tags,
            refresh,
            nonce,
            stale_ok: true,
            waiting_max: limits.waiting_max,
        };
        let answer = self.cache.lease_missed(key, request, first).await?;
        Ok(message(answer, want_meta))
    }

    pub(super) async fn get_or_lease(
        &self,
        request: proto::GetOrLeaseRequest,
        limits: WaitLimits,
    ) -> Result<LeaseReply> {
        match self.lease_from_l1(self.cache.caller(), request, limits, self.cache.now())? {
            FirstLease::Answered(reply) => Ok(reply),
            FirstLease::Missed(missed) => self.lease_missed(missed).await,
        }
    }

    /// Reads keys and takes their leases. The response has at most `message_max` bytes; results that do not fit are errors.
    pub(super) async fn get_or_lease_many(
        &self,
        request: proto::GetOrLeaseManyRequest,
        message_max: usize,
    ) -> Result<proto::GetOrLeaseManyResponse> {
        check_batch(request.items.len(), "items")?;
        let common = LeaseRequest {
            stale: limits::STALE.of_field("stale_ms", request.stale_ms)?,
            lease: limits::LEASE.of_field("lease_ms", request.lease_ms)?,
            wait: Some(Duration::ZERO),
            refresh: request.refresh,
            stale_ok: true,
            ..LeaseRequest::default()
        };
        let reads = request.items.into_iter().map(|item| self.lease_item(item, &common));
        let mut left = message_max;
        let results = join_all(reads).await.into_iter().map(|read| {
            let result = proto::GetOrLeaseManyResult { result: Some(item_result(read.sent(), request.want_meta)) };
            fitted(result, &mut left, message_max)
        });
        Ok(proto::GetOrLeaseManyResponse { results: results.collect() })
    }

    async fn lease_item(&self, item: proto::LeaseItem, common: &LeaseRequest) -> Unsent<'_> {
        let key = item.key.clone();
        let read = async {
            let request =
                LeaseRequest { tags: TagNames::new(item.tags)?, nonce: nonce(item.nonce.as_ref())?, ..common.clone() };
            self.cache.get_or_lease(Key::new(item.key)?, request).await
        };
        Unsent { cache: &self.cache, answer: Some(read.await), key }
    }

    pub(super) async fn fill(&self, request: proto::FillRequest) -> Result<proto::FillResponse> {
        use proto::{fill_request::Loaded, fill_response::Result as Outcome};
        let key = Key::new(request.key)?;
        let loaded = match request.loaded {
            Some(Loaded::Value(value)) => LoadedValue::Value(value),
            Some(Loaded::Absent(_)) => LoadedValue::Absent,
            None => return Err(convert::invalid("loaded is not set; set value or absent".to_owned())),
        };
        let fill = FillRequest {
            token: request.token,
            loaded,
            ttl: convert::life(request.ttl_ms)?,
            stale: limits::STALE.of_field("stale_ms", request.stale_ms)?,
            tags: TagNames::new(request.tags)?,
        };
        let result = match not_filled(self.cache.fill(key, fill).await?) {
            None => Outcome::Stored(proto::Stored {}),
            Some(reason) => Outcome::NotFilled(proto::NotFilled { reason: reason.into() }),
        };
        Ok(proto::FillResponse { result: Some(result) })
    }

    pub(super) async fn release(&self, request: proto::ReleaseRequest) -> Result<proto::ReleaseResponse> {
        let key = Key::new(request.key)?;
        let failed = request.failed.map(|failed| {
            let retry_after = limits::RETRY.of_field("failed.retry_after_ms", failed.retry_after_ms)?;
            Ok::<_, CacheError>((Bytes::from(failed.message), retry_after))
        });
        self.cache.release(key, &request.token, failed.transpose()?).await?;
        Ok(proto::ReleaseResponse {})
    }
}

/// The answer for one key, while the answers for other keys of the call are missing. If the call is canceled, a lease is
/// released.
struct Unsent<'a> {
    cache: &'a Cache,
    key: Bytes,
    answer: Option<Result<LeaseAnswer>>,
}

impl Unsent<'_> {
    /// Returns the answer, which is now sent.
    fn sent(mut self) -> Result<LeaseAnswer> {
        self.answer.take().unwrap_or_else(|| Err(CacheError::new(Kind::Internal, "bug: an answer was sent twice")))
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        let Some(Ok(LeaseAnswer::Load(grant) | LeaseAnswer::Hit { grant: Some(grant), .. })) = self.answer.take()
        else {
            return;
        };
        let (Ok(runtime), Ok(key)) = (Handle::try_current(), Key::new(self.key.clone())) else { return };
        let cache = self.cache.clone();
        runtime.spawn(async move {
            // A lease that cannot be released ends with its time.
            let _released = cache.release(key, &grant.token, None).await;
        });
    }
}

/// Returns the part of a request that decides whether a value in L1 is the answer. Checks the other durations too, so that
/// faulty options are refused also if L1 has the value.
#[inline]
fn needs(request: &proto::GetOrLeaseRequest) -> Result<LeaseNeeds> {
    limits::WAIT.of_field("wait_ms", request.wait_ms)?;
    let stale = limits::STALE.of_field("stale_ms", request.stale_ms)?;
    limits::LEASE.of_field("lease_ms", request.lease_ms)?;
    Ok(LeaseNeeds { stale, refresh: request.refresh, nonce: nonce(request.nonce.as_ref())? })
}

fn nonce(nonce: Option<&Bytes>) -> Result<Option<[u8; 16]>> {
    nonce
        .map(|nonce| {
            <[u8; 16]>::try_from(&nonce[..])
                .map_err(|_| convert::invalid(format!("nonce has {} bytes; expected 16", nonce.len())))
        })
        .transpose()
}

fn not_filled(filled: Filled) -> Option<proto::NotFilledReason> {
    match filled {
        Filled::Stored { .. } => None,
        Filled::LeaseLost => Some(proto::NotFilledReason::LeaseLost),
        Filled::Changed => Some(proto::NotFilledReason::Changed),
        Filled::Invalidated => Some(proto::NotFilledReason::Invalidated),
    }
}

fn message(answer: LeaseAnswer, want_meta: bool) -> LeaseReply {
    let result = Some(answered(answer, want_meta));
    LeaseReply::Message(Box::new(proto::GetOrLeaseResponse { result }))
}

fn answered(answer: LeaseAnswer, want_meta: bool) -> get_or_lease_response::Result {
    use get_or_lease_response::Result;
    match answer {
        LeaseAnswer::Hit { found, needs_refresh, grant: granted, fresh } => Result::Hit(proto::LeaseHit {
            found: Some(if want_meta { convert::found_with_meta(found, fresh) } else { convert::found(found) }),
            needs_refresh,
            grant: granted.map(grant),
            fresh_ms: fresh.map(to_ms),
        }),
        LeaseAnswer::Load(granted) => Result::Load(proto::LeaseLoad { grant: Some(grant(granted)) }),
        LeaseAnswer::Busy { leader_age, expected } => {
            Result::Busy(proto::LeaseBusy { leader_age_ms: to_ms(leader_age), expected_ms: expected.map(to_ms) })
        }
        LeaseAnswer::Absent { life } => Result::Absent(proto::LeaseAbsent { ttl_ms: to_ms(life) }),
        LeaseAnswer::Failed { message, retry_after } => Result::Failed(proto::LeaseFailed {
            message: String::from_utf8_lossy(&message).into_owned(),
            retry_after_ms: to_ms(retry_after),
        }),
    }
}

fn item_result(read: Result<LeaseAnswer>, want_meta: bool) -> get_or_lease_many_result::Result {
    use get_or_lease_many_result::Result as Item;
    use get_or_lease_response::Result as One;
    match read.map(|answer| answered(answer, want_meta)) {
        Ok(One::Hit(hit)) => Item::Hit(hit),
        Ok(One::Load(load)) => Item::Load(load),
        Ok(One::Busy(busy)) => Item::Busy(busy),
        Ok(One::Absent(absent)) => Item::Absent(absent),
        Ok(One::Failed(failed)) => Item::Failed(failed),
        Err(error) => Item::Error(convert::item_error(&error)),
    }
}

/// Replaces a result by an error if the response has no space left for it.
fn fitted(result: proto::GetOrLeaseManyResult, left: &mut usize, message_max: usize) -> proto::GetOrLeaseManyResult {
    // Tag and length of an item, with the longest length.
    const ITEM_BYTES: usize = 6;
    let len = prost::Message::encoded_len(&result) + ITEM_BYTES;
    if let Some(rest) = left.checked_sub(len) {
        *left = rest;
        return result;
    }
    let message = format!("the result does not fit into the response; grpc.max_message is {message_max} bytes");
    let error = convert::item_error(&CacheError::new(Kind::TooLarge, message));
    proto::GetOrLeaseManyResult { result: Some(get_or_lease_many_result::Result::Error(error)) }
}

fn grant(grant: Grant) -> proto::Grant {
    let reason = match grant.reason {
        GrantReason::Miss => proto::GrantReason::Miss,
        GrantReason::Stale => proto::GrantReason::Stale,
        GrantReason::Early => proto::GrantReason::Early,
        GrantReason::Forced => proto::GrantReason::Forced,
        GrantReason::Takeover => proto::GrantReason::Takeover,
    };
    proto::Grant { token: grant.token, lease_ms: to_ms(grant.lease), reason: reason.into() }
}

fn to_ms(span: Duration) -> i64 {
    convert::to_i64(millis(span))
}
