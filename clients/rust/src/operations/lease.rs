//! Load leases: the operations that `get_or_load` consists of.

use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use terrace_proto::{
    Absent, FillRequest, GetOrLeaseRequest, Grant as WireGrant, GrantReason, LoadFailure, NotFilledReason,
    ReleaseRequest, fill_request::Loaded, fill_response, get_or_lease_response, operation::Operation,
};

use super::{
    Hook, Origin, Pending, empty, from_ms,
    read::{Entry, entry},
    response, timeout, to_ms,
};
use crate::{
    convert::{IntoBytes, all, bounded},
    engine::call::AfterBreak,
    error::{ErrorKind, Result},
    load::{LoadOptions, WAIT},
};

/// Time beyond the wait within which the server has to answer.
const ANSWER_TIME: Duration = Duration::from_millis(250);

/// A read that may take the load lease of its key: [`Client::get_or_lease`](crate::Client::get_or_lease).
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct GetOrLease {
    pub(crate) origin: Origin,
    pub(crate) request: GetOrLeaseRequest,
    pub(crate) timeout: Option<Duration>,
}

impl GetOrLease {
    timeout!();

    /// Sets the last part of the value's life, in which it needs a refresh. Default: `stale` of the policy.
    pub fn stale(mut self, stale: Duration) -> Self {
        self.request.stale_ms = Some(to_ms(stale));
        self
    }

    /// Sets the time in which no other client loads the key, 100 ms to 300 s. Default: learned by the server.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.request.lease_ms = Some(to_ms(lease));
        self
    }

    /// Sets the maximum time to wait for the load of another client. Default: 3 s.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.request.wait_ms = Some(to_ms(wait));
        self
    }

    /// Sets the tags of the value to come.
    pub fn tags<T: IntoBytes>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.request.tags = all(tags);
        self
    }

    /// Treats a fresh value as one that needs a refresh.
    pub fn refresh(mut self) -> Self {
        self.request.refresh = true;
        self
    }
}

impl IntoFuture for GetOrLease {
    type Output = Result<Lease>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { origin, request, timeout } = self;
        let wait = bounded(request.wait_ms.map_or(WAIT, from_ms));
        let timeout = timeout.unwrap_or(wait + ANSWER_TIME.max(origin.settings().read_timeout));
        Box::pin(async move { send(&origin, request, timeout).await })
    }
}

/// Reads a key, with the options of a load.
///
/// # Errors
/// As [`Client::get`](crate::Client::get).
pub(crate) async fn get_or_lease(
    origin: &Origin,
    key: &Bytes,
    options: &LoadOptions,
    wait: Duration,
    timeout: Duration,
) -> Result<Lease> {
    let request = GetOrLeaseRequest {
        key: key.clone(),
        stale_ms: options.stale.map(to_ms),
        lease_ms: options.lease.map(to_ms),
        wait_ms: Some(to_ms(wait)),
        tags: options.tags.clone(),
        refresh: options.refresh,
        nonce: None,
        want_meta: false,
    };
    send(origin, request, timeout).await
}

async fn send(origin: &Origin, mut request: GetOrLeaseRequest, timeout: Duration) -> Result<Lease> {
    request.nonce = Some(origin.core.nonces.next());
    let (key, tags) = (request.key.clone(), request.tags.clone());
    let reading = origin.core.near.as_ref().and_then(|near| Some((near, near.begin(&key)?)));
    request.want_meta = reading.is_some();
    let hook = reading.map_or(Hook::None, |(near, reading)| Hook::keep(near, reading));
    let call = origin.read(Operation::GetOrLease(request), &key, Some(timeout));
    let convert = |answer| {
        let response = response!(answer, GetOrLease);
        response.result.ok_or_else(empty)
    };
    let answer = Pending::with_hook(call, convert, hook);
    lease(origin, &key, &tags, answer.await?)
}

/// Numbers that no other request of any client has: a repetition after a broken connection receives the same lease, and
/// another request does not.
///
/// The start is drawn by the system: a generator in the memory of the process would return the same numbers in all
/// processes that are forked from it.
#[derive(Debug)]
pub(crate) struct Nonces {
    start: u128,
    count: AtomicU64,
}

impl Default for Nonces {
    fn default() -> Self {
        let mut start = [0; 16];
        // Without a random source, such as before it is ready at the boot of a machine, the numbers come from the clock.
        if getrandom::fill(&mut start).is_err() {
            start = fastrand::u128(..).to_be_bytes();
        }
        Self { start: u128::from_be_bytes(start), count: AtomicU64::new(0) }
    }
}

