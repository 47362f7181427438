//! The gRPC port.
//!
//! A request passes through these modules:
//! 1. [`connection`] runs HTTP/2 with its limits.
//! 2. [`router`] selects the method.
//! 3. [`unary`] or [`stream`] reads the request message, applies the deadline and writes the response.
//! 4. [`service`], [`pipeline`], [`watch_stream`], [`insight`], [`invalidation`] or [`admin`] validates the request,
//!    calls the facade and converts the result with [`convert`].
//!
//! Health and reflection use tonic's generated services.
//!
//! Terrace reads and writes the messages itself. tonic's generated server rejects a message over its limit with
//! OUT_OF_RANGE, allocates two 8 KiB buffers and five boxes per call, and cannot count the bytes in flight. The bytes
//! on the wire are the same.

pub mod client;

mod admin;
mod answer;
mod connection;
mod convert;
mod credentials;
mod deadline;
mod explain;
mod health;
mod inbound;
mod insight;
mod invalidation;
mod leases;
mod load_insight;
mod messages;
mod pipeline;
mod preface;
mod prefetch_insight;
mod record_stream;
mod reflection;
mod request_log;
mod router;
mod service;
mod stream;
mod tally;
#[cfg(feature = "otel")]
mod trace;
mod transport;
mod ttl_insight;
mod turns;
mod unary;
mod warm_stream;
mod watch_stream;
mod wire;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderMap;

pub use connection::serve;
pub use convert::code;

use crate::{
    access::{Access, Identity, Principal, Verbs},
    budget::Account,
    cache::{Cache, Caller},
    error::Result,
    node::Node,
};

/// Maximum number of keys, entries or operations in a call or in a batch of a Pipeline stream.
pub const BATCH_MAX: usize = 1_000;

/// Limits of the gRPC port. A configuration reload replaces them; the new limits apply from the next call on.
#[derive(Debug, Clone)]
pub struct GrpcSettings {
    /// Maximum size in bytes of a request or response message.
    pub message_max: usize,
    /// Deadline of unary calls, unless the client sends a shorter grpc-timeout.
    pub timeout: Duration,
    /// Maximum number of keys per second that Warm loads from L2, unless the call specifies a rate.
    pub warm_rate: u64,
}

/// State that the gRPC methods of one worker share.
#[derive(Clone)]
pub struct Edge {
    /// Facade of the cache.
    pub cache: Cache,
    /// State of this process.
    pub node: Arc<Node>,
    /// Current limits.
    pub settings: Arc<ArcSwap<GrpcSettings>>,
    access: Arc<Access>,
    /// Identity of the client; `None` before a call is authenticated.
    identity: Option<Arc<Identity>>,
}

impl Edge {
    /// Returns the state of one worker.
    #[must_use]
    pub fn new(cache: Cache, node: Arc<Node>, settings: Arc<ArcSwap<GrpcSettings>>, access: Arc<Access>) -> Self {
        Self { cache, node, settings, access, identity: None }
    }

    /// Returns the permissions of the client.
    fn principal(&self) -> &Principal {
        self.cache.principal()
    }

    /// Checks a permission on the node or on all keys.
    fn must(&self, verbs: Verbs) -> Result<()> {
        self.principal().check_everywhere(verbs)
    }

    /// Waits until the client has other permissions than at the start of its call.
    async fn until_revoked(&self) {
        let Some(identity) = &self.identity else { return std::future::pending().await };
        let mut changes = self.access.changes();
        loop {
            let now = self.access.current(identity);
            if !now.is_some_and(|now| now.principal().is_same(identity.principal())) {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Returns the maximum size in bytes of a message.
    fn message_max(&self) -> usize {
        self.settings.load().message_max
    }

    /// Returns the account of the connection.
    fn account(&self) -> &Arc<Account> {
        self.cache.account()
    }

    /// Returns the edge for a request. All requests with the same trace id count as one caller, on any connection.
    /// Requests without a traceparent belong to the caller of their connection.
    fn for_request(self: &Arc<Self>, headers: &HeaderMap) -> Arc<Self> {
        match headers.get("traceparent").and_then(|value| Caller::of_trace(value.as_bytes())) {
            None => Arc::clone(self),
            Some(caller) => self.for_caller(caller),
        }
    }

    /// Returns the edge for the requests of one caller.
    fn for_caller(&self, caller: Caller) -> Arc<Self> {
        Arc::new(Self { cache: self.cache.for_caller(caller), ..self.clone() })
    }

    /// Returns the edge for a new connection, whose requests count as one caller. It has no permissions.
    fn for_connection(&self) -> Self {
        Self { cache: self.cache.for_new_caller(Principal::none()), ..self.clone() }
    }

    /// Returns the edge for the calls of an authenticated client.
    fn for_identity(&self, identity: Arc<Identity>) -> Self {
        let cache = self.cache.for_principal(Arc::clone(identity.principal()));
        Self { cache, identity: Some(identity), ..self.clone() }
    }
}
