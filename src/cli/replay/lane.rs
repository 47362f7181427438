//! One lane of a replay: sends requests one after the other on one connection and counts the results.

use std::hash::{BuildHasher, Hasher};

use bytes::Bytes;
use foldhash::quality::FixedState;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tonic::{Code, Status, metadata::MetadataValue};

use super::{Request, Ttl};
use crate::{
    clock::stopwatch_ns,
    grpc::client::{CacheClient, Connection},
    model::check_key,
    proto::{Found, GetRequest, SetRequest, Tier, get_response::Result as Got},
};

/// Maximum latency that `terrace replay` records.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Number of requests between two updates of the progress bar.
const PROGRESS_STEP: u64 = 100;

/// Value size limit of the server, and the TTL mode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Maximum value size in bytes.
    pub(super) value_max: u64,
    pub(super) ttl: Ttl,
}

/// Results of a replay.
#[derive(Debug)]
pub(super) struct Tally {
    /// Gets sent: hits, misses and failed calls.
    pub(super) requests: u64,
    /// Calls that failed.
    pub(super) errors: u64,
    /// Requests above a limit of the server: not sent, or the value was rejected.
    pub(super) skipped: u64,
    pub(super) hit_l1: u64,
    pub(super) hit_l2: u64,
    pub(super) miss: u64,
    /// Total size of values read and set.
    pub(super) bytes: u64,
    /// Latencies of Gets in microseconds.
    pub(super) latency_us: Histogram<u64>,
    pub(super) first_error: Option<Status>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency_us = Histogram::new_with_max(LATENCY_MAX_US, 3).expect("three digits up to a fixed maximum");
        Self {
            requests: 0,
            errors: 0,
            skipped: 0,
            hit_l1: 0,
            hit_l2: 0,
            miss: 0,
            bytes: 0,
            latency_us,
            first_error: None,
        }
    }
}

impl Tally {
    /// Adds the results of another lane.
    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.skipped += other.skipped;
        self.hit_l1 += other.hit_l1;
        self.hit_l2 += other.hit_l2;
        self.miss += other.miss;
        self.bytes += other.bytes;
        self.latency_us += &other.latency_us;
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
    }

    fn hit(&mut self, found: &Found) {
        self.bytes += found.value.len() as u64;
        match found.tier() {
            Tier::L1 => self.hit_l1 += 1,
            Tier::L2 | Tier::Unspecified => self.hit_l2 += 1,
        }
    }

    fn error(&mut self, status: Status) {
        self.errors += 1;
        self.first_error.get_or_insert(status);
    }
}

/// One lane, with its connection and results.
pub(super) struct Lane {
    client: CacheClient<Connection>,
    pub(super) limits: Limits,
    /// Source of values, at least as long as the largest value so far.
    filler: Bytes,
    tally: Tally,
}

impl Lane {
    pub(super) fn new(channel: Connection, limits: Limits) -> Self {
        // The server bounds its responses; the client default of 4 MiB is less than the maximum value size.
        let client = CacheClient::new(channel).max_decoding_message_size(usize::MAX);
        Self { client, limits, filler: Bytes::new(), tally: Tally::default() }
    }

    /// Replays requests until the queue is closed.
    pub(super) async fn play(mut self, mut requests: mpsc::Receiver<Request>, progress: ProgressBar) -> Tally {
        let mut played = 0;
        while let Some(request) = requests.recv().await {
            self.request(request).await;
            played += 1;
            if played == PROGRESS_STEP {
                progress.inc(std::mem::take(&mut played));
            }
        }
        self.tally
    }

