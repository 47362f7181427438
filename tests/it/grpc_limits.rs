//! gRPC requests that are malformed or over a limit: the error names the limit, and other calls are not affected.

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use terrace::{
    grpc::client::CacheClient,
    proto::{GetRequest, SetRequest},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request};

use crate::support::{
    grpc::{block_on, connect, pause, raw_call, raw_request},
    terrace::{Terrace, config},
};

const GET: &str = "/terrace.v1.Cache/Get";
const SET: &str = "/terrace.v1.Cache/Set";
const PIPELINE: &str = "/terrace.v1.Cache/Pipeline";

#[test]
fn malformed_messages_are_named_and_disturb_nobody() {
    let server = Terrace::start(config());
    block_on(async {
        let mut channel = connect(server.grpc()).await;
        let mut other = CacheClient::new(connect(server.grpc()).await);
        for path in [GET, SET] {
            for (body, code, naming) in [
                (&b""[..], Code::InvalidArgument, "before its message was complete"),
                (b"\0\0\0", Code::InvalidArgument, "before its message was complete"),
                (b"\0\0\0\0\x09ab", Code::InvalidArgument, "before its message was complete"),
                (b"\0\0\0\0\0x", Code::InvalidArgument, "more than one message"),
                (b"\x07\0\0\0\0", Code::InvalidArgument, "compressed flag of a message is 7; expected 0 or 1"),
                (b"\x01\0\0\0\0", Code::InvalidArgument, "grpc-encoding"),
                (b"\0\xff\xff\xff\xff", Code::ResourceExhausted, "grpc.max_message"),
                (b"\0\0\0\0\x04\xff\xff\xff\xff", Code::InvalidArgument, "is not a terrace.v1."),
            ] {
                let status = raw_call(&mut channel, path, body).await;
                assert_eq!(status.code(), code, "{path} {body:?} {status}");
                assert!(status.message().contains(naming), "{path} {body:?} {status}");
                other.get(GetRequest { key: "k".into(), options: None }).await.unwrap();
            }
        }
    });
}

#[test]
fn what_is_not_grpc_is_told_so() {
    let server = Terrace::start(config());
    block_on(async {
        let mut channel = connect(server.grpc()).await;
        let status = raw_request(&mut channel, GET, "application/json", Full::<Bytes>::default()).await;
        assert!(status.message().starts_with("415"), "{status}");
        let status = raw_request(&mut channel, GET, "application/grpc+proto", Full::<Bytes>::default()).await;
        assert_eq!(status.code(), Code::InvalidArgument);
    });
}

/// Returns whether the server closes a connection after these bytes.
async fn closes(address: &str, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Ok(_) => answer.is_empty(),
        // A reset: the server closed the connection before it had read all bytes.
        Err(_) => true,
    }
}

#[test]
fn a_connection_that_does_not_begin_with_http2_is_closed() {
    let server = Terrace::start(config());
    block_on(async {
        for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"PRI * HTTP/3", b"*1\r\n$4\r\nPING\r\n", &[0; 4096]] {
            assert!(closes(server.grpc(), bytes).await, "{bytes:?}");
        }
        // Silent connections are closed after the deadline for the first bytes.
        let (silent, slow) = tokio::join!(closes(server.grpc(), b""), closes(server.grpc(), b"PRI *"));
        assert!(silent && slow);
        while server.node.connections.grpc.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            pause().await;
        }
    });
}

#[test]
fn requests_beyond_the_bytes_in_flight_are_shed() {
    let mut config = config();
    config.server.max_in_flight = 64 * 1024;
    config.grpc.timeout = std::time::Duration::from_millis(500);
    let server = Terrace::start(config);
    block_on(async {
        let mut holding = connect(server.grpc()).await;
        let mut client = CacheClient::new(connect(server.grpc()).await);
        let get = || GetRequest { key: "k".into(), options: None };
        client.get(get()).await.unwrap();
        // Sends the first 60,000 of 100,000 bytes and stops.
        let mut head = vec![0; 60_000];
        head[..5].copy_from_slice(b"\0\0\x01\x86\xa0");
        let first = stream::once(async { Ok::<_, std::io::Error>(Frame::data(Bytes::from(head))) });
        let body = StreamBody::new(first.chain(stream::pending()));
        // A stream has no deadline, so it holds its bytes for longer than the other call waits.
        let held = tokio::spawn(async move { raw_request(&mut holding, PIPELINE, "application/grpc", body).await });
        while server.node.in_flight.bytes() < 60_000 {
            pause().await;
        }
        let large = SetRequest { key: "k".into(), value: vec![0; 30_000].into(), ..SetRequest::default() };
        // Waits for room until its deadline. Small calls are not affected.
        client.get(get()).await.unwrap();
        let status = client.set(large.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("server.max_in_flight"), "{status}");
        held.abort();
        while server.node.in_flight.bytes() > 0 {
            pause().await;
        }
        client.set(large).await.unwrap();
    });
}

#[test]
fn more_calls_than_streams_wait_their_turn() {
    let server = Terrace::start(config());
    block_on(async {
        let client = CacheClient::new(connect(server.grpc()).await);
        let calls = (0..2000).map(|number| {
            let mut client = client.clone();
            async move { client.get(GetRequest { key: number.to_string().into(), options: None }).await }
        });
        assert!(join_all(calls).await.iter().all(Result::is_ok));
    });
}

#[test]
fn headers_over_their_limit_fail_the_call_alone() {
    let server = Terrace::start(config());
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        let get = || GetRequest { key: "k".into(), options: None };
        for (len, is_taken) in [(4_000, true), (10_000, false), (4_000, true)] {
            let mut request = Request::new(get());
            request.metadata_mut().insert("x-large", "v".repeat(len).parse().unwrap());
            assert_eq!(client.get(request).await.is_ok(), is_taken, "a header of {len} bytes");
        }
    });
}

#[test]
fn an_unreadable_timeout_is_named() {
    let server = Terrace::start(config());
    block_on(async {
        let mut client = CacheClient::new(connect(server.grpc()).await);
        let mut request = Request::new(SetRequest { key: "k".into(), ..SetRequest::default() });
        request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
        let status = client.set(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("grpc-timeout"), "{status}");
    });
}
