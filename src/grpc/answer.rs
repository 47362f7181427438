//! Bodies of responses: one framed message with trailers, a stream of messages, or only a status.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;
use tonic::Status;

use super::{convert, in_flight_bytes, wire::Encode};
use crate::{
    error::{CacheError, Kind, Result},
    node::InFlight,
};

/// Length in bytes of the prefix of a message: one byte with the compressed flag and four bytes with the length.
pub(super) const PREFIX_BYTES: usize = 5;

/// The body of a response.
#[derive(Default)]
pub(super) enum Answer {
    /// At most one message, then trailers. Both are absent if the headers carry the status.
    Unary {
        /// The message with its prefix.
        data: Option<Bytes>,
        /// Trailers with the status of the call.
        trailers: Option<HeaderMap>,
    },
    /// Messages as they become available, then the status OK. `Err` ends the stream with another status.
    Stream(mpsc::Receiver<Result<Bytes, Status>>),
    /// The stream has ended.
    #[default]
    Ended,
    /// The body of a response of a tonic service.
    Tonic(tonic::body::Body),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Unary { data, trailers } => {
                let frame = data.take().map(Frame::data);
                Poll::Ready(frame.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Self::Stream(messages) => match ready!(messages.poll_recv(context)) {
                Some(Ok(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Err(status)) => Poll::Ready(Some(self.end(&status))),
                None => Poll::Ready(Some(self.end(&Status::ok("")))),
            },
            Self::Ended => Poll::Ready(None),
            Self::Tonic(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Unary { data, trailers } => data.is_none() && trailers.is_none(),
            Self::Stream(_) => false,
            Self::Ended => true,
            Self::Tonic(body) => body.is_end_stream(),
        }
    }
}

impl Answer {
    fn end(&mut self, status: &Status) -> Result<Frame<Bytes>, Status> {
        *self = Self::Ended;
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }
}

/// Returns a response with the content type of gRPC.
pub(super) fn response(body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Returns the response of a failed call, with the status in the headers.
pub(super) fn failed(error: &CacheError) -> Response<Answer> {
    convert::status(error).into_http()
}

/// Returns the response of a successful call.
pub(super) fn succeeded(data: Bytes) -> Response<Answer> {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    response(Answer::Unary { data: Some(data), trailers: Some(trailers) })
}

/// Encodes a message with its prefix, and counts its bytes as in flight until they have been sent.
///
/// # Errors
/// `TooLarge` for a message of more than `max` bytes.
pub(super) fn frame(message: &impl Encode, max: usize, in_flight: &InFlight) -> Result<Bytes> {
    let len = message.wire_len();
    let prefix_len = u32::try_from(len).ok().filter(|_| len <= max).ok_or_else(|| too_large(len, max))?;
    let mut buffer = Vec::with_capacity(PREFIX_BYTES + len);
    buffer.put_u8(0);
    buffer.put_u32(prefix_len);
    message.write(&mut buffer);
    Ok(in_flight_bytes::counted(buffer, in_flight))
}

fn too_large(len: usize, max: usize) -> CacheError {
    let message = format!("the response has {len} bytes; grpc.max_message is {max} bytes");
    CacheError::new(Kind::TooLarge, message)
}
