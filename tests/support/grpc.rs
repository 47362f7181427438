//! gRPC clients: connections, raw requests, and a runtime with a time limit.

use std::{
    future::{Future, poll_fn},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tower_service::Service;

use super::PATIENCE;

/// Runs a client; fails the test when it does not end in time.
pub fn block_on<F: Future>(client: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limited = async { tokio::time::timeout(PATIENCE, client).await };
    runtime.block_on(limited).expect("the test ends in time")
}

/// Opens a connection to a server.
pub async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("the server accepts")
}

/// Sleeps between two checks of a condition.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Sends arbitrary bytes as the body of a call and returns the status of the answer.
pub async fn raw_call(channel: &mut Channel, path: &str, body: &'static [u8]) -> Status {
    raw_request(channel, path, "application/grpc", Full::new(body.into())).await
}

/// As [`raw_call`], with any body and content type. An answer that is not gRPC becomes the status that tonic's clients report.
pub async fn raw_request<B>(channel: &mut Channel, path: &str, content_type: &str, body: B) -> Status
where
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let request = http::Request::post(path).header("content-type", content_type);
    let request = request.body(tonic::body::Body::new(body)).expect("a request");
    poll_fn(|context| channel.poll_ready(context)).await.expect("the connection stands");
    status(channel.call(request).await.expect("an answer")).await
}

/// Sends a call without tonic's client, which enforces grpc-timeout itself.
pub async fn bare_call(address: &str, path: &str, headers: &[(&str, &str)], message: &impl prost::Message) -> Status {
    let stream = tokio::net::TcpStream::connect(address).await.expect("the server accepts");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.encoded_len()).expect("a small message").to_be_bytes());
    body.extend_from_slice(&message.encode_to_vec());
    let mut request = http::Request::post(format!("http://{address}{path}")).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<bytes::Bytes>::new(body.into())).expect("a request");
    status(sender.send_request(request).await.expect("an answer")).await
}

/// The status of an answer, from its headers or its trailers.
async fn status<B>(response: http::Response<B>) -> Status
where
    B: hyper::body::Body,
    B::Error: std::fmt::Display,
{
    if response.status() != http::StatusCode::OK {
        return Status::unknown(response.status().to_string());
    }
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let body = response.into_body().collect().await;
    let collected = body.unwrap_or_else(|error| panic!("the answer broke off: {error}"));
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Status::from_header_map(&trailers).expect("a status")
}
