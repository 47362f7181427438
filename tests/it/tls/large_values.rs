//! Large values over TLS to clients that read slowly: every byte arrives once and in order.

use std::{
    future::poll_fn,
    io::{ErrorKind, IoSlice, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use futures_util::future::{BoxFuture, try_join_all};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use terrace::{
    config::TlsMode,
    grpc::client::CacheClient,
    proto::{GetRequest, SetRequest, get_response::Result::Found},
    socket::Socket as Connection,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{client::TlsStream, rustls::ClientConfig};
use tonic::transport::{Endpoint, Uri};
use tower_service::Service;

use super::{Files, endpoint, grpc_stream, pair};
use crate::support::{certificates, grpc::block_on, terrace::Terrace};

/// Sizes around the limits of buffers and records.
const SIZES: [usize; 10] = [1, 1_000, 16_383, 16_384, 16_385, 65_535, 65_537, 300_000, 1_000_003, 4 << 20];
/// Receive buffer of the slow side.
const RECEIVE_BYTES: usize = 16 * 1024;
/// Flow-control window of the gRPC client.
const WINDOW_BYTES: u32 = 64 << 20;
/// Size of the first slice of a write.
const FIRST_BYTES: usize = 100;
/// Size of the second slice of a write.
const SECOND_BYTES: usize = 40_000;
/// Times that each value is read.
const ROUNDS: usize = 4;

/// Bytes that differ by position and seed.
fn value(seed: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed as u64);
    (0..SIZES[seed]).map(|_| random.u8(..)).collect()
}

/// The address of a proxy that forwards in small pieces with pauses from the server to the client.
fn slow(server: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, server) = (listener.local_addr().unwrap().to_string(), server.to_owned());
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        // A small window keeps the send buffer of the server small.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(RECEIVE_BYTES).unwrap();
        socket.connect(&server.parse::<SocketAddr>().unwrap().into()).unwrap();
        let mut server = TcpStream::from(socket);
        let (mut requests, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut requests, &mut to_server));
        // The kernel's buffers fill, so that the server writes in parts of any size.
        thread::sleep(Duration::from_millis(200));
        let mut piece = vec![0; 40_000];
        while let Ok(count @ 1..) = server.read(&mut piece) {
            thread::sleep(Duration::from_micros(fastrand::u64(..400)));
            if client.write_all(&piece[..count]).is_err() {
                break;
            }
        }
    });
    address
}

#[test]
fn replies_to_a_slow_redis_client_arrive_in_order() {
    let files = Files::new();
    let server = Terrace::start(files.config(TlsMode::On));
    let mut client = certificates::connect(&slow(server.resp()), &files.client()).unwrap();
    for (seed, len) in SIZES.into_iter().enumerate() {
        client.write_all(format!("*3\r\n$3\r\nSET\r\n$1\r\n{seed}\r\n${len}\r\n").as_bytes()).unwrap();
        client.write_all(&value(seed)).unwrap();
        client.write_all(b"\r\n").unwrap();
        let mut reply = [0; 5];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+OK\r\n");
    }
    // All requests at once: the replies exceed the buffers of the kernel and of the server.
    let order: Vec<usize> = (0..ROUNDS).flat_map(|_| 0..SIZES.len()).collect();
    let requests: String = order.iter().map(|seed| format!("GET {seed}\r\n")).collect();
    client.write_all(requests.as_bytes()).unwrap();
    for seed in order {
        let head = format!("${}\r\n", SIZES[seed]);
        let mut received = vec![0; head.len() + SIZES[seed] + 2];
        client.read_exact(&mut received).unwrap();
        assert!(received.starts_with(head.as_bytes()), "head of value {seed}");
        assert!(received[head.len()..].starts_with(&value(seed)), "value {seed} differs");
    }
}

/// Opens TLS connections to an address.
struct Connector {
    address: String,
    config: Arc<ClientConfig>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<tokio::net::TcpStream>>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _task: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let (address, config) = (self.address.clone(), Arc::clone(&self.config));
        Box::pin(async move { grpc_stream(&address, config).await.map(TokioIo::new) })
    }
}

#[test]
fn responses_to_a_slow_grpc_client_arrive_complete() {
    let files = Files::new();
    let server = Terrace::start(files.config(TlsMode::On));
    let connector = Connector { address: slow(server.grpc()), config: files.authority.client(None, &["h2"]) };
    // The client permits more data than the kernel buffers.
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    block_on(async {
        let client = CacheClient::new(endpoint.connect_with_connector(connector).await.unwrap());
        let client = client.max_decoding_message_size(16 << 20);
        for seed in 0..SIZES.len() {
            let request =
                SetRequest { key: vec![seed as u8].into(), value: value(seed).into(), ..SetRequest::default() };
            client.clone().set(request).await.unwrap();
        }
        // Large and small responses of one connection mix.
        let get = |seed: usize| {
            let mut client = client.clone();
            async move {
                let request = GetRequest { key: vec![seed as u8].into(), ..GetRequest::default() };
                let response = client.get(request).await?.into_inner();
                let Some(Found(found)) = response.result else { panic!("value {seed} is missing") };
                assert!(found.value == value(seed), "value {seed} differs");
                Ok::<_, tonic::Status>(())
            }
        };
        try_join_all((0..ROUNDS).flat_map(|_| (0..SIZES.len()).map(get))).await.unwrap();
    });
}

/// Writes `data` in two slices at a time. After each write that has to wait, only the first slice is repeated.
async fn write_in_parts(socket: &mut Connection, data: &[u8]) {
    let mut sent = 0;
    let mut waits = 0;
    while sent < data.len() {
        let (first, rest) = data[sent..].split_at(FIRST_BYTES.min(data.len() - sent));
        let both = [IoSlice::new(first), IoSlice::new(&rest[..SECOND_BYTES.min(rest.len())])];
        let slices = if waits % 2 == 0 { &both[..] } else { &both[..1] };
        match socket.try_write_vectored(slices) {
            Ok(count) => {
                assert!(count <= slices.iter().map(|slice| slice.len()).sum(), "more bytes than the caller passed");
                sent += count;
                waits += waits % 2;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                waits += 1 - waits % 2;
                poll_fn(|task| socket.poll_write_ready(task)).await.unwrap();
            }
        }
    }
    assert!(waits > 0, "no write had to wait");
    socket.shutdown().await.unwrap();
}

#[test]
fn a_write_that_had_to_wait_may_be_repeated_in_parts() {
    let files = Files::new();
    let endpoint = endpoint(files.folder.path());
    let data = value(SIZES.len() - 1);
    block_on(async {
        let (mut server, mut client) = pair(&endpoint, &files.client()).await;
        let mut received = Vec::new();
        let (_, read) = tokio::join!(write_in_parts(&mut server, &data), client.read_to_end(&mut received));
        assert_eq!(read.unwrap(), data.len());
        assert!(received == data, "the bytes differ");
    });
}
