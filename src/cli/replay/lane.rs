//! One lane of a replay: sends requests one after the other on one connection and counts the results.

use std::{
    hash::{BuildHasher, Hasher},
    time::Duration,
};

use bytes::Bytes;
use foldhash::quality::FixedState;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use terrace_client::{Client, Error, ErrorKind, Tier};
use tokio::sync::mpsc;

use super::{Request, Ttl};
use crate::{clock::stopwatch_ns, model::check_key};

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
    pub(super) first_error: Option<String>,
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

    fn hit(&mut self, tier: Tier, bytes: usize) {
        self.bytes += bytes as u64;
        match tier {
            Tier::L1 => self.hit_l1 += 1,
            Tier::L2 => self.hit_l2 += 1,
        }
    }

    fn error(&mut self, error: &str) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_owned());
    }
}

/// One lane, with its connection and results.
pub(super) struct Lane {
    client: Client,
    pub(super) limits: Limits,
    /// Source of values, at least as long as the largest value so far.
    filler: Bytes,
    tally: Tally,
}

impl Lane {
    pub(super) fn new(client: Client, limits: Limits) -> Self {
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
        // 0 would mean that the server does not distinguish callers.
        let caller = request.caller.as_deref().map_or(0, |caller| caller_hash(caller, 1).max(1));
        let client = self.client.with_context(caller);
        self.tally.requests += 1;
        let begun_ns = stopwatch_ns();
        let got = client.lookup(&key).await;
        self.tally.latency_us.saturating_record((stopwatch_ns() - begun_ns) / 1_000);
        match got {
            Ok(Some(entry)) => self.tally.hit(entry.tier, entry.value.len()),
            Ok(None) => {
                self.tally.miss += 1;
                let ttl = request.ttl_ms.filter(|_| self.limits.ttl == Ttl::Recorded).map(Duration::from_millis);
                self.set(&client, key, request.size, ttl).await;
            }
            Err(error) => self.tally.error(error.message()),
        }
    }

    async fn set(&mut self, client: &Client, key: Bytes, size: u64, ttl: Option<Duration>) {
        let mut set = client.set(key, self.value(size));
        if let Some(ttl) = ttl {
            set = set.ttl(ttl);
        }
        match set.await {
            Ok(_) => self.tally.bytes += size,
            // A policy of the server can set a lower limit for such keys.
            Err(error) if is_over_limit(&error) => self.tally.skipped += 1,
            Err(error) => self.tally.error(error.message()),
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

fn is_over_limit(error: &Error) -> bool {
    let named = |limit| error.message().contains(limit);
    error.kind() == ErrorKind::ResourceExhausted && (named("max_value") || named("max_message"))
}

/// Returns a hash of a caller that is stable across runs.
pub(super) fn caller_hash(caller: &[u8], seed: u64) -> u64 {
    let mut hasher = FixedState::with_seed(seed).build_hasher();
    hasher.write(caller);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut sum = Tally::default();
        let mut one = Tally::default();
        one.hit(Tier::L1, 4);
        one.hit(Tier::L2, 4);
        one.error("first");
        one.error("second");
        one.latency_us.saturating_record(7);
        sum.add(&one);
        sum.add(&one);
        assert_eq!((sum.hit_l1, sum.hit_l2, sum.bytes, sum.errors), (2, 2, 16, 4));
        assert_eq!(sum.latency_us.len(), 2);
        assert_eq!(sum.first_error.as_deref(), Some("first"));
    }
}
