//! JSON responses of the page: headers, the format of keys, and values that are kept for a while.

use std::{collections::VecDeque, future::Future, sync::Arc, time::Duration};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::{access::Principal, cache::Cache, clock::Tick};

/// Content-Security-Policy: only files of this server, no inline scripts or styles, no framing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Headers of all responses of the page.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // A new server version has a new page.
    (header::CACHE_CONTROL, "no-cache"),
];

/// Expensive numbers are collected at most this often for a client, however many pages it has open.
const SEEN_EVERY: Duration = Duration::from_secs(10);
/// Maximum number of clients for which the page keeps the numbers about their own keys.
const VIEWERS_MAX: usize = 64;
/// Maximum displayed length of a key in bytes.
const KEY_SHOWN_BYTES: usize = 80;

/// Values that are expensive to collect. All clients that may know about all keys share them.
#[derive(Default)]
pub(super) struct Seen {
    by_all: Mutex<VecDeque<Kept>>,
    /// For clients that may know about some keys.
    by_some: Mutex<VecDeque<Kept>>,
}

/// Values with the time of their collection.
struct Kept {
    viewer: Arc<Principal>,
    at: Tick,
    numbers: Value,
}

impl Seen {
    /// Returns values of the last seconds for the client of `cache`, or collects them. One client at a time collects; a
    /// request that waited for the same client uses its result.
    pub(super) async fn recent(&self, cache: &Cache, collect: impl Future<Output = Value>) -> Value {
        let viewer = cache.principal();
        let sees_all = viewer.sees_all();
        let mut kept = if sees_all { self.by_all.lock().await } else { self.by_some.lock().await };
        kept.retain(|kept| cache.now().since(kept.at) < SEEN_EVERY);
        if let Some(kept) = kept.iter().find(|kept| sees_all || kept.viewer.is_same(viewer)) {
            return kept.numbers.clone();
        }
        let numbers = collect.await;
        if kept.len() >= VIEWERS_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept { viewer: Arc::clone(viewer), at: cache.now(), numbers: numbers.clone() });
        numbers
    }
}

/// Adds the headers of the page to a response.
pub(super) fn with_headers(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns values as JSON. Rejects requests from scripts of other sites.
pub(super) fn answer(headers: &HeaderMap, numbers: &Value) -> Response {
    let from = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if from.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return with_headers((StatusCode::FORBIDDEN, "cross-site requests are not allowed\n"));
    }
    with_headers(([(header::CONTENT_TYPE, "application/json")], numbers.to_string()))
}

/// Returns a key as text. Bytes other than printable ASCII are escaped.
pub(super) fn shown(key: &[u8]) -> String {
    let cut = key.get(..KEY_SHOWN_BYTES);
    let text = cut.unwrap_or(key).escape_ascii().to_string();
    if cut.is_some_and(|cut| cut.len() < key.len()) { text + "…" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shown_as_text_and_cut() {
        assert_eq!(shown(b"user:1"), "user:1");
        assert_eq!(shown(b"<\x00\xff\n>"), "<\\x00\\xff\\n>");
        assert_eq!(shown(&[b'a'; 81]), "a".repeat(80) + "…");
    }
}
