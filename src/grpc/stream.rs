//! Calls that respond with a stream. A separate task produces the messages, so that its work in the cache never waits
//! for a client that does not read.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::{
    Edge,
    answer::{self, Answer},
    convert,
    deadline::Deadline,
    inbound::Inbound,
    unary::{self, Call},
};
use crate::{
    budget::Held,
    error::{CacheError, Kind},
};

/// Maximum number of response messages that wait for the client to read. The stream pauses when the queue is full.
const WAITING_MAX: usize = 1;

/// Sender of the messages of a stream.
pub(super) type Output = mpsc::Sender<Result<Bytes, Status>>;

/// Responds with a stream that `produce` fills. Its error is the status of the call. The stream ends when the permissions of
/// the client change.
pub(super) fn call<F>(edge: &Arc<Edge>, produce: impl FnOnce(Output) -> F + Send + 'static) -> Call
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (output, messages) = mpsc::channel(WAITING_MAX);
    let (account, edge) = (Arc::clone(edge.account()), Arc::clone(edge));
    // The task ends after its last message, or with the first message that a disconnected client does not receive.
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = produce(output.clone()) => ended,
            () = edge.until_revoked() => Err(Status::unauthenticated("the permissions of the client have changed; call again")),
        };
        if let Err(status) = ended {
            // A client that has disconnected needs no status.
            let _disconnected = output.send(Err(status)).await;
        }
    });
    Call::ready(answer::response(Answer::Stream(messages, account)))
}

/// Runs `work` until the client disconnects: it may go on for long without a message.
pub(super) async fn while_connected(
    output: &Output,
    work: impl Future<Output = Result<(), Status>>,
) -> Result<(), Status> {
    tokio::select! {
        ended = work => ended,
        () = output.closed() => Ok(()),
    }
}

/// Runs `work` until the drain begins, which ends the call with UNAVAILABLE.
pub(super) async fn until_stopped(
    mut stop: watch::Receiver<bool>,
    work: impl Future<Output = Result<(), Status>>,
) -> Result<(), Status> {
    tokio::select! {
        ended = work => ended,
        _ = stop.wait_for(|stop| *stop) => Err(stopping()),
    }
}

/// Returns the status of a stream that the drain ends.
fn stopping() -> Status {
    convert::status(&CacheError::new(Kind::Unavailable, "the server is stopping"))
}

/// Reads the only message of a request. The message has to arrive within the deadline of a unary call. Its bytes are
/// charged until the returned guard is dropped.
pub(super) async fn received<M: Message + Default>(
    edge: &Arc<Edge>,
    request: Request<Incoming>,
) -> Result<(M, Held), Status> {
    let settings = edge.settings.load_full();
    let mut inbound = Inbound::new(request, settings.message_max);
    let mut deadline = Deadline::new(settings.timeout, &inbound.headers).map_err(|error| convert::status(&error))?;
    let received = deadline.limit(inbound.message(edge.account())).await;
    let Some(received) = received else { return Err(convert::status(&inbound.overdue(&deadline, edge.account()))) };
    let (message, held) = received?;
    Ok((unary::decode(message)?, held))
}

/// Encodes a message with its prefix, and charges its bytes until they have been sent.
pub(super) fn frame(edge: &Arc<Edge>, message: &impl Message) -> Result<Bytes, Status> {
    let max = edge.settings.load().message_max;
    answer::frame(message, max, edge.account()).map_err(|error| convert::status(&error))
}
