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
    task::{Context, Poll},
    time::Duration,
};

use terrace_proto::{operation::Operation, operation_result::Result as Answer};

use crate::{
    engine::call::{AfterBreak, Call, Order},
    error::{Error, ErrorKind, Result},
    nodes::{Fleet, routing::RouteHash},
};

/// Where operations are sent from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) context: u64,
}

impl Origin {
    pub(crate) fn read(&self, operation: Operation, key: &[u8], timeout: Option<Duration>) -> Call {
        let timeout = timeout.unwrap_or(self.fleet.settings.read_timeout);
        self.call(operation, key, AfterBreak::Repeat, false, timeout)
    }

    pub(crate) fn write(
        &self,
        operation: Operation,
        key: &[u8],
        repeat: AfterBreak,
        timeout: Option<Duration>,
    ) -> Call {
        let timeout = timeout.unwrap_or(self.fleet.settings.write_timeout);
        self.call(operation, key, repeat, true, timeout)
    }

    fn call(
        &self,
        operation: Operation,
        key: &[u8],
        after_break: AfterBreak,
        is_write: bool,
        timeout: Duration,
    ) -> Call {
        let key = Some(RouteHash::of(key));
        let order = Order { operation, key, after_break, is_write, timeout, context: self.context };
        Call::new(Arc::clone(&self.fleet), order)
    }
}

/// An operation that was begun. Dropping it cancels the operation; a write may have been applied then.
#[must_use = "an operation makes no progress until it is awaited"]
pub struct Pending<T> {
    call: Call,
    convert: fn(Answer) -> Result<T>,
}

impl<T> Pending<T> {
    pub(crate) fn new(call: Call, convert: fn(Answer) -> Result<T>) -> Self {
        Self { call, convert }
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        match Pin::new(&mut self.call).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(answer)) => Poll::Ready((self.convert)(answer)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
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
            self.timeout = Some(timeout);
            self
        }
    };
}
pub(crate) use timeout;
