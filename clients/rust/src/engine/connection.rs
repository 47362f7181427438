//! One HTTP/2 connection to a node: the Pipeline stream, and unary calls.
//!
//! One task drives the connection and the stream together ([`Exchange`]), so that an operation wakes as few tasks as
//! possible: the caller wakes the exchange, and the exchange wakes the caller.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{Connection, SendRequest},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, uri::PathAndQuery};
use http_body::{Body as _, Frame};
use prost::Message;
use terrace_proto::PipelineResponse;
use tokio::time::timeout;
use tonic::{Status, body::Body};
use tonic_types::StatusExt;
use tower_service::Service;

use super::{messages::Messages, table::Failure, turn::Turn};
use crate::{
    error::{Error, ErrorKind, Result},
    net::{
        address::Address,
        stream::{Cause, Stream, connect},
    },
    nodes::Node,
    settings::Settings,
};

/// Flow-control window, equal to the server's, so that large values arrive without waiting for window updates.
const WINDOW_BYTES: u32 = 1 << 20;
/// Reason with which a draining node ends a stream: operations without a result were not begun.
const DRAINING: &str = "DRAINING";
const DOMAIN: &str = "terrace.v1";
/// Maximum number of rounds of an exchange before other tasks have their turn.
const ROUNDS_MAX: usize = 16;
const PIPELINE: &str = "/terrace.v1.Cache/Pipeline";

/// One connection, for the generated stubs: [`ClientBuilder::channel`](crate::ClientBuilder::channel). It adds the token of
/// the client to each call. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Channel {
    sender: SendRequest<Bytes>,
    /// Scheme and authority of the calls.
    origin: Uri,
    authorization: Option<HeaderValue>,
}

/// A connection that an [`Exchange`] drives.
pub(super) type Driven = Connection<Stream, Bytes>;

impl Channel {
    /// Opens a connection. It makes progress only while the second value is polled.
    ///
    /// # Errors
    /// The node cannot be reached, or the token cannot be read.
    pub(super) async fn open(address: &Address, settings: &Settings) -> Result<(Self, Driven)> {
        let authorization = settings.authorization(address)?;
        let limit = settings.connect_timeout;
        let unavailable = |text: String| Error::new(ErrorKind::Unavailable, text);
        let stream = connect(address, settings.tls.as_ref(), limit).await.map_err(|error| {
            let is_configuration = matches!(error.cause(), Cause::Configuration(_));
            let kind = if is_configuration { ErrorKind::InvalidArgument } else { ErrorKind::Unavailable };
            Error::new(kind, error.to_string())
        })?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES).enable_push(false);
        let handshake = timeout(limit, builder.handshake(stream)).await;
        let (sender, connection) = handshake
            .map_err(|_elapsed| {
                unavailable(format!("cannot connect to {address}: no HTTP/2 connection within {limit:?}"))
            })?
            .map_err(|error| unavailable(format!("cannot connect to {address}: {error}")))?;
        Ok((Self { sender, origin: origin(address, settings), authorization }, connection))
    }

    /// Opens a connection for calls only.
    pub(crate) async fn connect(address: &Address, settings: &Settings) -> Result<Self> {
        let (channel, connection) = Self::open(address, settings).await?;
        tokio::spawn(async move {
            // The calls report the end of the connection.
            let _ended = connection.await;
        });
        Ok(channel)
    }

    fn uri(&self, path: Option<PathAndQuery>) -> Uri {
        let mut parts = self.origin.clone().into_parts();
        parts.path_and_query = path.or(parts.path_and_query);
        // The origin is valid with any path.
        Uri::from_parts(parts).unwrap_or_default()
    }

    /// Returns `false` if the node or a proxy has announced the end of the connection.
    pub(super) async fn accepts_calls(&self) -> bool {
        self.sender.clone().ready().await.is_ok()
    }

    /// Opens the Pipeline stream.
    ///
    /// # Errors
    /// The node refused the stream or did not answer in time.
    pub(super) async fn pipeline(
        &mut self,
        node: &Node,
        connection: &mut Driven,
        limit: Duration,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>)> {
        let unavailable =
            |text: String| Error::new(ErrorKind::Unavailable, format!("cannot connect to {}: {text}", node.name));
        let broken = |error: h2::Error| unavailable(error.to_string());
        let uri = self.uri(Some(PathAndQuery::from_static(PIPELINE)));
        let mut request = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.body(()).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        let (response, sender) = self.sender.send_request(request, false).map_err(broken)?;
        let response = tokio::select! {
            response = response => response.map_err(broken)?,
            ended = connection => {
                return Err(ended.map_or_else(broken, |()| unavailable("the server closed the connection".to_owned())));
            }
            () = tokio::time::sleep(limit) => return Err(unavailable(format!("no answer within {limit:?}"))),
        };
        if response.status() != StatusCode::OK {
            return Err(unavailable(format!(
                "the answer has the HTTP status {}; expected a gRPC server",
                response.status()
            )));
        }
        match Status::from_header_map(response.headers()) {
            None => Ok((response, sender)),
            Some(status) => Err(named(node, status)),
        }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Received>;
    type Error = h2::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let uri = std::mem::take(request.uri_mut());
        *request.uri_mut() = self.uri(uri.into_parts().path_and_query);
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert("authorization", authorization.clone());
        }
        let (head, body) = request.into_parts();
        let sent = self.sender.send_request(Request::from_parts(head, ()), false);
        Box::pin(async move {
            let (response, sender) = sent?;
            // The response may begin before the request ends.
            tokio::spawn(pump(body, sender));
            Ok(response.await?.map(Received))
        })
    }
}

