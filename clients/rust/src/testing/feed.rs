//! The change feed of the fake.

use std::{collections::VecDeque, pin::pin, sync::Arc};

use bytes::Bytes;
use terrace_proto::{
    WatchCause, WatchDiscontinuity, WatchEvent, WatchEvents, WatchGap, WatchHeartbeat, WatchRequest, WatchResponse,
    WatchStarted, watch_event::Subject, watch_response::News,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::{
    limits::{Checked, check_prefixes, heartbeat},
    server::Server,
};
use crate::error::Result;

/// Maximum number of stored events, as on the server.
const EVENTS_MAX: usize = 65_536;

/// The last changes.
#[derive(Debug, Default)]
pub(super) struct Feed {
    /// Number of the last event.
    sequence: u64,
    events: VecDeque<WatchEvent>,
}

impl Feed {
    pub(super) fn push(&mut self, subject: Subject, cause: WatchCause) {
        self.sequence += 1;
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        let event = WatchEvent { sequence: self.sequence, subject: Some(subject), cause: cause.into() };
        self.events.push_back(event);
    }

    /// Returns whether no event after this number is missing.
    fn has_all_after(&self, sequence: u64) -> bool {
        sequence <= self.sequence && self.sequence - sequence <= self.events.len() as u64
    }

    fn after(&self, sequence: u64, prefixes: &[Bytes]) -> Vec<WatchEvent> {
        let is_new = |event: &&WatchEvent| event.sequence > sequence && concerns(event, prefixes);
        self.events.iter().filter(is_new).cloned().collect()
    }
}

fn concerns(event: &WatchEvent, prefixes: &[Bytes]) -> bool {
    match &event.subject {
        Some(Subject::Key(key)) => prefixes.is_empty() || prefixes.iter().any(|prefix| key.starts_with(prefix)),
        Some(Subject::Pattern(_) | Subject::Tag(_) | Subject::Everything(_)) | None => true,
    }
}

/// A reader of the change feed.
#[derive(Debug)]
pub(crate) struct Follower {
    server: Arc<Server>,
    prefixes: Vec<Bytes>,
    /// Number of the last event that was returned or skipped.
    sequence: u64,
    /// The first message, then a discontinuity if the feed does not continue at the requested event.
    first: VecDeque<News>,
    /// Heartbeats follow tokio's clock.
    heartbeats: Interval,
    begun: Instant,
    is_heartbeat_due: bool,
    is_ended: bool,
}

impl Follower {
    /// Opens the feed. The first heartbeat follows at once.
    pub(super) fn open(server: &Arc<Server>, request: WatchRequest) -> Checked<Self> {
        let every = heartbeat(request.heartbeat_ms)?;
        check_prefixes(&request.prefixes)?;
        let state = server.state.lock();
        let place = request.from_sequence;
        let resumed = place.filter(|place| state.feed.has_all_after(*place));
        let mut first = VecDeque::from([News::Started(WatchStarted { resumed: resumed.is_some() })]);
        if place.is_some() && resumed.is_none() {
            first.push_back(gap(WatchGap::PlaceUnknown));
        }
        let sequence = resumed.unwrap_or(state.feed.sequence);
        drop(state);
        let mut heartbeats = interval(every);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            server: Arc::clone(server),
            prefixes: request.prefixes,
            sequence,
            first,
            heartbeats,
            begun: Instant::now(),
            is_heartbeat_due: false,
            is_ended: false,
        })
    }

    /// Waits for the next message; `None` after the feed has failed. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The injected error of an outage.
    pub(crate) async fn next(&mut self) -> Result<Option<WatchResponse>> {
        loop {
            if self.is_ended {
                return Ok(None);
            }
            let server = Arc::clone(&self.server);
            let mut changed = pin!(server.changed.notified());
            changed.as_mut().enable();
            if let Some(news) = self.ready()? {
                return Ok(Some(WatchResponse { sequence: self.sequence, news: Some(news) }));
            }
            tokio::select! {
                () = changed => {}
                _ = self.heartbeats.tick() => self.is_heartbeat_due = true,
            }
        }
    }

    /// Returns a message that needs no wait. Changes are sent before a heartbeat, which confirms them.
    fn ready(&mut self) -> Result<Option<News>> {
        let state = self.server.state.lock();
        if let Some(error) = state.faults.outage(&[]) {
            self.is_ended = true;
            return Err(error);
        }
        if let Some(news) = self.first.pop_front() {
            return Ok(Some(news));
        }
        if !state.feed.has_all_after(self.sequence) {
            self.sequence = state.feed.sequence;
            return Ok(Some(gap(WatchGap::TooSlow)));
        }
        let events = state.feed.after(self.sequence, &self.prefixes);
        self.sequence = state.feed.sequence;
        if !events.is_empty() {
            return Ok(Some(News::Events(WatchEvents { events })));
        }
        let is_due = std::mem::take(&mut self.is_heartbeat_due);
        Ok(is_due.then_some(News::Heartbeat(WatchHeartbeat { elapsed_ms: self.begun.elapsed().as_millis() as u64 })))
    }
}

fn gap(gap: WatchGap) -> News {
    News::Discontinuity(WatchDiscontinuity { gap: gap.into() })
}
