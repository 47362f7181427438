//! Results of loaders.

use std::{borrow::Cow, error::Error as StdError, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;

use super::options::LoadOptions;
use crate::error::{Error, ErrorKind};

/// Error of a loader.
pub type BoxError = Box<dyn StdError + Send + Sync>;

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Maximum size in bytes of the text of a failed load: the limit of the server.
const MESSAGE_MAX: usize = 256;

/// Result of a load: a value, or that the origin does not have the key. `Option` converts into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<V> {
    pub(crate) value: Option<V>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) stale: Option<Duration>,
}

impl<V> Loaded<V> {
    /// Returns a loaded value.
    pub fn value(value: V) -> Self {
        Self { value: Some(value), ttl: None, stale: None }
    }

    /// Returns that the origin does not have the key.
    #[must_use]
    pub fn absent() -> Self {
        Self { value: None, ttl: None, stale: None }
    }

    /// Sets the TTL of this result, instead of the TTL of the options.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the stale part of this value, instead of the stale part of the options.
    #[must_use]
    pub fn stale(mut self, stale: Duration) -> Self {
        self.stale = Some(stale);
        self
    }

    pub(crate) fn try_map<W, E>(self, convert: impl FnOnce(V) -> Result<W, E>) -> Result<Loaded<W>, E> {
        Ok(Loaded { value: self.value.map(convert).transpose()?, ttl: self.ttl, stale: self.stale })
    }
}

impl<V> From<Option<V>> for Loaded<V> {
    fn from(value: Option<V>) -> Self {
        Self { value, ttl: None, stale: None }
    }
}

/// Failure of a load.
#[derive(Debug)]
pub(crate) struct LoadError {
    pub(crate) cause: Arc<dyn StdError + Send + Sync>,
    /// Name of the error's type.
    pub(crate) type_name: Cow<'static, str>,
}

impl LoadError {
    pub(crate) fn of<E: Into<BoxError>>(error: E) -> Self {
        Self { cause: Arc::from(error.into()), type_name: std::any::type_name::<E>().into() }
    }

    /// Returns the text for other clients.
    pub(crate) fn shared_text(&self, options: &LoadOptions) -> String {
        if options.shares_errors { limited(&self.cause.to_string()) } else { limited(&self.type_name) }
    }

    pub(crate) fn into_error(self) -> Error {
        Error::load_failed(format!("the load failed: {}", self.cause), None).with_source(self.cause)
    }
}

/// Shortens a text to the limit of the server, and replaces control characters.
fn limited(text: &str) -> String {
    let mut limited = String::new();
    for char in text.chars().map(|char| if char.is_control() { ' ' } else { char }) {
        if limited.len() + char.len_utf8() > MESSAGE_MAX {
            break;
        }
        limited.push(char);
    }
    limited
}

/// Loads a value once.
pub(crate) struct Loader(Box<dyn FnOnce() -> BoxFuture<Result<Loaded<Bytes>, LoadError>> + Send>);

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loader")
    }
}

impl Loader {
    pub(crate) fn new<F, Fut>(load: F) -> Self
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded<Bytes>, LoadError>> + Send + 'static,
    {
        Self(Box::new(move || Box::pin(load())))
    }

    /// Loads the value. A load that panics or exceeds its deadline fails.
    pub(crate) async fn run(self, options: &LoadOptions) -> Result<Loaded<Bytes>, LoadError> {
        guarded(async move { (self.0)().await }, options.load_timeout).await
    }
}

/// Runs a load. A load that panics or exceeds its deadline fails.
pub(crate) async fn guarded<T>(
    load: impl Future<Output = Result<T, LoadError>>,
    limit: Duration,
) -> Result<T, LoadError> {
    use futures_util::FutureExt;
    let caught = std::panic::AssertUnwindSafe(load).catch_unwind();
    match timeout(limit, caught).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(LoadError::of(LoadPanicked)),
        Err(_elapsed) => Err(LoadError::of(LoadTimedOut(limit))),
    }
}

/// The loader panicked.
#[derive(Debug, thiserror::Error)]
#[error("the loader panicked")]
struct LoadPanicked;

/// The loader exceeded its deadline.
#[derive(Debug, thiserror::Error)]
#[error("no result within {0:?}")]
struct LoadTimedOut(Duration);

/// Returns whether a failure of the cache permits a load without it. Other failures would be permanent: they show a mistake
/// in the request or in the configuration.
pub(crate) fn is_outage(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Unavailable
        | ErrorKind::DeadlineExceeded
        | ErrorKind::ResourceExhausted
        | ErrorKind::OutcomeUnknown
        | ErrorKind::Internal => true,
        ErrorKind::InvalidArgument
        | ErrorKind::FailedPrecondition
        | ErrorKind::PermissionDenied
        | ErrorKind::Unauthenticated
        | ErrorKind::Unimplemented
        | ErrorKind::LoadFailed => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_texts_have_no_control_characters_and_at_most_256_bytes() {
        assert_eq!(limited("one\ntwo\0"), "one two ");
        let long = limited(&"\u{e9}".repeat(200));
        assert_eq!(long.len(), 256);
        assert!(long.chars().all(|char| char == '\u{e9}'));
    }

    #[test]
    fn the_text_of_an_error_is_shared_only_on_request() {
        let error = || LoadError::of(std::io::Error::other("password=secret"));
        assert_eq!(error().shared_text(&LoadOptions::new()), "std::io::error::Error");
        assert_eq!(error().shared_text(&LoadOptions::new().share_errors(true)), "password=secret");
        assert_eq!(error().into_error().message(), "the load failed: password=secret");
    }
}
