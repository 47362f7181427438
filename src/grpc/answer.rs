//! Bodies of responses: one framed message with trailers, a stream of messages, or only a status.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;
use tonic::Status;

use super::{convert, wire::Encode};
use crate::{
    budget::Account,
    error::{CacheError, Kind, Result},
};

/// Length in bytes of the prefix of a message: one byte with the compressed flag and four bytes with the length.
pub(super) const PREFIX_BYTES: usize = 5;
/// Size of the parts in which a large message is passed to HTTP/2. HTTP/2 requests the next part when the client can
/// receive more, which shows that the client reads.
const PART_BYTES: usize = 64 * 1024;

/// The body of a response.
#[derive(Default)]
pub(super) enum Answer {
    /// At most one message, then trailers. Both are absent if the headers carry the status.
    Unary {
        /// The message with its prefix.
        data: Option<Bytes>,
        /// Trailers with the status of the call.
        trailers: Option<HeaderMap>,
        /// The account whose progress the parts of a large message show.
        account: Option<Arc<Account>>,
    },
    /// Messages as they become available, then the status OK. `Err` ends the stream with another status.
    Stream(mpsc::Receiver<Result<Bytes, Status>>, Arc<Account>),
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
            Self::Unary { data, trailers, account } => {
                let frame = match data {
                    Some(rest) if rest.len() > PART_BYTES => Some(rest.split_to(PART_BYTES)),
                    _ => data.take(),
                };
                if let Some(account) = account {
                    account.moved();
                }
                let frame = frame.map(Frame::data);
                Poll::Ready(frame.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Self::Stream(messages, account) => match ready!(messages.poll_recv(context)) {
                Some(Ok(data)) => {
                    account.moved();
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Some(Err(status)) => Poll::Ready(Some(self.end(&status))),
                None => Poll::Ready(Some(self.end(&Status::ok("")))),
            },
            Self::Ended => Poll::Ready(None),
            Self::Tonic(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Unary { data, trailers, .. } => data.is_none() && trailers.is_none(),
            Self::Stream(..) => false,
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

/// Returns the response of a successful call of this connection.
pub(super) fn succeeded(data: Bytes, account: &Arc<Account>) -> Response<Answer> {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let account = (data.len() > PART_BYTES).then(|| Arc::clone(account));
    response(Answer::Unary { data: Some(data), trailers: Some(trailers), account })
}

/// Charges a buffer until it has been sent.
pub(super) fn charged(buffer: Vec<u8>, account: &Arc<Account>) -> Bytes {
    account.hold_for_client(buffer.capacity() as u64).keep(buffer)
}

/// Encodes a message of a stream with its prefix, and charges its bytes until they have been sent.
///
/// # Errors
/// `TooLarge` for a message of more than `max` bytes.
pub(super) fn frame(message: &impl Encode, max: usize, account: &Arc<Account>) -> Result<Bytes> {
    Ok(charged(encoded(message, max)?, account))
}

/// Like [`frame`], for the only message of a call. A client that does not read it for a while is reset.
///
/// # Errors
/// As [`frame`].
pub(super) fn unary_frame(message: &impl Encode, max: usize, account: &Arc<Account>) -> Result<Bytes> {
    let buffer = encoded(message, max)?;
    Ok(account.hold_unread(buffer.len() as u64).keep(buffer))
}

fn encoded(message: &impl Encode, max: usize) -> Result<Vec<u8>> {
    let len = message.wire_len();
    let prefix_len = u32::try_from(len).ok().filter(|_| len <= max).ok_or_else(|| too_large(len, max))?;
    let mut buffer = Vec::with_capacity(PREFIX_BYTES + len);
    buffer.put_u8(0);
    buffer.put_u32(prefix_len);
    message.write(&mut buffer);
    Ok(buffer)
}

fn too_large(len: usize, max: usize) -> CacheError {
    let message = format!("the response has {len} bytes; grpc.max_message is {max} bytes");
    CacheError::new(Kind::TooLarge, message)
}
