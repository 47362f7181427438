//! Durations of requests in the server, by port: the time that clients wait, without the network.
//!
//! One request in [`ONE_IN`] is timed, chosen at random, and counted [`ONE_IN`] times: reading the clock twice per
//! request would dominate the cost of a hit in L1. The choice is random because clients have patterns. The number of
//! requests until the next timed one is drawn, so the other requests cost one subtraction.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    Counters,
    histogram::{Histogram, Latency},
};
use crate::{cache::Cache, clock::stopwatch_ns};

/// One request in this many is timed.
pub const ONE_IN: u64 = 16;

/// Ports that receive requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// gRPC: unary calls, from their first byte to their response. Streams are not timed.
    Grpc,
    /// RESP: commands, except blocking commands.
    Resp,
}

/// Durations timed by one worker.
#[derive(Debug, Default)]
pub(super) struct Timed {
    by_port: [Histogram; 2],
    /// Number of requests that pass before one is timed. If two threads count at once, one request may be lost.
    passing: AtomicU64,
}

/// Durations of requests in microseconds; each timed request represents [`ONE_IN`] requests.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    /// Unary gRPC calls.
    pub grpc: Latency,
    /// RESP commands.
    pub resp: Latency,
}

impl Timed {
    /// Counts `requests` that took `ns` together, if one of them is sampled.
    #[inline]
    pub(super) fn draw(&self, port: Port, ns: u64, requests: u64) {
        if self.is_drawn(requests) {
            self.note(port, ns, requests);
        }
    }

    /// Returns whether one of `requests` is sampled. At least [`ONE_IN`] requests together are always counted, with
    /// their actual number.
    #[inline]
    fn is_drawn(&self, requests: u64) -> bool {
        if requests != 1 {
            return requests >= ONE_IN || fastrand::u64(..ONE_IN) < requests;
        }
        let passing = self.passing.load(Relaxed);
        // Between zero and twice the mean.
        self.passing.store(passing.checked_sub(1).unwrap_or_else(|| fastrand::u64(..2 * ONE_IN - 1)), Relaxed);
        passing == 0
    }

    /// Counts sampled requests.
    fn note(&self, port: Port, ns: u64, requests: u64) {
        let each_us = (ns / requests.max(1)).div_ceil(1_000);
        self.by_port[port as usize].record_many_us(each_us, requests.max(ONE_IN));
    }

    pub(super) fn add_to(&self, sum: &mut Requests) {
        self.by_port[Port::Grpc as usize].add_to(&mut sum.grpc);
        self.by_port[Port::Resp as usize].add_to(&mut sum.resp);
    }
}

impl Requests {
    /// Returns the durations since `before`, an earlier count.
    pub(super) fn less(&self, before: &Self) -> Self {
        Self { grpc: self.grpc.less(&before.grpc), resp: self.resp.less(&before.resp) }
    }
}

/// Times one request until it is dropped. A request that its caller cancels counts with the time until then.
#[derive(Debug)]
pub struct Stopwatch {
    counters: Arc<Counters>,
    port: Port,
    begun_ns: u64,
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.counters.timed.note(self.port, stopwatch_ns().saturating_sub(self.begun_ns), 1);
    }
}

impl Cache {
    /// Starts to time a request, if it is sampled.
    #[inline]
    #[must_use]
    pub fn time_request(&self, port: Port) -> Option<Stopwatch> {
        let begin = || Stopwatch { counters: Arc::clone(&self.counters), port, begun_ns: stopwatch_ns() };
        self.counters.timed.is_drawn(1).then(begin)
    }

    /// Records that `requests` took `ns` together.
    #[inline]
    pub fn requests_took(&self, port: Port, ns: u64, requests: u64) {
        self.counters.timed.draw(port, ns, requests);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_stands_for_all() {
        let timed = Timed::default();
        (0..160_000).for_each(|_| timed.draw(Port::Grpc, 3_000, 1));
        (0..1_000).for_each(|_| timed.draw(Port::Resp, 50_000, 50));
        let mut sum = Requests::default();
        timed.add_to(&mut sum);
        // 10,000 of 160,000 are sampled, with a deviation of about 100 (1%). The limit is six times that.
        assert!(sum.grpc.count().abs_diff(160_000) < 9_600, "{}", sum.grpc.count());
        assert_eq!(
            (sum.grpc.quantile_us(0.5), sum.resp.count(), sum.resp.quantile_us(0.99)),
            (Some(3), 50_000, Some(1))
        );
        assert_eq!(sum.less(&sum).grpc.count(), 0);
    }
}
