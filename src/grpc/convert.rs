//! Converts between API messages and the model, and maps errors to status codes. The matches are exhaustive, so that
//! the compiler reports an unmapped case.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    cache::{
        Condition, ExpireOnly, Found, Op, Read, ReadOptions, Rules, TagNames, TierChoice,
        inspect::KeyInfo,
        loads::lease::Freshness,
        op::{NewExpiry, SetExpiry},
        tags_of,
    },
    clock::{Tick, millis},
    error::{CacheError, Kind, Result},
    model::{Key, Life, Tier},
    proto::{self, TierSelection, TouchOnly},
};

/// Default retry delay in the RetryInfo of UNAVAILABLE: about the interval at which L2 is probed.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Reason in the ErrorInfo of a drain.
const DRAINING: &str = "DRAINING";
/// Domain of the reasons in ErrorInfo.
const ERROR_DOMAIN: &str = "terrace.v1";
/// Maximum TTL in a gRPC request.
const TTL_MAX_MS: i64 = i64::MAX / 2;

/// Returns the status code of an error kind.
#[must_use]
pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument | Kind::ReservedPrefix => Code::InvalidArgument,
        Kind::TooLarge | Kind::Overloaded | Kind::OutOfMemory => Code::ResourceExhausted,
        Kind::Unavailable => Code::Unavailable,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Unknown => Code::Unknown,
        Kind::WrongType | Kind::NotANumber | Kind::Overflow | Kind::NoAccess => Code::FailedPrecondition,
        Kind::Denied => Code::PermissionDenied,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Internal => Code::Internal,
    }
}

/// Returns the status of a failed call.
pub(super) fn status(error: &CacheError) -> Status {
    match retry_delay(error) {
        None => Status::new(code(error.kind()), error.message()),
        Some(delay) => {
            let details = ErrorDetails::with_retry_info(Some(delay));
            Status::with_error_details(code(error.kind()), error.message(), details)
        }
    }
}

/// Returns the status that ends a Pipeline stream when the server drains: operations without a result were not begun.
pub(super) fn draining() -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(RETRY_DELAY));
    details.set_error_info(DRAINING, ERROR_DOMAIN, HashMap::new());
    let message = "the server is stopping; operations without a result were not begun";
    Status::with_error_details(Code::Unavailable, message, details)
}

/// Returns the result of a canceled operation.
pub(super) fn canceled() -> proto::Error {
    let message = "the client canceled the operation".to_owned();
    proto::Error { code: Code::Cancelled.into(), message, retry_after_ms: None }
}

/// Returns the time after which a repetition may succeed.
fn retry_delay(error: &CacheError) -> Option<Duration> {
    match error.kind() {
        Kind::Unavailable => Some(error.retry_delay().unwrap_or(RETRY_DELAY)),
        Kind::InvalidArgument
        | Kind::ReservedPrefix
        | Kind::TooLarge
        | Kind::Overloaded
        | Kind::OutOfMemory
        | Kind::DeadlineExceeded
        | Kind::Unknown
        | Kind::WrongType
        | Kind::NotANumber
        | Kind::Overflow
        | Kind::NoAccess
        | Kind::Denied
        | Kind::Unsupported
        | Kind::Internal => error.retry_delay(),
    }
}

/// Converts the error of one item of a batch.
pub(super) fn item_error(error: &CacheError) -> proto::Error {
    let retry_after_ms = retry_delay(error).map(|delay| to_i64(millis(delay)));
    proto::Error { code: code(error.kind()).into(), message: error.message().to_owned(), retry_after_ms }
}

/// Converts the options of a read.
///
/// # Errors
/// `InvalidArgument` for a tier that is not known.
pub(super) fn read_options(options: Option<proto::ReadOptions>) -> Result<ReadOptions> {
    let Some(options) = options else { return Ok(ReadOptions { stale_ok: true, ..ReadOptions::default() }) };
    let tier = tier_choice(options.tier, "options.tier")?;
    Ok(ReadOptions { tier, no_touch: options.no_touch, want_meta: options.want_meta, stale_ok: true })
}