/// Sends the messages of a request.
async fn pump(mut body: Body, mut sender: SendStream<Bytes>) {
    loop {
        let frame = tokio::select! {
            frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)) => frame,
            // The server needs no further messages, or the caller has left.
            _reset = std::future::poll_fn(|context| sender.poll_reset(context)) => return,
        };
        let sent = match frame {
            Some(Ok(frame)) => frame.into_data().map_or(Ok(()), |data| sender.send_data(data, false)),
            Some(Err(_)) => return sender.send_reset(Reason::CANCEL),
            None => {
                // A stream that has ended is reported by its response.
                let _ended = sender.send_data(Bytes::new(), true);
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The body of a response.
#[derive(Debug)]
pub struct Received(RecvStream);

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.0.poll_data(context)) {
            Some(Ok(data)) => {
                self.0.flow_control().release_capacity(data.len())?;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => self
                .0
                .poll_trailers(context)
                .map(|trailers| trailers.transpose().map(|trailers| trailers.map(Frame::trailers))),
        }
    }
}

fn origin(address: &Address, settings: &Settings) -> Uri {
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let authority = match address {
        Address::Tcp { .. } => address.name(),
        Address::Resolved { socket, host } => format!("{host}:{}", socket.port()),
        Address::Unix(_) => "localhost".to_owned(),
    };
    Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build().unwrap_or_default()
}

fn named(node: &Node, status: Status) -> Error {
    let error = Error::from(status);
    let text = format!("{}: {}", node.name, error.message());
    let kind = if error.kind() == ErrorKind::OutcomeUnknown { ErrorKind::Unavailable } else { error.kind() };
    Error::new(kind, text).with_retry_after(error.retry_after())
}

/// A connection and its Pipeline stream. Ends with the meaning of the end for the operations without a result.
pub(super) struct Exchange {
    pub(super) connection: Driven,
    pub(super) stream: Pipeline,
    pub(super) connection_turn: Turn,
    pub(super) stream_turn: Turn,
}

/// A Pipeline stream.
pub(super) struct Pipeline {
    pub(super) node: Arc<Node>,
    /// Number of the stream.
    pub(super) number: u32,
    pub(super) sender: SendStream<Bytes>,
    pub(super) results: RecvStream,
    pub(super) messages: Messages,
    /// The rest of a batch that waits for flow control.
    pub(super) batch: Bytes,
    /// The client sends no further batches on this stream.
    pub(super) is_closed: bool,
}

impl Pipeline {
    fn broken(&self, text: &str) -> Failure {
        Failure::Broken(Error::new(ErrorKind::Unavailable, format!("{}: {text}", self.node.name)))
    }

