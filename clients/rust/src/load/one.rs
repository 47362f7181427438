//! Get-or-load of one key.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::{
    BoxFuture, LoadError, LoadOptions, Loaded, Loader, OnUnavailable, Permit, abandoned, busy, chain,
    flights::{Boarding, Joiner, Leader, Outcome},
    last_load_failed,
    loaded::is_outage,
    setters, undecodable,
};
use crate::{
    convert::{IntoBytes, all, bounded},
    error::{Error, ErrorKind, Result},
    operations::{
        Origin, Pending,
        lease::{Filled, Grant, Lease, get_or_lease, is_refused},
    },
};

type Value = Result<Option<Bytes>>;

/// A read that loads an absent key: [`Client::get_or_load`](crate::Client::get_or_load).
#[derive(Debug)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct GetOrLoad {
    origin: Origin,
    key: Bytes,
    options: Arc<LoadOptions>,
    timeout: Option<Duration>,
    loader: Loader,
    is_valid: IsValid,
    uses_copies: bool,
}

/// Returns whether a value can be used; any value if there is no function.
#[derive(Clone, Default)]
pub(super) struct IsValid(Option<Arc<Check>>);

type Check = dyn Fn(&Bytes) -> bool + Send + Sync;

impl std::fmt::Debug for IsValid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IsValid")
    }
}

impl IsValid {
    pub(super) fn new(is_valid: impl Fn(&Bytes) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(is_valid)))
    }

    pub(super) fn check(&self, value: &Bytes) -> bool {
        self.0.as_ref().is_none_or(|is_valid| is_valid(value))
    }
}

/// Returns the copy of the near cache that nothing confirms, for a cache that cannot be reached.
pub(super) fn stale_copy(origin: &Origin, key: &[u8], is_valid: &IsValid) -> Option<Bytes> {
    let copy = origin.core.near.as_ref()?.unconfirmed(key)?;
    is_valid.check(copy.value()).then(|| copy.value().clone())
}

impl GetOrLoad {
    pub(crate) fn new(origin: Origin, key: Bytes, options: Arc<LoadOptions>, loader: Loader) -> Self {
        Self { origin, key, options, timeout: None, loader, is_valid: IsValid::default(), uses_copies: true }
    }

    setters!(this => Arc::make_mut(&mut this.options));

    /// Sets the tags of the loaded value: at most 16, with 1 to 128 bytes each. An invalidation of a tag during the load
    /// makes the loaded value invalid.
    pub fn tags<T: IntoBytes>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        Arc::make_mut(&mut self.options).tags = all(tags);
        self
    }

    /// Loads the key even if it has a fresh value, and waits for the result. Callers that read the key meanwhile receive the
    /// present value.
    pub fn refresh(mut self) -> Self {
        Arc::make_mut(&mut self.options).refresh = true;
        self
    }

    /// Limits the time until the caller has a result. A load that has begun goes on in the background. Default: the time to
    /// wait and the deadline of a load limit it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(bounded(timeout));
        self
    }

    /// Loads the key also if it has a value that cannot be used.
    pub(crate) fn valid_if(mut self, is_valid: impl Fn(&Bytes) -> bool + Send + Sync + 'static) -> Self {
        self.is_valid = IsValid::new(is_valid);
        self
    }

    /// Does not look into the near cache: the caller has done so.
    pub(crate) fn without_copies(mut self) -> Self {
        self.uses_copies = false;
        self
    }

    /// Sets all options.
    pub fn options(mut self, options: LoadOptions) -> Self {
        self.options = Arc::new(options);
        self
    }
}

