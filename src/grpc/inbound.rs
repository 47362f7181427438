//! Reads the message of a unary call from its DATA frames.
//!
//! Memory grows with the bytes received, never by the declared length. A message over the size limit is rejected as
//! soon as its prefix is known.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request};
use hyper::body::{Body, Incoming};
use tonic::Status;

use super::{answer::PREFIX_BYTES, convert, in_flight_bytes};
use crate::{
    error::{CacheError, Kind},
    node::{Held, InFlight},
};

/// A request message that is being received.
pub(super) struct Inbound {
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// All received bytes while they are in one frame: the usual case, without a copy.
    first: Bytes,
    /// All received bytes from the second frame on.
    joined: BytesMut,
    prefix: Prefix,
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
        Self { headers: parts.headers, body, first: Bytes::new(), joined: BytesMut::new(), prefix }
    }

    /// Returns the message. Received bytes count as in flight on all connections; over `max`, the call is rejected.
    pub(super) async fn message(&mut self, in_flight: &InFlight, max: u64) -> Result<(Bytes, Option<Held>), Status> {
        let mut held = in_flight_bytes::hold(in_flight, self.len());
        let mut count = |bytes: usize| {
            if let Some(held) = &mut held {
                held.grow(bytes as u64);
            }
            in_flight_bytes::check(in_flight, max).map_err(|error| convert::status(&error))
        };
        count(0)?;
        let message = std::future::poll_fn(|context| self.poll_message(context, &mut count)).await?;
        Ok((message, held))
    }

    /// Returns the message when it is complete. Calls `count` with the size of each frame; `count` may reject the
    /// frame.
    pub(super) fn poll_message(
        &mut self,
        context: &mut Context<'_>,
        count: &mut impl FnMut(usize) -> Result<(), Status>,
    ) -> Poll<Result<Bytes, Status>> {
        while !self.body.is_end_stream() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    // Trailers of a request have no meaning.
                    let Ok(data) = frame.into_data() else { continue };
                    count(data.len())?;
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
