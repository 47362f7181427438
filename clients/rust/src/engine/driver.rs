//! Opens, watches and replaces the connections of one node.
//!
//! A connection is replaced at the age [`AGE_MAX`], before the server ends it, and when a proxy announces its end
//! (GOAWAY): the new connection is opened first, then it takes the new operations, and the old stream is read to its end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Ping, PingPong};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use super::{
    connection::{Channel, Exchange, Pipeline},
    messages::Messages,
    table::Failure,
    turn::Turn,
    wheel::TICK_MS,
};
use crate::{
    error::{Error, ErrorKind, Result},
    nodes::{Connected, Fleet, Node},
};

/// Age at which a connection is replaced: less than the 30 minutes after which the server ends it.
const AGE_MAX: Duration = Duration::from_secs(20 * 60);
/// Maximum random addition to [`AGE_MAX`], so that clients that connected together do not reconnect together.
const AGE_JITTER: Duration = Duration::from_secs(5 * 60);
/// Interval between two health checks of a node.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum time until a node that did not know its store is asked again. The first time is [`HEALTH_INTERVAL`]; it doubles.
const STORE_INTERVAL_MAX: Duration = Duration::from_secs(300);
/// Deadline of a health check. A node without any message for this time is connected again.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// First delay after a failed connection. Each further failure doubles it.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Maximum delay between two attempts to connect.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Age of a connection above which its end does not count as a failed attempt.
const STABLE_AGE: Duration = Duration::from_secs(1);
/// Maximum time in which a node that leaves may finish its operations.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Delays between attempts to connect.
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(BACKOFF_FIRST)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (delay * 2).min(BACKOFF_MAX);
        // From half to all of the delay, so that clients of a restarted node do not connect at the same time.
        delay.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// An open stream.
struct Running {
    number: u32,
    reader: JoinHandle<()>,
    begun: Instant,
    channel: Channel,
    ping: Option<PingPong>,
    /// The node has named its store, which was compared with those of the other nodes.
    is_store_known: bool,
}

/// Reason why the driver stops watching a stream.
enum Next {
    Ended,
    Replace,
    /// A new stream is opened, because the node may know its store by now.
    AskStore,
    Close,
}

/// Fails the operations of a node when the task that serves it ends: without it, no deadline would be checked.
struct Served(Arc<Node>);

impl Drop for Served {
    fn drop(&mut self) {
        let text = format!("{}: the runtime in which the client was connected has ended", self.0.name);
        self.0.set_channel(None);
        self.0.link.down(&Error::new(ErrorKind::Unavailable, text));
    }
}

/// Serves a node until `closed` is true.
pub(crate) async fn run(fleet: Arc<Fleet>, node: Arc<Node>, mut closed: watch::Receiver<bool>) {
    let _served = Served(Arc::clone(&node));
    let ticker = tokio::spawn(check_deadlines(Arc::clone(&node)));
    let mut backoff = Backoff::new();
    let mut current: Option<Running> = None;
    let mut number = 0;
    let mut ask_store_after = HEALTH_INTERVAL;
    loop {
        number += 1;
        let opened = tokio::select! {
            opened = open(&fleet, &node, number) => opened,
            _ = closed.wait_for(|closed| *closed) => break,
        };
        match opened {
            Ok(running) => {
                tracing::debug!(node = %node.name, "connected");
                current = Some(running);
            }
            Err(error) => {
                tracing::debug!(node = %node.name, %error, "cannot connect");
                if error.kind() == ErrorKind::FailedPrecondition
                    && let Some(running) = current.take()
                {
                    // The node has another store, which it did not know when its present stream was opened.
                    running.reader.abort();
                    ended(&node, running.number, &Failure::Broken(error.clone()));
                }
                let is_alive = current.as_ref().is_some_and(|running| !running.reader.is_finished());
                if !is_alive {
                    node.set_channel(None);
                    node.link.down(&error);
                }
                tokio::select! {
                    () = sleep(backoff.next()) => continue,
                    _ = closed.wait_for(|closed| *closed) => break,
                }
            }
        }
        let Some(running) = &mut current else { continue };
        let ask_store_at = (!running.is_store_known).then(|| running.begun + ask_store_after);
        match watch(&node, running, ask_store_at, &mut closed).await {
            Next::AskStore => ask_store_after = (ask_store_after * 2).min(STORE_INTERVAL_MAX),
            Next::Replace => {}
            Next::Close => break,
            Next::Ended => {
                let is_stable = running.begun.elapsed() > STABLE_AGE;
                current = None;
                if is_stable {
                    backoff = Backoff::new();
                } else {
                    tokio::select! {
                        () = sleep(backoff.next()) => {}
                        _ = closed.wait_for(|closed| *closed) => break,
                    }
                }
            }
        }
    }
    leave(&node, current).await;
    ticker.abort();
}

