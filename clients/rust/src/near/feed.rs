//! Follows the change feed of one node (`Invalidation.Watch`).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use terrace_proto::{WatchRequest, WatchResponse, invalidation_client::InvalidationClient, watch_response::News};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::Streaming;

use super::Near;
use crate::{
    clock::Moment,
    engine::driver::Backoff,
    error::{Error, ErrorKind, Result},
    nodes::{Connected, Node},
    operations::to_ms,
};

/// Age at which a stream is opened again, so that a slow clock of the node does not delay confirmations: 0.3 s at a drift
/// of 500 ppm. A fast clock is detected by each heartbeat.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Age at which a stream is opened again whose opening was slow: each of its confirmations is early by the time in which its
/// request was held. Doubles with each slow opening.
const AGE_MAX_SLOW: Duration = Duration::from_secs(5);
/// Delay after a node has refused the feed.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// Age of a stream above which its end does not count as a failed attempt.
const STABLE_AGE: Duration = Duration::from_secs(1);

/// Reference point of a stream's heartbeats.
#[derive(Debug, Clone, Copy)]
struct Anchor(Moment);

impl Anchor {
    /// Returns a time before which a heartbeat was not sent. The arrival is no such time: a proxy may have held the
    /// heartbeat. The node counts from the arrival of the request, which is later than its sending.
    fn sent(&mut self, elapsed: Duration, arrived: Moment) -> Moment {
        // A heartbeat that arrives before it can have been sent proves that the node's clock is faster.
        self.0 = self.0.min(arrived.minus(elapsed));
        self.0.plus(elapsed)
    }
}

/// Follows the feed of a node until `closed` is true.
pub(crate) async fn run(near: Arc<Near>, node: Arc<Node>, limit: Duration, mut closed: watch::Receiver<bool>) {
    let connections = node.connections();
    let mut follower = Follower {
        near,
        node: Arc::clone(&node),
        connections,
        limit,
        sequence: None,
        slow_age: AGE_MAX_SLOW,
        refused: None,
    };
    tokio::select! {
        () = follower.run() => {}
        _ = closed.wait_for(|closed| *closed) => {}
    }
    node.feed.pause();
}

struct Follower {
    near: Arc<Near>,
    node: Arc<Node>,
    connections: watch::Receiver<Option<Connected>>,
    /// Deadline of the first message of a stream.
    limit: Duration,
    /// Number of the last event that was applied.
    sequence: Option<u64>,
    /// Age at which the next stream with a slow opening is opened again.
    slow_age: Duration,
    /// Kind of the error with which the node refused the feed.
    refused: Option<ErrorKind>,
}

