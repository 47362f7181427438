//! Reads the message of a unary call from its DATA frames.
//!
//! Memory grows with the bytes received, never by the declared length. A message over the size limit is rejected as
//! soon as its prefix is known.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Request};
use hyper::body::{Body, Incoming};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::{answer::PREFIX_BYTES, convert, deadline::Deadline};
use crate::{
    budget::{Account, Held},
    error::{CacheError, Kind},
};

/// Flow-control window of a stream and of a connection. The window is neither smaller nor adaptive, because h2 counts
/// small DATA frames against the connection's window and closes connections that send many.
pub(super) const WINDOW_BYTES: u32 = 1024 * 1024;
/// Maximum time that a partly received message waits for its next bytes.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A request message that is being received.
pub(super) struct Inbound {
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// All received bytes while they are in one frame: the usual case, without a copy.
    first: Bytes,
    /// All received bytes from the second frame on.
    joined: BytesMut,
    /// Memory in bytes of the received bytes, also after the message was taken.
    memory: usize,
    prefix: Prefix,
    /// Set while the byte budget has no room for the rest of the message.
    room: Option<BoxFuture<'static, ()>>,
}

/// Parses message prefixes: one byte with the compressed flag and four bytes with the length.
pub(super) struct Prefix {
    message_max: usize,
    encoding: Option<HeaderValue>,
}

impl Prefix {
    pub(super) fn new(headers: &HeaderMap, message_max: usize) -> Self {
        Self { message_max, encoding: headers.get("grpc-encoding").cloned() }
    }

    /// Returns the length of the first message and its prefix, once the prefix was received.
    ///
    /// # Errors
    /// The message exceeds the size limit, is compressed, or has an invalid compressed flag.
    #[inline]
    pub(super) fn expected(&self, received: &[u8]) -> Result<Option<usize>, Status> {
        let Some((&[flag, a, b, c, d], _)) = received.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        if flag != 0 {
            return Err(self.refuse_flag(flag));
        }
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > self.message_max {
            return Err(convert::status(&too_large(len, self.message_max)));
        }
        Ok(Some(PREFIX_BYTES + len))
    }

    #[cold]
    fn refuse_flag(&self, flag: u8) -> Status {
        match (flag, &self.encoding) {
            (1, Some(encoding)) => {
                let text = format!("unsupported grpc-encoding {encoding:?}; expected identity");
                let mut status = Status::unimplemented(text);
                status
                    .metadata_mut()
                    .insert("grpc-accept-encoding", tonic::metadata::MetadataValue::from_static("identity"));
                status
            }
            (1, None) => malformed("the message is flagged as compressed, but the request has no grpc-encoding header"),
            (_, _) => malformed(format!("the compressed flag of a message is {flag}; expected 0 or 1")),
        }
    }
}

impl Inbound {
    pub(super) fn new(request: Request<Incoming>, message_max: usize) -> Self {
        let (parts, body) = request.into_parts();
        let prefix = Prefix::new(&parts.headers, message_max);
        let headers = parts.headers;
        Self { headers, body, first: Bytes::new(), joined: BytesMut::new(), memory: 0, prefix, room: None }
    }

    /// Returns the message. Received bytes are charged. While the byte budget has no room, no further bytes are read.
    pub(super) async fn message(&mut self, account: &Arc<Account>) -> Result<(Bytes, Held), Status> {
        let mut held = account.hold_for_client(self.len() as u64);
        let mut stall: Option<Pin<Box<Sleep>>> = None;
        let message = std::future::poll_fn(|context| {
            if let Some(room) = &mut self.room {
                ready!(room.poll_unpin(context));
                self.room = None;
                held.set(self.memory());
            }
            let mut received = 0;
            let polled = self.poll_message(context, &mut |bytes| received += bytes as u64);
            if received > 0 {
                account.moved();
                stall = None;
                held.set(self.memory());
            }
            if polled.is_ready() {
                return polled;
            }
            if !account.may_hold(0) {
                let account = Arc::clone(account);
                let room = self.room.insert(async move { account.room(0).await }.boxed());
                if room.poll_unpin(context).is_ready() {
                    context.waker().wake_by_ref();
                }
                held.set(self.memory());
                return Poll::Pending;
            }
            if !self.is_partial() {
                return Poll::Pending;
            }
            let stall = stall.get_or_insert_with(|| Box::pin(sleep(STALL_TIMEOUT)));
            stall.as_mut().poll(context).map(|()| Err(stalled()))
        });
        let message = message.await?;
        held.begin_work();
        Ok((message, held))
    }

    /// Returns the error of a call whose message was not received within its deadline.
    pub(super) fn overdue(&self, deadline: &Deadline, account: &Account) -> CacheError {
        if self.room.is_some() { account.budget().shed() } else { deadline.exceeded() }
    }

    /// Returns the message when it is complete. Calls `count` with the size of each frame.
    pub(super) fn poll_message(
        &mut self,
        context: &mut Context<'_>,
        count: &mut impl FnMut(usize),
    ) -> Poll<Result<Bytes, Status>> {
        while !self.body.is_end_stream() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    // Trailers of a request have no meaning.
                    let Ok(data) = frame.into_data() else { continue };
                    count(data.len());
                    self.take(data)?;
                }
                Some(Err(error)) => {
                    return Poll::Ready(Err(Status::cancelled(format!("the request was aborted: {error}"))));
                }
                None => break,
            }
        }
        Poll::Ready(self.finish())
    }

    /// Returns whether a part of the message was received.
    pub(super) fn is_partial(&self) -> bool {
        self.len() > 0
    }

    /// Returns the memory in bytes of the received bytes. While no further bytes are read, HTTP/2 keeps the bytes that it
    /// has received: at most the window.
    fn memory(&self) -> u64 {
        let unread = if self.room.is_some() { WINDOW_BYTES } else { 0 };
        self.memory as u64 + u64::from(unread)
    }

    fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    fn take(&mut self, data: Bytes) -> Result<(), Status> {
        if self.len() == 0 {
            self.first = data;
        } else {
            let first = std::mem::take(&mut self.first);
            self.joined.extend_from_slice(&first);
            self.joined.extend_from_slice(&data);
        }
        self.memory = self.first.len() + self.joined.capacity();
        match self.expected()? {
            Some(expected) if self.len() > expected => Err(malformed("the request contains more than one message")),
            Some(_) | None => Ok(()),
        }
    }

    fn expected(&self) -> Result<Option<usize>, Status> {
        self.prefix.expected(if self.joined.is_empty() { &self.first[..] } else { &self.joined[..] })
    }

    fn finish(&mut self) -> Result<Bytes, Status> {
        if self.expected()? != Some(self.len()) {
            return Err(truncated());
        }
        let joined = std::mem::take(&mut self.joined).freeze();
        let mut message = if joined.is_empty() { std::mem::take(&mut self.first) } else { joined };
        message.advance(PREFIX_BYTES);
        Ok(message)
    }
}

/// Returns the status of a message whose next bytes did not arrive in time.
pub(super) fn stalled() -> Status {
    Status::deadline_exceeded(format!("a message was not completed: no bytes were received for {STALL_TIMEOUT:?}"))
}

/// Returns the status of a request that ended within a message.
pub(super) fn truncated() -> Status {
    malformed("the request ended before its message was complete")
}

fn malformed(text: impl Into<String>) -> Status {
    Status::invalid_argument(text)
}

/// Returns the error of a message over the size limit.
pub(super) fn too_large(len: usize, max: usize) -> CacheError {
    let message = format!("the message has {len} bytes; grpc.max_message is {max} bytes");
    CacheError::new(Kind::TooLarge, message)
}