/// Opens a connection with its stream, and lets the stream take the operations.
async fn open(fleet: &Fleet, node: &Arc<Node>, number: u32) -> Result<Running> {
    let settings = &fleet.settings;
    let (mut channel, mut connection) = Channel::open(&node.address, settings).await?;
    let (response, sender) = channel.pipeline(node, &mut connection, settings.connect_timeout).await?;
    let is_store_known = fleet.check_store(node, response.headers())?;
    Fleet::set_request_max(node, response.headers());
    let ping = connection.ping_pong();
    let stream = Pipeline {
        node: Arc::clone(node),
        number,
        sender,
        results: response.into_body(),
        messages: Messages::new(settings.message_max),
        batch: Bytes::new(),
        is_closed: false,
    };
    let mut exchange = Exchange { connection, stream, connection_turn: Turn::new(), stream_turn: Turn::new() };
    let reader = tokio::spawn(async move {
        let failure = (&mut exchange).await;
        ended(&exchange.stream.node, number, &failure);
        // Unary calls on the connection may still be in progress.
        tokio::spawn(timeout(LEAVE_TIMEOUT, exchange.connection));
    });
    // Before the first operation on the connection: its answers are not kept until the feed follows it.
    node.feed.set_connected(number);
    node.link.activate(number);
    node.set_channel(Some(Connected { number, channel: channel.clone() }));
    Ok(Running { number, reader, begun: Instant::now(), channel, ping, is_store_known })
}

fn ended(node: &Node, number: u32, failure: &Failure) {
    tracing::debug!(node = %node.name, ?failure, "a stream ended");
    node.link.stream_ended(number, failure);
    if let Failure::NotBegun(error) = failure {
        // The node drains: a new connection would be refused.
        node.link.drained(number, error);
    }
}

/// Watches a stream until it ends or has to be replaced.
async fn watch(
    node: &Arc<Node>,
    running: &mut Running,
    ask_store_at: Option<Instant>,
    closed: &mut watch::Receiver<bool>,
) -> Next {
    let age = running.begun + AGE_MAX + AGE_JITTER.mul_f64(fastrand::f64());
    loop {
        let pause = HEALTH_INTERVAL.mul_f64(0.8 + 0.4 * fastrand::f64());
        tokio::select! {
            _ = &mut running.reader => return Next::Ended,
            () = sleep_until(age) => return Next::Replace,
            () = sleep_until(ask_store_at.unwrap_or(age)), if ask_store_at.is_some() => return Next::AskStore,
            _ = closed.wait_for(|closed| *closed) => return Next::Close,
            () = sleep(pause) => {}
        }
        if !running.channel.accepts_calls().await {
            return Next::Replace;
        }
        let checked = tokio::select! {
            _ = &mut running.reader => return Next::Ended,
            checked = timeout(HEALTH_TIMEOUT, health(running.ping.as_mut(), running.channel.clone())) => checked,
        };
        match checked {
            Ok(is_serving) => node.link.checked(is_serving),
            Err(_elapsed) if node.link.heard_within(HEALTH_TIMEOUT) => {}
            Err(_elapsed) => {
                running.reader.abort();
                let text = format!("{}: no answer to a health check within {HEALTH_TIMEOUT:?}", node.name);
                ended(node, running.number, &Failure::Broken(Error::new(ErrorKind::Unavailable, text)));
                return Next::Ended;
            }
        }
    }
}

/// Lets the stream of a node that leaves finish its operations.
async fn leave(node: &Node, current: Option<Running>) {
    let error = Error::new(ErrorKind::Unavailable, format!("{}: the node is no longer in use", node.name));
    node.set_channel(None);
    node.link.retire(&error);
    let Some(mut running) = current else { return };
    if timeout(LEAVE_TIMEOUT, &mut running.reader).await.is_err() {
        running.reader.abort();
        ended(node, running.number, &Failure::Broken(error));
    }
}

/// Checks the deadlines of a node's operations until it is aborted.
pub(crate) async fn check_deadlines(node: Arc<Node>) {
    let mut ticks = interval(Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if node.link.check_deadlines() {
            node.link.ticker.notified().await;
        }
    }
}

/// Request of `grpc.health.v1.Health/Check` for the whole server.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {}

/// Response of `grpc.health.v1.Health/Check`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING` of `grpc.health.v1`.
const SERVING: i32 = 1;

/// Waits for the answer to an HTTP/2 ping, which no permission can refuse, and returns whether the node serves.
async fn health(ping: Option<&mut PingPong>, channel: Channel) -> bool {
    if let Some(ping) = ping {
        // The end of the connection ends the stream as well, which is reported there.
        let _ended = ping.ping(Ping::opaque()).await;
    }
    let mut grpc = Grpc::new(channel);
    if grpc.ready().await.is_err() {
        return true;
    }
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec: ProstCodec<HealthRequest, HealthResponse> = ProstCodec::default();
    let answer = grpc.unary(tonic::Request::new(HealthRequest {}), path, codec).await;
    // An error says nothing about the health: the server may not offer this service.
    answer.map_or(true, |response| response.into_inner().status == SERVING)
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
