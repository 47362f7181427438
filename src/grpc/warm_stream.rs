//! `terrace.v1.Admin.Warm`: loads keys from L2 into L1 and reports progress.

use std::{sync::Arc, time::Duration};

use http::Request;
use hyper::body::Incoming;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::Status;

use super::{
    Edge, convert,
    stream::{self, Output},
    unary::Call,
};
use crate::{
    access::Verbs,
    cache::{ScanRequest, warm_up::WarmedKeys},
    clock::stopwatch_ns,
    error::Result,
    glob::Glob,
    model::Key,
    proto::{WarmRequest, WarmResponse},
};

/// Maximum number of keys in a call of `Admin.Warm`.
const KEYS_MAX: usize = 10_000;
/// Number of keys of one call to L2, and approximate number of keys of one page of a scan.
const BATCH: usize = 256;
/// Minimum interval between two progress messages.
const PROGRESS_INTERVAL_NS: u64 = 100_000_000;

pub(super) fn warm(edge: Arc<Edge>, request: Request<Incoming>) -> Call {
    stream::call(&Arc::clone(&edge), |output| async move {
        // No key is loaded for a client that has left, even if no progress message is due.
        stream::while_connected(&output, run(&edge, request, &output)).await
    })
}

async fn run(edge: &Arc<Edge>, request: Request<Incoming>, output: &Output) -> Result<(), Status> {
    // The keys are charged until they have been processed.
    let (request, _held): (WarmRequest, _) = stream::received(edge, request).await?;
    let mut work = Work::new(edge, output, request.keys_per_second);
    let done = match source(edge, request) {
        Ok(KeySource::Keys(keys)) => work.keys(keys).await?,
        Ok(KeySource::Pattern(pattern)) => work.pattern(&pattern).await?,
        Err(error) => return Err(convert::status(&error)),
    };
    match done {
        Outcome::Completed | Outcome::Full => work.send_progress(done == Outcome::Full).await.map(drop),
        Outcome::Disconnected => Ok(()),
    }
}

/// Source of the keys to load.
enum KeySource {
    Keys(Vec<Key>),
    Pattern(Glob),
}

fn source(edge: &Edge, request: WarmRequest) -> Result<KeySource> {
    if !edge.has_l2() {
        return Err(convert::invalid("this server has no L2 to load keys from (l2 = \"none\")".to_owned()));
    }
    if request.keys.len() > KEYS_MAX {
        let message = format!("keys has {} items; at most {KEYS_MAX} are accepted per call", request.keys.len());
        return Err(convert::invalid(message));
    }
    match (request.keys.is_empty(), request.pattern.is_empty()) {
        (false, true) => {
            let keys = request.keys.into_iter().map(Key::new).collect::<Result<Vec<_>>>()?;
            keys.iter().try_for_each(|key| edge.principal().check(Verbs::INVALIDATE, key))?;
            Ok(KeySource::Keys(keys))
        }
        (true, false) => {
            let glob = Glob::new(&request.pattern)?;
            edge.principal().check(Verbs::INVALIDATE, glob.literal_prefix())?;
            Ok(KeySource::Pattern(glob))
        }
        (true, true) => Err(convert::invalid("neither keys nor pattern is set; set one of them".to_owned())),
        (false, false) => Err(convert::invalid("keys and pattern are both set; set one of them".to_owned())),
    }
}

/// Result of a part of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All keys of the part were processed.
    Completed,
    /// L1 evicted entries: more keys would replace hotter keys.
    Full,
    /// The client has disconnected.
    Disconnected,
}

/// A call in progress.
struct Work<'a> {
    edge: &'a Arc<Edge>,
    output: &'a Output,
    pace: Interval,
    warmed: WarmedKeys,
    /// Number of evictions from L1 before the call.
    evicted: u64,
    reported_ns: u64,
}

impl<'a> Work<'a> {
    fn new(edge: &'a Arc<Edge>, output: &'a Output, keys_per_second: u64) -> Self {
        let rate = if keys_per_second == 0 { edge.settings.load().warm_rate } else { keys_per_second };
        let mut pace = interval(Duration::from_secs_f64(BATCH as f64 / rate as f64).max(Duration::from_micros(1)));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let evicted = edge.cache.core().evicted();
        Self { edge, output, pace, warmed: WarmedKeys::default(), evicted, reported_ns: stopwatch_ns() }
    }

    async fn keys(&mut self, keys: Vec<Key>) -> Result<Outcome, Status> {
        for batch in keys.chunks(BATCH) {
            self.pace.tick().await;
            self.warmed.add(self.edge.cache.warm(batch.to_vec()).await);
            if self.edge.cache.core().evicted() > self.evicted {
                return Ok(Outcome::Full);
            }
            if stopwatch_ns() - self.reported_ns >= PROGRESS_INTERVAL_NS {
                self.reported_ns = stopwatch_ns();
                if !self.send_progress(false).await? {
                    return Ok(Outcome::Disconnected);
                }
            }
        }
        Ok(Outcome::Completed)
    }

    async fn pattern(&mut self, pattern: &Glob) -> Result<Outcome, Status> {
        let mut cursor = 0;
        loop {
            let pattern = Some(pattern.pattern().clone());
            let request = ScanRequest { cursor, pattern, count: BATCH, type_name: None };
            let page = self.edge.cache.scan(request).await.map_err(|error| convert::status(&error))?;
            let page_bytes = page.keys.iter().map(|key| key.len() as u64).sum();
            let _held = self.edge.account().hold(page_bytes);
            let outcome = self.keys(page.keys).await?;
            cursor = page.cursor;
            if cursor == 0 || outcome != Outcome::Completed {
                return Ok(outcome);
            }
        }
    }

    /// Sends the progress. Returns false if the client has disconnected.
    async fn send_progress(&self, full: bool) -> Result<bool, Status> {
        let WarmedKeys { found, absent, resident, failed } = self.warmed;
        let progress = WarmResponse { done: self.warmed.keys(), found, absent, resident, failed, full };
        Ok(self.output.send(Ok(stream::frame(self.edge, &progress)?)).await.is_ok())
    }
}