/// Converts the selection of tiers that may answer.
///
/// # Errors
/// `InvalidArgument` for a tier that is not known.
pub(super) fn tier_choice(tier: i32, field: &str) -> Result<TierChoice> {
    match TierSelection::try_from(tier) {
        Ok(TierSelection::Unspecified | TierSelection::Any) => Ok(TierChoice::Any),
        Ok(TierSelection::L1Only) => Ok(TierChoice::L1Only),
        Ok(TierSelection::L2Only) => Ok(TierChoice::L2Only),
        Err(_) => {
            Err(invalid(format!("{field} has the unknown value {tier}; expected 1 (ANY), 2 (L1_ONLY) or 3 (L2_ONLY)")))
        }
    }
}

/// Converts a found value without its metadata.
pub(super) fn found(found: Found) -> proto::Found {
    proto::Found {
        tier: tier(found.tier).into(),
        stale: found.stale,
        value: found.value.into_bytes(),
        ..proto::Found::default()
    }
}

/// Converts a found value with its metadata. `fresh` is the time until the value needs a refresh.
pub(super) fn found_with_meta(found: Found, fresh: Option<Duration>) -> proto::Found {
    proto::Found {
        ttl_ms: life_ms(found.life),
        age_ms: Some(to_i64(millis(found.age))),
        size: Some(found.value.len() as u64),
        tags: tags_of(&found.value),
        l1_hits: Some(u64::from(found.l1_hits)),
        fresh_ms: fresh.map(|fresh| to_i64(millis(fresh))),
        ..self::found(found)
    }
}

/// Converts the value of a read; with `meta` including its metadata.
fn read_value(value: Found, meta: Option<Freshness>) -> proto::Found {
    match meta {
        None => found(value),
        Some(freshness) => {
            let fresh = freshness.fresh_time(value.life);
            found_with_meta(value, fresh)
        }
    }
}

/// Converts a read to the response of Get; with `meta` including the metadata of the value.
pub(super) fn get_response(read: Read, meta: Option<Freshness>) -> proto::GetResponse {
    use proto::get_response::Result;
    let result = match read {
        Read::Found(value) => Result::Found(read_value(value, meta)),
        Read::Missing => Result::Missing(proto::Missing {}),
    };
    proto::GetResponse { result: Some(result) }
}

/// Converts the read of one key to its result in GetMany; with `meta` including the metadata of the value.
pub(super) fn get_many_result(read: Result<Read>, meta: Option<Freshness>) -> proto::GetManyResult {
    use proto::get_many_result::Result;
    let result = match read {
        Ok(Read::Found(value)) => Result::Found(read_value(value, meta)),
        Ok(Read::Missing) => Result::Missing(proto::Missing {}),
        Err(error) => Result::Error(item_error(&error)),
    };
    proto::GetManyResult { result: Some(result) }
}

/// Returns the operation and the tags of a Set.
///
/// # Errors
/// `InvalidArgument` for a bad key, TTL or tag.
pub(super) fn set_op(request: proto::SetRequest, rules: &Rules) -> Result<((Key, Op), TagNames)> {
    use proto::set_request::Condition as Requested;
    let key = Key::new(request.key)?;
    let tags = TagNames::new(request.tags)?;
    let expiry = match request.stale_ms {
        None => life(request.ttl_ms)?.map_or(SetExpiry::Never, SetExpiry::In),
        Some(stale_ms) => stale_expiry(&key, request.ttl_ms, stale_ms, rules)?,
    };
    let condition = match request.condition {
        None => Condition::Always,
        Some(Requested::IfAbsent(_)) => Condition::IfAbsent,
        Some(Requested::IfPresent(_)) => Condition::IfPresent,
        Some(Requested::IfEqual(bytes)) => Condition::IfEqual(bytes),
    };
    Ok(((key, Op::Set { value: request.value, expiry, condition, want_old: false }), tags))
}

/// Returns the expiry of a value with a stale part.
fn stale_expiry(key: &Key, ttl_ms: Option<i64>, stale_ms: i64, rules: &Rules) -> Result<SetExpiry> {
    if !(1..=TTL_MAX_MS).contains(&stale_ms) {
        return Err(invalid(format!("stale_ms is {stale_ms}; expected 1 to {TTL_MAX_MS}")));
    }
    let stale = Duration::from_millis(stale_ms.unsigned_abs());
    rules.policy(key).map_or(Ok(stale), |policy| policy.stale_part(Some(stale)))?;
    let Some(ttl) = life(ttl_ms)?.or(rules.lives_of(key).0) else {
        return Err(invalid("stale_ms requires ttl_ms, or default_ttl in the policy of the key".to_owned()));
    };
    Ok(SetExpiry::In(ttl.saturating_add(stale)))
}

