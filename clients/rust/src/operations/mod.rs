//! The operations of a client: builders that are awaited.

pub(crate) mod invalidate;
pub(crate) mod lease;
pub(crate) mod many;
pub(crate) mod read;
pub(crate) mod watch;
pub(crate) mod write;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use terrace_proto::{
    Found, LeaseHit, get_many_result, get_or_lease_many_result, get_or_lease_response, get_response,
    operation::Operation, operation_result::Result as Answer,
};
use tokio::task::coop::poll_proceed;

use crate::{
    backend::{Core, Running},
    engine::call::{AfterBreak, Order, span_of},
    error::{Error, ErrorKind, Result},
    near::{Change, Changing, Near, store::Reading},
    nodes::{Node, routing::RouteHash},
    settings::Settings,
};

/// Where operations are sent from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) core: Arc<Core>,
    pub(crate) context: u64,
}

impl Origin {
    pub(crate) fn settings(&self) -> &Settings {
        &self.core.settings
    }

    /// Begins a change: later callers of get-or-load do not join the lookups of earlier ones, and the copies of the near cache
    /// end now and at the end of the operation.
    pub(crate) fn changing(&self, change: impl FnOnce() -> Change) -> Option<Changing> {
        let flights = &self.core.loads.flights;
        if self.core.near.is_none() && flights.is_idle() {
            return None;
        }
        let change = change();
        match &change {
            Change::Key(key) => flights.detach(key),
            Change::Keys(keys) => keys.iter().for_each(|key| flights.detach(key)),
            Change::Tags(_) | Change::Pattern(_) | Change::Prefix(_) => flights.detach_all(),
        }
        self.core.near.as_ref().map(|near| Changing::begin(near, change))
    }

    /// Begins to store the result of a load: the value that the callers of the load wait for.
    pub(crate) fn filling(&self, key: &Bytes) -> Option<Changing> {
        self.core.near.as_ref().map(|near| Changing::begin(near, Change::Key(key.clone())))
    }

    pub(crate) fn read(&self, operation: Operation, key: &[u8], timeout: Option<Duration>) -> Running {
        self.call(operation, Place::Key(key), None, timeout)
    }

    pub(crate) fn write(
        &self,
        operation: Operation,
        key: &[u8],
        repeat: AfterBreak,
        timeout: Option<Duration>,
    ) -> Running {
        self.call(operation, Place::Key(key), Some(repeat), timeout)
    }

    /// Sends an operation. `write` has the repetition rule of a write; `None` for a read.
    pub(crate) fn call(
        &self,
        operation: Operation,
        place: Place<'_>,
        write: Option<AfterBreak>,
        timeout: Option<Duration>,
    ) -> Running {
        let settings = self.settings();
        let default = if write.is_some() { settings.write_timeout } else { settings.read_timeout };
        let (key, node) = match place {
            Place::Key(key) => (RouteHash::of(key), None),
            Place::Selected { key, node } => (RouteHash::of(key), node),
        };
        let order = Order {
            span: span_of(&operation),
            operation,
            key: Some(key),
            node,
            after_break: write.unwrap_or(AfterBreak::Repeat),
            is_write: write.is_some(),
            timeout: timeout.unwrap_or(default),
            context: self.context,
        };
        self.core.backend.begin(order)
    }
}

/// What selects the node of an operation.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    /// The key.
    Key(&'a [u8]),
    /// A node that is selected already; the key if it fails.
    Selected {
        /// The key.
        key: &'a [u8],
        /// The node; `None` if there is none, which the operation reports.
        node: Option<Arc<Node>>,
    },
}

/// An operation that was begun. Dropping it cancels the operation; a write may have been applied then.
#[must_use = "an operation makes no progress until it is awaited"]
pub struct Pending<T>(State<T>);

#[expect(clippy::large_enum_variant, reason = "a box would cost each operation an allocation")]
enum State<T> {
    /// The result is known.
    Ready(Option<Result<T>>),
    Called {
        call: Running,
        convert: fn(Answer) -> Result<T>,
        hook: Hook,
    },
}

/// What happens to the near cache when the answer arrives.
pub(crate) enum Hook {
    None,
    /// The answer may be kept.
    Keep(Box<Keeping>),
    /// The operation changes keys. The copies end with it, however it ends.
    Change(#[expect(dead_code, reason = "acts when it is dropped")] Changing),
}

impl From<Option<Changing>> for Hook {
    fn from(changing: Option<Changing>) -> Self {
        changing.map_or(Self::None, Self::Change)
    }
}

impl Hook {
    pub(crate) fn keep(near: &Arc<Near>, reading: Reading) -> Self {
        Self::Keep(Box::new(Keeping { near: Arc::clone(near), readings: vec![Some(reading)] }))
    }

    /// Returns the hook of a read, if its answer may be kept.
    pub(crate) fn keep_many(near: &Arc<Near>, readings: Vec<Option<Reading>>) -> Self {
        Self::Keep(Box::new(Keeping { near: Arc::clone(near), readings }))
    }

