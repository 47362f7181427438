//! Creates trace spans: one for each call whose traceparent is sampled, and one for a configured share of the calls
//! without a traceparent. A span continues the trace of its caller. L2 calls are child spans. Spans contain no keys and
//! no values.

use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderMap, Request};
use hyper::body::Incoming;
use opentelemetry::{
    propagation::{Extractor, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::unary::Call;
use crate::node::Traced;

/// Gives OpenTelemetry access to the headers.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Returns the span of a call; `None` if the call is not traced.
pub(super) fn span(traced: &Traced, request: &Request<Incoming>) -> Option<Span> {
    if !traced.on.load(Relaxed) {
        return None;
    }
    let caller = TraceContextPropagator::new().extract(&Headers(request.headers()));
    let (known, sampled) = {
        let span = caller.span();
        let context = span.span_context();
        (context.is_valid(), context.is_sampled())
    };
    if !(sampled || !known && traced.others.draw(1)) {
        return None;
    }
    let method = request.uri().path();
    let span = tracing::info_span!(
        target: "terrace::trace",
        "call",
        otel.name = method.trim_start_matches('/'),
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.grpc.status_code = field::Empty,
    );
    // An error means that no collector is configured.
    let _followed = known.then(|| span.set_parent(caller));
    Some(span)
}

/// Runs the call within its span. The span of a stream ends when the response starts.
pub(super) fn followed(span: Span, route: impl FnOnce() -> Call) -> Call {
    let call = span.in_scope(route);
    let within = span.clone();
    let run = async move {
        let response = match call.await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("0");
        span.record("rpc.grpc.status_code", status);
        response
    };
    Call::Pending(Box::pin(run.instrument(within)))
}
