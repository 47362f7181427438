//! Errors of operations.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use tonic::Code;
use tonic_types::StatusExt;

/// Result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No node can answer, or L2 is unreachable and L1 cannot answer. A write was not applied.
    Unavailable,
    /// The deadline has passed. A write was not sent.
    DeadlineExceeded,
    /// A value or a batch exceeds a limit, L2 is out of memory, or the server or the client is overloaded. The message
    /// names the limit.
    ResourceExhausted,
    /// A key, TTL, tag or option is invalid. The message names it.
    InvalidArgument,
    /// The key holds a value of another type, or the nodes use different stores.
    FailedPrecondition,
    /// The user of the client lacks a permission.
    PermissionDenied,
    /// The server does not accept the token or the certificate of the client, or the token file cannot be used.
    Unauthenticated,
    /// The server, its L2 or its configuration does not support the operation.
    Unimplemented,
    /// A write was sent, and its result is unknown: it may have been applied.
    OutcomeUnknown,
    /// The loader of `get_or_load` failed, in this process ([`Error::source`](std::error::Error::source) is its error) or in
    /// another one.
    LoadFailed,
    /// A fault of the server or of the client.
    Internal,
}

/// Failure of an operation. A failed read is never reported as a miss.
#[derive(Clone)]
pub struct Error(Box<Details>);

#[derive(Debug, Clone)]
struct Details {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Details { kind, message: message.into(), retry_after: None, source: None }))
    }

    pub(crate) fn with_retry_after(mut self, delay: Option<Duration>) -> Self {
        self.0.retry_after = delay;
        self
    }

    pub(crate) fn with_source(mut self, source: Arc<dyn StdError + Send + Sync>) -> Self {
        self.0.source = Some(source);
        self
    }

    pub(crate) fn load_failed(message: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self::new(ErrorKind::LoadFailed, message).with_retry_after(retry_after)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// Converts the error of one operation of a stream.
    pub(crate) fn of_item(error: terrace_proto::Error) -> Self {
        let retry_after = error.retry_after_ms.map(|ms| Duration::from_millis(ms.unsigned_abs()));
        Self::new(kind_of(Code::from_i32(error.code)), error.message).with_retry_after(retry_after)
    }

    /// Converts the status of a read: it has no unknown outcome, even if its connection broke.
    pub(crate) fn of_read(status: tonic::Status) -> Self {
        let mut error = Self::from(status);
        if error.0.kind == ErrorKind::OutcomeUnknown {
            error.0.kind = ErrorKind::Unavailable;
        }
        error
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the description.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the time after which a repetition may succeed, if the server or the client knows it.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns whether a repetition later may succeed without a change of the request. A write with an unknown outcome is
    /// not retryable: a repetition may apply it twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::LoadFailed => true,
            ErrorKind::ResourceExhausted => self.0.retry_after.is_some(),
            ErrorKind::InvalidArgument
            | ErrorKind::FailedPrecondition
            | ErrorKind::PermissionDenied
            | ErrorKind::Unauthenticated
            | ErrorKind::Unimplemented
            | ErrorKind::OutcomeUnknown
            | ErrorKind::Internal => false,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        Self::new(kind_of(status.code()), status.message()).with_retry_after(retry_after)
    }
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::Unavailable => ErrorKind::Unavailable,
        Code::DeadlineExceeded | Code::Cancelled => ErrorKind::DeadlineExceeded,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::Unknown => ErrorKind::OutcomeUnknown,
        Code::Ok | Code::NotFound | Code::AlreadyExists | Code::Aborted | Code::Internal | Code::DataLoss => {
            ErrorKind::Internal
        }
    }
}
