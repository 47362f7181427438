//! Reads the one message of a unary call out of the frames it came in.
//!
//! Nothing is allocated from a length that was only declared, and a message over its limit is refused as soon as its
//! prefix is known.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request};
use hyper::body::{Body, Incoming};
use tonic::Status;

use super::{answer::PREFIX_BYTES, convert, in_flight_bytes};
use crate::{
    error::{CacheError, Kind},
    node::{Held, InFlight},
};

/// A message on its way in.
pub(super) struct Inbound {
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// All that came, while it came in one piece: the usual case, without a copy.
    first: Bytes,
    /// All that came, from the second piece on.
    joined: BytesMut,
    message_max: usize,
}

impl Inbound {
    pub(super) fn new(request: Request<Incoming>, message_max: usize) -> Self {
        let (parts, body) = request.into_parts();
        Self { headers: parts.headers, body, first: Bytes::new(), joined: BytesMut::new(), message_max }
    }

    /// The message; what comes in is counted, and refused when all connections together hold too much.
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

    /// The message, when all of it has come. `count` is told what comes and may refuse it.
    pub(super) fn poll_message(
        &mut self,
        context: &mut Context<'_>,
        count: &mut impl FnMut(usize) -> Result<(), Status>,
    ) -> Poll<Result<Bytes, Status>> {
        while !self.body.is_end_stream() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    // Trailers of a request mean nothing.
                    let Ok(data) = frame.into_data() else { continue };
                    count(data.len())?;
                    self.take(data)?;
                }
                Some(Err(error)) => {
                    return Poll::Ready(Err(Status::cancelled(format!("the request broke off: {error}"))));
                }
                None => break,
            }
        }
        Poll::Ready(self.finish())
    }

    /// Whether a part of a message has come and the rest has not.
    pub(super) fn is_partial(&self) -> bool {
        self.len() > 0 && !matches!(self.expected(), Ok(Some(expected)) if expected == self.len())
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
            Some(expected) if self.len() > expected => Err(malformed("the request holds more than one message")),
            Some(_) | None => Ok(()),
        }
    }

    /// Bytes of prefix and message, once the prefix has come.
    fn expected(&self) -> Result<Option<usize>, Status> {
        let received = if self.joined.is_empty() { &self.first[..] } else { &self.joined[..] };
        let Some((&[flag, a, b, c, d], _)) = received.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        self.check_flag(flag)?;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > self.message_max {
            return Err(convert::status(&too_large(len, self.message_max)));
        }
        Ok(Some(PREFIX_BYTES + len))
    }

    fn check_flag(&self, flag: u8) -> Result<(), Status> {
        match (flag, self.headers.get("grpc-encoding")) {
            (0, _) => Ok(()),
            (1, Some(encoding)) => {
                let text = format!("messages compressed with {encoding:?} are not supported; send identity");
                let mut status = Status::unimplemented(text);
                status
                    .metadata_mut()
                    .insert("grpc-accept-encoding", tonic::metadata::MetadataValue::from_static("identity"));
                Err(status)
            }
            (1, None) => Err(malformed("a message is marked as compressed and there is no grpc-encoding header")),
            (_, _) => Err(malformed("a message begins with a byte that is neither 0 nor 1")),
        }
    }

    fn finish(&mut self) -> Result<Bytes, Status> {
        if self.expected()? != Some(self.len()) {
            return Err(malformed("the request ended before its message was whole"));
        }
        let joined = std::mem::take(&mut self.joined).freeze();
        let mut message = if joined.is_empty() { std::mem::take(&mut self.first) } else { joined };
        message.advance(PREFIX_BYTES);
        Ok(message)
    }
}

fn malformed(text: &'static str) -> Status {
    Status::invalid_argument(text)
}

/// A message over its limit.
pub(super) fn too_large(len: usize, max: usize) -> CacheError {
    let message = format!("the message has {len} bytes; grpc.max_message is {max} bytes");
    CacheError::new(Kind::TooLarge, message)
}