impl IntoFuture for GetOrLoad {
    type Output = Value;
    type IntoFuture = BoxFuture<Value>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { origin, key, options, timeout, loader, is_valid, uses_copies } = self;
        let near = origin.core.near.as_ref().filter(|_| uses_copies && !options.refresh);
        if let Some(copy) = near.and_then(|near| near.get(&key)).filter(|copy| is_valid.check(copy.value())) {
            return Box::pin(Pending::ready(Ok(Some(copy.value().clone()))));
        }
        let run = Run { origin, key, options, loader: Some(loader), is_valid, began: Instant::now() };
        Box::pin(async move {
            let Some(limit) = timeout else { return run.run().await };
            tokio::time::timeout(limit, run.run()).await.unwrap_or_else(|_elapsed| Err(late(limit)))
        })
    }
}

/// Returns the error of a caller that does not wait any longer.
pub(super) fn late(limit: Duration) -> Error {
    Error::new(ErrorKind::DeadlineExceeded, format!("no value within {limit:?}; a load may be in progress"))
}

/// One caller.
struct Run {
    origin: Origin,
    key: Bytes,
    options: Arc<LoadOptions>,
    /// Taken by the load.
    loader: Option<Loader>,
    is_valid: IsValid,
    began: Instant,
}

/// Shares the answer of a lookup.
fn answered(leader: Option<Leader>, value: &Value) {
    if let Some(leader) = leader {
        let sent = leader.sent();
        leader.finish(Outcome::Answered { sent, value: value.clone() });
    }
}

/// Result of a lookup by the leader of a flight.
enum Looked {
    /// The result, and the refresh to wait for.
    Value(Value, Option<Joiner>),
    /// The load of this caller was begun.
    Loading(Joiner),
}

impl Looked {
    /// Ends a flight with an error, for the callers from before its last lookup.
    fn failed(leader: Option<Leader>, error: Error) -> Self {
        let value = Err(error);
        answered(leader, &value);
        Self::Value(value, None)
    }
}

impl Run {
    async fn run(mut self) -> Value {
        self.options.check()?;
        chain::check(&self.origin.core, &self.key)?;
        let patience = self.began + self.options.wait + self.origin.settings().read_timeout * 2;
        loop {
            if self.options.refresh {
                return self.lead(None).await;
            }
            match self.origin.core.loads.flights.board(&self.key) {
                Boarding::Lead(leader) => return self.lead(Some(leader)).await,
                Boarding::Join(joiner) => {
                    if let Some(value) = self.join(joiner, patience).await {
                        return value;
                    }
                }
            }
        }
    }

    /// Waits for the flight of another caller. `None`: the caller has to try again.
    async fn join(&mut self, joiner: Joiner, patience: Instant) -> Option<Value> {
        let limit = if joiner.is_loading() { patience + self.options.load_timeout } else { patience };
        match timeout_at(limit, joiner.value(self.began)).await {
            Ok(value) => value,
            Err(_elapsed) => {
                let text = format!("another caller of this process has no result within {:?}", self.began.elapsed());
                Some(Err(Error::new(ErrorKind::DeadlineExceeded, text)))
            }
        }
    }

    async fn lead(&mut self, leader: Option<Leader>) -> Value {
        match self.look(leader).await {
            Looked::Loading(joiner) => self.loaded(joiner).await,
            Looked::Value(value, Some(refresh)) if !self.options.soft_timeout.is_zero() => {
                let limit = Instant::now() + self.options.soft_timeout;
                match timeout_at(limit, self.loaded(refresh)).await {
                    Ok(Ok(refreshed)) => Ok(refreshed),
                    // The stale value is better than no value.
                    Ok(Err(_)) | Err(_) => value,
                }
            }
            Looked::Value(value, _) => value,
        }
    }

    /// Waits for the own load.
    async fn loaded(&mut self, joiner: Joiner) -> Value {
        joiner.value(self.began).await.unwrap_or_else(|| Err(abandoned()))
    }