impl Nonces {
    /// Returns a random number of the client, which other processes do not have.
    #[inline]
    pub(crate) fn seed(&self) -> u64 {
        // The low half.
        self.start as u64
    }

    pub(crate) fn next(&self) -> Bytes {
        let count = u128::from(self.count.fetch_add(1, Relaxed));
        // An odd factor: different counts have different numbers.
        let number = self.start.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        Bytes::copy_from_slice(&number.to_be_bytes())
    }
}

/// Converts an answer.
///
/// # Errors
/// The answer lacks a part.
pub(crate) fn lease(
    origin: &Origin,
    key: &Bytes,
    tags: &[Bytes],
    answer: get_or_lease_response::Result,
) -> Result<Lease> {
    use get_or_lease_response::Result as Got;
    let grant = |grant: WireGrant| Grant::new(origin, key, tags, grant);
    Ok(match answer {
        Got::Hit(hit) => Lease::Hit {
            entry: entry(hit.found.ok_or_else(empty)?),
            needs_refresh: hit.needs_refresh,
            grant: hit.grant.map(grant),
            fresh_for: hit.fresh_ms.map(from_ms),
        },
        Got::Load(load) => Lease::Load(grant(load.grant.ok_or_else(empty)?)),
        Got::Busy(busy) => {
            Lease::Busy { leader_age: from_ms(busy.leader_age_ms), expected: busy.expected_ms.map(from_ms) }
        }
        Got::Absent(absent) => Lease::Absent { ttl: from_ms(absent.ttl_ms) },
        Got::Failed(failed) => Lease::Failed { message: failed.message, retry_after: from_ms(failed.retry_after_ms) },
    })
}

/// Answer to a [`GetOrLease`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Lease {
    /// The key has a value.
    Hit {
        /// The value.
        entry: Entry,
        /// The value is in the last part of its life.
        needs_refresh: bool,
        /// Permission to load the key in the background; `None` if another client loads it.
        grant: Option<Grant>,
        /// Time until the value needs a refresh; `None` if the key does not expire.
        fresh_for: Option<Duration>,
    },
    /// The key is absent, and the caller loads it.
    Load(Grant),
    /// Another client loads the key, and the waiting time is over.
    Busy {
        /// Time since the other client received its lease.
        leader_age: Duration,
        /// Mean load time of the key group, if it is known.
        expected: Option<Duration>,
    },
    /// The origin does not have the key.
    Absent {
        /// Remaining time of this answer.
        ttl: Duration,
    },
    /// The last load failed.
    Failed {
        /// Message of the client whose load failed.
        message: String,
        /// Time until a client may load the key.
        retry_after: Duration,
    },
}

/// Result of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filled {
    /// The value was stored.
    Stored,
    /// Nothing was stored: the lease has ended, or the outcome of the first attempt is unknown.
    LeaseLost,
    /// Nothing was stored: the value was changed by a client that writes to Redis directly.
    Changed,
    /// Nothing was stored: the key was invalidated since the grant.
    Invalidated,
}

/// Permission to load a key. Dropping it releases the lease, so that another client may load the key at once.
#[derive(Debug)]
pub struct Grant {
    origin: Origin,
    key: Bytes,
    tags: Vec<Bytes>,
    token: Bytes,
    lease: Duration,
    reason: GrantReason,
}

impl Grant {
    fn new(origin: &Origin, key: &Bytes, tags: &[Bytes], grant: WireGrant) -> Self {
        let (reason, lease) = (grant.reason(), from_ms(grant.lease_ms));
        Self { origin: origin.clone(), key: key.clone(), tags: tags.to_vec(), token: grant.token, lease, reason }
    }

    /// Returns the time in which no other client receives a lease.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Returns the reason of the grant.
    #[must_use]
    pub fn reason(&self) -> GrantReason {
        self.reason
    }

    /// Returns `false` if the result of the load cannot be stored now, for example because L2 is out of memory.
    #[must_use]
    pub fn can_fill(&self) -> bool {
        !self.token.is_empty()
    }

    /// Stores the loaded value.
    ///
    /// # Errors
    /// As [`Client::set`](crate::Client::set). The loaded value is valid in any case.
    pub async fn fill(self, value: impl IntoBytes, ttl: Option<Duration>, stale: Option<Duration>) -> Result<Filled> {
        self.send(Loaded::Value(value.into_bytes()), ttl, stale).await
    }

    /// Stores that the origin does not have the key, for the TTL.
    ///
    /// # Errors
    /// As [`Client::set`](crate::Client::set).
    pub async fn fill_absent(self, ttl: Option<Duration>) -> Result<Filled> {
        self.send(Loaded::Absent(Absent {}), ttl, None).await
    }

