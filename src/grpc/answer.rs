//! What goes back: a framed message and its trailers, a stream of them, or a status alone.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use hyper::body::{Body, Frame};
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use super::{convert, in_flight_bytes};
use crate::{
    error::{CacheError, Kind, Result},
    node::InFlight,
};

/// Bytes before each message: one of flags, four of length.
pub(super) const PREFIX_BYTES: usize = 5;

/// The body of an answer.
#[derive(Default)]
pub(super) enum Answer {
    /// At most one message, then trailers; neither when the status stands in the headers.
    Unary {
        /// Prefix and message.
        data: Option<Bytes>,
        /// Status of the call.
        trailers: Option<HeaderMap>,
    },
    /// Messages as they come, then the status; `Err` ends the stream with its status.
    Stream(mpsc::Receiver<Result<Bytes, Status>>),
    /// The stream has ended.
    #[default]
    Ended,
    /// Of one of tonic's services.
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

/// A response with gRPC's content type.
pub(super) fn response(body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A call that failed: its status stands in the headers.
pub(super) fn failed(error: &CacheError) -> Response<Answer> {
    convert::status(error).into_http()
}

/// A call that succeeded.
pub(super) fn succeeded(data: Bytes) -> Response<Answer> {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    response(Answer::Unary { data: Some(data), trailers: Some(trailers) })
}

/// A message as it travels, counted until it has been sent.
///
/// # Errors
/// `TooLarge` for a message over `max` bytes.
pub(super) fn frame(message: &impl Message, max: usize, in_flight: &InFlight) -> Result<Bytes> {
    let len = message.encoded_len();
    let prefix_len = u32::try_from(len).ok().filter(|_| len <= max).ok_or_else(|| too_large(len, max))?;
    let mut buffer = Vec::with_capacity(PREFIX_BYTES + len);
    buffer.put_u8(0);
    buffer.put_u32(prefix_len);
    message.encode_raw(&mut buffer);
    Ok(in_flight_bytes::counted(buffer, in_flight))
}

fn too_large(len: usize, max: usize) -> CacheError {
    let message = format!("the answer has {len} bytes; grpc.max_message is {max} bytes");
    CacheError::new(Kind::TooLarge, message)
}
