//! Routes requests to methods, and rejects requests that are not gRPC calls.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::Status;

#[cfg(feature = "otel")]
use super::trace;
use super::{
    Edge, admin,
    answer::Answer,
    credentials::Credentials,
    health, insight, invalidation,
    leases::WaitLimits,
    pipeline, record_stream, reflection, request_log,
    tally::Tally,
    unary::{
        self, Call,
        Effect::{Reads, Writes},
    },
    warm_stream, watch_stream,
};
use crate::clock::Tick;

/// Maximum size of the metadata of a call, counted as in HTTP/2: names, values and 32 bytes per header. A traceparent
/// and credentials fit.
pub(super) const METADATA_MAX_BYTES: usize = 8 * 1024;
/// Bytes that HTTP/2 adds for each header (RFC 9113, section 6.5.2).
const HEADER_OVERHEAD_BYTES: usize = 32;

/// The services of one connection.
pub(super) struct Router {
    /// The edge of the connection, without permissions.
    pub(super) edge: Arc<Edge>,
    pub(super) credentials: Credentials,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) tally: Arc<Tally>,
}

/// A call that is counted as answered or canceled.
pub(super) struct Tallied {
    call: Call,
    /// `None` once the call was counted.
    tally: Option<Arc<Tally>>,
    /// When the call began to wait.
    since: Option<Tick>,
}

impl Future for Tallied {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.call).poll(context);
        if polled.is_pending() {
            if self.since.is_none() {
                self.since = self.tally.as_ref().map(|tally| tally.now());
            }
        } else if let Some(tally) = self.tally.take() {
            tally.answer();
        }
        polled
    }
}

