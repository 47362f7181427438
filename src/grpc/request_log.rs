//! Requests that were drawn to be logged: method, duration, status. Never a key or a value.

use super::unary::Call;
use crate::clock::stopwatch_ns;

/// Runs the call and logs how it ended. A stream is logged with its first answer.
pub(super) fn logged(method: String, route: impl FnOnce() -> Call) -> Call {
    let begun_ns = stopwatch_ns();
    let call = route();
    Call::Pending(Box::pin(async move {
        let response = match call.await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        // A success says so behind its message, a failure at once.
        let status = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("0");
        let took_us = stopwatch_ns().saturating_sub(begun_ns) / 1000;
        tracing::info!(target: "terrace::request", port = "grpc", method, status, took_us, "request");
        response
    }))
}
