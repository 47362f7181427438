//! Traces: a span for each call whose caller traces, and of the others for one in so many. It goes on where the caller's
//! traceparent left off; what the call asks of L2 is a span within it. Never a key or a value.

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

/// Reads headers as OpenTelemetry asks for them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The span of a call, if it is to have one.
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
    // Refused only where nobody collects.
    let _followed = known.then(|| span.set_parent(caller));
    Some(span)
}

/// Runs the call within its span. A stream's span ends with its first answer.
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
