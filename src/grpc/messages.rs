//! Reads the messages of a client's stream from its DATA frames.
//!
//! A message within one frame is a slice of the frame. A message that spans frames is joined in a buffer that grows
//! with the bytes received, never by the declared length: a stream of a few bytes costs a few bytes. Received bytes
//! count toward `server.max_in_flight`, and a message that makes no progress ends the stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use hyper::body::{Body, Incoming};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::{
    Edge,
    answer::PREFIX_BYTES,
    convert, in_flight_bytes,
    inbound::{self, Prefix},
};
use crate::node::Held;

/// Maximum time that a partly received message of a stream waits for its next bytes.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The messages of one stream.
pub(super) struct Messages {
    edge: Arc<Edge>,
    prefix: Prefix,
    body: Incoming,
    /// The unread part of the last frame, while no message spans frames.
    frame: Bytes,
    /// Received bytes from the beginning of a message that spans frames.
    joined: BytesMut,
    /// Counts the bytes of `frame` and `joined` as in flight.
    held: Option<Held>,
    /// Runs while a message is incomplete.
    stall: Option<Pin<Box<Sleep>>>,
}

impl Messages {
    pub(super) fn new(edge: Arc<Edge>, request: Request<Incoming>) -> Self {
        let prefix = Prefix::new(request.headers(), edge.settings.load().message_max);
        Self {
            edge,
            prefix,
            body: request.into_body(),
            frame: Bytes::new(),
            joined: BytesMut::new(),
            held: None,
            stall: None,
        }
    }

    /// Returns the next message; `None` at the end of the stream. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Suspends the time limit of an incomplete message, because the server does not read now.
    pub(super) fn pause(&mut self) {
        self.stall = None;
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match self.split() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers of a request have no meaning.
                    let Ok(data) = frame.into_data() else { continue };
                    if let Err(status) = self.append(data) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(Status::cancelled(format!("the request was aborted: {error}")))));
                }
                Poll::Ready(None) if self.len() == 0 => return Poll::Ready(None),
                Poll::Ready(None) => return Poll::Ready(Some(Err(inbound::truncated()))),
                Poll::Pending if self.len() == 0 => return Poll::Pending,
                Poll::Pending => {
                    let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_TIMEOUT)));
                    return stall.as_mut().poll(context).map(|()| Some(Err(stalled())));
                }
            }
        }
    }

    fn len(&self) -> usize {
        self.frame.len() + self.joined.len()
    }

    fn append(&mut self, data: Bytes) -> Result<(), Status> {
        self.stall = None;
        if self.len() == 0 {
            self.frame = data;
            return Ok(());
        }
        self.joined.extend_from_slice(&std::mem::take(&mut self.frame));
        self.joined.extend_from_slice(&data);
        let max = self.edge.settings.load().in_flight_max;
        in_flight_bytes::check(&self.edge.node.in_flight, max).map_err(|error| convert::status(&error))
    }

    /// Removes and returns the first message, if all of it was received.
    fn split(&mut self) -> Result<Option<Bytes>, Status> {
        let received = if self.joined.is_empty() { &self.frame[..] } else { &self.joined[..] };
        let expected = self.prefix.expected(received)?.filter(|expected| *expected <= received.len());
        let message = expected.map(|expected| {
            let mut message = if self.joined.is_empty() {
                self.frame.split_to(expected)
            } else {
                self.joined.split_to(expected).freeze()
            };
            message.advance(PREFIX_BYTES);
            message
        });
        if self.len() == 0 {
            self.held = None;
        } else if message.is_none() {
            self.held = in_flight_bytes::hold(&self.edge.node.in_flight, self.len());
        }
        Ok(message)
    }
}

fn stalled() -> Status {
    Status::deadline_exceeded(format!("a message was not completed: no bytes were received for {STALL_TIMEOUT:?}"))
}
