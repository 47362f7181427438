//! Operations that have not begun, and operations in progress.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use terrace_client::{
    Client, Entry, Filled, Invalidated, Lease, Pending, Result, Touched, WatchFeed,
    bindings::{self, NearCopy},
    proto::GetStatsResponse,
};

/// A change of a feed: its kind, and the key, pattern or tag.
pub(crate) type Change = (&'static str, Option<Bytes>);

/// Answer of an operation.
pub(crate) enum Reply {
    Done,
    Copy(NearCopy),
    Value(Option<Bytes>),
    Values(Vec<Option<Bytes>>),
    EachValue(Vec<Result<Option<Bytes>>>),
    EachDone(Vec<Result<()>>),
    Bool(bool),
    Count(u64),
    Number(i64),
    Entry(Option<Box<Entry>>),
    Touched(Touched),
    Invalidated(Invalidated),
    Lease(Box<Lease>),
    Filled(Filled),
    Feed(Box<WatchFeed>, bool),
    Event(Option<Change>),
    Stats(Vec<(String, GetStatsResponse)>),
}

pub(crate) type BoxFuture = Pin<Box<dyn Future<Output = Result<Reply>> + Send>>;

type Begin = dyn FnOnce(&Client) -> BoxFuture + Send;

/// An operation that has not begun. A coroutine that is never awaited does nothing.
pub(crate) enum Request {
    /// The most frequent operation, without an allocation.
    Get {
        key: Bytes,
        timeout: Option<Duration>,
    },
    Other(Box<Begin>),
}

impl Request {
    /// Returns an operation; `begin` converts its arguments to a future.
    pub(crate) fn new<F, Fut, T>(begin: F, convert: fn(T) -> Reply) -> Self
    where
        F: FnOnce(&Client) -> Fut + Send + 'static,
        Fut: IntoFuture<Output = Result<T>>,
        Fut::IntoFuture: Send + 'static,
        T: 'static,
    {
        Self::Other(Box::new(move |client| {
            let running = begin(client).into_future();
            Box::pin(async move { running.await.map(convert) })
        }))
    }

    /// Begins the operation. Requires the context of a runtime.
    pub(crate) fn begin(self, client: &Client) -> Running {
        match self {
            Self::Get { key, timeout } => {
                if let Some(copy) = bindings::near_copy(client, &key) {
                    return Running::Ready(Some(Reply::Copy(copy)));
                }
                let mut get = bindings::get_missed(client, key);
                if let Some(timeout) = timeout {
                    get = get.timeout(timeout);
                }
                Running::Get(get.into_future())
            }
            Self::Other(begin) => Running::Other(begin(client)),
        }
    }
}

/// An operation in progress.
#[expect(clippy::large_enum_variant, reason = "a box would cost each Get an allocation")]
pub(crate) enum Running {
    Ready(Option<Reply>),
    Get(Pending<Option<Bytes>>),
    Other(BoxFuture),
}

impl Future for Running {
    type Output = Result<Reply>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(reply) => reply.take().map_or(Poll::Pending, |reply| Poll::Ready(Ok(reply))),
            Self::Get(get) => Pin::new(get).poll(context).map_ok(Reply::Value),
            Self::Other(other) => other.as_mut().poll(context),
        }
    }
}
