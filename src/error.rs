//! The one error type of the facade and the tiers. Each protocol maps [`Kind`] once, exhaustively.
//!
//! A miss is not an error, and a failed read is never turned into a miss.

use std::{borrow::Cow, fmt, time::Duration};

/// What went wrong, in the terms a client can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A key, TTL, pattern or option is not acceptable. Repeating does not help.
    InvalidArgument,
    /// The key lies under the reserved prefix `__terrace:`.
    ReservedPrefix,
    /// A value, batch or message is over a limit that the message names.
    TooLarge,
    /// Too much is under way; nothing was done. Repeating later helps.
    Overloaded,
    /// L2 is out of memory and refused the write.
    OutOfMemory,
    /// L2 is out of reach or refuses to serve now; nothing was done.
    Unavailable,
    /// L2 or the call was slower than its deadline. Only reads end so.
    DeadlineExceeded,
    /// A write was sent and its fate is not known.
    Unknown,
    /// The key holds another type than the operation wants.
    WrongType,
    /// The value is not a number of the kind the operation wants.
    NotANumber,
    /// The result of an arithmetic operation does not fit.
    Overflow,
    /// L2 refuses our credentials or rights.
    NoAccess,
    /// The operation is not to be had with this L2 or configuration.
    Unsupported,
    /// A bug or damaged data on our side.
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
}

/// What the facade and the tiers return.
pub type Result<T, E = CacheError> = std::result::Result<T, E>;

impl CacheError {
    /// An error with a message for the client: what was wrong and what would be right. Never a value or a secret.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// Says when it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// For the client.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// When it is worth trying again, where that is known.
    #[must_use]
    pub fn retry_delay(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether L2 could not be asked, or did not answer in time.
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
            | Kind::Unsupported
            | Kind::Internal => false,
        }
    }

    /// Whether the same call may succeed later without anybody changing it, and does no harm if it was done before.
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
