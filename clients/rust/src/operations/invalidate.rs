//! Invalidation of patterns, prefixes and tags.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use terrace_proto::{
    InvalidatePatternRequest, InvalidateTagsRequest, invalidate_pattern_request::Keys,
    invalidation_client::InvalidationClient,
};

use super::{Origin, timeout};
use crate::{
    backend::Backend,
    error::{Error, ErrorKind, Result},
    near::Change,
};

/// Result of an invalidation of a pattern or a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invalidated {
    /// Keys removed from L2 until now; with [`InvalidatePattern::dry_run`], keys that match. Approximate.
    pub removed: u64,
    /// All matching values from before the invalidation are removed from L2. They are absent for all clients in any case.
    pub is_done: bool,
}

/// An invalidation of all keys that match: [`Client::invalidate_pattern`](crate::Client::invalidate_pattern) and
/// [`Client::invalidate_prefix`](crate::Client::invalidate_prefix).
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct InvalidatePattern {
    pub(crate) origin: Origin,
    pub(crate) keys: Keys,
    pub(crate) dry_run: bool,
    pub(crate) wait: bool,
    pub(crate) timeout: Option<Duration>,
}

impl InvalidatePattern {
    timeout!();

    /// Counts the matching keys and changes nothing.
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Waits until all keys are removed from L2. Default: until they are absent for all clients. Requires a longer
    /// [`timeout`](Self::timeout).
    pub fn wait(mut self) -> Self {
        self.wait = true;
        self
    }
}

impl IntoFuture for InvalidatePattern {
    type Output = Result<Invalidated>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { origin, keys, dry_run, wait, timeout } = self;
        let request = InvalidatePatternRequest { keys: Some(keys), dry_run, wait };
        let timeout = timeout.unwrap_or(origin.settings().write_timeout);
        Box::pin(async move {
            let change = || match request.keys.clone() {
                Some(Keys::Pattern(pattern)) => Change::Pattern(pattern),
                Some(Keys::Prefix(prefix)) => Change::Prefix(prefix),
                None => Change::Prefix(Bytes::new()),
            };
            let _changing = if dry_run { None } else { origin.changing(change) };
            let fleet = match &origin.core.backend {
                Backend::Fleet(fleet) => Arc::clone(fleet),
                #[cfg(feature = "testing")]
                Backend::Fake(server) => return server.invalidate_pattern(request, timeout).await,
            };
            fleet
                .unary(timeout, |channel| {
                    let request = request.clone();
                    async move {
                        let mut progress =
                            InvalidationClient::new(channel).invalidate_pattern(request).await?.into_inner();
                        let mut last = None;
                        while let Some(message) = progress.message().await? {
                            let is_done = message.done;
                            last = Some(Invalidated { removed: message.removed, is_done });
                            if is_done || !(wait || dry_run) {
                                break;
                            }
                        }
                        last.ok_or_else(|| Error::new(ErrorKind::Internal, "the server sent no result"))
                    }
                })
                .await
        })
    }
}

/// An invalidation of tags: [`Client::invalidate_tags`](crate::Client::invalidate_tags). The result is the number of tags
/// that were in use.
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct InvalidateTags {
    pub(crate) origin: Origin,
    pub(crate) tags: Vec<Bytes>,
    pub(crate) timeout: Option<Duration>,
}

impl InvalidateTags {
    timeout!();
}

impl IntoFuture for InvalidateTags {
    type Output = Result<u64>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { origin, tags, timeout } = self;
        let timeout = timeout.unwrap_or(origin.settings().write_timeout);
        Box::pin(async move {
            let _changing = origin.changing(|| Change::Tags(tags.clone()));
            let fleet = match &origin.core.backend {
                Backend::Fleet(fleet) => Arc::clone(fleet),
                #[cfg(feature = "testing")]
                Backend::Fake(server) => return server.invalidate_tags(tags, timeout).await,
            };
            fleet
                .unary(timeout, |channel| {
                    let request = InvalidateTagsRequest { tags: tags.clone() };
                    async move {
                        let response = InvalidationClient::new(channel).invalidate_tags(request).await?;
                        Ok(response.into_inner().invalidated)
                    }
                })
                .await
        })
    }
}
