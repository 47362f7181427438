//! Reads and writes of single keys through the gRPC port of a node.

use terrace::proto::{
    Found, GetRequest, GetResponse, InvalidatePatternRequest, ReadOptions, SetRequest, TierSelection,
    cache_client::CacheClient, get_response, invalidate_pattern_request::Keys, set_response,
};
use tonic::Status;

use super::{
    grpc::{block_on, connect},
    terrace::Terrace,
};

/// The entry of a response; `None` when the key is missing.
pub fn found(response: GetResponse) -> Option<Found> {
    match response.result.expect("the result is set") {
        get_response::Result::Found(found) => Some(found),
        get_response::Result::Missing(_) => None,
    }
}

/// Reads a key with these options.
pub fn try_get(node: &Terrace, key: &[u8], options: Option<ReadOptions>) -> Result<Option<Found>, Status> {
    let request = GetRequest { key: key.to_vec().into(), options };
    let response = block_on(async { CacheClient::new(connect(node.grpc()).await).get(request).await })?;
    Ok(found(response.into_inner()))
}

/// Reads a key and its metadata from these tiers.
pub fn read(node: &Terrace, key: impl AsRef<[u8]>, tier: TierSelection) -> Result<Option<Found>, Status> {
    try_get(node, key.as_ref(), Some(ReadOptions { want_meta: true, tier: tier.into(), ..ReadOptions::default() }))
}

/// Reads a key and its metadata.
pub fn get(node: &Terrace, key: impl AsRef<[u8]>) -> Option<Found> {
    read(node, key, TierSelection::Any).expect("an answer")
}

/// Reads the value of a key as text.
pub fn value(node: &Terrace, key: &str) -> Option<String> {
    get(node, key).map(|found| String::from_utf8(found.value.to_vec()).expect("UTF-8"))
}

/// Returns whether L1 of the node has a copy of a key that may be served.
pub fn is_in_l1(node: &Terrace, key: &str) -> bool {
    read(node, key, TierSelection::L1Only).expect("an answer").is_some()
}

/// A write of a value under tags.
pub fn tagged(key: &str, value: impl Into<Vec<u8>>, tags: &[&str]) -> SetRequest {
    let tags = tags.iter().map(|tag| tag.as_bytes().to_vec().into()).collect();
    SetRequest { key: key.to_owned().into(), value: value.into().into(), tags, ..SetRequest::default() }
}

/// Writes; returns whether the value was stored.
pub fn try_set(node: &Terrace, request: SetRequest) -> Result<bool, Status> {
    let response = block_on(async { CacheClient::new(connect(node.grpc()).await).set(request).await })?;
    let result = response.into_inner().result.expect("the result is set");
    Ok(matches!(result, set_response::Result::Stored(_)))
}

/// Writes a value under tags, which must succeed.
pub fn set(node: &Terrace, key: &str, value: &str, tags: &[&str]) {
    assert!(try_set(node, tagged(key, value, tags)).expect("an answer"), "{key}");
}

/// Writes a value with a TTL in milliseconds, which must succeed.
pub fn set_for(node: &Terrace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl_ms: i64) {
    let (key, value) = (key.as_ref().to_vec().into(), value.as_ref().to_vec().into());
    let request = SetRequest { key, value, ttl_ms: Some(ttl_ms), ..SetRequest::default() };
    assert!(try_set(node, request).expect("an answer"), "it is stored");
}

/// An invalidation of a pattern, without waiting for the sweep.
pub fn by_pattern(pattern: &str) -> InvalidatePatternRequest {
    InvalidatePatternRequest { keys: Some(Keys::Pattern(pattern.to_owned().into())), ..Default::default() }
}
