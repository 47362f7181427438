//! Reads the messages of a client's stream from its DATA frames.
//!
//! A message within one frame is a slice of the frame. A message that spans frames is joined in a buffer that grows
//! with the bytes received, never by the declared length: a stream of a few bytes costs a few bytes. Received bytes
//! are charged to the byte budget, and a message that makes no progress ends the stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};
use http::Request;
use hyper::body::{Body, Incoming};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::{
    Edge,
    answer::PREFIX_BYTES,
    convert,
    inbound::{self, Prefix, STALL_TIMEOUT, WINDOW_BYTES},
};
use crate::budget::Held;

/// The messages of one stream.
pub(super) struct Messages {
    edge: Arc<Edge>,
    prefix: Prefix,
    body: Incoming,
    /// The unread part of the last frame, while no message spans frames.
    frame: Bytes,
    /// Received bytes from the beginning of a message that spans frames.
    joined: BytesMut,
    /// Charges the bytes of `frame` and `joined`.
    held: Held,
    /// Set while the byte budget has no room for the rest of a message.
    room: Option<BoxFuture<'static, ()>>,
    /// Runs while a message is incomplete.
    stall: Option<Pin<Box<Sleep>>>,
}

impl Messages {
    pub(super) fn new(edge: Arc<Edge>, request: Request<Incoming>) -> Self {
        let prefix = Prefix::new(request.headers(), edge.settings.load().message_max);
        let held = edge.account().hold_for_client(0);
        Self {
            edge,
            prefix,
            body: request.into_body(),
            frame: Bytes::new(),
            joined: BytesMut::new(),
            held,
            room: None,
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
            if self.len() > 0 {
                match self.poll_room(context) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(status)) => return Poll::Ready(Some(Err(status))),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers of a request have no meaning.
                    let Ok(data) = frame.into_data() else { continue };
                    self.append(data);
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(Status::cancelled(format!("the request was aborted: {error}")))));
                }
                Poll::Ready(None) if self.len() == 0 => return Poll::Ready(None),
                Poll::Ready(None) => return Poll::Ready(Some(Err(inbound::truncated()))),
                Poll::Pending if self.len() == 0 => return Poll::Pending,
                Poll::Pending => {
                    let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_TIMEOUT)));
                    return stall.as_mut().poll(context).map(|()| Some(Err(inbound::stalled())));
                }
            }
        }
    }

    /// Returns the memory in bytes of the received bytes. While no further bytes are read, HTTP/2 keeps the bytes that it
    /// has received: at most the window.
    fn memory(&self) -> u64 {
        let unread = if self.room.is_some() { WINDOW_BYTES } else { 0 };
        (self.frame.len() + self.joined.capacity()) as u64 + u64::from(unread)
    }

    fn len(&self) -> usize {
        self.frame.len() + self.joined.len()
    }

    /// Waits until the byte budget has room for the rest of a message, for at most [`STALL_TIMEOUT`].
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.room.is_none() && self.edge.account().may_hold(0) {
            return Poll::Ready(Ok(()));
        }
        let account = self.edge.account();
        let room = self.room.get_or_insert_with(|| {
            let account = Arc::clone(account);
            async move { account.room(0).await }.boxed()
        });
        let is_ready = room.poll_unpin(context).is_ready();
        if is_ready {
            (self.room, self.stall) = (None, None);
        }
        self.held.set(self.memory());
        if is_ready {
            return Poll::Ready(Ok(()));
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_TIMEOUT)));
        stall.as_mut().poll(context).map(|()| Err(convert::status(&account.budget().shed())))
    }

    fn append(&mut self, data: Bytes) {
        self.stall = None;
        self.edge.account().moved();
        if self.len() == 0 {
            self.frame = data;
            return;
        }
        self.joined.extend_from_slice(&std::mem::take(&mut self.frame));
        self.joined.extend_from_slice(&data);
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
        self.held.set(self.memory());
        Ok(message)
    }
}
