//! The gRPC port.
//!
//! A request goes: [`connection`] (HTTP/2 with its limits) → [`router`] (which method) → [`unary`] or [`stream`]
//! (message in, deadline, message out) → [`service`], [`pipeline`], [`watch_stream`], [`insight`], [`invalidation`], [`admin`] (check, convert, call the
//! facade, convert) → [`convert`]. Health and reflection are tonic's generated services.
//!
//! Messages are read and written here and not by tonic's generated server, because that answers a message over its
//! limit with OUT_OF_RANGE, allocates two 8 KiB buffers and five boxes a call, and cannot count the bytes in flight.
//! The bytes on the wire are the same.

pub mod client;

mod admin;
mod answer;
mod connection;
mod convert;
mod deadline;
mod explain;
mod health;
mod in_flight_bytes;
mod inbound;
mod insight;
mod invalidation;
mod pipeline;
mod preface;
mod prefetch_insight;
mod reflection;
mod request_log;
mod router;
mod service;
mod stream;
#[cfg(feature = "otel")]
mod trace;
mod ttl_insight;
mod unary;
mod warm_stream;
mod watch_stream;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderMap;

pub use connection::serve;
pub use convert::code;

use crate::{
    cache::{Cache, Caller},
    node::Node,
};

/// Maximum number of keys, entries or operations in a call or in a batch of a Pipeline stream.
pub const BATCH_MAX: usize = 1_000;

/// Limits of the gRPC port. A reload replaces them; a connection sees them with its next call.
#[derive(Debug, Clone)]
pub struct GrpcSettings {
    /// Most bytes of a message, either way.
    pub message_max: usize,
    /// Deadline of unary calls; a shorter grpc-timeout wins.
    pub timeout: Duration,
    /// Most bytes of requests and answers under way, all connections.
    pub in_flight_max: u64,
    /// Keys a second that Warm brings up, where the call does not say.
    pub warm_rate: u64,
}

/// One worker's gRPC edge.
pub struct Edge {
    /// The facade.
    pub cache: Cache,
    /// This process.
    pub node: Arc<Node>,
    /// Limits.
    pub settings: Arc<ArcSwap<GrpcSettings>>,
}

impl Edge {
    /// The edge for the requests of one trace, where the request says of which it is: these belong together, whatever
    /// connections they come by.
    fn for_request(self: &Arc<Self>, headers: &HeaderMap) -> Arc<Self> {
        match headers.get("traceparent").and_then(|value| Caller::of_trace(value.as_bytes())) {
            None => Arc::clone(self),
            Some(caller) => Arc::new(Self {
                cache: self.cache.for_caller(caller),
                node: Arc::clone(&self.node),
                settings: Arc::clone(&self.settings),
            }),
        }
    }

    /// The edge as one connection has it: what it asks for is one caller's.
    fn for_connection(&self) -> Self {
        Self { cache: self.cache.for_new_caller(), node: Arc::clone(&self.node), settings: Arc::clone(&self.settings) }
    }
}
