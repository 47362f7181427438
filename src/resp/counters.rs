//! Counters of the RESP port. Each worker thread has its own counters, so that threads share no cache line. Sums are
//! computed on request.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, ThreadId},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    cache::stats::histogram::{Histogram, Latency},
    clock::Tick,
};

/// Maximum number of error codes that INFO distinguishes.
const CODES_MAX: usize = 128;
/// Minimum time over which rates are averaged.
const RATE_WINDOW_MIN: Duration = Duration::from_secs(1);

/// Counters of one command.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) calls: AtomicU64,
    pub(super) nanoseconds: AtomicU64,
    /// Number of calls that were rejected before they ran.
    pub(super) rejected: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Durations in nanoseconds; initialized by the first call.
    durations: OnceLock<Histogram>,
}

impl Calls {
    /// Records `calls` calls that took `ns` nanoseconds in total.
    pub(super) fn record(&self, ns: u64, calls: u64) {
        self.calls.fetch_add(calls, Relaxed);
        self.nanoseconds.fetch_add(ns, Relaxed);
        self.durations.get_or_init(Histogram::default).record_many_us(ns / calls.max(1), calls);
    }
}

/// Counters of one worker.
#[derive(Debug)]
pub(super) struct WorkerCounters {
    pub(super) received_bytes: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    calls: Box<[Calls]>,
}

impl WorkerCounters {
    fn new(rows: usize) -> Self {
        Self {
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            calls: (0..rows).map(|_| Calls::default()).collect(),
        }
    }

    /// Returns the counters of the command with this row number.
    #[inline]
    pub(super) fn of(&self, number: usize) -> &Calls {
        &self.calls[number]
    }
}

/// Sums of one command over all workers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CallSums {
    pub(super) calls: u64,
    pub(super) nanoseconds: u64,
    pub(super) rejected: u64,
    pub(super) failed: u64,
}

/// Sums of all commands over all workers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PortTotals {
    pub(super) commands: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
}

/// Mean rates since the previous request for them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    pub(super) commands_per_second: u64,
    pub(super) received_bytes_per_second: u64,
    pub(super) sent_bytes_per_second: u64,
}

#[derive(Debug, Default)]
struct RateState {
    since: Option<(Tick, PortTotals)>,
    rates: Rates,
}

/// All counters of the port.
#[derive(Debug)]
pub(super) struct Statistics {
    /// Number of rows in the command table.
    rows: usize,
    workers: Mutex<HashMap<ThreadId, Arc<WorkerCounters>>>,
    errors: Mutex<BTreeMap<String, u64>>,
    rate: Mutex<RateState>,
}

impl Statistics {
    pub(super) fn new(rows: usize) -> Self {
        Self { rows, workers: Mutex::default(), errors: Mutex::default(), rate: Mutex::default() }
    }

    /// Returns the counters of the current thread.
    pub(super) fn of_this_thread(&self) -> Arc<WorkerCounters> {
        let counters = || Arc::new(WorkerCounters::new(self.rows));
        Arc::clone(self.workers.lock().entry(thread::current().id()).or_insert_with(counters))
    }

    /// Counts an error reply by its code.
    pub(super) fn error(&self, code: &str) {
        let mut errors = self.errors.lock();
        if let Some(count) = errors.get_mut(code) {
            *count += 1;
        } else if errors.len() < CODES_MAX {
            errors.insert(code.to_owned(), 1);
        }
    }

    /// Returns the number of error replies since start by code.
    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().clone()
    }

    /// Returns the sums of the command with this row number.
    pub(super) fn calls(&self, number: usize) -> CallSums {
        let mut sums = CallSums::default();
        for worker in self.workers.lock().values() {
            let calls = worker.of(number);
            sums.calls += calls.calls.load(Relaxed);
            sums.nanoseconds += calls.nanoseconds.load(Relaxed);
            sums.rejected += calls.rejected.load(Relaxed);
            sums.failed += calls.failed.load(Relaxed);
        }
        sums
    }

    /// Returns the durations of the command with this row number in nanoseconds; `None` before the first call.
    pub(super) fn durations(&self, number: usize) -> Option<Latency> {
        let workers = self.workers.lock();
        let mut histograms = workers.values().filter_map(|worker| worker.of(number).durations.get()).peekable();
        histograms.peek()?;
        let mut sum = Latency::default();
        histograms.for_each(|histogram| histogram.add_to(&mut sum));
        (sum.count() > 0).then_some(sum)
    }

    /// Sets all counts to 0 (CONFIG RESETSTAT).
    pub(super) fn reset(&self) {
        for worker in self.workers.lock().values() {
            worker.received_bytes.store(0, Relaxed);
            worker.sent_bytes.store(0, Relaxed);
            for calls in &worker.calls {
                for count in [&calls.calls, &calls.nanoseconds, &calls.rejected, &calls.failed] {
                    count.store(0, Relaxed);
                }
                if let Some(durations) = calls.durations.get() {
                    durations.clear();
                }
            }
        }
        self.errors.lock().clear();
        self.rate.lock().since = None;
    }

    /// Returns the sums of the whole port.
    pub(super) fn totals(&self) -> PortTotals {
        let mut totals = PortTotals::default();
        for worker in self.workers.lock().values() {
            totals.commands += worker.calls.iter().map(|calls| calls.calls.load(Relaxed)).sum::<u64>();
            totals.received_bytes += worker.received_bytes.load(Relaxed);
            totals.sent_bytes += worker.sent_bytes.load(Relaxed);
        }
        totals
    }

    /// Returns the mean rates since the previous call, or since the call before it if the previous call was less than a
    /// second ago. Computed on request, without a background task.
    pub(super) fn rates(&self, now: Tick, started_at: Tick) -> Rates {
        let totals = self.totals();
        let mut state = self.rate.lock();
        let (then, before) = state.since.unwrap_or((started_at, PortTotals::default()));
        let span = now.since(then);
        if span >= RATE_WINDOW_MIN {
            let ms = crate::clock::millis(span);
            let mean = |now: u64, before: u64| now.saturating_sub(before) * 1000 / ms;
            state.rates = Rates {
                commands_per_second: mean(totals.commands, before.commands),
                received_bytes_per_second: mean(totals.received_bytes, before.received_bytes),
                sent_bytes_per_second: mean(totals.sent_bytes, before.sent_bytes),
            };
            state.since = Some((now, totals));
        }
        state.rates
    }
}