    fn answered(self, answer: &Answer, node: Option<&Node>) {
        if let (Self::Keep(keeping), Some(node)) = (self, node) {
            keeping.answered(answer, node);
        }
    }
}

/// Reads whose answers may be kept.
pub(crate) struct Keeping {
    near: Arc<Near>,
    /// One per key, in order; `None` if the key is not within the prefixes.
    readings: Vec<Option<Reading>>,
}

impl Keeping {
    fn answered(self, answer: &Answer, node: &Node) {
        let mut readings = self.readings.into_iter();
        let mut keep = |found: Option<&Found>| {
            if let (Some(Some(reading)), Some(found)) = (readings.next(), found) {
                self.near.keep(reading, node, found);
            }
        };
        if let Answer::Get(response) = answer {
            keep(match &response.result {
                Some(get_response::Result::Found(found)) => Some(found),
                Some(get_response::Result::Missing(_)) | None => None,
            });
        }
        if let Answer::GetOrLease(response) = answer {
            keep(match &response.result {
                Some(get_or_lease_response::Result::Hit(hit)) => fresh(hit),
                Some(_) | None => None,
            });
        }
        if let Answer::GetOrLeaseMany(response) = answer {
            for result in &response.results {
                keep(match &result.result {
                    Some(get_or_lease_many_result::Result::Hit(hit)) => fresh(hit),
                    Some(_) | None => None,
                });
            }
        }
        if let Answer::GetMany(response) = answer {
            for result in &response.results {
                keep(match &result.result {
                    Some(get_many_result::Result::Found(found)) => Some(found),
                    Some(get_many_result::Result::Missing(_) | get_many_result::Result::Error(_)) | None => None,
                });
            }
        }
    }
}

/// Returns a value that needs no refresh.
fn fresh(hit: &LeaseHit) -> Option<&Found> {
    hit.found.as_ref().filter(|_| !hit.needs_refresh)
}

impl<T> Pending<T> {
    pub(crate) fn new(call: Running, convert: fn(Answer) -> Result<T>) -> Self {
        Self::with_hook(call, convert, Hook::None)
    }

    pub(crate) fn with_hook(call: Running, convert: fn(Answer) -> Result<T>, hook: Hook) -> Self {
        Self(State::Called { call, convert, hook })
    }

    /// Returns an operation whose result is known.
    pub(crate) fn ready(result: Result<T>) -> Self {
        Self(State::Ready(Some(result)))
    }
}

// No part is pinned in place.
impl<T> Unpin for Pending<T> {}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        match &mut self.0 {
            State::Called { call, convert, hook } => {
                let result = ready!(Pin::new(call).poll(context));
                // Takes effect before the caller sees the result.
                let hook = std::mem::replace(hook, Hook::None);
                Poll::Ready(result.and_then(|(answer, node)| {
                    hook.answered(&answer, node.as_deref());
                    convert(answer)
                }))
            }
            State::Ready(result) => {
                // A task that reads only copies must yield to others, such as the one that follows the change feed.
                ready!(poll_proceed(context)).made_progress();
                result.take().map_or(Poll::Pending, Poll::Ready)
            }
        }
    }
}

/// Returns the error for an answer that does not belong to the operation.
pub(crate) fn unexpected(answer: Answer) -> Error {
    match answer {
        Answer::Error(error) => Error::of_item(error),
        Answer::Get(_)
        | Answer::Set(_)
        | Answer::Delete(_)
        | Answer::Touch(_)
        | Answer::Increment(_)
        | Answer::GetMeta(_)
        | Answer::GetOrLease(_)
        | Answer::Fill(_)
        | Answer::Release(_)
        | Answer::GetMany(_)
        | Answer::SetMany(_)
        | Answer::GetOrLeaseMany(_) => empty(),
    }
}

/// Returns the error for an answer without a result that this version knows.
pub(crate) fn empty() -> Error {
    Error::new(ErrorKind::Internal, "the server sent an answer that this version of the client does not know")
}

/// Converts a duration to milliseconds; a duration below 1 ms becomes 1 ms.
pub(crate) fn to_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(i64::from(!duration.is_zero()))
}

pub(crate) fn from_ms(ms: i64) -> Duration {
    Duration::from_millis(ms.try_into().unwrap_or(0))
}

/// Takes the response of an operation out of its answer, or returns the error.
macro_rules! response {
    ($answer:expr, $kind:ident) => {{
        let answer = $answer;
        if let terrace_proto::operation_result::Result::$kind(response) = answer {
            response
        } else {
            return Err($crate::operations::unexpected(answer));
        }
    }};
}
pub(crate) use response;

/// Adds the setter of the deadline.
macro_rules! timeout {
    () => {
        /// Sets the deadline of this operation, including repetitions. Default: that of the client.
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.timeout = Some($crate::convert::bounded(timeout));
            self
        }
    };
}
pub(crate) use timeout;
