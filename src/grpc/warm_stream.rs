//! `terrace.v1.Admin.Warm`: brings keys up from L2, with progress.

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
    cache::{ScanRequest, warm_up::WarmedKeys},
    clock::stopwatch_ns,
    error::Result,
    glob::Glob,
    model::Key,
    proto::{WarmRequest, WarmResponse},
};

/// Maximum number of keys in a call of `Admin.Warm`.
const KEYS_MAX: usize = 10_000;
/// Keys of one call to L2, and about so many of one page of a scan.
const BATCH: usize = 256;
/// Between two messages of progress.
const TELL_EVERY_NS: u64 = 100_000_000;

pub(super) fn warm(edge: Arc<Edge>, request: Request<Incoming>) -> Call {
    stream::call(|output| async move {
        if let Err(status) = run(&edge, request, &output).await {
            // The client may be gone; then nobody wants to know.
            let _gone = output.send(Err(status)).await;
        }
    })
}

async fn run(edge: &Arc<Edge>, request: Request<Incoming>, output: &Output) -> Result<(), Status> {
    let request: WarmRequest = stream::received(edge, request).await?;
    let mut work = Work::new(edge, output, request.keys_per_second);
    let done = match source(edge, request) {
        Ok(KeySource::Keys(keys)) => work.keys(keys).await?,
        Ok(KeySource::Pattern(pattern)) => work.pattern(&pattern).await?,
        Err(error) => return Err(convert::status(&error)),
    };
    match done {
        Goes::On | Goes::Full => work.tell(done == Goes::Full).await.map(drop),
        Goes::Unheard => Ok(()),
    }
}

/// Where the keys come from.
enum KeySource {
    Keys(Vec<Key>),
    Pattern(Glob),
}

fn source(edge: &Edge, request: WarmRequest) -> Result<KeySource> {
    if !edge.has_l2() {
        return Err(convert::invalid("this server has no L2 to bring keys up from".to_owned()));
    }
    if request.keys.len() > KEYS_MAX {
        return Err(convert::invalid(format!("{} keys; a call takes at most {KEYS_MAX}", request.keys.len())));
    }
    match (request.keys.is_empty(), request.pattern.is_empty()) {
        (false, true) => request.keys.into_iter().map(Key::new).collect::<Result<_>>().map(KeySource::Keys),
        (true, false) => Glob::new(&request.pattern).map(KeySource::Pattern),
        (true, true) => Err(convert::invalid("neither keys nor a pattern".to_owned())),
        (false, false) => Err(convert::invalid("keys and a pattern; give one of them".to_owned())),
    }
}

/// Whether there is anything left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    On,
    /// L1 is full.
    Full,
    /// The client is gone.
    Unheard,
}

/// A call under way.
struct Work<'a> {
    edge: &'a Arc<Edge>,
    output: &'a Output,
    pace: Interval,
    warmed: WarmedKeys,
    /// Before it began.
    evicted: u64,
    told_ns: u64,
}

impl<'a> Work<'a> {
    fn new(edge: &'a Arc<Edge>, output: &'a Output, keys_per_second: u64) -> Self {
        let rate = if keys_per_second == 0 { edge.settings.load().warm_rate } else { keys_per_second };
        let mut pace = interval(Duration::from_secs_f64(BATCH as f64 / rate as f64).max(Duration::from_micros(1)));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let evicted = edge.cache.core().evicted();
        Self { edge, output, pace, warmed: WarmedKeys::default(), evicted, told_ns: stopwatch_ns() }
    }

    async fn keys(&mut self, keys: Vec<Key>) -> Result<Goes, Status> {
        for batch in keys.chunks(BATCH) {
            self.pace.tick().await;
            self.warmed.add(self.edge.cache.warm(batch.to_vec()).await);
            if self.edge.cache.core().evicted() > self.evicted {
                return Ok(Goes::Full);
            }
            if stopwatch_ns() - self.told_ns >= TELL_EVERY_NS {
                self.told_ns = stopwatch_ns();
                if !self.tell(false).await? {
                    return Ok(Goes::Unheard);
                }
            }
        }
        Ok(Goes::On)
    }

    async fn pattern(&mut self, pattern: &Glob) -> Result<Goes, Status> {
        let mut cursor = 0;
        loop {
            let pattern = Some(pattern.pattern().clone());
            let request = ScanRequest { cursor, pattern, count: BATCH, type_name: None };
            let page = self.edge.cache.scan(request).await.map_err(|error| convert::status(&error))?;
            let goes = self.keys(page.keys).await?;
            cursor = page.cursor;
            if cursor == 0 || goes != Goes::On {
                return Ok(goes);
            }
        }
    }

    /// Sends how far it is; false if nobody listens.
    async fn tell(&self, full: bool) -> Result<bool, Status> {
        let WarmedKeys { found, absent, resident, failed } = self.warmed;
        let progress = WarmResponse { done: self.warmed.keys(), found, absent, resident, failed, full };
        Ok(self.output.send(Ok(stream::frame(self.edge, &progress)?)).await.is_ok())
    }
}