    /// Receives and completes results. Returns whether there were any.
    fn receive(&mut self, context: &mut Context<'_>) -> Result<bool, Failure> {
        let mut is_new = false;
        while let Poll::Ready(data) = self.results.poll_data(context) {
            let data = match data {
                Some(Ok(data)) => data,
                Some(Err(error)) => return Err(self.broken(&format!("the connection broke: {error}"))),
                None => match self.results.poll_trailers(context) {
                    Poll::Ready(Ok(trailers)) => return Err(end(&self.node, trailers.as_ref())),
                    Poll::Ready(Err(error)) => return Err(self.broken(&format!("the connection broke: {error}"))),
                    Poll::Pending => return Ok(is_new),
                },
            };
            is_new = true;
            // Fails only if the stream has ended, which the next poll reports.
            let _ended = self.results.flow_control().release_capacity(data.len());
            self.messages.push(data);
            loop {
                match self.messages.next() {
                    Ok(None) => break,
                    Ok(Some(message)) => match PipelineResponse::decode(message) {
                        Ok(response) => self.node.link.complete(self.number, response.results),
                        Err(error) => return Err(self.broken(&format!("a message is not valid: {error}"))),
                    },
                    Err(error) => return Err(self.broken(error.message())),
                }
            }
        }
        Ok(is_new)
    }

    /// Sends batches, as far as flow control permits. Returns whether anything was sent.
    fn send(&mut self, context: &mut Context<'_>, task: &Waker) -> Result<bool, Failure> {
        let mut is_sent = false;
        loop {
            if self.batch.is_empty() {
                if self.is_closed {
                    return Ok(is_sent);
                }
                match self.node.link.next_batch(self.number, task) {
                    Poll::Ready(Some(batch)) => self.batch = batch,
                    Poll::Ready(None) => {
                        self.is_closed = true;
                        // A stream that has ended is reported by the next receive.
                        let _ended = self.sender.send_data(Bytes::new(), true);
                        return Ok(true);
                    }
                    Poll::Pending => return Ok(is_sent),
                }
                self.sender.reserve_capacity(self.batch.len());
            }
            let mut capacity = self.sender.capacity();
            if capacity == 0 {
                capacity = match self.sender.poll_capacity(context) {
                    Poll::Ready(Some(Ok(capacity))) => capacity,
                    // The stream has ended, which the next receive reports.
                    Poll::Ready(Some(Err(_)) | None) | Poll::Pending => return Ok(is_sent),
                };
            }
            let chunk = self.batch.split_to(capacity.min(self.batch.len()));
            if let Err(error) = self.sender.send_data(chunk, false) {
                return Err(self.broken(&format!("the connection broke: {error}")));
            }
            is_sent = true;
        }
    }
}

impl Future for Exchange {
    type Output = Failure;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Failure> {
        let this = &mut *self;
        this.connection_turn.set_task(context.waker());
        this.stream_turn.set_task(context.waker());
        for _ in 0..ROUNDS_MAX {
            let mut connection_context = Context::from_waker(this.connection_turn.begin());
            let connection = Pin::new(&mut this.connection).poll(&mut connection_context);
            let mut stream_context = Context::from_waker(this.stream_turn.begin());
            let received = match this.stream.receive(&mut stream_context) {
                Ok(received) => received,
                Err(failure) => return Poll::Ready(failure),
            };
            match connection {
                Poll::Ready(Ok(())) if !received => {
                    return Poll::Ready(this.stream.broken("the connection was closed"));
                }
                Poll::Ready(Err(error)) if !received => {
                    return Poll::Ready(this.stream.broken(&format!("the connection broke: {error}")));
                }
                Poll::Ready(_) => continue,
                Poll::Pending => {}
            }
            match this.stream.send(&mut stream_context, context.waker()) {
                // The connection writes what was sent.
                Ok(true) => continue,
                Ok(false) => {}
                Err(failure) => return Poll::Ready(failure),
            }
            // Both turns have to end.
            let (connection, stream) = (this.connection_turn.end(), this.stream_turn.end());
            if connection && stream {
                return Poll::Pending;
            }
        }
        // Other tasks have their turn.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Returns what the trailers of a stream mean for the operations without a result.
fn end(node: &Node, trailers: Option<&HeaderMap>) -> Failure {
    let status = trailers.and_then(Status::from_header_map);
    let status = status.unwrap_or_else(|| Status::unavailable("the stream ended without a status"));
    let is_draining =
        status.get_details_error_info().is_some_and(|info| info.reason == DRAINING && info.domain == DOMAIN);
    let error = named(node, status);
    if is_draining { Failure::NotBegun(error) } else { Failure::Broken(error) }
}