    /// Asks the server, and begins the load if the server grants it.
    async fn look(&mut self, mut leader: Option<Leader>) -> Looked {
        let read_timeout = self.origin.settings().read_timeout;
        if let Some(leader) = &mut leader {
            leader.look();
        }
        // A node that does not answer is noticed within the time of a read, because the first request does not wait.
        let mut answer = self.ask(Duration::ZERO, read_timeout).await;
        if matches!(answer, Ok(Lease::Busy { .. })) && !self.options.wait.is_zero() {
            if let Some(leader) = &mut leader {
                leader.look();
            }
            answer = self.ask(self.options.wait, self.options.wait + read_timeout).await;
        }
        let value = match answer {
            Ok(Lease::Load(grant)) => return self.begin(leader, grant),
            Ok(Lease::Hit { entry, grant: Some(grant), .. }) if self.options.refresh => {
                drop(entry);
                return self.begin(leader, grant);
            }
            Ok(Lease::Hit { entry, grant, .. }) if !self.is_valid.check(&entry.value) => {
                return self.replace(leader, grant).await;
            }
            Ok(Lease::Hit { entry, grant, .. }) => {
                let value = Ok(Some(entry.value));
                answered(leader, &value);
                let refresh = grant.and_then(|grant| self.refresh(grant));
                return Looked::Value(value, refresh);
            }
            Ok(Lease::Absent { .. }) => Ok(None),
            Ok(Lease::Failed { message, retry_after }) => Err(last_load_failed(&message, retry_after)),
            Ok(Lease::Busy { .. }) => return self.without_cache(leader, busy(self.options.wait)).await,
            Err(error) if is_outage(&error) => return self.unavailable(leader, error).await,
            Err(error) => Err(error),
        };
        answered(leader, &value);
        Looked::Value(value, None)
    }

    /// Loads a key whose value cannot be used.
    async fn replace(&mut self, leader: Option<Leader>, grant: Option<Grant>) -> Looked {
        if let Some(grant) = grant {
            return self.begin(leader, grant);
        }
        Arc::make_mut(&mut self.options).refresh = true;
        match self.ask(Duration::ZERO, self.origin.settings().read_timeout).await {
            Ok(Lease::Load(grant) | Lease::Hit { grant: Some(grant), .. }) => self.begin(leader, grant),
            Ok(_) | Err(_) => self.without_cache(leader, undecodable()).await,
        }
    }

    async fn ask(&mut self, wait: Duration, timeout: Duration) -> Result<Lease> {
        get_or_lease(&self.origin, &self.key, &self.options, wait, timeout).await
    }

    /// Follows `on_unavailable`.
    async fn unavailable(&mut self, leader: Option<Leader>, error: Error) -> Looked {
        match self.options.on_unavailable {
            OnUnavailable::Load => self.without_cache(leader, error).await,
            OnUnavailable::Stale => match stale_copy(&self.origin, &self.key, &self.is_valid) {
                Some(copy) => Looked::Value(Ok(Some(copy)), None),
                None => Looked::failed(leader, error),
            },
            OnUnavailable::Error => Looked::failed(leader, error),
        }
    }

    /// Loads without the cache.
    async fn without_cache(&mut self, leader: Option<Leader>, why: Error) -> Looked {
        let limit = (self.began + self.options.wait).saturating_duration_since(Instant::now());
        match self.origin.core.loads.direct(limit, &why).await {
            Ok(permit) => {
                tracing::debug!(reason = %why, "loading a key without the cache");
                Looked::Loading(self.spawn(leader, None, permit))
            }
            Err(error) => Looked::failed(leader, error),
        }
    }

    /// Begins a load for this caller.
    fn begin(&mut self, leader: Option<Leader>, grant: Grant) -> Looked {
        match self.origin.core.loads.any() {
            Ok(permit) => Looked::Loading(self.spawn(leader, Some(grant), permit)),
            Err(error) => Looked::failed(leader, error),
        }
    }

    /// Begins a load in the background.
    fn refresh(&mut self, grant: Grant) -> Option<Joiner> {
        let permit = self.origin.core.loads.refresh()?;
        Some(self.spawn(None, Some(grant), permit))
    }