impl Follower {
    async fn run(&mut self) {
        let mut backoff = Backoff::new();
        loop {
            let connected = self.connections.wait_for(Option::is_some).await.map(|connected| connected.clone());
            // The node lives as long as this follower.
            let Ok(Some(connected)) = connected else { return };
            let begun = Instant::now();
            let ended = self.follow(&connected).await;
            self.node.feed.pause();
            if begun.elapsed() > STABLE_AGE {
                backoff = Backoff::new();
            }
            let Err(error) = ended else { continue };
            let pause = if self.report(&error) { REFUSED_PAUSE } else { backoff.next() };
            let is_new = |now: &Option<Connected>| now.as_ref().is_some_and(|now| now.number != connected.number);
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.connections.wait_for(is_new) => {}
            }
        }
    }

    /// Logs a changed state. Returns whether the node has refused the feed.
    fn report(&mut self, error: &Error) -> bool {
        let (node, kind) = (&self.node.name, error.kind());
        if !is_refusal(kind) {
            tracing::debug!(%node, %error, "the change feed ended");
            return false;
        }
        if self.refused.replace(kind) != Some(kind) {
            tracing::warn!(%node, %error, "the node refused the change feed; keeping no copies of its values");
        }
        true
    }

    /// Follows one stream, until it has to be opened again.
    ///
    /// # Errors
    /// The stream cannot be opened, or has ended.
    async fn follow(&mut self, connected: &Connected) -> Result<()> {
        let mut prefixes = self.near.settings.prefixes.clone();
        if prefixes.is_empty() {
            // Without prefixes, a user who may not watch some keys receives a feed without their events. With the empty
            // prefix, the node refuses.
            prefixes.push(Bytes::new());
        }
        let request = WatchRequest {
            prefixes,
            from_sequence: self.sequence,
            heartbeat_ms: Some(to_ms(self.near.settings.heartbeat)),
        };
        let (sent, begun) = (Moment::now(), Instant::now());
        let open = async {
            let mut stream = InvalidationClient::new(connected.channel.clone()).watch(request).await?.into_inner();
            let first = next(&mut stream).await?;
            Ok::<_, Error>((stream, first))
        };
        let silent = |_elapsed| Error::new(ErrorKind::Unavailable, format!("no change feed within {:?}", self.limit));
        let (mut stream, first) = timeout(self.limit, open).await.map_err(silent)??;
        let mut anchor = Anchor(sent);
        self.take(&first, &mut anchor, connected.number);
        let reopen = sleep_until(begun + self.age(begun.elapsed()));
        tokio::pin!(reopen);
        loop {
            tokio::select! {
                message = next(&mut stream) => self.take(&message?, &mut anchor, connected.number),
                () = &mut reopen => return Ok(()),
                Ok(()) = self.connections.changed() => {
                    if self.connections.borrow_and_update().as_ref().is_some_and(|now| now.number != connected.number) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Returns the age at which a stream is opened again, by the duration of its opening.
    fn age(&mut self, opening: Duration) -> Duration {
        if opening <= self.near.settings.heartbeat / 4 {
            self.slow_age = AGE_MAX_SLOW;
            return AGE_MAX;
        }
        let next = (self.slow_age * 2).min(AGE_MAX);
        std::mem::replace(&mut self.slow_age, next)
    }

    /// Applies a message.
    fn take(&mut self, message: &WatchResponse, anchor: &mut Anchor, connection: u32) {
        let (near, feed) = (&self.near, &self.node.feed);
        match &message.news {
            Some(News::Started(started)) if started.resumed => {}
            Some(News::Events(events)) => {
                events.events.iter().for_each(|event| near.apply(event.subject.as_ref()));
            }
            Some(News::Heartbeat(heartbeat)) => {
                let at = anchor.sent(Duration::from_millis(heartbeat.elapsed_ms), Moment::now());
                near.store.confirm(feed, connection, at);
                if self.refused.take().is_some() {
                    tracing::info!(node = %self.node.name, "following the change feed again");
                }
            }
            // If an earlier stream was not resumed, a discontinuity follows, which is counted.
            Some(News::Started(_)) => near.store.lost(feed),
            // News that this version does not know may be a gap.
            Some(News::Discontinuity(_)) | None => near.lost(feed),
        }
        self.sequence = Some(message.sequence);
    }
}

/// Returns whether a further attempt is useless until the server or the user of the client has changed.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::FailedPrecondition
            | ErrorKind::PermissionDenied
            | ErrorKind::Unauthenticated
            | ErrorKind::InvalidArgument
            | ErrorKind::ResourceExhausted
            | ErrorKind::Unimplemented
    )
}

/// # Errors
/// The reason why the stream ended.
async fn next(stream: &mut Streaming<WatchResponse>) -> Result<WatchResponse> {
    let message = stream.message().await?;
    message.ok_or_else(|| Error::new(ErrorKind::Unavailable, "the change feed ended without a status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    #[test]
    fn a_late_heartbeat_proves_the_time_at_which_it_was_sent() {
        let mut anchor = Anchor(ms(1_000));
        assert_eq!(anchor.sent(Duration::from_millis(500), ms(1_501)), ms(1_500));
        // A proxy held it for five seconds.
        assert_eq!(anchor.sent(Duration::from_millis(1_000), ms(7_000)), ms(2_000));
    }

    #[test]
    fn a_fast_clock_of_the_node_moves_the_anchor() {
        let mut anchor = Anchor(ms(1_000));
        assert_eq!(anchor.sent(Duration::from_millis(600), ms(1_500)), ms(1_500));
        // The 100 ms stay subtracted when a later heartbeat is held.
        assert_eq!(anchor.sent(Duration::from_millis(1_200), ms(9_000)), ms(2_100));
    }

    #[test]
    fn settings_out_of_range_are_refused_with_their_values() {
        use crate::NearCache;
        let settings = NearCache::new;
        let faulty = [
            (settings().heartbeat(Duration::from_millis(99)), "heartbeat is 99ms; expected 100ms to 60s"),
            (settings().heartbeat(Duration::from_secs(61)), "heartbeat is 61s"),
            (settings().max_staleness(Duration::from_millis(1_999)), "max_staleness is 1.999s; expected at least 2s"),
            (settings().prefixes(vec!["a"; 65]), "65 prefixes; expected at most 64"),
            (settings().max_bytes(0), "max_bytes is 0; expected at least 1"),
        ];
        for (near, text) in faulty {
            let error = crate::Client::builder("a:1").near_cache(near).connect_lazy().unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidArgument && error.message().contains(text), "{error}");
        }
        assert!(settings().check().is_ok() && settings().max_staleness(Duration::from_secs(2)).check().is_ok());
    }
}