    async fn request(&mut self, request: Request) {
        if check_key(&request.key).is_err() || request.size > self.limits.value_max {
            self.tally.skipped += 1;
            return;
        }
        let key = Bytes::from(request.key);
        let trace_parent = request.caller.as_deref().map(|caller| trace_parent(caller, self.tally.requests + 1));
        self.tally.requests += 1;
        let begun_ns = stopwatch_ns();
        let get = GetRequest { key: key.clone(), options: None };
        let got = self.client.get(with_parent(get, trace_parent.as_ref())).await;
        self.tally.latency_us.saturating_record((stopwatch_ns() - begun_ns) / 1_000);
        match got.map(|response| response.into_inner().result) {
            Ok(Some(Got::Found(found))) => self.tally.hit(&found),
            Ok(Some(Got::Missing(_)) | None) => {
                self.tally.miss += 1;
                let ttl_ms = request.ttl_ms.filter(|_| self.limits.ttl == Ttl::Recorded);
                self.set(key, request.size, ttl_ms, trace_parent.as_ref()).await;
            }
            Err(status) => self.tally.error(status),
        }
    }

    async fn set(&mut self, key: Bytes, size: u64, ttl_ms: Option<u64>, parent: Option<&TraceParent>) {
        let ttl_ms = ttl_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        let set = SetRequest { key, value: self.value(size), ttl_ms, ..SetRequest::default() };
        match self.client.set(with_parent(set, parent)).await {
            Ok(_) => self.tally.bytes += size,
            // A policy of the server can set a lower limit for such keys.
            Err(status) if is_over_limit(&status) => self.tally.skipped += 1,
            Err(status) => self.tally.error(status),
        }
    }

    /// Returns a value of this size; all values share memory.
    fn value(&mut self, size: u64) -> Bytes {
        // Bounded by the limit of the server.
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if self.filler.len() < size {
            self.filler = vec![b'.'; size.next_power_of_two()].into();
        }
        self.filler.slice(..size)
    }
}

fn is_over_limit(status: &Status) -> bool {
    let named = |limit| status.message().contains(limit);
    status.code() == Code::ResourceExhausted && (named("max_value") || named("max_message"))
}

/// Value of a W3C `traceparent` header.
type TraceParent = MetadataValue<tonic::metadata::Ascii>;

/// Returns the header for a request of a caller: the trace ID is a hash of the caller, the span ID is a counter.
fn trace_parent(caller: &[u8], span: u64) -> TraceParent {
    let (high, low) = (caller_hash(caller, 1), caller_hash(caller, 2).max(1));
    let text = format!("00-{high:016x}{low:016x}-{span:016x}-00");
    MetadataValue::try_from(text).expect("digits and dashes are ASCII")
}

/// Returns a hash of a caller that is stable across runs.
pub(super) fn caller_hash(caller: &[u8], seed: u64) -> u64 {
    let mut hasher = FixedState::with_seed(seed).build_hasher();
    hasher.write(caller);
    hasher.finish()
}

fn with_parent<T>(message: T, parent: Option<&TraceParent>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(parent) = parent {
        request.metadata_mut().insert("traceparent", parent.clone());
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_one_trace() {
        let first = trace_parent(b"me", 1);
        let second = trace_parent(b"me", 255);
        let (first, second) = (first.to_str().expect("ASCII"), second.to_str().expect("ASCII"));
        assert_eq!(first.len(), 55);
        assert_eq!(first[..35], second[..35]);
        assert_eq!((&first[35..], &second[35..]), ("-0000000000000001-00", "-00000000000000ff-00"));
        assert_ne!(first[..35], trace_parent(b"you", 1).to_str().expect("ASCII")[..35]);
    }

    #[test]
    fn tallies_add_up() {
        let mut sum = Tally::default();
        let mut one = Tally::default();
        one.hit(&Found { value: "four".into(), tier: Tier::L1.into(), ..Found::default() });
        one.hit(&Found { value: "four".into(), tier: Tier::L2.into(), ..Found::default() });
        one.error(Status::unavailable("first"));
        one.error(Status::unavailable("second"));
        one.latency_us.saturating_record(7);
        sum.add(&one);
        sum.add(&one);
        assert_eq!((sum.hit_l1, sum.hit_l2, sum.bytes, sum.errors), (2, 2, 16, 4));
        assert_eq!(sum.latency_us.len(), 2);
        assert_eq!(sum.first_error.expect("an error").message(), "first");
    }
}