/// Returns the operation of a Touch.
///
/// # Errors
/// `InvalidArgument` for a bad key, TTL or condition.
pub(super) fn touch_op(request: proto::TouchRequest) -> Result<(Key, Op)> {
    let key = Key::new(request.key)?;
    let expiry = life(request.ttl_ms)?.map_or(NewExpiry::Never, NewExpiry::In);
    Ok((key, Op::Expire { expiry, only: touch_only(request.only)?, want_value: false }))
}

fn touch_only(only: i32) -> Result<ExpireOnly> {
    match TouchOnly::try_from(only) {
        Ok(TouchOnly::Unspecified | TouchOnly::Always) => Ok(ExpireOnly::ALWAYS),
        Ok(TouchOnly::IfLonger) => Ok(ExpireOnly::IF_LONGER),
        Ok(TouchOnly::IfShorter) => Ok(ExpireOnly::IF_SHORTER),
        Err(_) => Err(invalid(format!(
            "only has the unknown value {only}; expected 1 (ALWAYS), 2 (IF_LONGER) or 3 (IF_SHORTER)"
        ))),
    }
}

/// Returns the operation of an Increment.
///
/// # Errors
/// `InvalidArgument` for a bad key or TTL.
pub(super) fn increment_op(request: proto::IncrementRequest) -> Result<(Key, Op)> {
    let key = Key::new(request.key)?;
    Ok((key, Op::Increment { delta: request.delta, life_if_new: life(request.ttl_ms)? }))
}

/// Converts the information about a key to its metadata.
pub(super) fn key_meta(info: KeyInfo, has_l2: bool, now: Tick) -> proto::KeyMeta {
    let resident = info.resident.as_ref();
    let mut meta = proto::KeyMeta {
        tags: info.tags(),
        idle_ms: resident.map(|copy| to_i64(millis(now.since(copy.used_at)))),
        l1_hits: resident.map_or(0, |copy| u64::from(copy.hit.hits)),
        ..proto::KeyMeta::default()
    };
    match &info.l2 {
        Ok(Some(entry)) => {
            meta.exists = true;
            meta.ttl_ms = life_ms(entry.life);
            meta.size = entry.size_bytes;
        }
        Ok(None) => {}
        Err(error) => {
            meta.error = Some(item_error(error));
            if let Some(copy) = resident {
                meta.exists = true;
                meta.size = copy.hit.value.len() as u64;
                meta.ttl_ms =
                    (copy.hit.expires_at != Tick::FAR).then(|| to_i64(millis(copy.hit.expires_at.since(now))));
            }
        }
    }
    let is_in_l2 = has_l2 && matches!(info.l2, Ok(Some(_)));
    let tiers = [resident.map(|_| proto::Tier::L1), is_in_l2.then_some(proto::Tier::L2)];
    meta.tiers = tiers.into_iter().flatten().map(i32::from).collect();
    meta
}

/// Converts the TTL of a request.
///
/// # Errors
/// `InvalidArgument` for a TTL out of range.
pub(super) fn life(ttl_ms: Option<i64>) -> Result<Option<Duration>> {
    match ttl_ms {
        None => Ok(None),
        Some(ms @ 1..=TTL_MAX_MS) => Ok(Some(Duration::from_millis(ms.unsigned_abs()))),
        Some(ms) => {
            Err(invalid(format!("ttl_ms is {ms}; expected 1 to {TTL_MAX_MS}, or no ttl_ms for a key without TTL")))
        }
    }
}

pub(super) fn life_ms(life: Life) -> Option<i64> {
    match life {
        Life::Forever => None,
        Life::For(left) => Some(to_i64(millis(left))),
    }
}

pub(super) fn tier(tier: Tier) -> proto::Tier {
    match tier {
        Tier::L1 => proto::Tier::L1,
        Tier::L2 => proto::Tier::L2,
    }
}

pub(super) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the error of an invalid request.
pub(super) fn invalid(message: String) -> CacheError {
    CacheError::new(Kind::InvalidArgument, message)
}
