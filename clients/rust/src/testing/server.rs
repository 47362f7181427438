//! [`Server`]: executes the operations of clients on the state, with the injected faults.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use terrace_proto::{
    GetOrLeaseRequest, GetOrLeaseResponse, GetStatsResponse, InvalidatePatternRequest, ReleaseRequest, WatchRequest,
    get_or_lease_response, operation::Operation, operation_result::Result as Answer,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{
    counts::{OperationKind, keys_of},
    faults::{Attempt, Verdict},
    feed::Follower,
    leases::Plan,
    state::State,
};
use crate::{
    engine::{call::Order, link::grants_of},
    error::{Error, ErrorKind, Result},
    operations::invalidate::Invalidated,
};

/// Name of the fake in statistics and errors.
const NAME: &str = "fake";

/// An operation of the fake.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T>> + Send + Sync>>;

/// An in-memory implementation of the operations of a server without L2.
#[derive(Debug, Default)]
pub(crate) struct Server {
    pub(super) state: Mutex<State>,
    /// Notifies waiting callers after each change of the state.
    pub(super) changed: Notify,
    /// Number of operations without an answer.
    in_progress: AtomicUsize,
    /// Number of callers that wait for the loads of others.
    waiting: AtomicUsize,
}

impl Server {
    /// Begins an operation, which is executed when the future is first polled.
    pub(crate) fn begin(self: &Arc<Self>, order: Order) -> BoxFuture<Answer> {
        let server = Arc::clone(self);
        Box::pin(async move {
            let Order { operation, is_write, timeout, .. } = order;
            let attempt = Attempt {
                kind: OperationKind::of(&operation),
                keys: keys_of(&operation),
                is_own: matches!(&operation, Operation::Release(request) if request.failed.is_none()),
                is_write,
                timeout,
            };
            let undelivered = server.attempt(attempt, server.execute(operation)).await?;
            Ok(undelivered.delivered())
        })
    }

    pub(crate) fn invalidate_pattern(
        self: &Arc<Self>,
        request: InvalidatePatternRequest,
        timeout: Duration,
    ) -> BoxFuture<Invalidated> {
        let server = Arc::clone(self);
        Box::pin(async move {
            let attempt = unary(OperationKind::InvalidatePattern, !request.dry_run, timeout);
            let work = async { server.change(|state| state.invalidate(request)).map_err(Error::of_item) };
            let removed = server.attempt(attempt, work).await?;
            Ok(Invalidated { removed, is_done: true })
        })
    }

    pub(crate) fn invalidate_tags(self: &Arc<Self>, tags: Vec<Bytes>, timeout: Duration) -> BoxFuture<u64> {
        let server = Arc::clone(self);
        Box::pin(async move {
            let attempt = unary(OperationKind::InvalidateTags, true, timeout);
            let work = async { server.change(|state| state.invalidate_tags(tags)).map_err(Error::of_item) };
            server.attempt(attempt, work).await
        })
    }

    pub(crate) async fn watch(self: &Arc<Self>, request: WatchRequest, timeout: Duration) -> Result<Follower> {
        let attempt = unary(OperationKind::Watch, false, timeout);
        self.attempt(attempt, async { Follower::open(self, request).map_err(Error::of_item) }).await
    }

    pub(crate) async fn stats(&self, timeout: Duration) -> Result<Vec<(String, GetStatsResponse)>> {
        let attempt = unary(OperationKind::Stats, false, timeout);
        let work = async { Ok(self.state.lock().stats(self.waiting())) };
        Ok(vec![(NAME.to_owned(), self.attempt(attempt, work).await?)])
    }

    /// Returns the injected error of an outage.
    pub(crate) fn ready(&self) -> Result<()> {
        self.state.lock().faults.outage(&[]).map_or(Ok(()), Err)
    }

    pub(crate) fn in_progress(&self) -> usize {
        self.in_progress.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Changes the state, and notifies waiting callers.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.notify_waiters();
        result
    }

