//! The change feed of one node.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use terrace_proto::{WatchRequest, WatchResponse, invalidation_client::InvalidationClient};
use tonic::Streaming;

use super::{Origin, to_ms};
#[cfg(feature = "testing")]
use crate::testing::Follower;
use crate::{
    backend::Backend,
    error::{Error, Result},
};

/// A request for the change feed: [`Client::watch`](crate::Client::watch).
#[derive(Debug, Clone)]
#[must_use = "a watch does nothing until it is opened"]
pub struct Watch {
    pub(crate) origin: Origin,
    pub(crate) request: WatchRequest,
}

impl Watch {
    /// Restricts the feed to keys with one of these prefixes, at most 64.
    pub fn prefixes<P: crate::IntoBytes>(mut self, prefixes: impl IntoIterator<Item = P>) -> Self {
        self.request.prefixes = prefixes.into_iter().map(crate::IntoBytes::into_bytes).collect::<Vec<Bytes>>();
        self
    }

    /// Sets the time between heartbeats, 100 ms to 60 s. Default: 1 s.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.request.heartbeat_ms = Some(to_ms(interval));
        self
    }

    /// Opens the feed on one node.
    ///
    /// # Errors
    /// No node can be reached, or the node refuses the feed.
    pub async fn open(self) -> Result<WatchFeed> {
        let timeout = self.origin.settings().connect_timeout;
        let fleet = match &self.origin.core.backend {
            Backend::Fleet(fleet) => Arc::clone(fleet),
            #[cfg(feature = "testing")]
            Backend::Fake(server) => return Ok(WatchFeed(Source::Fake(server.watch(self.request, timeout).await?))),
        };
        let stream = fleet.unary(timeout, |channel| {
            let request = self.request.clone();
            async move {
                let opened = InvalidationClient::new(channel).watch(request).await;
                Ok(opened.map_err(Error::of_read)?.into_inner())
            }
        });
        Ok(WatchFeed(Source::Node(stream.await?)))
    }
}

/// The changes of a node. Its end is a discontinuity: changes may be missing until it is opened again.
#[derive(Debug)]
pub struct WatchFeed(Source);

#[derive(Debug)]
enum Source {
    Node(Streaming<WatchResponse>),
    #[cfg(feature = "testing")]
    Fake(Follower),
}

impl WatchFeed {
    /// Waits for the next message; `None` at the end. The rules for copies are in `invalidation.proto`.
    ///
    /// # Errors
    /// The reason why the feed ended.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>> {
        match &mut self.0 {
            Source::Node(stream) => stream.message().await.map_err(Error::of_read),
            #[cfg(feature = "testing")]
            Source::Fake(follower) => follower.next().await,
        }
    }
}
