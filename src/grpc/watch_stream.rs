//! `Invalidation.Watch`. One task per stream reads the change feed at the pace of its client.
//!
//! A heartbeat guarantees that the client has received all earlier changes. The order is therefore: check that the feed
//! is complete, send all changes recorded so far, then send the heartbeat. Its `elapsed_ms` is measured before this check,
//! so that the guarantee also holds for the time that it states.

use std::{sync::Arc, time::Duration};

use http::Request;
use hyper::body::Incoming;
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};
use tonic::Status;

use super::{
    Edge, convert,
    stream::{self, Output},
    unary::Call,
};
use crate::{
    cache::invalidate::feed::{Cause, FeedChange, Follower, Gap, Taken},
    clock::{Tick, millis},
    error::Result,
    proto::{
        WatchCause, WatchDiscontinuity, WatchEvent, WatchEvents, WatchEverything, WatchGap, WatchHeartbeat,
        WatchRequest, WatchResponse, WatchStarted, watch_event::Subject, watch_response::News,
    },
};

/// Interval between heartbeats of a Watch stream.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Heartbeat intervals in milliseconds that a client may request. Shorter intervals cost too much; with longer
/// intervals a lost stream is detected too late.
const HEARTBEAT_MS: std::ops::RangeInclusive<i64> = 100..=60_000;
/// Approximate maximum size in bytes of the events in one message.
const EVENTS_BYTES: usize = 64 * 1024;

pub(super) fn call(edge: Arc<Edge>, stop: watch::Receiver<bool>, request: Request<Incoming>) -> Call {
    stream::call(&Arc::clone(&edge), |output| async move {
        stream::until_stopped(stop, watch(&edge, request, &output)).await
    })
}

async fn watch(edge: &Arc<Edge>, request: Request<Incoming>, output: &Output) -> Result<(), Status> {
    // The prefixes are charged for as long as the stream needs them.
    let (request, _held): (WatchRequest, _) = stream::received(edge, request).await?;
    let arrived_by = arrived_by(edge.cache.now());
    let heartbeat = heartbeat(request.heartbeat_ms).map_err(|error| convert::status(&error))?;
    let follower = edge.cache.follow(request.prefixes, request.from_sequence);
    let follower = follower.map_err(|error| convert::status(&error))?;
    let mut ticks = interval(heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Watching { edge, follower, output, arrived_by, is_vouched: true }.run(ticks).await
}

/// Returns a tick that is not before a request that was received at `now`. A tick rounds down.
fn arrived_by(now: Tick) -> Tick {
    now.plus(Duration::from_millis(1))
}

fn heartbeat(requested_ms: Option<i64>) -> Result<Duration> {
    match requested_ms {
        None => Ok(HEARTBEAT),
        Some(ms) if HEARTBEAT_MS.contains(&ms) => Ok(Duration::from_millis(ms.unsigned_abs())),
        Some(ms) => Err(convert::invalid(format!("heartbeat_ms is {ms}; expected 100 to 60000"))),
    }
}

/// One stream.
struct Watching<'a> {
    edge: &'a Arc<Edge>,
    follower: Follower,
    output: &'a Output,
    /// Tick at which the request had arrived.
    arrived_by: Tick,
    /// True if no gap was sent since the last heartbeat.
    is_vouched: bool,
}

impl Watching<'_> {
    async fn run(mut self, mut ticks: Interval) -> Result<(), Status> {
        self.send(News::Started(WatchStarted { resumed: self.follower.resumed() })).await?;
        while !self.output.is_closed() {
            let is_beat = tokio::select! {
                // The first tick is immediate.
                _ = ticks.tick() => true,
                () = self.follower.news() => false,
                () = self.output.closed() => break,
            };
            let elapsed = self.edge.cache.now().since(self.arrived_by);
            let is_whole = is_beat && self.follower.is_whole();
            self.send_changes().await?;
            if is_whole {
                self.is_vouched = true;
                self.send(News::Heartbeat(WatchHeartbeat { elapsed_ms: millis(elapsed) })).await?;
            } else if is_beat && self.is_vouched {
                self.follower.note_gap();
                self.send_gap(Gap::NotHeard).await?;
            }
        }
        Ok(())
    }

    /// Sends all changes recorded so far.
    async fn send_changes(&mut self) -> Result<(), Status> {
        let newest = self.follower.newest();
        loop {
            let Taken { changes, gap } = self.follower.take();
            for events in messages(changes) {
                self.send(News::Events(events)).await?;
            }
            if let Some(gap) = gap {
                self.send_gap(gap).await?;
            }
            if self.follower.sequence() >= newest {
                return Ok(());
            }
        }
    }

    async fn send_gap(&mut self, gap: Gap) -> Result<(), Status> {
        self.is_vouched = false;
        let gap = match gap {
            Gap::LinkLost => WatchGap::LinkLost,
            Gap::NotHeard => WatchGap::NotHeard,
            Gap::TooSlow => WatchGap::TooSlow,
            Gap::PlaceUnknown => WatchGap::PlaceUnknown,
        };
        self.send(News::Discontinuity(WatchDiscontinuity { gap: gap.into() })).await
    }

    /// Sends a message; waits until the client has received the earlier messages. `run` detects that a client has
    /// disconnected.
    async fn send(&self, news: News) -> Result<(), Status> {
        let sequence = match &news {
            // A message with events has the number of its last event: the follower may already have taken later events.
            News::Events(events) => events.events.last().map_or(0, |last| last.sequence),
            News::Started(_) | News::Heartbeat(_) | News::Discontinuity(_) => self.follower.sequence(),
        };
        let message = WatchResponse { sequence, news: Some(news) };
        let _disconnected = self.output.send(Ok(stream::frame(self.edge, &message)?)).await;
        Ok(())
    }
}

/// Distributes changes over messages of about [`EVENTS_BYTES`].
fn messages(changes: Vec<(u64, FeedChange)>) -> Vec<WatchEvents> {
    let mut messages: Vec<WatchEvents> = Vec::new();
    let mut bytes = 0;
    for (sequence, change) in changes {
        let event = event(sequence, change);
        let event_bytes = prost::Message::encoded_len(&event);
        if messages.is_empty() || bytes + event_bytes > EVENTS_BYTES {
            messages.push(WatchEvents::default());
            bytes = 0;
        }
        bytes += event_bytes;
        if let Some(message) = messages.last_mut() {
            message.events.push(event);
        }
    }
    messages
}

fn event(sequence: u64, change: FeedChange) -> WatchEvent {
    let (subject, cause) = match change {
        FeedChange::Key(key, cause) => (Subject::Key(key), cause),
        FeedChange::Pattern(glob) => (Subject::Pattern(glob.pattern().clone()), Cause::Unknown),
        FeedChange::Tag(tag) => (Subject::Tag(tag), Cause::Unknown),
        FeedChange::All => (Subject::Everything(WatchEverything {}), Cause::Unknown),
    };
    let cause = match cause {
        Cause::Unknown => WatchCause::Unspecified,
        Cause::Written => WatchCause::Written,
        Cause::Deleted => WatchCause::Deleted,
        Cause::Lifetime => WatchCause::Lifetime,
    };
    WatchEvent { sequence, subject: Some(subject), cause: cause.into() }
}
