//! Logs sampled requests with method, duration and status. The log contains no keys and no values.

use super::unary::Call;
use crate::clock::stopwatch_ns;

/// Runs the call and logs its status and duration. A stream is logged when its response starts.
pub(super) fn logged(method: String, route: impl FnOnce() -> Call) -> Call {
    let begun_ns = stopwatch_ns();
    let call = route();
    Call::Pending(Box::pin(async move {
        let response = match call.await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        // A failed call has its status in the headers; a successful call has it in the trailers.
        let status = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("0");
        let took_us = stopwatch_ns().saturating_sub(begun_ns) / 1000;
        tracing::info!(target: "terrace::request", port = "grpc", method, status, took_us, "request");
        response
    }))
}
