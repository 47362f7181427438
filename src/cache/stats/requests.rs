//! Durations of requests in the server, by port: the time that clients wait, without the network.
//!
//! One request in [`ONE_IN`] is timed, chosen at random, and counted [`ONE_IN`] times: reading the clock twice per request would
//! be most of the cost of a hit in L1. The choice is random because clients have patterns. The number of requests until the
//! next timed one is drawn, so the others cost one subtraction.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    Counters,
    histogram::{Histogram, Latency},
};
use crate::{cache::Cache, clock::stopwatch_ns};

/// One request in so many is timed.
pub const ONE_IN: u64 = 16;

/// Where requests come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// gRPC: unary calls, from their first byte to their answer. A stream has no such time.
    Grpc,
    /// RESP: commands, but for those that wait for as long as their client likes.
    Resp,
}

/// What one worker has timed.
#[derive(Debug, Default)]
pub(super) struct Timed {
    by_port: [Histogram; 2],
    /// Single requests that pass before one is timed. Where two threads count here at once, one may be lost.
    passing: AtomicU64,
}

/// How long requests took, microseconds; each that was timed stands for [`ONE_IN`].
#[derive(Debug, Clone, Default)]
pub struct Requests {
    /// Unary calls of gRPC.
    pub grpc: Latency,
    /// Commands of RESP.
    pub resp: Latency,
}

impl Timed {
    /// Counts `requests` that took `ns` together, if the lot falls on one of them.
    #[inline]
    pub(super) fn draw(&self, port: Port, ns: u64, requests: u64) {
        if self.is_drawn(requests) {
            self.note(port, ns, requests);
        }
    }

    /// Whether the lot falls on one of so many requests. Those that stand for more than [`ONE_IN`] together always count, as
    /// many as they are.
    #[inline]
    fn is_drawn(&self, requests: u64) -> bool {
        if requests != 1 {
            return requests >= ONE_IN || fastrand::u64(..ONE_IN) < requests;
        }
        let passing = self.passing.load(Relaxed);
        // From none to twice the mean.
        self.passing.store(passing.checked_sub(1).unwrap_or_else(|| fastrand::u64(..2 * ONE_IN - 1)), Relaxed);
        passing == 0
    }

    /// Counts requests that were drawn.
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
    /// Those since `before`, an earlier count of the same.
    pub(super) fn less(&self, before: &Self) -> Self {
        Self { grpc: self.grpc.less(&before.grpc), resp: self.resp.less(&before.resp) }
    }
}

/// Times one request until it is dropped: also one whose caller gives up counts with the time it had.
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
    /// Begins to time a request, if the lot falls on it.
    #[inline]
    #[must_use]
    pub fn time_request(&self, port: Port) -> Option<Stopwatch> {
        let begin = || Stopwatch { counters: Arc::clone(&self.counters), port, begun_ns: stopwatch_ns() };
        self.counters.timed.is_drawn(1).then(begin)
    }

    /// So many requests took `ns` together.
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
        // 10,000 of 160,000 are drawn, give or take a hundred: 1 % each way; six times that is no chance.
        assert!(sum.grpc.count().abs_diff(160_000) < 9_600, "{}", sum.grpc.count());
        assert_eq!(
            (sum.grpc.quantile_us(0.5), sum.resp.count(), sum.resp.quantile_us(0.99)),
            (Some(3), 50_000, Some(1))
        );
        assert_eq!(sum.less(&sum).grpc.count(), 0);
    }
}