impl Drop for Tallied {
    fn drop(&mut self) {
        if let Some(tally) = self.tally.take() {
            tally.cancel(self.since);
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Router {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Tallied;

    fn call(&self, request: Request<Incoming>) -> Tallied {
        Tallied { call: self.accept(request), tally: Some(Arc::clone(&self.tally)), since: None }
    }
}

impl Router {
    fn accept(&self, request: Request<Incoming>) -> Call {
        match refused(&request) {
            Some(response) => Call::ready(response),
            None if self.edge.node.sampled.draw(1) => {
                let method = request.uri().path().to_owned();
                request_log::logged(method, || self.route_traced(request))
            }
            None => self.route_traced(request),
        }
    }

    #[cfg(feature = "otel")]
    fn route_traced(&self, request: Request<Incoming>) -> Call {
        match trace::span(&self.edge.node.traced, &request) {
            Some(span) => trace::followed(span, || self.route(request)),
            None => self.route(request),
        }
    }

    #[cfg(not(feature = "otel"))]
    #[inline]
    fn route_traced(&self, request: Request<Incoming>) -> Call {
        self.route(request)
    }

    fn route(&self, request: Request<Incoming>) -> Call {
        // Load balancers have no credentials.
        if request.uri().path().starts_with("/grpc.health.v1.Health/") {
            return health::call(&self.edge, self.stop.clone(), request);
        }
        let edge = match self.credentials.edge_for(request.headers()) {
            Ok(edge) => edge,
            Err(refused) => return refused.into_call(),
        };
        match request.uri().path() {
            "/terrace.v1.Cache/Get" => unary::get(&edge, request),
            path if path.starts_with("/terrace.v1.") => self.route_terrace(edge, request),
            path if path.starts_with("/grpc.reflection.") => reflection::call(request),
            path => unimplemented(path),
        }
    }

    /// The facade checks the permissions for keys, and each method those for the node.
    fn route_terrace(&self, edge: Arc<Edge>, request: Request<Incoming>) -> Call {
        match request.uri().path() {
            "/terrace.v1.Cache/GetMany" => {
                unary::call(edge, request, Reads, |e, r| async move { e.get_many(r, e.message_max()).await })
            }
            "/terrace.v1.Cache/Set" => unary::call(edge, request, Writes, |e, r| async move { e.set(r).await }),
            "/terrace.v1.Cache/SetMany" => {
                unary::call(edge, request, Writes, |e, r| async move { e.set_many(r).await })
            }
            "/terrace.v1.Cache/Delete" => unary::call(edge, request, Writes, |e, r| async move { e.delete(r).await }),
            "/terrace.v1.Cache/Touch" => unary::call(edge, request, Writes, |e, r| async move { e.touch(r).await }),
            "/terrace.v1.Cache/Increment" => {
                unary::call(edge, request, Writes, |e, r| async move { e.increment(r).await })
            }
            "/terrace.v1.Cache/GetMeta" => unary::call(edge, request, Reads, |e, r| async move { e.get_meta(r).await }),
            "/terrace.v1.Cache/GetOrLease" => {
                let limits = WaitLimits::of_call(&edge, request.headers());
                unary::call(edge, request, Reads, move |e, r| async move { e.get_or_lease(r, limits).await })
            }
            "/terrace.v1.Cache/GetOrLeaseMany" => {
                unary::call(edge, request, Reads, |e, r| async move { e.get_or_lease_many(r, e.message_max()).await })
            }
            "/terrace.v1.Cache/Fill" => unary::call(edge, request, Writes, |e, r| async move { e.fill(r).await }),
            "/terrace.v1.Cache/Release" => unary::call(edge, request, Writes, |e, r| async move { e.release(r).await }),
            "/terrace.v1.Cache/Pipeline" => pipeline::call(edge, self.stop.clone(), request),
            "/terrace.v1.Invalidation/Watch" => watch_stream::call(edge, self.stop.clone(), request),
            "/terrace.v1.Insight/GetStats" => {
                unary::call(edge, request, Reads, |e, r| async move { e.get_stats(r).await })
            }
            "/terrace.v1.Insight/WatchStats" => insight::watch_stats(edge, self.stop.clone(), request),
            "/terrace.v1.Insight/TopKeys" => {
                unary::call(edge, request, Reads, |e, r| async move { e.top_keys(r).await })
            }
            "/terrace.v1.Insight/SimulateCapacity" => {
                unary::call(edge, request, Reads, |e, r| async move { e.simulate_capacity(r).await })
            }
            "/terrace.v1.Insight/GetTtlAdvice" => {
                unary::call(edge, request, Reads, |e, r| async move { e.get_ttl_advice(r).await })
            }
            "/terrace.v1.Insight/Explain" => {
                unary::call(edge, request, Reads, |e, r| async move { e.explain(r).await })
            }
            "/terrace.v1.Invalidation/InvalidatePattern" => invalidation::invalidate_pattern(edge, request),
            "/terrace.v1.Insight/GetAssociations" => {
                unary::call(edge, request, Reads, |e, r| async move { e.get_associations(r).await })
            }
            "/terrace.v1.Insight/Predict" => {
                unary::call(edge, request, Reads, |e, r| async move { e.predict(r).await })
            }
            "/terrace.v1.Invalidation/InvalidateTags" => {
                unary::call(edge, request, Writes, |e, r| async move { e.invalidate_tags(r).await })
            }
            "/terrace.v1.Admin/ScanKeys" => admin::scan_keys(edge, request),
            "/terrace.v1.Admin/Warm" => warm_stream::warm(edge, request),
            "/terrace.v1.Admin/RecordReads" => record_stream::call(edge, self.stop.clone(), request),
            "/terrace.v1.Admin/Flush" => unary::call(edge, request, Writes, |e, r| async move { e.flush(r).await }),
            "/terrace.v1.Admin/GetConfig" => {
                unary::call(edge, request, Reads, |e, r| async move { e.get_config(r).await })
            }
            path => unimplemented(path),
        }
    }
}

/// Returns the response to a request that is rejected: an HTTP status if the request is not a gRPC call, as the
/// protocol requires, or a gRPC status if the request has too much metadata.
fn refused(request: &Request<Incoming>) -> Option<Response<Answer>> {
    let content_type = request.headers().get(CONTENT_TYPE);
    let status = if request.method() != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return oversized(request.headers()).map(Status::into_http);
    };
    let mut response = Response::new(Answer::default());
    *response.status_mut() = status;
    Some(response)
}

/// Returns the status of a call with too much metadata. HTTP/2 itself would respond with status 431, which gRPC clients
/// report as UNKNOWN: for a write, that means an unknown outcome.
fn oversized(headers: &HeaderMap) -> Option<Status> {
    let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES
    };
    let bytes: usize = headers.iter().map(size).sum();
    (bytes > METADATA_MAX_BYTES).then(|| {
        Status::resource_exhausted(format!("the metadata has {bytes} bytes; at most {METADATA_MAX_BYTES} are accepted"))
    })
}

fn unimplemented(path: &str) -> Call {
    Call::ready(
        Status::unimplemented(format!("unknown method {path}; server reflection lists the supported methods"))
            .into_http(),
    )
}