    /// Starts the task of a load. The task goes on if the caller leaves.
    fn spawn(&mut self, leader: Option<Leader>, grant: Option<Grant>, permit: Permit) -> Joiner {
        let leader = leader.unwrap_or_else(|| Leader::alone(&self.key));
        let joiner = leader.joiner();
        let Some(loader) = self.loader.take() else { return joiner };
        let reason = grant.as_ref().map(Grant::reason);
        let span = tracing::debug_span!("load", reason = ?reason);
        let chain = chain::begin(&self.origin.core, vec![self.key.clone()]);
        let task = Task { options: Arc::clone(&self.options), leader, grant, permit, chain };
        // The load belongs to the span of its caller.
        tokio::spawn(task.run(loader).instrument(span).in_current_span());
        joiner
    }
}

/// A load.
struct Task {
    options: Arc<LoadOptions>,
    leader: Leader,
    grant: Option<Grant>,
    permit: Permit,
    chain: Arc<chain::Chain>,
}

/// Time in which the server usually answers whether it stored a value. Callers receive the value after the answer, so that a
/// read right after finds it, or after this time.
pub(super) const FILL_PATIENCE: Duration = Duration::from_millis(20);

impl Task {
    async fn run(self, loader: Loader) {
        let begun = self.leader.load();
        let loaded = chain::within(self.chain, loader.run(&self.options)).await;
        drop(self.permit);
        match loaded {
            Ok(loaded) => {
                let value = Ok(loaded.value.clone());
                let sent = Instant::now();
                let filled = async {
                    match self.grant {
                        Some(grant) => fill(grant, loaded, &self.options).await,
                        None => false,
                    }
                };
                tokio::pin!(filled);
                let is_stored = match timeout_at(sent + FILL_PATIENCE, &mut filled).await {
                    Ok(is_stored) => is_stored,
                    Err(_elapsed) => {
                        self.leader.loaded(begun, &value);
                        filled.await
                    }
                };
                self.leader.finish(Outcome::Loaded { begun, value, valid_at: is_stored.then_some(sent) });
            }
            Err(error) => {
                let text = error.shared_text(&self.options);
                let value = Err(error.into_error());
                self.leader.loaded(begun, &value);
                report(self.grant, text).await;
                // A failure is an answer to all who wait now; later callers learn it from the server.
                self.leader.finish(Outcome::Loaded { begun, value, valid_at: Some(Instant::now()) });
            }
        }
    }
}

/// Time for which the server stores that the origin does not have a key, if neither the caller nor a policy states one: the
/// callers that wait now receive this answer, instead of loading one after the other.
const ABSENT_SHARED: Duration = Duration::from_millis(50);

/// Stores a loaded value. Returns whether the server stored it.
pub(super) async fn fill(grant: Grant, loaded: Loaded<Bytes>, options: &LoadOptions) -> bool {
    let filled = match loaded.value {
        Some(value) => grant.fill(value, loaded.ttl.or(options.ttl), loaded.stale.or(options.stale)).await,
        None => match loaded.ttl.or(options.negative_ttl) {
            Some(ttl) => grant.fill_absent(Some(ttl)).await,
            None => grant.fill_absent_by_policy(ABSENT_SHARED).await,
        },
    };
    match filled {
        Ok(filled) => filled == Filled::Stored,
        Err(error) => {
            // The callers have the value: only the cache does not.
            if is_refused(error.kind()) {
                tracing::warn!(%error, "the cache refuses a loaded value; the key is loaded each time");
            } else {
                tracing::debug!(%error, "a loaded value was not stored");
            }
            false
        }
    }
}

/// Reports a failed load, so that other clients do not load the key at once.
pub(super) async fn report(grant: Option<Grant>, text: String) {
    let Some(grant) = grant else { return };
    if let Err(error) = grant.fail(text, None).await {
        tracing::debug!(%error, "a failed load was not reported");
    }
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        error.into_error()
    }
}