    /// Stores that the origin does not have the key, for `negative_ttl` of the policy, or without one for `ttl`.
    ///
    /// # Errors
    /// As [`Self::fill_absent`].
    pub(crate) async fn fill_absent_by_policy(mut self, ttl: Duration) -> Result<Filled> {
        let absent = Loaded::Absent(Absent {});
        match self.try_send(absent, None, None).await {
            // No policy states a TTL, and the lease is still held.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => self.fill_absent(Some(ttl)).await,
            result => result,
        }
    }

    /// Reports that the load failed. Other callers receive the message, and no client loads the key for `retry_after`
    /// (default: 1 s, doubling with each failure).
    ///
    /// # Errors
    /// The node cannot be reached; the lease then ends with its time.
    pub async fn fail(mut self, message: impl Into<String>, retry_after: Option<Duration>) -> Result<()> {
        let failed = LoadFailure { message: message.into(), retry_after_ms: retry_after.map(to_ms) };
        let _filling = self.origin.filling(&self.key);
        let Some(release) = self.end(Some(failed)) else { return Ok(()) };
        release.await
    }

    /// Ends the lease without a result, and waits until another client can load the key. A drop does not wait.
    ///
    /// # Errors
    /// The node cannot be reached; the lease then ends with its time.
    pub async fn release(mut self) -> Result<()> {
        let Some(release) = self.end(None) else { return Ok(()) };
        release.await
    }

    async fn send(mut self, loaded: Loaded, ttl: Option<Duration>, stale: Option<Duration>) -> Result<Filled> {
        self.try_send(loaded, ttl, stale).await
    }

    /// Stores the result of a load. The lease is still held if the server refuses the request.
    async fn try_send(&mut self, loaded: Loaded, ttl: Option<Duration>, stale: Option<Duration>) -> Result<Filled> {
        let token = std::mem::take(&mut self.token);
        if token.is_empty() {
            return Ok(Filled::LeaseLost);
        }
        let request = FillRequest {
            key: self.key.clone(),
            token: token.clone(),
            loaded: Some(loaded),
            ttl_ms: ttl.map(to_ms),
            stale_ms: stale.map(to_ms),
            tags: self.tags.clone(),
        };
        let filled = self.filled(request).await;
        if filled.as_ref().is_err_and(|error| is_refused(error.kind())) {
            // The drop of the grant releases the lease.
            self.token = token;
        }
        filled
    }

    async fn filled(&self, request: FillRequest) -> Result<Filled> {
        let hook = self.origin.filling(&self.key).into();
        let call = self.origin.write(Operation::Fill(request), &self.key, AfterBreak::Repeat, None);
        let filled = |answer| {
            let response = response!(answer, Fill);
            match response.result {
                Some(fill_response::Result::Stored(_)) => Ok(Filled::Stored),
                Some(fill_response::Result::NotFilled(not)) => Ok(match not.reason() {
                    NotFilledReason::Changed => Filled::Changed,
                    NotFilledReason::Invalidated => Filled::Invalidated,
                    NotFilledReason::LeaseLost | NotFilledReason::Unspecified => Filled::LeaseLost,
                }),
                None => Err(empty()),
            }
        };
        Pending::with_hook(call, filled, hook).await
    }

    /// Returns the operation that ends the lease, unless it has ended.
    fn end(&mut self, failed: Option<LoadFailure>) -> Option<Pending<()>> {
        let token = std::mem::take(&mut self.token);
        if token.is_empty() {
            return None;
        }
        let request = ReleaseRequest { key: self.key.clone(), token, failed };
        let call = self.origin.write(Operation::Release(request), &self.key, AfterBreak::Repeat, None);
        Some(Pending::new(call, |answer| {
            response!(answer, Release);
            Ok(())
        }))
    }
}

/// Returns whether the server has refused a fill without looking at the lease.
pub(crate) fn is_refused(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidArgument | ErrorKind::ResourceExhausted | ErrorKind::PermissionDenied)
}

impl Drop for Grant {
    fn drop(&mut self) {
        let Some(release) = self.end(None) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            // Without an answer, the lease ends with its time.
            let _released = release.await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_differ_within_a_client_and_between_clients_with_equal_generators() {
        // The memory of a forked process: the generator is the same.
        fastrand::seed(7);
        let parent = Nonces::default();
        fastrand::seed(7);
        let child = Nonces::default();
        let all: std::collections::HashSet<Bytes> = (0..1_000).flat_map(|_| [parent.next(), child.next()]).collect();
        assert_eq!(all.len(), 2_000);
        assert_ne!(parent.seed(), child.seed());
    }
}