    /// Executes `work` with the injected faults, within the deadline of the caller.
    async fn attempt<T>(&self, attempt: Attempt, work: impl Future<Output = Result<T>>) -> Result<T> {
        let _in_progress = Counted::new(&self.in_progress);
        let (begun, timeout, is_write) = (Instant::now(), attempt.timeout, attempt.is_write);
        let mut answer = pin!(self.answer(attempt, work));
        // An answer that needs no wait needs no timer.
        if let Poll::Ready(answer) = std::future::poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
            return answer;
        }
        timeout_at(begun + timeout, answer).await.unwrap_or_else(|_elapsed| {
            let text = format!("{NAME}: no answer within {timeout:?}");
            Err(match is_write {
                true => Error::new(ErrorKind::OutcomeUnknown, format!("{text}; the write may have been applied")),
                false => Error::new(ErrorKind::DeadlineExceeded, text),
            })
        })
    }

    async fn answer<T>(&self, attempt: Attempt, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (verdict, delay) = {
            let mut state = self.state.lock();
            attempt.kind.into_iter().for_each(|kind| state.counts.add(kind));
            (state.faults.verdict(&attempt), state.faults.delay)
        };
        let result = match verdict {
            Verdict::Execute => work.await,
            Verdict::Fail(error) => Err(error),
            Verdict::Conceal => work.await.and_then(|_concealed| {
                let text = "injected fault: no answer; the write may have been applied";
                Err(Error::new(ErrorKind::OutcomeUnknown, text))
            }),
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        result
    }

    async fn execute(self: &Arc<Self>, operation: Operation) -> Result<Undelivered> {
        let keys = keys_of(&operation);
        let answer = if let Operation::GetOrLease(request) = operation {
            self.get_or_lease(request).await?
        } else {
            self.change(|state| state.execute(operation))
        };
        Ok(Undelivered { server: Arc::clone(self), keys, answer: Some(answer) })
    }

    /// Answers a GetOrLease; waits for the load of another client until the manual clock or real time has passed the wait.
    async fn get_or_lease(&self, request: GetOrLeaseRequest) -> Result<Answer> {
        let plan = match Plan::new(request) {
            Ok(plan) => plan,
            Err(error) => return Ok(Answer::Error(error)),
        };
        let late_at = self.state.lock().now.saturating_add(plan.wait);
        let deadline = Instant::now() + plan.wait;
        let mut seat = None;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(result) = self.try_lease(&plan, late_at, deadline)? {
                return Ok(Answer::GetOrLease(GetOrLeaseResponse { result: Some(result) }));
            }
            seat.get_or_insert_with(|| Counted::new(&self.waiting));
            // Either way, the next attempt decides.
            let _changed_or_late = timeout_at(deadline, changed).await;
        }
    }

    fn try_lease(
        &self,
        plan: &Plan,
        late_at: Duration,
        deadline: Instant,
    ) -> Result<Option<get_or_lease_response::Result>> {
        let mut state = self.state.lock();
        if let Some(error) = state.faults.outage(std::slice::from_ref(&plan.key)) {
            return Err(error);
        }
        let is_late = state.now >= late_at || Instant::now() >= deadline;
        Ok(state.take_lease(plan, is_late))
    }
}

fn unary(kind: OperationKind, is_write: bool, timeout: Duration) -> Attempt {
    Attempt { kind: Some(kind), keys: Vec::new(), is_write, timeout, is_own: false }
}

/// A count while it exists.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer that its caller has not received. If the caller leaves, the leases in it are released.
struct Undelivered {
    server: Arc<Server>,
    keys: Vec<Bytes>,
    answer: Option<Answer>,
}

impl Undelivered {
    fn delivered(mut self) -> Answer {
        self.answer.take().unwrap_or_else(|| Answer::Error(super::limits::invalid("an answer was delivered twice")))
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else { return };
        let releases: Vec<ReleaseRequest> = std::mem::take(&mut self.keys)
            .into_iter()
            .zip(grants_of(answer))
            .filter_map(|(key, grant)| Some(ReleaseRequest { key, token: grant?.token, failed: None }))
            .collect();
        if !releases.is_empty() {
            // A lease that has ended already cannot be released.
            self.server.change(|state| releases.into_iter().for_each(|release| drop(state.release(release))));
        }
    }
}
