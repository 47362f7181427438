//! The error type of the facade and the tiers. Each protocol maps [`Kind`] once, exhaustively.
//!
//! A miss is not an error, and a failed read is never turned into a miss.

use std::{borrow::Cow, fmt, time::Duration};

/// Category of an error; a client can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A key, TTL, pattern, tag or option is invalid.
    InvalidArgument,
    /// The key begins with the reserved prefix `__terrace:`.
    ReservedPrefix,
    /// A value, batch or message exceeds a limit; the message names the limit.
    TooLarge,
    /// Too many requests or bytes are in flight. The request had no effect.
    Overloaded,
    /// L2 has no free memory and rejected the write.
    OutOfMemory,
    /// L2 is unreachable or rejects requests at the moment. The request had no effect.
    Unavailable,
    /// A read did not finish before its deadline.
    DeadlineExceeded,
    /// A write was sent to L2 and its result is unknown: L2 may or may not have applied the write.
    Unknown,
    /// The key holds a value of another type than the operation requires.
    WrongType,
    /// The value is not a number of the type that the operation requires.
    NotANumber,
    /// The result of an arithmetic operation is out of range.
    Overflow,
    /// L2 rejects the credentials or permissions of Terrace.
    NoAccess,
    /// The client does not have the permission.
    Denied,
    /// The L2 backend or the configuration does not support the operation.
    Unsupported,
    /// A bug in Terrace, or damaged data in the store.
    Internal,
}

/// An error of the cache.
///
/// Cheap to clone, because one failed read may answer many waiters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheError {
    kind: Kind,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    refuses_writes: bool,
}

/// Result of the facade and the tiers.
pub type Result<T, E = CacheError> = std::result::Result<T, E>;

impl CacheError {
    /// Creates an error with a message for the client: what was wrong and what is accepted. The message never contains
    /// a value or a secret.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), retry_after: None, refuses_writes: false }
    }

    /// Sets the time after which a retry makes sense.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Notes that L2 refused this write, but may answer reads.
    #[must_use]
    pub fn refusing_writes(mut self) -> Self {
        self.refuses_writes = true;
        self
    }

    /// Returns whether L2 refused a write, but may answer reads.
    #[must_use]
    pub fn refuses_writes(&self) -> bool {
        self.refuses_writes
    }

    /// Returns the category of the error.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the message for the client.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the time after which a retry makes sense, if it is known.
    #[must_use]
    pub fn retry_delay(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns whether L2 was unreachable or did not answer in time.
    #[must_use]
    pub fn says_away(&self) -> bool {
        match self.kind {
            Kind::Overloaded | Kind::Unavailable | Kind::DeadlineExceeded => true,
            Kind::InvalidArgument
            | Kind::ReservedPrefix
            | Kind::TooLarge
            | Kind::OutOfMemory
            | Kind::Unknown
            | Kind::WrongType
            | Kind::NotANumber
            | Kind::Overflow
            | Kind::NoAccess
            | Kind::Denied
            | Kind::Unsupported
            | Kind::Internal => false,
        }
    }

    /// Returns whether the same call may succeed later without a change by the client, and is harmless if it was
    /// already applied.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            Kind::Overloaded | Kind::OutOfMemory | Kind::Unavailable | Kind::DeadlineExceeded => true,
            Kind::InvalidArgument
            | Kind::ReservedPrefix
            | Kind::TooLarge
            | Kind::Unknown
            | Kind::WrongType
            | Kind::NotANumber
            | Kind::Overflow
            | Kind::NoAccess
            | Kind::Denied
            | Kind::Unsupported
            | Kind::Internal => false,
        }
    }
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CacheError {}
